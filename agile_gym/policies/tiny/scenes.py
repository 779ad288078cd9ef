"""Variety for the training of the eyes where there are few photographs: made-up scenes, blends, other colours.

A model that sees four photographs learns them by heart. What it should learn, how borders continue, is also in pictures
that nobody took: shapes that hide each other, over soft light, with grain.
"""

from __future__ import annotations

import math
from itertools import permutations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from agile_gym.images import ImageSource, open_images
from agile_gym.policies.tiny.puzzles import PuzzleBatch

__all__ = ["draw_scene", "vary", "with_scenes"]

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
