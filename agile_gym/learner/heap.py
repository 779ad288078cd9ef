"""Free memory handed back to the system, as the allocator of glibc keeps most of what a process once needed."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

__all__ = ["hand_back"]


def hand_back() -> None:
    """Hand free memory back, after groups were played or trained on.

    Otherwise the resident memory of a process creeps up over many iterations, as blocks of other sizes do not fit into
    the gaps of what is kept. Nothing happens where the C library has no ``malloc_trim``, such as on macOS.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:  # noqa: ANN401 -- a foreign function
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
