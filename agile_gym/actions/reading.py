"""Parsers shared by all dialects: fences, JSON, lists, whole numbers and the names of pieces.

Models write one thing in many ways: ``90.0`` for 90, ``"Image A"`` for ``"A"``, JSON within a string or a code fence.
Unambiguous forms are read; everything else is for the caller to refuse.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn, cast

from agile_gym.actions.primitives import quote

__all__ = ["PieceNames", "piece_reader", "read_json", "read_list", "read_whole", "unfenced"]

MAX_LAYERS = 3
"""Largest number of fences, or strings of JSON, around one another."""
MAX_WHOLE = 10**9
MAX_NAME = 80
_SHOWN = 4
_SPELLINGS = 2

_LANGUAGE = "json5?|jsonc|python3?|py|text|txt|plaintext|tool_call|tool_code|javascript|js"
# Possessive, so that no run of blanks is tried in every length. A word on a line of its own is a language, whichever;
# in front of the text, only a known one.
_FENCE = re.compile(
    r"(?:`{3,}+|~{3,}+)(?:"
    r"[ \t]*+[^\s`~()\[\]\"',;]*+(?:[ \t]++[\w-]++=[^\s`]*+)*+[ \t]*+(?=[\r\n]|\Z)"
    rf"|[ \t]*+(?:{_LANGUAGE})(?=[\s\[{{(\"])"
    r")?",
    re.IGNORECASE,
)
_QUOTES = str.maketrans("\u201c\u201d\u201e\u2018\u2019", '"""\'\'')
_TOKEN = re.compile(
    r"\s*+(?:(?P<open>[\[(])|(?P<close>[\])])|(?P<comma>,)|'(?P<single>[^'\\\r\n]*+)'|\"(?P<double>[^\"\\\r\n]*+)\""
    r"|(?P<number>-?[0-9]++(?:\.[0-9]*+)?+)|(?P<word>[A-Za-z]++(?:[ _]++[A-Za-z]++)*+))\s*+"
)
_MARKS = {"open": "[", "close": "]", "comma": ","}
_CONSTANTS = ("null", "true", "false", "None", "True", "False", "NaN", "nan", "Infinity", "inf")
_AROUND = " \t\r\n\f\v\"'`()[]{}<>*.,:;"
_SPELLED = re.compile(r"(?:the\s+)?(?:image|img|picture|piece|tile|part)[\s_:#.-]*([a-z]+)")


def unfenced(text: str) -> str:
    """Return a text without the code fence around it, whichever marks, language and ends of lines it has.

    A fence that lacks one of its two marks goes, too: the mark can be no part of code or JSON. The first line keeps its
    indentation where a fence was taken away.

    Args:
        text: A body, such as that of a code block.

    Returns:
        The content of the fence, or the text as it was if there is none.
    """
    if "`" not in text and "~" not in text:
        return text
    for _ in range(MAX_LAYERS):
        body = text.strip()
        if not body or (body[0] not in "`~" and body[-1] not in "`~"):
            return text
        opening = _FENCE.match(body)
        body = text.rstrip() if opening is None else body[opening.end() :]
        inside = body.rstrip(body[-1:]) if body[-1:] in ("`", "~") else body
        if len(body) - len(inside) >= 3:
            body = inside
        elif opening is None:
            bare = body.strip()
            if len(bare) < 2 or bare[0] != "`" or bare[-1] != "`":
                return text
            body = bare.strip("`")
        text = body.strip("\r\n")
    return text


def _no_constant(_: str) -> NoReturn:
    raise ValueError("not a number that JSON has")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def read_json(text: str) -> Any:  # noqa: ANN401 -- JSON
    """Read JSON, in a fence or not, which may itself be the JSON of a string that holds JSON.

    Raises:
        ValueError: If it is no JSON, or nested too deep; NaN and infinities are none.
    """
    value: Any = text
    for _ in range(MAX_LAYERS):
        value = _loads(unfenced(value))
        if not isinstance(value, str):
            break
    return value


def _loads(text: str) -> Any:  # noqa: ANN401 -- JSON
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_list(text: str) -> list[Any]:
    """Read a list: JSON, or one with other quotes or none around its words, such as ``['A', 'B']`` or ``[a, b]``.

    Raises:
        ValueError: If it is no list.
    """
    try:
        value = read_json(text)
    except ValueError:
        value = _loads(_as_json(unfenced(text).translate(_QUOTES)))
    if not isinstance(value, list):
        raise ValueError("not a list")
    return cast("list[Any]", value)


def _as_json(text: str) -> str:
    """Write a list of words, quoted or not, numbers and lists as JSON; whether it is one is left to JSON's reader."""
    parts: list[str] = []
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        kind = token and token.lastgroup
        if token is None or kind is None or token["word"] in _CONSTANTS:
            raise ValueError("not a list of words")
        place = token.end()
        if kind == "close" and parts[-1:] == [","] and parts[-2:] != ["[", ","]:
            parts.pop()
        mark = _MARKS.get(kind)
        if mark is None:
            mark = token["number"].rstrip(".") if kind == "number" else json.dumps(token[kind])
        parts.append(mark)
    return " ".join(parts)


