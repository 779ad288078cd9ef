"""Batches the infos of single environments in Gymnasium's vector format, all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

__all__ = ["batch_infos"]

_SCALARS = frozenset((int, float, bool))


def batch_infos(infos: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Batch infos as `gymnasium.vector.VectorEnv` does one by one, which costs more than a turn.

    Args:
        infos: One an environment; None where there is none.

    Returns:
        For each key a (num_envs,) array of its values, of a numeric or bool type where the first value that is not None
        has one, else of objects; dictionaries are batched likewise, except under ``final_obs``. Under ``_key`` a
        (num_envs,) bool array tells which environments have it.
    """
    batched: dict[str, Any] = {}
    first = infos[0]
    if first is not None and all(info is not None and info.keys() == first.keys() for info in infos):
        given = cast(Sequence[Mapping[str, Any]], infos)
        everywhere = np.ones(len(infos), np.bool_)
        for key in first:
            batched[key] = _batch(key, [info[key] for info in given])
            batched[f"_{key}"] = everywhere  # one array for all keys, as each costs as much as the values
        return batched
    for key in dict.fromkeys(key for info in infos if info is not None for key in info):
        present = np.array([info is not None and key in info for info in infos])
        values = [info[key] if info is not None and key in info else None for info in infos]
        batched[key] = _batch(key, values)
        batched[f"_{key}"] = present
    return batched


def _batch(key: str, values: list[Any]) -> Any:  # noqa: ANN401 -- an array, or a dictionary
    """Batch the values of one key; None stands where an environment has none."""
    first = values[0]
    if first is None:
        first = next((value for value in values if value is not None), None)
    kind = cast(type[Any], type(first))
    if kind in _SCALARS:
        return np.array([kind() if value is None else value for value in values] if None in values else values, kind)
    if kind is dict and key != "final_obs":
        return batch_infos(values)
    column = np.empty(len(values), object)  # filled one by one: numpy would unpack tuples
    for index, value in enumerate(values):
        column[index] = value
    return column
