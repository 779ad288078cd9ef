"""Training of the eyes that is interrupted, or killed, and goes on."""

import signal
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agile_gym.errors import ConfigurationError  # noqa: E402
from agile_gym.images import open_images  # noqa: E402
from agile_gym.policies.tiny.eyes import EyesConfig  # noqa: E402
from agile_gym.training.eyes_stage import run_eyes  # noqa: E402

CONFIG = {"matching_steps": 3, "matching_batch": 4, "steps": 3, "batch": 4, "warmup": 1, "few": 12}
KILLED = f"""
import os, signal, sys
from pathlib import Path
from agile_gym.images import open_images
from agile_gym.policies.tiny.eyes import EyesConfig
from agile_gym.training.eyes_stage import run_eyes

def progress(done, entry):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

run_eyes(Path(sys.argv[1]), open_images(), EyesConfig(**{CONFIG}), lambda done: None, progress, save_every=2)
"""


def play(folder, **changes):
    """Run the stage, and return what was told."""
    begun, seen = [], []
    run_eyes(
        folder, open_images(), EyesConfig(**(CONFIG | changes)), begun.append, lambda done, entry: seen.append(done)
    )
    return begun, seen


def test_a_killed_training_goes_on_bit_for_bit(tmp_path):
    assert play(tmp_path / "whole") == ([0], [1, 2, 3, 4, 5, 6])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")],
        check=False, timeout=120, capture_output=True,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed" / "model").exists()
    assert play(tmp_path / "killed") == ([5], [6])  # the second step of the second stage was saved
    whole, other = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert whole == other


def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigurationError, match="Remove it"):
        play(tmp_path)
    torch.save({"config": print}, tmp_path / "checkpoint.pt")  # a function is not taken from a file
    with pytest.raises(ConfigurationError, match="Remove it"):
        play(tmp_path)
