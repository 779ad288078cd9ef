"""Keeps notices of RLlib away that a user of this algorithm can do nothing about."""

from __future__ import annotations

import logging

__all__ = ["mute_notices"]

_MUTED = ("on the new API stack!", "RLModule(config=", "Install gputil")
_LOGGERS = (
    "ray.rllib.algorithms.algorithm_config",
    "ray.rllib.core.rl_module.rl_module",
    "ray.rllib.utils.deprecation",
    "ray._common.deprecation",
    "ray.tune.utils.util",
)


class _WithoutNotices(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is shown."""
        text = record.getMessage()
        return not any(part in text for part in _MUTED)


_FILTER = _WithoutNotices()


def mute_notices() -> None:
    """Let this process drop them; all else that RLlib says is shown."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)  # adding it again changes nothing
