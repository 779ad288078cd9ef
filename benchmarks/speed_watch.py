"""Time of an iteration by part, for benchmarks/training_speed.py: stopwatches in driver, runners and learners."""

from __future__ import annotations

import functools
import time

import torch

__all__ = ["ORDER", "watch", "watched_iteration"]

ORDER = (
    "runner: making environments",
    "runner: environments, reset and step",
    "runner: chat and tokenising",
    "runner: forward of the model",
    "runner: sampling",
    "runner: cache, between passes",
    "runner: rest",
    "transfer of episodes to the driver",
    "transfer of samples to the learner",
    "learner: batch building",
    "learner: forward and loss",
    "learner: backward",
    "learner: optimiser",
    "learner: rest",
    "snapshot of the learners",
    "weights to the runners",
    "driver: advantages, samples, metrics",
    "driver: RLlib, around the iteration",
)
"""Parts of an iteration, in the order in which they happen."""


class Stopwatch:
    """Stopwatch that adds up seconds by section. A section inside of another one counts there only."""

    def __init__(self):
        self.take()

    def take(self):
        """Return the seconds of the clock and of the processor by section, and begin anew."""
        told = getattr(self, "_seconds", {})
        self._seconds, self._open = {}, []
        return told

    def _turn(self):
        """Give the open section the time since the last call."""
        current = time.perf_counter(), time.process_time()
        if self._open:
            entry = self._seconds.setdefault(self._open[-1], [0.0, 0.0])
            for place in (0, 1):
                entry[place] += current[place] - self._last[place]
        self._last = current

    def watch(self, owner, name, section):
        """Count the calls of a function of a module, class or object to a section."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def timed(*args, **kwargs):
            self._turn()
            self._open.append(section)
            try:
                return original(*args, **kwargs)
            finally:
                self._turn()
                self._open.pop()

        setattr(owner, name, timed)


def watch_runner(runner):
    """Put stopwatches into a runner's process."""
    from agile_gym.models import ChatFormat
    from agile_gym.models.batch import HFGenerator
    from agile_gym.models.cache import BatchCache
    from agile_gym.models.inputs import Reader
    from agile_gym.models.sampling import TurnWatch
    from agile_gym.rollout import EpisodeRecorder

    clock = runner.clock = Stopwatch()
    clock.watch(runner, "_make_env", "runner: making environments")
    for name in ("reset", "step"):
        clock.watch(EpisodeRecorder, name, "runner: environments, reset and step")
    for owner, name in ((Reader, "opening"), (Reader, "follow_up"), (Reader, "positions"), (ChatFormat, "decode")):
        clock.watch(owner, name, "runner: chat and tokenising")
    clock.watch(TurnWatch, "add", "runner: chat and tokenising")
    clock.watch(type(runner.module.vlm.model), "forward", "runner: forward of the model")
    clock.watch(HFGenerator, "_draw", "runner: sampling")
    for name in ("copy", "fill", "take"):
        clock.watch(BatchCache, name, "runner: cache, between passes")
    clock.watch(runner, "sample_groups", "runner: rest")


def watch_learner(learner):
    """Put stopwatches into a learner's process."""
    from agile_gym.learner import updating
    from agile_gym.models.scoring import Scorer

    clock = learner.clock = Stopwatch()
    clock.watch(Scorer, "prepare", "learner: batch building")
    clock.watch(updating, "micro_batches", "learner: batch building")
    clock.watch(updating.Updater, "_loss", "learner: forward and loss")
    clock.watch(torch.Tensor, "backward", "learner: backward")
    clock.watch(torch.optim.AdamW, "step", "learner: optimiser")
    clock.watch(torch.nn.utils, "clip_grad_norm_", "learner: optimiser")
    clock.watch(torch.optim.Optimizer, "zero_grad", "learner: optimiser")
    clock.watch(learner, "_update", "learner: rest")


def take(actor):
    """Return the readings of a process's stopwatch."""
    return actor.clock.take()


def watch(algorithm):
    """Put stopwatches into all processes of an algorithm that has runners and learners of their own.

    Returns:
        The driver's.
    """
    clock = Stopwatch()
    clock.watch(algorithm.env_runner_group, "foreach_env_runner", "runners")
    clock.watch(algorithm, "current_weights", "weights to the runners")
    clock.watch(algorithm.learner_group, "update", "learners")
    clock.watch(algorithm.learner_group, "get_state", "snapshot of the learners")
    clock.watch(algorithm, "train", "driver: RLlib, around the iteration")
    clock.watch(algorithm, "training_step", "driver: advantages, samples, metrics")
    algorithm.env_runner_group.foreach_env_runner(watch_runner, local_env_runner=False)
    for result in algorithm.learner_group.foreach_learner(watch_learner).result_or_errors:
        result.get()
    return clock


def clock_seconds(sections):
    """Return the seconds of the clock of all sections together."""
    return sum(wall for wall, _ in sections.values())


def watched_iteration(algorithm, clock):
    """Train for an iteration.

    Returns:
        Seconds of the clock by section, those of runners and learners of the one that took longest; and the seconds of
        the clock and, of the busiest process, of the processor of ``"rollout"`` and ``"update"``.
    """
    clock.take()
    algorithm.train()
    driver = {name: wall for name, (wall, _) in clock.take().items()}
    runners = algorithm.env_runner_group.foreach_env_runner(take, local_env_runner=False)
    learners = [result.get() for result in algorithm.learner_group.foreach_learner(take).result_or_errors]
    clock.take()
    played, learned = (max(told, key=clock_seconds) for told in (runners, learners))
    rollout, update = driver.pop("runners"), driver.pop("learners")
    parts = driver | {name: wall for entry in (played, learned) for name, (wall, _) in entry.items()}
    parts["transfer of episodes to the driver"] = rollout - clock_seconds(played)
    parts["transfer of samples to the learner"] = update - clock_seconds(learned)
    busiest = [max(sum(own for _, own in entry.values()) for entry in told) for told in (runners, learners)]
    return parts, {"rollout": (rollout, busiest[0]), "update": (update, busiest[1])}