def read_whole(value: object) -> int | None:
    """Return a whole number, be it written ``90`` or ``90.0``; None for anything else, a bool and NaN included.

    Numbers beyond a thousand million do not occur in a puzzle, and give None, too.
    """
    if type(value) is int:
        return value if -MAX_WHOLE <= value <= MAX_WHOLE else None
    if type(value) is float and value.is_integer() and -MAX_WHOLE <= value <= MAX_WHOLE:
        return int(value)
    return None


@lru_cache(maxsize=128)
def piece_reader(names: tuple[str, ...]) -> PieceNames:
    """Return the reader of the names of a puzzle's pieces; always the same for the same names."""
    return PieceNames(names)


class PieceNames:
    """The names of a puzzle's pieces, and the other ways in which a model writes them.

    Attributes:
        names: The names, in the order of the pieces.
    """

    __slots__ = ("_exact", "_folded", "_own", "names")

    def __init__(self, names: Sequence[str]) -> None:
        """Take the names of the pieces, in order."""
        self.names = tuple(names)
        self._exact = _only(self.names)
        self._own: frozenset[object] = frozenset(self._exact)
        self._folded = _only([name.lower() for name in self.names])

    def find(self, name: object) -> int | None:
        """Return the number of a piece, or None if the name is no piece's, or not of one piece alone.

        Args:
            name: A piece's own name; that in other letters, where no other piece has the same, with blanks, quotes or
                brackets around it, or after a word such as ``Image``; anything else names no piece.
        """
        if not isinstance(name, str):
            return None
        piece = self._exact.get(name)
        if piece is not None or len(name) > MAX_NAME or not name.isascii():
            return piece
        bare = name.strip(_AROUND)
        piece = self._exact.get(bare)
        if piece is None:
            piece = self._folded.get(bare.lower())
        if piece is None and (spelled := _SPELLED.fullmatch(bare.lower())):
            piece = self._exact.get(bare[spelled.start(1) :])
            piece = self._folded.get(spelled[1]) if piece is None else piece
        return piece

    def name(self, name: str) -> str:
        """Return the piece's own name for any way of writing it; a name of no piece is returned as it is."""
        piece = self.find(name)
        return name if piece is None else self.names[piece]

    def are_all(self, entries: Sequence[object]) -> bool:
        """Return whether entries are the pieces' own names, each of them once; the fast way to read most lists."""
        try:
            return len(entries) == len(self.names) and frozenset(entries) == self._own
        except TypeError:  # an entry that cannot be hashed
            return False

    def read_order(self, entries: Sequence[object]) -> tuple[list[int], str | None]:
        """Read the names of all pieces.

        Args:
            entries: Entry at each place.

        Returns:
            The piece at each place, -1 where none is named, and the reason why they are not every piece exactly once,
            such as ``"'A' is there 2 times; 'B' is missing"``; None if they are.
        """
        if self.are_all(entries):
            return [self._exact[cast(str, name)] for name in entries], None
        pieces = [-1 if piece is None else piece for piece in map(self.find, entries)]
        if len(pieces) == len(self.names) == len(set(pieces)) and -1 not in pieces:
            return pieces, None
        return pieces, self._problem(entries, pieces)

    def _problem(self, entries: Sequence[object], pieces: Sequence[int]) -> str:
        unknown = [entry for entry, piece in zip(entries, pieces, strict=True) if piece < 0]
        problems: list[str] = []
        if unknown:
            problems.append(_unknown(unknown[0]))
        counts = Counter(pieces)
        twice = next((piece for piece, count in counts.items() if piece >= 0 and count > 1), None)
        if twice is not None:
            written = [entry for entry, piece in zip(entries, pieces, strict=True) if piece == twice]
            kinds = list(dict.fromkeys(map(quote, written)))
            also = f" (as {' and '.join(kinds[:_SPELLINGS])})" if kinds != [quote(self.names[twice])] else ""
            problems.append(f"{quote(self.names[twice])} is there {counts[twice]} times{also}")
        missing = [name for piece, name in enumerate(self.names) if piece not in counts]
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            problems.append(f"{', '.join(map(quote, missing[:_SHOWN]))}{more} {_are(missing)} missing")
        return "; ".join(problems)


def _only(names: Sequence[str]) -> Mapping[str, int]:
    """Return the pieces by name, but for names that several of them have."""
    counts = Counter(names)
    return {name: piece for piece, name in enumerate(names) if counts[name] == 1}


def _are(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"


def _unknown(entry: object) -> str:
    is_short = isinstance(entry, str | float) or (isinstance(entry, int) and abs(entry) <= MAX_WHOLE)
    return f"There is no piece {quote(entry)}" if is_short else "An entry is not the name of a piece"
