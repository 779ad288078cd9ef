"""`agile-gym train`: mistakes are told before anything is begun, and a dry run begins nothing."""

import pytest

pytest.importorskip("ray")
pytest.importorskip("torch")

from agile_gym.cli import main
from agile_gym.commands.train import final_model
from agile_gym.training.settings import read_settings
from tests.helpers.trainings import run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "grpo.adam_betas=[2,3]"], "[grpo] adam_betas = [2, 3]"),
        (["--set", "resources.cpus_per_runner=x", "--dry-run"], "[resources] cpus_per_runner = 'x'"),
        (["--set", "sft.epochs=0", "--dry-run"], "[sft] epochs = 0"),
        (["--set", "grpo.lr=1e-3", "--set", "grpo.lr=1e-4"], "grpo.lr is given twice"),
        (["--seed", "1", "--set", "seed=2"], "--set seed sets --seed a second time"),
        (["--set", "grpo=3"], "grpo is a section; change its settings, as grpo.KEY"),
        (["--set", 'grpo={"lr": 1}'], "grpo is a section"),
        (["--set", "sed=3"], "Did you mean 'seed'?"),
        (["--set", ".lr=3"], "there is no section ''"),
        (["--set", "sft.kl_coef=1"], "[sft] has no key 'kl_coef'"),
        (["--preset", "."], "'.' is a folder"),
        (["--print", "."], "'.' is a folder"),
        (["--print", "tinny"], "Did you mean 'tiny'?"),
        (["--seed", "99999999999"], "of at least 0, up to 2,147,483,647"),
        (["--set", "resources.address=127.0.0.1"], "[resources] address = '127.0.0.1' is not the address"),
        (["--preset", "tinny"], "Did you mean 'tiny'?"),
        (["--set", "grpo.learning_rate=1"], "[grpo] has no key 'learning_rate'"),
        (["--set", "grppo.lr=1"], "Did you mean 'grpo'?"),
        (["--set", "environment.grid=99"], "99"),
        (["--images", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--model", "/nowhere/model"], "/nowhere/model"),
        (["--resume"], "no run"),
    ],
)
def test_the_command_says_it_in_one_line(tmp_path, capsys, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--output", "run", *words]) == 1
    errors = capsys.readouterr().err
    assert expected in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "model"),
    [
        ({}, "grpo/model"),
        ({"grpo.iterations": 0}, "sft/model"),
        ({"grpo.iterations": 0, "cold_start.count": 0}, "vision/model"),
    ],
)
def test_the_model_that_is_written_is_that_of_the_last_stage(tmp_path, changes, model):
    assert final_model(read_settings("tiny", changes), tmp_path) == tmp_path / model


@pytest.mark.slow
def test_a_mistake_ends_the_process_with_status_1(tmp_path):
    result = run(tmp_path / "run", **{"grpo.iterations": -1})
    assert result.returncode == 1
    assert "iterations = -1" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
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
