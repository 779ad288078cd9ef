"""Kills an evaluation, or a training, again and again, resumes it, and compares it with one that was left alone.

Usage: python benchmarks/kill_and_resume.py [--suite paper] [--policy edge] [--kills 10] [--workers 1] [--seed 0]
       python benchmarks/kill_and_resume.py --training [--setups 0 1 2] [--stages NAME ...] [--seed 0] [--quick]

Evaluation: the table must be the same byte for byte, every episode must be in the journal once, and the transcripts
must be those that the journal requires, each equal to the one of the run that was left alone.

Training: see `kill_training.py`, which it runs. Exit status 1 if anything is not as it should be.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kill_training import STAGES, kill_training

from agile_gym.evaluation import read_journal
from agile_gym.transcripts import read_transcripts

COST = "\nCost an episode\n"


def command(options, output):
    """Return the words that evaluate."""
    given = ["--suite", options.suite, "--policy", options.policy, "--workers", str(options.workers)]
    return [sys.executable, "-m", "agile_gym", "eval", *given, "--output", str(output)]


def results_of(output):
    """Return the lasting part of a file of results, which is all but time."""
    return {key: value for key, value in json.loads(output.read_text()).items() if key != "cost"}


def transcripts_of(output):
    """Return the transcripts by id, as the model's images and texts."""
    stored = read_transcripts(output.with_name(f"{output.stem}-transcripts"))
    return {
        transcript.id: [(message.role, message.text, [image.tobytes() for image in message.images]) for message in talk]
        for transcript in stored
        if (talk := transcript.messages())
    }


def main():
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="paper")
    parser.add_argument("--policy", default="edge")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--training", action="store_true", help="end trainings by signals, rather than an evaluation")
    parser.add_argument("--setups", type=int, nargs="+", default=[0, 1, 2], help="numbers of runners and learners")
    parser.add_argument("--stages", nargs="+", choices=STAGES, metavar="NAME", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--quick", action="store_true", help="shorter trainings")
    options = parser.parse_args()
    if options.training:
        return kill_training(options)
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        whole, part = Path(name, "whole.json"), Path(name, "part.json")
        start = time.perf_counter()
        left_alone = subprocess.run(command(options, whole), capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
        print(f"left alone: {seconds:.1f} s")
        journal = part.with_suffix(".jsonl")
        for kill in range(1, options.kills + 1):
            process = subprocess.Popen(
                [*command(options, part), "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            moment = rng.uniform(0, 1.5 * seconds / options.kills)
            time.sleep(moment)
            process.kill()
            status = process.wait()
            kept = journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0
            print(f"kill {kill} after {moment:.2f} s: status {status}, {max(kept, 0)} puzzles kept")
        start = time.perf_counter()
        resumed = subprocess.run([*command(options, part), "--resume"], capture_output=True, text=True, check=True)
        print(f"the rest: {time.perf_counter() - start:.1f} s")
        _, results = read_journal(journal)
        lines = journal.read_bytes().count(b"\n") - 1
        checks = {
            "the tables are the same": left_alone.stdout.partition(COST)[0] == resumed.stdout.partition(COST)[0],
            "the files of results are the same but for time": results_of(whole) == results_of(part),
            "every episode is in the journal once": lines == len(results) == len({r.key for r in results}),
            "the transcripts are the same": transcripts_of(whole) == transcripts_of(part),
        }
    for check, holds in checks.items():
        print(f"{check}: {'yes' if holds else 'NO'}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
