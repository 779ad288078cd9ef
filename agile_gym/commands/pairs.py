"""Reads options that are given as KEY=VALUE."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agile_gym.errors import ConfigurationError

__all__ = ["read_pairs"]

_WORDS = {"True": True, "False": False, "None": None}  # as docstrings and messages write them


def read_pairs(texts: Sequence[str], flag: str, example: str) -> dict[str, Any]:
    """Read KEY=VALUE pairs; a value is JSON, or one of Python's words True, False and None, if it is such, else a text.

    Args:
        texts: The pairs.
        flag: The flag that they were given with, for the error.
        example: A pair that would do.

    Returns:
        The values by key.

    Raises:
        ConfigurationError: If one has no ``=``, or a key is given twice.
    """
    pairs: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigurationError(f"{flag} {text} is not of the form KEY=VALUE, such as {example}.")
        if key in pairs:
            raise ConfigurationError(f"{flag} {text}: {key} is given twice; leave one of the two out.")
        try:
            pairs[key] = _WORDS[value] if value in _WORDS else json.loads(value)
        except (ValueError, RecursionError):
            pairs[key] = value
    return pairs
