"""All of the learner that needs RLlib. Importing it makes the algorithm known to Ray Tune as ``"AgileGRPO"``."""

from agile_gym.learner.algorithm import GRPO
from agile_gym.learner.config import GRPOConfig
from agile_gym.learner.env_runner import VLMEnvRunner
from agile_gym.learner.module import VLMModule
from agile_gym.learner.registering import NAME, register
from agile_gym.learner.rllib_learner import TokenLearner

__all__ = ["GRPO", "NAME", "GRPOConfig", "TokenLearner", "VLMEnvRunner", "VLMModule"]

register()
