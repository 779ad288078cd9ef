"""AGILE's interactive jigsaw (arXiv 2510.01304).

config    options, checked once
start     reset options, and the puzzle that is drawn from a seed
episode   one puzzle being solved
env       `JigsawVisionEnv` and `JigsawVisionVectorEnv`
wrappers  discrete actions, image observations, and an environment with both
reward    the reward of an episode
"""

from agile_gym.envs.jigsaw.config import JigsawConfig
from agile_gym.envs.jigsaw.env import JigsawVisionEnv, JigsawVisionVectorEnv
from agile_gym.envs.jigsaw.episode import JigsawTask
from agile_gym.envs.jigsaw.start import EqualPiecesWarning
from agile_gym.envs.reward import RewardConfig

__all__ = [
    "EqualPiecesWarning",
    "JigsawConfig",
    "JigsawTask",
    "JigsawVisionEnv",
    "JigsawVisionVectorEnv",
    "RewardConfig",
]
