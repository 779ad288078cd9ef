"""Errors raised for a user's mistakes, checks of arguments that raise them, and texts made fit for a terminal.

    AgileGymError
    |- ConfigurationError (ValueError)       an argument, a spec or a file has a value that is not allowed
    |  |- ImageError                         an image or a set of images cannot be used
    |  |- ModelError                         a model, its processor or its adapter cannot be used
    |  `- TranscriptError                    a file of transcripts is damaged or not one
    |- BudgetError                           the budget of a run is spent
    |- EndpointError                         a model's server does not answer, or refuses
    `- MissingDependencyError (ImportError)  an optional package is needed and not installed

A model's text never raises: it becomes an `agile_gym.actions.primitives.ActionError` that the environment turns
into text.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import inspect
import math
import operator
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import lru_cache
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

__all__ = [
    "MAX_SEED",
    "AgileGymError",
    "BudgetError",
    "ConfigurationError",
    "EndpointError",
    "ImageError",
    "MissingDependencyError",
    "ModelError",
    "TranscriptError",
    "check_call",
    "check_fields",
    "check_seed",
    "check_types",
    "declared_types",
    "described_fields",
    "did_you_mean",
    "documented",
    "error_number",
    "explain_os_error",
    "import_optional",
    "in_words",
    "is_number",
    "is_whole",
    "one_line",
    "plain",
    "printable",
    "reason_of",
    "require",
    "require_known",
    "require_seed",
    "show_all_characters",
]

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the quota of the disk is used up; free some space",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "it does not exist",
    errno.EISDIR: "a folder is there, not a file",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a file is there, not a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "its links lead in a circle",
    errno.EMFILE: "too many files are open (ulimit -n)",
    errno.EIO: "the device reports an error",
}
_NUMBER = re.compile(r"(?:os error |errno:? ?)(\d+)", re.IGNORECASE)


class AgileGymError(Exception):
    """Base class of all errors of this library."""


class ConfigurationError(AgileGymError, ValueError):
    """A value given by the user is not allowed; the message names it, the allowed values and what to try."""


class ImageError(ConfigurationError):
    """An image, or a collection of images, cannot be used."""


class ModelError(ConfigurationError):
    """A model, its processor or its adapter cannot be used."""


class TranscriptError(ConfigurationError):
    """A file of transcripts is damaged, or is not one."""


class BudgetError(AgileGymError):
    """The budget of a run is spent, or its cost cannot be determined."""


class EndpointError(AgileGymError):
    """A model's server does not answer, or refuses a request for good.

    Attributes:
        status: The HTTP status of the last answer, or None if there was none.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        """Make the error."""
        super().__init__(message)
        self.status = status


class MissingDependencyError(AgileGymError, ImportError):
    """An optional package is needed for this feature and is not installed."""


def did_you_mean(given: object, allowed: Iterable[str]) -> str:
    """Return a sentence that names the closest allowed word, or all of them.

    Args:
        given: The word that was not recognised.
        allowed: The words that would have been.

    Returns:
        A sentence such as ``Did you mean 'paper'?`` or ``Allowed: 'a', 'b'.``.
    """
    options = sorted(allowed)
    close = difflib.get_close_matches(str(given), options, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Allowed: {', '.join(repr(option) for option in options)}."


def import_optional(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a module that belongs to an extra.

    Args:
        module: Dotted name of the module.
        extra: Name of the extra of this package that installs it.
        purpose: Use of the module, to complete "... is needed to ...".

    Returns:
        The module.

    Raises:
        MissingDependencyError: If it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependencyError(
            f"The package {package!r} is needed to {purpose}. Install it with: pip install 'agile-gym[{extra}]'"
        ) from error


def error_number(error: BaseException) -> int | None:
    """Return the system's number of an error, also of one that has it in its text only, as those of Rust have."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _NUMBER.search(str(error))
    return None if found is None else int(found[1])


def reason_of(error: OSError) -> str:
    """Return the reason of an error of the system, in words that can end a sentence."""
    number = error_number(error)
    if number is None:
        return str(error).rstrip(".") or type(error).__name__
    return _REASONS.get(number) or os.strerror(number)


def explain_os_error(error: OSError) -> str:
    """Return one line for an error of the system: the file, the reason, and what to try."""
    if error_number(error) is None:
        return f"{reason_of(error)}."
    name = error.filename2 or error.filename
    given = "A file, or the output," if name is None else name
    what = os.fsdecode(given) if isinstance(given, str | bytes) else str(given)
    missing = error_number(error) == errno.ENOENT
    advice = "Check the path." if missing else "Mend that, or give another place."
    return f"{what} cannot be {'found' if missing else 'read or written'}: {reason_of(error)}. {advice}"


_PLAIN = re.compile(r"[ -~]*")


def printable(text: str) -> str:
    r"""Return a text in which every unprintable character is replaced by its number, such as ``\x1b``.

    Such are the beginnings of commands to the terminal, line ends, marks that turn the direction of writing, and halves
    of surrogate pairs, which no terminal takes.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(character if character.isprintable() else _number(character) for character in text)


def one_line(text: str, limit: int = 2000) -> str:
    """Return a text as one line of at most ``limit`` characters, and dots where it goes on; see `printable`."""
    start = printable(" ".join(text[: 2 * limit].split()))
    whole = len(text) <= 2 * limit and len(start) <= limit
    return start if whole else f"{start[:limit]}..."


def show_all_characters() -> None:
    """Let standard output write characters that its encoding lacks as their numbers, rather than fail."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _number(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


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
    """Return whether a value is a number from ``low`` to ``high``; a bool or a NaN is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def is_whole(value: object, high: int) -> bool:
    """Return whether a value is a whole number from 1 to ``high``; a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= high


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Refuse the value of an option unless a condition holds.

    Args:
        condition: True if it is allowed.
        name: The option.
        value: Value given.
        allowed: Allowed values, to complete "give ...".

    Raises:
        ConfigurationError: If it is not.
    """
    if not condition:
        raise ConfigurationError(f"{name}={value!r:.100} is not allowed; give {allowed}.")


def require_known(given: Iterable[object], names: Collection[str], owner: str) -> None:
    """Refuse names of options that an owner does not have, with a `ConfigurationError`."""
    for name in given:
        if name not in names:
            raise ConfigurationError(f"{owner} has no option {name!r:.80}. {did_you_mean(name, names)}")


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
        values: Values by name.

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
    """Return the values that an annotation allows, in words."""
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
    """Check that a maker takes the given arguments.

    Args:
        maker: A class or a function.
        options: Keyword arguments.
        what: Name of the object made, for the message, such as ``"policy 'edge'"``.
        given: Positional arguments.
        fill: Form ``"NAME:TEXT"`` that gives the first argument, suggested if that is missing.

    Raises:
        ConfigurationError: If it does not.
    """
    try:
        signature = inspect.signature(maker)
    except (TypeError, ValueError):
        return  # made in C, without a signature: the call itself checks
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
