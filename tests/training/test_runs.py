"""Whole trainings in processes of their own: what they leave, and how they go on after kills and interruptions."""

import base64
import contextlib
import csv
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytest.importorskip("torch")

from agile_gym.errors import ConfigurationError
from agile_gym.evaluation import read_report
from agile_gym.images.folder import PHOTOGRAPHS
from agile_gym.training.folder import RunFolder
from agile_gym.training.settings import read_settings
from agile_gym.transcripts import read_transcripts
from tests.helpers import ROOT
from tests.helpers.benchmark_files import tsv_rows, write_tsv
from tests.helpers.trainings import SMALL, command, environment, grpo_iterations, run, weights

pytestmark = pytest.mark.slow
PLANTED = Path(PHOTOGRAPHS, "train", "coffee.jpg")
"""A photograph that is trained on, and in a benchmark's file."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "run"
    rows = list(tsv_rows("vstar"))
    rows[1]["image"] = base64.b64encode(PLANTED.read_bytes()).decode()
    files = [f"vstar={write_tsv(folder.parent, 'vstar', rows)}", f"mmvp={write_tsv(folder.parent, 'mmvp')}"]
    playing = {"evaluation.benchmarks": files, "evaluation.play_benchmarks": True, "evaluation.benchmark_questions": 3}
    result = run(folder, **{"evaluation.blank_looks": True}, **playing)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_a_run_leaves_models_tables_and_a_page(finished):
    folder, result = finished
    assert str(folder / "report.html") in result.stdout
    for stage in ("vision", "sft", "grpo"):
        assert (folder / stage / "model" / "config.json").exists()
    assert sum(1 for _ in read_transcripts(folder / "cold-start")) == 12
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [row["iteration"] for row in rows if row["stage"] == "grpo"] == ["1", "2", "3"]
    assert [row["iteration"] for row in rows if row["stage"] == "sft"] == ["1", "2", "3"]
    assert [bool(row["eval/acc"]) for row in rows if row["stage"] == "grpo"] == [False, True, False]
    (probe,) = json.loads((folder / "vision" / "probe.json").read_text())
    (seen,) = [row for row in rows if row["stage"] == "vision"]
    assert seen["iteration"] == "4"
    assert float(seen["probe/2x2/right"]) == probe["right"]
    assert "vision, 2x2 boards (1 token) of" in result.stderr + result.stdout
    for stage in ("coldstart", "grpo"):
        assert len(read_report(folder / "evaluation" / f"{stage}.json").rows) == 6
    page = (folder / "report.html").read_text()
    assert "Qwen2.5-VL-7B" in page  # the paper's rows
    assert "http-equiv" in page


def test_the_last_evaluations_are_also_played_with_blanked_looks(finished):
    folder = finished[0] / "evaluation"
    assert sorted(path.stem for path in folder.glob("*.json")) == [
        "coldstart", "coldstart-blanked", "grpo", "grpo-blanked",
    ]  # fmt: skip
    for stage in ("coldstart", "grpo"):
        both, blanked = (read_report(folder / f"{stage}{end}.json") for end in ("", "-blanked"))
        assert blanked.plan == {**both.plan, "blank_looks": True}
        (columns,) = both.blank_looks.values()
        solved = [sum(row.solved for row in report.rows) / 6 for report in (blanked, both)]
        assert [columns["avg"]["acc"][key] for key in ("first", "second")] == pytest.approx(solved)
        assert all(one.details["blank_looks"] for one in read_transcripts(folder / f"{stage}-blanked-transcripts"))
        assert f"{stage}, looks blanked: Acc {100 * solved[0]:.1f}% on 6" in finished[1].stdout + finished[1].stderr
    assert "Acc, looks blanked" in (finished[0] / "report.html").read_text()


def test_training_images_in_benchmarks_are_reported(finished):
    folder, result = finished
    count = len(list(PLANTED.parent.iterdir()))
    line = rf"V\*: 1 of the {count} training images are among its pictures; 1 of 3 questions show one:"
    assert re.search(line, result.stdout + result.stderr)
    found = json.loads((folder / "training_images.json").read_text("utf-8"))
    assert [(one["benchmark"], one["affected"], one["training_images"]) for one in found] == [
        ("vstar", ["1"], count),
        ("mmvp", [], count),
    ]
    page = (folder / "report.html").read_text("utf-8")
    assert re.search(r'<th scope="row">V\*</th><td>1</td><td>3</td><td>1</td>', page)
    assert re.search(rf"{PLANTED.stem}.* \(same\): the image of row 1, questions: 1", page)


def test_benchmarks_are_played_after_cold_start_and_grpo(finished):
    folder, result = finished
    assert sorted(path.name for path in (folder / "benchmarks").glob("*.json")) == [
        f"{stage}{end}.json" for stage in ("coldstart", "grpo") for end in ("-mmvp", "-vstar", "")
    ]
    page = (folder / "report.html").read_text("utf-8")
    for stage, title in (("coldstart", "cold start"), ("grpo", "GRPO")):
        reports = [read_report(folder / "benchmarks" / f"{stage}-{key}.json") for key in ("vstar", "mmvp")]
        assert [report.plan["options"]["unwrap"] for report in reports] == [True, True]
        right = [sum(row.solved for row in report.rows) for report in reports]
        assert [len(report.rows) for report in reports] == [3, 3]  # all of V*'s file, and 3 of 4 of MMVP's
        cells = "".join(
            rf"<td>{100 * count / 3:.1f} <small>[^<]* of [13]\d\d questions</small></td>" for count in right
        )
        mean = f"{100 * sum(right) / 6:.1f}"
        assert re.search(rf'<th scope="row">{title}</th>{cells}<td>{mean}</td>', page)
        assert f"{stage}, MMVP: {100 * right[1] / 3:.1f}% on 3 questions" in result.stdout + result.stderr
    assert '<th scope="row">Qwen2.5-VL-7B RL</th><td>80.6</td><td>78.0</td><td>79.3</td>' in page


def test_the_model_is_an_ordinary_one(finished):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(finished[0] / "grpo" / "model")
    assert AutoProcessor.from_pretrained(finished[0] / "grpo" / "model").tokenizer is not None
    assert sum(parameter.numel() for parameter in model.parameters()) > 1_000_000


def test_stages_change_the_weights(finished):
    vision, sft, grpo = (weights(finished[0], stage) for stage in ("vision", "sft", "grpo"))
    assert any((vision[name] != sft[name]).any() for name in vision)
    assert any((sft[name] != grpo[name]).any() for name in sft)


def test_an_adapter_is_merged_so_that_every_stage_leaves_a_whole_model(tmp_path):
    from agile_gym.models import load_vlm

    changes = {"model.train": "lora", "model.lora_rank": 4, "sft.freeze": ["vision"], "grpo.iterations": 1}
    result = run(tmp_path / "run", **changes)
    assert result.returncode == 0, result.stderr
    vision, sft, grpo = (
        load_vlm(tmp_path / "run" / stage / "model", device="cpu") for stage in ("vision", "sft", "grpo")
    )
    for before, after in ((vision, sft), (sft, grpo)):
        olds, news = before.model.state_dict(), after.model.state_dict()
        assert olds.keys() == news.keys()
        changed = {name for name in olds if not olds[name].equal(news[name])}
        assert changed
        assert all(any(word in name for word in ("proj", "qkv", "mlp")) for name in changed)  # linear layers
    seen = [name for name in vision.model.state_dict() if "visual" in name and "merger" not in name]
    assert seen
    assert all(vision.model.state_dict()[name].equal(sft.model.state_dict()[name]) for name in seen)


def test_a_run_is_not_replaced_unless_asked(finished):
    result = run(finished[0])
    assert result.returncode == 1
    assert "--resume" in result.stderr
    result = run(finished[0], "--resume", **{"grpo.lr": 0.5})
    assert result.returncode == 1
    assert "other settings in [grpo]" in result.stderr


def test_all_that_a_run_has_written_can_be_replaced(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run", symlinks=True)
    RunFolder(folder, overwrite=True).close()
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["agile-gym.json"]


def test_a_run_killed_at_any_moment_goes_on_to_the_same_weights(finished, tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(command(folder), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 200
    while not (folder / "grpo" / "checkpoint" / "manifest.json").exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(ConfigurationError, match="Another process is training"):
        RunFolder(folder, overwrite=True)
    process.kill()
    process.wait()
    process.stdout.close()
    RunFolder(folder, resume=True).close()  # at once, though Ray's processes may still end
    folder = folder.rename(tmp_path / "moved")
    result = run(folder, "--resume")
    assert result.returncode == 0, result.stderr
    expected = weights(finished[0])
    for name, array in weights(folder).items():
        assert (array == expected[name]).all(), name
    iterations = grpo_iterations(folder)
    assert iterations == [1, 2, 3]


def test_an_interrupted_run_is_saved_and_says_how_to_go_on(tmp_path):
    folder = tmp_path / "run"
    changes = {"grpo.iterations": 10_000}
    process = subprocess.Popen(
        command(folder, **changes), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 200
    log = folder / "metrics.jsonl"
    while not (log.exists() and '"grpo"' in log.read_text()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130
    assert f"agile-gym train --output {folder} --resume" in errors
    last = grpo_iterations(folder)[-1]
    assert (folder / "grpo" / "checkpoint" / "manifest.json").exists()
    assert grpo_iterations(folder) == list(range(1, last + 1))


PLACES = {
    "vision": ("agile_gym.models.tiny.pretraining.VisionPretraining._take_step", 2),
    "cold start": ("agile_gym.coldstart.filters.Filters.judge", 3),
    "start of Ray": ("ray._private.node.Node.start_ray_processes", 1),
    "building of the runners": ("agile_gym.learner.env_runner.VLMEnvRunner.make_module", 1),
    "writing of weights": ("agile_gym.learner.recovery.RecoverableAlgorithm.save_pretrained", 1),
    "evaluation": ("agile_gym.policies.model.HFVLMPolicy.finish", 2),
    "report": ("agile_gym.reporting.report.read_results", 1),
}
"""Functions that a run calls, and at which call it is interrupted."""
STOPS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
"""The signals by which it is, in turn; Ray has handlers of its own for the last one, which meets its start."""
INTERRUPTED = """
import json, os, pkgutil, sys, time
from agile_gym import cli

