"""Wording of an expert's thoughts: in sentences, in a few words of the tiny model, or none.

Its statements about pieces are claims, and each is true: `agile_gym.coldstart.looks` makes no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from agile_gym.coldstart.knowledge import Border, Joint

__all__ = ["STYLES", "FullVoice", "ShortVoice", "SilentVoice", "VerdictVoice", "Voice", "make_voice"]

_WAYS = {"right": " right of", "below": " below"}


class ShortVoice:
    """A few words a thought, all of them whole words of the tiny model's vocabulary."""

    most_reasons = 1

    def __init__(self, names: Sequence[str]) -> None:
        """Prepare.

        Args:
            names: Names of the pieces.
        """
        self._names = names

    def fits(self, joint: Joint, *, clear: bool = True, colour: str | None = None) -> str:
        """Write that two pieces are neighbours."""
        return f"{self._names[joint.second]}{_WAYS[joint.side]} {self._names[joint.first]}"

    def misfit(self, joint: Joint, *, colours: tuple[str, str] | None = None) -> str:
        """Write that two adjacent pieces are no neighbours."""
        return f"{self._names[joint.second]} not{_WAYS[joint.side]} {self._names[joint.first]}"

    def unclear(self, joint: Joint) -> str:
        """Return an empty thought."""
        return ""

    def turned(self, angles: Sequence[tuple[int, int]]) -> str:
        """Return an empty thought: the code states it."""
        return ""

    def belongs(self, pieces: Sequence[tuple[int, int]]) -> str:
        """Return an empty thought: the code states it."""
        return ""

    def rows(self, rows: Sequence[Sequence[str]]) -> str:
        """Return an empty thought: the next sentence states it."""
        return ""

    def all_fit(self) -> str:
        """Write that every piece of the board is in its place."""
        return "All fit"

    def was_wrong(self, first: int, second: int) -> str:
        """Write that the last swap brought neither piece home."""
        return "No"

    def observe(self, *, first: bool, again: bool) -> str:
        """Write that the board is looked at."""
        return "Look"

    def look_seam(self, joint: Joint) -> str:
        """Write that a seam is looked at."""
        return f"Look {self._names[joint.first]} {self._names[joint.second]}"

    def look_border(self, piece: int, border: Border) -> str:
        """Write that one border of a piece is looked at."""
        return f"Look {self._names[piece]} {border}"

    def enlarge(self, piece: int | None) -> str:
        """Write that a piece is enlarged, or, with None, the last crop."""
        return "Zoom" if piece is None else f"Zoom {self._names[piece]}"

    def swap(self, pairs: Sequence[tuple[int, int]]) -> str:
        """Name the pieces that are swapped, pair by pair."""
        return ". ".join(f"Swap {self._names[first]} {self._names[second]}" for first, second in pairs)

    def turn(self, pieces: Sequence[int]) -> str:
        """Name the pieces that are turned upright."""
        return " ".join(["Turn", *(self._names[piece] for piece in pieces)])

    def arrange(self) -> str:
        """Write that the pieces are put into a new order."""
        return "Order"

    def attempt(self, first: int, second: int) -> str:
        """Write that two pieces are swapped."""
        return self.swap([(first, second)])

    def undo(self, first: int, second: int) -> str:
        """Write that the swap of two pieces is taken back."""
        return self.swap([(first, second)])

    def slipped(self, kind: str) -> str:
        """Write that the last action was wrong."""
        return "No"

    def answer(self) -> str:
        """Return an empty thought: the answer follows."""
        return ""

    def join(self, thoughts: Sequence[str]) -> str:
        """Put thoughts together."""
        return ". ".join(thought for thought in thoughts if thought)


class VerdictVoice(ShortVoice):
    """One or two words a thought: whether the board is right, and how it is looked at."""

    def fits(self, joint: Joint, *, clear: bool = True, colour: str | None = None) -> str:
        """Return an empty thought."""
        return ""

    def misfit(self, joint: Joint, *, colours: tuple[str, str] | None = None) -> str:
        """Write that the board is not right."""
        return "No"

    def swap(self, pairs: Sequence[tuple[int, int]]) -> str:
        """Write that the board is not right: the code states the swap."""
        return "No"

    def arrange(self) -> str:
        """Write that the board is not right."""
        return "No"


