"""Free puzzles for the tiny model's training, from photographs and, where these are few, from made-up scenes.

A model that sees four photographs learns them by heart. What it should learn, how borders continue, is also in pictures
that nobody took: shapes that hide each other, over soft light, with grain.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from agile_gym.actions.dialects import write_answer
from agile_gym.actions.primitives import Answer
from agile_gym.envs.jigsaw.config import JigsawConfig, resolve
from agile_gym.envs.jigsaw.env import JigsawVisionEnv
from agile_gym.envs.jigsaw.start import check_reset_options, draw_start
from agile_gym.errors import ConfigurationError
from agile_gym.images.opening import open_images
from agile_gym.images.sources import ImageSource
from agile_gym.models.tiny.build import PIECE
from agile_gym.models.tiny.words import IMAGE
from agile_gym.puzzle.board import parse_grid, piece_names
from agile_gym.puzzle.pixels import compose_into, resize

__all__ = [
    "Lesson",
    "PuzzleBatch",
    "PuzzleDrawer",
    "draw_scene",
    "puzzle_config",
    "random_state",
    "set_random_state",
    "training_images",
    "vary",
    "with_scenes",
]

SHORT_SIDE = 256
"""Photographs are shrunk to this before windows are cut from them, in pixels: much faster, and it hardly shows."""
_SCRAMBLED, _EXCHANGED = 0.5, 0.75
MAX_PIECES = 26
"""Names beyond Z are more than one token, so that answers would differ in length."""


@dataclass(frozen=True)
class PuzzleBatch:
    """Some puzzles of one grid.

    Attributes:
        pieces: (N, P, 32, 32, 3) uint8, the pieces in the order of their names.
        home: (N, P) int64, the place where each piece belongs.
    """

    pieces: NDArray[np.uint8]
    home: NDArray[np.int64]

    @property
    def solution(self) -> NDArray[np.int64]:
        """(N, P) int64, the piece that belongs at each place."""
        return np.argsort(self.home, axis=1)

    def first(self, count: int) -> PuzzleBatch:
        """Return the first puzzles of the batch."""
        return PuzzleBatch(self.pieces[:count], self.home[:count])


def training_images(images: ImageSource) -> ImageSource:
    """Return photographs as the training cuts its puzzles from them: small, and each also mirrored.

    Args:
        images: The photographs. They stay in memory, shrunk to 256 pixels on the short side.

    Returns:
        Twice as many images.
    """
    small: list[NDArray[np.uint8]] = []
    for index in range(len(images)):
        photo = images.load(index)
        scale = SHORT_SIDE / min(photo.shape[:2])
        if scale < 1:
            photo = resize(photo, round(photo.shape[0] * scale), round(photo.shape[1] * scale))
        small += [photo, np.ascontiguousarray(photo[:, ::-1])]
    return open_images(small)


def puzzle_config(grid: tuple[int, int]) -> JigsawConfig:
    """Return the options of the environment for the tiny model: pieces of 32 x 32 pixels and the short prompt.

    Raises:
        ConfigurationError: If the grid is none, or has more than 26 pieces.
    """
    rows, cols = parse_grid(grid)
    if rows * cols > MAX_PIECES:
        raise ConfigurationError(f"grid={grid!r} has more than {MAX_PIECES} pieces, and the tiny model names no more.")
    return JigsawConfig(grid=grid, level=None, image_size=(rows * PIECE, cols * PIECE), crop="random", prompt="short")


class PuzzleDrawer:
    """Draws puzzles as `JigsawVisionEnv` does: any unsolved permutation, of a random part of a random photograph."""

    def __init__(self, images: ImageSource, grid: tuple[int, int], seed: int | Sequence[int]) -> None:
        """Prepare.

        Args:
            images: The photographs to cut puzzles from.
            grid: Rows and columns, at most 26 pieces.
            seed: Seed of all draws.

        Raises:
            ConfigurationError: If there are more than 26 pieces.
        """
        self._rules = resolve(puzzle_config(grid))
        self._images = images
        self._options = check_reset_options(self._rules, images, None)
        self._rng = np.random.default_rng(seed)

    def get_state(self) -> str:
        """Return where the draws are."""
        return random_state(self._rng)

    def set_state(self, state: str) -> None:
        """Go on with the draws from where others were."""
        set_random_state(self._rng, state)

    def draw(self, count: int) -> PuzzleBatch:
        """Draw some puzzles."""
        starts = [draw_start(self._rules, self._images, self._rng, self._options) for _ in range(count)]
        home = np.array([start.puzzle.home for start in starts], np.int64)
        return PuzzleBatch(np.stack([start.pieces for start in starts]), home)

    def boards(self, batch: PuzzleBatch) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Lay the pieces of each puzzle out as a board, as an observation shows it and the model sees it.

        Half of the boards are in any order; of the others, a half is right, and a half has two pieces exchanged.

        Args:
            batch: The puzzles.

        Returns:
            (N, 32, 32, 3) uint8, and (N, P) int64: for each place of the board the place where its piece belongs.
        """
        layout = self._rules.layout_for((PIECE, PIECE))
        count, pieces = batch.home.shape
        arranged = np.tile(np.arange(pieces, dtype=np.int64), (count, 1))
        images = np.empty((count, PIECE, PIECE, 3), np.uint8)
        board = np.empty((layout.height, layout.width, 3), np.uint8)
        for row, shown, solution, image in zip(arranged, batch.pieces, batch.solution, images, strict=True):
            kind = self._rng.random()
            if kind < _SCRAMBLED:
                self._rng.shuffle(row)
            elif kind < _EXCHANGED:
                places = self._rng.permutation(pieces)[:2]
                row[places] = row[places[::-1]]
            compose_into(board, shown, layout, solution[row].tolist())
            image[:] = np.asarray(Image.fromarray(board).resize((PIECE, PIECE), Image.Resampling.BICUBIC))
        return images, arranged


