"""Canvases that are used again once nobody else holds them: fresh memory costs more than drawing into it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CanvasPool"]

_KEPT = 2
"""Canvases kept: while one is drawn, the caller usually still holds the one before."""


class CanvasPool:
    """Hands out uint8 arrays of one shape.

    An array that was handed out is handed out again only when nothing outside the pool refers to it or to a view of it;
    so whoever keeps an observation keeps it unchanged. Copies and pickles of a pool begin empty.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Make an empty pool.

        Args:
            shape: Shape of every array.
        """
        self._shape = shape
        self._kept: list[NDArray[np.uint8]] = []

    def take(self) -> NDArray[np.uint8]:
        """Return an array with arbitrary contents that nobody else holds."""
        for index in range(len(self._kept)):
            if self._references(index) == _UNSHARED:
                return self._kept[index]
        canvas = np.empty(self._shape, np.uint8)
        self._kept = [*self._kept[-(_KEPT - 1) :], canvas]
        return canvas

    def _references(self, index: int) -> int:
        return sys.getrefcount(self._kept[index])

    def _probe(self) -> int:
        """Return what `_references` returns for an array that only the pool holds, on this version of Python."""
        self._kept = [np.empty(1, np.uint8)]
        return self._references(0)

    def __deepcopy__(self, memo: dict[int, Any]) -> CanvasPool:
        """Return an empty pool."""
        return CanvasPool(self._shape)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the shape only."""
        return CanvasPool, (self._shape,)


_UNSHARED = CanvasPool((1,))._probe()  # pyright: ignore[reportPrivateUsage] -- its own class
