"""Kills a study by SIGKILL again and again, resumes it, and compares it with one that was left alone.

    python benchmarks/kill_study.py [--kills 5] [--jobs 2] [--seed 0] [--folder DIR]

The study has two arms and two seeds with minimal trainings; `study.json` and `study.html` must be the same, byte for
byte. With --folder, what is there of either is gone on with. Exit status 1 if they are not.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDY = """
title = "Two arms"
summary = "A study that is killed."
preset = "tiny"
seeds = [0, 1]

[settings]
vision = { steps = 4, probes = 8, batch = 8, few = 0 }
cold_start = { count = 8 }
sft = { epochs = 1, batch_size = 4, num_minibatches = 1 }
grpo = { iterations = 2, groups_per_iteration = 2, group_size = 2, num_minibatches = 1, max_new_tokens = 8, \
filter_zero_variance_groups = false, entropy_coef = 0.1 }
evaluation = { episodes = 4, interval = 0, blank_looks = false }
checkpoints = { every = 1 }

[factors.step]
title = "weight of the step"
stage = "grpo"
values = { "no step" = { "environment.reward" = { step_weight = 0.0 } } }

[[evaluations]]
name = "2x2"
grid = "2x2"
levels = 0
episodes = 12

[paper]
figure = "mean of nine benchmarks"
arms = { base = 65.2, "no step" = 64.4 }
"""
WRITTEN = ("study.json", "study.html")


def command(folder, output, jobs):
    """Return the words that run the study."""
    words = [sys.executable, "-W", "ignore", "-m", "agile_gym", "study", str(folder / "s.toml")]
    return [*words, "--output", str(output), "--jobs", str(jobs)]


def main():
    """Run, kill, resume, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=60, help="seconds until a kill, at most")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "s.toml").write_text(STUDY)
        whole, killed = folder / "whole", folder / "killed"
        subprocess.run(command(folder, whole, options.jobs), stdout=subprocess.DEVNULL, check=True)
        rng = random.Random(options.seed)
        for number in range(options.kills):
            with (folder / "killed.log").open("a") as log:
                process = subprocess.Popen(command(folder, killed, options.jobs), stdout=log, stderr=log)
            moment = rng.uniform(2, options.longest)
            time.sleep(moment)
            process.kill()
            status = process.wait()
            print(f"kill {number + 1} after {moment:.1f} s: exit status {status}", flush=True)
        done = subprocess.run(command(folder, killed, options.jobs), stdout=subprocess.DEVNULL, check=False)
        print(f"the rest: exit status {done.returncode}")
        same = [name for name in WRITTEN if (whole / name).read_bytes() == (killed / name).read_bytes()]
        print(f"the same, byte for byte: {', '.join(same) or 'nothing'}")
        return 0 if same == list(WRITTEN) and done.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
