"""Reads fields of JSON values that come from outside, and says what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

__all__ = ["RecordProblem", "get_field", "get_items", "get_mapping"]


class RecordProblem(ValueError):  # noqa: N818 -- always turned into a TranscriptError that names the file
    """What is wrong with a record, as the end of a sentence that begins with where it is."""


def get_field(record: Mapping[str, Any], key: str, *kinds: type) -> Any:  # noqa: ANN401 -- one of the kinds
    """Return a field that must be of one of some types; a bool is no number.

    Raises:
        RecordProblem: If it is missing, or of another type.
    """
    if key not in record:
        raise RecordProblem(f"has no {key!r}")
    value = record[key]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise RecordProblem(f"has {value!r:.60} as {key!r}, which must be of type {names}")
    return value


def get_items(record: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    """Return a field that must be a list of one type.

    Raises:
        RecordProblem: If it is missing, no list, or has an entry of another type.
    """
    entries: list[Any] = get_field(record, key, list)
    for entry in entries:
        if not isinstance(entry, kind) or isinstance(entry, bool):
            raise RecordProblem(f"has {entry!r:.60} in {key!r}, where each must be of type {kind.__name__}")
    return entries


def get_mapping(value: object) -> Mapping[str, Any]:
    """Return a value that must be a dictionary.

    Raises:
        RecordProblem: If it is not.
    """
    if not isinstance(value, dict):
        raise RecordProblem(f"has {value!r:.60} where a dictionary must be")
    return cast("dict[str, Any]", value)
