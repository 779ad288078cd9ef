"""``agile-gym train``: settings, mistakes, and whole runs in processes of their own."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("ray")
pytest.importorskip("torch")

from agile_gym.errors import ConfigurationError
from agile_gym.evaluation import read_report
from agile_gym.rollout import read_transcripts
from agile_gym.training.folder import RunFolder
from agile_gym.training.settings import format_settings, preset_names, preset_text, read_settings

SMALL = {
    "eyes.matching_steps": 2,
    "eyes.steps": 2,
    "eyes.batch": 8,
    "eyes.few": 0,
    "eyes.matching_batch": 8,
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
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


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
    for stage in ("eyes", "coldstart", "grpo"):
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
    from agile_gym.policies.vlm import load_vlm

    changes = {"model.train": "lora", "model.lora_rank": 4, "sft.freeze": ["vision"], "grpo.iterations": 1}
    result = run(tmp_path / "run", **changes)
    assert result.returncode == 0, result.stderr
    eyes, sft, grpo = (load_vlm(tmp_path / "run" / stage / "model", device="cpu") for stage in ("eyes", "sft", "grpo"))
    for before, after in ((eyes, sft), (sft, grpo)):
        olds, news = before.model.state_dict(), after.model.state_dict()
        assert olds.keys() == news.keys()
        changed = {name for name in olds if not olds[name].equal(news[name])}
        assert changed
        assert all("proj" in name or "fc" in name or "linear" in name for name in changed)
    seen = [name for name in eyes.model.state_dict() if "vision_tower" in name]
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


def test_an_interruption_while_the_table_is_drawn_does_not_block(tmp_path):
    from agile_gym.training.console import LiveTable
    from agile_gym.training.pipeline import TrainingRun

    training = TrainingRun(read_settings("tiny", SMALL), tmp_path / "run")
    with LiveTable(io.StringIO()) as table:
        training._table = table
        with training._interruptible(), table._lock:  # as in the middle of a line
            signal.raise_signal(signal.SIGINT)
            assert training._stop
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)


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
    from agile_gym.policies.tiny import build_tiny

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
