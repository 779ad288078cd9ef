# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray are incomplete.
"""Survival of lost processes: groups played again by other runners, learners built anew, models saved."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import ray
from numpy.typing import NDArray
from ray.exceptions import RayError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_LEARNER_GROUP, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from agile_gym.errors import ConfigurationError, ModelError
from agile_gym.files import filling
from agile_gym.learner.checkpoint import check_checkpoint, replace_checkpoint
from agile_gym.learner.env_runner import VLMEnvRunner
from agile_gym.learner.groups import Group, GroupSpec
from agile_gym.learner.messages import RunnerReply, Weights, gather, send_groups
from agile_gym.learner.torch_learner import COMPLETE

__all__ = ["Outcome", "RecoverableAlgorithm", "alive_runners", "answers_of", "play_on_runners", "split_groups"]

PATIENCE = 300.0
"""Seconds to wait for a runner to come back where none is left."""
_logger = logging.getLogger(__name__)


@dataclass
class Outcome:
    """Result of playing groups with retries.

    Attributes:
        groups: Those that were played, by index.
        failures: The last error of those that were given up, by index.
        retries: Number of times that a group was played again.
        metrics: Metrics that the runners logged.
        lags: For each group, the number of updates since its weights; empty if all were played with the latest.
    """

    groups: list[Group] = field(default_factory=list[Group])
    failures: dict[int, str] = field(default_factory=dict[int, str])
    retries: int = 0
    metrics: list[Any] = field(default_factory=list[Any])
    lags: list[int] = field(default_factory=list[int])


def play_on_runners(
    runners: EnvRunnerGroup,
    specs: Sequence[GroupSpec],
    *,
    weights: Weights | None,
    stored: Callable[[], Weights],
    retries: int,
    timeout: float,
    restore: Callable[[], object],
    explore: bool,
    evaluation: bool,
    replies: Sequence[RunnerReply] | None = None,
) -> Outcome:
    """Play groups.

    A group is played again if its runner died or did not answer in time, or its environment raised. It is drawn from
    the same seeds, so that nothing depends on the runner that plays it, or on the time.

    Args:
        runners: The runners.
        specs: The groups.
        weights: The weights to play with. They go with the groups: a runner that has died may have been started anew
            since, with those of the beginning, unnoticed. None if the runner is of this process.
        stored: Function that returns the same weights from the object store.
        retries: Number of times that a group is played again.
        timeout: Seconds after which a runner counts as hung; it is killed, and another one started.
        restore: Function that brings back runners that have died.
        explore: True if tokens are drawn.
        evaluation: True if the environments are those of the evaluation.
        replies: Answers that have come already; None to have all groups played first.

    Returns:
        The groups and the failures.

    Raises:
        ConfigurationError: If a runner reports that its environment or policy cannot be used.
        RuntimeError: If no runner comes back.
    """
    outcome = Outcome()
    pending = {spec.index: spec for spec in specs}
    attempts: Counter[int] = Counter()
    played: dict[int, Group] = {}
    while pending:
        if replies is None:
            replies = _ask(
                runners,
                list(pending.values()),
                timeout,
                restore,
                weights=weights,
                explore=explore,
                evaluation=evaluation,
            )
        errors: dict[int, str] = {}
        for reply in replies:
            if reply.mistake is not None:
                raise ConfigurationError(reply.mistake)
            outcome.metrics.append(reply.metrics)
            errors |= reply.play.failures
            for group in reply.play.groups:
                played[group.spec.index] = group
                pending.pop(group.spec.index, None)
        lacking, replies = any(reply.lacks_weights for reply in replies), None
        if lacking:
            weights = stored()
            continue
        for index in list(pending):
            attempts[index] += 1
            if attempts[index] > retries:
                outcome.failures[index] = errors.get(index, "The runner that played it died or did not answer.")
                del pending[index]
        outcome.retries += len(pending)
    outcome.groups = [played[index] for index in sorted(played)]
    return outcome


def _ask(
    runners: EnvRunnerGroup,
    specs: Sequence[GroupSpec],
    timeout: float,
    restore: Callable[[], object],
    **options: Any,  # noqa: ANN401 -- of VLMEnvRunner.sample_groups
) -> list[RunnerReply]:
    """Have all runners play a part each, and return their answers."""
    if runners.num_remote_env_runners() == 0:
        local = cast(VLMEnvRunner, runners.local_env_runner)
        return [local.sample_groups(specs, **options)]
    parts = split_groups(specs, alive_runners(runners, restore))
    return answers_of(runners, send_groups(runners, parts, **options), timeout)


def answers_of(
    runners: EnvRunnerGroup,
    requests: Mapping[ray.ObjectRef[RunnerReply], int],
    timeout: float,
    *,
    left: float | None = None,
) -> list[RunnerReply]:
    """Return the answers to requests, but for those of runners that died or hang, which are marked as dead.

    Args:
        runners: The runners.
        requests: The requests of `send_groups`.
        timeout: Seconds after which a runner counts as hung; it is killed, and another one started.
        left: Those of them that are left; all by default.
    """
    answers = gather(requests, timeout if left is None else left)
    manager = runners._worker_manager  # pyright: ignore[reportPrivateUsage] -- RLlib has no other way
    dead = set(answers.dead)
    if dead:
        _logger.warning("%d of %d runners died while they played; others play for them.", len(dead), len(requests))
    for number in dead:
        manager.set_actor_state(number, healthy=False)
    for number in set(answers.silent) - dead:
        restart_runner(runners, number, timeout)
    return answers.replies


def restart_runner(runners: EnvRunnerGroup, number: int, timeout: float) -> None:
    """Stop a runner that did not answer in some seconds, and have another one started."""
    _logger.warning("Runner %d did not answer in %.0f s; it is stopped, and another one started.", number, timeout)
    manager = runners._worker_manager  # pyright: ignore[reportPrivateUsage] -- RLlib has no other way
    ray.kill(manager.actors()[number], no_restart=False)
    manager.set_actor_state(number, healthy=False)


def split_groups(specs: Sequence[GroupSpec], runners: Sequence[int]) -> dict[int, list[GroupSpec]]:
    """Divide groups among runners, by their numbers; those without any are left out."""
    parts = {number: list(specs[place :: len(runners)]) for place, number in enumerate(runners)}
    return {number: part for number, part in parts.items() if part}


def alive_runners(runners: EnvRunnerGroup, restore: Callable[[], object]) -> list[int]:
    """Return the numbers of the runners that are alive, at least one."""
    deadline = time.monotonic() + PATIENCE
    while True:
        if len(runners.healthy_env_runner_ids()) < runners.num_remote_env_runners():
            restore()
        ids = sorted(runners.healthy_env_runner_ids())
        if ids:
            return ids
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"All {runners.num_remote_env_runners()} runners are dead, and none came back in {PATIENCE:.0f} s. "
                "Look at Ray's logs for the reason: memory and missing packages are the most frequent ones."
            )
        time.sleep(0.5)


def _rest(runner: Any) -> None:  # noqa: ANN401 -- a VLMEnvRunner
    """Have a runner's engine free its GPU; by name, RLlib would not call it in this process."""
    runner.rest()


