# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray are incomplete.
"""Checks of settings that belong together: engine, evaluation, lag and runners, reward and turns."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from agile_gym.envs.contract import JIGSAW
from agile_gym.envs.jigsaw.config import JigsawConfig
from agile_gym.envs.jigsaw.reward import cost_of_looking, get_reward
from agile_gym.errors import ConfigurationError, is_whole, require

__all__ = ["check_engine", "check_evaluation", "check_lag", "warn_of_costly_looks"]

_EVALUATION_KEYS = frozenset({"env_config", "explore"})
_MOST_TURNS = 10**9
_logger = logging.getLogger(__name__)


@cache
def _warn(text: str) -> None:
    """Log a warning once in a process: configurations are checked several times."""
    _logger.warning(text)


def check_engine(config: Any) -> None:  # noqa: ANN401 -- a GRPOConfig
    """Check that the engine takes its options.

    Raises:
        ConfigurationError: If it does not.
    """
    if config.engine == "hf":
        require(not config.engine_options, "engine_options", config.engine_options, "nothing without engine='vllm'")
    else:
        from agile_gym.models.vllm_inputs import check_options

        check_options(config.engine_options or {})


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
    """Check that there are runners that can play while the learners train.

    Raises:
        ConfigurationError: If there are none.
    """
    if config.max_lag and not config.num_env_runners and not config.in_evaluation:
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
    if is_whole(turns, _MOST_TURNS) and (warning := cost_of_looking(get_reward(rules.reward), turns)):
        _warn(warning)
