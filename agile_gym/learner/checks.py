# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray are incomplete.
"""Checks of settings: numbers, and those that belong together, such as engine, lag and runners, reward and turns."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from agile_gym.envs.contract import JIGSAW
from agile_gym.envs.jigsaw.config import JigsawConfig
from agile_gym.envs.reward import cost_of_looking, get_reward
from agile_gym.errors import ConfigurationError, is_number, is_whole, require, require_seed
from agile_gym.learner.options import TINY
from agile_gym.learner.updating import SUPERVISED
from agile_gym.models.cache import MAX_WINDOW
from agile_gym.models.sampling import SamplingOptions

__all__ = [
    "TRANSFERS",
    "check_engine",
    "check_engine_starts",
    "check_evaluation",
    "check_lag",
    "check_numbers",
    "check_transfer",
    "check_vllm_model",
    "warn_of_costly_looks",
]

TRANSFERS = ("object_store", "nccl", "gloo", "ipc")
"""Ways of weights to the runners."""

_EVALUATION_KEYS = frozenset({"env_config", "explore"})
_WHOLE = 10**9
_BELOW_ONE = 1 - 1e-9
_logger = logging.getLogger(__name__)


@cache
def _warn(text: str) -> None:
    """Log a warning once in a process: configurations are checked several times."""
    _logger.warning(text)


def check_numbers(config: Any) -> None:  # noqa: ANN401 -- a GRPOConfig
    """Check each number by itself.

    Raises:
        ConfigurationError: If one is not allowed.
    """

    def check(condition: bool, name: str, allowed: str) -> None:
        require(condition, name, getattr(config, name), allowed)

    for name in ("groups_per_iteration", "num_minibatches", "micro_batch_tokens", "num_epochs", "rollout_batch"):
        check(is_whole(getattr(config, name), _WHOLE), name, "a whole number of at least 1")
    check(is_whole(config.group_retries, _WHOLE), "group_retries", "a whole number of at least 1")
    least = 1 if config.loss == SUPERVISED else 2  # advantages compare the episodes of a group
    check(is_whole(config.group_size, _WHOLE) and config.group_size >= least, "group_size", f"at least {least}")
    for name in ("resample_rounds", "lr_warmup_steps", "max_lag"):
        value = getattr(config, name)
        check(value == 0 or is_whole(value, _WHOLE), name, "a whole number of at least 0")
    for name in ("max_loss_tokens", "lr_total_steps"):
        value = getattr(config, name)
        check(value is None or is_whole(value, _WHOLE), name, "a whole number of at least 1, or None")
    threads = config.torch_threads_per_actor
    check(threads is None or is_whole(threads, 1024), "torch_threads_per_actor", "1 to 1024, or None")
    check(config.window is None or is_whole(config.window, MAX_WINDOW), "window", f"1 to {MAX_WINDOW}, or None")
    for name in ("kl_coef", "entropy_coef", "weight_decay"):
        check(is_number(getattr(config, name), 0, 1e6), name, "a number of at least 0")
    check(is_number(config.turn_discount, 0, 1), "turn_discount", "a number from 0 to 1")
    check(is_number(config.min_lr_ratio, 0, 1), "min_lr_ratio", "a fraction of lr from 0 to 1")
    check(config.clip_low is None or is_number(config.clip_low, 0, 1), "clip_low", "a number from 0 to 1")
    high = config.clip_high
    check(high is None or is_number(high, 0, 1e6), "clip_high", "a number of at least 0")
    betas = all(is_number(beta, 0, _BELOW_ONE) for beta in config.adam_betas)
    check(betas, "adam_betas", "two numbers from 0, below 1")
    check(is_number(config.temperature, 1e-3, 100), "temperature", "a number above 0, up to 100")
    check(is_number(config.lr, 1e-30, 100), "lr", "a number above 0; its course is set with lr_schedule")
    clip: Any = config.grad_clip  # RLlib declares a float
    check(clip is None or is_number(clip, 1e-30, 1e30), "grad_clip", "a number above 0, or None")
    SamplingOptions(max_new_tokens=config.max_new_tokens)
    seed: Any = config.seed  # None is RLlib's, too
    if seed is not None:
        require_seed(seed)


def check_transfer(config: Any) -> None:  # noqa: ANN401 -- a GRPOConfig
    """Check that runners and learners have what a transfer needs.

    Raises:
        ConfigurationError: If they do not.
    """
    kind, gpus = config.weights_transfer, (config.num_gpus_per_env_runner, config.num_gpus_per_learner)
    if kind == "object_store" or config.in_evaluation:  # whose runners may be those of the training
        return
    if not config.num_env_runners:
        raise ConfigurationError(
            f"weights_transfer={kind!r} is for runners in processes of their own, and there are none: set "
            "env_runners(num_env_runners=1), or leave it out. A runner in the learner's process has its weights."
        )
    if kind == "nccl" and min(gpus) < 1:
        raise ConfigurationError(
            f"weights_transfer='nccl' needs a whole GPU for each runner and each learner; they have {gpus[0]:g} and "
            f"{gpus[1]:g} (num_gpus_per_env_runner, num_gpus_per_learner). Set 'ipc' where a runner and a learner "
            "share a GPU, 'gloo' on CPUs."
        )
    if kind == "ipc" and (not gpus[0]) != (not gpus[1]):
        raise ConfigurationError(
            f"weights_transfer='ipc' needs runners and learners that share GPUs, or none on any; they have "
            f"{gpus[0]:g} and {gpus[1]:g} (num_gpus_per_env_runner, num_gpus_per_learner). Set 'gloo'."
        )


def check_engine(config: Any) -> None:  # noqa: ANN401 -- a GRPOConfig
    """Check that the engine takes its options.

    Raises:
        ConfigurationError: If it does not.
    """
    if config.engine == "hf":
        require(not config.engine_options, "engine_options", config.engine_options, "nothing without engine='vllm'")
        require(not config.engine_sleep, "engine_sleep", config.engine_sleep, "False without engine='vllm'")
    else:
        from agile_gym.models.vllm_inputs import check_options

        check_options(config.engine_options or {})


def check_engine_starts(config: Any, path: str, *, installed: bool) -> None:  # noqa: ANN401 -- a GRPOConfig
    """Check, before a run, what would keep the engine of its runners from starting.

    Args:
        config: The configuration.
        path: The model.
        installed: True if it is to start on this machine.

    Raises:
        ConfigurationError: If vLLM is to sleep on a CPU, or its version is not tested.
        MissingDependencyError: If it is not installed.
        ModelError: If it does not take the model.
    """
    if config.engine == "hf" or config.policy_class is not None:
        return
    gpus = config.num_gpus_per_env_runner if config.num_env_runners else config.num_gpus_per_learner
    if config.engine_sleep and not gpus:
        raise ConfigurationError(
            "engine_sleep=True: vLLM cannot sleep on a CPU. Set gpus_per_runner (gpus_per_learner, where runners = 0), "
            "or leave it out."
        )
    check_vllm_model(path, installed=installed)


def check_vllm_model(path: str, *, installed: bool) -> None:
    """Check that vLLM takes a model, and, if it must be, is installed; see `check_engine_starts`."""
    from agile_gym.models.vllm_inputs import check_installed, check_model

    if installed:
        check_installed()
    if path != TINY:
        check_model(path)


def check_evaluation(config: Any) -> None:  # noqa: ANN401 -- a GRPOConfig
    """Check that the evaluation's changes can be made by its runners.

    Raises:
        ConfigurationError: If not.
    """
    changes: Any = config.evaluation_config or {}
    if config.in_evaluation or not isinstance(changes, Mapping) or config.evaluation_num_env_runners:
        return
    for name in sorted(set(changes) - _EVALUATION_KEYS):
        raise ConfigurationError(
            f"evaluation_config: {name!r} cannot differ from training where the runners of training evaluate, too; "
            "set evaluation(evaluation_num_env_runners=1), or change only 'env_config' and 'explore'."
        )


def check_lag(config: Any) -> None:  # noqa: ANN401 -- a GRPOConfig
    """Check that there are runners that can play while the learners train, with weights of their own.

    Raises:
        ConfigurationError: If there are none.
    """
    if not config.max_lag or config.in_evaluation:
        return
    if config.weights_transfer != "object_store" or config.engine_sleep:
        other = "engine_sleep=True" if config.engine_sleep else f"weights_transfer={config.weights_transfer!r}"
        raise ConfigurationError(
            f"max_lag={config.max_lag} with {other}: runners that play ahead cannot wait for the learners. Set "
            "max_lag=0, or leave the other out."
        )
    if not config.num_env_runners:
        raise ConfigurationError(
            f"max_lag={config.max_lag} with num_env_runners=0: groups are played ahead by runners in processes of "
            "their own. Set env_runners(num_env_runners=1) or more (runners in [resources]), or max_lag=0."
        )


def warn_of_costly_looks(config: Any) -> None:  # noqa: ANN401 -- a GRPOConfig
    """Warn of a reward of the jigsaw that leaves nothing for looking."""
    if config.env != JIGSAW:
        return
    names = vars(JigsawConfig()).keys() & config.env_config.keys()
    rules = JigsawConfig(**{name: config.env_config[name] for name in names})
    turns: Any = rules.max_turns  # checked by the environment
    if is_whole(turns, _WHOLE) and (warning := cost_of_looking(get_reward(rules.reward), turns)):
        _warn(warning)
