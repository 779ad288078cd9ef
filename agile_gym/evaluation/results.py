"""What came of each episode of an evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from agile_gym.actions.primitives import ActionError, Answer
from agile_gym.actions.tags import read_answer, read_tags
from agile_gym.arguments import is_number
from agile_gym.evaluation.plan import PuzzleKey, Task
from agile_gym.rollout.transcript import Transcript, TurnUsage

__all__ = ["EpisodeResult", "result_of"]

MAX_COUNT = 2**53
"""Largest number of a result that is read."""


@dataclass(frozen=True)
class EpisodeResult:
    """What came of one episode.

    Attributes:
        grid: Such as ``"3x3"``.
        level: How many pieces started in their place.
        episode: Number of the puzzle within grid and level.
        sample: How often the puzzle was played before.
        seed: Seed of the environment.
        image_id: SHA-256 of the photograph.
        solved: Whether every piece was right.
        score: Share of pieces right, 0 to 1.
        turns: Turns taken.
        errors: How many turns could not be carried out, by kind of error.
        primitives: How many primitives were carried out, by name, such as ``"Swap"``.
        reward: The parts of the reward, as in `agile_gym.rewards.RewardParts`.
        seconds: ``policy``: from each observation to the text, added up; in a batch, each turn takes the time of the
            whole batch. ``env``: the environment's steps.
        tokens: ``context``: tokens that all turns together were written in; ``computed``: those of them that had to be
            computed; ``new``: tokens written. None where the policy does not tell.
        answer: The answer as the model wrote it: names, or [name, angle] pairs; None if there was none.
        given_up: Kind of the error with which the policy gave the episode up, which is among ``errors``; None if it
            played it to the end.
        reason: The reason that it gave, in one line, or None.
    """

    grid: str
    level: int
    episode: int
    sample: int
    seed: int
    image_id: str
    solved: bool
    score: float
    turns: int
    errors: Mapping[str, int] = field(default_factory=dict[str, int])
    primitives: Mapping[str, int] = field(default_factory=dict[str, int])
    reward: Mapping[str, float] = field(default_factory=dict[str, float])
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    tokens: Mapping[str, int | None] = field(default_factory=dict[str, "int | None"])
    answer: Sequence[Any] | None = None
    given_up: str | None = None
    reason: str | None = None

    @property
    def written(self) -> bool:
        """Whether the policy wrote a turn at all."""
        return self.given_up is None or self.turns > 1

    @property
    def key(self) -> PuzzleKey:
        """Its name within the plan, as `Task.key`."""
        return self.grid, self.level, self.episode, self.sample

    def to_json(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: object) -> EpisodeResult:
        """Read what `to_json` returned.

        Raises:
            ValueError: If it is not that.
        """
        if not isinstance(values, dict):
            raise ValueError("not an object")
        try:
            result = cls(**cast("dict[str, Any]", values))
        except TypeError as error:
            raise ValueError(str(error)) from error
        whole = (result.level, result.episode, result.sample, result.seed, result.turns)
        counts = [count for table in (result.errors, result.primitives) for count in _values(table)]
        counts += [count for count in _values(result.tokens) if count is not None]
        numbers = [number for table in (result.reward, result.seconds) for number in _values(table)]
        if (
            not isinstance(result.grid, str)
            or not isinstance(result.image_id, str)
            or not isinstance(result.solved, bool)
            or not isinstance(result.answer, list | None)
            or not isinstance(result.given_up, str | None)
            or not isinstance(result.reason, str | None)
            or not is_number(result.score, 0, 1)
            or not all(type(number) is int and 0 <= number <= MAX_COUNT for number in (*whole, *counts))
            or result.turns == 0
            or not all(is_number(number, -MAX_COUNT, MAX_COUNT) for number in numbers)
        ):
            raise ValueError("a value that no episode has")
        return result


def _values(table: object) -> list[Any]:
    if not isinstance(table, dict):
        raise ValueError("no table where one must be")
    return list(cast("dict[str, Any]", table).values())


def result_of(task: Task, transcript: Transcript) -> EpisodeResult:
    """Sum up an episode.

    Args:
        task: Which one it was.
        transcript: How it went.

    Returns:
        The result.
    """
    turns = transcript.turns
    given_up: Mapping[str, str] = transcript.details.get("given_up") or {}
    return EpisodeResult(
        grid=task.grid,
        level=task.level,
        episode=task.episode,
        sample=task.sample,
        seed=task.seed,
        image_id=transcript.task["image_id"],
        solved=transcript.solved,
        score=transcript.score,
        turns=len(turns),
        errors=dict(Counter(turn.error for turn in turns if turn.error is not None)),
        primitives=dict(Counter(name for turn in turns for name in turn.primitives)),
        reward={part: float(value) for part, value in cast("Mapping[str, float]", transcript.reward).items()},
        seconds={
            "policy": round(sum(turn.usage.seconds for turn in turns), 6),
            "env": round(sum(turn.env_seconds for turn in turns), 6),
        },
        tokens=_tokens([turn.usage for turn in turns]),
        answer=_answer(transcript),
        given_up=given_up.get("kind"),
        reason=given_up.get("reason"),
    )


def _tokens(usage: Sequence[TurnUsage]) -> dict[str, int | None]:
    def total(counts: Sequence[int | None]) -> int | None:
        known = [count for count in counts if count is not None]
        return sum(known) if known and len(known) == len(counts) else None

    return {
        "context": total([turn.context_tokens for turn in usage]),
        "computed": total([turn.computed_tokens for turn in usage]),
        "new": total([turn.new_tokens for turn in usage]),
    }


def _answer(transcript: Transcript) -> list[Any] | None:
    """Return the answer that ended the episode."""
    last = transcript.turns[-1]
    if last.primitives != (Answer.__name__,):
        return None
    try:
        body, task = read_tags(last.text, "code").bodies[0], transcript.task
        answer = read_answer(body, task["names"], rotations=bool(task["rotations"]))
    except ActionError as error:  # a dialect of one's own may write answers otherwise
        error.forget()
        return None
    if answer.turns is None:
        return list(answer.order)
    return [[name, angle] for name, angle in zip(answer.order, answer.turns, strict=True)]
