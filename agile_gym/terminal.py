"""Texts of files, servers and models on their way to a terminal, which obeys some characters rather than show them."""

from __future__ import annotations

import re
import sys

__all__ = ["one_line", "printable", "show_all_characters"]

_PLAIN = re.compile(r"[ -~]*")


def printable(text: str) -> str:
    r"""Return a text in which every character that is not to be seen stands as its number, such as ``\x1b``.

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
