"""Checks of what callers give, shared by everything that takes options."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from agile_gym.errors import ConfigurationError

__all__ = ["check_seed", "is_number", "is_whole", "plain"]


def plain(value: Any) -> Any:  # noqa: ANN401 -- any value
    """Turn numpy's scalars and vectors into Python's numbers and lists; leave everything else as it is."""
    given = value
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and given.ndim <= 1):
        return given.tolist()
    return given


def is_number(value: object, low: float, high: float) -> bool:
    """Tell whether a value is a number from ``low`` to ``high``; a bool or a NaN is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def is_whole(value: object, high: int) -> bool:
    """Tell whether a value is a whole number from 1 to ``high``; a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= high


def check_seed(seed: Any) -> int | None:  # noqa: ANN401 -- any value
    """Return a seed as an int, or None.

    Raises:
        ConfigurationError: If it is neither None nor a whole number of at least 0.
    """
    if seed is None:
        return None
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if number < 0 or isinstance(seed, bool):
        raise ConfigurationError(f"seed={seed!r:.80} is not a seed; give a whole number of at least 0, or None.")
    return number
