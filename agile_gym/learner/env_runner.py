# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray and torch are incomplete.
"""RLlib's environment runner for models that write: plays whole groups of episodes, many in one batch."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import gymnasium
import numpy as np
import ray
import torch
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.framework import get_device
from ray.rllib.utils.metrics import (
    EPISODE_LEN_MEAN,
    EPISODE_RETURN_MEAN,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
    SAMPLE_TIMER,
    WEIGHTS_SEQ_NO,
)
from ray.tune.registry import (
    ENV_CREATOR,
    _global_registry,  # pyright: ignore[reportPrivateUsage] -- no public look-up
)

import agile_gym
from agile_gym.envs.contract import make_env
from agile_gym.errors import AgileGymError, ConfigurationError
from agile_gym.learner.groups import GroupPlay, GroupSpec, TaskMix, make_group, play_groups
from agile_gym.learner.memory import hand_back
from agile_gym.learner.messages import RunnerReply, Weights
from agile_gym.learner.module import VLMModule
from agile_gym.learner.options import mute_notices
from agile_gym.learner.sharding import assign
from agile_gym.policies.base import Policy, PolicyLike, as_policy
from agile_gym.rollout.play import EnvironmentPool
from agile_gym.transcripts.record import Transcript

__all__ = ["PLACEHOLDER_SPACE", "VLMEnvRunner"]

PLACEHOLDER_SPACE = gymnasium.spaces.Discrete(1)
"""Placeholder spaces for RLlib: texts and images of any size do not pass through its observations and actions."""
_SAMPLE_STREAM = 2

mute_notices()


def _takes_a_context(env: type) -> bool:
    """Return whether an environment's class takes RLlib's mapping of options, rather than the options by name."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = list(inspect.signature(env).parameters.values())
    return bool(parameters) and (
        parameters[0].kind is inspect.Parameter.VAR_POSITIONAL
        or (parameters[0].kind in kinds and parameters[0].name in ("config", "env_config", "context", "env_context"))
    )


