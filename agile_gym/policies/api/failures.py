"""Failures of requests: bodies read within limits, retry or not, and the message for the user."""

from __future__ import annotations

import json
import re
import sys
import time
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from agile_gym.errors import EndpointError
from agile_gym.policies.api.limits import read_retry_after
from agile_gym.policies.api.options import scrub
from agile_gym.policies.api.replies import MalformedReplyError, Reply

__all__ = [
    "MAX_BODY",
    "BodyError",
    "Failure",
    "Sent",
    "classify",
    "endpoint_error",
    "make_http_client",
    "refusal_kind",
    "wants_stream",
]

MAX_BODY = 16 * 1024 * 1024
"""Most bytes of an answer, once unpacked: some hundred times the size of the longest turns."""
_PACKED = ("gzip", "x-gzip")
_GZIP = 16 + zlib.MAX_WBITS


class BodyError(Exception):
    """A body is longer than is read, or packed in a way that was not requested."""


def make_http_client(openai: Any, limit: int = MAX_BODY) -> Any:  # noqa: ANN401 -- a module, an httpx.AsyncClient
    """Make the HTTP client for `openai.AsyncOpenAI`.

    It is openai's own, with its proxies and defaults, but a body is given up where it passes a limit, be it by its
    length or by its unpacked content, and its letters are read as UTF-8: a header may name a codec that is none of
    texts.

    Args:
        openai: The package.
        limit: Most bytes of a body, once unpacked.

    Returns:
        The client. Its requests raise openai's error for a `BodyError`.
    """

    async def take(response: Any) -> None:  # noqa: ANN401 -- an httpx.Response
        response.encoding = "utf-8"
        packing = response.headers.get("content-encoding", "identity").strip().lower()
        if packing not in (*_PACKED, "identity", ""):
            raise BodyError(f"the answer is packed as {packing!r:.60}, which was not requested")
        response.headers.pop("content-encoding", None)
        # httpx, or openai's replacement of it: the stream must be of its kind
        kind = sys.modules[type(response).__module__.partition(".")[0]].AsyncByteStream
        response.stream = _limited(kind, response.stream, limit, packed=packing in _PACKED)

    return openai.DefaultAsyncHttpxClient(event_hooks={"response": [take]})


def _limited(kind: Any, stream: Any, limit: int, *, packed: bool) -> Any:  # noqa: ANN401 -- a class and two of its kind
    """Return a stream with the content of another one, which ends with an error at a limit."""

    class Limited(kind):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            unpack = zlib.decompressobj(_GZIP) if packed else None
            left = limit
            async for data in stream:
                chunk = data
                if unpack is not None:
                    try:
                        chunk = unpack.decompress(data, left + 1)
                    except zlib.error as error:
                        raise BodyError(f"the answer is not packed as its header declares ({error})") from None
                left -= len(chunk)
                if left < 0:
                    raise BodyError(f"the answer has more than {limit:,} bytes")
                yield chunk

        async def aclose(self) -> None:
            await stream.aclose()

    return Limited()


_RETRY = frozenset({408, 409, 425, 429})
_REFUSALS = frozenset({400, 413, 422})
"""Statuses that are about one request, and may be about one conversation."""
_STREAM_ONLY = re.compile(
    r"(?i)(only|must|require\w*|need\w*|enable|set|please|non.)\b.{0,40}\bstream"
    r"|stream\w*\b.{0,40}(only|must be|require)"
)
_REFUSAL_KINDS = (
    ("content_filter", r"content.?(filter|policy|management|exists risk)|safety|moderat|flagged|inappropriate|harmful"
     r"|prohibited|sensitive (content|info|word)|data_inspection|blocked by|violat\w* .{0,40}(polic|guideline|terms)"),
    ("context_length", r"context.{0,20}(length|window|size|limit)|maximum.{0,40}(token|length)|http 413|max_model_len"
     r"|too (long|large|many tokens)|token limit|payload|reduce the length|exceed.{0,60}(token|length|context|size)"),
    ("image_refused", r"image|multimodal|multi-modal|vision|pixel|aspect ratio"),
)  # fmt: skip
_OUT_OF_CREDIT = re.compile(r"insufficient_quota|billing_hard_limit|credit balance|out of credits")


