"""`agile-gym train`: mistakes are told before anything is begun, and a dry run begins nothing."""

import subprocess
import sys

import pytest

pytest.importorskip("ray")
pytest.importorskip("torch")

from tests.helpers.trainings import environment, run


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
