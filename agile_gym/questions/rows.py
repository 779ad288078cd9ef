"""Rows of any table as questions: columns by their names, answers and options in their usual forms, and pictures.

A row that cannot be asked is left out with the reason; it never becomes another question.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, cast

import numpy as np
from PIL import Image

from agile_gym.actions.prompt import IMAGE_MARK
from agile_gym.errors import ConfigurationError, ImageError, did_you_mean, is_number, plain
from agile_gym.images.folder import scan_file
from agile_gym.images.formats import header_problem
from agile_gym.images.items import ArrayItem, BytesItem, Item, SkippedImage, hash_bytes
from agile_gym.images.rows import file_inside
from agile_gym.questions.answers import RULES, AnswerKey, Rule, infer_rule
from agile_gym.questions.records import from_base64
from agile_gym.questions.tables import read_list
from agile_gym.questions.visual import Box, VisualQuestion

__all__ = ["ALIASES", "MAX_QUESTION", "Columns", "RowOptions", "RowProblem", "make_item", "read_row"]

ALIASES: Mapping[str, tuple[str, ...]] = {
    "id": ("index", "id", "question_id", "idx"),
    "question": ("question", "query", "problem", "text"),
    "answer": ("answer", "answers", "label", "gt_answer", "solution"),
    "choices": ("choices", "options"),
    "image": ("image", "images", "image_path"),
    "box": ("box", "bbox", "boxes"),
    "label": ("category", "kind"),
    "hint": ("hint",),
    "rule": ("rule",),
    "tolerance": ("tolerance",),
}
"""The parts of a question, and the columns in which they are looked for, in order."""
NEEDED = ("question", "answer", "image")
MAX_QUESTION = 8000
"""Longest question, and longest text of all its options, in characters."""
MAX_PICTURES = 16
_BASE64 = 256
"""Texts from this length on may be base64; shorter ones are paths."""
_NUMBERED = re.compile(r"image_?(\d+)")
_LETTERS = ascii_uppercase[:10]


class RowProblem(Exception):  # noqa: N818 -- a reason, which does not leave this package
    """A row that cannot be asked; its text is the reason."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table by the part of a question that they hold; a part may have several, or none."""

    of: Mapping[str, tuple[str, ...]]

    @classmethod
    def find(cls, names: Sequence[str], given: Mapping[str, Any], source: str) -> Columns:
        """Find the columns of a table.

        Args:
            names: Names of its columns.
            given: For some parts of a question the column, or a list of them.
            source: Name of the table in messages.

        Raises:
            ConfigurationError: If a part is not known, or a column is not there or not found.
        """
        there = ", ".join(map(repr, names)) or "none"
        found: dict[str, tuple[str, ...]] = {}
        for part, value in given.items():
            if part not in ALIASES:
                raise ConfigurationError(f"columns has no part {part!r:.80}. {did_you_mean(part, ALIASES)}")
            wanted = [value] if isinstance(value, str) else value
            if not isinstance(wanted, list | tuple) or not all(
                isinstance(one, str) for one in cast("list[object]", wanted)
            ):
                raise ConfigurationError(f"columns[{part!r}]={value!r:.80} must be the name of a column, or a list.")
            for name in cast("list[str]", wanted):
                if name not in names:
                    raise ConfigurationError(f"{source} has no column {name!r:.80}. Its columns: {there:.500}.")
            found[part] = tuple(cast("list[str]", wanted))
        for part, aliases in ALIASES.items():
            if part not in found:
                found[part] = tuple(name for name in aliases if name in names)[:1]
        if not found["image"]:
            numbered = [(int(match[1]), name) for name in names if (match := _NUMBERED.fullmatch(name))]
            found["image"] = tuple(name for _, name in sorted(numbered))
        if not found["choices"]:
            found["choices"] = tuple(letter for letter in _LETTERS if letter in names)
        for part in NEEDED:
            if not found[part]:
                raise ConfigurationError(
                    f"{source} has no column for the {part}: looked for were {', '.join(ALIASES[part])}, and its "
                    f"columns are {there:.500}. Name it with columns={{{part!r}: NAME}}."
                )
        return cls(found)


@dataclass(frozen=True, slots=True)
class RowOptions:
    """Options of the reading of rows.

    Attributes:
        rule: Rule for all answers; None infers one for each row.
        tolerance: Tolerance of numbers, where a row has none.
        relative_tolerance: The same as a fraction of the right number.
        box_format: ``"xyxy"`` or ``"xywh"``.
        max_pixels: Most pixels that a picture may have.
        folder: Folder that paths of pictures are relative to, and must not leave; None for rows in memory.
        table: Name of the table in messages.
        literals: True if texts of answers may be Python's lists, as in VLMEvalKit's files.
    """

    rule: Rule | None = None
    tolerance: float = 0.0
    relative_tolerance: float = 0.0
    box_format: str = "xyxy"
    max_pixels: int = 64_000_000
    folder: str | None = None
    table: str = "the rows"
    literals: bool = False


