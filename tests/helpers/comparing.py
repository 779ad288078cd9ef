"""Exact comparison of observations and infos."""

import numpy as np


def same(first, second):
    """Compare dictionaries, sequences and arrays, also of objects, to the last bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, np.ndarray):
        if first.dtype == object:
            return second.dtype == object and all(map(same, first.tolist(), second.tolist()))
        return first.dtype == second.dtype and np.array_equal(first, second)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second
