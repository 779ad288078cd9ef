"""How the tiny model's eyes are trained, and how far that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agile_gym.arguments import check_fields, is_number, is_whole, require, require_seed

__all__ = ["EyesConfig", "EyesProgress", "Stage"]

Stage = Literal["matching", "answers"]
_MOST = 10**6
_PIECES = 26
"""Most pieces of a puzzle: the model's words have as many names."""
_TURNS = 32


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
        few: With fewer images than this (photographs and their mirror images) as many made-up scenes are learned from
            beside them, and half of the puzzles are blended with another and half recoloured; see
            `agile_gym.policies.tiny.scenes`. 0 for never.
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
    few: int = 256
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigurationError: If one is out of range.
        """
        check_fields(self)
        require_seed(self.seed)
        object.__setattr__(self, "grids", tuple((rows, cols) for rows, cols in self.grids))
        object.__setattr__(self, "turns", (self.turns[0], self.turns[1]))
        for name in ("matching_steps", "steps", "warmup", "thought", "few"):
            value = getattr(self, name)
            require(value == 0 or is_whole(value, _MOST), name, value, f"a whole number from 0 to {_MOST:,}")
        for name in ("matching_batch", "batch"):
            value = getattr(self, name)
            require(is_whole(value, _MOST), name, value, f"a whole number from 1 to {_MOST:,}")
        for name in ("matching_lr", "lr", "vision_lr"):
            value = getattr(self, name)
            require(is_number(value, 1e-30, 100), name, value, "a number above 0, up to 100")
        for name in ("matching_weight", "weight_decay"):
            value = getattr(self, name)
            require(is_number(value, 0, 1e6), name, value, "a number of at least 0")
        require(bool(self.grids), "grids", self.grids, "one grid or more, such as [[2, 2]]")
        for rows, cols in self.grids:
            fits = rows >= 1 and cols >= 1 and 2 <= rows * cols <= _PIECES
            require(fits, "grids", self.grids, f"grids of 2 to {_PIECES} pieces, such as [[2, 2], [2, 3]]")
        low, high = self.turns
        require(1 <= low <= high <= _TURNS, "turns", self.turns, f"a range from 1 to {_TURNS}, such as [1, 8]")


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
