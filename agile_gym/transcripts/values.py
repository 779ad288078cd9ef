"""Transcripts as plain JSON values, checked when read: images as references, tokens as base64.

A record is a dictionary with the keys ``format`` (1), ``id``, ``policy``, ``task``, ``system``, ``prompt``,
``prompt_images``, ``turns``, ``solution``, ``solved``, ``score``, ``reward``, ``truncated``, ``details`` and
``segments``, as in `agile_gym.transcripts.record`. An image is the hash of its pixels, 64
hexadecimal digits. An array is base64 of its little-endian bytes. Numbers that are not finite are written as Python's
``json`` writes them: ``NaN``, ``Infinity``.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from agile_gym.envs.contract import REWARD_PARTS, RewardParts
from agile_gym.errors import ConfigurationError
from agile_gym.transcripts.record import Image, Segment, Transcript, Turn, TurnUsage

__all__ = [
    "FORMAT",
    "MAX_NESTING",
    "SEGMENT_TYPES",
    "RecordProblem",
    "dump_record",
    "from_record",
    "get_field",
    "get_items",
    "get_mapping",
    "get_nested",
    "get_segments",
    "image_refs",
    "is_nested_deeper",
    "parse_record",
    "put_segments",
    "to_record",
]

MAX_NUMBER = 2**63 - 1
"""Largest whole number of a field."""
MAX_NESTING = 100
"""Levels of lists and dictionaries in a field that may hold anything, so that every reader can walk through it."""


class RecordProblem(ValueError):  # noqa: N818 -- always turned into a TranscriptError that names the file
    """Problem of a record, as the end of a sentence that begins with its place."""


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
    """Return whether lists and dictionaries are nested in more than so many levels."""
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


SEGMENT_TYPES: dict[str, str] = {"ids": "<i4", "loss_mask": "|b1", "logps": "<f4", "turns": "<i2", "advantages": "<f4"}
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
    """Turn the result of `put_segments` into segments.

    Raises:
        RecordProblem: If an array is missing, cannot be read, or has another length than the others.
    """
    segments: list[Segment] = []
    for entry in map(get_mapping, entries):
        arrays: dict[str, Any] = {name: _get_array(entry, name, kind) for name, kind in SEGMENT_TYPES.items()}
        if any(array is None for name, array in arrays.items() if name != "advantages"):
            raise RecordProblem("has a segment without ids, loss_mask, logps or turns")
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
            f"{stored.dtype}, as in Segment."
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


FORMAT = 1
"""Version of the records that are written; older ones, once there are any, can still be read."""
MAX_LINE = 64 * 1024 * 1024
"""Largest size of a record as JSON, in bytes: some million tokens."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,200}")


def to_record(transcript: Transcript, store: Callable[[Image], str]) -> dict[str, Any]:
    """Turn a transcript into a record.

    Args:
        transcript: The episode.
        store: Function that stores an image and returns its reference.

    Returns:
        The record; it shares the mappings of the transcript.

    Raises:
        ConfigurationError: If the id is not allowed, or an array of a segment does not fit its type.
    """
    if not _ID.fullmatch(transcript.id):
        raise ConfigurationError(
            f"{transcript.id!r:.220} cannot be the id of a transcript: use letters, digits, '-', '_' and '.', at most "
            "200 of them."
        )
    for name in ("task", "details", "solution"):
        if is_nested_deeper(getattr(transcript, name), MAX_NESTING):
            raise ConfigurationError(
                f"The transcript {transcript.id!r} cannot be stored: its {name} are nested in more than {MAX_NESTING} "
                "levels."
            )
    return {
        "format": FORMAT,
        "id": transcript.id,
        "policy": transcript.policy,
        "task": dict(transcript.task),
        "system": transcript.system,
        "prompt": transcript.prompt,
        "prompt_images": [store(image) for image in transcript.prompt_images],
        "turns": [
            {
                "text": turn.text,
                "feedback": turn.feedback,
                "images": [store(image) for image in turn.images],
                "primitives": list(turn.primitives),
                "error": turn.error,
                "state": list(turn.state),
                "reward": dict(turn.reward),
                "env_seconds": turn.env_seconds,
                "usage": asdict(turn.usage),
            }
            for turn in transcript.turns
        ],
        "solution": list(transcript.solution),
        "solved": transcript.solved,
        "score": transcript.score,
        "reward": dict(transcript.reward),
        "truncated": transcript.truncated,
        "details": dict(transcript.details),
        "segments": put_segments(transcript.segments),
    }


