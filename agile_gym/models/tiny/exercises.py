"""Exercises of the tiny model's vision pretraining: settings, what is drawn, heads with their losses, and the probe.

A board, as one image, is asked whether it is right, which of its seams are sound and where each of its pieces belongs;
a part of a board, whether the seam in it is sound; pieces, which of them continues which. The language model has no
part in it, and the heads are thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 -- the usual name
from numpy.typing import NDArray
from torch import nn

from agile_gym.errors import check_fields, is_number, is_whole, require, require_seed
from agile_gym.models.tiny.build import PIECE, as_pixels, as_tensor, image_features, window_grid
from agile_gym.models.tiny.puzzles import (
    MAX_PIECES,
    BoardDrawer,
    Boards,
    Pictures,
    joints,
    random_state,
    set_random_state,
    sound,
    with_scenes,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Exercise",
    "ExerciseDrawer",
    "Heads",
    "ProbeResult",
    "VisionPretrainingConfig",
    "VisionProgress",
    "exercise_loss",
    "measure",
]

_MOST = 10**6
VARIED = 0.5
"""Share of the parts of photographs that are blended, and of those that are recoloured, where there are few images."""


@dataclass(frozen=True)
class VisionPretrainingConfig:
    """Settings of the vision pretraining.

    Attributes:
        seed: Seed of boards and heads.
        grids: Rows and columns of the boards, at most 26 pieces; each step takes one of these grids.
        steps: Steps of AdamW.
        batch: Boards a step: four arrangements of each part of a photograph.
        seams: Views of single seams a step, as a share of the boards, and the weight of their loss.
        pieces: Single pieces a step, likewise.
        places: Weight of the loss of where the pieces of a board belong, 0 to 1. With a small one the vectors tell more
            of whether a board is right, and less of how to mend it.
        exchanged: Share of the wrong boards on which two pieces are exchanged; of large boards hardly one is otherwise,
            and they are what the end of a game looks like.
        lr: Largest learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        warmup: Steps over which the learning rate rises. In the second half it falls to a twentieth.
        held_out: Share of the photographs that is not learned from: the probe is measured on these.
        few: With fewer photographs than this as many made-up scenes are learned from beside them, and half of the parts
            are blended with another and half recoloured; see `agile_gym.models.tiny.puzzles`. 0 for never.
        hidden: Size of the hidden layer of the heads that read boards and seams; 0 for linear heads, so that what they
            read is linear in the vectors, and easier to read for a language model, too.
        probes: Boards of each grid that the probe reads.
    """

    seed: int = 0
    grids: tuple[tuple[int, int], ...] = ((2, 2),)
    steps: int = 3000
    batch: int = 256
    seams: float = 0.125
    pieces: float = 0.125
    places: float = 1.0
    exchanged: float = 0.0
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 100
    held_out: float = 0.1
    few: int = 32
    hidden: int = 256
    probes: int = 2048

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigurationError: If one is out of range.
        """
        check_fields(self)
        require_seed(self.seed)
        object.__setattr__(self, "grids", tuple((rows, cols) for rows, cols in self.grids))
        for name in ("warmup", "few", "hidden"):
            value = getattr(self, name)
            require(value == 0 or is_whole(value, _MOST), name, value, f"a whole number from 0 to {_MOST:,}")
        for name in ("steps", "batch", "probes"):
            value = getattr(self, name)
            require(is_whole(value, _MOST), name, value, f"a whole number from 1 to {_MOST:,}")
        for name in ("seams", "pieces", "exchanged"):
            value = getattr(self, name)
            require(is_number(value, 0, 1), name, value, "a share of the boards from 0 to 1")
        require(is_number(self.places, 0, 1), "places", self.places, "a weight from 0 to 1")
        require(is_number(self.held_out, 0, 0.9), "held_out", self.held_out, "a share of the photographs from 0 to 0.9")
        require(is_number(self.lr, 1e-30, 100), "lr", self.lr, "a number above 0, up to 100")
        require(is_number(self.weight_decay, 0, 1e6), "weight_decay", self.weight_decay, "a number of at least 0")
        require(bool(self.grids), "grids", self.grids, "one grid or more, such as [[2, 2]]")
        for rows, cols in self.grids:
            fits = rows >= 1 and cols >= 1 and 2 <= rows * cols <= MAX_PIECES
            require(fits, "grids", self.grids, f"grids of 2 to {MAX_PIECES} pieces, such as [[2, 2], [2, 3]]")