def read_row(
    number: int, row: Mapping[str, Any], columns: Columns, options: RowOptions, pictures: Sequence[Item] | None = None
) -> VisualQuestion:
    """Read a row.

    Args:
        number: Its number, which is its id where it has none.
        row: Values of its columns.
        columns: The columns.
        options: Options.
        pictures: Its pictures, where they were listed before; None reads them from the row.

    Raises:
        RowProblem: If it cannot be asked.
    """

    def value(part: str) -> Any:  # noqa: ANN401 -- any value
        names = columns.of[part]
        return plain(row.get(names[0])) if names else None

    identity = _text(value("id")).strip() or str(number)
    text = value("question")
    if not isinstance(text, str) or not text.strip():
        raise RowProblem("there is no question")
    hint = _text(value("hint")).strip()
    choices = _choices([row.get(name) for name in columns.of["choices"]])
    rule = _rule(value("rule"), options.rule)
    answers = _answers(value("answer"), literals=options.literals and not choices)
    if choices and rule in (None, "choice"):
        answers = [_letter(answer, choices) for answer in answers]
    texts = tuple(_text(answer).strip() for answer in answers)
    tolerance = value("tolerance")
    if tolerance is not None and not is_number(tolerance, 0, 1e9):
        raise RowProblem(f"the tolerance {tolerance!r:.40} is no number of at least 0")
    key = AnswerKey(
        rule or infer_rule(texts, choices),
        texts,
        choices if rule in (None, "choice") else {},
        options.tolerance if tolerance is None else float(tolerance),
        options.relative_tolerance,
    )
    problem = key.problem()
    if problem is not None:
        raise RowProblem(problem)
    if len(text) + len(hint) > MAX_QUESTION or sum(map(len, choices.values())) > MAX_QUESTION:
        raise RowProblem(f"the question, or its options, have more than {MAX_QUESTION:,} characters")
    box = _box(value("box"), options.box_format)
    items = tuple(_pictures([row.get(name) for name in columns.of["image"]], options) if pictures is None else pictures)
    if not 1 <= len(items) <= MAX_PICTURES:
        raise RowProblem(f"it has {len(items)} images, and 1 to {MAX_PICTURES} can be shown")
    asked = _marked(f"Hint: {hint}\n{text}" if hint else text, len(items))
    return VisualQuestion(identity, asked, key, items, _text(value("label")).strip()[:100], box)