def dump_record(record: Mapping[str, Any]) -> bytes:
    """Write a record as a line of JSON, in ASCII, with its end.

    Raises:
        ConfigurationError: If it holds something that JSON cannot express, or more than `MAX_LINE` bytes.
    """
    try:
        line = json.dumps(record, separators=(",", ":"), default=_plain).encode("ascii") + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"The transcript {record['id']!r} cannot be stored: {error}. Its task and details must be JSON's types: "
            "dictionaries with texts as keys, lists, texts, numbers, True, False and None."
        ) from error
    if len(line) > MAX_LINE:
        raise ConfigurationError(
            f"The transcript {record['id']!r} cannot be stored: without its images it has {len(line):,} bytes, and "
            f"{MAX_LINE:,} can be read back."
        )
    return line


def parse_record(data: bytes | str) -> dict[str, Any]:
    """Read a record from JSON and check its version.

    Raises:
        RecordProblem: If it is not one that this version reads.
    """
    try:
        record: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordProblem(f"is not JSON ({error})") from error
    if not isinstance(record, dict) or "format" not in record or "id" not in record:
        raise RecordProblem("is not a transcript: it has no 'format' and 'id'")
    known = cast("dict[str, Any]", record)
    version = get_field(known, "format", int)
    if version != FORMAT:
        raise RecordProblem(
            f"has the format {version}, and this version of agile_gym reads format {FORMAT}; install a newer one"
        )
    if not _ID.fullmatch(get_field(known, "id", str)):
        raise RecordProblem(f"has {known['id']!r:.80} as its id; ids hold letters, digits, '-', '_' and '.'")
    return known


def image_refs(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the references of all images of a record, in the order of `Transcript.images`.

    Raises:
        RecordProblem: If one is not a reference.
    """
    turns: list[Any] = get_field(record, "turns", list)
    lists = [get_items(record, "prompt_images", str), *(get_items(get_mapping(turn), "images", str) for turn in turns)]
    refs = tuple(ref for entries in lists for ref in entries)
    for ref in refs:
        if not re.fullmatch(r"[0-9a-f]{64}", ref):
            raise RecordProblem(f"refers to the image {ref!r:.80}; a reference is the 64 hexadecimal digits of a hash")
    return refs


def from_record(
    record: Mapping[str, Any], load: Callable[[str], Image] | None, segments: tuple[Segment, ...] | None = None
) -> Transcript:
    """Turn a record into a transcript.

    Args:
        record: Result of `parse_record`.
        load: Returns the image of a reference; None leaves images out.
        segments: The segments, where they are stored apart from the record.

    Returns:
        The transcript, with arrays of its own.

    Raises:
        RecordProblem: If a field is missing or has the wrong type.
    """
    refs = image_refs(record)
    images = iter(() if load is None else [load(ref) for ref in refs])

    def take(entries: list[Any]) -> tuple[Image, ...]:
        return () if load is None else tuple(next(images) for _ in entries)

    prompt_images = take(record["prompt_images"])
    turns: list[Turn] = []
    for entry in record["turns"]:
        usage = get_field(entry, "usage", dict)
        turns.append(
            Turn(
                text=get_field(entry, "text", str),
                feedback=get_field(entry, "feedback", str),
                images=take(entry["images"]),
                primitives=tuple(get_items(entry, "primitives", str)),
                error=get_field(entry, "error", str, type(None)),
                state=tuple(get_nested(entry, "state", list)),
                reward=_reward(entry),
                env_seconds=float(get_field(entry, "env_seconds", float, int)),
                usage=TurnUsage(
                    float(get_field(usage, "seconds", float, int)),
                    *(
                        get_field(usage, name, int, type(None))
                        for name in ("context_tokens", "computed_tokens", "new_tokens")
                    ),
                ),
            )
        )
    return Transcript(
        id=record["id"],
        policy=get_field(record, "policy", str),
        task=get_nested(record, "task", dict),
        prompt=get_field(record, "prompt", str),
        prompt_images=prompt_images,
        turns=tuple(turns),
        solution=tuple(get_nested(record, "solution", list)),
        solved=get_field(record, "solved", bool),
        score=float(get_field(record, "score", float, int)),
        reward=_reward(record),
        truncated=get_field(record, "truncated", bool),
        system=get_field(record, "system", str, type(None)),
        segments=get_segments(get_field(record, "segments", list)) if segments is None else segments,
        details=get_nested(record, "details", dict),
    )


def _plain(value: object) -> object:
    """Turn numpy's numbers into Python's, for the mappings that policies fill."""
    if isinstance(value, np.generic):
        number: object = cast("Any", value).item()
        return number
    raise TypeError(f"a value of type {type(value).__name__} is not JSON")


def _reward(record: Mapping[str, Any]) -> RewardParts:
    parts = get_field(record, "reward", dict)
    return cast("RewardParts", {name: float(get_field(parts, name, float, int)) for name in REWARD_PARTS})
