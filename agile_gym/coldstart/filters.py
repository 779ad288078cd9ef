"""Selection of episodes: solved, without mistakes of form, distinct, and balanced by quotas."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

from agile_gym.coldstart.steps import LOOKS, Cell, Looks
from agile_gym.errors import ConfigurationError, did_you_mean
from agile_gym.transcripts.record import Transcript

__all__ = [
    "BALANCES",
    "REASONS",
    "Filters",
    "Kind",
    "Quotas",
    "Reason",
    "kind_of",
    "puzzle_key",
    "share_out",
    "text_key",
]

BALANCES = ("both", "turns", "looks", "none")
"""Kinds that episodes are balanced over: numbers of turns and kinds of closer looks, one of the two, or only grids."""


class Kind(NamedTuple):
    """Kind that an episode is counted as.

    Attributes:
        grid: Such as ``"2x2"``.
        turns: Number of turns, the answer included.
        looks: Kind of its closer looks.
    """

    grid: str
    turns: int
    looks: Looks


def kind_of(transcript: Transcript, name: str | None = None) -> Kind:
    """Return the kind of an episode, from the actions carried out.

    Args:
        transcript: The episode.
        name: Name in place of its grid, if it is of another environment than the jigsaw.
    """
    done = {primitive for turn in transcript.turns for primitive in turn.primitives}
    looks = LOOKS[("Crop" in done) + 2 * ("Zoom" in done)]
    return Kind(transcript.task["grid"] if name is None else name, len(transcript.turns), looks)


def share_out(count: int, parts: int, shift: int = 0) -> list[int]:
    """Divide a number into parts that differ by at most 1; ``shift`` selects the part that gets one more first."""
    base, rest = divmod(count, parts)
    return [base + ((index - shift) % parts < rest) for index in range(parts)]


class Quotas:
    """Numbers of episodes of each kind: those wanted, and those found.

    Grids get equal shares; within a grid numbers of turns, and within these the kinds of looks that there is room for.

    Attributes:
        wanted: Episodes wanted by key: a kind, with 0 turns or no kind of looks where it is not balanced over these.
        found: Those that there are, by kind.
    """

    def __init__(self, count: int, grids: Sequence[str], cells: Mapping[str, Sequence[Cell]], balance: str) -> None:
        """Distribute the episodes over the kinds.

        Args:
            count: Number of episodes wanted.
            grids: The grids.
            cells: The kinds of episode that each grid has.
            balance: One of `BALANCES`.

        Raises:
            ConfigurationError: If the balance is unknown.
        """
        if balance not in BALANCES:
            raise ConfigurationError(f"balance={balance!r} is not allowed. {did_you_mean(balance, BALANCES)}")
        self._balance = balance
        self._allowed = {(grid, cell) for grid in grids for cell in cells[grid]}
        self.wanted: Counter[tuple[str, int, str]] = Counter()
        self.found: Counter[Kind] = Counter()
        for grid, part in zip(grids, share_out(count, len(grids)), strict=True):
            self._share_grid(grid, part, cells[grid])

    def _share_grid(self, grid: str, count: int, cells: Sequence[Cell]) -> None:
        if self._balance == "looks":
            ways = list(dict.fromkeys(cell.looks for cell in cells))
            for way, part in zip(ways, share_out(count, len(ways)), strict=True):
                self.wanted[grid, 0, way] = part
            return
        if self._balance == "none":
            self.wanted[grid, 0, ""] = count
            return
        numbers = sorted({cell.turns for cell in cells})
        for shift, (turns, part) in enumerate(zip(numbers, share_out(count, len(numbers)), strict=True)):
            ways = [cell.looks for cell in cells if cell.turns == turns] if self._balance == "both" else [""]
            for way, share in zip(ways, share_out(part, len(ways), shift), strict=True):
                self.wanted[grid, turns, way] = share

    def key_of(self, kind: Kind) -> tuple[str, int, str]:
        """Return the key that an episode of a kind is counted under."""
        turns = kind.turns if self._balance in ("both", "turns") else 0
        return kind.grid, turns, kind.looks if self._balance in ("both", "looks") else ""

    def knows(self, kind: Kind) -> bool:
        """Return whether episodes of a kind are required at all."""
        return (kind.grid, Cell(kind.turns, kind.looks)) in self._allowed

    def missing(self, kind: Kind) -> bool:
        """Return whether an episode of a kind is still missing."""
        key = self.key_of(kind)
        return self._count(key) < self.wanted[key]

    def add(self, kind: Kind) -> None:
        """Count an episode that is kept."""
        self.found[kind] += 1

    @property
    def total(self) -> int:
        """Number of episodes wanted."""
        return self.wanted.total()

    @property
    def complete(self) -> bool:
        """Return whether no episode is missing."""
        return self.found.total() >= self.total

    def short(self) -> dict[tuple[str, int, str], int]:
        """Return the number of missing episodes, by key, where any are."""
        missing = {key: count - self._count(key) for key, count in self.wanted.items()}
        return {key: count for key, count in missing.items() if count > 0}

    def _count(self, key: tuple[str, int, str]) -> int:
        return sum(count for kind, count in self.found.items() if self.key_of(kind) == key)


Reason = Literal["unsolved", "error", "form", "kind", "puzzle", "text", "surplus"]
REASONS: dict[Reason, str] = {
    "unsolved": "not solved",
    "error": "with a turn that was an error",
    "form": "with a turn that did not keep to the tags",
    "kind": "with more or fewer turns than wanted",
    "puzzle": "of a puzzle that there was already",
    "text": "with the text of another one",
    "surplus": "of a kind of which there were enough",
}
"""Reasons not to keep an episode; the first one that holds counts."""


def puzzle_key(transcript: Transcript) -> str:
    """Return a hash of the puzzle: of the pixels of the pieces, or images, in the order in which they are shown."""
    task = transcript.task
    digest = hashlib.sha256(str(task.get("grid", transcript.prompt)).encode())
    for image in transcript.prompt_images:
        digest.update(repr(image.shape).encode())
        digest.update(image.tobytes())
    return digest.hexdigest()[:32]


def text_key(transcript: Transcript) -> str:
    """Return a hash of all that the policy wrote."""
    text = "\n".join(turn.text for turn in transcript.turns)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Filters:
    """Filter that decides about one episode after the other, in the order of the attempts.

    Attributes:
        quotas: The episodes that are wanted, and those that are kept.
        rejected: Number of episodes that were not kept, by reason.
        actions: Turns of kept episodes that hold each primitive, by its name.
        steps: Turns of kept episodes by the expert's kind of step.
    """

    def __init__(self, quotas: Quotas, *, distinct_texts: bool, allow_errors: bool, name: str | None = None) -> None:
        """Begin.

        Args:
            quotas: The episodes that are wanted.
            distinct_texts: True if every text is kept once only.
            allow_errors: True if episodes with errors are kept, if they were solved in the end.
            name: Name of the environment, if it is another one than the jigsaw.
        """
        self.quotas = quotas
        self.rejected: Counter[Reason] = Counter()
        self.actions: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self._distinct = distinct_texts
        self._allow_errors = allow_errors
        self._name = name
        self._puzzles: set[str] = set()
        self._texts: set[str] = set()

    def judge(self, transcript: Transcript) -> Reason | None:
        """Decide about an episode, and count it.

        Returns:
            The reason not to keep it; None if it is kept.
        """
        puzzle = puzzle_key(transcript)
        reason = self._judge(transcript, puzzle)
        if reason is None:
            self._take(transcript, puzzle)
        else:
            self.rejected[reason] += 1
        return reason

    def restore(self, transcript: Transcript, puzzle: str, rejected: Mapping[str, int]) -> None:
        """Count an episode that was kept before.

        Args:
            transcript: The episode, perhaps without its images.
            puzzle: The hash of its puzzle, which `note` returned.
            rejected: Number rejected before it, by reason, which `note` returned, too.
        """
        self._take(transcript, puzzle)
        self.rejected = Counter(cast("Mapping[Reason, int]", rejected))

    def note(self, transcript: Transcript) -> dict[str, Any]:
        """Return the values to store with an episode, just judged, from which the filters can be restored."""
        return {"puzzle": puzzle_key(transcript), "rejected": dict(sorted(self.rejected.items()))}

    def _take(self, transcript: Transcript, puzzle: str) -> None:
        self.quotas.add(kind_of(transcript, self._name))
        self.actions.update(name for turn in transcript.turns for name in set(turn.primitives))
        self.steps.update(transcript.details.get("steps", ()))
        self._puzzles.add(puzzle)
        self._texts.add(text_key(transcript))

    def _judge(self, transcript: Transcript, puzzle: str) -> Reason | None:
        kind = kind_of(transcript, self._name)
        if not transcript.solved:
            return "unsolved"
        if self._has_errors(transcript):
            return "error"
        if transcript.reward["format"] < 1:
            return "form"
        if not self.quotas.knows(kind):
            return "kind"
        if puzzle in self._puzzles:
            return "puzzle"
        if self._distinct and text_key(transcript) in self._texts:
            return "text"
        return None if self.quotas.missing(kind) else "surplus"

    def _has_errors(self, transcript: Transcript) -> bool:
        """Return whether there are errors that are not allowed; of an expert's, only those that were meant are."""
        errors = [turn.error is not None for turn in transcript.turns]
        if not self._allow_errors:
            return any(errors)
        steps = transcript.details.get("steps")
        return steps is not None and errors != [step == "slip" for step in steps]
