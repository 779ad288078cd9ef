"""Differences between parts of pictures, by which ambiguous questions are left out, and parts of photographs."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import ImageError
from agile_gym.images.sources import ImageSource
from agile_gym.puzzle.pixels import choose_window, resize

__all__ = ["Photographs", "Pixels", "contrast", "difference", "least_difference"]

Pixels = NDArray[np.uint8]
"""(h, w, 3) uint8."""
COMPARED = 160
"""Side to which pictures are scaled down before parts are searched in them, in pixels, if the part keeps `FINEST`."""
FINEST = 12
_REDRAWS = 100
WINDOW = (0.6, 1.0)
"""Range of the side of the part of a photograph that becomes a picture, as a fraction of the largest."""


def difference(first: Pixels, second: Pixels) -> float:
    """Return the root mean square difference of two pictures of one size, in grey levels (0 to 255)."""
    return cv2.norm(first, second, cv2.NORM_L2) / math.sqrt(first.size)


def contrast(part: Pixels) -> float:
    """Return the standard deviation of a part's pixels about the mean of each channel, in grey levels."""
    return float(np.mean(cv2.meanStdDev(part)[1]))


def least_difference(picture: Pixels, part: Pixels, place: tuple[int, int] | None = None) -> float:
    """Return the least difference of a part from all parts of a picture, in grey levels.

    Args:
        picture: The picture, (H, W, 3) uint8.
        part: The part, (h, w, 3) uint8, not larger.
        place: Top and left of parts that do not count, with those nearer to them than half of the part's side.
    """
    side = min(part.shape[:2])
    scale = max(1, min(max(picture.shape[:2]) // COMPARED, side // FINEST))
    if scale > 1:
        picture = resize(picture, picture.shape[0] // scale, picture.shape[1] // scale)
        part = resize(part, part.shape[0] // scale, part.shape[1] // scale)
    squares = cv2.matchTemplate(picture, part, cv2.TM_SQDIFF)
    if place is not None:
        top, left, near = place[0] // scale, place[1] // scale, max(1, side // scale // 2)
        squares[max(0, top - near) : top + near + 1, max(0, left - near) : left + near + 1] = np.inf
    return math.sqrt(max(0.0, float(squares.min())) / part.size)


class Photographs:
    """Square pictures cut from the photographs of a source.

    Attributes:
        side: Side of the pictures, in pixels.
    """

    def __init__(self, source: ImageSource, side: int) -> None:
        """Keep a source of photographs, and the side of the pictures in pixels."""
        self.source, self.side = source, side

    def __len__(self) -> int:
        """Return the number of photographs."""
        return len(self.source)

    def draw(self, rng: np.random.Generator) -> tuple[Pixels, str]:
        """Draw a photograph, and return its pixels, read-only, and its content hash.

        Raises:
            ImageError: If none of many can be read.
        """
        problem: ImageError | None = None
        for _ in range(_REDRAWS):
            index = int(rng.integers(len(self.source)))
            try:
                return self.source.load(index), self.source.content_hash(index)
            except ImageError as error:
                problem = error
        raise ImageError(f"None of {_REDRAWS} images drawn could be read. The last: {problem}")

    def picture(self, rng: np.random.Generator) -> tuple[Pixels, str]:
        """Draw a picture, (side, side, 3) uint8, and return it with the content hash of its photograph."""
        pixels, image_id = self.draw(rng)
        top, left, rows, cols = choose_window(rng, (pixels.shape[0], pixels.shape[1]), 1.0, WINDOW)
        return resize(pixels[top : top + rows, left : left + cols], self.side, self.side), image_id
