"""Thoughts in a few words, each one token of the tiny model (`agile_gym.policies.tiny.words`), or none at all."""

from __future__ import annotations

from collections.abc import Sequence

from agile_gym.coldstart.knowledge import Joint
from agile_gym.coldstart.seams import Border

__all__ = ["ShortVoice", "SilentVoice"]

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
        """Say that two pieces are neighbours."""
        return f"{self._names[joint.second]}{_WAYS[joint.side]} {self._names[joint.first]}"

    def misfit(self, joint: Joint, *, colours: tuple[str, str] | None = None) -> str:
        """Say that two pieces side by side are no neighbours."""
        return f"{self._names[joint.second]} not{_WAYS[joint.side]} {self._names[joint.first]}"

    def unclear(self, joint: Joint) -> str:
        """Say nothing."""
        return ""

    def turned(self, angles: Sequence[tuple[int, int]]) -> str:
        """Say nothing: the code tells it."""
        return ""

    def belongs(self, pieces: Sequence[tuple[int, int]]) -> str:
        """Say nothing: the code tells it."""
        return ""

    def rows(self, rows: Sequence[Sequence[str]]) -> str:
        """Say nothing: what is written next tells it."""
        return ""

    def all_fit(self) -> str:
        """Say that every piece of the board is in its place."""
        return "All fit"

    def was_wrong(self, first: int, second: int) -> str:
        """Say that the last swap brought neither piece home."""
        return "No"

    def observe(self, *, first: bool, again: bool) -> str:
        """Say that the board is looked at."""
        return "Look"

    def look_seam(self, joint: Joint) -> str:
        """Say that a seam is looked at."""
        return f"Look {self._names[joint.first]} {self._names[joint.second]}"

    def look_border(self, piece: int, border: Border) -> str:
        """Say that one border of a piece is looked at."""
        return f"Look {self._names[piece]} {border}"

    def enlarge(self, piece: int | None) -> str:
        """Say that a piece is enlarged, or, with None, the last crop."""
        return "Zoom" if piece is None else f"Zoom {self._names[piece]}"

    def swap(self, pairs: Sequence[tuple[int, int]]) -> str:
        """Say which pieces are swapped, pair by pair."""
        return ". ".join(f"Swap {self._names[first]} {self._names[second]}" for first, second in pairs)

    def turn(self, pieces: Sequence[int]) -> str:
        """Say which pieces are turned upright."""
        return " ".join(["Turn", *(self._names[piece] for piece in pieces)])

    def arrange(self) -> str:
        """Say that the pieces are put into a new order."""
        return "Order"

    def attempt(self, first: int, second: int) -> str:
        """Say that two pieces are swapped."""
        return self.swap([(first, second)])

    def undo(self, first: int, second: int) -> str:
        """Say that the swap of two pieces is taken back."""
        return self.swap([(first, second)])

    def slipped(self, kind: str) -> str:
        """Say that the last action was wrong."""
        return "No"

    def answer(self) -> str:
        """Say nothing: the answer follows."""
        return ""

    def join(self, thoughts: Sequence[str]) -> str:
        """Put thoughts together."""
        return ". ".join(thought for thought in thoughts if thought)


class SilentVoice(ShortVoice):
    """Empty thoughts."""

    def join(self, thoughts: Sequence[str]) -> str:
        """Return nothing."""
        return ""