numbers, place, at = json.loads(sys.argv[1])
owner, _, name = place.rpartition(".")
owner, calls = pkgutil.resolve_name(owner), [0]
original = getattr(owner, name)

def call(*args, **kwargs):
    calls[0] += 1
    if calls[0] == at:
        print(f"interrupted at {time.monotonic()}", flush=True)
        for number in numbers:
            os.killpg(0, number)  # as a terminal, timeout and systemd do
    return original(*args, **kwargs)

setattr(owner, name, call)
sys.exit(cli.main(sys.argv[2:]))
"""


def run_interrupted(folder, place, at, *numbers, **changes):
    """Run a training that sends its process group signals when it is at a place."""
    words = command(folder, *(["--resume"] if folder.exists() else []), **changes)[3:]
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    program = [sys.executable, "-c", INTERRUPTED, json.dumps([[int(number) for number in numbers], place, at]), *words]
    process = subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
        env=environment() | {"AGILE_GYM_TEST": mark},
    )  # fmt: skip
    output, errors = process.communicate(timeout=400)
    began = re.search(r"interrupted at ([\d.]+)", output)
    assert began, output + errors
    seconds = time.monotonic() - float(began[1])
    deadline = time.monotonic() + 10
    while left := marked(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert "Traceback" not in errors
    assert "***" not in errors  # a native stack dump
    return process.returncode, errors, seconds


def marked(mark):
    """Return the command lines of the processes that have a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes())
    return found


