"""Vision training of the tiny model on free puzzles, resumable bit for bit: a stand-in for a large model's pretraining.

First the vision tower learns which piece continues which (`agile_gym.models.tiny.exercises`), which costs little. Then
the whole model learns to answer puzzles at once: its first turn is ``<think></think>`` and the answer. What the later
stages of training teach, to look, to move and to reason, is no part of this.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from typing import Any, get_args

from agile_gym.errors import ConfigurationError, import_optional
from agile_gym.images.sources import ImageSource
from agile_gym.interruption import own_threads
from agile_gym.models.tiny.exercises import (
    Exercise,
    ExerciseDrawer,
    Stage,
    VisionPretrainingConfig,
    VisionProgress,
)
from agile_gym.models.tiny.puzzles import Lesson, training_images

__all__ = [
    "STAGES",
    "StateError",
    "VisionPretraining",
    "VisionPretrainingConfig",
    "VisionProgress",
    "VisionState",
    "pretrain_vision",
]

STAGES: tuple[Stage, ...] = get_args(Stage)
VisionState = dict[str, Any]
Groups = list[tuple[list[Any], float]]
"""Parameters with their learning rates."""
LOWEST_RATE = 0.05
WHOLE_EVERY = 4
"""Every so many steps the end of the turn is learned, too; in the others, which are cheaper, only the names."""


class StateError(ConfigurationError):
    """A state is none of a training, or a damaged one."""


class VisionPretraining:
    """One run of the training, which may go on from where another one was."""

    def __init__(self, model: Any, processor: Any, images: ImageSource, config: VisionPretrainingConfig) -> None:  # noqa: ANN401 -- transformers is untyped
        """Prepare the first step; the arguments are those of `agile_gym.models.tiny.pretraining.pretrain_vision`."""
        torch: Any = import_optional("torch", extra="vlm", purpose="train the tiny model")
        from agile_gym.models.tiny.exercises import Matching

        self._model, self._config = model, config
        self._width: int = model.config.text_config.hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._matching = [Matching(self._width, grid).to(model.device) for grid in config.grids]
        few, many = config.turns
        self._lessons = [[Lesson(processor, grid, turns) for turns in range(few, many + 1)] for grid in config.grids]
        self._drawer = ExerciseDrawer(images, config, self._lessons)
        self._seen, self._seconds = 0, 0.0
        self._begin(0)

    def _stages(self) -> list[tuple[Stage, Groups, int, int]]:
        """Return the stages: the parameters that are trained, steps, puzzles a step."""
        config, inner = self._config, self._model.model
        vision = [*inner.vision_tower.parameters(), *inner.multi_modal_projector.parameters()]
        vision += [parameter for matching in self._matching for parameter in matching.parameters()]
        words = list(inner.language_model.parameters())
        return [
            ("matching", [(vision, config.matching_lr)], config.matching_steps, config.matching_batch),
            ("answers", [(vision, config.vision_lr), (words, config.lr)], config.steps, config.batch),
        ]

    def run(self) -> Generator[VisionProgress]:
        """Run what is left of both stages, a step at a time."""
        began = time.perf_counter() - self._seconds
        for number in range(self._at, len(STAGES)):
            if number > self._at:
                self._begin(number)
            stage, groups, steps, size = self._stages()[number]
            parameters = [parameter for group, _ in groups for parameter in group]
            with closing(self._drawer.draw_ahead(stage, size, steps - self._step)) as exercises:
                for exercise in exercises:
                    with own_threads(self._model):
                        loss = self._take_step(stage, parameters, steps, exercise)
                    self._drawn = exercise.state
                    self._step += 1
                    self._seen += size
                    self._seconds = time.perf_counter() - began
                    yield VisionProgress(stage, self._step, steps, self._seen, loss, self._seconds)

    def _begin(self, number: int) -> None:
        """Begin a stage."""
        torch: Any = import_optional("torch", extra="vlm", purpose="train the tiny model")

        self._at, self._step = number, 0
        self._drawer.begin(number)
        self._drawn = self._drawer.get_state()
        self._optimizer = torch.optim.AdamW(
            [{"params": group, "lr": rate, "peak": rate} for group, rate in self._stages()[number][1]],
            betas=(0.9, 0.98),
            weight_decay=self._config.weight_decay,
            fused=True,
        )

    def _take_step(self, stage: Stage, parameters: list[Any], steps: int, exercise: Exercise) -> float:
        """Take a step, and return its loss."""
        import torch

        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * _schedule(self._step, steps, self._config.warmup)
        loss = self._loss(stage, exercise)
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self._optimizer.step()
        return float(loss.detach())

    def get_state(self) -> VisionState:
        """Return all that the rest of the training depends on, but for what it is made with.

        Returns:
            Dicts, lists, numbers, texts and tensors, which the next step changes.
        """
        return {
            "config": _as_text(self._config),
            "stage": STAGES[self._at],
            "step": self._step,
            "puzzles": self._seen,
            "seconds": self._seconds,
            "model": self._model.state_dict(),
            "matching": [matching.state_dict() for matching in self._matching],
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
        self._begin(STAGES.index(state["stage"]))
        self._step, self._seen, self._seconds = state["step"], state["puzzles"], state["seconds"]
        self._model.load_state_dict(state["model"])
        for matching, weights in zip(self._matching, state["matching"], strict=True):
            matching.load_state_dict(weights)
        self._optimizer.load_state_dict(state["optimizer"])
        self._drawn = state["drawn"]
        self._drawer.set_state(self._drawn)

    def _loss(self, stage: Stage, exercise: Exercise) -> Any:  # noqa: ANN401 -- a tensor
        """Compute the loss of an exercise: that of the matching, and in the second stage that of the answers.

        Args:
            stage: The stage.
            exercise: What to learn from.

        Returns:
            Scalar tensor.
        """
        import torch

        from agile_gym.models.tiny.build import image_features
        from agile_gym.models.tiny.exercises import answer_loss, as_pixels, as_tensor

        config, device, batch = self._config, self._model.device, exercise.batch
        matching = self._matching[exercise.grid]
        with _precision(config.precision, device.type):
            pixels = torch.cat([as_pixels(batch.pieces, device), as_pixels(exercise.boards, device)])
            vectors = image_features(self._model, pixels)
        pieces, shown = vectors[: batch.home.size], vectors[batch.home.size :].float()
        pieces = pieces.view(*batch.home.shape, self._width)
        loss = matching.piece_loss(pieces.float(), as_tensor(batch.home, device))
        loss = loss + matching.board_loss(shown, as_tensor(exercise.arranged, device))
        if stage != "answers":
            return loss
        lesson = self._lessons[exercise.grid][exercise.turns]
        whole = self._step % WHOLE_EVERY == 0
        with _precision(config.precision, device.type):
            answering = answer_loss(self._model, lesson, pieces, batch, whole=whole, thoughts=exercise.thoughts)
        return config.matching_weight * loss + answering


def _schedule(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak learning rate at a step, from 0: up, level, and down in the second half."""
    return min(1.0, (step + 1) / max(warmup, 1)) * (LOWEST_RATE + (1 - LOWEST_RATE) * min(1.0, 2 * (1 - step / steps)))


