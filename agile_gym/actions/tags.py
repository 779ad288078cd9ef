"""Finds the tagged parts of a turn: reasoning, then code, tool calls or an answer."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import NamedTuple

from agile_gym.actions.primitives import ActionError, Answer

__all__ = [
    "MAX_TEXT",
    "STOP_TEXTS",
    "TurnText",
    "answer_span",
    "blank_thoughts",
    "has_action",
    "read_answer",
    "read_tags",
]

MAX_TEXT = 32_768
"""Longest text of a turn that is read, in characters."""
STOP_TEXTS = ("</code>", "</answer>", "</tool_call>")
"""Texts that end a turn: whatever a model writes behind its action is not needed."""
MAX_TAGS = 64
_END_OF_THINK = (False, "think")
MAX_ANSWER = 4000
MAX_ANGLE = 3600

_THINK_TAG = re.compile(r"</?think>")
_BLANK = "\0"
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class TurnText(NamedTuple):
    """A turn, cut at its tags.

    Attributes:
        kind: Name of the tag that holds the action: ``"answer"`` or the dialect's own.
        bodies: The texts inside the action's tags; one, but for tool calls.
        well_formed: Whether the turn is one think block followed by the action, every tag present, paired and in order.
    """

    kind: str
    bodies: tuple[str, ...]
    well_formed: bool


def read_tags(text: str, action: str, *, several: bool = False) -> TurnText:
    """Find the action of a turn.

    What stands between think tags is not looked at, so that reasoning may speak of the other tags.

    Args:
        text: Everything the model wrote in this turn.
        action: Name of the tag that holds actions in this dialect: ``"code"`` or ``"tool_call"``.
        several: Whether a turn may hold several of them.

    Returns:
        The action's texts, and whether the turn keeps to the format.

    Raises:
        ActionError: If there is no action, more than one, or an unpaired tag.
    """
    if len(text) > MAX_TEXT:
        raise ActionError("text_too_long", f"The turn has {len(text)} characters; at most {MAX_TEXT} are read.")
    tags = [(match[1] == "", match[2], match.start(), match.end()) for match in _tag_pattern(action).finditer(text)]
    if len(tags) > MAX_TAGS:
        raise ActionError("several_actions", f"The turn has {len(tags)} tags. {_ask(action)}")
    bodies: list[str] = []
    kinds: list[str] = []
    blocks: list[str] = []
    place = 0
    thinks = [opens for opens, name, _, _ in tags if name == "think"]
    if thinks and not thinks[0]:  # the opening tag may have been part of the prompt
        blocks.append("reasoning that was not opened")
        place = next(i for i, tag in enumerate(tags) if tag[1] == "think") + 1
    while place < len(tags):
        opens, name, _, start = tags[place]
        place += 1
        if name == "think" and opens:  # reasoning may speak of the other tags
            while place < len(tags) and tags[place][:2] != _END_OF_THINK:
                place += 1
        if not opens or place == len(tags) or tags[place][:2] != (False, name):
            raise ActionError("unpaired_tags", f"The tag {name} is not opened and closed in order. {_ask(action)}")
        blocks.append(name)
        if name != "think":
            kinds.append(name)
            bodies.append(text[start : tags[place][2]])
        place += 1
    foreign = [kind for kind in kinds if kind not in ("answer", action)]
    if not kinds or foreign:
        wrong = f"The tag {foreign[0]} is not used here" if foreign else "The turn has neither an action nor an answer"
        raise ActionError("no_action", f"{wrong}. {_ask(action)}")
    if len(kinds) > 1 and not (several and set(kinds) == {action}):
        raise ActionError("several_actions", f"The turn has more than one action. {_ask(action)}")
    return TurnText(kinds[0], tuple(bodies), blocks == ["think", *kinds])


@lru_cache(maxsize=16)
def _tag_pattern(action: str) -> re.Pattern[str]:
    names = dict.fromkeys(("think", "answer", "code", "tool_call", action))
    return re.compile(f"<(/?)({'|'.join(map(re.escape, names))})>")


def has_action(text: str, action: str) -> bool:
    """Tell whether an action's tag is opened outside the reasoning, in a turn that cannot be read."""
    return f"<{action}>" in blank_thoughts(text[:MAX_TEXT])[0]


def _ask(action: str) -> str:
    return f"Write your reasoning in a think block, then exactly one block: {action} or answer."


def blank_thoughts(text: str, *, opened: bool | None = None) -> tuple[str, bool]:
    """Blank what stands inside of think tags, which is not looked at anywhere.

    Args:
        text: The text of a turn, or the start of one.
        opened: Whether a thought was opened before the text, as chat templates do; None if that is not known: then it
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
    """Return where in a turn the text of its answer begins and ends, or None if it has no answer.

    As everywhere, what stands between think tags is not looked at.
    """
    found = _ANSWER.search(blank_thoughts(text)[0])
    return None if found is None else found.span(1)


def read_answer(body: str, *, rotations: bool = False) -> Answer:
    """Read the text of an answer: a JSON list of piece names, or of [piece, angle] pairs.

    Names are not checked against the puzzle: a wrong answer is an answer.

    Args:
        body: The text between the answer tags.
        rotations: Whether angles count in this puzzle; else they are dropped.

    Returns:
        The answer.

    Raises:
        ActionError: If the text is no such list.
    """
    expected = '["B", "A", ...]' if not rotations else '[["B", 90], ["A", 0], ...]'
    problem = ActionError(
        "bad_answer", f"The answer must be a JSON list of all pieces, row by row, such as {expected}."
    )
    if len(body) > MAX_ANSWER:
        raise problem
    text = body.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json").removeprefix("python").strip()
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        raise problem from None
    if not isinstance(entries, list) or not entries:
        raise problem
    names: list[str] = []
    turns: list[int] = []
    for entry in entries:  # pyright: ignore[reportUnknownVariableType] -- json.loads is untyped
        name, angle = entry if isinstance(entry, list) and len(entry) == 2 else (entry, 0)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] -- likewise
        if not isinstance(name, str) or not isinstance(angle, int) or abs(angle) > MAX_ANGLE:
            raise problem
        names.append(name)
        turns.append(angle % 360)
    return Answer(tuple(names), tuple(turns) if rotations else None)
