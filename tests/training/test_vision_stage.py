"""Vision pretraining that is interrupted, or killed, and goes on."""

import json
import signal
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agile_gym.errors import ConfigurationError, explain_os_error  # noqa: E402 -- after the skip
from agile_gym.images import open_images  # noqa: E402 -- after the skip
from agile_gym.models.tiny.pretraining import VisionPretrainingConfig  # noqa: E402 -- after the skip
from agile_gym.training.stages import run_vision_pretraining  # noqa: E402 -- after the skip

CONFIG = {"steps": 6, "batch": 4, "warmup": 1, "few": 0, "probes": 16}
KILLED = f"""
import os, signal, sys
from pathlib import Path
from agile_gym.images import open_images
from agile_gym.models.tiny.pretraining import VisionPretrainingConfig
from agile_gym.training.stages import run_vision_pretraining

def progress(entry):
    if entry.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

config = VisionPretrainingConfig(**{CONFIG})
run_vision_pretraining(Path(sys.argv[1]), open_images(), config, lambda done: None, progress, save_every=2)
"""


def play(folder, begin=None, **changes):
    """Run the stage, and return what was told."""
    begun, seen = [], []
    run_vision_pretraining(
        folder,
        open_images(),
        VisionPretrainingConfig(**(CONFIG | changes)),
        begin or begun.append,
        lambda entry: seen.append(entry.step),
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
    assert play(tmp_path / "killed") == ([4], [5, 6])  # the fourth step was saved
    for name in ("model/model.safetensors", "probe.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    (probe,) = json.loads((tmp_path / "whole" / "probe.json").read_text())
    assert (probe["grid"], probe["tokens"], probe["boards"], probe["held_out"]) == ("2x2", 1, 16, 5)


def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigurationError, match="Remove it"):
        play(tmp_path)
    torch.save({"config": print}, tmp_path / "checkpoint.pt")  # a function is not taken from a file
    with pytest.raises(ConfigurationError, match="Remove it"):
        play(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: [1, 2],
        lambda state: {},
        lambda state: {**state, "step": "2"},
        lambda state: {**state, "config": None},
        lambda state: {key: value for key, value in state.items() if key != "model"},
        lambda state: {**state, "model": {}},
        lambda state: {**state, "optimizer": {}},
        lambda state: {**state, "heads": []},
        lambda state: {**state, "drawn": 3},
        lambda state: torch.zeros(3),
    ],
)
def test_a_state_that_does_not_fit_is_told_before_anything_is_dropped(tmp_path, stopped, change):
    state = torch.load(stopped / "checkpoint.pt", weights_only=True)
    path = tmp_path / "checkpoint.pt"
    torch.save(change(state), path)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"checkpoint\.pt cannot be read .*Remove it"):
        play(tmp_path, lambda done: pytest.fail("it began"))
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"\0\xff", "half", "dir"])
def test_a_damaged_checkpoint_is_told(tmp_path, stopped, content):
    path, whole = tmp_path / "checkpoint.pt", (stopped / "checkpoint.pt").read_bytes()
    if content == "dir":
        path.mkdir()
    else:
        path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(ConfigurationError, match=r"checkpoint\.pt cannot be read .*Remove it"):
        play(tmp_path)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A training that was interrupted at its second step."""
    folder = tmp_path_factory.mktemp("vision")

    def stop(entry):
        if entry.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_vision_pretraining(folder, open_images(), VisionPretrainingConfig(**CONFIG), lambda done: None, stop)
    return folder


@pytest.mark.parametrize("size", ["100k", "5m", "12m"])
def test_a_full_disk_is_told_and_the_training_goes_on_when_there_is_room(disk, size):
    disk.resize(size)
    config, ignore = VisionPretrainingConfig(**CONFIG), lambda *_: None
    every = 2 if size == "12m" else 100
    with pytest.raises(OSError, match=r"(checkpoint\.pt|vision/model)'?$") as caught:
        run_vision_pretraining(disk.path / "vision", open_images(), config, ignore, ignore, save_every=every)
    assert "the disk is full" in explain_os_error(caught.value)
    assert not list(disk.path.rglob("*.new"))
    disk.resize("400m")
    play(disk.path / "vision")
    assert (disk.path / "vision" / "model" / "model.safetensors").exists()
