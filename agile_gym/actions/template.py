"""Templates of the task's text: ours, and a user's own, which may name fields and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agile_gym.actions.prompt import IMAGE_MARK
from agile_gym.errors import ConfigurationError, did_you_mean

__all__ = ["FIELDS", "MAX_TEMPLATE", "PROMPTS", "PromptTemplate", "read_prompt"]

PROMPTS = ("full", "short")
"""The prompts of this library, by name."""
MAX_TEMPLATE = 65_536
"""Largest size of a template file, in bytes."""
FIELDS = {
    "rows": "number of rows",
    "cols": "number of columns",
    "pieces": "number of pieces",
    "names": "the pieces' names, such as A to D",
    "state": "the state list at the start",
    "rotations": "what is said of turned pieces; empty where pieces are upright",
    "turns": "number of turns, such as 5 turns",
    "action": "the tags of an action, such as <code>...</code>",
    "functions": "how actions are written in the dialect used",
    "example": "a worked example of a few turns",
    "answer": "an example of an answer",
    "images": "the images, a line with caption and image mark each",
}
"""What can stand in braces in a template, and what takes its place."""

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class PromptTemplate:
    """A template, cut at its fields.

    Attributes:
        lines: The parts of each line: a text, and whether it is the name of a field.
        brief: Whether captions, feedback and fields are put in as few words as will do.
    """

    lines: tuple[tuple[tuple[str, bool], ...], ...]
    brief: bool = False

    def render(self, fields: Mapping[str, Callable[[], str]]) -> str:
        """Put in the fields.

        Args:
            fields: What makes the text of each field; only those that the template names are called.

        Returns:
            The text. A line that holds nothing but fields, all of them empty, is left out.
        """
        lines: list[str] = []
        for parts in self.lines:
            line = "".join([fields[text]() if is_field else text for text, is_field in parts])
            if line or not parts:
                lines.append(line)
        return "\n".join(lines)


def read_prompt(prompt: str | Path) -> PromptTemplate:
    """Read a template: one of ours by name, or a text file.

    Args:
        prompt: One of `PROMPTS`, or the path of a text file in UTF-8 with the fields of `FIELDS` in braces. Braces
            that are meant are doubled.

    Returns:
        The template.

    Raises:
        ConfigurationError: If there is no such file, or it is no template; the message says what is allowed.
    """
    if isinstance(prompt, str) and prompt in PROMPTS:
        return _own(prompt)
    if not isinstance(prompt, str | Path):
        raise ConfigurationError(
            f"prompt={prompt!r} is not allowed; give one of {PROMPTS}, or the path of a text file."
        )
    path = Path(prompt)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEMPLATE + 1)
    except (OSError, ValueError) as error:
        hint = f" {did_you_mean(prompt, PROMPTS)}" if isinstance(prompt, str) else ""
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(
            f"prompt={str(prompt)!r} is neither 'full' nor 'short', and cannot be read as a text file ({reason}).{hint}"
        ) from None
    if len(data) > MAX_TEMPLATE:
        raise ConfigurationError(f"The prompt template {path} has more than {MAX_TEMPLATE} bytes; write a shorter one.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"The prompt template {path} is not a text in UTF-8: byte {error.start} is {data[error.start]:#04x}. "
            "Save it as UTF-8."
        ) from None
    return _parse(text, f"The prompt template {path}")


@cache
def _own(name: str) -> PromptTemplate:
    text = (_FOLDER / f"prompt_{name}.txt").read_text(encoding="utf-8")
    return _parse(text, f"The prompt {name!r}", brief=name == "short")


def _parse(text: str, source: str, *, brief: bool = False) -> PromptTemplate:
    if IMAGE_MARK in text:
        raise ConfigurationError(
            f"{source} holds the mark {IMAGE_MARK}, which stands for an image that is sent. Write {{images}} where the "
            "images belong."
        )
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    lines = tuple(_parse_line(line, source) for line in text.split("\n"))
    count = sum(part == ("images", True) for line in lines for part in line)
    if count != 1:
        raise ConfigurationError(
            f"{source} holds the field {{images}} {count} times; it is needed exactly once, where the images belong."
        )
    return PromptTemplate(lines, brief)


def _parse_line(line: str, source: str) -> tuple[tuple[str, bool], ...]:
    parts: list[tuple[str, bool]] = []
    end = 0
    for match in _BRACES.finditer(line):
        if match.start() > end:
            parts.append((line[end : match.start()], False))
        end = match.end()
        if match[0] in ("{{", "}}"):
            parts.append((match[0][0], False))
        elif match[1] in FIELDS:
            parts.append((match[1], True))
        else:
            raise ConfigurationError(_unknown(match[0], match[1], source))
    if end < len(line):
        parts.append((line[end:], False))
    return tuple(parts)


def _unknown(found: str, name: str | None, source: str) -> str:
    problem = f"{source} has a brace without its partner" if name is None else f"{source} has no use for {found[:60]}"
    near = "" if name is None else f" {did_you_mean(name, FIELDS)}"
    allowed = ", ".join(f"{{{field}}}" for field in FIELDS)
    return f"{problem}.{near} The fields are {allowed}, as they stand here; write {{{{ and }}}} for braces themselves."