class VLMEnvRunner(EnvRunner, Checkpointable):
    """Environment runner that plays with a `VLMModule`.

    The weights are the module's; the policy that plays with them is ``config.policy_class``.

    Attributes:
        module: The module; None if it could not be made.
        mistake: Reason that this runner cannot play, or None.
    """

    config: Any  # a GRPOConfig, which RLlib takes for one of any algorithm

    def __init__(self, *, config: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- RLlib's
        """Make environments and the module.

        Args:
            config: The algorithm's configuration.
            **kwargs: Arguments that RLlib passes to a runner, such as ``worker_index``.
        """
        super().__init__(config=config, **kwargs)
        self.spaces = kwargs.get("spaces") or {}
        if self.config.torch_threads_per_actor and self.worker_index:
            torch.set_num_threads(self.config.torch_threads_per_actor)
        gpus = self.config.num_gpus_per_env_runner if self.worker_index else 0
        if not self.worker_index and torch.cuda.is_available() and self.config.num_gpus_per_learner:
            gpus = self.config.num_gpus_per_learner
        agile_gym.register_all()  # in this process
        self._device: Any = get_device(self.config, gpus)
        self._weights_seq_no = 0
        self._weights_taken: str | None = None
        self._sampled = 0
        self._tasks: tuple[TaskMix, ...] = self.config.task_mix()
        self.env: Any = None
        self.module: VLMModule | None = None
        self._policies: dict[bool, Policy] = {}
        self._engine: Any = "hf"
        self._pools: dict[bool, EnvironmentPool] = {}
        self.mistake: str | None = None
        try:
            if self.worker_index or self.config.num_env_runners == 0 or self.config.create_env_on_local_worker:
                self.make_env()
            self.make_module()
        except AgileGymError as error:
            if not self.worker_index:
                raise
            self.mistake = str(error)  # returned to the driver; an actor that died would report little

    def make_env(self) -> None:
        """Make an environment of each task, and of the evaluation, to check that they can be made.

        Raises:
            ConfigurationError: If one cannot.
        """
        for evaluation in (True, False) if self.config.evaluation_config else (False,):
            for task in reversed(self._tasks):
                if self.env is not None:
                    self.env.close()
                try:
                    self.env = self._make_env(task, evaluation=evaluation)
                except ConfigurationError:
                    raise
                except Exception as error:  # a foreign environment may raise anything
                    raise ConfigurationError(
                        f"The environment {task.env or self.config.env!r} cannot be made for task {task.name!r}: "
                        f"{type(error).__name__}: {error}"
                    ) from error

    def _make_env(self, task: TaskMix, *, evaluation: bool = False) -> gymnasium.Env[Any, Any]:
        """Make a task's environment, by any name that the configuration allows."""
        settings = dict(self.config.env_config)
        if evaluation:
            changes = self.config.evaluation_config or {}
            changes = changes if isinstance(changes, Mapping) else changes.to_dict()
            settings |= cast("dict[str, Any]", changes.get("env_config") or {})
        env, settings = task.resolve(self.config.env, settings, test=evaluation)
        if isinstance(env, str) and not _global_registry.contains(ENV_CREATOR, env):
            return make_env(env, settings)
        if isinstance(env, type) and not _takes_a_context(env):
            return env(**settings)
        context = EnvContext(settings, worker_index=self.worker_index or 0, num_workers=self.num_workers)
        creator: Any = _global_registry.get(ENV_CREATOR, env) if isinstance(env, str) else env
        return creator(context)

    def _pool(self, *, evaluation: bool) -> EnvironmentPool:
        """Return the environments, which are kept: searching a folder of photographs takes longer than an episode."""
        if evaluation not in self._pools:
            self._pools[evaluation] = EnvironmentPool(
                {
                    number: partial(self._make_env, task, evaluation=evaluation)
                    for number, task in enumerate(self._tasks)
                }
            )
        return self._pools[evaluation]

    def make_module(self) -> None:
        """Load the model."""
        spec = self.config.get_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        module: Any = spec.build()
        on_device = self.config.engine == "hf"  # else vLLM has the device to itself
        own = bool(self.worker_index or self.config.num_learners)  # else the learner's will be shared
        self.share_module(module.to(self._device) if on_device else module, start=own)

    def share_module(self, module: VLMModule, *, start: bool = True) -> None:
        """Play with a module that is at hand, such as that of a learner in this process.

        Args:
            module: The module.
            start: True to start the engine, if it is another than the module itself.
        """
        module.model.eval()
        self.module = module
        self._policies = {}
        if start and self.config.engine != "hf" and self.config.policy_class is None:
            from agile_gym.models.vllm_engine import VLLMEngine

            config = self.config
            self._engine = VLLMEngine(
                module.vlm, module.chat, options=config.engine_options, sleeps=config.engine_sleep
            )
            self.rest()

    def rest(self) -> None:
        """Free the memory of an engine that sleeps while learners compute; it wakes by itself."""
        if self._engine != "hf":
            self._engine.sleep()

    def _policy(self, *, explore: bool) -> Policy:
        if explore not in self._policies:
            config, module = self.config, cast(VLMModule, self.module)
            maker: Callable[..., PolicyLike] | None = config.policy_class
            if maker is None:
                from agile_gym.policies.model import HFVLMPolicy as maker  # noqa: N813 -- a default
            self._policies[explore] = as_policy(
                maker(
                    module.vlm,
                    system=module.options.system,
                    window=config.window,
                    temperature=config.temperature if explore else 0.0,
                    max_new_tokens=config.max_new_tokens,
                    reuse_cache=config.reuse_cache,
                    **({} if self._engine == "hf" else {"engine": self._engine}),
                )
            )
        return self._policies[explore]

    def get_spaces(self) -> dict[str, Any]:
        """Return placeholders: checkpoints need not hold spaces of images."""
        spaces = (PLACEHOLDER_SPACE, PLACEHOLDER_SPACE)
        return {INPUT_ENV_SPACES: spaces, INPUT_ENV_SINGLE_SPACES: spaces, DEFAULT_MODULE_ID: spaces}

    def assert_healthy(self) -> None:
        """Check that there is a module, or a reason why there is none.

        Raises:
            RuntimeError: If there is none.
        """
        if self.module is None and self.mistake is None:
            raise RuntimeError("This runner has no module.")

    def get_mistake(self) -> str | None:
        """Return the reason that this runner cannot play, or None."""
        return self.mistake

    def sample_groups(
        self,
        groups: Sequence[GroupSpec],
        *,
        weights: Weights | None = None,
        explore: bool = True,
        evaluation: bool = False,
    ) -> RunnerReply:
        """Play groups. Nothing is raised, as RLlib would take a runner that raises for dead.

        Args:
            groups: The groups.
            weights: The weights to play with; None for those that the module has.
            explore: True if tokens are drawn; else the likeliest are taken.
            evaluation: True if the environments are those of the evaluation.

        Returns:
            The groups, or the failure.
        """
        if self.mistake is not None:
            return RunnerReply(self.worker_index or 0, GroupPlay(()), self.get_metrics(), self.mistake)
        mistake = None
        try:
            if weights is not None and not self._take_weights(weights):
                return RunnerReply(self.worker_index or 0, GroupPlay(()), self.get_metrics(), lacks_weights=True)
            play = self._play(groups, explore=explore, evaluation=evaluation)
        except AgileGymError as error:
            play, mistake = GroupPlay(()), str(error)
        except Exception:  # returned to the driver, which decides
            play = GroupPlay((), dict.fromkeys((group.index for group in groups), traceback.format_exc(limit=-8)))
        if self.worker_index:
            hand_back()
        return RunnerReply(self.worker_index or 0, play, self.get_metrics(), mistake)

    def _take_weights(self, weights: Weights) -> bool:
        """Take over weights, unless they are those that were taken last, and no state has come since.

        Returns:
            False if they are elsewhere.
        """
        if weights.name != self._weights_taken:
            if weights.state is None:
                return False
            self.set_state(ray.get(weights.state))
            self._weights_taken = weights.name
        return True

    @property
    def takes_weights_of(self) -> str | None:
        """Type of numbers of an engine that takes all weights as they come; None if the module takes those trained."""
        module = cast(VLMModule, self.module)
        if self._engine == "hf" or module.options.train == "lora":
            return None
        return str(module.vlm.model.dtype).removeprefix("torch.")

    def take_tensors(self, tensors: Iterable[tuple[str, torch.Tensor]], name: str, number: int) -> None:
        """Take over weights that are sent tensor by tensor; see `agile_gym.learner.transfer`.

        Args:
            tensors: The weights.
            name: Their name.
            number: Their number.
        """
        self._weights_taken = None
        if self.takes_weights_of is not None:
            self._engine.take_weights(tensors)
        else:
            own = cast(VLMModule, self.module).state_dict()
            for key, tensor in tensors:
                assign(own[key], tensor)
            if self._engine != "hf":
                self._engine.take_weights()
        self._weights_taken, self._weights_seq_no = name, number

    def _play(self, groups: Sequence[GroupSpec], *, explore: bool, evaluation: bool) -> GroupPlay:
        module = cast(VLMModule, self.module)
        with self.metrics.log_time(SAMPLE_TIMER), module.autocast():
            play = play_groups(
                self._policy(explore=explore),
                groups,
                self._pool(evaluation=evaluation),
                batch=self.config.rollout_batch,
                weights=self._weights_seq_no,
                keep_images=not evaluation,
                policy_name=module.vlm.name,
            )
        if not evaluation:
            self._log([episode for group in play.groups for episode in group.episodes])
        return play

    def _log(self, episodes: Sequence[Transcript]) -> None:
        steps = sum(len(episode.turns) for episode in episodes)
        self._sampled += steps
        for episode in episodes:
            self.metrics.log_value(EPISODE_RETURN_MEAN, float(episode.reward["total"]), reduce="mean", window=1000)
            self.metrics.log_value(EPISODE_LEN_MEAN, len(episode.turns), reduce="mean", window=1000)
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED, steps, reduce="sum")
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, steps, reduce="lifetime_sum", with_throughput=True)
        self.metrics.log_value(NUM_EPISODES, len(episodes), reduce="sum")
        self.metrics.log_value(NUM_EPISODES_LIFETIME, len(episodes), reduce="lifetime_sum")
        self.metrics.log_value(WEIGHTS_SEQ_NO, self._weights_seq_no, window=1)

    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        **kwargs: Any,  # noqa: ANN401 -- RLlib's
    ) -> list[Transcript]:
        """Play single episodes, as RLlib requests them.

        Args:
            num_timesteps: Turns wanted; at least as many are played as whole episodes.
            num_episodes: Episodes wanted.
            explore: True if tokens are drawn; by default as configured.
            **kwargs: Not used.

        Returns:
            The episodes.
        """
        count = num_episodes or max(1, int(np.ceil((num_timesteps or 1) / 2)))
        shares = [task.weight for task in self._tasks]
        stream = _SAMPLE_STREAM + (self.worker_index or 0)
        groups = [
            make_group(number, seed=self.config.seed or 0, size=1, shares=shares, stream=stream)
            for number in range(self._sampled, self._sampled + count)
        ]
        chosen = self.config.explore if explore is None else explore
        play = self._play(groups, explore=chosen, evaluation=bool(self.config.in_evaluation))
        if play.failures:
            raise ConfigurationError(f"The environment raised: {next(iter(play.failures.values()))}")
        return [episode for group in play.groups for episode in group.episodes]

    def get_metrics(self) -> Any:  # noqa: ANN401 -- RLlib's
        """Return the metrics since the last call."""
        return self.metrics.reduce()

    def stop(self) -> None:
        """Close the environments."""
        if self.env is not None:
            self.env.close()
        for pool in self._pools.values():
            pool.close()

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 -- RLlib's
        """Return the state; weights only if requested."""
        state: dict[str, Any] = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self._sampled}
        if self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = cast(VLMModule, self.module).get_state(**kwargs)
            state[WEIGHTS_SEQ_NO] = self._weights_seq_no
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over weights, be they newer or older."""
        if self.module is None:
            return
        if COMPONENT_RL_MODULE in state:
            self._weights_taken = None
            number = state.get(WEIGHTS_SEQ_NO, 0)
            shared = not self.module.inference_only  # a learner of this process has them already
            if not shared:  # whatever their number: learners that were built anew or restored count from the start
                weights = state[COMPONENT_RL_MODULE]
                if isinstance(weights, ray.ObjectRef):
                    weights = ray.get(weights)
                self.module.set_state(weights.get(DEFAULT_MODULE_ID, weights))
            if self._engine != "hf":
                self._engine.take_weights()
            self._weights_seq_no = number or self._weights_seq_no
        self._sampled = state.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, self._sampled)

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the constructor arguments of an equal runner."""
        return (), {"config": self.config}

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """Return none: the learner stores the weights."""
        return []