@dataclass(frozen=True, slots=True)
class Failure:
    """Failure of an attempt.

    Attributes:
        kind: ``"connection"``, ``"timeout"``, ``"status"`` or ``"body"``.
        message: Description of it, without the key.
        retry: True if trying again may help.
        status: The HTTP status, or None.
        retry_after: Seconds to wait before a retry, from the server, or None.
        fallback: The answer to take if trying again does not help, or None.
    """

    kind: Literal["connection", "timeout", "status", "body"]
    message: str
    retry: bool
    status: int | None = None
    retry_after: float | None = None
    fallback: Reply | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """Request and its endpoint, for messages.

    Attributes:
        url: The endpoint.
        model: Name of the model.
        messages: Number of messages.
        images: Number of images.
        key: Name of the environment variable whose key was sent, or None.
    """

    url: str
    model: str
    messages: int
    images: int
    key: str | None

    def __str__(self) -> str:
        """Return it as part of a sentence."""
        counts = f"{_number(self.messages, 'message')}, {_number(self.images, 'image')}"
        return f"POST {self.url}/chat/completions (model {self.model!r}, {counts})"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def classify(error: Any, openai: Any, key: str) -> Failure | None:  # noqa: ANN401 -- an exception, a module
    """Classify an exception of the client, or of reading its answer.

    Args:
        error: The exception.
        openai: The client's module.
        key: The key that was sent, to be left out of the message.

    Returns:
        The failure, or None for an exception that is none of the endpoint's.
    """
    if isinstance(error, MalformedReplyError):
        message = scrub(str(error), key)
        if error.status is not None:
            return _status(error.status, message, None)
        return Failure("body", message, True, fallback=error.fallback)
    cause: Any = error.__cause__ or error
    if isinstance(cause, BodyError):
        return Failure("body", scrub(str(cause), key), False)
    if isinstance(error, openai.APIStatusError):
        headers: Any = error.response.headers
        wait = read_retry_after(headers.get("retry-after"), headers.get("retry-after-ms"), time.time())
        return _status(error.status_code, scrub(_said(error), key), wait)
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return Failure("timeout", "no whole answer in time", True)
    if isinstance(error, openai.APIError):
        return Failure("connection", scrub(f"{type(cause).__name__}: {cause}".rstrip(": "), key), True)
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENT_MODULES:
        return Failure("connection", scrub(f"{type(error).__name__}: {error}".rstrip(": "), key), True)
    return None


_CLIENT_MODULES = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "h11", "anyio"})


def _said(error: Any) -> str:  # noqa: ANN401 -- an openai.APIStatusError
    """Return the server's text for a status: the message in its JSON, or its text."""
    body: str = error.response.text
    try:
        said = _message(json.loads(body))
    except (ValueError, RecursionError):
        return body
    code: Any = error.code
    return f"{said} ({code})" if isinstance(code, str) and code not in said else said


def _message(data: Any, depth: int = 4) -> str:  # noqa: ANN401 -- JSON
    """Return the message of an error's JSON, whatever it is wrapped in."""
    if isinstance(data, str):
        return data
    inner: Any = None
    if isinstance(data, list):
        inner = next(iter(cast(list[Any], data)), None)
    elif isinstance(data, dict):
        fields = cast(dict[str, Any], data)
        inner = next((fields[name] for name in ("error", "message", "detail", "msg") if fields.get(name)), None)
    return json.dumps(data) if inner is None or depth == 0 else _message(inner, depth - 1)


def _status(status: int, said: str, retry_after: float | None) -> Failure:
    retry = status in _RETRY or status >= 500
    if _OUT_OF_CREDIT.search(said):
        retry = False
    return Failure("status", f"HTTP {status}: {said or 'no text'}", retry, status, retry_after)


def endpoint_error(failure: Failure, sent: Sent, *, attempts: int, seconds: float, models: list[str]) -> EndpointError:
    """Return the error that ends the run, with what to try next.

    Args:
        failure: The last failure.
        sent: The request.
        attempts: Number of attempts.
        seconds: Time that they took together.
        models: Names of the endpoint's models, where they were requested.
    """
    tries = "" if attempts == 1 else f", {attempts} attempts in {seconds:.1f} s"
    happened = failure.message.rstrip(". ")
    return EndpointError(f"{happened}. Request: {sent}{tries}. {_advice(failure, sent, models)}", status=failure.status)


