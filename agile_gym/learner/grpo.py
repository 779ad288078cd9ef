# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray are incomplete.
"""`GRPO` as an algorithm of RLlib: plays groups of episodes, computes their advantages, and updates the policy.

Importing this module, or taking `GRPO` or `GRPOConfig` from `agile_gym.learner`, registers the algorithm with Ray Tune;
from then on ``tune.Tuner("AgileGRPO", ...)`` works. Ray has no entry points, so a script that uses the name alone must
import one of them first. The processes that Tune starts need not: they look the name up in the cluster.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)
from ray.tune import registry

from agile_gym.errors import ConfigurationError
from agile_gym.learner.ahead import PlayedAhead
from agile_gym.learner.config import GRPOConfig
from agile_gym.learner.data import (
    GroupAdvantages,
    GroupBatch,
    Sample,
    assign_minibatches,
    group_advantages,
    make_samples,
    returns_of,
    shard_samples,
    turn_advantages,
    turn_rewards,
)
from agile_gym.learner.env_runner import VLMEnvRunner
from agile_gym.learner.groups import Curriculum, Group, GroupSpec, make_group
from agile_gym.learner.memory import put_shards
from agile_gym.learner.messages import Weights
from agile_gym.learner.metrics import episode_metrics, evaluation_metrics, task_metrics
from agile_gym.learner.module import VLMModule
from agile_gym.learner.options import TINY, ModelOptions
from agile_gym.learner.recovery import Outcome, RecoverableAlgorithm, play_on_runners
from agile_gym.learner.resources import check_cluster, places_for_learners
from agile_gym.learner.torch_learner import TokenLearner, check_learner_class
from agile_gym.learner.transfer import WeightsTransfer

__all__ = [
    "GRPO",
    "NAME",
    "GRPOConfig",
    "TokenLearner",
    "VLMEnvRunner",
    "VLMModule",
    "register",
]

NAME = "AgileGRPO"
"""Name of the algorithm in Ray Tune's registry."""


GRPO_RESULTS = "grpo"
"""Key of this algorithm's metrics in RLlib's results."""
_TRAINING, _EVALUATION = 0, 1
"""Streams of random numbers."""
_logger = logging.getLogger(__name__)


