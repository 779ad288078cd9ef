"""Numbers instead of text, and an image instead of a dictionary, for ordinary reinforcement learning."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from numpy.typing import NDArray

from agile_gym.actions.dialects import write_answer
from agile_gym.actions.primitives import Answer, Observe, Primitive, Swap, Turn
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ConfigurationError

__all__ = ["DiscreteActions", "ImageObservation", "JigsawVisionDiscreteEnv"]


class DiscreteActions(gymnasium.ActionWrapper[dict[str, Any], np.int64, str]):
    """A `Discrete` action space over all swaps, observe and submit.

    Actions 0 to n(n-1)/2 - 1 swap two places, in the order (0, 1), (0, 2), ... (n-2, n-1), and show the board. With
    ``rotations``, the next n turn the piece at a place by 90 degrees clockwise and show the board. The last but one
    only shows the board, and the last answers with the board as it is. Each is written as text in the environment's
    dialect and goes the same way as a model's text.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Wrap an environment.

        Args:
            env: A `JigsawVisionEnv`, perhaps wrapped.

        Raises:
            ConfigurationError: If it is another environment.
        """
        super().__init__(env)
        self._jigsaw = _jigsaw_below(env, "DiscreteActions")
        rules = self._jigsaw.rules
        places = range(rules.rows * rules.cols)
        moves: list[Primitive] = [Swap(first, second) for first, second in combinations(places, 2)]
        if rules.config.rotations:
            moves += [Turn(place, 90) for place in places]
        self._turns: list[list[Primitive]] = [[move, Observe()] for move in moves] + [[Observe()]]
        self.action_space = Discrete(len(self._turns) + 1)

    def action(self, action: np.int64) -> str:
        """Write an action as the text of a turn.

        Args:
            action: 0 to ``action_space.n - 1``.

        Returns:
            The text.

        Raises:
            ConfigurationError: If there is no such action.
        """
        if not self.action_space.contains(action):
            raise ConfigurationError(f"action={action!r} does not exist; give a whole number, 0 to {len(self._turns)}.")
        workspace = self._jigsaw.episode.workspace
        if action < len(self._turns):
            return self._jigsaw.dialect.write(self._turns[int(action)], workspace)
        state = workspace.state_list()
        if workspace.rotations:
            return write_answer(Answer(tuple(name for name, _ in state), tuple(angle for _, angle in state)))
        return write_answer(Answer(tuple(state)))


class ImageObservation(gymnasium.ObservationWrapper[NDArray[np.uint8], Any, dict[str, Any]]):
    """Keeps only the image of an observation: (H, W, 3) uint8, the whole canvas."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Wrap an environment whose observations are a dictionary with an ``image``.

        Raises:
            ConfigurationError: If its observations have no image.
        """
        super().__init__(env)
        space = env.observation_space
        image: object = cast(Any, space).get("image") if isinstance(space, Dict) else None
        if not isinstance(image, Box):
            raise ConfigurationError(f"ImageObservation needs observations with an 'image'; these are {space}.")
        self.observation_space = image

    def observation(self, observation: dict[str, Any]) -> NDArray[np.uint8]:
        """Return the image of an observation."""
        return observation["image"]


class JigsawVisionDiscreteEnv(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """The jigsaw with discrete actions and image observations, as an environment of its own.

    ## Description
    `JigsawVisionEnv` below `DiscreteActions` and `ImageObservation`.

    ## Action Space
    ``Discrete``: swap two places, observe, or submit; see `DiscreteActions`.

    ## Observation Space
    ``Box(0, 255, (H, W, 3), uint8)``: the board after the action; black after submitting.

    ## Rewards, Starting State, Episode End
    Those of `JigsawVisionEnv`.

    ## Arguments
    ``render_mode`` and the options of `agile_gym.envs.JigsawConfig`.

    ## Version History
    - v0: first version.
    """

    metadata: dict[str, Any] = JigsawVisionEnv.metadata

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:  # noqa: ANN401 -- see JigsawConfig
        """Make the environment; see `JigsawVisionEnv`."""
        self.jigsaw = JigsawVisionEnv(render_mode=render_mode, **options)
        actions = DiscreteActions(self.jigsaw)
        images = ImageObservation(actions)
        self._env = images
        self.render_mode = render_mode
        self.action_space = cast(Discrete, actions.action_space)
        self.observation_space = cast(Any, images.observation_space)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin an episode; see `JigsawVisionEnv.reset`."""
        super().reset(seed=seed)
        return self._env.reset(seed=seed, options=dict(options or {}))

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Take an action; see `DiscreteActions`."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        return observation, float(reward), terminated, truncated, info

    def render(self) -> Any:  # noqa: ANN401 -- as Gymnasium
        """Return or show the last image; see `JigsawVisionEnv.render`."""
        return self.jigsaw.render()

    def close(self) -> None:
        """Close the window, if there is one."""
        self.jigsaw.close()


def _jigsaw_below(env: gymnasium.Env[Any, Any], wrapper: str) -> JigsawVisionEnv:
    jigsaw = env.unwrapped
    if not isinstance(jigsaw, JigsawVisionEnv):
        raise ConfigurationError(f"{wrapper} wraps a JigsawVision environment; this is {jigsaw}.")
    return jigsaw
