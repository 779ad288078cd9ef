"""Teaches the tiny model to see, from free puzzles: what pretraining does for a large model.

First the vision tower learns which piece continues which (`agile_gym.policies.tiny.matching`), which costs little. Then
the whole model learns to answer puzzles at once: its first turn is ``<think></think>`` and the answer. What the later
stages of training teach, to look, to move and to reason, is no part of this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from agile_gym.errors import ConfigurationError, import_optional
from agile_gym.images import ImageSource
from agile_gym.policies.tiny.puzzles import Lesson, PuzzleBatch, PuzzleDrawer, training_images

__all__ = ["EyesConfig", "EyesProgress", "train_eyes"]

Stage = Literal["matching", "answers"]
Groups = list[tuple[list[Any], float]]
"""Parameters with their learning rates."""
LOWEST_RATE = 0.05
BOARDS_AMONG = 4
"""Of so many puzzles one is also shown as a board in the second stage; in the first, all are."""
THINKING = 0.5
"""Share of the steps of the second stage in which something may stand in the thought before the answer."""
WHOLE_EVERY = 4
"""Every so many steps the end of the turn is learned, too; in the others, which are cheaper, only the names."""


@dataclass(frozen=True)
class EyesConfig:
    """How the eyes are trained.

    Attributes:
        seed: Seed of puzzles and of what is drawn beside.
        grids: Rows and columns of the puzzles, at most 26 pieces; each step takes one of these grids.
        matching_steps: Steps of the first stage, on the vision tower alone; 0 leaves it out.
        matching_batch: Puzzles a step of it.
        matching_lr: Its learning rate.
        steps: Steps of the second stage, on the whole model; 0 leaves it out.
        batch: Puzzles a step of it.
        lr: Learning rate of the language model.
        vision_lr: Learning rate of the vision tower and the projector in the second stage.
        matching_weight: Weight of the first stage's loss in the second.
        weight_decay: Weight decay of AdamW.
        warmup: Steps over which learning rates rise at the start of a stage. In its second half they fall to a
            twentieth.
        turns: Smallest and largest number of turns that the first text speaks of.
        thought: Most tokens, drawn at random, that stand in the thought before the answer; in half of the steps there
            are none. They teach the model to see from anywhere in a text, not only right after the images, as a
            pretrained model does; nothing is learned about the tokens themselves.
        precision: ``"bfloat16"`` computes in it where that loses little and keeps the weights in float32;
            ``"auto"`` does so on processors with AMX and on GPUs, where it is faster.
    """

    seed: int = 0
    grids: tuple[tuple[int, int], ...] = ((2, 2),)
    matching_steps: int = 1000
    matching_batch: int = 512
    matching_lr: float = 2e-3
    steps: int = 2200
    batch: int = 256
    lr: float = 2e-3
    vision_lr: float = 5e-4
    matching_weight: float = 0.3
    weight_decay: float = 0.05
    warmup: int = 50
    turns: tuple[int, int] = (1, 8)
    thought: int = 24
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigurationError: If one is out of range.
        """
        for name in ("seed", "matching_steps", "steps", "warmup", "thought"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ConfigurationError(f"{name}={value!r} must be a whole number, 0 or more.")
        for name in ("matching_batch", "batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"{name}={value!r} must be a whole number, 1 or more.")
        for name in ("matching_lr", "lr", "vision_lr"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name}={getattr(self, name)!r} must be above 0.")
        if not self.grids:
            raise ConfigurationError("grids=() must hold one grid or more, such as ((2, 2),).")
        if not 1 <= self.turns[0] <= self.turns[1]:
            raise ConfigurationError(f"turns={self.turns!r} must be a range such as (1, 8).")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ConfigurationError(f"precision={self.precision!r} must be 'auto', 'float32' or 'bfloat16'.")


@dataclass(frozen=True)
class EyesProgress:
    """How far the training is.

    Attributes:
        stage: ``"matching"`` or ``"answers"``.
        step: Steps of the stage that are done.
        steps: Steps of the stage in all.
        puzzles: Puzzles seen so far, of both stages.
        loss: The loss of this step.
        seconds: Time since the start.
    """

    stage: Stage
    step: int
    steps: int
    puzzles: int
    loss: float
    seconds: float


def train_eyes(
    model: Any,  # noqa: ANN401 -- transformers is untyped
    processor: Any,  # noqa: ANN401 -- likewise
    images: ImageSource,
    config: EyesConfig | None = None,
    progress: Callable[[EyesProgress], None] | None = None,
) -> list[EyesProgress]:
    """Train the tiny model, in place, to answer puzzles that it sees for the first time.

    The same seed, model, photographs, machine and number of threads give the same weights bit for bit.

    Args:
        model: The tiny model (`agile_gym.policies.tiny.build_tiny`), in float32, on any device.
        processor: Its processor.
        images: Photographs to cut puzzles from.
        config: How.
        progress: Called after every step.

    Returns:
        The progress after every step.

    Raises:
        ConfigurationError: If the configuration is not allowed, or the grid too large.
        MissingDependencyError: If torch is not installed.
    """
    training = _Training(model, processor, training_images(images), config or EyesConfig())
    history: list[EyesProgress] = []
    was_training = model.training
    model.train()
    try:
        for entry in training.run():
            history.append(entry)
            if progress is not None:
                progress(entry)
    finally:
        model.train(was_training)
    return history


class _Training:
    """One run of the training."""

    def __init__(self, model: Any, processor: Any, images: ImageSource, config: EyesConfig) -> None:  # noqa: ANN401
        torch: Any = import_optional("torch", extra="vlm", purpose="train the tiny model")
        from agile_gym.policies.tiny.matching import Matching

        self._model, self._images, self._config = model, images, config
        self._width: int = model.config.text_config.hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._matching = [Matching(self._width, grid).to(model.device) for grid in config.grids]
        few, many = config.turns
        self._lessons = [[Lesson(processor, grid, turns) for turns in range(few, many + 1)] for grid in config.grids]
        self._choices = np.random.default_rng([config.seed, 0])

    def run(self) -> Iterator[EyesProgress]:
        """Run both stages, a step at a time."""
        config, inner = self._config, self._model.model
        eyes = [*inner.vision_tower.parameters(), *inner.multi_modal_projector.parameters()]
        eyes += [parameter for matching in self._matching for parameter in matching.parameters()]
        began, seen = time.perf_counter(), 0
        words = list(inner.language_model.parameters())
        stages: list[tuple[Stage, Groups, int, int]] = [
            ("matching", [(eyes, config.matching_lr)], config.matching_steps, config.matching_batch),
            ("answers", [(eyes, config.vision_lr), (words, config.lr)], config.steps, config.batch),
        ]
        for stage, groups, steps, size in stages:
            for step, loss in enumerate(self._stage(stage, groups, steps, size), 1):
                seen += size
                yield EyesProgress(stage, step, steps, seen, loss, time.perf_counter() - began)

    def _stage(self, stage: Stage, groups: Groups, steps: int, size: int) -> Iterator[float]:
        """Take the steps of a stage; gives the loss of each."""
        torch: Any = import_optional("torch", extra="vlm", purpose="train the tiny model")

        config = self._config
        seeds = [config.seed, 1 if stage == "matching" else 2]
        drawers = [PuzzleDrawer(self._images, grid, [*seeds, number]) for number, grid in enumerate(config.grids)]
        optimizer = torch.optim.AdamW(
            [{"params": group, "lr": rate, "peak": rate} for group, rate in groups],
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
            fused=True,
        )
        parameters = [parameter for group, _ in groups for parameter in group]
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * _schedule(step, steps, config.warmup)
            number = int(self._choices.integers(len(drawers)))
            loss = self._loss(stage, number, drawers[number], drawers[number].draw(size), step)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            yield float(loss.detach())

    def _loss(self, stage: Stage, number: int, drawer: PuzzleDrawer, batch: PuzzleBatch, step: int) -> Any:  # noqa: ANN401
        """Compute the loss of some puzzles: that of the matching, and in the second stage that of the answers.

        Args:
            stage: The stage.
            number: Index of the grid.
            drawer: What lays boards out.
            batch: The puzzles.
            step: The step, from 0.

        Returns:
            Scalar tensor.
        """
        import torch

        from agile_gym.policies.tiny.answering import answer_loss, as_pixels, as_tensor
        from agile_gym.policies.tiny.forward import image_features

        config, device = self._config, self._model.device
        matching, answers = self._matching[number], stage == "answers"
        boards, arranged = drawer.boards(batch.first(-(-len(batch.home) // BOARDS_AMONG)) if answers else batch)
        with _precision(config.precision, device.type):
            pixels = torch.cat([as_pixels(batch.pieces, device), as_pixels(boards, device)])
            vectors = image_features(self._model, pixels)
        pieces, shown = vectors[: batch.home.size], vectors[batch.home.size :].float()
        pieces = pieces.view(*batch.home.shape, self._width)
        loss = matching.piece_loss(pieces.float(), as_tensor(batch.home, device))
        loss = loss + matching.board_loss(shown, as_tensor(arranged, device))
        if not answers:
            return loss
        lessons = self._lessons[number]
        lesson = lessons[int(self._choices.integers(len(lessons)))]
        whole = step % WHOLE_EVERY == 0
        long = int(self._choices.integers(config.thought + 1)) if self._choices.random() < THINKING else 0
        thoughts = self._choices.choice(lesson.words, (len(batch.home), long))
        with _precision(config.precision, device.type):
            answering = answer_loss(self._model, lesson, pieces, batch, whole=whole, thoughts=thoughts)
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
