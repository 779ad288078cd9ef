"""Behaviours of a model in an episode: edges compared, positions named, closer looks, mistakes mended, answers checked.

What the model did tells of closer looks, mended mistakes and checked answers; of the other two tells what it wrote, by
the patterns below, which are English. They read sentences one by one and know no negation: a behaviour is that
something was considered, right or wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, cast

from agile_gym.actions.primitives import Answer, Crop, Zoom
from agile_gym.actions.tags import MAX_TEXT, thoughts
from agile_gym.transcripts.record import (
    Transcript,
    answer_of,
    arrangement_of,
    boards_seen,
    first_board,
    has_board,
    image_shown,
    places_right,
    turns_played,
)

__all__ = ["BEHAVIOURS", "compares_edges", "find_behaviours", "names_position", "reasoning_of"]

BEHAVIOURS = {
    "compare_edges": "compare edges",
    "name_positions": "name positions",
    "look_closer": "look closer",
    "mend_mistake": "notice and mend a mistake",
    "check_answer": "check before answering",
}
"""Names of the behaviours, and their titles."""


def find_behaviours(transcript: Transcript) -> dict[str, int | None]:
    """Find the turn in which an episode first shows each behaviour.

    Args:
        transcript: The episode. One that was given up is read like one that ran out of turns.

    Returns:
        For each of `BEHAVIOURS` that can be seen in such an episode the number of the turn, from 1, or None if it shows
        none. An environment without named pieces has neither ``compare_edges`` nor ``name_positions``, one without
        boards neither ``mend_mistake`` nor ``check_answer``, and one without a dialect of actions no ``look_closer``.

        - ``compare_edges``, ``name_positions``: the reasoning of the turn has a sentence of `compares_edges`,
          `names_position`;
        - ``look_closer``: the turn's image is a crop or zoom, and another turn follows;
        - ``mend_mistake``: the turn follows a board that shows a mistake, after which the state was changed, or another
          order answered, and a later board or the answer has more pieces in place. A mistake is a wrong board, not seen
          before, with no more pieces in place than the one before it, which is at first the board of the start;
        - ``check_answer``: the turn shows the board after the last change of the state, and an answer follows. Where
          nothing was changed, there is nothing to check.
    """
    task, found = transcript.task, dict[str, int | None]()
    turns = turns_played(transcript)
    names = _names(task.get("names"))
    if names:
        texts = [reasoning_of(turn.text) for turn in turns]
        found["compare_edges"] = _first([compares_edges(text, names) for text in texts])
        found["name_positions"] = _first([names_position(text, names) for text in texts])
    if names or "dialect" in task:
        closer = [(image_shown(turn) or (0, ""))[1] in (Crop.__name__, Zoom.__name__) for turn in turns[:-1]]
        found["look_closer"] = _first(closer)
    if names and has_board(transcript):
        found["mend_mistake"] = _mended(transcript)
        found["check_answer"] = _checked(transcript)
    return found


def _names(given: object) -> tuple[str, ...]:
    """Return the names of the pieces; none where they are no texts, or there are more than a puzzle has pieces."""
    names = cast("Sequence[object]", given) if isinstance(given, list | tuple) else ()
    known = tuple(name for name in names if isinstance(name, str))
    return known if len(known) == len(names) <= MAX_NAMES else ()


def _first(flags: Sequence[bool]) -> int | None:
    return flags.index(True) + 1 if True in flags else None


def _mended(transcript: Transcript) -> int | None:
    """Return the number, from 1, of the turn after the first mistake that was mended."""
    boards = boards_seen(transcript, answer_of(transcript))
    seen = [first_board(transcript)]
    right = places_right(transcript, seen[0])
    for place, board in enumerate(boards):
        later = [board.outcome or 0, *(other.outcome or 0 for other in boards[place + 1 :])]
        wrong = board.right < len(board.order) and board.right <= right and board.order not in seen
        if wrong and board.noticed and max(later) > board.right:
            return board.turn + 2
        seen.append(board.order)
        right = board.right
    return None


def _checked(transcript: Transcript) -> int | None:
    """Return the number, from 1, of the turn that shows the board as it was left, if an answer follows."""
    turns, boards = turns_played(transcript), boards_seen(transcript)
    if not boards or boards[-1].changed or turns[-1].primitives != (Answer.__name__,):
        return None
    states = [first_board(transcript), *(arrangement_of(turn.state) for turn in turns)]
    moved = any(state != states[0] for state in states)
    return boards[-1].turn + 1 if moved and boards[-1].order == states[-1] else None


_THINK = re.compile(r"</?think>")
_ACTION = re.compile(r"<(/?)(code|tool_call|answer)>")
_SENTENCES = re.compile(r"(?<=[.!?;])\s+|\n+")


def reasoning_of(text: str) -> str:
    """Return the reasoning of a turn: its thoughts, and then whatever else stands outside of actions and answers."""
    text = text[:MAX_TEXT]
    inside: list[str] = []
    outside: list[str] = []
    place = 0
    for start, end in thoughts(text):
        outside.append(text[place:start])
        inside.append(_THINK.sub("\n", text[start:end]))
        place = end
    outside.append(text[place:])
    return "\n".join([*inside, _without_actions("\n".join(outside))])


def _without_actions(text: str) -> str:
    parts: list[str] = []
    place, opened = 0, ""
    for tag in _ACTION.finditer(text):
        if not opened and not tag[1]:
            parts.append(text[place : tag.start()])
            opened = tag[2]
        elif opened == tag[2] and tag[1]:
            place, opened = tag.end(), ""
    return "\n".join([*parts, "" if opened else text[place:]])


_EDGE = re.compile(r"\b(?:edge|border|boundar(?:y|ies)|seam)s?\b", re.IGNORECASE)
_FIT = re.compile(
    r"\b(?:fit(?:s|ted|ting)?|(?:mis)?match(?:es|ed|ing)?|align(?:s|ed|ing|ment)?|connect(?:s|ed|ing|ion)?|joins?|joined|"
    r"continu(?:e|es|ed|ing|ation|ity|ous)(?! with\b)|lin(?:e|es|ed|ing) up|runs? on|go(?:es)? on(?! with\b)|"
    r"breaks? off|compar(?:e|es|ed|ing|ison)|correspond(?:s|ing)?)\b",
    re.IGNORECASE,
)
_VERBS = (
    "is|are|was|and|or|has|had|to|in|at|on|with|fits?|goes|belongs?|should|must|does|do|can|cannot|could|may|might|will|"
    "would|seems?|looks?|shows?|ends|continues?|matches|match|connects?|joins?|needs|lies|sits|contains?|not|right|left|"
    "below|above|beside|next|under"
)
_ARTICLE = re.compile(rf"[\W_]*A (?!(?:{_VERBS})\b)[a-z]")
"""A sentence that begins with the article "A", which is no piece."""


_WORDS = ("I", "i", "a")
"""Names that are words, too: they count in quotes, or behind a noun such as "piece"."""
_WHERE = (
    r"(?:top|upper|bottom|lower|middle)[- ](?:left|right|cent(?:er|re)|middle)|cent(?:er|re)|"
    r"(?:row|column|place|position|cell|slot|spot|square|index)s? ?#?(?:\d+|one|two|three|four)|"
    r"(?:first|second|third|fourth|fifth|last|\d+(?:st|nd|rd|th)|top|bottom|middle|left|right|upper|lower)(?:most)?"
    r"[- ](?:row|column|place|position|cell|slot|spot|quadrant)"
)
_BESIDE = r"right of|left of|below|above|under|underneath|beneath|on top of|next to|beside"
MAX_NAMES = 100
"""Most pieces of a puzzle whose names are looked for."""


class _Patterns(NamedTuple):
    """Patterns that depend on the names of the pieces.

    Attributes:
        piece: A piece's name, in one of the groups.
        place: A place of the board, but not one of a single piece.
        beside: A place relative to a piece.
    """

    piece: re.Pattern[str]
    place: re.Pattern[str]
    beside: re.Pattern[str]


@lru_cache(maxsize=64)
def _patterns(names: tuple[str, ...]) -> _Patterns:
    by_length = [re.escape(name) for name in sorted(names, key=len, reverse=True)]
    name = rf"[\"'`]?(?:{'|'.join(by_length)})(?!\w)"
    bare = "|".join(one for one in by_length if one not in _WORDS) or r"(?!)"
    one_of = "|".join(by_length)
    noun = r"(?i:piece|tile|image|part|patch|fragment)s?"
    of_piece = (
        rf"(?: \w+)? of (?:(?i:the|this|that|each|every) )?(?:(?i:piece|tile|part|patch|fragment)|(?:{noun} )?{name})"
    )
    return _Patterns(
        re.compile(rf"{noun} [\"'`]?({one_of})(?!\w)|[\"'`]({one_of})[\"'`]|(?<![\w'.])({bare})(?!\w)"),
        re.compile(rf"(?<!['\u2019]s )\b(?i:{_WHERE})\b(?!{of_piece})"),
        re.compile(rf"\b(?i:{_BESIDE}) (?:(?i:the) )?(?:{noun} )?{name}"),
    )


def _pieces(sentence: str, patterns: _Patterns) -> set[str]:
    """Return the names of the pieces that a sentence mentions."""
    article = _ARTICLE.match(sentence)
    mentions = patterns.piece.finditer(sentence, article.end() - 1 if article else 0)
    return {next(filter(None, mention.groups())) for mention in mentions}


def compares_edges(text: str, names: Sequence[str]) -> bool:
    """Return whether a sentence compares edges of pieces.

    It has two of three: a word for an edge (edge, border, boundary, seam), a word for fitting (fit, match, align,
    continue, connect, join, line up, run on, go on, break off, compare, correspond), two different pieces.

    Args:
        text: Result of `reasoning_of`.
        names: Names of the pieces, as they are spelt.
    """
    patterns = _patterns(tuple(names))
    for sentence in _SENTENCES.split(text):
        edge, fit = _EDGE.search(sentence) is not None, _FIT.search(sentence) is not None
        if (edge and fit) or ((edge or fit) and len(_pieces(sentence, patterns)) > 1):
            return True
    return False


def names_position(text: str, names: Sequence[str]) -> bool:
    """Return whether a sentence names the position of a piece.

    It has a piece and a place of the board (top left, centre, row 2, second column, position 3, ...), which is not a
    part of a piece ("the top left of A"); or two pieces, one of them right of, left of, below, above or next to the
    other.

    Args:
        text: Result of `reasoning_of`.
        names: Names of the pieces, as they are spelt.
    """
    patterns = _patterns(tuple(names))
    for sentence in _SENTENCES.split(text):
        count = len(_pieces(sentence, patterns))
        if count and (patterns.place.search(sentence) or (count > 1 and patterns.beside.search(sentence))):
            return True
    return False
