"""Options of `ChatAPIPolicy`, checked once, and its endpoint with the key, which is never shown."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal
from urllib.parse import urlsplit

from agile_gym.actions.tags import STOP_TEXTS
from agile_gym.errors import ConfigurationError, is_number, is_whole, plain, printable, require_known

__all__ = [
    "DEFAULT_URL",
    "ChatAPIOptions",
    "check_key_name",
    "limit_name",
    "read_key",
    "resolve_url",
    "scrub",
    "takes_seed",
]

DEFAULT_URL = "https://api.openai.com/v1"
_NO_KEY = "none"
"""Placeholder of a key for endpoints that require none; the client does not work without."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_PLAIN_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_DATA_URL = re.compile(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]*")
_BEARER = re.compile(r"(?i)(bearer\s+)[^\s\"',]+")


def resolve_url(base_url: str | None) -> str:
    """Return the address of an endpoint.

    Args:
        base_url: Such as ``"http://localhost:8000/v1"``; None means the environment variable ``OPENAI_BASE_URL``, or
            OpenAI's own if there is none.

    Returns:
        The address, without a slash at its end.

    Raises:
        ConfigurationError: If it is no such address, or holds more than an address: credentials, a query.
    """
    given = os.environ.get("OPENAI_BASE_URL", "").strip() or DEFAULT_URL if base_url is None else base_url
    example = "give an address such as 'http://localhost:8000/v1'."
    if not isinstance(given, str):
        raise ConfigurationError(f"base_url must be a text, not a {type(given).__name__}; {example}")
    try:
        parts = urlsplit(given)
        host, secret, _ = parts.hostname, parts.username is not None or parts.password is not None, parts.port
    except ValueError:
        raise ConfigurationError(f"base_url is not an address that can be read; {example}") from None
    if secret or "@" in parts.netloc:
        raise ConfigurationError(
            f"base_url holds a user name or a password before the host {host!r}. Keys are read from the environment "
            f"only: name their variable in api_key_env, and {example}"
        )
    if parts.query or parts.fragment:
        raise ConfigurationError(
            f"base_url holds a query or a fragment after {host!r}, which may hold a key; {example} "
            "Keys are read from the environment variable that api_key_env names."
        )
    if parts.scheme not in ("http", "https") or not host or not given.isprintable() or " " in given:
        raise ConfigurationError(f"base_url={given!r} is not the address of an endpoint; {example}")
    path = parts.path.rstrip("/")
    if path.endswith("/chat/completions"):
        raise ConfigurationError(f"base_url={given!r} names a route; give the part before '/chat/completions'.")
    return f"{parts.scheme}://{parts.netloc}{path}"


def check_key_name(name: str | None, url: str) -> None:
    """Check the name of the environment variable that holds the key.

    Args:
        name: The name, or None where no key is sent.
        url: The endpoint.

    Raises:
        ConfigurationError: If it is no name (it is not repeated then, since it may be a key), or if the variable is not
            set and the endpoint is OpenAI's own, which requires a key.
    """
    if name is None:
        return
    plain = isinstance(name, str) and _PLAIN_NAME.fullmatch(name)
    known = isinstance(name, str) and _NAME.fullmatch(name) and os.environ.get(name)
    if not plain and not known:
        raise ConfigurationError(
            "api_key_env must be the name of the environment variable that holds the key, such as 'OPENAI_API_KEY', "
            "and not the key itself. No variable of the given name is set; as it may be a key, it is not shown."
        )
    read_key(name)
    if not known and url == DEFAULT_URL:
        raise ConfigurationError(
            f"The environment variable {name} holds no key for {url}. Set it (export {name}=...), name another one in "
            "api_key_env, or give the base_url of another endpoint."
        )