@dataclass(frozen=True)
class VisionProgress:
    """Progress of the training.

    Attributes:
        step: Steps that are done.
        steps: Steps in all.
        boards: Boards seen so far.
        loss: The loss of this step.
        seconds: Time since the start.
    """

    step: int
    steps: int
    boards: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class ProbeResult:
    """Probe of one grid: fractions of boards whose properties the heads read from the vectors, 0 to 1.

    Attributes:
        grid: The grid, as ``"2x2"``.
        tokens: Tokens of a board.
        boards: Boards that were read.
        held_out: Photographs that the boards are of, which were not learned from; 0 if they are of the others.
        right: Boards that are called right or wrong as they are, over right ones and wrong ones alike.
        order: Boards of all kinds whose whole order is read.
        order_exchanged: The same of boards on which two pieces are exchanged.
        order_misplaced: The same of boards on which every piece is misplaced.
        places: Places whose piece is read, on boards of all kinds.
        places_misplaced: The same on boards on which every piece is misplaced.
        seams: Single seams that are called sound or not as they are.
    """

    grid: str
    tokens: int
    boards: int
    held_out: int
    right: float
    order: float
    order_exchanged: float
    order_misplaced: float
    places: float
    places_misplaced: float
    seams: float


@dataclass(frozen=True)
class Exercise:
    """Training data of one step.

    Attributes:
        grid: Index of the grid.
        boards: The boards.
        state: State of the draws after this one, for `ExerciseDrawer.set_state`.
    """

    grid: int
    boards: Boards
    state: dict[str, Any]


class ExerciseDrawer:
    """Draws exercises, all from the seed of the configuration."""

    def __init__(self, photos: Sequence[Pictures], config: VisionPretrainingConfig) -> None:
        """Prepare.

        Args:
            photos: Small photographs, at least one.
            config: Settings of the vision pretraining.
        """
        few = len(photos) < config.few
        self._varied = VARIED if few else 0.0
        shown = with_scenes(photos, config.few, config.seed) if few else photos
        self._config = config
        self._choices = np.random.default_rng([config.seed, 0])
        self._drawers = [BoardDrawer(shown, grid, [config.seed, 1, index]) for index, grid in enumerate(config.grids)]

    def get_state(self) -> dict[str, Any]:
        """Return where the draws are."""
        return {"choices": random_state(self._choices), "drawers": [drawer.get_state() for drawer in self._drawers]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on with the draws from where others were."""
        set_random_state(self._choices, state["choices"])
        for drawer, drawn in zip(self._drawers, state["drawers"], strict=True):
            drawer.set_state(drawn)

    def draw(self) -> Exercise:
        """Draw an exercise."""
        config = self._config
        grid = int(self._choices.integers(len(self._drawers)))
        seams, pieces = (round(share * config.batch) for share in (config.seams, config.pieces))
        shares = {"varied": self._varied, "exchanged": config.exchanged}
        boards = self._drawers[grid].draw(config.batch, seams=seams, pieces=pieces, **shares)
        return Exercise(grid, boards, self.get_state())

    def draw_ahead(self, count: int) -> Generator[Exercise]:
        """Draw some exercises, always the next one in a thread while the one before it is in use.

        Until the iterator is used up or closed, nothing else may draw.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="exercises") as threads:
            coming = threads.submit(self.draw) if count else None
            for left in range(count - 1, -1, -1):
                exercise = coming.result() if coming else self.draw()
                coming = threads.submit(self.draw) if left else None
                yield exercise


