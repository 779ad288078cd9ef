"""Reads fields of JSON values that come from outside, and says what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

__all__ = ["MAX_NESTING", "RecordProblem", "get_field", "get_items", "get_mapping", "get_nested", "is_nested_deeper"]

MAX_NUMBER = 2**63 - 1
"""Largest whole number of a field."""
MAX_NESTING = 100
"""Levels of lists and dictionaries in a field that may hold anything, so that every reader can walk through it."""


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
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise RecordProblem(f"has {value!r:.60} as {key!r}, which is too large a number")
    return value


def get_nested(record: Mapping[str, Any], key: str, kind: type) -> Any:  # noqa: ANN401 -- of that kind
    """Return a field that may hold anything, but not in more than `MAX_NESTING` levels.

    Raises:
        RecordProblem: If it is missing, of another type, or nested deeper.
    """
    value = get_field(record, key, kind)
    if is_nested_deeper(value, MAX_NESTING):
        raise RecordProblem(f"has {key!r} nested in more than {MAX_NESTING} levels")
    return value


def is_nested_deeper(value: object, levels: int) -> bool:
    """Tell whether lists and dictionaries are nested in more than so many levels."""
    entries: list[object] = [value]
    for _ in range(levels + 1):
        inner: list[object] = []
        for entry in entries:
            if isinstance(entry, Mapping):
                inner += cast("Mapping[object, object]", entry).values()
            elif isinstance(entry, list | tuple):
                inner += cast("Sequence[object]", entry)
        if not inner:
            return False
        entries = inner
    return True


def get_items(record: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    """Return a field that must be a list of one type.

    Raises:
        RecordProblem: If it is missing, no list, or has an entry of another type.
    """
    entries: list[Any] = get_field(record, key, list)
    for entry in entries:
        if not isinstance(entry, kind) or isinstance(entry, bool):
            raise RecordProblem(f"has {entry!r:.60} in {key!r}, where each must be of type {kind.__name__}")
        if isinstance(entry, int) and abs(entry) > MAX_NUMBER:
            raise RecordProblem(f"has {entry!r:.60} in {key!r}, which is too large a number")
    return entries


def get_mapping(value: object) -> Mapping[str, Any]:
    """Return a value that must be a dictionary.

    Raises:
        RecordProblem: If it is not.
    """
    if not isinstance(value, dict):
        raise RecordProblem(f"has {value!r:.60} where a dictionary must be")
    return cast("dict[str, Any]", value)
