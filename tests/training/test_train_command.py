"""``agile-gym train``: settings, mistakes, and whole runs in processes of their own."""

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
from agile_gym.training.checking import check_settings
from agile_gym.training.folder import RunFolder
from agile_gym.training.settings import format_settings, preset_names, preset_text, read_settings
from agile_gym.transcripts import read_transcripts

SMALL = {
    "eyes.steps": 4,
    "eyes.batch": 8,
    "eyes.few": 0,
    "eyes.probes": 8,
    "cold_start.count": 12,
    "sft.epochs": 1,
    "sft.batch_size": 4,
    "sft.replay_size": 2,
    "sft.replay_count": 6,
    "sft.num_minibatches": 1,
    "grpo.iterations": 3,
    "grpo.groups_per_iteration": 2,
    "grpo.group_size": 2,
    "grpo.num_minibatches": 1,
    "grpo.drop_constant_groups": False,
    "grpo.max_new_tokens": 12,
    "grpo.entropy_weight": 0.1,  # a gradient even where no episode is better than another
    "evaluation.episodes": 6,
    "evaluation.interval": 2,
    "evaluation.interval_episodes": 4,
    "checkpoints.every": 1,
}


def command(folder, *words, **changes):
    pairs = [f"--set={key}={json.dumps(value)}" for key, value in (SMALL | changes).items()]
    return [sys.executable, "-m", "agile_gym", "train", "--output", str(folder), *pairs, *words]


def environment():
    return os.environ | {"PYTHONWARNINGS": "ignore"}


def run(folder, *words, **changes):
    return subprocess.run(
        command(folder, *words, **changes), capture_output=True, text=True, check=False, env=environment(), timeout=240
    )


def grpo_iterations(folder):
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record["iteration"] for record in records if record["stage"] == "grpo"]