def _text(value: object) -> str:
    """Return a value of a table as a text: empty for none, numbers as they are written."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def _rule(value: object, default: Rule | None) -> Rule | None:
    if value is None or value == "":
        return default
    if value not in RULES:
        raise RowProblem(f"the rule {value!r:.40} is none of {', '.join(RULES)}")
    return value


def _choices(values: Sequence[Any]) -> dict[str, str]:
    """Return the options by letter: those of one column with a list or a mapping, or of a column for each."""
    given: list[Any] = list(values)
    if len(values) == 1:
        only: Any = plain(values[0])
        if isinstance(only, str):
            only = read_list(only)
            if only is None and str(values[0]).strip():
                raise RowProblem("the choices are no list")
        if isinstance(only, Mapping):
            mapping = cast("Mapping[str, Any]", only)
            only = mapping["text"] if set(mapping) == {"text", "label"} else list(mapping.values())
        given = list(cast("Sequence[Any]", only or []))
    texts = [_text(value).strip() for value in given]
    while texts and not texts[-1]:
        texts.pop()
    if any(not text for text in texts):
        raise RowProblem("a choice before the last one is empty")
    if len(texts) == 1 or len(texts) > len(ascii_uppercase):
        raise RowProblem(f"it has {len(texts)} choices, and 2 to {len(ascii_uppercase)} can be asked")
    if len(set(texts)) < len(texts):
        raise RowProblem("two choices are the same")
    return {letter: text.replace(IMAGE_MARK, "<image >") for letter, text in zip(ascii_uppercase, texts, strict=False)}


def _answers(value: Any, *, literals: bool) -> list[Any]:  # noqa: ANN401 -- any value
    if isinstance(value, list | tuple):
        return list(cast("list[Any]", value))
    if literals and isinstance(value, str):
        return list(read_list(value) or [value])
    return [value]


def _letter(answer: Any, choices: Mapping[str, str]) -> str:  # noqa: ANN401 -- any value
    """Return the letter of the right option, which may be given by letter, by text, or by a whole number from 0."""
    letters = list(choices)
    if type(answer) is int:
        if not 0 <= answer < len(letters):
            raise RowProblem(f"the answer {answer} is none of the {len(letters)} choices, counted from 0")
        return letters[answer]
    text = _text(answer).strip()
    if not text:
        raise RowProblem("there is no answer")
    bare = text.strip("(). ").upper()
    if text in choices or (len(bare) == 1 and bare in choices and len(text) <= len("(A).")):
        return text if text in choices else bare
    named = [letter for letter, option in choices.items() if option == text]
    if len(named) != 1:
        raise RowProblem(
            f"the answer {text!r:.40} is none of the choices {', '.join(letters)}" if text else "no answer"
        )
    return named[0]


def _box(value: Any, form: str) -> Box | None:  # noqa: ANN401 -- any value
    """Return the smallest box around those of a row: four numbers, or a list of such."""
    if isinstance(value, str):
        numbers = read_list(value) if value.strip() else None
        if value.strip() and numbers is None:
            raise RowProblem("the box is no list of four numbers")
        value = None if numbers is None else [float(number) for number in numbers if re.fullmatch(r"[\d.+-]+", number)]
    if value is None or (isinstance(value, list | tuple) and not value):
        return None
    given: Any = plain(value)
    boxes = list(cast("list[Any]", given)) if isinstance(given, list | tuple) else [None]
    if not isinstance(boxes[0], list | tuple):
        boxes = [boxes]
    sides: list[list[float]] = []
    for box in boxes:
        if not isinstance(box, list | tuple) or len(cast("list[Any]", box)) != 4:
            raise RowProblem("the box is no list of four numbers")
        if not all(is_number(side, 0, 1e6) for side in cast("list[Any]", box)):
            raise RowProblem("the box has sides that are no numbers of at least 0")
        x1, y1, x2, y2 = (float(side) for side in cast("list[Any]", box))
        sides.append([x1, y1, x1 + x2, y1 + y2] if form == "xywh" else [x1, y1, x2, y2])
    x1, y1, x2, y2 = (pick(values) for pick, values in zip((min, min, max, max), zip(*sides, strict=True), strict=True))
    if x1 >= x2 or y1 >= y2:
        raise RowProblem("the box is empty: it is x1, y1, x2, y2 with x1 < x2 and y1 < y2")
    return x1, y1, x2, y2


def _marked(text: str, count: int) -> str:
    """Return a question without image marks: names of the pictures stand where it has one for each of several."""
    marks = text.count(IMAGE_MARK)
    if marks == count == 1:
        return text.replace(IMAGE_MARK, "").strip()
    if marks == count:
        for number in range(1, count + 1):
            text = text.replace(IMAGE_MARK, f"image_{number}", 1)
        return text.strip()
    return text.replace(IMAGE_MARK, "<image >").strip()


def _pictures(values: Sequence[Any], options: RowOptions) -> list[Item]:
    items: list[Item] = []
    for value in values:
        entries: list[Any] = list(cast("Sequence[Any]", value)) if isinstance(value, list | tuple) else [value]
        for entry in entries:
            if entry is None or (isinstance(entry, str) and not entry.strip()):
                continue
            try:
                items.append(make_item(entry, f"image {len(items) + 1}", options))
            except ImageError as error:
                raise RowProblem(str(error)) from error
    if not items:
        raise RowProblem("there is no image")
    return items


def make_item(value: Any, name: str, options: RowOptions) -> Item:  # noqa: ANN401 -- any value
    """Return a picture of a row: encoded, decoded, by path, as base64, or a mapping of ``bytes`` and ``path``.

    Raises:
        ImageError: If it is none of these, or cannot be used.
    """
    if isinstance(value, Mapping):
        parts = cast("Mapping[str, Any]", value)
        value = parts.get("bytes") or parts.get("path")
    if isinstance(value, os.PathLike):
        value = os.fspath(cast("os.PathLike[str]", value))
    if isinstance(value, str):
        head, comma, rest = value.partition(",")
        data = rest if comma and head.startswith("data:image/") and head.endswith(";base64") else value
        if data is not value or (len(value) > _BASE64 and not os.path.isfile(value)):
            value = from_base64(data, name)
        else:
            return _file(value, options)
    if isinstance(value, bytes | bytearray):
        encoded = bytes(value)
        problem = header_problem(io.BytesIO(encoded), options.max_pixels)
        if problem is not None:
            raise ImageError(f"{name}: {problem}")
        return BytesItem(name, hash_bytes(encoded), encoded)
    if isinstance(value, Image.Image | np.ndarray):
        return ArrayItem.of(cast("Any", value), name, options.max_pixels)
    raise ImageError(f"{name} is of type {type(value).__name__}, no image")


def _file(path: str, options: RowOptions) -> Item:
    found = os.path.expanduser(path) if options.folder is None else file_inside(options.folder, path, options.table)
    if not os.path.isfile(found):
        raise ImageError(f"the image {path!r:.200} does not exist")
    item = scan_file(found, path[:200], options.max_pixels)
    if isinstance(item, SkippedImage):
        raise ImageError(f"the image {path!r:.200}: {item.reason}")
    return item