class RecoverableAlgorithm(Algorithm):
    """An algorithm whose learners are built anew when one dies, and whose checkpoints are atomic.

    Attributes:
        learners_rebuilt: Number of times that the learners were built anew.
    """

    config: Any  # a GRPOConfig, which RLlib takes for one of any algorithm
    learner_group: Any
    learners_rebuilt: int = 0
    _snapshot: Any = None
    _weights: Weights | None = None

    def ask_learners(self, ask: Callable[[], Any], *, changes: bool = False) -> Any:  # noqa: ANN401 -- what it returns
        """Call a function of the learners; if one dies, build all anew from the last snapshot and call it again.

        Args:
            ask: The function.
            changes: True if it changes their state, so that a new snapshot is taken after it.

        Returns:
            The result of ``ask``.
        """
        if changes and self._snapshot is None:
            self._snapshot = self._take_snapshot()

        def asked() -> tuple[Any, Any]:
            answer = ask()
            return answer, self._take_snapshot() if changes else self._snapshot

        try:
            answer, self._snapshot = asked()
        except (RayError, IndexError) as error:  # RLlib finds no result of an actor that died
            if self.learner_group.is_local or self._snapshot is None:
                raise
            _logger.warning("A learner died (%s); all are built anew from the last snapshot.", type(error).__name__)
            self._rebuild_learners()
            answer, self._snapshot = asked()
        return answer

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:  # noqa: ANN401 -- RLlib's
        """Bring back runners that had died, with the learners' weights; learners that have died, too, come first."""
        if env_runner_group.num_healthy_remote_workers() < env_runner_group.num_remote_env_runners():
            self.ask_learners(lambda: self.learner_group.ping())  # that of new learners, after a rebuild
        return super().restore_env_runners(env_runner_group)

    def current_weights(self) -> Weights:
        """Return the weights of the learners, for runners in processes of their own."""
        if self._weights is None:
            state = ray.put(self._learned_weights())
            self._weights = Weights(state, state.hex())
        return self._weights

    def stored_weights(self) -> Weights:
        """Return the same weights in the object store, for runners that were not there when they were sent."""
        weights = self.current_weights()
        if weights.state is None:
            self._weights = Weights(ray.put(self._learned_weights()), weights.name)
        return self.current_weights()

    def rest_engines(self) -> None:
        """Have engines that are to sleep free the GPUs that learners are to compute on."""
        config: Any = self.config
        if config.engine_sleep:
            for group in filter(None, (self.env_runner_group, self.eval_env_runner_group)):
                group.foreach_env_runner(_rest, timeout_seconds=config.sample_timeout_s)

    def drop_weights(self) -> None:
        """Free the memory of the weights that runners play with, as those of the learners change."""
        self._weights = None

    def _learned_weights(self) -> dict[str, Any]:
        """Return the learners' weights, with their number."""
        components = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"
        state = self.ask_learners(lambda: self.learner_group.get_state(components=components, inference_only=True))
        return {key: state[COMPONENT_LEARNER][key] for key in (COMPONENT_RL_MODULE, WEIGHTS_SEQ_NO)}

    def _take_snapshot(self) -> Any:  # noqa: ANN401 -- a state
        """Return the learners' state, if it is to be kept; it is that after the last update."""
        if not self.config.learner_snapshots or self.learner_group.is_local:
            return None
        return self.learner_group.take_snapshot()

    def _rebuild_learners(self) -> None:
        try:
            self.learner_group.shutdown()
        except Exception as error:  # dead actors cannot be shut down in order
            _logger.warning("The learners that are left were not shut down in order: %s", error)
        spec = self.config.get_multi_rl_module_spec(spaces=self.spaces, inference_only=False)
        self.learner_group = self.config.build_learner_group(rl_module_spec=spec)
        self.learner_group.restore_snapshot(self._snapshot)
        self.learners_rebuilt += 1

    def save_pretrained(self, path: str | Path, *, merge: bool = False) -> Path:
        """Write the model as an ordinary Hugging Face directory; an adapter as PEFT does.

        A model that is there stays as it is until the new one is written.

        Args:
            path: The folder, which the first learner must be able to reach.
            merge: True if an adapter is merged into the model, and the whole is written.

        Returns:
            The folder.

        Raises:
            ConfigurationError: If the learner wrote it to another machine's disk.
            OSError: If it cannot be written.
        """
        folder = Path(path).resolve()

        with filling(folder) as beside:

            def write(learner: Any) -> str | None:  # noqa: ANN401 -- a TokenLearner
                return learner.save_pretrained(str(beside), merge=merge)

            for mistake in self._learners_say(write):
                raise OSError(f"The model could not be written to {folder}: {mistake}")
            if not any(beside.glob("*.safetensors")):
                raise ConfigurationError(
                    f"The learner wrote the model to its own disk, not to {folder} of this machine. Give a folder that "
                    "all machines share."
                )
        return folder

    def get_weights_of_module(self) -> dict[str, NDArray[Any]]:
        """Return the weights that are trained."""
        state = self.learner_group.get_state(
            components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}", inference_only=True
        )
        return state[COMPONENT_LEARNER][COMPONENT_RL_MODULE][DEFAULT_MODULE_ID]

    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:  # noqa: ANN401 -- RLlib's
        """Write a checkpoint; a former one at the same place stays until the new one is whole.

        Args:
            path: Its folder; a temporary one by default.
            **kwargs: RLlib's.

        Returns:
            The folder.

        Raises:
            OSError: If it cannot be written, such as on a full disk.
        """
        if path is None or kwargs.get("filesystem") is not None or "://" in str(path):
            return super().save_to_path(path, **kwargs)
        folder = Path(path).absolute()
        replace_checkpoint(folder, lambda target: self._write_checkpoint(target, **kwargs))
        return str(folder)

    def _write_checkpoint(self, folder: Path, **kwargs: Any) -> None:  # noqa: ANN401 -- RLlib's
        super().save_to_path(str(folder), **kwargs)
        if not (folder / COMPONENT_LEARNER_GROUP / COMPONENT_LEARNER / COMPLETE).exists():  # RLlib would not report it
            raise OSError(f"The learner could not write its part of the checkpoint {folder}; is the disk full?")

    @classmethod
    def from_checkpoint(cls, path: Any, filesystem: Any = None, **kwargs: Any) -> Self:  # noqa: ANN401 -- RLlib's
        """Return an algorithm that goes on where a checkpoint was written.

        Args:
            path: The checkpoint's folder.
            filesystem: RLlib's.
            **kwargs: RLlib's; ``config``, if another configuration is to be used.

        Raises:
            ConfigurationError: If there is no checkpoint, or it is damaged.
        """
        if filesystem is None and isinstance(path, str | Path) and "://" not in str(path):
            check_checkpoint(Path(path).absolute())
            path = str(Path(path).absolute())
        located: Any = path
        return cast("Self", super().from_checkpoint(located, filesystem=filesystem, **kwargs))

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        super().set_state(dict(state))
        self._snapshot = None
        self.drop_weights()

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- RLlib's
        """Take over a checkpoint.

        Raises:
            ConfigurationError: If there is none, it is damaged, or it is of another model.
        """
        whole = kwargs.get("component") is None
        if whole and kwargs.get("filesystem") is None and "://" not in str(path):
            path = str(Path(path).absolute())
            check_checkpoint(Path(path))
        super().restore_from_path(path, *args, **kwargs)
        self._snapshot = None
        self.drop_weights()

        def say(learner: Any) -> str | None:  # noqa: ANN401 -- a TokenLearner
            return learner.restore_error

        for mistake in self._learners_say(say):
            raise ModelError(f"The checkpoint {str(path)!r} cannot be taken over. {mistake}")

    def _learners_say(self, ask: Any) -> list[str]:  # noqa: ANN401 -- a function of a learner
        """Call a function of all learners that returns a failure, and return the failures."""
        told: list[str] = []
        for result in self.learner_group.foreach_learner(ask).result_or_errors:
            if not result.ok:
                raise result.get()
            told += [] if result.get() is None else [result.get()]
        return told