def read_key(name: str | None) -> str:
    """Return the key that an environment variable holds, or a word that stands for none.

    Raises:
        ConfigurationError: If the variable holds characters that cannot be sent in a header.
    """
    key = os.environ.get(name, "").strip() if name else ""
    if not key:
        return _NO_KEY
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(
            f"The environment variable {name} holds characters that no key has, such as a blank or a quotation mark "
            "from a text editor. Set it again."
        )
    return key


def scrub(text: str, key: str, limit: int = 300) -> str:
    """Return the start of a server's text, without the key, images and characters that command a terminal.

    Args:
        text: The server's text.
        key: The key that it was sent.
        limit: Number of characters kept.
    """
    if key not in ("", _NO_KEY):
        text = text.replace(key, "***")
    text = _BEARER.sub(r"\1***", _DATA_URL.sub("data:...", text))
    text = printable(" ".join(text.split()))
    return text if len(text) <= limit else f"{text[:limit]}..."


def limit_name(url: str) -> str:
    """Return an endpoint's name of the limit of new tokens; OpenAI's newer models accept one name only."""
    host = urlsplit(url).hostname or ""
    openai = host == "api.openai.com" or host.endswith((".api.openai.com", ".openai.azure.com"))
    return "max_completion_tokens" if openai else "max_tokens"


def takes_seed(url: str) -> bool:
    """Return whether an endpoint takes a seed; Gemini's refuses requests that have one."""
    return urlsplit(url).hostname != "generativelanguage.googleapis.com"


_OWN_FIELDS = frozenset({"model", "messages", "stream", "n"})
_STREAM_FIELDS = {"stream": True, "stream_options": {"include_usage": True}}
_DAY = 86_400.0