@pytest.mark.timeout(1200)  # eight runs
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are looked up in /proc")
def test_a_run_that_is_interrupted_in_every_stage_goes_on_to_the_same_weights(finished, tmp_path):
    folder = tmp_path / "run"
    for number, (place, at) in zip(itertools.cycle(STOPS), PLACES.values(), strict=False):
        status, errors, seconds = run_interrupted(folder, place, at, number, **{"checkpoints.every": 100})
        assert status == 128 + number, place
        assert errors.strip() == f"Saved. Go on with: agile-gym train --output {folder} --resume"
        assert seconds < 60
        print(place, number, round(seconds, 1))
    assert grpo_iterations(folder) == [1, 2, 3]
    result = run(folder, "--resume")
    assert result.returncode == 0, result.stderr
    assert sum(1 for _ in read_transcripts(folder / "cold-start")) == 12
    expected = weights(finished[0])
    for name, array in weights(folder).items():
        assert (array == expected[name]).all(), name


@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are looked up in /proc")
def test_sigterm_saves_the_iteration_and_a_second_signal_ends_the_run_at_once(tmp_path):
    folder, place = tmp_path / "run", "agile_gym.learner.grpo.GRPO.collect"
    more = {"checkpoints.every": 100, "grpo.iterations": 100, "resources.runners": 1, "evaluation.interval": 0}
    more |= {"cold_start.count": 0}
    status, errors, _ = run_interrupted(folder, place, 2, signal.SIGTERM, **more)
    assert (status, errors.count("Saved.")) == (143, 1)
    assert grpo_iterations(folder) == [1, 2]
    status, errors, seconds = run_interrupted(folder, place, 2, signal.SIGTERM, signal.SIGTERM, **more)
    assert status == 143
    assert errors.endswith("\nagile-gym: ended at once\n")  # before it, Ray may warn of its actors
    assert seconds < 10
    assert grpo_iterations(folder) == [1, 2, 3]  # the third is not in the checkpoint, and is done again