class GRPO(RecoverableAlgorithm):
    """Group relative policy optimisation of a model that plays whole episodes (Shao et al., arXiv 2402.03300).

    Each iteration plays ``groups_per_iteration`` puzzles ``group_size`` times each, compares the episodes of a puzzle
    with each other, trains on them, and gives the runners the new weights. A group's draws follow from the
    seed and the group's number: not from the number of runners, nor from failures. With ``max_lag``, runners play the
    next groups while the learners train; a checkpoint holds none of them, so that they are played again after it.
    """

    env_runner_group: Any
    eval_env_runner_group: Any
    _ahead: PlayedAhead | None = None
    _groups_begun: int
    """Groups that iterations have taken; those that are played ahead do not count yet."""

    @classmethod
    def get_default_config(cls) -> GRPOConfig:
        """Return the default configuration."""
        return GRPOConfig()

    @classmethod
    def _should_create_evaluation_env_runners(cls, eval_config: Any) -> bool:  # noqa: ANN401 -- RLlib's
        """Evaluate with the existing runners, unless others are configured."""
        return eval_config.evaluation_num_env_runners > 0

    def setup(self, config: Any) -> None:  # noqa: ANN401 -- RLlib's
        """Build runners and learners.

        Raises:
            ConfigurationError: If there are too few CPUs or GPUs, or the model or an environment cannot be used.
        """
        check_learner_class(self.config.learner_class if isinstance(self.config, GRPOConfig) else TokenLearner)
        self._check_before()
        try:
            with places_for_learners(self.config):
                super().setup(config)
        except IndexError as error:  # RLlib takes the first of no runners
            raise RuntimeError(
                "No runner could be started. Ray's log has the reason; a module that runners cannot import, and too "
                "little memory, are the most frequent reasons."
            ) from error
        self._check_runners()
        self._share_module()
        self._begin()

    def _begin(self) -> None:
        """Begin with the first group, on the runners that there are."""
        config, group = self.config, self.env_runner_group
        self._groups_begun = 0
        self._updates = 0
        kind = config.weights_transfer
        self._transfer = None if kind == "object_store" else WeightsTransfer(kind)
        self._tasks = config.task_mix()
        self._curriculum = Curriculum(self._tasks, adaptive=config.curriculum)
        self._ahead = PlayedAhead(
            group,
            retries=config.group_retries,
            timeout=config.sample_timeout_s,
            restore=lambda: self.restore_env_runners(group),
        )

    def _check_before(self) -> None:
        """Check settings before anything is started."""
        config: Any = self.config
        if config.env is None:
            raise ConfigurationError("No environment is set; call environment('JigsawVision-v0', env_config={...}).")
        if config.check_resources:
            check_cluster(config)
        module: Any = config.rl_module_spec.module_class
        options = ModelOptions.from_mapping(config.model_config)
        if module is VLMModule and options.path != TINY:
            from agile_gym.models.loading import load_config
            from agile_gym.models.processors import check_processor, load_processor

            load_config(options.path)
            check_processor(load_processor(options.path), options.path)

    def _check_runners(self) -> None:
        """Check that the runners can play."""
        groups = [self.env_runner_group, self.eval_env_runner_group]
        for group in groups:
            if group is not None and group.num_remote_env_runners():
                for mistake in group.foreach_env_runner("get_mistake", local_env_runner=False):
                    if mistake is not None:
                        for other in filter(None, groups):
                            other.stop()
                        self.learner_group.shutdown()
                        raise ConfigurationError(mistake)

    def _share_module(self) -> None:
        """Let a runner in this process play with the module of the learner in this process."""
        runner = cast("VLMEnvRunner | None", self.env_runner)
        if runner is not None and self.learner_group.is_local:
            runner.share_module(self.learner_group._learner.module[DEFAULT_MODULE_ID])

    def training_step(self) -> None:
        """Play, compare, learn."""
        begun = time.perf_counter()
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            batch = self.collect()
            self._play_ahead()
        sampled = time.perf_counter()
        if batch.groups:
            with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
                self.learn(self.make_samples(batch))
        updated = time.perf_counter()
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self._sync_weights()
        done = time.perf_counter()
        batch.metrics |= {
            "seconds_rollout": sampled - begun,
            "seconds_update": updated - sampled,
            "seconds_sync": done - updated,
            "learners_rebuilt": float(self.learners_rebuilt),
        }
        self._log(batch)

    def collect(self) -> GroupBatch:
        """Play the groups of an iteration, and compare their episodes.

        Returns:
            The groups that are trained on.
        """
        config = self.config
        batch = GroupBatch()
        wanted = config.groups_per_iteration
        start = self._groups_begun
        lost: dict[int, str] = {}
        retries = 0
        lags: list[int] = []
        for _ in range(config.resample_rounds + 1):
            outcome = self._play_next(wanted - len(batch.groups))
            lost |= outcome.failures
            retries += outcome.retries
            lags += outcome.lags
            if outcome.groups:
                self._take(batch, outcome.groups)
            if len(batch.groups) >= wanted or not config.filter_zero_variance_groups:
                break
        if not batch.played:
            raise RuntimeError(
                f"None of {self._groups_begun - start} groups could be played. The last error: "
                f"{next(reversed(lost.values()), 'no runner is alive')}"
            )
        episodes = [episode for group in batch.played for episode in group.episodes]
        owners = [self._tasks[group.spec.task].name for group in batch.played for _ in group.episodes]
        returns = self.returns(batch.played)
        batch.metrics |= episode_metrics(episodes, returns)
        batch.metrics |= task_metrics(episodes, returns, owners, [task.name for task in self._tasks])
        batch.metrics |= {
            "groups_played": float(len(batch.played)),
            "groups_trained": float(len(batch.groups)),
            "groups_constant": float(batch.constant),
            "groups_lost": float(len(lost)),
            "group_retries": float(retries),
            "lag_mean": float(np.mean(lags)),
            "lag_max": float(max(lags)),
        }
        for text in set(lost.values()):
            _logger.warning("%d groups were given up after several attempts: %s", len(lost), text)
        return batch

    def _draw(self, first: int, count: int) -> list[GroupSpec]:
        """Draw the groups from a number on."""
        config, shares = self.config, self._curriculum.shares()
        return [
            make_group(index, seed=config.seed or 0, size=config.group_size, shares=shares, stream=_TRAINING)
            for index in range(first, first + count)
        ]

    def _play_next(self, count: int) -> Outcome:
        """Play the next groups; those that were begun ahead come first, and are waited for."""
        outcome = Outcome() if self._ahead is None else self._ahead.take(count, updates=self._updates)
        begun = len(outcome.groups) + len(outcome.failures)
        now = self._play(self._draw(self._groups_begun + begun, count - begun))
        self._groups_begun += count
        self.metrics.aggregate([*outcome.metrics, *now.metrics], key=ENV_RUNNER_RESULTS)
        return Outcome(
            groups=outcome.groups + now.groups,
            failures=outcome.failures | now.failures,
            retries=outcome.retries + now.retries,
            lags=outcome.lags + [0] * len(now.groups),
        )

    def _play_ahead(self) -> None:
        """Have the runners play the groups of the next iterations, with the weights as they are."""
        ahead, config = self._ahead, self.config
        if ahead is None or not config.max_lag:
            return
        missing = config.max_lag * config.groups_per_iteration - len(ahead)
        specs = self._draw(self._groups_begun + len(ahead), max(0, missing))
        ahead.begin(specs, self.current_weights(), updates=self._updates)

    def _play(self, specs: Sequence[GroupSpec], *, explore: bool = True, evaluation: bool = False) -> Outcome:
        """Play groups on the runners; those lost with one are played by another."""
        if not specs:
            return Outcome()
        group = self.env_runner_group
        if evaluation and self.eval_env_runner_group is not None:
            group = self.eval_env_runner_group
        elif self._ahead is not None:
            self._ahead.settle()  # a runner that plays ahead must not count as hung
        return play_on_runners(
            group,
            specs,
            weights=self.current_weights() if group.num_remote_env_runners() else None,
            stored=self.stored_weights,
            retries=self.config.group_retries,
            timeout=self.config.sample_timeout_s,
            restore=lambda: self.restore_env_runners(group),
            explore=explore,
            evaluation=evaluation,
        )

    def _take(self, batch: GroupBatch, played: list[Group]) -> None:
        """Add groups to a batch, but for those without variance."""
        config = self.config
        returns = self.returns(played)
        episodes = [episode for group in played for episode in group.episodes]
        indices = [group.spec.index for group in played for _ in group.episodes]
        compared = self.compare(returns, indices)
        advantages: list[NDArray[np.float32]] = list(compared.advantages)
        if config.credit == "turn":
            advantages = turn_advantages(
                [turn_rewards(episode, value) for episode, value in zip(episodes, returns, strict=True)],
                indices,
                discount=config.turn_discount,
                scale=config.advantage_scale,
                leave_one_out=config.leave_one_out,
            )
        sizes = [len(group.episodes) for group in played]
        varied = [not constant for constant in compared.constant[np.cumsum([0, *sizes[:-1]])]]
        self._curriculum.learn([group.spec.task for group in played], varied)
        kept = [keep or not config.filter_zero_variance_groups for keep in varied]
        chosen = np.repeat(kept, sizes)  # (N,)
        batch.played += played
        batch.constant += len(varied) - sum(varied)
        batch.groups += [group for group, keep in zip(played, kept, strict=True) if keep]
        batch.returns = np.concatenate([batch.returns, returns[chosen]])
        batch.advantages += [advantages[place] for place in np.flatnonzero(chosen)]

    def returns(self, groups: Sequence[Group]) -> NDArray[np.float64]:
        """Return the return that each episode is trained on; override it for a reward that compares episodes.

        Args:
            groups: The groups.

        Returns:
            (N,) float64, in the order of groups and their episodes.

        Raises:
            ConfigurationError: If ``reward_fn`` does not return a finite number.
        """
        episodes = [episode for group in groups for episode in group.episodes]
        return returns_of(episodes, self.config.reward_fn)

    def compare(self, returns: NDArray[np.float64], groups: Sequence[int]) -> GroupAdvantages:
        """Return the advantages of episodes."""
        config = self.config
        return group_advantages(returns, groups, scale=config.advantage_scale, leave_one_out=config.leave_one_out)

    def make_samples(self, batch: GroupBatch) -> list[Sample]:
        """Cut episodes into training samples."""
        config = self.config
        episodes = [episode for group in batch.groups for episode in group.episodes]
        rng = np.random.default_rng([config.seed or 0, self._groups_begun])
        minibatches = assign_minibatches(len(episodes), config.num_minibatches, config.num_epochs, rng)
        samples: list[Sample] = []
        for number, episode in enumerate(episodes):
            if config.mask_truncated and episode.details.get("turns_cut_short"):
                continue
            samples += make_samples(episode, batch.advantages[number], minibatches=minibatches[number].tolist())
        return samples

    def learn(self, samples: Sequence[Sample]) -> None:
        """Train on samples; if a learner dies, build all anew from the last snapshot and train again."""
        if not samples:
            return
        steps = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0)
        shards = shard_samples(samples, max(1, self.config.num_learners))
        self.drop_weights()
        self.rest_engines()

        def update() -> Any:  # noqa: ANN401 -- results of learners
            data = TrainingData(episodes_refs=put_shards([shard or [Sample.nothing()] for shard in shards]))
            return self.learner_group.update(training_data=data, timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: steps})

        results = self.ask_learners(update, changes=True)
        self._updates += 1
        self.metrics.aggregate(results, key=LEARNER_RESULTS)

    def _sync_weights(self) -> None:
        """Give a runner in this process the new weights; others get them with their groups."""
        runner = cast("VLMEnvRunner | None", self.env_runner)
        if runner is None:
            name = None if self._transfer is None else self._transfer.send(self.learner_group, self.env_runner_group)
            if name is None:
                self.current_weights()
            else:
                self._weights = Weights(None, name)
        else:
            runner.set_state(self._learned_weights())

    def _log(self, batch: GroupBatch) -> None:
        for name, value in batch.metrics.items():
            self.metrics.log_value((GRPO_RESULTS, name), value, window=1)

    def evaluate(self, parallel_train_future: Any = None) -> dict[str, Any]:  # noqa: ANN401 -- RLlib's
        """Play ``evaluation_duration`` puzzles of the evaluation's environment, always the same ones.

        The likeliest tokens are taken, unless ``evaluation_config`` sets ``explore``.

        Returns:
            Acc, Score and others, with 95% intervals; see `agile_gym.learner.metrics.evaluation_metrics`.
        """
        config = self.config
        shares = [task.weight for task in self._tasks]
        count = config.evaluation_duration
        if not isinstance(count, int) or count < 1:
            raise ConfigurationError(f"evaluation_duration={count!r} is not allowed; give a number of episodes.")
        specs = [
            make_group(index, seed=config.seed or 0, size=1, shares=shares, stream=_EVALUATION)
            for index in range(count)
        ]
        changes: Any = config.evaluation_config or {}
        explore = bool(changes.get("explore", False)) if isinstance(changes, Mapping) else False
        outcome = self._play(specs, explore=explore, evaluation=True)
        groups = outcome.groups
        if not groups:
            reason = next(iter(outcome.failures.values()), "")
            raise RuntimeError(f"No puzzle of the evaluation could be played: {reason}")
        episodes = [episode for group in groups for episode in group.episodes]
        return evaluation_metrics(episodes, [self._tasks[group.spec.task].name for group in groups])

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 -- RLlib's
        """Return the state, with the number of groups that iterations have taken, and the curriculum."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        state[GRPO_RESULTS] = {"groups_begun": self._groups_begun, "curriculum": self._curriculum.get_state()}
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state; groups that are played ahead are dropped."""
        self._drop_ahead()
        super().set_state(state)
        if GRPO_RESULTS in state:
            self._groups_begun = state[GRPO_RESULTS]["groups_begun"]
            self._curriculum.set_state(state[GRPO_RESULTS]["curriculum"])

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- RLlib's
        """Take over a checkpoint; groups that are played ahead are dropped."""
        self._drop_ahead()
        super().restore_from_path(path, *args, **kwargs)

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.drop()

    def cleanup(self) -> None:
        """Stop runners and learners, without waiting long for groups that are played ahead."""
        if self._ahead is not None:
            self._ahead.stop()
        super().cleanup()


def register() -> None:
    """Register the algorithm, once in a process."""
    if not registry._global_registry.contains(registry.TRAINABLE_CLASS, NAME):  # pyright: ignore[reportPrivateUsage] -- no public look-up
        registry.register_trainable(NAME, GRPO)


register()
