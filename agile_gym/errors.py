"""The errors that agile_gym raises for a user's mistakes.

    AgileGymError
    |- ConfigurationError (ValueError)       an argument, a spec or a file has a value that is not allowed
    |  |- ImageError                         an image or a set of images cannot be used
    |  |- ModelError                         a model, its processor or its adapter cannot be used
    |  `- TranscriptError                    a file of transcripts is damaged or not one
    |- BudgetError                           the money that a run may cost is spent
    |- EndpointError                         a model's server does not answer, or refuses
    `- MissingDependencyError (ImportError)  an optional package is needed and not installed

What a model writes never raises: it becomes an `agile_gym.actions.primitives.ActionError` that the environment turns
into text.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import re
from collections.abc import Iterable
from types import ModuleType

__all__ = [
    "AgileGymError",
    "BudgetError",
    "ConfigurationError",
    "EndpointError",
    "ImageError",
    "MissingDependencyError",
    "ModelError",
    "TranscriptError",
    "did_you_mean",
    "error_number",
    "explain_os_error",
    "import_optional",
    "reason_of",
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
    """A value given by the user is not allowed; the message says what was given, what is allowed and what to try."""


class ImageError(ConfigurationError):
    """An image, or a collection of images, cannot be used."""


class ModelError(ConfigurationError):
    """A model, its processor or its adapter cannot be used."""


class TranscriptError(ConfigurationError):
    """A file of transcripts is damaged, or is not one."""


class BudgetError(AgileGymError):
    """What a run may cost is spent, or cannot be known."""


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
        purpose: What it is needed for, to complete "... is needed to ...".

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
    """Return why the system refused something, in words that can end a sentence."""
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
