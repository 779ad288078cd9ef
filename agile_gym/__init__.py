"""Gymnasium environments in which vision-language models learn by interacting with images.

Importing this package registers its environments::

    import gymnasium
    import agile_gym

    env = gymnasium.make("JigsawVision-v0")

``gymnasium.make("agile_gym:JigsawVision-v0")`` does both. Everything heavier than the catalogue is imported where it is
used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from agile_gym.errors import (
    AgileGymError,
    BudgetError,
    ConfigurationError,
    EndpointError,
    ImageError,
    MissingDependencyError,
    ModelError,
    TranscriptError,
)
from agile_gym.registration import EnvCard, load_catalogue, register_all

if TYPE_CHECKING:
    from agile_gym.envs.jigsaw.config import JigsawConfig
    from agile_gym.envs.jigsaw.env import JigsawVisionEnv, JigsawVisionVectorEnv
    from agile_gym.envs.reward import RewardConfig
    from agile_gym.policies.api.policy import ChatAPIPolicy
    from agile_gym.policies.base import Policy, as_policy, make_policy, register_policy
    from agile_gym.policies.model import HFVLMPolicy
    from agile_gym.transcripts.record import Transcript

__all__ = [
    "AgileGymError",
    "BudgetError",
    "ChatAPIPolicy",
    "ConfigurationError",
    "EndpointError",
    "EnvCard",
    "HFVLMPolicy",
    "ImageError",
    "JigsawConfig",
    "JigsawVisionEnv",
    "JigsawVisionVectorEnv",
    "MissingDependencyError",
    "ModelError",
    "Policy",
    "RewardConfig",
    "Transcript",
    "TranscriptError",
    "as_policy",
    "load_catalogue",
    "make_policy",
    "register_all",
    "register_policy",
]

_LAZY = {
    "ChatAPIPolicy": "agile_gym.policies.api.policy",
    "HFVLMPolicy": "agile_gym.policies.model",
    "JigsawConfig": "agile_gym.envs",
    "JigsawVisionEnv": "agile_gym.envs",
    "JigsawVisionVectorEnv": "agile_gym.envs",
    "Policy": "agile_gym.policies",
    "RewardConfig": "agile_gym.envs.jigsaw",
    "Transcript": "agile_gym.transcripts",
    "as_policy": "agile_gym.policies",
    "make_policy": "agile_gym.policies",
    "register_policy": "agile_gym.policies",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 -- any of the names above
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("agile-gym")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_all()