def _advice(failure: Failure, sent: Sent, models: list[str]) -> str:
    status, said = failure.status, failure.message.lower()
    if failure.kind == "connection":
        return f"Check that a server runs at {sent.url}, and that base_url is its address, usually with /v1 at the end."
    if failure.kind == "timeout":
        return "Give it more time (request_timeout, turn_timeout), or less to do (max_tokens, max_concurrency)."
    if failure.kind == "body":
        return f"Check that {sent.url} is an OpenAI-compatible endpoint; its address usually ends with /v1."
    if _OUT_OF_CREDIT.search(said):
        return "The account has no credit left; trying again does not help."
    if status in (401, 403):
        name = sent.key
        given = "No key was sent" if name is None else f"The key of the environment variable {name} was sent"
        return f"{given}; name the variable that holds a key for this endpoint in api_key_env."
    if status == 404:
        known = f"The endpoint has: {', '.join(models[:20])}." if models else "See its list of models."
        return f"Check the model's name, and that base_url is right, usually with /v1 at the end. {known}"
    if status == 429:
        return "Set requests_per_minute or tokens_per_minute below the endpoint's limits, or raise max_retries."
    if status is not None and status >= 500:
        return (
            "The server failed; its own log has the reason. `transformers serve` fails like this where a request with "
            "images has stop texts: give send_stop=False."
        )
    return _advice_on_request(said)


_OPTION_ADVICE = (
    (r"pinned|unknown model|model.{0,40}(not exist|not found|unknown)", "check the name of the model"),
    (r"max_completion_tokens|max_tokens", "give max_tokens_name='max_completion_tokens' (or 'max_tokens')"),
    (r"temperature", "leave out temperature (None)"),
    (r"top_p", "leave out top_p (None)"),
    (r"\bseed\b", "give send_seed=False"),
    (r"\bstop\b", "give send_stop=False; turns are cut on this side, too"),
)
"""Advice where a server names an option, which all requests have alike."""
_REQUEST_ADVICE = (
    *_OPTION_ADVICE,
    (r"context|too long|too large|token limit|maximum.*tokens|payload|413",
     "make the conversation shorter: smaller images (image_size of the environment), window, max_turns or max_tokens; "
     "image_format='jpeg' makes requests smaller"),
    (r"image|multimodal|multi-modal|vision|content.*(string|type)",
     "choose a model that takes images, in several turns, and a server that is set up for it (vLLM: "
     "--limit-mm-per-prompt), or set window"),
    (r"system", "leave out the system prompt"),
)  # fmt: skip


def wants_stream(failure: Failure) -> bool:
    """Return whether a server's message is that it sends its answers as streams only."""
    return failure.status in _REFUSALS and _STREAM_ONLY.search(failure.message) is not None


def refusal_kind(failure: Failure, *, proven: bool) -> str | None:
    """Return the kind of error of a request that is refused because of its conversation, or None.

    Args:
        failure: The final failure of the request.
        proven: True if the endpoint has answered a request with the same options. If it has not, and names an option,
            it would refuse all.

    Returns:
        ``"content_filter"``, ``"context_length"``, ``"image_refused"``, or ``"request_refused"`` where the server gives
        no reason; None if other conversations would be refused, too, or it is another failure.
    """
    said = failure.message.lower()
    if failure.status not in _REFUSALS or _OUT_OF_CREDIT.search(said):
        return None
    for kind, pattern in _REFUSAL_KINDS:
        if re.search(pattern, said):
            return kind
    if not proven and any(re.search(pattern, said) for pattern, _ in _OPTION_ADVICE):
        return None
    return "request_refused"


def _advice_on_request(said: str) -> str:
    advice = [text for pattern, text in _REQUEST_ADVICE if re.search(pattern, said)]
    if not advice:
        return "The endpoint does not accept the request; check the options against what it takes."
    return f"What may help: {'; '.join(advice[:3])}."


def without_retry(failure: Failure, reason: str) -> Failure:
    """Return a failure after which no new attempt is made, with the reason."""
    return replace(failure, retry=False, message=f"{failure.message} ({reason})")
