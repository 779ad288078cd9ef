# pyright: reportUnknownMemberType=false
# The types of torch are incomplete.
"""The stage of a run that teaches the tiny model to see: trained, saved as it goes, and gone on with."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from agile_gym.errors import ConfigurationError, reason_of
from agile_gym.images import ImageSource
from agile_gym.policies.tiny import build_tiny
from agile_gym.policies.tiny.eyes import EyesConfig, EyesProgress, EyesState, train_eyes
from agile_gym.policies.tiny.eyes_training import STAGES, StateError
from agile_gym.rollout.files import filling, replacing

__all__ = ["SAVE_EVERY", "run_eyes"]

SAVE_EVERY = 100
"""Steps from one checkpoint to the next: at most so many are lost."""


def run_eyes(
    folder: Path,
    images: ImageSource,
    config: EyesConfig,
    begin: Callable[[int], None],
    progress: Callable[[int, EyesProgress], None],
    *,
    save_every: int = SAVE_EVERY,
) -> Path:
    """Train the tiny model's eyes, from the last checkpoint on if there is one, and write the model.

    Args:
        folder: Where the checkpoint and the ``model`` are written.
        images: Photographs to cut puzzles from.
        config: How. Its seed is also that of the model.
        begin: Called with the number of steps that were done before.
        progress: Called after every step, with the number of steps of both stages that are done. If it raises, the
            training is saved.
        save_every: Steps from one checkpoint to the next.

    Returns:
        The model's directory.

    Raises:
        ConfigurationError: If the checkpoint cannot be read, or has other settings.
    """
    checkpoint, target = folder / "checkpoint.pt", folder / "model"
    model, processor = build_tiny(config.seed)
    state = _read(checkpoint) if checkpoint.exists() else None
    folder.mkdir(parents=True, exist_ok=True)

    def steps_of(stage: str, step: int) -> int:
        return step if stage == "matching" else config.matching_steps + step

    def save(state: EyesState) -> None:
        data = io.BytesIO()  # torch tells of a full disk in words of its own, if it writes to a file
        torch.save(state, data)
        with replacing(checkpoint) as beside:
            beside.write_bytes(data.getbuffer())

    done = 0 if state is None else steps_of(state["stage"], state["step"])
    try:
        train_eyes(
            model,
            processor,
            images,
            config,
            lambda entry: progress(steps_of(entry.stage, entry.step), entry),
            state=state,
            begin=lambda: begin(done),
            save=save,
            save_every=save_every,
        )
    except StateError as error:
        raise _unreadable(checkpoint, str(error)) from error
    with filling(target) as beside:
        model.save_pretrained(beside)
        processor.save_pretrained(beside)
    return target


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing but tensors and plain values is taken from it."""
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise all sorts of them
        raise _unreadable(path, reason_of(error) if isinstance(error, OSError) else type(error).__name__) from error
    values = cast("dict[str, Any]", state) if isinstance(state, dict) else {}
    if values.get("stage") not in STAGES or type(values.get("step")) is not int:
        raise _unreadable(path, "it is no training of the eyes")
    return values


def _unreadable(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The checkpoint {path} cannot be read ({why}). Restore it from a copy, or begin the eyes anew: Remove it."
    )
