"""Teaches the tiny model to see, from free puzzles: what pretraining does for a large model.

First the vision tower learns which piece continues which (`agile_gym.policies.tiny.matching`), which costs little. Then
the whole model learns to answer puzzles at once: its first turn is ``<think></think>`` and the answer. What the later
stages of training teach, to look, to move and to reason, is no part of this.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from agile_gym.images import ImageSource
from agile_gym.policies.tiny.eyes_config import EyesConfig, EyesProgress
from agile_gym.policies.tiny.eyes_training import EyesState, EyesTraining
from agile_gym.policies.tiny.puzzles import training_images

__all__ = ["EyesConfig", "EyesProgress", "EyesState", "train_eyes"]


def train_eyes(
    model: Any,  # noqa: ANN401 -- transformers is untyped
    processor: Any,  # noqa: ANN401 -- likewise
    images: ImageSource,
    config: EyesConfig | None = None,
    progress: Callable[[EyesProgress], None] | None = None,
    *,
    state: EyesState | None = None,
    begin: Callable[[], None] | None = None,
    save: Callable[[EyesState], None] | None = None,
    save_every: int = 100,
) -> list[EyesProgress]:
    """Train the tiny model, in place, to answer puzzles that it sees for the first time.

    The same seed, model, photographs, machine and number of threads give the same weights bit for bit, also if the
    training goes on from a state.

    Args:
        model: The tiny model (`agile_gym.policies.tiny.build_tiny`), in float32, on any device.
        processor: Its processor.
        images: Photographs to cut puzzles from.
        config: How.
        progress: Called after every step. If it raises, the state is saved.
        state: Where to go on, as ``save`` was given it.
        begin: Called before the first step, once the state was taken over.
        save: Called with the state: dicts, lists, numbers, texts and tensors, which the next step changes.
        save_every: Steps from one call of ``save`` to the next.

    Returns:
        The progress after every step that was taken.

    Raises:
        ConfigurationError: If the configuration is not allowed or not that of the state, or the grid too large.
        MissingDependencyError: If torch is not installed.
    """
    training = EyesTraining(model, processor, training_images(images), config or EyesConfig())
    if state is not None:
        training.set_state(state)
    if begin is not None:
        begin()
    history: list[EyesProgress] = []
    was_training = model.training
    model.train()
    try:
        with closing(training.run()) as entries:
            for entry in entries:
                history.append(entry)
                if save is not None and entry.step % save_every == 0:
                    save(training.get_state())
                try:
                    if progress is not None:
                        progress(entry)
                except BaseException:  # also that of Ctrl-C
                    if save is not None:
                        save(training.get_state())
                    raise
    finally:
        model.train(was_training)
    return history
