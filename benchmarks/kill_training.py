"""Ends `agile-gym train` by signals in every stage, resumes it, and compares it with a run that was left alone.

Run it with `python benchmarks/kill_and_resume.py --training`. A setup is a number of runners and of learners: 0 (all in
one process), 1 or 2. In each setup a run is ended once at every stage, by SIGKILL, SIGINT and SIGTERM in turn, a random
time after the stage has begun, and goes on with --resume. Over three setups every stage meets every signal.

After SIGINT and SIGTERM the exit status, the message and the time that it took are checked, and that no process is left
behind; after SIGKILL, that none is left a while later: Ray's take up to a minute to end after their parent. In
the end every iteration must be in the metrics once, with the same figures, every episode in the cold start, every
puzzle in the evaluations, and the weights must be the same bit for bit.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agile_gym.transcripts import read_transcripts

SETTINGS = {
    "vision.steps": 440,  # so that some checkpoints are written
    "vision.batch": 4,
    "vision.few": 0,
    "cold_start.count": 24,
    "sft.epochs": 1,
    "sft.batch_size": 4,
    "sft.replay_size": 2,
    "sft.replay_count": 24,
    "sft.num_minibatches": 1,
    "grpo.iterations": 6,
    "grpo.groups_per_iteration": 4,
    "grpo.group_size": 2,
    "grpo.num_minibatches": 1,
    "grpo.filter_zero_variance_groups": False,
    "grpo.max_new_tokens": 12,
    "grpo.entropy_coef": 0.1,  # a gradient even where no episode is better than another
    "evaluation.episodes": 12,
    "evaluation.batch": 4,
    "evaluation.interval": 0,
    "checkpoints.every": 2,
}
QUICK = {
    "vision.steps": 8,
    "vision.probes": 8,
    "cold_start.count": 12,
    "sft.replay_count": 6,
    "grpo.iterations": 2,
    "grpo.groups_per_iteration": 2,
    "evaluation.episodes": 4,
}
"""Settings that differ with ``--quick``."""
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
SLOWEST = 60.0
"""Seconds that a run may take to end after a signal."""
LONGEST = 90.0
"""Seconds that Ray's processes may take to end after the run was killed."""
TIME = ("seconds", "per_second", "learners_rebuilt")
"""Parts of the names of figures that differ from run to run."""


class Run:
    """A process that trains, and its progress since it was started."""

    def __init__(self, folder, setup, mark, temporary):
        self.folder, self.began = folder, time.time()
        self._output = folder.with_name(f"{folder.name}.output")
        self._errors = folder.with_name(f"{folder.name}.errors")
        words = [f"--set={key}={json.dumps(value)}" for key, value in SETTINGS.items()]
        words += ["--runners", str(setup), "--learners", str(setup), "--output", str(folder)]
        words += ["--resume"] if (folder / "settings.toml").exists() else []
        self._done = self._state()
        environment = {"PYTHONWARNINGS": "ignore", "AGILE_GYM_MARK": mark, "RAY_TMPDIR": str(temporary)}
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agile_gym", "train", *words],
                env=os.environ | environment, stdout=output, stderr=errors, process_group=0,
            )  # fmt: skip
        self._temporary = temporary

    def _state(self):
        path = self.folder / "state.json"
        return json.loads(path.read_text())["done"] if path.exists() else []

    @property
    def output(self):
        return self._output.read_text(errors="replace")

    @property
    def errors(self):
        return self._errors.read_text(errors="replace")

    def touched(self, *patterns):
        """Return whether this process has written to a file of such a name."""
        with contextlib.suppress(OSError):  # a file that is gone by now
            return any(path.lstat().st_mtime >= self.began for name in patterns for path in self.folder.glob(name))
        return False

    def finished(self, stage):
        """Return whether this process has finished a part of the run."""
        with contextlib.suppress(OSError, ValueError):
            return stage in self._state() and stage not in self._done
        return False

    def ray(self):
        """Return whether Ray starts."""
        with contextlib.suppress(OSError):
            return any(path.stat().st_mtime >= self.began for path in self._temporary.glob("ray/session_2*"))
        return False

    def ray_runs(self):
        """Return whether Ray has started."""
        with contextlib.suppress(OSError):
            sockets = self._temporary.glob("ray/session_2*/sockets/raylet*")
            return any(path.stat().st_mtime >= self.began for path in sockets)
        return False


