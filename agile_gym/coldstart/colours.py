"""Names the colour of a strip of pixels, where most of it has one."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["COLOURS", "differ_clearly", "name_colour"]

COLOURS = ("black", "white", "grey", "red", "orange", "brown", "yellow", "green", "blue", "purple", "pink")
_ALIKE = {
    "grey": ("white", "black", "blue", "brown", "purple"),
    "brown": ("black", "orange", "red", "yellow"),
    "orange": ("red", "yellow"),
    "yellow": ("green", "white"),
    "pink": ("red", "purple", "white"),
    "purple": ("blue",),
}
MOST = 0.7
"""Share of the pixels that must have the colour."""

_HUES = ((8, "red"), (22, "orange"), (34, "yellow"), (84, "green"), (130, "blue"), (150, "purple"), (170, "pink"))
"""Upper ends of hues, in steps of 2 degrees; what is left is red again."""


def name_colour(strip: NDArray[np.uint8]) -> str | None:
    """Name the colour that most pixels have.

    Args:
        strip: (h, w, 3) uint8, RGB.

    Returns:
        One of `COLOURS`, or None if less than 70% of the pixels have one and the same.
    """
    hue, saturation, value = np.moveaxis(cv2.cvtColor(np.ascontiguousarray(strip), cv2.COLOR_RGB2HSV), -1, 0)
    ends = np.array([end for end, _ in _HUES])
    names = np.array([COLOURS.index(name) for _, name in _HUES] + [COLOURS.index("red")])
    found = names[np.searchsorted(ends, hue, side="right")]
    dull = (value < 160) & np.isin(found, [COLOURS.index("orange"), COLOURS.index("red"), COLOURS.index("yellow")])
    found[dull & (hue >= 5) & (hue < 30)] = COLOURS.index("brown")
    found[saturation < 45] = COLOURS.index("grey")
    found[(saturation < 45) & (value >= 200)] = COLOURS.index("white")
    found[value < 45] = COLOURS.index("black")
    counts = np.bincount(found.ravel(), minlength=len(COLOURS))
    best = int(counts.argmax())
    return COLOURS[best] if counts[best] >= MOST * found.size else None


def differ_clearly(first: str, second: str) -> bool:
    """Tell whether two colours are not only two names for nearly the same."""
    return first != second and second not in _ALIKE.get(first, ()) and first not in _ALIKE.get(second, ())
