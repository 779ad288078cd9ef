"""Where requests go, and the key that goes with them, which is read from the environment and shown nowhere."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from agile_gym.errors import ConfigurationError
from agile_gym.terminal import printable

__all__ = ["DEFAULT_URL", "check_key_name", "limit_name", "read_key", "resolve_url", "scrub", "takes_seed"]

DEFAULT_URL = "https://api.openai.com/v1"
_NO_KEY = "none"
"""Sent instead of a key to endpoints that ask for none; the client does not work without."""
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
        raise ConfigurationError(f"base_url={given!r} names a route; give what stands before '/chat/completions'.")
    return f"{parts.scheme}://{parts.netloc}{path}"


def check_key_name(name: str | None, url: str) -> None:
    """Check the name of the environment variable that holds the key.

    Args:
        name: The name, or None where no key is sent.
        url: The endpoint.

    Raises:
        ConfigurationError: If it is no name (it is not repeated then, since it may be a key), or if the variable is not
            set and the endpoint is OpenAI's own, which asks for a key.
    """
    if name is None:
        return
    plain = isinstance(name, str) and _PLAIN_NAME.fullmatch(name)
    known = isinstance(name, str) and _NAME.fullmatch(name) and os.environ.get(name)
    if not plain and not known:
        raise ConfigurationError(
            "api_key_env must be the name of the environment variable that holds the key, such as 'OPENAI_API_KEY', "
            "and not the key itself. What was given names no variable that is set; as it may be a key, it is not shown."
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
        ConfigurationError: If the variable holds what cannot be sent in a header.
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
    """Return the start of what a server said, without the key, images and characters that command a terminal.

    Args:
        text: What it said.
        key: The key that it was sent.
        limit: Number of characters kept.
    """
    if key not in ("", _NO_KEY):
        text = text.replace(key, "***")
    text = _BEARER.sub(r"\1***", _DATA_URL.sub("data:...", text))
    text = printable(" ".join(text.split()))
    return text if len(text) <= limit else f"{text[:limit]}..."


def limit_name(url: str) -> str:
    """Return how an endpoint calls the limit of new tokens; OpenAI's newer models know one name only."""
    host = urlsplit(url).hostname or ""
    openai = host == "api.openai.com" or host.endswith((".api.openai.com", ".openai.azure.com"))
    return "max_completion_tokens" if openai else "max_tokens"


def takes_seed(url: str) -> bool:
    """Tell whether an endpoint takes a seed; Gemini's refuses requests that have one."""
    return urlsplit(url).hostname != "generativelanguage.googleapis.com"