def test_a_run_in_another_thread_handles_no_signals(tmp_path):
    from agile_gym.training.pipeline import Interrupted, TrainingRun

    before, seen = signal.getsignal(signal.SIGTERM), []
    training = TrainingRun(read_settings("tiny", SMALL), tmp_path / "run")

    def vision():
        seen.append(signal.getsignal(signal.SIGTERM))
        training._stops.received = signal.SIGTERM  # nothing but the main thread's handlers does that
        training._stops.check()

    training._pretrain_vision = vision

    def work():
        with pytest.raises(Interrupted) as interruption:
            training.run()
        seen.append(interruption.value.status)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, 143]


@pytest.mark.benchmark
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are looked up in /proc")
def test_the_benchmark_that_kills_trainings_finds_nothing():
    script = ROOT / "benchmarks" / "kill_and_resume.py"
    words = ["--training", "--setups", "0", "--stages", "cold start", "sft, weights", "--quick"]
    result = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].startswith("2 kills in ")
    assert "weights of grpo: the same" in result.stdout


def test_the_check_of_the_shortened_training_tells_a_run_that_has_not_learned(finished, tmp_path):
    script = ROOT / ".ci" / "check_training.py"

    def check(folder):
        return subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True)

    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    path = folder / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for number, record in enumerate(record for record in records if record["stage"] == "sft"):
        record["learner/loss"] = 5.0 - number
    for record in (record for record in records if record["stage"] == "grpo"):
        record["groups_constant"] = record["groups_played"] - 1
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert check(folder).returncode == 0, check(folder).stdout
    shutil.copy(folder / "sft" / "model" / "model.safetensors", folder / "grpo" / "model" / "model.safetensors")
    result = check(folder)
    assert (result.returncode, result.stdout.count("BAD")) == (1, 1)
    assert "BAD   GRPO changed weights by up to 0" in result.stdout
    path.write_text(path.read_text().replace('"groups_constant": 1.0', '"groups_constant": 2.0'))
    assert check(folder).stdout.count("BAD") == 2
