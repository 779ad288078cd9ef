"""Plug in an environment of your own: which quarter of the picture is this crop from?

It needs no class of this package, only observations and info as `agile_gym.envs.contract` has them. Usage, in the
folder of this file:

    agile-gym eval --env custom_env:QuarterEnv --policy custom_env:guess --episodes 50
    agile-gym view agile-eval.json
    agile-gym train --env custom_env:QuarterEnv --set cold_start.teacher=custom_env:Teacher
"""

import re

import gymnasium
import numpy as np

from agile_gym.envs.contract import make_info
from agile_gym.envs.spaces import UnicodeText, observation_space

NAMES = ("top left", "top right", "bottom left", "bottom right")
ASK = "Here is a picture: <image>\nWhich quarter of it is this? <image>\nAnswer <answer>top left</answer>, ..."


class QuarterEnv(gymnasium.Env):
    """A random picture of coloured squares and one of its quarters; the answer has two words."""

    def __init__(self, size=64, max_turns=2):
        """Make the environment: ``size`` is the side of the picture, ``max_turns`` the number of attempts."""
        self.size, self.max_turns = size, max_turns
        self.observation_space = observation_space((size, size), 1000)
        self.action_space = UnicodeText(1000)

    def reset(self, *, seed=None, options=None):
        """Draw a picture and a quarter."""
        super().reset(seed=seed)
        squares = self.np_random.integers(0, 256, (4, 4, 3), np.uint8)
        self.picture = np.kron(squares, np.ones((self.size // 4, self.size // 4, 1), np.uint8))
        self.quarter, self.turn = int(self.np_random.integers(4)), 0
        half, (row, column) = self.size // 2, divmod(self.quarter, 2)
        crop = self.picture[row * half : (row + 1) * half, column * half : (column + 1) * half]
        task = {"label": "bottom" if row else "top", "max_turns": self.max_turns}
        return self._observe(ASK), make_info([self.picture, crop], turn=0, task=task)

    def step(self, action):
        """Read an answer; a turn without one is lost."""
        self.turn += 1
        found = re.search(r"<answer>(.*?)</answer>", action)
        solved = found is not None and found[1] == NAMES[self.quarter]
        primitives, error = (["Answer"], None) if found else ([], "no_answer")
        text = "Done." if found else "There is no answer. Write <answer>...</answer>."
        truncated = found is None and self.turn >= self.max_turns
        info = make_info([], turn=self.turn, error=error, primitives=primitives, solved=solved)
        return self._observe(text), float(solved), found is not None, truncated, info

    def _observe(self, text):
        return {"image": self.picture, "image_size": np.array([self.size, self.size]), "text": text}


def guess(observation):
    """A policy: answer with the first quarter, whatever is shown."""
    return "<think>I guess.</think><answer>top left</answer>"


class Teacher:
    """A policy for the cold start: compares the crop with the quarters of the picture."""

    def reset(self, seed=None):
        """Nothing is random here."""

    def act(self, observations, infos):
        """Answer each question."""
        return [f"<think>I compared.</think><answer>{self._quarter(*info['images'])}</answer>" for info in infos]

    def _quarter(self, picture, crop):
        half = len(crop)
        corners = [picture[y : y + half, x : x + half] for y in (0, half) for x in (0, half)]
        return NAMES[[bool((corner == crop).all()) for corner in corners].index(True)]
