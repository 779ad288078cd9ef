"""Tasks and losses of the tiny model's vision training: matching of pieces, and answers at once.

Joined pieces show what was one place of the photograph. The loss asks each piece for its neighbours among the other
pieces of its puzzle, by dot products of small maps of the image vectors, and for its own place; and it asks of a whole
board, which is one image, which of its seams are sound. The language model has no part in it, and the maps are thrown
away afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 -- the usual name
from numpy.typing import NDArray
from torch import nn

from agile_gym.actions.primitives import ActionError
from agile_gym.actions.tags import read_answer, read_tags
from agile_gym.errors import check_fields, is_number, is_whole, require, require_seed
from agile_gym.images.sources import ImageSource
from agile_gym.models.tiny.build import image_features, last_hidden
from agile_gym.models.tiny.puzzles import (
    Lesson,
    PuzzleBatch,
    PuzzleDrawer,
    random_state,
    set_random_state,
    vary,
    with_scenes,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Exercise",
    "ExerciseDrawer",
    "Matching",
    "Stage",
    "VisionPretrainingConfig",
    "VisionProgress",
    "answer_loss",
    "answer_turns",
    "as_pixels",
    "as_tensor",
    "pieces_right",
]

Stage = Literal["matching", "answers"]
_MOST = 10**6
_PIECES = 26
"""Most pieces of a puzzle: the model's words have as many names."""
_TURNS = 32


@dataclass(frozen=True)
class VisionPretrainingConfig:
    """Settings of the vision pretraining.

    Attributes:
        seed: Seed of puzzles and of what is drawn beside.
        grids: Rows and columns of the puzzles, at most 26 pieces; each step takes one of these grids.
        matching_steps: Steps of the first stage, on the vision tower alone; 0 leaves it out.
        matching_batch: Puzzles in each step of the first stage.
        matching_lr: Learning rate of the first stage.
        steps: Steps of the second stage, on the whole model; 0 leaves it out.
        batch: Puzzles in each step of the second stage.
        lr: Learning rate of the language model in the second stage.
        vision_lr: Learning rate of the vision tower and the projector in the second stage.
        matching_weight: Weight of the first stage's loss in the second.
        weight_decay: Weight decay of AdamW.
        warmup: Steps over which learning rates rise at the start of a stage. In the second half of a stage they fall
            to a twentieth.
        turns: Smallest and largest number of turns that the first text speaks of.
        thought: Most tokens, drawn at random, that stand in the thought before the answer; in half of the steps there
            are none. They teach the model to see from anywhere in a text, not only right after the images, as a
            pretrained model does; nothing is learned about the tokens themselves.
        few: With fewer images than this (photographs and their mirror images) as many made-up scenes are learned from
            beside them, and half of the puzzles are blended with another and half recoloured; see
            `agile_gym.models.tiny.puzzles`. 0 for never.
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
class VisionProgress:
    """Progress of the training.

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


BOARDS_AMONG = 4
"""Of so many puzzles one is also shown as a board in the second stage; in the first, all are."""
VARIED = 0.5
"""Share of the puzzles that are blended, and of those that are recoloured, where there are few images."""
THINKING = 0.5
"""Share of the steps of the second stage in which something may stand in the thought before the answer."""


@dataclass(frozen=True)
class Exercise:
    """Training data of one step.

    Attributes:
        grid: Index of the grid.
        batch: The puzzles.
        boards: (M, 32, 32, 3) uint8, boards of the first M puzzles.
        arranged: (M, P) int64, for each place of a board the place where its piece belongs.
        turns: Index of the lesson: the turns that the first text speaks of.
        thoughts: (N, T) int64, ids that stand in the thoughts; T may be 0.
        state: Where the draws are after this one, for `ExerciseDrawer.set_state`.
    """

    grid: int
    batch: PuzzleBatch
    boards: NDArray[np.uint8]
    arranged: NDArray[np.int64]
    turns: int
    thoughts: NDArray[np.int64]
    state: dict[str, Any]


