"""Vision pretraining of the tiny model, resumable bit for bit: a stand-in for a large model's pretraining.

Vision transformer and merger learn to see boards, seams and pieces (`agile_gym.models.tiny.exercises`). Nothing is
taught to the language model: to act, to look and to answer is left to the later stages, which leave vision as it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict
from typing import Any

import numpy as np

from agile_gym.errors import ConfigurationError, import_optional
from agile_gym.images.sources import ImageSource
from agile_gym.interruption import own_threads
from agile_gym.models.tiny.exercises import (
    ExerciseDrawer,
    Heads,
    ProbeResult,
    VisionPretrainingConfig,
    VisionProgress,
    exercise_loss,
    measure,
)
from agile_gym.models.tiny.puzzles import BoardDrawer, Boards, Pictures, small_photographs

__all__ = [
    "ProbeResult",
    "StateError",
    "VisionPretraining",
    "VisionPretrainingConfig",
    "VisionProgress",
    "VisionState",
    "hold_out",
    "pretrain_vision",
]

VisionState = dict[str, Any]
LOWEST_RATE = 0.05
_LEAST_HELD_OUT = 8
"""With fewer photographs than this none is held out."""
_HOLDING, _PROBING = 4, 5
"""Set draws apart from others of the same seed."""


class StateError(ConfigurationError):
    """A state is none of a training, or a damaged one."""


def hold_out(count: int, config: VisionPretrainingConfig) -> list[int]:
    """Return the numbers of the photographs that are held out, of so many; none of fewer than 8."""
    held = round(count * config.held_out) if count >= _LEAST_HELD_OUT else 0
    if config.held_out and count >= _LEAST_HELD_OUT:
        held = max(1, held)
    return sorted(np.random.default_rng([config.seed, _HOLDING]).permutation(count)[:held].tolist())


class VisionPretraining:
    """One run of the training, which may go on from where another one was."""

    def __init__(self, model: Any, images: ImageSource, config: VisionPretrainingConfig) -> None:  # noqa: ANN401 -- transformers is untyped
        """Prepare the first step; the arguments are those of `pretrain_vision`."""
        torch: Any = import_optional("torch", extra="vlm", purpose="train the tiny model")

        self._model, self._config = model, config
        photos = small_photographs(images)
        held = set(hold_out(len(photos), config))
        learned = [photo for number, photo in enumerate(photos) if number not in held]
        self._held: list[Pictures] = [photos[number] for number in sorted(held)]
        self._probed = self._held or learned
        self._drawer = ExerciseDrawer(learned, config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            width: int = model.config.text_config.hidden_size
            self._heads = [Heads(width, grid, inner=config.hidden).to(model.device) for grid in config.grids]
        self._begin()

    def _begin(self) -> None:
        torch: Any = import_optional("torch", extra="vlm", purpose="train the tiny model")

        self._step, self._seconds = 0, 0.0
        self._drawn = self._drawer.get_state()
        self._parameters = list(self._model.model.visual.parameters())
        self._parameters += [parameter for heads in self._heads for parameter in heads.parameters()]
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=self._config.lr,
            betas=(0.9, 0.98),
            weight_decay=self._config.weight_decay,
            fused=True,
        )

    def run(self) -> Generator[VisionProgress]:
        """Run what is left, a step at a time."""
        config = self._config
        began = time.perf_counter() - self._seconds
        with closing(self._drawer.draw_ahead(config.steps - self._step)) as exercises:
            for exercise in exercises:
                with own_threads(self._model):
                    loss = self._take_step(exercise.grid, exercise.boards)
                self._drawn = exercise.state
                self._step += 1
                self._seconds = time.perf_counter() - began
                yield VisionProgress(self._step, config.steps, self._step * config.batch, loss, self._seconds)

    def _take_step(self, grid: int, boards: Boards) -> float:
        """Take a step, and return its loss."""
        import torch

        for group in self._optimizer.param_groups:
            group["lr"] = self._config.lr * _schedule(self._step, self._config.steps, self._config.warmup)
        loss = exercise_loss(self._model, self._heads[grid], boards, self._config.places)
        self._optimizer.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType] -- torch is partly typed
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        return float(loss.detach())

    def probe(self) -> list[ProbeResult]:
        """Measure, for each grid, what the heads read on photographs that are held out."""
        config = self._config
        with own_threads(self._model):
            return [
                measure(
                    self._model,
                    heads,
                    BoardDrawer(self._probed, grid, [config.seed, _PROBING, index]),
                    config.probes,
                    held_out=len(self._held),
                )
                for index, (grid, heads) in enumerate(zip(config.grids, self._heads, strict=True))
            ]

    def get_state(self) -> VisionState:
        """Return all that the rest of the training depends on, but for what it is made with.

        Returns:
            Dicts, lists, numbers, texts and tensors, which the next step changes.
        """
        return {
            "config": _as_text(self._config),
            "step": self._step,
            "seconds": self._seconds,
            "model": self._model.model.visual.state_dict(),
            "heads": [heads.state_dict() for heads in self._heads],
            "optimizer": self._optimizer.state_dict(),
            "drawn": self._drawn,
        }

    def set_state(self, state: VisionState) -> None:
        """Go on from a state.

        Raises:
            ConfigurationError: If it is that of a training with another configuration.
            StateError: If it is damaged.
        """
        if not isinstance(state.get("config"), str):
            raise StateError("its settings are missing")
        if state["config"] != _as_text(self._config):
            raise ConfigurationError(
                f"The training to go on with has other settings: {state['config']}, not {_as_text(self._config)}. Give "
                "the same ones, or begin anew."
            )
        try:
            self._take_over(state)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise StateError(f"the state does not fit: {type(error).__name__}") from error

    def _take_over(self, state: VisionState) -> None:
        self._model.model.visual.load_state_dict(state["model"])
        for heads, weights in zip(self._heads, state["heads"], strict=True):
            heads.load_state_dict(weights)
        self._optimizer.load_state_dict(state["optimizer"])
        self._step, self._seconds = state["step"], state["seconds"]
        self._drawn = state["drawn"]
        self._drawer.set_state(self._drawn)


def _schedule(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak learning rate at a step, from 0: up, level, and down in the second half."""
    return min(1.0, (step + 1) / max(warmup, 1)) * (LOWEST_RATE + (1 - LOWEST_RATE) * min(1.0, 2 * (1 - step / steps)))


