"""Checks of what callers give, shared by everything that takes options."""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

from agile_gym.errors import ConfigurationError, did_you_mean

__all__ = [
    "MAX_SEED",
    "check_call",
    "check_fields",
    "check_seed",
    "check_types",
    "declared_types",
    "described_fields",
    "documented",
    "in_words",
    "is_number",
    "is_whole",
    "plain",
    "require",
    "require_seed",
]

MAX_SEED = 2**31 - 1
"""Largest seed of a run, a model or an evaluation: numpy's global generator takes 32 bits, and RLlib and a run's stages
add to it."""


def plain(value: Any) -> Any:  # noqa: ANN401 -- any value
    """Turn numpy's scalars and vectors into Python's numbers and lists; leave everything else as it is."""
    given = value
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and given.ndim <= 1):
        return given.tolist()
    return given


def is_number(value: object, low: float, high: float) -> bool:
    """Tell whether a value is a number from ``low`` to ``high``; a bool or a NaN is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def is_whole(value: object, high: int) -> bool:
    """Tell whether a value is a whole number from 1 to ``high``; a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= high


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Refuse the value of an option unless a condition holds.

    Args:
        condition: Whether it is allowed.
        name: The option.
        value: What was given.
        allowed: What may be given, to complete "give ...".

    Raises:
        ConfigurationError: If it is not.
    """
    if not condition:
        raise ConfigurationError(f"{name}={value!r:.100} is not allowed; give {allowed}.")


def check_seed(seed: Any) -> int | None:  # noqa: ANN401 -- any value
    """Return the seed of a reset as an int, or None.

    Raises:
        ConfigurationError: If it is neither None nor a whole number of at least 0.
    """
    if seed is None:
        return None
    number = _index(seed)
    if number is None or number < 0:
        raise ConfigurationError(f"seed={seed!r:.80} is not a seed; give a whole number of at least 0, or None.")
    return number


def require_seed(seed: Any) -> int:  # noqa: ANN401 -- any value
    """Return the seed of a run, a model or an evaluation as an int.

    Raises:
        ConfigurationError: If it is not a whole number from 0 to `MAX_SEED`.
    """
    number = _index(seed)
    if number is None or not 0 <= number <= MAX_SEED:
        allowed = f"a whole number of at least 0, up to {MAX_SEED:,}"
        raise ConfigurationError(f"seed={seed!r:.80} is not a seed; give {allowed}.")
    return number


def _index(value: Any) -> int | None:  # noqa: ANN401 -- any value
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


@lru_cache(maxsize=64)
def declared_types(owner: Any) -> Mapping[str, Any]:  # noqa: ANN401 -- a class or a function
    """Return the annotations of a class's fields, or of a function's arguments."""
    kinds = get_type_hints(owner, None, {"ImagesLike": Any})  # which `open_images` checks
    return {name: kind for name, kind in kinds.items() if name != "return"}


def documented(owner: Any) -> dict[str, str]:  # noqa: ANN401 -- a class or a function
    """Return the texts of a docstring's ``Attributes:`` or ``Args:`` by name, each in one line."""
    texts: dict[str, list[str]] = {}
    inside, name = False, ""
    for line in (inspect.getdoc(owner) or "").splitlines():
        entry = re.fullmatch(r" {4}\*{0,2}(\w+): (.+)", line)
        if line and not line.startswith(" "):
            inside = line in ("Attributes:", "Args:")
        elif inside and entry:
            name = entry[1]
            texts[name] = [entry[2]]
        elif inside and name and line.strip():
            texts[name].append(line.strip())
    return {name: " ".join(lines) for name, lines in texts.items()}


def described_fields(kind: Any) -> dict[str, tuple[Any, Any, str]]:  # noqa: ANN401 -- a dataclass
    """Return type, default and text of each field of a dataclass, all of which have a default."""
    kinds, texts = declared_types(kind), documented(kind)
    described: dict[str, tuple[Any, Any, str]] = {}
    for entry in fields(kind):
        default = entry.default if entry.default_factory is MISSING else entry.default_factory()
        described[entry.name] = (kinds[entry.name], default, texts[entry.name])
    return described


def check_fields(instance: object) -> None:
    """Check the fields of a dataclass's instance against their annotations; see `check_types`."""
    check_types(declared_types(type(instance)), vars(instance))


def check_types(kinds: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Check options against the annotations that they are declared with.

    A whole number will do for a float, which must be finite; a bool is no number; any sequence but a text will do for a
    tuple or a list. Annotations of other kinds are classes.

    Args:
        kinds: The annotations by name; see `declared_types`.
        values: What was given, by name.

    Raises:
        ConfigurationError: If a value is of another type.
    """
    for name, value in values.items():
        require(_fits(value, kinds[name]), name, value, in_words(kinds[name]))


def _fits(value: Any, kind: Any) -> bool:  # noqa: ANN401 -- any value, any annotation
    """Return whether a value is of the type of an annotation."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if kind is float:
        return is_number(value, -math.inf, math.inf) and abs(value) < math.inf
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin in (tuple, list, Sequence):
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            return False
        entries = cast("Sequence[Any]", value)
        if origin is tuple and inner[-1] is not Ellipsis:
            return len(entries) == len(inner) and all(map(_fits, entries, inner))
        return all(_fits(entry, inner[0]) for entry in entries)
    if origin is Mapping:
        mapping = cast("Mapping[Any, Any]", value)
        return isinstance(value, Mapping) and all(_fits(key, inner[0]) for key in mapping)
    if origin is not None:  # Callable[...]
        return callable(value)
    return isinstance(value, kind)


_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", NoneType: "None"}


def in_words(kind: Any) -> str:  # noqa: ANN401 -- any annotation
    """Return what an annotation asks for, in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind in _WORDS:
        return _WORDS[kind]
    if origin in (Union, UnionType):
        return " or ".join(map(in_words, inner))
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"a list of {len(inner)}: {', '.join(map(in_words, inner))}"
    if origin in (tuple, list, Sequence):
        return f"a list, each entry {in_words(inner[0])}"
    if origin is Mapping:
        return "a table such as {name = value}"
    if origin is not None:
        return "a function, which only Python code can give"
    return f"a {kind.__name__}"


def check_call(
    maker: Callable[..., Any],
    options: Mapping[str, Any],
    what: str,
    given: tuple[str, ...] = (),
    *,
    fill: str | None = None,
) -> None:
    """Check that a maker takes what it is to be given.

    Args:
        maker: A class or a function.
        options: What it is given by name.
        what: What it makes, for the message, such as ``"policy 'edge'"``.
        given: What it is given by place.
        fill: What can be written as ``"NAME:TEXT"`` to give the first argument, if that is missing.

    Raises:
        ConfigurationError: If it does not.
    """
    try:
        signature = inspect.signature(maker)
    except (TypeError, ValueError):
        return  # made in C, without a signature: the call will tell
    try:
        signature.bind(*given, **options)
    except TypeError as error:
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names = [parameter.name for parameter in signature.parameters.values() if parameter.kind in kinds]
        wrong = [option for option in options if option not in names]
        hint = f" {did_you_mean(wrong[0], names)}" if wrong and names else ""
        if fill is not None and not given and "missing" in str(error):
            hint = f" Write '{fill}:{names[0].upper()}'." if names else hint
        raise ConfigurationError(f"The {what} cannot be made: {error}.{hint}") from error