STAGES = {
    "imports": (lambda run: True, 4.0),
    "vision": (lambda run: "vision pretraining: " in run.output.lower(), 1.0),
    "vision, checkpoint": (lambda run: run.touched("vision/checkpoint.pt", "vision/.checkpoint.pt*"), 0.1),
    "vision, weights": (lambda run: run.touched("vision/.model*", "vision/model/*"), 0.1),
    "cold start": (lambda run: run.touched("cold-start/episodes.jsonl"), 0.3),
    "replay": (lambda run: run.touched("replay/episodes.jsonl"), 0.3),
    "start of Ray": (Run.ray, 3.0),
    "runners, learners": (Run.ray_runs, 5.0),
    "sft": (lambda run: run.touched("sft/checkpoint*"), 1.5),
    "sft, weights": (lambda run: run.touched("sft/.model*", "sft/model/*"), 0.2),
    "sft, evaluation": (lambda run: run.touched("evaluation/coldstart.jsonl"), 0.5),
    "grpo": (lambda run: run.touched("grpo/checkpoint/manifest.json"), 2.0),
    "grpo, checkpoint": (lambda run: run.touched("grpo/checkpoint.partial"), 0.2),
    "grpo, weights": (lambda run: run.touched("grpo/.model*", "grpo/model/*"), 0.2),
    "grpo, evaluation": (lambda run: run.touched("evaluation/grpo.jsonl"), 0.5),
    "report": (lambda run: run.finished("evaluate-grpo"), 0.3),
}
"""Sign that a stage has begun, and the largest number of seconds after it at which the run is ended."""
TRIES = 4
"""Number of new starts of a run that was over, or past a stage, before it could be ended there."""


