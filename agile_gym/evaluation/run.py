"""Playing of an evaluation's puzzles in this process, and the result of each episode."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

import gymnasium

from agile_gym.envs.contract import label_of, make_env, probe_env
from agile_gym.envs.jigsaw.config import JigsawConfig, default_crop
from agile_gym.envs.jigsaw.env import JigsawVisionEnv, open_source
from agile_gym.errors import AgileGymError, is_number
from agile_gym.evaluation.plan import EnvironmentEntry, EvaluationPlan, PuzzleKey, Task, names_result, pieces_of
from agile_gym.images.sources import ImageSource
from agile_gym.policies.base import Policy, RecordingPolicy
from agile_gym.rollout.play import EpisodeSpec, play_episodes
from agile_gym.transcripts.behaviours import BEHAVIOURS, find_behaviours
from agile_gym.transcripts.record import Transcript, TurnUsage, answer_of, count_looks

__all__ = [
    "GIVEN_UP_LIMIT",
    "EpisodeResult",
    "Played",
    "PreparedPlan",
    "evaluate",
    "hold_back",
    "photographs_of",
    "play_tasks",
    "prepare_plan",
    "result_of",
]

MAX_COUNT = 2**53
"""Largest number of a result that is read."""
_OPTIONAL = ("label", "looks", "behaviours")


@dataclass(frozen=True)
class EpisodeResult:
    """Result of one episode.

    Attributes:
        grid: Such as ``"3x3"``.
        level: Number of pieces that started in their place.
        episode: Number of the puzzle within grid and level.
        sample: Number of times that the puzzle was played before.
        seed: Seed of the environment.
        image_id: SHA-256 of the photograph.
        solved: True if every piece was right.
        score: Fraction of pieces right, 0 to 1.
        turns: Turns taken.
        errors: Number of turns that could not be carried out, by kind of error.
        primitives: Number of primitives that were carried out, by name, such as ``"Swap"``.
        reward: The parts of the reward, as in `agile_gym.envs.contract.RewardParts`.
        seconds: ``policy``: from each observation to the text, added up; in a batch, each turn takes the time of the
            whole batch. ``env``: the environment's steps.
        tokens: ``context``: tokens that all turns together were written in; ``computed``: those of them that had to be
            computed; ``new``: tokens written. None where the policy does not report it.
        answer: The answer as the model wrote it: names, or [name, angle] pairs; None if there was none.
        given_up: Kind of the error with which the policy gave the episode up, which is among ``errors``; None if it
            played it to the end.
        reason: The reason that it gave, in one line, or None.
        label: Of another environment than the jigsaw, the label that it gives the episode, or ``""``.
        looks: Result of `agile_gym.transcripts.record.count_looks`; None if it was not recorded.
        behaviours: True for each behaviour that was shown, False for the others that can be seen in such an episode, as
            `agile_gym.transcripts.behaviours.find_behaviours` finds them; None if it was not recorded.
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
    label: str | None = None
    looks: Mapping[str, int] | None = None
    behaviours: Mapping[str, bool] | None = None

    @property
    def written(self) -> bool:
        """Return whether the policy wrote a turn at all."""
        return self.given_up is None or self.turns > 1

    @property
    def key(self) -> PuzzleKey:
        """Its name within the plan, as `Task.key`."""
        return self.grid, self.level, self.episode, self.sample

    def to_json(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        values = asdict(self)
        return {name: value for name, value in values.items() if value is not None or name not in _OPTIONAL}

    @classmethod
    def from_json(cls, values: object) -> EpisodeResult:
        """Read the result of `to_json`.

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
        counts += [] if result.looks is None else _values(result.looks)
        numbers = [number for table in (result.reward, result.seconds) for number in _values(table)]
        if (
            not isinstance(result.grid, str)
            or not isinstance(result.image_id, str)
            or not isinstance(result.solved, bool)
            or not isinstance(result.answer, list | None)
            or not isinstance(result.given_up, str | None)
            or not isinstance(result.reason, str | None)
            or not names_result(result.grid, result.label)
            or not is_number(result.score, 0, 1)
            or not all(type(number) is int and 0 <= number <= MAX_COUNT for number in (*whole, *counts))
            or result.turns == 0
            or not _are_looks(result.looks)
            or not _are_behaviours(result.behaviours)
            or not all(is_number(number, -MAX_COUNT, MAX_COUNT) for number in numbers)
        ):
            raise ValueError("a value that no episode has")
        return result


def _are_looks(looks: Mapping[str, int] | None) -> bool:
    if looks is None or set(looks) == {"images"}:
        return True
    if set(looks) != {"images", "wrong", "noticed", "mended", "right", "spoiled"}:
        return False
    return looks["mended"] <= looks["noticed"] <= looks["wrong"] and looks["spoiled"] <= looks["right"]


def _are_behaviours(found: Mapping[str, bool] | None) -> bool:
    if found is None:
        return True
    return (
        isinstance(found, dict) and BEHAVIOURS.keys() >= found.keys() and all(type(x) is bool for x in _values(found))
    )


def _values(table: object) -> list[Any]:
    if not isinstance(table, dict):
        raise ValueError("no table where one must be")
    return list(cast("dict[str, Any]", table).values())


def result_of(task: Task, transcript: Transcript) -> EpisodeResult:
    """Sum up an episode.

    Args:
        task: The episode's task.
        transcript: Its transcript.

    Returns:
        The result.
    """
    turns, answer = transcript.turns, answer_of(transcript)
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
        answer=answer,
        given_up=given_up.get("kind"),
        reason=given_up.get("reason"),
        label=None if pieces_of(task.grid) else label_of(transcript.task),
        looks=count_looks(transcript, answer),
        behaviours={name: turn is not None for name, turn in find_behaviours(transcript).items()},
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


KEEP_DEFAULT = 10
"""Transcripts kept a level, for policies that do not record; of those that do, all are kept."""
GIVEN_UP_LIMIT = 16
"""Episodes after which a policy that has given up all of them counts as not working."""


@dataclass(frozen=True)
class PreparedPlan:
    """A plan whose photographs are open and whose environments can be made. It can be sent to other processes.

    Attributes:
        plan: The plan.
        source: The photographs; None where another environment than the jigsaw has images of its own.
        makers: For each grid, a function that makes its environments; of another environment, by its name.
    """

    plan: EvaluationPlan
    source: ImageSource | None
    makers: Mapping[str, Callable[[], gymnasium.Env[Any, Any]]]

    def photographs(self) -> dict[str, Any]:
        """Return the identity of the photographs; see `photographs_of`. Empty where there are none."""
        return {} if self.source is None else photographs_of(self.source)


def photographs_of(source: ImageSource) -> dict[str, Any]:
    """Return the identity of photographs: their number, and a SHA-256 over the hashes of their contents."""
    hashes = [source.content_hash(index) for index in range(len(source))]
    return {"count": len(hashes), "sha256": hashlib.sha256("\n".join(hashes).encode()).hexdigest()}


class Played(NamedTuple):
    """A finished episode.

    Attributes:
        result: Its result.
        transcript: Its transcript, with images; None if it is not to be kept.
    """

    result: EpisodeResult
    transcript: Transcript | None


def prepare_plan(plan: EvaluationPlan) -> PreparedPlan:
    """Open the photographs and make one environment a grid, so that mistakes show before anything is played.

    Args:
        plan: The puzzles.

    Returns:
        The prepared plan.

    Raises:
        ConfigurationError: If an option of the environment is not allowed, or another environment than the jigsaw does
            not keep the contract.
        ImageError: If no photographs are found.
    """
    others: dict[str, Callable[[], gymnasium.Env[Any, Any]]] = {}
    for entry in plan.entries:
        if isinstance(entry, EnvironmentEntry):
            own = dict(plan.options if entry.options is None else entry.options)
            if entry.options is None and plan.images is not None:
                own["images"] = plan.images
            probe_env(entry.env, own)
            others[entry.grid] = partial(make_env, entry.env, own)
    if not plan.plays_jigsaw:
        return PreparedPlan(plan, None, others)
    options = {"crop": default_crop(plan.images), **plan.options}
    config = JigsawConfig.from_options({"images": plan.images, **options})
    source = open_source(config)
    options.update(images=source, split=None, level="all")
    grids = [grid for grid in plan.grids if grid not in others]
    makers = {grid: partial(JigsawVisionEnv, grid=grid, **options) for grid in grids}
    for make in makers.values():
        make().close()
    return PreparedPlan(plan, source, makers | others)


def play_tasks(
    policy: Policy, prepared: PreparedPlan, tasks: Iterable[Task], *, batch: int = 8, keep: int | None = None
) -> Generator[Played, None, None]:
    """Play some of a plan's puzzles in this process.

    Args:
        policy: Plays. Its ``reset`` is the caller's.
        prepared: The plan.
        tasks: The puzzles; taken one by one, as places become free.
        batch: Number of episodes played in one batch, so that a policy can work on them together.
        keep: Transcripts to be kept a level; None keeps `KEEP_DEFAULT`, or all of a policy that records.

    Yields:
        Each episode when it has ended.

    Raises:
        ConfigurationError: If the policy does not return a text for each observation, or ``batch`` is not allowed.
    """
    plan = prepared.plan
    playing: dict[str, Task] = {}
    numbered = {entry.grid for entry in plan.entries if isinstance(entry, EnvironmentEntry) and entry.numbered}
    if keep is None and not isinstance(policy, RecordingPolicy):
        keep = KEEP_DEFAULT

    def specs() -> Iterator[EpisodeSpec]:
        for task in tasks:
            playing[task.name] = task
            kept = keep is None or task.episode < keep
            options = {"level": task.level} if pieces_of(task.grid) else {}
            if task.grid in numbered:
                options = {"episode": task.episode}
            yield EpisodeSpec(task.grid, task.seed, options, task.policy_seed, task.name, kept, plan.blank_looks)

    for spec, transcript in play_episodes(policy, specs(), prepared.makers, batch=batch, policy_name=plan.policy):
        result = result_of(playing.pop(transcript.id), transcript)
        yield Played(result, transcript if spec.keep_images else None)


def hold_back(
    episodes: Generator[Played, None, None], policy: str, *, proven: bool = False
) -> Generator[Played, None, None]:
    """Pass episodes on, but hold back those that the policy gave up at once until it has written something in another.

    A policy may give up single episodes. One that gives up every episode does not work: a wrong option, say, has a
    server refuse all requests. Then none of them counts as played.

    Args:
        episodes: The episodes, as they end.
        policy: Name of the policy.
        proven: True if the policy has written something in an earlier episode, so that it is known to work.

    Yields:
        The episodes, in their order.

    Raises:
        AgileGymError: If each of the first `GIVEN_UP_LIMIT` episodes, or each of all if there are fewer, was given up
            before the policy had written a turn; the message has the last reason.
    """
    held: list[Played] = []
    with closing(episodes):
        for played in episodes:
            proven = proven or played.result.written
            held.append(played)
            if proven:
                yield from held
                held.clear()
            elif len(held) == GIVEN_UP_LIMIT:
                break
    if held:
        raise AgileGymError(
            f"The policy {policy!r} gave up each of the first {len(held)} episodes before it wrote anything, so none "
            f"is kept. The last reason: {held[-1].result.reason}"
        )


def evaluate(
    policy: Policy,
    plan: EvaluationPlan,
    *,
    batch: int = 8,
    done: Iterable[PuzzleKey] = (),
    on_result: Callable[[EpisodeResult], None] | None = None,
    prepared: PreparedPlan | None = None,
) -> list[EpisodeResult]:
    """Play the puzzles of a plan in this process.

    The puzzles do not depend on the size of the batch, and neither do the results, for a policy whose draws follow from
    ``info["policy_seed"]``.

    Args:
        policy: Plays.
        plan: The puzzles.
        batch: Number of episodes played in one batch, so that a policy can work on them together.
        done: Episodes to leave out.
        on_result: Called with each finished episode.
        prepared: Result of `prepare_plan` for this plan, if it was called before, so that photographs are opened
            once.

    Returns:
        The results, in the order in which episodes ended.

    Raises:
        ConfigurationError: If the plan, or an option of the environment, is not allowed.
        ImageError: If no photographs are found.
        AgileGymError: If the policy gives up everything; see `hold_back`.
    """
    skip = set(done)
    prepared = prepare_plan(plan) if prepared is None else prepared
    policy.reset(plan.seed)
    tasks = (task for task in plan.tasks() if task.key not in skip)
    results: list[EpisodeResult] = []
    for played in hold_back(play_tasks(policy, prepared, tasks, batch=batch, keep=0), plan.policy, proven=bool(skip)):
        results.append(played.result)
        if on_result is not None:
            on_result(played.result)
    return results
