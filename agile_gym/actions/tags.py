"""Parser of the tagged parts of a turn: reasoning, then code, tool calls or an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, cast

from agile_gym.actions.primitives import ActionError, Answer, quote
from agile_gym.actions.reading import piece_reader, read_list, read_whole

__all__ = [
    "MAX_TEXT",
    "STOP_TEXTS",
    "TurnText",
    "answer_span",
    "blank_thoughts",
    "has_action",
    "read_answer",
    "read_tags",
    "thoughts",
]

MAX_TEXT = 32_768
"""Longest text of a turn that is read, in characters."""
STOP_TEXTS = ("</code>", "</answer>", "</tool_call>")
"""Texts that end a turn: anything behind the action is not needed."""
MAX_TAGS = 64
MAX_ANSWER = 4000
MAX_ANGLE = 3600

_BEGINS_WITH_THOUGHT = re.compile(r"\s*+<think>")
_THINK_TAG = re.compile(r"</?think>")
_BLANK = "\0"

_Tag = tuple[str, str, int, int]
"""A slash if it closes, its name, and its begin and end."""
_Part = tuple[Literal["open", "close", "thought", "unopened", "unclosed"], str, int, int]
"""A tag outside the reasoning or a whole thought: its kind, its name, and its begin and end."""


class TurnText(NamedTuple):
    """A turn, cut at its tags.

    Attributes:
        kind: Name of the tag that holds the action: ``"answer"`` or the dialect's own.
        bodies: The texts inside the action's tags; one, but for tool calls.
        well_formed: True if the turn is one think block followed by the action, every tag present, paired and in order.
    """

    kind: str
    bodies: tuple[str, ...]
    well_formed: bool


def read_tags(text: str, action: str, *, several: bool = False) -> TurnText:
    """Find the action of a turn.

    Text between think tags is ignored, so that reasoning may mention all tags; a think block within one
    is a part of it. A thought whose opening tag the prompt has written begins with the turn.

    Args:
        text: Everything the model wrote in this turn.
        action: Name of the tag that holds actions in this dialect: ``"code"`` or ``"tool_call"``.
        several: True if a turn may hold several of them.

    Returns:
        The action's texts, and whether the turn keeps to the format.

    Raises:
        ActionError: If there is no action, more than one, or an unpaired tag.
    """
    if len(text) > MAX_TEXT:
        raise ActionError("text_too_long", f"The turn has {len(text)} characters; at most {MAX_TEXT} are read.")
    parts = _parts(text, action)
    if len(parts) > MAX_TAGS:
        raise ActionError("several_actions", f"The turn has {len(parts)} tags. {_ask(action)}")
    bodies: list[str] = []
    kinds: list[str] = []
    blocks: list[str] = []
    place = 0
    while place < len(parts):
        form, name, _, start = parts[place]
        place += 1
        if form == "open" and place < len(parts) and parts[place][0] == "close" and parts[place][1] == name:
            kinds.append(name)
            bodies.append(text[start : parts[place][2]])
            place += 1
        elif form == "unclosed":
            raise ActionError("unpaired_tags", f"The think block is not closed. {_ask(action)}")
        elif form in ("open", "close"):
            raise ActionError("unpaired_tags", f"The tag {name} is not opened and closed in order. {_ask(action)}")
        blocks.append(name if form != "unopened" else "reasoning that was not opened")
    foreign = [kind for kind in kinds if kind not in ("answer", action)]
    if not kinds or foreign:
        wrong = f"The tag {foreign[0]} is not used here" if foreign else "The turn has neither an action nor an answer"
        raise ActionError("no_action", f"{wrong}. {_ask(action)}")
    if len(kinds) > 1 and not (several and set(kinds) == {action}):
        raise ActionError("several_actions", f"The turn has more than one action. {_ask(action)}")
    return TurnText(kinds[0], tuple(bodies), blocks == ["think", *kinds])


def _parts(text: str, action: str) -> list[_Part]:
    """Cut a turn into its thoughts and the tags outside them, in order; takes time in proportion to the text."""
    tags: list[_Tag] = [(tag[1], tag[2], tag.start(), tag.end()) for tag in _tag_pattern(action).finditer(text)]
    parts: list[_Part] = []
    place, acted = 0, False
    while place < len(tags):
        slash, name, start, end = tags[place]
        if name != "think":
            parts.append(("close" if slash else "open", name, start, end))
            acted = True
        elif not slash:
            last = _end_of_thought(tags, place)
            if last is None:
                parts.append(("unclosed", name, start, len(text)))
                break
            parts.append(("thought", name, start, tags[last][3]))
            place = last
        elif acted and _BEGINS_WITH_THOUGHT.match(text):
            parts.append(("close", name, start, end))
        else:  # the opening tag may have been part of the prompt
            parts.clear()
            parts.append(("unopened", name, 0, end))
            acted = False
        place += 1
    return parts


def _end_of_thought(tags: Sequence[_Tag], place: int) -> int | None:
    """Return the tag that closes the thought which a tag opens, or None if none does."""
    if place + 1 < len(tags) and tags[place + 1][:2] == ("/", "think"):  # nearly always
        return place + 1
    depth, last_action = 0, -1
    closings: list[int] = []
    for number in range(place, len(tags)):
        slash, name, _, _ = tags[number]
        if name == "think":
            depth += -1 if slash else 1
            if depth == 0:
                return number
            if slash:
                closings.append(number)
        elif not slash:
            last_action = number
    # An opening tag was only mentioned. The thought ends before the action, if there is one behind it.
    before = [number for number in closings if number < last_action]
    return next(reversed(before or closings), None)


@lru_cache(maxsize=16)
def _tag_pattern(action: str) -> re.Pattern[str]:
    names = dict.fromkeys(("think", "answer", "code", "tool_call", action))
    return re.compile(f"<(/?)({'|'.join(map(re.escape, names))})>")


def has_action(text: str, action: str) -> bool:
    """Return whether an action's tag is opened outside the reasoning, in a turn that cannot be read."""
    return any(part[:2] == ("open", action) for part in _parts(text[:MAX_TEXT], action))


