"""Plays the puzzles of a plan, in this process or in several."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from agile_gym.envs.config import JigsawConfig, default_crop
from agile_gym.envs.jigsaw import JigsawVisionEnv, open_source
from agile_gym.errors import AgileGymError
from agile_gym.evaluation.plan import EvaluationPlan, PuzzleKey, Task
from agile_gym.evaluation.results import EpisodeResult, result_of
from agile_gym.images import ImageSource
from agile_gym.policies.base import Policy, RecordingPolicy
from agile_gym.rollout.play import EpisodeSpec, play_episodes
from agile_gym.rollout.transcript import Transcript

__all__ = [
    "GIVEN_UP_LIMIT",
    "Played",
    "PreparedPlan",
    "evaluate",
    "hold_back",
    "photographs_of",
    "play_tasks",
    "prepare_plan",
]

KEEP_DEFAULT = 10
"""Transcripts kept a level, for policies that do not record; of those that do, all are kept."""
GIVEN_UP_LIMIT = 16
"""Episodes after which a policy that has given up all of them counts as one that does not work."""


@dataclass(frozen=True)
class PreparedPlan:
    """A plan whose photographs are open and whose environments can be made. It can be sent to other processes.

    Attributes:
        plan: The plan.
        source: The photographs.
        makers: For each grid, what makes its environments.
    """

    plan: EvaluationPlan
    source: ImageSource
    makers: Mapping[str, Callable[[], JigsawVisionEnv]]

    def photographs(self) -> dict[str, Any]:
        """Return what identifies the photographs; see `photographs_of`."""
        return photographs_of(self.source)


def photographs_of(source: ImageSource) -> dict[str, Any]:
    """Return what identifies photographs: their number, and a SHA-256 over the hashes of their contents."""
    hashes = [source.content_hash(index) for index in range(len(source))]
    return {"count": len(hashes), "sha256": hashlib.sha256("\n".join(hashes).encode()).hexdigest()}


class Played(NamedTuple):
    """An episode that is over.

    Attributes:
        result: What came of it.
        transcript: How it went, with images; None if it is not to be kept.
    """

    result: EpisodeResult
    transcript: Transcript | None


def prepare_plan(plan: EvaluationPlan) -> PreparedPlan:
    """Open the photographs and make one environment a grid, so that mistakes show before anything is played.

    Args:
        plan: The puzzles.

    Returns:
        What is needed to play them.

    Raises:
        ConfigurationError: If an option of the environment is not allowed.
        ImageError: If no photographs are found.
    """
    options = {"crop": default_crop(plan.images), **plan.options}
    config = JigsawConfig.from_options({"images": plan.images, **options})
    source = open_source(config)
    options.update(images=source, split=None, level="all")
    makers = {grid: partial(JigsawVisionEnv, grid=grid, **options) for grid in plan.grids}
    for make_env in makers.values():
        make_env().close()
    return PreparedPlan(plan, source, makers)


def play_tasks(
    policy: Policy, prepared: PreparedPlan, tasks: Iterable[Task], *, batch: int = 8, keep: int | None = None
) -> Generator[Played, None, None]:
    """Play some of a plan's puzzles in this process.

    Args:
        policy: Plays. Its ``reset`` is the caller's.
        prepared: The plan.
        tasks: The puzzles; taken one by one, as places become free.
        batch: How many episodes are played side by side, so that a policy can work on them together.
        keep: Transcripts to be kept a level; None keeps `KEEP_DEFAULT`, or all of a policy that records.

    Yields:
        Each episode as soon as it is over.

    Raises:
        ConfigurationError: If the policy does not return a text for each observation, or ``batch`` is not allowed.
    """
    plan = prepared.plan
    playing: dict[str, Task] = {}
    if keep is None and not isinstance(policy, RecordingPolicy):
        keep = KEEP_DEFAULT

    def specs() -> Iterator[EpisodeSpec]:
        for task in tasks:
            playing[task.name] = task
            kept = keep is None or task.episode < keep
            yield EpisodeSpec(task.grid, task.seed, {"level": task.level}, task.policy_seed, task.name, kept)

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
        proven: Whether it is known to work, as it has written something in an earlier episode.

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
        batch: How many episodes are played side by side, so that a policy can work on them together.
        done: Episodes to leave out.
        on_result: Called with each finished episode.
        prepared: What `prepare_plan` returned for this plan, if it was called before, so that photographs are opened
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
