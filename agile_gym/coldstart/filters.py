"""Which episodes are kept: solved ones without mistakes of form, each puzzle and each text once, of missing kinds."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, cast

from agile_gym.coldstart.quotas import Quotas, kind_of
from agile_gym.rollout.transcript import Transcript

__all__ = ["REASONS", "Filters", "Reason", "puzzle_key", "text_key"]

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
"""Why an episode is not kept; the first reason that holds counts."""


def puzzle_key(transcript: Transcript) -> str:
    """Return a hash of the puzzle: of the pieces' pixels, in the order in which they are shown."""
    digest = hashlib.sha256(transcript.task["grid"].encode())
    for image in transcript.prompt_images:
        digest.update(repr(image.shape).encode())
        digest.update(image.tobytes())
    return digest.hexdigest()[:32]


def text_key(transcript: Transcript) -> str:
    """Return a hash of all that the policy wrote."""
    text = "\n".join(turn.text for turn in transcript.turns)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Filters:
    """Decides about one episode after the other, in the order of the attempts.

    Attributes:
        quotas: The episodes that are wanted, and those that are kept.
        rejected: How many were not kept, by reason.
        actions: Turns of kept episodes that hold each primitive, by its name.
        steps: Turns of kept episodes by what an expert did in them.
    """

    def __init__(self, quotas: Quotas, *, distinct_texts: bool, allow_errors: bool) -> None:
        """Begin.

        Args:
            quotas: The episodes that are wanted.
            distinct_texts: Whether every text is kept once only.
            allow_errors: Whether episodes with errors are kept, if they were solved in the end.
        """
        self.quotas = quotas
        self.rejected: Counter[Reason] = Counter()
        self.actions: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self._distinct = distinct_texts
        self._allow_errors = allow_errors
        self._puzzles: set[str] = set()
        self._texts: set[str] = set()

    def judge(self, transcript: Transcript) -> Reason | None:
        """Decide about an episode, and count it.

        Returns:
            Why it is not kept; None if it is.
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
            rejected: What was rejected before it, which `note` returned, too.
        """
        self._take(transcript, puzzle)
        self.rejected = Counter(cast("Mapping[Reason, int]", rejected))

    def note(self, transcript: Transcript) -> dict[str, Any]:
        """Return what must be kept beside an episode, just judged, so that the filters can be restored from it."""
        return {"puzzle": puzzle_key(transcript), "rejected": dict(sorted(self.rejected.items()))}

    def _take(self, transcript: Transcript, puzzle: str) -> None:
        self.quotas.add(kind_of(transcript))
        self.actions.update(name for turn in transcript.turns for name in set(turn.primitives))
        self.steps.update(transcript.details.get("steps", ()))
        self._puzzles.add(puzzle)
        self._texts.add(text_key(transcript))

    def _judge(self, transcript: Transcript, puzzle: str) -> Reason | None:
        kind = kind_of(transcript)
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
        """Tell whether there are errors that are not allowed; of an expert's, only those that were meant are."""
        errors = [turn.error is not None for turn in transcript.turns]
        if not self._allow_errors:
            return any(errors)
        steps = transcript.details.get("steps")
        return steps is not None and errors != [step == "slip" for step in steps]