class ExerciseDrawer:
    """Draws exercises, all from the seed of the configuration."""

    def __init__(self, images: ImageSource, config: VisionPretrainingConfig, lessons: list[list[Lesson]]) -> None:
        """Prepare.

        Args:
            images: The photographs, as `agile_gym.models.tiny.puzzles.training_images` gives them.
            config: Settings of the vision pretraining.
            lessons: For every grid the conversations that answers may belong to.
        """
        self._varied = len(images) < config.few
        self._images = with_scenes(images, config.few, config.seed) if self._varied else images
        self._config, self._lessons = config, lessons
        self._choices = np.random.default_rng([config.seed, 0])
        self.begin(0)

    def begin(self, stage: int) -> None:
        """Begin a stage, which is numbered from 0, with puzzles of its own."""
        seeds = [self._config.seed, stage + 1]
        grids = enumerate(self._config.grids)
        self._drawers = [PuzzleDrawer(self._images, grid, [*seeds, index]) for index, grid in grids]

    def get_state(self) -> dict[str, Any]:
        """Return where the draws are."""
        return {"choices": random_state(self._choices), "drawers": [drawer.get_state() for drawer in self._drawers]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on with the draws of a stage from where others were."""
        set_random_state(self._choices, state["choices"])
        for drawer, drawn in zip(self._drawers, state["drawers"], strict=True):
            drawer.set_state(drawn)

    def draw(self, stage: Stage, size: int) -> Exercise:
        """Draw an exercise of a number of puzzles."""
        choices = self._choices
        grid = int(choices.integers(len(self._drawers)))
        drawer = self._drawers[grid]
        batch = drawer.draw(size)
        if self._varied:
            batch = vary(batch, choices, VARIED)
        answers = stage == "answers"
        boards, arranged = drawer.boards(batch.first(-(-size // BOARDS_AMONG)) if answers else batch)
        turns, long = 0, 0
        if answers:
            turns = int(choices.integers(len(self._lessons[grid])))
            long = int(choices.integers(self._config.thought + 1)) if choices.random() < THINKING else 0
        thoughts = choices.choice(self._lessons[grid][turns].words, (size, long))
        return Exercise(grid, batch, boards, arranged, turns, thoughts, self.get_state())

    def draw_ahead(self, stage: Stage, size: int, count: int) -> Generator[Exercise]:
        """Draw some exercises, always the next one in a thread while the one before it is in use.

        Until the iterator is used up or closed, nothing else may draw.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="exercises") as threads:
            coming = threads.submit(self.draw, stage, size) if count else None
            for left in range(count - 1, -1, -1):
                exercise = coming.result() if coming else self.draw(stage, size)
                coming = threads.submit(self.draw, stage, size) if left else None
                yield exercise


class Matching(nn.Module):
    """The maps from image vectors to what the sides of a piece look like, where it belongs, and what seams are sound.

    Joints are numbered: first those of two places side by side, row by row, then those of two places one above the
    other.
    """

    def __init__(self, width: int, grid: tuple[int, int], size: int = 64) -> None:
        """Make the maps.

        Args:
            width: Size of an image's vector.
            grid: Rows and columns.
            size: Size of a side's vector.
        """
        super().__init__()
        rows, cols = grid
        places = torch.arange(rows * cols).view(rows, cols)
        self._across = torch.stack([places[:, :-1].flatten(), places[:, 1:].flatten()])
        self._down = torch.stack([places[:-1].flatten(), places[1:].flatten()])
        self._cols = cols
        self._scale = size**-0.5
        self.sides = nn.Linear(width, 4 * size, bias=False)  # right, left, lower, upper
        self.place = nn.Linear(width, rows * cols)
        self.sound = nn.Linear(width, self._across.shape[1] + self._down.shape[1])

    def piece_loss(self, features: Tensor, home: Tensor) -> Tensor:
        """Compute the loss of the pieces of some puzzles.

        Args:
            features: (N, P, width) float32, the image vectors of the pieces in the order of their names.
            home: (N, P) int64, the place where each piece belongs.

        Returns:
            Scalar: the mean cross-entropies of a piece's neighbours and of its place, added.
        """
        solution = home.argsort(1)
        right, left, lower, upper = self.sides(features).chunk(4, dim=-1)
        itself = torch.full((home.shape[1],) * 2, 0.0, device=home.device).fill_diagonal_(-1e4)
        losses = [F.cross_entropy(self.place(features).flatten(0, 1), home.flatten())]
        for one, other, (first, second) in ((right, left, self._across), (lower, upper, self._down)):
            if not len(first):
                continue
            scores = one @ other.transpose(1, 2) * self._scale + itself  # (N, P, P): piece i has piece j beside it
            before, after = solution[:, first], solution[:, second]  # (N, joints)
            count = scores.shape[1]
            of_before = scores.gather(1, before[..., None].expand(-1, -1, count))
            of_after = scores.transpose(1, 2).gather(1, after[..., None].expand(-1, -1, count))
            losses.append(F.cross_entropy(of_before.flatten(0, 1), after.flatten()) / 2)
            losses.append(F.cross_entropy(of_after.flatten(0, 1), before.flatten()) / 2)
        return torch.stack(losses).sum()

    def board_loss(self, features: Tensor, arranged: Tensor) -> Tensor:
        """Compute the loss of some boards.

        Args:
            features: (N, width) float32, the image vectors of the boards.
            arranged: (N, P) int64, for each place of the board the place where its piece belongs.

        Returns:
            Scalar: the mean binary cross-entropy of whether a seam is sound.
        """
        first, second = torch.cat([self._across, self._down], 1)
        before, after = arranged[:, first], arranged[:, second]
        beside = (after == before + 1) & (before % self._cols != self._cols - 1)
        below = after == before + self._cols
        joints = self._across.shape[1]
        sound = torch.cat([beside[:, :joints], below[:, joints:]], 1)
        return F.binary_cross_entropy_with_logits(self.sound(features), sound.float())


