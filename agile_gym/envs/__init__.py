"""Environments: their contract, spaces and rendering, and a package for each kind of task."""

from agile_gym.envs.jigsaw import (
    EqualPiecesWarning,
    JigsawConfig,
    JigsawTask,
    JigsawVisionEnv,
    JigsawVisionVectorEnv,
)

__all__ = ["EqualPiecesWarning", "JigsawConfig", "JigsawTask", "JigsawVisionEnv", "JigsawVisionVectorEnv"]
