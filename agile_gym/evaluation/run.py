"""Plays an evaluation, keeps a journal of finished episodes, and goes on where it was interrupted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import cast

from agile_gym.envs.config import JigsawConfig, default_crop
from agile_gym.envs.jigsaw import JigsawVisionEnv, open_source
from agile_gym.errors import ConfigurationError
from agile_gym.evaluation.plan import EvaluationPlan, Task
from agile_gym.policies.base import Policy

__all__ = ["EpisodeResult", "Journal", "check_plan", "evaluate"]


@dataclass(frozen=True)
class EpisodeResult:
    """What came of one puzzle.

    Attributes:
        grid: Such as ``"3x3"``.
        level: How many pieces started in their place.
        episode: Number within grid and level.
        seed: Seed of the environment.
        image_id: SHA-256 of the photograph.
        solved: Whether every piece was right.
        score: Share of pieces right, 0 to 1.
        turns: Turns taken.
        errors: Turns that could not be carried out.
        reward: The reward.
    """

    grid: str
    level: int
    episode: int
    seed: int
    image_id: str
    solved: bool
    score: float
    turns: int
    errors: int
    reward: float

    @property
    def task(self) -> Task:
        """The puzzle."""
        return Task(self.grid, self.level, self.episode, self.seed)


class Journal:
    """A file of finished episodes, one JSON text a line, below a line with the settings.

    Every line is written and flushed as soon as its episode is over, so that an interruption costs at most the episodes
    being played; a line that was cut short is dropped when the file is read.
    """

    def __init__(self, path: Path, plan: EvaluationPlan, *, resume: bool = False, overwrite: bool = False) -> None:
        """Open a journal.

        Args:
            path: The file.
            plan: The settings of the evaluation.
            resume: Keep the puzzles that the file holds and go on after them.
            overwrite: Begin anew even if the file holds puzzles.

        Raises:
            ConfigurationError: If it holds puzzles and neither is asked for, if it is to be resumed and holds an
                evaluation with other settings, or if it cannot be written. Then the file is as it was.
        """
        header = json.dumps(plan.to_json(), sort_keys=True)
        self.results: list[EpisodeResult] = []
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            if resume and lines and lines[0] != header:
                raise ConfigurationError(
                    f"{path} holds an evaluation with other settings, so it cannot be resumed with these. Give another "
                    f"--output. It holds: {lines[0]}"
                )
            if len(lines) > 1 and not resume and not overwrite:
                raise ConfigurationError(
                    f"{path} holds {len(lines) - 1} finished puzzles already. Add --resume to go on with them, "
                    "--overwrite to begin anew, or give another --output."
                )
            self.results = list(_read(lines[1:])) if resume else []
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(path.name + ".new")
            with temporary.open("w", encoding="utf-8") as file:
                file.write(header + "\n")
                file.writelines(json.dumps(asdict(result)) + "\n" for result in self.results)
            os.replace(temporary, path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be written: {error}. Give another --output.") from error

    def add(self, result: EpisodeResult) -> None:
        """Write down a finished episode."""
        self.results.append(result)
        self._file.write(json.dumps(asdict(result)) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _read(lines: Iterable[str]) -> Iterator[EpisodeResult]:
    for line in lines:
        try:
            yield EpisodeResult(**json.loads(line))
        except (ValueError, TypeError):
            return  # cut short by an interruption: what follows was never written


def check_plan(plan: EvaluationPlan) -> dict[str, Callable[[], JigsawVisionEnv]]:
    """Open the photographs and make one environment a grid, so that mistakes show before anything is played.

    Args:
        plan: The puzzles.

    Returns:
        For each grid, what makes its environments.

    Raises:
        ConfigurationError: If an option of the environment is not allowed.
        ImageError: If no photographs are found.
    """
    options = {"crop": default_crop(plan.images), **plan.options}
    config = JigsawConfig.from_options({"images": plan.images, **options})
    options.update(images=open_source(config), split=None, level="all")
    makers = {grid: partial(JigsawVisionEnv, grid=grid, **options) for grid in plan.grids}
    for make_env in makers.values():
        make_env().close()
    return makers


def evaluate(
    policy: Policy,
    plan: EvaluationPlan,
    *,
    batch: int = 8,
    done: Iterable[Task] = (),
    on_result: Callable[[EpisodeResult], None] | None = None,
    makers: Mapping[str, Callable[[], JigsawVisionEnv]] | None = None,
) -> list[EpisodeResult]:
    """Play the puzzles of a plan.

    The puzzles and, for a policy without randomness, the results do not depend on the size of the batch.

    Args:
        policy: Plays.
        plan: The puzzles.
        batch: How many episodes are played side by side, so that a policy can work on them together.
        done: Puzzles to leave out.
        on_result: Called with each finished episode.
        makers: What `check_plan` returned for this plan, if it was called before, so that photographs are opened once.

    Returns:
        The results, in the order in which episodes ended.

    Raises:
        ConfigurationError: If the plan, or an option of the environment, is not allowed.
        ImageError: If no photographs are found.
    """
    skip = set(done)
    results: list[EpisodeResult] = []
    makers = check_plan(plan) if makers is None else makers
    policy.reset(plan.seed)
    for grid in plan.grids:
        tasks = [task for task in plan.tasks() if task.grid == grid and task not in skip]
        for result in _play(policy, makers[grid], tasks, batch):
            results.append(result)
            if on_result is not None:
                on_result(result)
    return results


def _play(
    policy: Policy, make_env: Callable[[], JigsawVisionEnv], tasks: Sequence[Task], batch: int
) -> Iterator[EpisodeResult]:
    """Play the puzzles of one grid, ``batch`` at a time; a slot takes the next puzzle as soon as it is free."""
    waiting = iter(tasks)
    slots: list[_Slot] = []
    for task in waiting:
        slots.append(_Slot(make_env(), task))
        if len(slots) == batch:
            break
    while slots:
        texts = policy.act([slot.observation for slot in slots], [slot.info for slot in slots])
        if len(texts) != len(slots) or not all(isinstance(text, str) for text in texts):
            raise ConfigurationError(
                f"The policy returned {texts!r:.200} for {len(slots)} observations; act() must return a text for each."
            )
        kept: list[_Slot] = []
        for slot, text in zip(slots, texts, strict=True):
            result = slot.step(text)
            if result is None:
                kept.append(slot)
                continue
            yield result
            task = next(waiting, None)
            if task is not None:
                slot.begin(task)
                kept.append(slot)
        slots = kept


class _Slot:
    """An environment and the puzzle that is played in it."""

    def __init__(self, env: JigsawVisionEnv, task: Task) -> None:
        self.env = env
        self.begin(task)

    def begin(self, task: Task) -> None:
        self.task = task
        self.errors = 0
        self.observation, self.info = self.env.reset(seed=task.seed, options={"level": task.level})
        self.image_id = cast(str, self.info["image_id"])

    def step(self, text: str) -> EpisodeResult | None:
        self.observation, reward, terminated, truncated, self.info = self.env.step(text)
        self.errors += self.info["error"] is not None
        if not (terminated or truncated):
            return None
        info = self.info
        return EpisodeResult(
            *self.task, self.image_id, info["solved"], info["score"], info["turn"], self.errors, reward
        )
