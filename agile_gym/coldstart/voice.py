"""How an expert puts its thoughts: in sentences, in a few words, or not at all.

What it says of pieces are claims, and each is true: `agile_gym.coldstart.claims` makes no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from agile_gym.coldstart.knowledge import Joint
from agile_gym.coldstart.seams import Border
from agile_gym.coldstart.sentences import FullVoice
from agile_gym.coldstart.words import ShortVoice, SilentVoice

__all__ = ["STYLES", "Voice", "make_voice"]

STYLES = ("full", "short", "none")
"""Sentences; a few words, each one token of the tiny model; or empty thoughts."""

Rows = Sequence[Sequence[str]]
"""Names of the pieces, row by row."""


class Voice(Protocol):
    """Puts thoughts into words; each method returns one thought.

    Attributes:
        most_reasons: Of how many of the pieces that are moved it says why.
    """

    most_reasons: int

    def fits(self, joint: Joint, *, clear: bool = True, colour: str | None = None) -> str:
        """Say that two pieces are neighbours, perhaps with the colour of their seam; less surely if it is not clear."""
        ...

    def misfit(self, joint: Joint, *, colours: tuple[str, str] | None = None) -> str:
        """Say that two pieces side by side are no neighbours, perhaps with the colours of the two borders."""
        ...

    def unclear(self, joint: Joint) -> str:
        """Say that the seam of two pieces does not tell whether they are neighbours."""
        ...

    def turned(self, angles: Sequence[tuple[int, int]]) -> str:
        """Say by how many degrees pieces must be turned clockwise."""
        ...

    def belongs(self, pieces: Sequence[tuple[int, int]]) -> str:
        """Say where pieces belong, given as (piece, place)."""
        ...

    def rows(self, rows: Rows) -> str:
        """Say how the solved board reads."""
        ...

    def all_fit(self) -> str:
        """Say that every piece of the board is in its place."""
        ...

    def was_wrong(self, first: int, second: int) -> str:
        """Say that the last swap, of these pieces, brought neither home."""
        ...

    def observe(self, *, first: bool, again: bool) -> str:
        """Say that the board is looked at: in the first turn, or once more after it changed, or otherwise."""
        ...

    def look_seam(self, joint: Joint) -> str:
        """Say that a seam is looked at."""
        ...

    def look_border(self, piece: int, border: Border) -> str:
        """Say that one border of a piece is looked at."""
        ...

    def enlarge(self, piece: int | None) -> str:
        """Say that a piece is enlarged, or, with None, the last crop."""
        ...

    def swap(self, pairs: Sequence[tuple[int, int]]) -> str:
        """Say which pieces are swapped, pair by pair."""
        ...

    def turn(self, pieces: Sequence[int]) -> str:
        """Say which pieces are turned upright."""
        ...

    def arrange(self) -> str:
        """Say that the pieces are put into a new order."""
        ...

    def attempt(self, first: int, second: int) -> str:
        """Say that two pieces are swapped to see whether that is better."""
        ...

    def undo(self, first: int, second: int) -> str:
        """Say that the swap of two pieces is taken back."""
        ...

    def slipped(self, kind: str) -> str:
        """Say what was wrong with the last action: ``"box"``, ``"factor"`` or ``"name"``."""
        ...

    def answer(self) -> str:
        """Say that the answer is given."""
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
    return ShortVoice(names) if style == "short" else SilentVoice(names)
