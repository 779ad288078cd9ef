"""This library's side of benchmarks/training_speed.py: an algorithm whose turns all have the same number of tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import ray
from cache_reuse import Looking
from play_settings import PlaySetting
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from agile_gym.learner import GRPOConfig
from agile_gym.learner.env_runner import PLACEHOLDER_SPACE
from agile_gym.learner.module import VLMModule
from agile_gym.models.sampling import forbidden_tokens
from agile_gym.policies.model import HFVLMPolicy

__all__ = ["Reading", "Setting", "build", "environment_options", "letters", "measure_rollout", "start_ray", "train"]


@dataclass(frozen=True)
class Setting(PlaySetting):
    """Setup of the measured training.

    Attributes:
        prompt: As in `agile_gym.envs.jigsaw.JigsawConfig`.
        attention: Implementation of attention.
        micro_batch: Size of a micro-batch in an update: tokens here, rows in TRL.
        reuse_cache: True if the cache is kept from turn to turn.
        runners: Processes that play; 0 plays in this one.
        learners: Processes that learn; likewise.
        max_lag: As in `agile_gym.learner.GRPOConfig.training`.
    """

    prompt: str = "short"
    attention: str = "sdpa"
    micro_batch: int = 2048
    reuse_cache: bool = True
    runners: int = 0
    learners: int = 0
    max_lag: int = 0


@dataclass(frozen=True)
class Reading:
    """Seconds of an activity, and the tokens that the model wrote for it, or that were trained on."""

    wall: float
    processor: float
    tokens: int

    @classmethod
    def since(cls, start, tokens):
        """Return the time since `now` was called."""
        end = now()
        return cls(end[0] - start[0], end[1] - start[1], tokens)


def now():
    """Return the seconds of the clock and of the processor."""
    return time.perf_counter(), time.process_time()


class EndlessModule(VLMModule):
    """Scorer of turns in which no token can end a turn, as they were sampled."""

    def scorer(self, **options):
        """Return a scorer that gives the tokens that end turns no probability."""
        scorer = super().scorer(**options)
        scorer._ends = ()
        return scorer


def endless_policy(model, **options):
    """Return a policy whose turns always have ``max_new_tokens`` tokens."""
    policy = HFVLMPolicy(model, stop=["never written"], **options)
    generator = policy._generator
    generator._ends = set()
    generator.forbidden = forbidden_tokens(policy.chat, len(generator.forbidden), ()).to(generator.forbidden.device)
    return policy


def looking_policy(model, *, turns, **options):
    """Return such a policy, whose turns but the last are replaced by an observation of the board."""
    return Looking(endless_policy(model, **options), turns - 1)


def letters(episode):
    """Return a reward that differs within groups, from the model's text."""
    return float(sum(int(segment.ids[segment.loss_mask].sum()) for segment in episode.segments) % 7)


def environment_options(setting):
    """Return the options of the environment."""
    return {
        "image_size": setting.image_size,
        "prompt": setting.prompt,
        "images": None,
        "split": "train",
        "max_turns": setting.turns,
    }


def build(setting):
    """Build the algorithm."""
    several = setting.turns > 1
    spec = RLModuleSpec(module_class=EndlessModule, observation_space=PLACEHOLDER_SPACE, action_space=PLACEHOLDER_SPACE)
    config = (
        GRPOConfig()
        .environment("JigsawVision-v0", env_config=environment_options(setting))
        .vlm(path=setting.model, attention=setting.attention, autocast="none")
        .rl_module(rl_module_spec=spec)
        .env_runners(num_env_runners=setting.runners, num_cpus_per_env_runner=0.5)
        .learners(num_learners=setting.learners, num_cpus_per_learner=0.5)
        .training(
            lr=1e-6,
            groups_per_iteration=setting.groups,
            group_size=setting.group_size,
            max_new_tokens=setting.new_tokens,
            rollout_batch=setting.groups * setting.group_size,
            micro_batch_tokens=setting.micro_batch,
            reuse_cache=setting.reuse_cache,
            filter_zero_variance_groups=False,
            max_lag=setting.max_lag,
            reward_fn=letters,
            policy_class=partial(looking_policy, turns=setting.turns) if several else endless_policy,
        )
    )
    return config.build_algo()


def start_ray():
    """Start Ray for this process and its actors."""
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)


def measure_rollout(algorithm):
    """Play the groups of an iteration; return the reading and the batch."""
    start = now()
    batch = algorithm.collect()
    segments = [segment for group in batch.groups for episode in group.episodes for segment in episode.segments]
    return Reading.since(start, int(sum(np.count_nonzero(segment.loss_mask) for segment in segments))), batch


def measure_iteration(algorithm):
    """Play and learn; return the readings of rollout and update."""
    rollout, batch = measure_rollout(algorithm)
    start = now()
    samples = algorithm.make_samples(batch)
    algorithm.learn(samples)
    return rollout, Reading.since(start, sum(sample.trained for sample in samples))


def train(setting, steps):
    """Train in a process that does nothing else, going on where it was if it has trained so before.

    Returns:
        The readings of rollout and update of each step.
    """
    if not ray.is_initialized():
        start_ray()
    if _algorithms.setting != setting:
        if _algorithms.algorithm is not None:
            _algorithms.algorithm.stop()
        _algorithms.setting, _algorithms.algorithm = setting, build(setting)
    return [measure_iteration(_algorithms.algorithm) for _ in range(steps)]


class _Algorithms:
    """The algorithm that `train` goes on with."""

    setting = None
    algorithm = None


_algorithms = _Algorithms()
