"""Environments."""

from agile_gym.envs.config import JigsawConfig
from agile_gym.envs.episode import JigsawTask
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.envs.starting import EqualPiecesWarning
from agile_gym.envs.vector import JigsawVisionVectorEnv

__all__ = ["EqualPiecesWarning", "JigsawConfig", "JigsawTask", "JigsawVisionEnv", "JigsawVisionVectorEnv"]
