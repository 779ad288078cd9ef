"""Boards for the tiny model's vision pretraining, drawn in bulk from photographs and, where these are few, from scenes.

A model that sees four photographs learns them by heart. What it should learn, how borders continue, is also in pictures
that nobody took: shapes that hide each other, over soft light, with grain.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from agile_gym.envs.jigsaw.config import JigsawConfig, resolve
from agile_gym.errors import ConfigurationError
from agile_gym.images.sources import ImageSource
from agile_gym.models.tiny.build import PIECE
from agile_gym.puzzle.board import parse_grid
from agile_gym.puzzle.pixels import WHITE, choose_window, resize

__all__ = [
    "BoardDrawer",
    "Boards",
    "SeamViews",
    "arrange",
    "draw_scene",
    "joints",
    "puzzle_config",
    "random_state",
    "set_random_state",
    "small_photographs",
    "sound",
    "vary",
    "with_scenes",
]

Pictures = NDArray[np.uint8]
SHORT_SIDE = 256
"""Photographs are shrunk to this before parts are cut from them, in pixels: much faster, and it hardly shows."""
MAX_PIECES = 26
"""Names beyond Z are more than one token."""
BOARDS_OF_A_PART = 4
"""Arrangements that are shown of each part of a photograph."""
_RIGHT, _ALL = 0.2, 0.5
"""Share of the boards that are right, and share of the others on which all pieces are shuffled."""


def small_photographs(images: ImageSource) -> list[Pictures]:
    """Return photographs as parts are cut from them: at most 256 pixels on the short side, in memory."""
    small: list[Pictures] = []
    for index in range(len(images)):
        photo = images.load(index)
        scale = min(1.0, SHORT_SIDE / min(photo.shape[:2]))
        small.append(resize(photo, round(photo.shape[0] * scale), round(photo.shape[1] * scale)))
    return small


def puzzle_config(grid: tuple[int, int]) -> JigsawConfig:
    """Return the options of the environment for the tiny model: pieces of 32 x 32 pixels and the short prompt.

    Raises:
        ConfigurationError: If the grid is none, or has more than 26 pieces.
    """
    rows, cols = parse_grid(grid)
    if rows * cols > MAX_PIECES:
        raise ConfigurationError(f"grid={grid!r} has more than {MAX_PIECES} pieces, and the tiny model names no more.")
    return JigsawConfig(grid=grid, level=None, image_size=(rows * PIECE, cols * PIECE), crop="random", prompt="short")


def joints(rows: int, cols: int) -> NDArray[np.int64]:
    """Return the pairs of neighbouring places, (2, joints): side by side, row by row, then one above the other."""
    places = np.arange(rows * cols).reshape(rows, cols)
    across = np.stack([places[:, :-1].ravel(), places[:, 1:].ravel()])
    down = np.stack([places[:-1].ravel(), places[1:].ravel()])
    return np.concatenate([across, down], 1)


def sound(arranged: NDArray[np.int64], rows: int, cols: int) -> NDArray[np.bool_]:
    """Return whether the pieces on both sides of each joint are neighbours in the photograph, in the same way.

    Args:
        arranged: (N, P) int64, for each place of a board the place where its piece belongs.
        rows: Rows of the grid.
        cols: Columns.

    Returns:
        (N, joints), in the order of `joints`.
    """
    first, second = joints(rows, cols)
    before, after = arranged[:, first], arranged[:, second]
    beside = (after == before + 1) & (before % cols != cols - 1)
    down = second == first + cols if cols > 1 else np.ones_like(first, np.bool_)
    return (down & (after == before + cols)) | (~down & beside)


def arrange(rng: np.random.Generator, count: int, pieces: int, exchanged: float = 0.0) -> NDArray[np.int64]:
    """Draw arrangements: a fifth right; of the others, half shuffled, half with some pieces shuffled, from 2 to all.

    Args:
        rng: Source of all draws.
        count: Number of boards.
        pieces: Pieces of each.
        exchanged: Share of the wrong boards that have two pieces exchanged instead.

    Returns:
        (count, pieces) int64, for each place the place where its piece belongs.
    """
    moved = np.where(rng.random(count) < _ALL, pieces, rng.integers(2, pieces + 1, count))
    if exchanged:
        moved[rng.random(count) < exchanged] = 2
    moved[rng.random(count) < _RIGHT] = 0
    chosen = rng.random((count, pieces)).argsort(1)  # the first ``moved`` of these places change their pieces
    columns = np.arange(pieces)
    mixed = np.where(columns < moved[:, None], rng.random((count, pieces)), columns + 1.0).argsort(1)
    unmoved = (moved > 0) & (mixed == columns).all(1)
    mixed[unmoved, :2] = mixed[unmoved, 1::-1]
    arranged = np.empty((count, pieces), np.int64)
    np.put_along_axis(arranged, chosen, np.take_along_axis(chosen, mixed, 1), 1)
    return arranged


@dataclass(frozen=True)
class SeamViews:
    """Parts of some boards around one joint, all of one size.

    Attributes:
        images: (N, h, w, 3) uint8.
        sound: (N,) bool, whether the two pieces are neighbours.
    """

    images: Pictures
    sound: NDArray[np.bool_]


@dataclass(frozen=True)
class Boards:
    """Boards of one grid, and pieces of some of the parts that they show.

    Attributes:
        images: (N, h, w, 3) uint8, as an observation shows them.
        arranged: (N, P) int64, for each place the place where its piece belongs.
        seams: Views of single joints.
        pieces: (M, P, 32, 32, 3) uint8, in any order.
        home: (M, P) int64, the place where each of these belongs.
    """

    images: Pictures
    arranged: NDArray[np.int64]
    seams: tuple[SeamViews, ...]
    pieces: Pictures
    home: NDArray[np.int64]


class BoardDrawer:
    """Draws boards of random parts of random photographs, cut and laid out as the environment does."""

    def __init__(self, photos: Sequence[Pictures], grid: tuple[int, int], seed: int | Sequence[int]) -> None:
        """Prepare.

        Args:
            photos: Small photographs, at least one.
            grid: Rows and columns, at most 26 pieces.
            seed: Seed of all draws.

        Raises:
            ConfigurationError: If there are more than 26 pieces.
        """
        rules = resolve(puzzle_config(grid))
        self._photos = photos
        self._layout = rules.layout_for((PIECE, PIECE))
        self._scale = rules.crop_scale
        self._joints = joints(*grid)
        self._rng = np.random.default_rng(seed)

    def get_state(self) -> str:
        """Return where the draws are."""
        return random_state(self._rng)

    def set_state(self, state: str) -> None:
        """Go on with the draws from where others were."""
        set_random_state(self._rng, state)

    def draw(
        self, count: int, *, seams: int = 0, pieces: int = 0, varied: float = 0.0, exchanged: float = 0.0
    ) -> Boards:
        """Draw some boards.

        Args:
            count: Number of boards.
            seams: Number of views of seams, at most that of the boards.
            pieces: Number of pieces, rounded up to whole puzzles; at most those of all parts.
            varied: Share of the parts that are changed by `vary`.
            exchanged: Share of the wrong boards that have two pieces exchanged; 0 for those that happen to have.
        """
        rng, layout = self._rng, self._layout
        places = layout.rows * layout.cols
        parts = self._draw_parts(-(-count // BOARDS_OF_A_PART))
        if varied:
            parts = vary(parts, rng, varied)
        cells = parts.reshape(len(parts), layout.rows, layout.piece_height, layout.cols, layout.piece_width, 3)
        cells = cells.swapaxes(2, 3).reshape(len(parts), places, layout.piece_height, layout.piece_width, 3)
        arranged = arrange(rng, count, places, exchanged)
        shown = np.arange(count) // BOARDS_OF_A_PART
        images = np.full((count, layout.height, layout.width, 3), WHITE, np.uint8)
        for place, (rows, cols) in enumerate(layout.cells):
            images[:, rows, cols] = cells[shown, arranged[:, place]]
        whole = min(-(-pieces // places), len(parts))
        home = rng.random((whole, places)).argsort(1)
        return Boards(
            images,
            arranged,
            tuple(self._draw_views(images[:seams], arranged[:seams])) if seams else (),
            cells[np.arange(whole)[:, None], home],
            home,
        )

    def _draw_parts(self, count: int) -> Pictures:
        """Cut parts out of photographs, half of them mirrored: (count, height, width, 3), without gaps."""
        rng, layout = self._rng, self._layout
        high, wide = layout.rows * layout.piece_height, layout.cols * layout.piece_width
        parts = np.empty((count, high, wide, 3), np.uint8)
        for part in parts:
            photo = self._photos[int(rng.integers(len(self._photos)))]
            size = (int(photo.shape[0]), int(photo.shape[1]))
            top, left, rows, cols = choose_window(rng, size, wide / high, self._scale)
            cut = resize(photo[top : top + rows, left : left + cols], high, wide)
            part[:] = cut[:, ::-1] if rng.random() < _MIRRORED else cut
        return parts

    def _draw_views(self, images: Pictures, arranged: NDArray[np.int64]) -> list[SeamViews]:
        """Cut views around joints out of boards: each group of boards shows another joint, in another size."""
        rng, layout = self._rng, self._layout
        right = sound(arranged, layout.rows, layout.cols)
        views: list[SeamViews] = []
        for group in np.array_split(np.arange(len(images)), min(_VIEWS, len(images))):
            joint = int(rng.integers(len(self._joints[0])))
            pair: list[int] = self._joints[:, joint].tolist()
            one, other = layout.cells[pair[0]], layout.cells[pair[1]]
            box = [_around(one[axis], other[axis], rng) for axis in (0, 1)]
            views.append(SeamViews(images[group][:, box[0], box[1]], right[group, joint]))
        return views


_VIEWS = 4
"""Joints, and sizes of views, of one draw."""
_MIRRORED = 0.5


def _around(first: slice, second: slice, rng: np.random.Generator) -> slice:
    """Draw a part of a side of two pieces: across their joint, or along it where they share that side."""
    start, end = int(first.start), int(second.stop)
    length = int(first.stop) - start
    if first == second:
        size = int(rng.integers(length // 2, length + 1))
        start += int(rng.integers(length - size + 1))
        return slice(start, start + size)
    reach = int(rng.integers(length // 4, length + 1))
    return slice(int(first.stop) - reach, end - length + reach)


def random_state(rng: np.random.Generator) -> str:
    """Return the state of a generator as JSON."""
    return json.dumps(rng.bit_generator.state)


def set_random_state(rng: np.random.Generator, state: str) -> None:
    """Set the state of a generator, as `random_state` gives it."""
    rng.bit_generator.state = json.loads(state)


SIDE = 256
"""Height and width of a scene, in pixels."""
_FINER = 2
"""Scenes are drawn so many times as large, and shrunk."""
_SHAPES = (20, 300)
_SIZES, _POWER = (4.0, 90.0), 1.5
"""Radii of shapes, and the exponent of their frequencies: there are many small ones and few large ones."""
_SCENES = 3
"""Sets the draws of scenes apart from others of the same seed."""
_ORDERS = [list(order) for order in permutations(range(3))]
_LEAST_PART = 0.5
_FAINTEST = 0.3
"""Least weight of a part itself in a blend."""


def draw_scene(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Make up a picture: shapes over shapes over a gradient, with soft light, texture and grain.

    Args:
        rng: Source of all draws.

    Returns:
        (256, 256, 3) uint8.
    """
    side = SIDE * _FINER
    base, tone = rng.uniform(20, 235, 3), rng.uniform(10, 70)
    rows, cols = np.mgrid[0:side, 0:side] / side - 0.5
    angle = rng.uniform(0, 2 * math.pi)
    slope = (math.cos(angle) * cols + math.sin(angle) * rows)[..., None]
    canvas = (base + slope * rng.uniform(-150, 150, 3)).astype(np.float32)
    for _ in range(int(rng.integers(*_SHAPES))):
        colour = np.clip(base + rng.normal(0, tone, 3) + rng.normal(0, 40), 0, 255).tolist()
        _draw_shape(canvas, colour, rng)
    for _ in range(int(rng.integers(1, 4))):
        cells = int(2 ** rng.uniform(1, 6))
        channels = 1 if rng.random() < 0.6 else 3
        light = rng.normal(0, rng.uniform(2, 22), (cells, cells, channels)).astype(np.float32)
        canvas += cv2.resize(light, (side, side), interpolation=cv2.INTER_CUBIC).reshape(side, side, channels)
    softness = rng.uniform(0, 1.2)
    if softness > 0.2:
        canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), softness), np.float32)
    clipped = np.clip(canvas, 0, 255)
    small = np.asarray(cv2.resize(clipped, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.float32)
    return _as_pixels(small + rng.normal(0, rng.uniform(0, 4), small.shape))


def with_scenes(photos: Sequence[Pictures], count: int, seed: int) -> list[Pictures]:
    """Put as many made-up scenes beside photographs, and parts of these, until there are as many of them as scenes.

    Args:
        photos: Photographs, at least one.
        count: Number of scenes.
        seed: Seed of all draws.

    Returns:
        Photographs, their parts, scenes.
    """
    rng = np.random.default_rng([seed, _SCENES])
    parts = [_draw_part(photos[number % len(photos)], rng) for number in range(count - len(photos))]
    return [*photos, *parts, *(draw_scene(rng) for _ in range(count))]


def _draw_part(photo: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Cut a part of the photograph's shape out of it, at least half as high and wide."""
    share = rng.uniform(_LEAST_PART, 1)
    high, wide = int(photo.shape[0]), int(photo.shape[1])
    height, width = max(1, round(high * share)), max(1, round(wide * share))
    top, left = int(rng.integers(high - height + 1)), int(rng.integers(wide - width + 1))
    return np.ascontiguousarray(photo[top : top + height, left : left + width])


def _draw_shape(canvas: NDArray[np.float32], colour: list[float], rng: np.random.Generator) -> None:
    """Draw an ellipse, a polygon or a line, anywhere."""
    side = len(canvas)
    least, most = _SIZES
    shrink = 1 - (least / most) ** _POWER
    radius = least / (1 - rng.random() * shrink) ** (1 / _POWER)
    middle: list[int] = rng.integers(-10, side + 10, 2).tolist()
    kind = int(rng.integers(3))
    if kind == 0:
        axes = (int(radius) + 1, int(radius * rng.uniform(0.2, 1)) + 1)
        cv2.ellipse(canvas, middle, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    elif kind == 1:
        angles = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(3, 7))))
        reach = 2 * radius * rng.uniform(0.5, 1.2, len(angles))
        corners = np.stack([np.cos(angles) * reach, np.sin(angles) * reach], -1) + middle
        cv2.fillPoly(canvas, [corners.astype(np.int32)], colour, cv2.LINE_AA)
    else:
        end: list[int] = rng.integers(-10, side + 10, 2).tolist()
        cv2.line(canvas, middle, end, colour, int(rng.integers(1, 2 + int(radius / 3))), cv2.LINE_AA)