@dataclass(frozen=True)
class ChatAPIOptions:
    """The options of a policy that plays with a model behind an OpenAI-compatible endpoint.

    Attributes:
        base_url: The endpoint, such as ``"http://localhost:8000/v1"``. None means the environment variable
            ``OPENAI_BASE_URL``, or OpenAI's own.
        api_key_env: Name of the environment variable that holds the key; None sends no key. If the variable is not
            set, none is sent either, but OpenAI's own endpoint requires one.
        system: A system prompt, or None.
        temperature: None leaves it to the server; 0 is greedy.
        top_p: None leaves it to the server.
        max_tokens: Largest number of new tokens of a turn; None leaves it to the server.
        max_tokens_name: The endpoint's name of that: ``"max_tokens"``, ``"max_completion_tokens"``, or ``"auto"``,
            which is the latter for OpenAI and Azure and the former for everyone else.
        stop: Texts after which a turn ends, but for those in thoughts. A turn is cut after the first of them even where
            they are not sent. A stop text that the server took away is put back: where the server does not name
            it, the one that closes the tag opened last.
        send_stop: True to send stop texts; OpenAI's reasoning models, and ``transformers serve`` with images,
            cannot take them. Where the server ends a turn at one in the middle of a thought, the request is repeated
            without, and no more are sent.
        thought_opened: True if the chat template opens a thought, so that texts begin in one; None detects it at the
            first text that closes one.
        send_seed: True to send a seed. None sends it if there is one, if sampling is not greedy and if
            the endpoint is not Gemini's, which takes none.
        stream: True to request answers as streams; None does so where the endpoint reports that it sends no others.
            Streams are read either way, and taken when they are whole.
        extra_body: More fields of the request, such as ``{"top_k": 20}``.
        image_format: ``"png"`` (without loss) or ``"jpeg"``.
        jpeg_quality: 1 to 100.
        image_detail: ``"low"``, ``"high"``, ``"auto"``, or None to leave it out: OpenAI's choice of tokens an image.
        window: Number of images of later turns that stay in the conversation; an older one becomes the words ``[image
            no longer shown]``. The images of the first observation always stay. None keeps all.
        reasoning_as_think: True to put reasoning that the server hands over apart from the text in front of it
            between think tags, if the text has none.
        max_concurrency: Largest number of requests under way at a time.
        max_retries: Number of retries of a request.
        backoff: Pause before the first new attempt, in seconds; each further one is twice as long, less up to a half
            by chance. The server's pause (``Retry-After``) has precedence.
        max_backoff: Longest such pause, in seconds.
        request_timeout: Time for one attempt from its start to the last byte of the answer, in seconds.
        turn_timeout: Time for one turn of one episode, with all attempts and the pauses between them, in seconds.
        requests_per_minute: Requests are sent this many a minute at most, evenly; None sets no limit. The limits hold
            for this policy: divide them by the number of processes.
        tokens_per_minute: Tokens, read and written, a minute at most; None sets no limit.
        price_in: Price of a million tokens read, in any currency; None if unknown.
        price_cached: Price of a million of those that the server took from its cache; None means ``price_in``.
        price_out: Price of a million tokens written.
        max_cost: No request is sent once this much is spent, in the prices' currency; those under way then add to it.
    """

    base_url: str | None = None
    api_key_env: str | None = "OPENAI_API_KEY"
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = 2048
    max_tokens_name: Literal["auto", "max_tokens", "max_completion_tokens"] = "auto"
    stop: Sequence[str] = STOP_TEXTS
    send_stop: bool = True
    thought_opened: bool | None = None
    send_seed: bool | None = None
    stream: bool | None = None
    extra_body: Mapping[str, Any] | None = None
    image_format: Literal["png", "jpeg"] = "png"
    jpeg_quality: int = 90
    image_detail: Literal["low", "high", "auto"] | None = None
    window: int | None = None
    reasoning_as_think: bool = False
    max_concurrency: int = 8
    max_retries: int = 5
    backoff: float = 0.5
    max_backoff: float = 30.0
    request_timeout: float = 120.0
    turn_timeout: float = 600.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    price_in: float | None = None
    price_cached: float | None = None
    price_out: float | None = None
    max_cost: float | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> ChatAPIOptions:
        """Build the options from keyword arguments; ``base_url`` becomes the address that is used.

        Raises:
            ConfigurationError: If there is no such option, or its value is not allowed; the message names those that
                are.
        """
        require_known(options, [field.name for field in fields(cls)], "ChatAPIPolicy")
        given = {name: plain(value) for name, value in options.items()}
        given["base_url"] = resolve_url(given.get("base_url"))
        built = cls(**given)
        check_key_name(built.api_key_env, given["base_url"])
        _check(built)
        return built

    @property
    def url(self) -> str:
        """The address that is used."""
        return self.base_url or resolve_url(None)

    @property
    def tells_seed(self) -> bool:
        """True if a seed is sent to the server, if there is one."""
        return self.temperature != 0 and takes_seed(self.url) if self.send_seed is None else self.send_seed

    def fields_of_request(self, seed: int | None, *, send_stop: bool = True, stream: bool = False) -> dict[str, Any]:
        """Return a request's fields but for model, messages and ``extra_body``.

        Args:
            seed: Seed of the server's sampling, or None.
            send_stop: True to include stop texts, if the option of this name does not forbid it.
            stream: True to request a stream, even if the option does not.
        """
        given: dict[str, Any] = {}
        if self.temperature is not None:
            given["temperature"] = self.temperature
        if self.top_p is not None:
            given["top_p"] = self.top_p
        if self.max_tokens is not None:
            name = limit_name(self.url) if self.max_tokens_name == "auto" else self.max_tokens_name
            given[name] = self.max_tokens
        if self.stop and self.send_stop and send_stop:
            given["stop"] = list(self.stop)
        if seed is not None and self.tells_seed:
            given["seed"] = seed
        if self.stream or (stream and self.stream is None):
            given |= _STREAM_FIELDS
        return given

    def sampling(self) -> dict[str, Any]:
        """Return the options of sampling, in JSON's types, for the record."""
        record = self.fields_of_request(None)
        if self.stop:
            record["stop"] = list(self.stop)
        if self.extra_body:
            record["extra_body"] = dict(self.extra_body)
        if self.window is not None:
            record["window"] = self.window
        return record


