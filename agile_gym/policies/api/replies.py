"""Content of an endpoint's answer: JSON, or a stream of events put together; and the turn's text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from agile_gym.actions.tags import blank_thoughts
from agile_gym.actions.tools import call_text

__all__ = [
    "BrokenStreamError",
    "MalformedReplyError",
    "Reply",
    "as_mapping",
    "end_text",
    "is_stream",
    "join_stream",
    "read_reply",
]

_END = "[DONE]"
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")


class BrokenStreamError(Exception):
    """A stream ends before the answer does, or one of its events cannot be read."""


def is_stream(body: bytes) -> bool:
    """Return whether a body is a stream of events, whatever its header: these begin with a field or a comment."""
    return body.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n").startswith((b"data:", b"event:", b"id:", b"retry:", b":"))


def join_stream(body: bytes) -> dict[str, Any]:
    """Return the JSON that the server would have sent at once.

    Texts, reasoning, refusals and the arguments of tool calls are joined; of all other fields, the last value counts.

    Args:
        body: The whole stream.

    Returns:
        A chat completion, or an object with ``error``, if an event holds one.

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


_CUT = 100_000
"""Characters of a text, a reasoning or a refusal that are kept, several times the limit of an environment's turn."""
_CUT_NAME = 200
_SHOWN = 500


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer of a model.

    Attributes:
        text: The text; empty if the model wrote nothing, which is no error.
        finish: Reason of its end, in the server's words: ``"stop"``, ``"length"``, ``"content_filter"``,
            ``"tool_calls"``; ``"no_choices"`` if the server gave no text at all; None if it gives no reason.
        reasoning: Reasoning that the server handed over apart from the text.
        refusal: Reason of a refusal, where the server gives it apart from the text.
        prompt_tokens: Tokens read, or None if unknown.
        cached_tokens: Those of them that the server took from its cache.
        new_tokens: Tokens written, those of hidden reasoning included.
        served: Name of the model that answered, as the server has it.
        attempts: Requests that were sent for it.
        problems: Failures before it, a short text each.
        cut_in_thought: True if a stop text seems to have ended it in the middle of a thought.
        opens_thought: True if the text ends a thought that it did not begin, so that the chat template opens them.
    """

    text: str
    finish: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    new_tokens: int | None = None
    served: str | None = None
    attempts: int = 1
    problems: tuple[str, ...] = ()
    cut_in_thought: bool = False
    opens_thought: bool = False

    def details(self) -> dict[str, Any]:
        """Return the fields for the record other than the text and the tokens, in JSON's types."""
        record: dict[str, Any] = {"finish": self.finish, "attempts": self.attempts}
        for name in ("reasoning", "refusal", "served"):
            if getattr(self, name) is not None:
                record[name] = getattr(self, name)
        if self.problems:
            record["problems"] = list(self.problems)
        return record


class MalformedReplyError(Exception):
    """A body is not an answer.

    Attributes:
        status: The HTTP status that the server meant, if it hid an error in a body of status 200.
        fallback: Reply to use if retries do not help.
    """

    def __init__(self, message: str, status: int | None = None, fallback: Reply | None = None) -> None:
        """Make the error."""
        super().__init__(message)
        self.status = status
        self.fallback = fallback


def read_reply(
    body: bytes, *, stop: Sequence[str] = (), opened: bool | None = None, reasoning_as_think: bool = False
) -> Reply:
    """Read the body of an answer, be it one JSON text or a stream of events.

    Args:
        body: The bytes that came.
        stop: Texts after which a turn ends.
        opened: True if the chat template has opened a thought before the text; None if unknown.
        reasoning_as_think: True to put reasoning between think tags in front of a text that has none.

    Returns:
        The answer.

    Raises:
        MalformedReplyError: If it is not the JSON of a chat completion; nothing else is raised, whatever the bytes are.
    """
    try:
        data = join_stream(body) if is_stream(body) else json.loads(body)
    except BrokenStreamError as error:
        raise MalformedReplyError(str(error)) from None
    except (ValueError, RecursionError):
        start = body[:80].decode("utf-8", "replace")
        raise MalformedReplyError(f"the body is not JSON; it begins with {start!r}" if body else "no body") from None
    fields = as_mapping(data)
    if fields.get("error"):
        error = as_mapping(fields["error"])
        code = error.get("code")
        known = isinstance(code, int) and not isinstance(code, bool) and 100 <= code < 600
        raise MalformedReplyError(f"the body holds an error: {_shown(fields['error'])}", code if known else None)
    choices = fields.get("choices")
    if not isinstance(choices, list):
        raise MalformedReplyError(f"the JSON is no chat completion: {_shown(data)}")
    prompt, cached, new = _tokens(as_mapping(fields.get("usage")))
    served = fields.get("model")
    served = _clean(served[:_CUT_NAME]) if isinstance(served, str) else None
    base = Reply("", "no_choices", None, None, prompt, cached, new, served)
    if not choices:
        raise MalformedReplyError("the chat completion has no choices", fallback=base)
    choice = as_mapping(cast(list[Any], choices)[0])
    message = as_mapping(choice.get("message"))
    if not message:
        raise MalformedReplyError("the chat completion has no message", fallback=base)
    return _reply(base, choice, message, stop, opened, reasoning_as_think)


