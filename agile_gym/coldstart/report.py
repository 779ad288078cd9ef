"""What came of a cold start: figures, and tables to print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agile_gym.coldstart.filters import REASONS, Filters
from agile_gym.coldstart.quotas import Kind
from agile_gym.coldstart.steps import LOOKS

__all__ = ["ColdStartReport"]

_WORDS = {"board": "board only", "crop": "crop", "zoom": "zoom", "both": "crop and zoom"}


@dataclass(frozen=True)
class ColdStartReport:
    """What came of a cold start.

    Attributes:
        folder: Where the transcripts are.
        wanted: Episodes wanted.
        found: Episodes kept, by kind.
        attempts: Episodes played and judged.
        rejected: Those that were not kept, by reason (`agile_gym.coldstart.filters.REASONS`).
        short: Episodes missing by grid, number of turns and way of looking; 0 or "" where it is not balanced over that.
        actions: Turns of kept episodes that hold each primitive, by its name.
        steps: Turns of kept episodes by what an expert did in them.
    """

    folder: Path
    wanted: int
    found: Mapping[Kind, int]
    attempts: int
    rejected: Mapping[str, int]
    short: Mapping[tuple[str, int, str], int]
    actions: Mapping[str, int]
    steps: Mapping[str, int]

    @classmethod
    def of(cls, folder: Path, attempts: int, filters: Filters) -> ColdStartReport:
        """Sum up what the filters have counted."""
        quotas = filters.quotas
        return cls(
            folder,
            quotas.total,
            dict(sorted(quotas.found.items())),
            attempts,
            {reason: filters.rejected[reason] for reason in REASONS if filters.rejected[reason]},
            quotas.short(),
            dict(sorted(filters.actions.items())),
            dict(sorted(filters.steps.items())),
        )

    @property
    def kept(self) -> int:
        """Number of episodes kept."""
        return sum(self.found.values())

    @property
    def complete(self) -> bool:
        """Whether there are as many as were wanted."""
        return self.kept >= self.wanted

    def to_json(self) -> dict[str, Any]:
        """Return the figures in JSON's types."""
        return {
            "wanted": self.wanted,
            "kept": self.kept,
            "attempts": self.attempts,
            "rejected": dict(self.rejected),
            "found": [[*kind, count] for kind, count in self.found.items()],
            "short": [[*key, count] for key, count in self.short.items()],
            "actions": dict(self.actions),
            "steps": dict(self.steps),
        }

    def text(self) -> str:
        """Return the figures as tables: episodes by turns and looks for each grid, then turns by what is in them."""
        parts = [_table(grid, self.found) for grid in dict.fromkeys(kind.grid for kind in self.found)]
        for title, counts in (("Turns with", self.actions), ("Steps", self.steps)):
            if counts:
                parts.append(f"{title}: {', '.join(f'{name} {count:,}' for name, count in counts.items())}")
        rejected = "".join(f", {count:,} {REASONS[reason]}" for reason, count in self.rejected.items())  # pyright: ignore[reportArgumentType] -- its keys are reasons
        parts.append(f"Kept {self.kept:,} of {self.attempts:,} episodes played{rejected}.")
        return "\n".join(parts)

    def shortage(self) -> str:
        """Say how many episodes are wanted and were not found, and what may help; empty if none are missing."""
        if self.complete:
            return ""
        missing = sorted(self.short.items(), key=lambda item: -item[1])
        kinds = [f"{count:,} of {_describe(*key)}" for key, count in missing[:4]]
        more = f" and {len(missing) - 4:,} more kinds" if len(missing) > 4 else ""
        return (
            f"{self.wanted:,} episodes were wanted and {self.kept:,} were found in {self.attempts:,} attempts. Missing "
            f"are {', '.join(kinds)}{more}. Allow more attempts, take a better teacher, or ask for less balance."
        )


def _describe(grid: str, turns: int, looks: str) -> str:
    length = f" with {turns} turn{'s' if turns > 1 else ''}" if turns else ""
    return f"{grid}{length}{f' ({_WORDS[looks]})' if looks else ''}"


def _table(grid: str, found: Mapping[Kind, int]) -> str:
    kinds = {(kind.turns, kind.looks): count for kind, count in found.items() if kind.grid == grid}
    numbers = sorted({turns for turns, _ in kinds})
    lines = [f"{grid + ', turns:':16}" + "".join(f"{turns:>7}" for turns in numbers) + "    all"]
    for looks in LOOKS:
        row = [kinds.get((turns, looks), 0) for turns in numbers]
        lines.append(f"{_WORDS[looks]:16}" + "".join(f"{count:>7,}" for count in [*row, sum(row)]))
    columns = [sum(count for (turns, _), count in kinds.items() if turns == number) for number in numbers]
    lines.append(f"{'all':16}" + "".join(f"{count:>7,}" for count in [*columns, sum(columns)]))
    return "\n".join(lines)