def weights(folder, stage="grpo"):
    from safetensors.numpy import load_file

    return load_file(folder / stage / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "run"
    result = run(folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_a_run_leaves_models_tables_and_a_page(finished):
    folder, result = finished
    assert str(folder / "report.html") in result.stdout
    for stage in ("eyes", "sft", "grpo"):
        assert (folder / stage / "model" / "config.json").exists()
    assert sum(1 for _ in read_transcripts(folder / "cold-start")) == 12
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [row["iteration"] for row in rows if row["stage"] == "grpo"] == ["1", "2", "3"]
    assert [row["iteration"] for row in rows if row["stage"] == "sft"] == ["1", "2", "3"]
    assert [bool(row["eval/acc"]) for row in rows if row["stage"] == "grpo"] == [False, True, False]
    (probe,) = json.loads((folder / "eyes" / "probe.json").read_text())
    (seen,) = [row for row in rows if row["stage"] == "eyes"]
    assert seen["iteration"] == "4"
    assert float(seen["probe/2x2/right"]) == probe["right"]
    assert "vision, 2x2 boards (1 token) of" in result.stderr + result.stdout
    for stage in ("coldstart", "grpo"):
        assert len(read_report(folder / "evaluation" / f"{stage}.json").rows) == 6
    page = (folder / "report.html").read_text()
    assert "Qwen2.5-VL-7B" in page  # the paper's rows
    assert "http-equiv" in page


def test_the_model_is_an_ordinary_one(finished):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(finished[0] / "grpo" / "model")
    assert AutoProcessor.from_pretrained(finished[0] / "grpo" / "model").tokenizer is not None
    assert sum(parameter.numel() for parameter in model.parameters()) > 1_000_000


def test_stages_change_the_weights(finished):
    eyes, sft, grpo = (weights(finished[0], stage) for stage in ("eyes", "sft", "grpo"))
    assert any((eyes[name] != sft[name]).any() for name in eyes)
    assert any((sft[name] != grpo[name]).any() for name in sft)


def test_an_adapter_is_merged_so_that_every_stage_leaves_a_whole_model(tmp_path):
    from agile_gym.models import load_vlm

    changes = {"model.train": "lora", "model.lora_rank": 4, "sft.freeze": ["vision"], "grpo.iterations": 1}
    result = run(tmp_path / "run", **changes)
    assert result.returncode == 0, result.stderr
    eyes, sft, grpo = (load_vlm(tmp_path / "run" / stage / "model", device="cpu") for stage in ("eyes", "sft", "grpo"))
    for before, after in ((eyes, sft), (sft, grpo)):
        olds, news = before.model.state_dict(), after.model.state_dict()
        assert olds.keys() == news.keys()
        changed = {name for name in olds if not olds[name].equal(news[name])}
        assert changed
        assert all(any(word in name for word in ("proj", "qkv", "mlp")) for name in changed)  # linear layers
    seen = [name for name in eyes.model.state_dict() if "visual" in name and "merger" not in name]
    assert seen
    assert all(eyes.model.state_dict()[name].equal(sft.model.state_dict()[name]) for name in seen)


def test_a_run_is_not_replaced_unless_asked(finished):
    result = run(finished[0])
    assert result.returncode == 1
    assert "--resume" in result.stderr
    result = run(finished[0], "--resume", **{"grpo.lr": 0.5})
    assert result.returncode == 1
    assert "other settings in [grpo]" in result.stderr


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
    "eyes": ("agile_gym.models.tiny.pretraining.VisionPretraining._take_step", 2),
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

    def eyes():
        seen.append(signal.getsignal(signal.SIGTERM))
        training._stops.received = signal.SIGTERM  # nothing but the main thread's handlers does that
        training._stops.check()

    training._pretrain_vision = eyes

    def work():
        with pytest.raises(Interrupted) as interruption:
            training.run()
        seen.append(interruption.value.status)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, 143]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--preset", "tinny"], "Did you mean 'tiny'?"),
        (["--set", "grpo.learning_rate=1"], "[grpo] has no key 'learning_rate'"),
        (["--set", "grppo.lr=1"], "Did you mean 'grpo'?"),
        (["--set", "grpo.iterations=-1"], "iterations = -1"),
        (["--set", "environment.grid=99"], "99"),
        (["--images", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--model", "/nowhere/model"], "/nowhere/model"),
        (["--resume"], "no run"),
    ],
)
def test_mistakes_are_told_before_anything_is_begun(tmp_path, words, expected):
    result = subprocess.run(
        [sys.executable, "-m", "agile_gym", "train", "--output", str(tmp_path / "run"), *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=60,
    )
    assert result.returncode == 1
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "eyes").exists()


def test_a_dry_run_tells_sizes_and_begins_nothing(tmp_path):
    from agile_gym.models.tiny import build_tiny

    result = run(tmp_path / "run", "--dry-run")
    assert result.returncode == 0, result.stderr
    parameters = sum(parameter.numel() for parameter in build_tiny(0)[0].parameters())
    assert f"{parameters / 1e6:.3g}M parameters" in result.stdout
    assert "3 iterations of 2 puzzles, 2 episodes each: 12 episodes" in result.stdout
    assert "Time " in result.stdout
    assert "writes the longest turns" in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_read_back_as_they_are_written(name, tmp_path):
    settings = read_settings(name, {"seed": 3, "images.train": "a \"b\"\n'c'", "grpo.lr": 1e-7})
    path = tmp_path / "copy.toml"
    path.write_text(format_settings(settings))
    assert read_settings(str(path)) == settings
    (tmp_path / "preset.toml").write_text(preset_text(name))
    assert read_settings(str(tmp_path / "preset.toml")) == read_settings(name)


def test_agiles_settings_are_those_of_the_paper():
    settings = read_settings("agile_7b")
    assert settings.environment["max_turns"] == 5
    assert settings.environment["max_pixels"] == 401_408
    assert (settings.grpo["group_size"], settings.grpo["groups_per_iteration"]) == (8, 64)
    assert (settings.grpo["lr"], settings.grpo["kl_weight"], settings.grpo["entropy_weight"]) == (2e-6, 0, 0)
    assert settings.grpo["max_new_tokens"] == 2048
    assert (settings.cold_start["count"], settings.cold_start["turns"]) == (1600, [4, 8])
    assert (settings.sft["epochs"], settings.sft["batch_size"], settings.sft["lr"]) == (2, 32, 1e-5)


def test_a_file_that_is_no_toml_is_named(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("[grpo\n")
    with pytest.raises(ConfigurationError, match=r"bad\.toml: this is not TOML"):
        read_settings(str(path))


@pytest.mark.timeout(1200)
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are looked up in /proc")
def test_the_benchmark_that_kills_trainings_finds_nothing():
    script = Path(__file__).parents[2] / "benchmarks" / "kill_and_resume.py"
    words = ["--training", "--setups", "0", "--stages", "cold start", "sft, weights", "grpo"]
    result = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].startswith("3 kills in ")
    assert "weights of grpo: the same" in result.stdout


def test_the_check_of_the_shortened_training_tells_a_run_that_has_not_learned(finished, tmp_path):
    script = Path(__file__).parents[2] / ".ci" / "check_training.py"

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


EXAMPLES = Path(__file__).parents[2] / "examples"
QUARTER = "custom_env:QuarterEnv"


def run_other(folder, *words, **changes):
    """Train on the environment of the example, in the folder of its module, with the preset's own sections."""
    kept = {key: value for key, value in SMALL.items() if key.partition(".")[0] != "eyes" and "replay" not in key}
    pairs = [f"--set={key}={json.dumps(value)}" for key, value in (kept | {"grpo.iterations": 2} | changes).items()]
    return subprocess.run(
        [sys.executable, "-m", "agile_gym", "train", "--output", str(folder), "--env", QUARTER, *pairs, *words],
        cwd=EXAMPLES, capture_output=True, text=True, check=False, env=environment(), timeout=240,
    )  # fmt: skip


def test_another_environment_is_trained_on(tmp_path):
    folder = tmp_path / "run"
    result = run_other(folder, "--set=cold_start.teacher=custom_env:Teacher", "--set=environment.size=32")
    assert result.returncode == 0, result.stderr
    episodes = list(read_transcripts(folder / "cold-start"))
    assert len(episodes) == 12
    assert all(episode.solved and episode.prompt_images[0].shape == (32, 32, 3) for episode in episodes)
    assert grpo_iterations(folder) == [1, 2]
    sft, grpo = weights(folder, "sft"), weights(folder)
    assert any((sft[name] != grpo[name]).any() for name in sft)
    assert not (folder / "eyes").exists()
    assert not (folder / "replay").exists()
    for stage in ("coldstart", "grpo"):
        report = read_report(folder / "evaluation" / f"{stage}.json")
        assert {row.label for row in report.rows} <= {"top", "bottom"}
        assert len(report.rows) == 6
    page = (folder / "report.html").read_text()
    assert "QuarterEnv" in page
    assert "Qwen2.5-VL-7B" not in page  # the paper's rows are of the jigsaw
    again = run_other(folder, "--resume")
    assert again.returncode == 0, again.stderr


def test_a_runner_of_its_own_finds_the_environment_and_the_cold_start_may_be_left_out(tmp_path):
    folder = tmp_path / "run"
    result = run_other(folder, "--runners=1", **{"cold_start.count": 0, "grpo.tasks": [{"options": {"size": 32}}]})
    assert result.returncode == 0, result.stderr
    assert grpo_iterations(folder) == [1, 2]
    assert not (folder / "sft").exists()
    assert (folder / "grpo" / "model" / "config.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {},
            r"\[cold_start\] the expert plays the jigsaw only, and the environment is custom_env:QuarterEnv. Set teach",
        ),
        ({"eyes.steps": 3, "cold_start.count": 0}, r"\[eyes\] plays the jigsaw; leave it out"),
        ({"sft.replay_size": 3, "cold_start.count": 0}, r"\[sft\] replay_size plays the jigsaw; leave it out"),
        ({"environment.id": 3}, r"\[environment\] id = 3 must be a text"),
    ],
)
def test_stages_of_the_jigsaw_are_refused_for_another_environment(changes, message, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    with pytest.raises(ConfigurationError, match=message):
        check_settings(read_settings("tiny", {"environment.id": QUARTER} | changes))


def test_options_of_a_preset_do_not_go_to_another_environment(tmp_path):
    settings = read_settings("tiny", {"environment.id": QUARTER, "cold_start.count": 0, "environment.size": 32})
    assert settings.environment == {"id": QUARTER, "size": 32}
    assert (settings.env, settings.has_cold_start, settings.eyes) == (QUARTER, False, {})
    assert "turns" not in settings.cold_start
    path = tmp_path / "settings.toml"
    path.write_text(format_settings(settings))
    assert read_settings(str(path)) == settings
    assert read_settings(str(path), {"environment.id": QUARTER}) == settings
    assert read_settings("tiny", {"environment.id": "JigsawVision-v0"}).environment["image_size"] == 64