ENDING = 2
"""Ids of an answer's end that follow by themselves from what stands before: the closing of list and turn."""
_NOTHING = -100
"""Stands for a token that is not to be predicted."""


def as_tensor(array: NDArray[Any], device: Any) -> Tensor:  # noqa: ANN401 -- torch.device or its name
    """Return an array as a tensor on a device."""
    return torch.from_numpy(array).to(device)  # pyright: ignore[reportUnknownMemberType] -- torch is partly typed


def as_pixels(images: NDArray[np.uint8], device: Any) -> Tensor:  # noqa: ANN401 -- torch.device or its name
    """Return images (..., 32, 32, 3) as the processor makes them: (N, 3, 32, 32) float32 from -1 to 1."""
    flat = as_tensor(images.reshape(-1, *images.shape[-3:]), device)
    return flat.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def answer_loss(
    model: Any,  # noqa: ANN401 -- transformers is untyped
    lesson: Lesson,
    features: Tensor,
    batch: PuzzleBatch,
    *,
    whole: bool,
    thoughts: NDArray[np.int64] | None = None,
) -> Tensor:
    """Compute the mean cross-entropy of the right answers' tokens.

    Args:
        model: The tiny model.
        lesson: The conversation.
        features: (N, P, width), the image vectors of the pieces.
        batch: The puzzles.
        whole: Whether the end of the turn counts, too; without it the loss costs less.
        thoughts: (N, M), ids that stand in the thoughts before the answers. Nothing is learned about them, nor about
            where they end.

    Returns:
        Scalar float32.
    """
    answers = as_tensor(lesson.answers(batch.solution), features.device)
    targets = answers
    if thoughts is not None and thoughts.shape[1]:
        inside, after = as_tensor(thoughts, features.device), lesson.thought
        answers = torch.cat([answers[:, :after], inside, answers[:, after:]], 1)
        targets = answers.clone()
        targets[:, after : after + inside.shape[1] + 1] = _NOTHING
    if not whole:
        answers, targets = answers[:, :-ENDING], targets[:, :-ENDING]
    hidden = _hidden(model, lesson, features, answers[:, :-1])
    logits = model.lm_head(hidden[:, -answers.shape[1] :]).float()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_NOTHING)


def _hidden(model: Any, lesson: Lesson, features: Tensor, written: Tensor) -> Tensor:  # noqa: ANN401 -- likewise
    """Return the last hidden states (N, W + 1, width) from which the ``W`` ids written, and the next, are predicted."""
    embed = model.get_input_embeddings()
    prompt = embed(as_tensor(lesson.prompt, features.device))
    first = int(lesson.images[0])
    vectors = prompt[first:].expand(len(features), -1, -1).clone()
    vectors[:, as_tensor(lesson.images - first, features.device)] = features.to(vectors.dtype)
    vectors = torch.cat([vectors, embed(written)], 1)
    return last_hidden(model, prompt[:first], vectors, written.shape[1] + 1)


@torch.no_grad()
def answer_turns(
    model: Any,  # noqa: ANN401 -- likewise
    lesson: Lesson,
    batch: PuzzleBatch,
    choose: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Let the model write its first turn to some puzzles.

    Args:
        model: The tiny model.
        lesson: The conversation.
        batch: The puzzles.
        choose: Chooses ids (N,) from logits (N, vocabulary); by default the most likely.

    Returns:
        (N, A) int64, as many ids as an answer has, its end included.
    """
    features = image_features(model, as_pixels(batch.pieces, model.device)).view(*batch.home.shape, -1)
    count = lesson.answers(batch.solution[:1]).shape[1]
    written = torch.zeros(len(features), 0, dtype=torch.long, device=model.device)
    for _ in range(count):
        logits = model.lm_head(_hidden(model, lesson, features, written)[:, -1]).float()
        ids = logits.argmax(-1) if choose is None else choose(logits)
        written = torch.cat([written, ids[:, None]], 1)
    return written


def pieces_right(processor: Any, lesson: Lesson, turns: Tensor, batch: PuzzleBatch) -> list[int]:  # noqa: ANN401 -- transformers is untyped
    """Count the pieces in their place in the answers that turns give; a turn that gives none has none.

    Args:
        processor: The tiny model's processor.
        lesson: The conversation.
        turns: (N, A) int64, as `answer_turns` gives them.
        batch: The puzzles.

    Returns:
        A number for each puzzle.
    """
    right: list[int] = []
    texts: list[str] = processor.tokenizer.batch_decode(turns, skip_special_tokens=True)
    solutions: list[list[int]] = batch.solution.tolist()
    for text, solution in zip(texts, solutions, strict=True):
        try:
            order = read_answer(read_tags(text, "code").bodies[0], lesson.names).order
        except ActionError:
            order = ()
        same = [name == lesson.names[piece] for name, piece in zip(order, solution, strict=False)]
        right.append(sum(same) if len(order) == len(solution) else 0)
    return right