def _check(options: ChatAPIOptions) -> None:
    for name in ("send_stop", "reasoning_as_think"):
        _require(isinstance(getattr(options, name), bool), options, name, "True or False")
    for name in ("send_seed", "thought_opened", "stream"):
        _require(getattr(options, name) in (None, True, False), options, name, "True, False or None")
    _require(options.system is None or isinstance(options.system, str), options, "system", "a text or None")
    for name, low, high in (("temperature", 0, 100), ("top_p", 0, 1), ("price_in", 0, 1e9), ("price_out", 0, 1e9)):
        value = getattr(options, name)
        _require(value is None or is_number(value, low, high), options, name, f"a number from {low} to {high}, or None")
    for name in ("price_cached", "max_cost"):
        value = getattr(options, name)
        _require(value is None or is_number(value, 0, 1e12), options, name, "a number of at least 0, or None")
    for name in ("requests_per_minute", "tokens_per_minute"):
        value = getattr(options, name)
        _require(value is None or is_number(value, 1e-3, 1e12), options, name, "a number above 0, or None")
    for name in ("request_timeout", "turn_timeout"):
        _require(is_number(getattr(options, name), 1e-3, _DAY), options, name, "seconds above 0, up to a day")
    for name in ("backoff", "max_backoff"):
        _require(is_number(getattr(options, name), 0, _DAY), options, name, "seconds from 0 to a day")
    for name, high in (("max_concurrency", 1000), ("jpeg_quality", 100)):
        _require(is_whole(getattr(options, name), high), options, name, f"a whole number from 1 to {high}")
    for name, high in (("max_tokens", 10**7), ("window", 10**6)):
        value = getattr(options, name)
        _require(value is None or is_whole(value, high), options, name, f"a whole number from 1 to {high}, or None")
    retries: Any = options.max_retries
    whole = is_whole(retries, 1000) or (retries == 0 and not isinstance(retries, bool))
    _require(whole, options, "max_retries", "a whole number from 0 to 1000")
    for name, allowed in (
        ("max_tokens_name", ("auto", "max_tokens", "max_completion_tokens")),
        ("image_format", ("png", "jpeg")),
        ("image_detail", ("low", "high", "auto", None)),
    ):
        _require(getattr(options, name) in allowed, options, name, f"one of {allowed}")
    stop: Any = options.stop
    good = isinstance(stop, list | tuple) and all(isinstance(text, str) and text for text in stop)  # pyright: ignore[reportUnknownVariableType] -- any value
    _require(good, options, "stop", f"a list of texts, such as {list(STOP_TEXTS)}")
    _check_extra(options)
    if options.max_cost is not None and (options.price_in is None or options.price_out is None):
        raise ConfigurationError("max_cost needs the prices: give price_in and price_out, for a million tokens each.")


def _check_extra(options: ChatAPIOptions) -> None:
    extra: Any = options.extra_body
    if extra is None:
        return
    _require(isinstance(extra, Mapping), options, "extra_body", "a mapping such as {'top_k': 20}, or None")
    own = sorted(_OWN_FIELDS & set(extra))
    if own:
        raise ConfigurationError(f"extra_body cannot hold {', '.join(own)}, which the policy sets itself.")
    try:
        text = json.dumps(extra)
    except (TypeError, ValueError):
        raise ConfigurationError(
            "extra_body holds values that JSON cannot express; give numbers, texts, lists, mappings."
        ) from None
    key = read_key(options.api_key_env)
    if len(key) >= 8 and key in text:
        raise ConfigurationError(
            "extra_body holds the key, which would end up in transcripts. Keys are read from the environment only."
        )


def _require(condition: bool, options: ChatAPIOptions, name: str, allowed: str) -> None:
    if not condition:
        raise ConfigurationError(f"{name}={getattr(options, name)!r:.200} is not allowed; give {allowed}.")
