"""The tokens of transcripts as JSON values: each array as base64 of its little-endian bytes."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import ConfigurationError
from agile_gym.rollout.fields import RecordProblem, get_field, get_items, get_mapping
from agile_gym.rollout.transcript import Segment

__all__ = ["SEGMENT_TYPES", "get_segments", "put_segments"]

SEGMENT_TYPES: dict[str, str] = {"ids": "<i4", "mask": "|b1", "logps": "<f4", "turns": "<i2", "advantages": "<f4"}
"""The arrays of a segment, and their types on disk."""


def put_segments(segments: tuple[Segment, ...]) -> list[dict[str, Any]]:
    """Turn the segments of a transcript into JSON values.

    Raises:
        ConfigurationError: If an array holds values that its type cannot.
    """
    return [
        {
            **{name: _put_array(name, getattr(segment, name), kind) for name, kind in SEGMENT_TYPES.items()},
            "images": [int(index) for index in segment.images],
        }
        for segment in segments
    ]


def get_segments(entries: list[Any]) -> tuple[Segment, ...]:
    """Turn what `put_segments` returned into segments.

    Raises:
        RecordProblem: If an array is missing, cannot be read, or has another length than the others.
    """
    segments: list[Segment] = []
    for entry in map(get_mapping, entries):
        arrays: dict[str, Any] = {name: _get_array(entry, name, kind) for name, kind in SEGMENT_TYPES.items()}
        if any(array is None for name, array in arrays.items() if name != "advantages"):
            raise RecordProblem("has a segment without ids, mask, logps or turns")
        images = _indices(entry)
        try:
            segments.append(Segment(images=images, **arrays))
        except ValueError as error:
            raise RecordProblem(f"has a damaged segment: {error}") from error
    return tuple(segments)


def _put_array(name: str, array: NDArray[Any] | None, kind: str) -> str | None:
    if array is None:
        return None
    with np.errstate(all="ignore"):
        stored = np.ascontiguousarray(array, dtype=kind)
    if stored.dtype != array.dtype and not np.array_equal(stored, array, equal_nan=stored.dtype.kind == "f"):
        raise ConfigurationError(
            f"The {name} of a segment are {array.dtype} and hold values that {stored.dtype} cannot; make them "
            f"{stored.dtype}, as Segment says."
        )
    return base64.b64encode(stored.tobytes()).decode("ascii")


def _get_array(entry: Mapping[str, Any], name: str, kind: str) -> NDArray[Any] | None:
    text = get_field(entry, name, str, type(None))
    if text is None:
        return None
    dtype = np.dtype(kind)
    try:
        data = base64.b64decode(text, validate=True)
        array = np.frombuffer(data, np.uint8 if dtype.kind == "b" else dtype)
    except ValueError as error:
        raise RecordProblem(f"has a segment whose {name} cannot be read ({error})") from error
    if dtype.kind == "b" and array.size and array.max() > 1:
        raise RecordProblem(f"has a segment whose {name} are neither 0 nor 1")
    return array.astype(dtype.newbyteorder("="))


def _indices(entry: Mapping[str, Any]) -> tuple[int, ...]:
    indices = tuple(get_items(entry, "images", int))
    if any(index < 0 for index in indices):
        raise RecordProblem(f"has {min(indices)} as the index of an image")
    return indices