class SilentVoice(ShortVoice):
    """Empty thoughts."""

    def join(self, thoughts: Sequence[str]) -> str:
        """Return nothing."""
        return ""


_COLOURFUL = 0.6
"""Fraction of claims that name colours, where there is one to name."""


class FullVoice:
    """Sentences, in varying words."""

    most_reasons = 3

    def __init__(self, rng: np.random.Generator, names: Sequence[str], cols: int) -> None:
        """Prepare.

        Args:
            rng: Source of randomness.
            names: Names of the pieces.
            cols: Number of columns of the board.
        """
        self._rng = rng
        self._names = names
        self._cols = cols

    def fits(self, joint: Joint, *, clear: bool = True, colour: str | None = None) -> str:
        """Write that two pieces are neighbours; less surely if it is not clearly visible."""
        first, second = self._pair(joint)
        border, way = ("right", "to the right of") if joint.side == "right" else ("bottom", "below")
        if not clear:
            return self._one_of(
                f"The {border} border of {first} seems to continue in {second}.",
                f"{second} seems to fit {way} {first}, although there is little to see at this border.",
            )
        if colour is not None and self._rng.random() < _COLOURFUL:
            return self._one_of(
                f"The {colour} at the {border} border of {first} goes on in {second}.",
                f"{first} ends in {colour} at its {border} border, and {second} goes on in {colour}.",
            )
        return self._one_of(
            f"The {border} border of {first} continues in {second}.",
            f"{second} fits {way} {first}: lines and colours run on across the border.",
            f"What is cut off at the {border} border of {first} goes on in {second}.",
            f"{second} continues {first} {'to the right' if joint.side == 'right' else 'downwards'}.",
        )

    def misfit(self, joint: Joint, *, colours: tuple[str, str] | None = None) -> str:
        """Write that two adjacent pieces are no neighbours."""
        first, second = self._pair(joint)
        border, way = ("right", "to the right of") if joint.side == "right" else ("bottom", "below")
        if colours is not None and self._rng.random() < _COLOURFUL:
            return self._one_of(
                f"{second} does not fit {way} {first}: {colours[0]} meets {colours[1]} there.",
                f"{first} is {colours[0]} at its {border} border and {second} is {colours[1]} there, so {second} does "
                f"not belong {way} {first}.",
            )
        return self._one_of(
            f"The {border} border of {first} does not continue in {second}.",
            f"{second} does not fit {way} {first}: the picture breaks off between them.",
            f"Between {first} and {second} lines and colours break off, so {second} does not belong {way} {first}.",
        )

    def unclear(self, joint: Joint) -> str:
        """Write that the seam of two pieces does not show whether they are neighbours."""
        first, second = self._pair(joint)
        return self._one_of(
            f"The seam between {first} and {second} does not tell enough.",
            f"From this seam I cannot tell whether {first} and {second} fit.",
        )

    def turned(self, angles: Sequence[tuple[int, int]]) -> str:
        """Write by how many degrees pieces must be turned clockwise."""
        parts = [f"{self._names[piece]} by {angle} degrees" for piece, angle in angles]
        return f"To stand upright, {_listed(parts)} must be turned clockwise."

    def belongs(self, pieces: Sequence[tuple[int, int]]) -> str:
        """Write where pieces belong, given as (piece, place)."""
        parts = [f"{self._names[piece]} belongs in {self._place(place)}" for piece, place in pieces]
        return self._one_of(f"So {_listed(parts)}.", f"That means that {_listed(parts)}.")

    def rows(self, rows: Sequence[Sequence[str]]) -> str:
        """Write the rows of the solved board."""
        parts = [f"row {number} is {', '.join(row)}" for number, row in enumerate(rows, 1)]
        return f"Put together, {'; '.join(parts)}."

    def all_fit(self) -> str:
        """Write that every piece of the board is in its place."""
        return self._one_of(
            "Now every border fits and the picture is whole.",
            "All pieces fit together now.",
            "The board shows one whole picture: every piece is in its place.",
        )

    def was_wrong(self, first: int, second: int) -> str:
        """Write that the last swap, of these pieces, brought neither home."""
        a, b = self._names[first], self._names[second]
        return self._one_of(
            f"Swapping {a} and {b} was wrong: neither of them is in its place.",
            f"That was a mistake: neither {a} nor {b} is in its place now.",
        )

    def observe(self, *, first: bool, again: bool) -> str:
        """Write that the board is looked at."""
        if first:
            return self._one_of("First I look at the board as it lies.", "I begin with a look at the whole board.")
        if again:
            return self._one_of("I look at the board again.", "Let me see the board as it is now.")
        return self._one_of("Let me see how the pieces lie now.", "Next I look at the whole board.")

    def look_seam(self, joint: Joint) -> str:
        """Write that a seam is looked at."""
        first, second = self._pair(joint)
        return self._one_of(
            f"I look closer at the seam between {first} and {second}.",
            f"Do {first} and {second} fit? I cut out the seam between them.",
            f"Let me check the border between {first} and {second}.",
        )

    def look_border(self, piece: int, border: Border) -> str:
        """Write that one border of a piece is looked at."""
        name = self._names[piece]
        return self._one_of(
            f"I look closer at the {border} border of {name}.",
            f"What is cut off at the {border} border of {name}? I crop it.",
        )

    def enlarge(self, piece: int | None) -> str:
        """Write that a piece is enlarged, or, with None, the last crop."""
        if piece is None:
            return self._one_of("That is small, so I enlarge it.", "I enlarge the crop to see it better.")
        name = self._names[piece]
        return self._one_of(f"I enlarge {name} to see its borders better.", f"Let me see {name} in a larger size.")

    def swap(self, pairs: Sequence[tuple[int, int]]) -> str:
        """Name the pieces that are swapped, pair by pair."""
        parts = [f"{self._names[first]} and {self._names[second]}" for first, second in pairs]
        return self._one_of(f"I swap {', then '.join(parts)}.", f"Swap {', then '.join(parts)}.")

    def turn(self, pieces: Sequence[int]) -> str:
        """Name the pieces that are turned upright."""
        return f"I turn {_listed([self._names[piece] for piece in pieces])} upright."

    def arrange(self) -> str:
        """Write that the pieces are put into a new order."""
        return self._one_of("I lay the pieces out in a new order.", "I write the new order of the pieces at once.")

    def attempt(self, first: int, second: int) -> str:
        """Write that two pieces are swapped to see whether that is better."""
        a, b = self._names[first], self._names[second]
        return self._one_of(
            f"Perhaps {a} and {b} have changed places. I swap them and check.",
            f"I am not sure about {a} and {b}. I try them the other way round.",
            f"Would it be better with {a} and {b} swapped? I try it.",
        )

    def undo(self, first: int, second: int) -> str:
        """Write that the swap of two pieces is taken back."""
        a, b = self._names[first], self._names[second]
        return self._one_of(f"I swap {a} and {b} back.", f"I take that back: {a} and {b} change places again.")

    def slipped(self, kind: str) -> str:
        """Write the error of the last action: ``"box"``, ``"factor"`` or ``"name"``."""
        return {
            "box": "My box was empty: x1 must be below x2, and y1 below y2. I correct it.",
            "factor": "That would have been too large. I take a smaller factor.",
            "name": "There is no image of that name. I use one that exists.",
        }[kind]

    def answer(self) -> str:
        """Write that the answer is given."""
        return self._one_of("This is my answer.", "I give this order as the answer.")

    def join(self, thoughts: Sequence[str]) -> str:
        """Put thoughts together."""
        return " ".join(thought for thought in thoughts if thought)

    def _pair(self, joint: Joint) -> tuple[str, str]:
        return self._names[joint.first], self._names[joint.second]

    def _place(self, place: int) -> str:
        row, col = divmod(place, self._cols)
        if len(self._names) == 4 and self._cols == 2:
            return f"the {('top', 'bottom')[row]} {('left', 'right')[col]} corner"
        return f"row {row + 1}, column {col + 1}"

    def _one_of(self, *phrases: str) -> str:
        return phrases[int(self._rng.integers(len(phrases)))]