class Lesson:
    """The conversation of a puzzle that is answered at once: the ids are those of processor and chat template.

    Attributes:
        names: Names of the pieces.
        prompt: (T,) int64, the ids up to where the model begins to write.
        images: (P,) int64, where in it the images are.
        words: (V,) int64, the ids that a thought can be made of: all but special ones.
        thought: Where in an answer's ids a thought would begin.
    """

    def __init__(self, processor: Any, grid: tuple[int, int], turns: int) -> None:  # noqa: ANN401 -- untyped
        """Prepare the conversation.

        Args:
            processor: The tiny model's processor.
            grid: Rows and columns.
            turns: Turns that the first text speaks of.
        """
        config = puzzle_config(grid)
        blank = np.full((grid[0] * PIECE, grid[1] * PIECE, 3), 127, np.uint8)
        plain = replace(config, images=[blank], equal_pieces="names", max_turns=turns)
        observation, _ = JigsawVisionEnv(**vars(plain)).reset(seed=0)
        content: list[dict[str, str]] = []
        for text in observation["text"].split(IMAGE):
            content += [{"type": "text", "text": text}, {"type": "image"}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content[:-1]}], add_generation_prompt=True, tokenize=False
        )
        self._tokenizer = processor.tokenizer
        self.names = piece_names(grid[0] * grid[1])
        self.prompt = np.array(self._tokenizer.encode(text, add_special_tokens=False), np.int64)
        self.images = np.flatnonzero(self.prompt == processor.image_token_id)
        special = {*self._tokenizer.all_special_ids, processor.image_token_id}
        self.words = np.array([word for word in range(len(self._tokenizer)) if word not in special], np.int64)
        opening: list[int] = self._tokenizer.encode("<think>", add_special_tokens=False)
        self.thought = len(opening)

    def answers(self, solutions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids (N, A) of the turns that give some solutions (N, P), the token that ends the turn included.

        Their thoughts are empty.
        """
        orders: list[list[int]] = solutions.tolist()
        texts = [write_answer(Answer(tuple([self.names[piece] for piece in order]))) for order in orders]
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return np.array([[*row, self._tokenizer.eos_token_id] for row in ids], np.int64)


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
"""Least weight of the puzzle itself in a blend."""


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


def with_scenes(images: ImageSource, count: int, seed: int) -> ImageSource:
    """Put made-up scenes beside photographs, and parts of these, until there are as many of them as scenes.

    Args:
        images: Photographs, at least one.
        count: Number of scenes.
        seed: Seed of all draws.

    Returns:
        All of them, in memory: photographs, their parts, scenes. What is twice the same is there once.
    """
    rng = np.random.default_rng([seed, _SCENES])
    photos = [images.load(index) for index in range(len(images))]
    parts = [_draw_part(photos[number % len(photos)], rng) for number in range(count - len(photos))]
    return open_images(photos + parts + [draw_scene(rng) for _ in range(count)])


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


def vary(batch: PuzzleBatch, rng: np.random.Generator, share: float) -> PuzzleBatch:
    """Blend some of the puzzles with the one before them in the batch, and change the colours of some.

    A blend of two pictures that are laid over each other continues where both do. Colours change channel by channel,
    alike in all pieces of a puzzle: channels trade places, and each gets another gamma.

    Args:
        batch: The puzzles.
        rng: Source of all draws.
        share: Share of the puzzles that are blended, and, drawn apart, of those that are recoloured; from 0 to 1.

    Returns:
        Puzzles with the same solutions.
    """
    count = len(batch.home)
    rows = np.arange(count)[:, None]
    solved = batch.pieces[rows, batch.solution]
    chosen = np.flatnonzero(rng.random(count) < share)
    weights = rng.uniform(_FAINTEST, 1, len(chosen)).astype(np.float32)[:, None, None, None, None]
    below = solved[chosen - 1]
    solved[chosen] = _as_pixels(weights * solved[chosen] + (1 - weights) * below)
    pieces = solved[rows, batch.home]
    levels: NDArray[np.float64] = np.linspace(0, 1, 256)[:, None]
    for shown in pieces:
        if rng.random() < share:
            gammas = np.exp(rng.uniform(-0.25, 0.25, 3) + rng.uniform(-0.4, 0.4))
            table = _as_pixels(255 * levels**gammas)
            order = _ORDERS[int(rng.integers(len(_ORDERS)))]
            shown[:] = np.stack([table[shown[..., source], place] for place, source in enumerate(order)], -1)
    return PuzzleBatch(pieces, batch.home)


def _as_pixels(values: ArrayLike) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
