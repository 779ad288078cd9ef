"""Wrappers for discrete actions and image observations, as standard reinforcement learning uses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from numpy.typing import NDArray

from agile_gym.actions.dialects import write_answer
from agile_gym.actions.primitives import Answer, Observe, Primitive, RotatePiece, Swap
from agile_gym.envs.jigsaw.env import JigsawVisionEnv
from agile_gym.envs.spaces import ImageBox
from agile_gym.errors import ConfigurationError, is_number, plain
from agile_gym.puzzle.pixels import parse_size, resize

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
            moves += [RotatePiece(place, 90) for place in places]
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
            gymnasium.error.ResetNeeded: If the episode has ended, or has not begun.
        """
        if not self.action_space.contains(action):
            raise ConfigurationError(f"action={action!r} does not exist; give a whole number, 0 to {len(self._turns)}.")
        self._jigsaw.episode.check_running()
        workspace = self._jigsaw.episode.workspace
        if action < len(self._turns):
            return self._jigsaw.dialect.write(self._turns[int(action)], workspace)
        state = workspace.state_list()
        if workspace.rotations:
            return write_answer(Answer(tuple(name for name, _ in state), tuple(angle for _, angle in state)))
        return write_answer(Answer(tuple(state)))


class ImageObservation(gymnasium.ObservationWrapper[NDArray[Any], Any, dict[str, Any]]):
    """Observation of the image only: the whole canvas, or the image on it at a size of your own.

    ## Observation Space
    ``Box(0, 255, (H, W, 3), uint8)``, or ``Box(low, high, (H, W, 3), float32)`` with an ``observation_range``.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        *,
        observation_size: int | Sequence[int] | None = None,
        observation_range: Sequence[float] | None = None,
    ) -> None:
        """Wrap an environment whose observations are a dictionary with an ``image``, such as `JigsawVisionEnv`.

        Args:
            env: The environment.
            observation_size: Side, or (height, width), in pixels, that the image is scaled to, whatever its aspect
                ratio. None keeps the canvas as it is.
            observation_range: (low, high), -255 to 255, for networks that take floats: black becomes ``low``, full
                brightness ``high``, and everything float32. None keeps uint8, 0 to 255.

        Raises:
            ConfigurationError: If its observations have no image, or an argument is not allowed.
        """
        super().__init__(env)
        space = env.observation_space
        image: object = cast(Any, space).get("image") if isinstance(space, Dict) else None
        if not isinstance(image, Box):
            raise ConfigurationError(f"ImageObservation needs observations with an 'image'; these are {space}.")
        self._size = None if observation_size is None else parse_size("observation_size", plain(observation_size))
        shape = image.shape if self._size is None else (*self._size, 3)
        self._values: NDArray[np.float32] | None = None  # value of each of the 256 levels
        self.observation_space = image if shape == image.shape else ImageBox(shape)
        if observation_range is not None:
            low, high = _check_range(observation_range)
            self._values = np.linspace(low, high, 256, dtype=np.float32)
            self.observation_space = Box(low, high, shape, np.float32)

    def observation(self, observation: dict[str, Any]) -> NDArray[Any]:
        """Return the image of an observation.

        Args:
            observation: With ``image``, (H, W, 3) uint8, and for an ``observation_size`` also ``image_size``, its part
                in use.

        Returns:
            The image, in the observation space; without an image, black.
        """
        image: NDArray[np.uint8] = observation["image"]
        if self._size is not None and image.shape[:2] != self._size:
            rows, cols = observation["image_size"]
            shown = image[:rows, :cols] if rows and cols else image
            image = resize(shown, *self._size)
        return image if self._values is None else self._values[image]


class JigsawVisionDiscreteEnv(gymnasium.Env[NDArray[Any], np.int64]):
    """The jigsaw with discrete actions and image observations, as an environment of its own.

    ## Description
    `JigsawVisionEnv` below `DiscreteActions` and `ImageObservation`.

    ## Action Space
    ``Discrete``: swap two places, observe, or submit; see `DiscreteActions`.

    ## Observation Space
    ``Box(0, 255, (H, W, 3), uint8)``: the board after the action; black after submitting. ``observation_size`` scales
    it, and ``observation_range`` makes it float32; see `ImageObservation`.

    ## Rewards, Starting State, Episode End
    Those of `JigsawVisionEnv`.

    ## Arguments
    ``render_mode``, ``observation_size``, ``observation_range``, and the options of
    `agile_gym.envs.jigsaw.JigsawConfig`.

    ## Version History
    - v0: first version.
    """

    metadata: dict[str, Any] = JigsawVisionEnv.metadata

    def __init__(
        self,
        *,
        render_mode: str | None = None,
        observation_size: int | Sequence[int] | None = None,
        observation_range: Sequence[float] | None = None,
        **options: Any,  # noqa: ANN401 -- see JigsawConfig
    ) -> None:
        """Make the environment.

        Args:
            render_mode: See `JigsawVisionEnv`.
            observation_size: Side, or (height, width), of the observations, in pixels, if it shall not be the board's.
            observation_range: (low, high) for float32 observations, such as (-1, 1).
            **options: See `agile_gym.envs.jigsaw.JigsawConfig`.

        Raises:
            ConfigurationError: For an unknown option, or a value that is not allowed.
        """
        self.jigsaw = JigsawVisionEnv(render_mode=render_mode, **options)
        self.jigsaw.owner = self
        actions = DiscreteActions(self.jigsaw)
        images = ImageObservation(actions, observation_size=observation_size, observation_range=observation_range)
        self._env = images
        self.render_mode = render_mode
        self.action_space = cast(Discrete, actions.action_space)
        self.observation_space = cast(Any, images.observation_space)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin an episode; see `JigsawVisionEnv.reset`."""
        super().reset(seed=seed)
        return self._env.reset(seed=seed, options=dict(options or {}))

    def step(self, action: np.int64) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Take an action; see `DiscreteActions`."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        return observation, float(reward), terminated, truncated, info

    def render(self) -> Any:  # noqa: ANN401 -- as Gymnasium
        """Return or show the last image; see `JigsawVisionEnv.render`."""
        return self.jigsaw.render()

    def close(self) -> None:
        """Close the window, if there is one."""
        self.jigsaw.close()


def _check_range(observation_range: Sequence[float]) -> tuple[float, float]:
    given: object = plain(observation_range)
    pair = tuple(cast(Sequence[Any], given)) if isinstance(given, Sequence) else ()
    if len(pair) != 2 or not all(is_number(value, -255, 255) for value in pair) or pair[0] >= pair[1]:
        raise ConfigurationError(
            f"observation_range={observation_range!r} is not a range (low, high) within -255 and 255; give (0, 1) or "
            "(-1, 1), say."
        )
    return float(pair[0]), float(pair[1])


def _jigsaw_below(env: gymnasium.Env[Any, Any], wrapper: str) -> JigsawVisionEnv:
    jigsaw = env.unwrapped
    if not isinstance(jigsaw, JigsawVisionEnv):
        raise ConfigurationError(f"{wrapper} wraps a JigsawVision environment; this is {jigsaw}.")
    return jigsaw