def _listed(parts: Sequence[str]) -> str:
    """Join parts as in "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


STYLES = ("full", "short", "verdict", "none")
"""Sentences; a few words, each one token of the tiny model; whether the board is right; or empty thoughts."""

Rows = Sequence[Sequence[str]]
"""Names of the pieces, row by row."""


class Voice(Protocol):
    """Wording of thoughts; each method returns one thought.

    Attributes:
        most_reasons: Largest number of moved pieces for which reasons are given.
    """

    most_reasons: int

    def fits(self, joint: Joint, *, clear: bool = True, colour: str | None = None) -> str:
        """Write that two pieces are neighbours, perhaps with the colour of their seam; less surely if unclear."""
        ...

    def misfit(self, joint: Joint, *, colours: tuple[str, str] | None = None) -> str:
        """Write that two adjacent pieces are no neighbours, perhaps with the colours of the two borders."""
        ...

    def unclear(self, joint: Joint) -> str:
        """Write that the seam of two pieces does not show whether they are neighbours."""
        ...

    def turned(self, angles: Sequence[tuple[int, int]]) -> str:
        """Write by how many degrees pieces must be turned clockwise."""
        ...

    def belongs(self, pieces: Sequence[tuple[int, int]]) -> str:
        """Write where pieces belong, given as (piece, place)."""
        ...

    def rows(self, rows: Rows) -> str:
        """Write the rows of the solved board."""
        ...

    def all_fit(self) -> str:
        """Write that every piece of the board is in its place."""
        ...

    def was_wrong(self, first: int, second: int) -> str:
        """Write that the last swap, of these pieces, brought neither home."""
        ...

    def observe(self, *, first: bool, again: bool) -> str:
        """Write that the board is looked at: in the first turn, or once more after it changed, or otherwise."""
        ...

    def look_seam(self, joint: Joint) -> str:
        """Write that a seam is looked at."""
        ...

    def look_border(self, piece: int, border: Border) -> str:
        """Write that one border of a piece is looked at."""
        ...

    def enlarge(self, piece: int | None) -> str:
        """Write that a piece is enlarged, or, with None, the last crop."""
        ...

    def swap(self, pairs: Sequence[tuple[int, int]]) -> str:
        """Name the pieces that are swapped, pair by pair."""
        ...

    def turn(self, pieces: Sequence[int]) -> str:
        """Name the pieces that are turned upright."""
        ...

    def arrange(self) -> str:
        """Write that the pieces are put into a new order."""
        ...

    def attempt(self, first: int, second: int) -> str:
        """Write that two pieces are swapped to see whether that is better."""
        ...

    def undo(self, first: int, second: int) -> str:
        """Write that the swap of two pieces is taken back."""
        ...

    def slipped(self, kind: str) -> str:
        """Write the error of the last action: ``"box"``, ``"factor"`` or ``"name"``."""
        ...

    def answer(self) -> str:
        """Write that the answer is given."""
        ...

    def join(self, thoughts: Sequence[str]) -> str:
        """Put thoughts together."""
        ...


def make_voice(style: str, rng: np.random.Generator, names: Sequence[str], cols: int) -> Voice:
    """Return the voice of a style, one of `STYLES`.

    Args:
        style: The style.
        rng: Source of randomness, for styles in varying words.
        names: Names of the pieces.
        cols: Number of columns of the board.
    """
    if style == "full":
        return FullVoice(rng, names, cols)
    plain = {"short": ShortVoice, "verdict": VerdictVoice, "none": SilentVoice}
    return plain[style](names)
