"""Puts together answers that a server sends as a stream of events, piece by piece (SSE)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

__all__ = ["BrokenStreamError", "as_mapping", "is_stream", "join_stream"]

_END = "[DONE]"
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")


class BrokenStreamError(Exception):
    """A stream ends before the answer does, or one of its events cannot be read."""


def is_stream(body: bytes) -> bool:
    """Tell whether a body is a stream of events, whatever its header says: these begin with a field or a comment."""
    return body.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n").startswith((b"data:", b"event:", b"id:", b"retry:", b":"))


def join_stream(body: bytes) -> dict[str, Any]:
    """Return the JSON that the server would have sent at once.

    Texts, reasoning, refusals and the arguments of tool calls are joined; of all else, what was said last counts.

    Args:
        body: The whole stream.

    Returns:
        A chat completion, or an object with ``error``, if that is what an event holds.

    Raises:
        BrokenStreamError: If the stream ends in the middle of the answer, or an event is no JSON object.
    """
    whole: dict[str, Any] = {}
    choice: dict[str, Any] = {}
    message: dict[str, Any] = {}
    pieces: dict[str, list[Any]] = {name: [] for name in _TEXTS}
    calls: dict[Any, dict[str, Any]] = {}
    ended = begun = False
    for data in _events(body):
        if data == _END:
            ended = True
            break
        chunk = _read(data)
        if chunk.get("error"):
            return chunk
        whole |= {name: value for name, value in chunk.items() if name != "choices" and value is not None}
        choices = chunk.get("choices")
        for entry in cast(list[Any], choices) if isinstance(choices, list) else []:
            fields = as_mapping(entry)
            if fields.get("index") not in (None, 0):
                continue
            begun = True
            delta = as_mapping(fields.get("delta"))
            if not delta and as_mapping(fields.get("message")):  # the whole of it, alone or after its pieces
                delta = as_mapping(fields["message"])
                pieces, calls = {name: [] for name in _TEXTS}, {}
            for name in _TEXTS:
                if delta.get(name) is not None:
                    pieces[name].append(delta[name])
            _join_calls(calls, delta.get("tool_calls"))
            finish = fields.get("finish_reason") or choice.get("finish_reason")
            choice |= {name: value for name, value in fields.items() if name not in ("delta", "message")}
            choice["finish_reason"] = finish
            ended = ended or finish is not None
    if not ended:
        raise BrokenStreamError("the stream ends before the answer does")
    message |= {name: _joined(parts) for name, parts in pieces.items() if parts}
    if calls:
        message["tool_calls"] = list(calls.values())
    if begun:
        message["role"] = "assistant"
    return {**whole, "choices": [{**choice, "message": message}] if begun else []}


def _events(body: bytes) -> Iterator[str]:
    """Yield the data of each event that has some."""
    lines: list[str] = []
    for line in [*body.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""]:
        if line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))
        elif not line and lines:
            yield "\n".join(lines)
            lines = []


def _read(data: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        raise BrokenStreamError(f"an event of the stream is not JSON; it begins with {data[:80]!r}") from None
    if not isinstance(chunk, dict):
        raise BrokenStreamError(f"an event of the stream is no object; it begins with {data[:80]!r}")
    return cast(dict[str, Any], chunk)


def _join_calls(calls: dict[Any, dict[str, Any]], deltas: Any) -> None:  # noqa: ANN401 -- JSON
    """Add pieces of tool calls; a piece without an index or an id belongs to the call before."""
    for entry in cast(list[Any], deltas) if isinstance(deltas, list) else []:
        fields, given = as_mapping(entry), as_mapping(as_mapping(entry).get("function"))
        key: Any = fields.get("index")
        if not isinstance(key, int):
            key = fields["id"] if isinstance(fields.get("id"), str) else next(reversed(calls), 0)
        function: dict[str, Any] = calls.setdefault(key, {"type": "function", "function": {}})["function"]
        if given.get("name"):
            function["name"] = given["name"]
        arguments = given.get("arguments")
        if isinstance(arguments, str):
            function["arguments"] = str(function.get("arguments") or "") + arguments
        elif arguments is not None:
            function["arguments"] = arguments


def _joined(parts: list[Any]) -> Any:  # noqa: ANN401 -- JSON
    """Join pieces that are texts, or lists of parts."""
    if all(isinstance(part, str) for part in parts):
        return "".join(parts)
    joined: list[Any] = []
    for part in parts:
        joined += cast(list[Any], part) if isinstance(part, list) else [{"type": "text", "text": part}]
    return joined


def as_mapping(value: Any) -> Mapping[str, Any]:  # noqa: ANN401 -- JSON
    """Return a JSON object as it is, and anything else as an empty one."""
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}