def _reply(
    base: Reply,
    choice: Mapping[str, Any],
    message: Mapping[str, Any],
    stop: Sequence[str],
    opened: bool | None,
    reasoning_as_think: bool,
) -> Reply:
    text, reasoning = _content(message.get("content"))
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.get(name), str) and message[name].strip():
            reasoning = _clean(message[name])
            break
    refusal = message.get("refusal")
    refusal = _clean(refusal) if isinstance(refusal, str) and refusal else None
    finish = choice.get("finish_reason")
    finish = _clean(finish)[:100] if isinstance(finish, str) else None
    reason = next((choice[name] for name in ("stop_reason", "matched_stop") if name in choice), ...)
    opens_thought = "</think>" in text.partition("<think>")[0]
    if opened and reasoning:
        opened = None  # the server takes thoughts out
    text = end_text(text, stop, finish=finish, reason=reason, opened=opened)
    spoken, thinking = blank_thoughts(text, opened=opened)
    stopped = finish == "stop" and (reason is ... or reason in stop)
    cut_in_thought = stopped and (thinking or (not text.strip() and reasoning is not None))
    if "<tool_call>" not in spoken:
        legacy = message.get("function_call")
        text += _tool_calls(message.get("tool_calls") or ([legacy] if legacy else None))
    if not text and refusal is not None:
        text = refusal
    text = text[:_CUT]
    reasoning, refusal = (None if said is None else said[:_CUT] for said in (reasoning, refusal))
    if reasoning_as_think and reasoning and "<think>" not in text and "</think>" not in text:
        inside = reasoning.replace("<think>", "").replace("</think>", "").strip()
        text = f"<think>{inside}</think>{text}"
    return Reply(
        text,
        finish,
        reasoning,
        refusal,
        base.prompt_tokens,
        base.cached_tokens,
        base.new_tokens,
        base.served,
        cut_in_thought=cut_in_thought,
        opens_thought=opens_thought,
    )


def end_text(
    text: str, stop: Sequence[str], *, finish: str | None, reason: object = ..., opened: bool | None = None
) -> str:
    """End a text where the model's turn ends, with the stop text that ended it.

    Stop texts in thoughts end no turn.

    Args:
        text: The server's text.
        stop: Texts after which a turn ends.
        finish: The server's reason for the end.
        reason: The stop text, where the server names it; anything else if it was none; ``...`` if the server
            does not name it.
        opened: True if the chat template has opened a thought before the text; None if unknown.

    Returns:
        The text up to the first stop text in it, that included. If there is none in it, the one that the server took
        away is put back: the one that it names, or, if it names none, the one that closes the tag opened last. One that
        closes a tag is put back only where that tag is open.
    """
    spoken, thinking = blank_thoughts(text, opened=opened)
    ends = [(spoken.index(entry), len(entry)) for entry in stop if entry in spoken]
    if ends:
        start, length = min(ends, key=lambda end: (end[0], -end[1]))
        return text[: start + length]
    if finish != "stop":
        return text
    opening = {entry: entry.replace("</", "<", 1) for entry in stop if entry.startswith("</")}
    found = {entry: spoken.rfind(tag) for entry, tag in opening.items()}
    opened_tags = [entry for entry, place in found.items() if place >= 0 and (entry == "</think>") == thinking]
    if reason is ...:
        return text + max(opened_tags, key=lambda entry: found[entry], default="")
    allowed = opened_tags if reason in opening else [] if thinking else stop
    return text + str(reason) if isinstance(reason, str) and reason in allowed else text


def _content(content: Any) -> tuple[str, str | None]:  # noqa: ANN401 -- JSON
    """Return text and reasoning of a message's content, which is a text, a list of parts, or nothing."""
    if isinstance(content, str):
        return _clean(content), None
    texts: list[str] = []
    thoughts: list[str] = []
    for part in cast(list[Any], content) if isinstance(content, list) else []:
        fields = as_mapping(part)
        if isinstance(fields.get("text"), str):
            texts.append(fields["text"])
        elif "thinking" in fields:
            thoughts.append(_content(fields["thinking"])[0])
    return _clean("".join(texts)), _clean("".join(thoughts)) or None


def _tool_calls(calls: Any) -> str:  # noqa: ANN401 -- JSON
    """Write tool calls, which a server's parser took out of the text, as the model wrote them."""
    texts: list[str] = []
    for call in cast(list[Any], calls) if isinstance(calls, list) else []:
        written = call_text(call)
        if written is None:
            function = as_mapping(as_mapping(call).get("function"))
            shown = {"name": _shown(function.get("name")), "arguments": _shown(function.get("arguments"))}
            written = json.dumps(shown)
        texts.append(f"<tool_call>{written}</tool_call>")
    return _clean("".join(texts))


def _tokens(usage: Mapping[str, Any]) -> tuple[int | None, int | None, int | None]:
    """Return tokens read, those of them that were cached, and tokens written."""
    prompt, new, total = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    cached = _count(as_mapping(usage.get("prompt_tokens_details")).get("cached_tokens"))
    if prompt is not None and total is not None:
        new = max(new or 0, total - prompt)  # Gemini counts its reasoning in the total only
    return prompt, cached, new


def _count(value: Any) -> int | None:  # noqa: ANN401 -- JSON
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
    return value if good else None


def _shown(value: Any) -> str:  # noqa: ANN401 -- JSON
    """Return the start of a JSON value as text."""
    try:
        return _clean(value if isinstance(value, str) else json.dumps(value))[:_SHOWN]
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that is nested too deep"


def _clean(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can express and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")