def _ask(action: str) -> str:
    return f"Write your reasoning in a think block, then exactly one block: {action} or answer."


def thoughts(text: str) -> list[tuple[int, int]]:
    """Return begin and end of the thoughts of a turn, tags included; one that is not closed ends with the turn."""
    return [part[2:] for part in _parts(text, "answer") if part[0] not in ("open", "close")]


def blank_thoughts(text: str, *, opened: bool | None = None) -> tuple[str, bool]:
    """Blank the thoughts of a turn that is being written, where each ends at its first closing tag.

    Args:
        text: The text of a turn, or the start of one.
        opened: True if a thought was opened before the text, as chat templates do; None if unknown: then it
            was if the text's first think tag closes one.

    Returns:
        A text of the same length with thoughts as null characters, tags left in place; and whether it ends in a
        thought.
    """
    tags = list(_THINK_TAG.finditer(text))
    inside = bool(tags) and tags[0][0] == "</think>" if opened is None else opened
    parts: list[str] = []
    place = 0
    for tag in tags:
        if (tag[0] == "<think>") != inside:
            parts += [_BLANK * (tag.start() - place) if inside else text[place : tag.start()], tag[0]]
            place, inside = tag.end(), not inside
    parts.append(_BLANK * (len(text) - place) if inside else text[place:])
    return "".join(parts), inside


def answer_span(text: str) -> tuple[int, int] | None:
    """Return begin and end of the text of a turn's last answer, or None if it has no answer.

    As everywhere, text between think tags is ignored.
    """
    start, span = None, None
    for part in _parts(text, "answer"):
        if part[:2] == ("open", "answer") and start is None:
            start = part[3]
        elif part[:2] == ("close", "answer") and start is not None:
            start, span = None, (start, part[2])
    return span


def read_answer(body: str, names: Sequence[str] = (), *, rotations: bool = False) -> Answer:
    """Read the text of an answer: a JSON list of piece names, or of [piece, angle] pairs.

    Names of pieces are read in every form that `agile_gym.actions.reading.PieceNames` does; others stay as they are,
    since a wrong answer is an answer.

    Args:
        body: The text between the answer tags.
        names: Names of the pieces.
        rotations: True if angles count in this puzzle; else they are dropped.

    Returns:
        The answer.

    Raises:
        ActionError: If the text is no such list.
    """
    if len(body) > MAX_ANSWER:
        raise _bad_answer(f"This one has more than {MAX_ANSWER} characters", rotations=rotations)
    try:
        entries = read_list(body)
    except ValueError:
        entries = None
    if not entries:
        raise _bad_answer("This is none", rotations=rotations)
    pieces = piece_reader(tuple(names))
    if pieces.are_all(entries):
        return Answer(tuple(entries), (0,) * len(entries) if rotations else None)
    order: list[str] = []
    turns: list[int] = []
    for entry in entries:
        pair = cast("list[Any]", entry) if isinstance(entry, list) else [entry, 0]
        if len(pair) != 2 or not isinstance(pair[0], str):
            shown = "" if isinstance(entry, list | dict) else f" {quote(entry)}"
            raise _bad_answer(f"The entry{shown} in place {len(order)} names no piece", rotations=rotations)
        angle = read_whole(pair[1])
        if angle is None or abs(angle) > MAX_ANGLE:
            raise _bad_answer(f"The angle of {quote(pair[0])} is no whole number of degrees", rotations=rotations)
        order.append(pieces.name(pair[0]))
        turns.append(angle % 360)
    return Answer(tuple(order), tuple(turns) if rotations else None)


def _bad_answer(problem: str, *, rotations: bool) -> ActionError:
    example = '[["B", 90], ["A", 0], ...]' if rotations else '["B", "A", ...]'
    return ActionError(
        "bad_answer", f"The answer must be a JSON list of all pieces, row by row, such as {example}. {problem}."
    )