def marked(mark):
    """Return the processes that have a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(words[:60].strip())
    return found


def wait_until_gone(mark, seconds):
    """Wait for the processes with a mark to end, and return those that have not."""
    deadline = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def check_end(run, number, took, folder):
    """Return the faults in the end of a run that was sent SIGINT or SIGTERM."""
    wrong, status = [], run.process.returncode
    if status == 0:
        return [] if "Written: " in run.output else ["ended with status 0, but is not done"]
    if status not in (128 + number, -number if "Written: " in run.output else None):
        wrong.append(f"exit status {status}")
    saved = f"Saved. Go on with: agile-gym train --output {folder} --resume" in run.errors
    if status == 128 + number and not (saved or "agile-gym: interrupted" in run.errors):
        wrong.append("no message")
    wrong += [f"{word} in its output" for word in ("Traceback", "***", "Error") if word in run.errors + run.output]
    wrong += [f"took {took:.0f} s to end"] if took > SLOWEST else []
    return wrong


def check_metrics(folder):
    """Return the faults in the metrics of a run that goes on."""
    path = folder / "metrics.jsonl"
    places = [(record["stage"], record["iteration"]) for record in records_of(path)] if path.exists() else []
    return [] if len(places) == len(set(places)) else ["an iteration is in the metrics twice"]


def records_of(path):
    """Return the whole lines of a file of records."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def leftovers(folder):
    """Return files that were being written when the run was killed, and are in nobody's use."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    return [name for name in names if name.endswith((".new", ".partial", ".previous"))]


def result_of(folder):
    """Return all of a finished run that must not depend on whether it was ended and resumed."""
    figures = [
        {name: value for name, value in record.items() if not any(part in name for part in TIME)}
        for record in records_of(folder / "metrics.jsonl")
    ]
    result = {"metrics": figures}
    for name in ("cold-start", "replay"):
        result[name] = [
            (transcript.id, [message.text for message in transcript.messages()])
            for transcript in read_transcripts(folder / name)
        ]
    for stage in ("coldstart", "grpo"):
        report = json.loads((folder / "evaluation" / f"{stage}.json").read_text())
        result[f"evaluation of {stage}"] = {key: value for key, value in report.items() if key not in ("cost", "plan")}
        lines = records_of(folder / "evaluation" / f"{stage}.jsonl")[1:]
        keys = [json.dumps([line.get(key) for key in ("grid", "level", "episode", "sample")]) for line in lines]
        result[f"puzzles of {stage}"] = sorted(keys)
        stored = read_transcripts(folder / "evaluation" / f"{stage}-transcripts")
        result[f"transcripts of {stage}"] = sorted(
            (transcript.id, [message.text for message in transcript.messages()]) for transcript in stored
        )
    for stage in ("vision", "sft", "grpo"):
        data = (folder / stage / "model" / "model.safetensors").read_bytes()
        result[f"weights of {stage}"] = hashlib.sha256(data).hexdigest()
    result["report"] = (folder / "report.html").exists()
    return result


def run_to_the_end(folder, setup, temporary):
    """Run the rest of a training, and return its duration; exit if it fails."""
    run = Run(folder, setup, "none", temporary)
    if run.process.wait():
        sys.exit(f"{folder.name} failed with status {run.process.returncode}:\n{run.errors}")
    return time.time() - run.began


def campaign(setup, signals, options, base):
    """End and resume a run in a setup, and return the findings and the number of kills."""
    rng, findings, kills = random.Random(f"{options.seed} {setup}"), [], 0
    temporary = base / "r"  # short, as sockets lie in it
    temporary.mkdir()
    whole, part = base / f"whole-{setup}", base / f"part-{setup}"
    print(f"\n{setup} runners and learners; left alone: {run_to_the_end(whole, setup, temporary):.0f} s")
    print(f"{'stage':20}{'signal':9}{'after':>8}{'status':>8}{'ended in':>10}  findings")
    killed = []
    for (stage, (has_begun, longest)), number in zip(options.chosen, signals, strict=False):
        for _ in range(TRIES):
            mark = f"agile-gym-{os.getpid()}-{time.monotonic_ns()}"
            run = Run(part, setup, mark, temporary)
            while not has_begun(run) and run.process.poll() is None:
                time.sleep(0.005)
            time.sleep(delay := rng.uniform(0, longest))
            if run.process.poll() != 0:
                break
            shutil.rmtree(part)  # it was past this stage, or is over: once more, from the start
        wrong = ["it was over before"] if run.process.poll() is not None else []
        sent = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            # A terminal, timeout and systemd signal all processes of a group.
            os.kill(run.process.pid, number) if number == signal.SIGKILL else os.killpg(run.process.pid, number)
        try:
            run.process.wait(2 * SLOWEST)
        except subprocess.TimeoutExpired:
            wrong.append("did not end")
            run.process.kill()
            run.process.wait()
        took = time.monotonic() - sent
        kills += 1
        if number == signal.SIGKILL:
            killed.append((stage, mark))
        else:
            wrong += check_end(run, number, took, part) if not wrong else []
            wrong += [f"left behind: {name}" for name in wait_until_gone(mark, 5)]
        wrong += check_metrics(part)
        name = signal.Signals(number).name
        print(f"{stage:20}{name:9}{delay:6.2f} s{run.process.returncode:8}{took:8.1f} s  {'; '.join(wrong) or '-'}")
        findings += [f"{stage}, {name}: {text}" for text in wrong]
    print(f"the rest: {run_to_the_end(part, setup, temporary):.0f} s")
    expected, found = result_of(whole), result_of(part)
    for name, value in expected.items():
        same = found[name] == value
        print(f"{name}: {'the same' if same else 'DIFFERENT'}")
        findings += [] if same else [f"{setup} runners and learners: {name} differ"]
    for stage, mark in killed:
        findings += [f"{stage}, SIGKILL: left behind: {name}" for name in wait_until_gone(mark, LONGEST)]
    if rubbish := leftovers(part):
        print(f"unfinished files that were left (no finding): {', '.join(rubbish)}")
    shutil.rmtree(temporary, ignore_errors=True)
    return findings, kills


def kill_training(options):
    """Run all campaigns; return the exit status."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background job: its runs would ignore it, too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout.reconfigure(line_buffering=True)
    SETTINGS.update(QUICK if options.quick else {})
    options.chosen = [(name, STAGES[name]) for name in options.stages or STAGES]
    findings, kills, began = [], 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kr", dir="/tmp") as name:
        for place, setup in enumerate(options.setups):
            signals = [SIGNALS[(place + number) % len(SIGNALS)] for number in range(len(options.chosen))]
            found, count = campaign(setup, signals, options, Path(name))
            findings, kills = findings + found, kills + count
    print(f"\n{kills} kills in {time.monotonic() - began:.0f} s, {len(findings)} findings")
    for finding in findings:
        print(f"  {finding}")
    return 1 if findings else 0
