"""Questions about pictures, which can be looked at closer before they are answered.

config    options, checked once
prompt    text of the question, with a worked example
episode   one question being answered
env       `VisualQAEnv`
"""

from agile_gym.envs.visual_qa.config import VisualQAConfig
from agile_gym.envs.visual_qa.env import VisualQAEnv

__all__ = ["VisualQAConfig", "VisualQAEnv"]