def vary(parts: Pictures, rng: np.random.Generator, share: float) -> Pictures:
    """Blend some parts of photographs with the one before them, and change the colours of some.

    A blend of two pictures that are laid over each other continues where both do. Colours change channel by channel:
    channels trade places, and each gets another gamma.

    Args:
        parts: (N, h, w, 3) uint8.
        rng: Source of all draws.
        share: Share of the parts that are blended, and, drawn apart, of those that are recoloured; from 0 to 1.

    Returns:
        Others of the same shape.
    """
    chosen = np.flatnonzero(rng.random(len(parts)) < share)
    weights = rng.uniform(_FAINTEST, 1, len(chosen)).astype(np.float32)[:, None, None, None]
    varied = parts.copy()
    varied[chosen] = _as_pixels(weights * parts[chosen] + (1 - weights) * parts[chosen - 1])
    levels: NDArray[np.float64] = np.linspace(0, 1, 256)[:, None]
    for shown in varied:
        if rng.random() < share:
            gammas = np.exp(rng.uniform(-0.25, 0.25, 3) + rng.uniform(-0.4, 0.4))
            table = _as_pixels(255 * levels**gammas)
            order = _ORDERS[int(rng.integers(len(_ORDERS)))]
            shown[:] = np.stack([table[shown[..., source], place] for place, source in enumerate(order)], -1)
    return varied


def _as_pixels(values: ArrayLike) -> Pictures:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