class Heads(nn.Module):
    """Maps from image vectors to what is asked about boards of one grid, seams and pieces."""

    def __init__(self, width: int, grid: tuple[int, int], size: int = 64, inner: int = 256) -> None:
        """Make the maps.

        Args:
            width: Size of a token's vector.
            grid: Rows and columns.
            size: Size of the vector of a piece's side.
            inner: Size of the hidden layer that reads a board or a seam; 0 for none.
        """
        super().__init__()
        rows, cols = grid
        self.grid = grid
        self._pairs = joints(rows, cols)
        self._scale = size**-0.5
        self.tokens = _count_tokens(grid)
        asked = 1 + self._pairs.shape[1] + (rows * cols) ** 2
        self.board = _reader(self.tokens * width, inner, asked)
        self.seam = _reader(width, inner, 1)
        self.sides = nn.Linear(width, 4 * size, bias=False)  # right, left, lower, upper
        self.place = nn.Linear(width, rows * cols)

    def read(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read boards.

        Args:
            features: (N, T, width) float32, the image vectors of the boards.

        Returns:
            Logits: (N,) that the board is right, (N, joints) that the seam is sound, (N, P, P) of the place where the
            piece at each place belongs.
        """
        rows, cols = self.grid
        read = self.board(features.flatten(1))
        right, seams, places = read.split([1, self._pairs.shape[1], (rows * cols) ** 2], 1)
        return right[:, 0], seams, places.unflatten(1, (rows * cols, -1))

    def read_seam(self, features: Tensor) -> Tensor:
        """Read views of single seams, (N, T, width): logits (N,) that the seam is sound."""
        return self.seam(features.mean(1))[:, 0]

    def board_loss(self, features: Tensor, arranged: NDArray[np.int64], weight: float = 1.0) -> Tensor:
        """Compute the loss of some boards.

        Args:
            features: (N, T, width) float32, their image vectors.
            arranged: (N, P), for each place the place where its piece belongs.
            weight: Weight of the last of the three.

        Returns:
            Scalar: the mean cross-entropies of whether a board is right, whether a seam is sound and where a piece
            belongs, added.
        """
        right, seams, places = self.read(features)
        truth = as_tensor(arranged, features.device)
        whole = (truth == torch.arange(truth.shape[1], device=truth.device)).all(1)
        fits = as_tensor(sound(arranged, *self.grid), features.device)
        return (
            F.binary_cross_entropy_with_logits(right, whole.float())
            + F.binary_cross_entropy_with_logits(seams, fits.float())
            + weight * F.cross_entropy(places.flatten(0, 1), truth.flatten())
        )

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
        beside = self.grid[0] * (self.grid[1] - 1)
        pairs = as_tensor(self._pairs, home.device)
        for one, other, (first, second) in ((right, left, pairs[:, :beside]), (lower, upper, pairs[:, beside:])):
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


def _reader(width: int, inner: int, asked: int) -> nn.Sequential:
    if not inner:
        return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, asked))
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, asked))


def _count_tokens(grid: tuple[int, int]) -> int:
    """Return the tokens of a board whose pieces have 32 x 32 pixels."""
    high, wide = window_grid(grid[0] * PIECE, grid[1] * PIECE)
    return high * wide


def exercise_loss(model: Any, heads: Heads, boards: Boards, places: float = 1.0) -> Tensor:  # noqa: ANN401 -- transformers is untyped
    """Compute the loss of an exercise.

    Args:
        model: The tiny model.
        heads: The heads of the grid.
        boards: The boards.
        places: Weight of the loss of where the pieces of a board belong.

    Returns:
        Scalar: those of the boards, of the views of seams and of the pieces, added; the latter two weighted by how many
        there are for each board, as those of a few pieces would drown the others.
    """
    device, count = model.device, len(boards.images)
    loss = heads.board_loss(image_features(model, as_pixels(boards.images, device)), boards.arranged, places)
    if boards.seams:
        read = [heads.read_seam(image_features(model, as_pixels(view.images, device))) for view in boards.seams]
        fits = as_tensor(np.concatenate([view.sound for view in boards.seams]), device)
        loss = loss + len(fits) / count * F.binary_cross_entropy_with_logits(torch.cat(read), fits.float())
    if len(boards.home):
        pieces = image_features(model, as_pixels(boards.pieces.reshape(-1, *boards.pieces.shape[2:]), device))
        lost = heads.piece_loss(pieces.view(*boards.home.shape, -1), as_tensor(boards.home, device))
        loss = loss + boards.home.size / count * lost
    return loss


_READ_AT_ONCE = 256


@torch.no_grad()
def measure(model: Any, heads: Heads, drawer: BoardDrawer, count: int, *, held_out: int) -> ProbeResult:  # noqa: ANN401 -- transformers is untyped
    """Measure how well the heads read boards.

    Args:
        model: The tiny model.
        heads: The heads of the drawer's grid.
        drawer: Draws the boards.
        count: Number of boards.
        held_out: Photographs of the boards that were not learned from.
    """
    device = model.device
    arranged, read = list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    called, seams = list[NDArray[np.bool_]](), list[NDArray[np.bool_]]()
    for begin in range(0, count, _READ_AT_ONCE):
        size = min(_READ_AT_ONCE, count - begin)
        boards = drawer.draw(size, seams=size)
        right, _, places = heads.read(image_features(model, as_pixels(boards.images, device)))
        called.append((right > 0).cpu().numpy())
        read.append(places.argmax(-1).cpu().numpy())
        arranged.append(boards.arranged)
        for view in boards.seams:
            fits = heads.read_seam(image_features(model, as_pixels(view.images, device))) > 0
            seams.append(fits.cpu().numpy() == view.sound)
    truth = np.concatenate(arranged)
    same: NDArray[np.bool_] = np.concatenate(read) == truth
    wrong = np.array([np.count_nonzero(row != np.arange(len(row))) for row in truth])
    correct: NDArray[np.bool_] = np.concatenate(called) == (wrong == 0)
    whole: NDArray[np.bool_] = np.all(same, axis=1)
    exchanged, misplaced = wrong == 2, wrong == truth.shape[1]
    return ProbeResult(
        grid="x".join(map(str, heads.grid)),
        tokens=heads.tokens,
        boards=count,
        held_out=held_out,
        right=(_share(correct[wrong == 0]) + _share(correct[wrong > 0])) / 2,
        order=_share(whole),
        order_exchanged=_share(whole[exchanged]),
        order_misplaced=_share(whole[misplaced]),
        places=_share(same),
        places_misplaced=_share(same[misplaced]),
        seams=_share(np.concatenate(seams)),
    )


def _share(hits: NDArray[np.bool_]) -> float:
    """Return the share of hits; 0 of nothing."""
    return float(hits.mean()) if hits.size else 0.0