def _precision(precision: str, device: str) -> AbstractContextManager[Any]:
    """Return the context in which matrix products are computed."""
    torch: Any = import_optional("torch", extra="vlm", purpose="train the tiny model")
    capabilities: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict[str, Any])
    fast = device == "cuda" or bool(capabilities().get("amx_bf16", False))
    reduced = precision == "bfloat16" or (precision == "auto" and fast)
    return torch.autocast(device, dtype=torch.bfloat16) if reduced else nullcontext()


def _as_text(config: VisionPretrainingConfig) -> str:
    return json.dumps(asdict(config))


def pretrain_vision(
    model: Any,  # noqa: ANN401 -- transformers is untyped
    processor: Any,  # noqa: ANN401 -- likewise
    images: ImageSource,
    config: VisionPretrainingConfig | None = None,
    progress: Callable[[VisionProgress], None] | None = None,
    *,
    state: VisionState | None = None,
    begin: Callable[[], None] | None = None,
    save: Callable[[VisionState], None] | None = None,
    save_every: int = 100,
) -> list[VisionProgress]:
    """Train the tiny model, in place, to answer puzzles that it sees for the first time.

    The same seed, model, photographs, machine and number of threads give the same weights bit for bit, also if the
    training goes on from a state.

    Args:
        model: The tiny model (`agile_gym.models.tiny.build_tiny`), in float32, on any device.
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
    training = VisionPretraining(model, processor, training_images(images), config or VisionPretrainingConfig())
    if state is not None:
        training.set_state(state)
    if begin is not None:
        begin()
    history: list[VisionProgress] = []
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