def _as_text(config: VisionPretrainingConfig) -> str:
    return json.dumps(asdict(config))


def pretrain_vision(
    model: Any,  # noqa: ANN401 -- transformers is untyped
    images: ImageSource,
    config: VisionPretrainingConfig | None = None,
    progress: Callable[[VisionProgress], None] | None = None,
    *,
    state: VisionState | None = None,
    begin: Callable[[], None] | None = None,
    save: Callable[[VisionState], None] | None = None,
    save_every: int = 100,
) -> list[ProbeResult]:
    """Train the tiny model's vision transformer and merger, in place, to see boards; the rest stays as it is.

    The same seed, model, photographs, machine and number of threads give the same weights bit for bit, also if the
    training goes on from a state.

    Args:
        model: The tiny model (`agile_gym.models.tiny.build_tiny`), in float32, on any device.
        images: Photographs to cut boards from; some are held out.
        config: Settings.
        progress: Called after every step. If it raises, the state is saved.
        state: State to resume from, as passed to ``save``.
        begin: Called before the first step, once the state was taken over.
        save: Called with the state: dicts, lists, numbers, texts and tensors, which the next step changes.
        save_every: Steps from one call of ``save`` to the next.

    Returns:
        What can be read from the vectors of boards that are held out, for each grid.

    Raises:
        ConfigurationError: If the configuration is not allowed or not that of the state, or the grid too large.
        MissingDependencyError: If torch is not installed.
    """
    training = VisionPretraining(model, images, config or VisionPretrainingConfig())
    if state is not None:
        training.set_state(state)
    if begin is not None:
        begin()
    was_training = model.training
    model.train()
    try:
        with closing(training.run()) as entries:
            for entry in entries:
                if save is not None and entry.step % save_every == 0 and entry.step < entry.steps:
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
    return training.probe()
