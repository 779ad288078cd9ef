"""`TurnEnv`: episodes of turns as a Gymnasium environment."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, ClassVar, Generic, TypeVar, cast

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Dict
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from agile_gym.actions.dialects import Dialect
from agile_gym.actions.primitives import Primitive
from agile_gym.actions.tags import MAX_TEXT
from agile_gym.envs.contract import EpisodeDescription, RewardParts
from agile_gym.envs.spaces import ActionText, CanvasPool, close_window, observation_space, render_text, show
from agile_gym.envs.turns import RulesT, TurnEpisode
from agile_gym.errors import check_seed, require

__all__ = ["Observation", "TurnEnv", "check_render_mode", "last_observation", "render_frame"]

RENDER_MODES = ("rgb_array", "ansi", "human")

Observation = dict[str, Any]
EpisodeT = TypeVar("EpisodeT", bound=TurnEpisode[Any])


class TurnEnv(gymnasium.Env[Observation, str], Generic[EpisodeT, RulesT]):
    """Base of environments of turns.

    Attributes:
        rules: The checked options.
        episode: The episode.
        owner: The environment that this one is a part of, which wrappers wrap.
        max_text: Largest number of characters of an observation's text.
        wrong_turns: Turns that are answered by long explanations of their errors.
        wrong_code: The same between the tags of an action.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 1}  # noqa: RUF012 -- Gymnasium's declaration
    max_text: ClassVar[int] = 32_768
    wrong_turns: ClassVar[Sequence[str]] = ("", "<code>")
    wrong_code: ClassVar[Sequence[str]] = ()

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:  # noqa: ANN401 -- see the class
        """Make the environment.

        Args:
            render_mode: ``"rgb_array"``, ``"ansi"``, ``"human"`` or None.
            **options: The options of the environment; see the class.

        Raises:
            ConfigurationError: If an option is unknown or has a value that is not allowed.
            ImageError: If no images are found.
        """
        check_render_mode(render_mode, RENDER_MODES)
        self.render_mode = render_mode
        (self.episode,) = self.make_episodes(options, 1)
        self.rules: RulesT = self.episode.rules
        self.owner: gymnasium.Env[Any, Any] = self
        self.observation_space, self.action_space = self.make_spaces(self.episode)
        self._canvases = CanvasPool((*self.rules.canvas, 3))
        self._last: Observation | None = None

    @classmethod
    def make_episodes(cls, options: Mapping[str, Any], count: int) -> list[EpisodeT]:
        """Make episodes that share the options and the source.

        Raises:
            ConfigurationError: If an option is unknown or has a value that is not allowed.
            ImageError: If no images are found.
        """
        raise NotImplementedError

    @classmethod
    def make_spaces(cls, episode: EpisodeT) -> tuple[Dict, ActionText]:
        """Return the observation and action space of an episode."""
        rules = episode.rules
        return observation_space(rules.canvas, cls.max_text), ActionText(MAX_TEXT, rules.dialect, episode.new_workspace)

    @property
    def dialect(self) -> Dialect:
        """Dialect of actions."""
        return self.rules.dialect

    @property
    def max_turns(self) -> int:
        """Turns that an episode may have."""
        return self.episode.max_turns

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Seed of everything that is drawn, from now on.
            options: See the class's Starting State.

        Returns:
            The first observation, and ``info``.

        Raises:
            ConfigurationError: For an unknown or unsuitable option, or a bad seed; then nothing has changed.
            ImageError: If no image can be read, or no episode can be made of those drawn.
        """
        given = self.episode.check_options(options)
        super().reset(seed=check_seed(seed))
        canvas = self._canvases.take()
        result = self.episode.reset(self.np_random, given, canvas, enclosing_limit(self.owner))
        return self._observe(canvas, result.image_size, result.text), result.info

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Play a turn.

        Args:
            action: Text of the turn: any string.

        Returns:
            Observation, reward, terminated, truncated and ``info``.

        Raises:
            ConfigurationError: If the action is not a string.
            gymnasium.error.ResetNeeded: If the episode has ended, or has not begun.
        """
        canvas = self._canvases.take()
        result = self.episode.step(action, canvas)
        observation = self._observe(canvas, result.image_size, result.text)
        return observation, result.reward, result.terminated, result.truncated, result.info

    def describe_episode(self) -> EpisodeDescription:
        """Describe the episode for the record, with its solution; see `agile_gym.envs.contract.DescribedEnv`."""
        return self.episode.describe()

    def describe_state(self) -> Sequence[Any]:
        """Return the state as a model writes it; see `TurnEpisode.state`."""
        return self.episode.state()

    def give_up(self) -> RewardParts:
        """End the episode without an answer; see `agile_gym.envs.contract.EndableEnv`."""
        return self.episode.give_up()

    def write_turn(self, primitives: Sequence[Primitive], think: str = "") -> str:
        """Write the text of a turn in the dialect, for the episode as it is."""
        return self.dialect.write(primitives, self.episode.workspace, think)

    def mistakes(self) -> Sequence[str]:
        """Write turns that are answered by long explanations of their errors."""
        tag, image = self.dialect.action_tag, self.episode.new_workspace().names[0]
        crops = [{"name": "crop", "arguments": {"image": image, "box": box}} for box in ([1, 1, 1, 1], "")]
        bodies = (*map(json.dumps, crops), *self.wrong_code, "import os", "{")
        return [*self.wrong_turns, *(f"<think></think>\n<{tag}>{body}</{tag}>" for body in bodies)]

    def _observe(self, canvas: NDArray[np.uint8], size: tuple[int, int], text: str) -> Observation:
        observation = {"image": canvas, "image_size": np.array(size, np.int64), "text": text}
        if self.render_mode is not None:
            self._last = observation
            if self.render_mode == "human":
                self.render()
        return observation

    def render(self) -> NDArray[np.uint8] | str | None:
        """Return the last observation as an array or as coloured text, or show it, by the render mode.

        Returns:
            For ``"rgb_array"`` the canvas, (H, W, 3) uint8, the same size for all frames: the image at its top left,
            the rest black. For ``"ansi"`` the image and the text below it.

        Raises:
            gymnasium.error.ResetNeeded: If there is nothing to render yet.
        """
        last = last_observation(self.render_mode, self._last, "gym.make")
        if last is None:
            return None
        image, (height, width), text = last["image"], last["image_size"], last["text"]
        if self.render_mode != "human":
            return render_frame(self.render_mode, image, (height, width), text)
        show(self.rules.config.title, image[:height, :width] if height and width else image, text)
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self.render_mode == "human":
            close_window(self.rules.config.title)


def check_render_mode(render_mode: object, allowed: Sequence[str]) -> None:
    """Check a render mode.

    Raises:
        ConfigurationError: If it is neither None nor allowed.
    """
    fits = render_mode is None or (isinstance(render_mode, str) and render_mode in allowed)
    require(fits, "render_mode", render_mode, f"one of {allowed} or None")


def last_observation(render_mode: str | None, last: Observation | None, maker: str) -> Observation | None:
    """Return the observation to render; None, with a warning that names the maker, where there is no render mode.

    Raises:
        gymnasium.error.ResetNeeded: If there is nothing to render yet.
    """
    if render_mode is None:
        gymnasium.logger.warn(f"render() needs a render_mode, such as {maker}(..., render_mode='rgb_array').")
        return None
    if last is None:
        raise ResetNeeded("There is nothing to render yet: call reset() first.")
    return last


def render_frame(render_mode: str | None, image: NDArray[np.uint8], size: Sequence[int], text: str) -> Any:  # noqa: ANN401 -- by the mode
    """Render an observation: for ``"rgb_array"`` a copy of its canvas, else as coloured text."""
    return image.copy() if render_mode == "rgb_array" else render_text(image, size, text)


def enclosing_limit(env: gymnasium.Env[Any, Any]) -> int | None:
    """Return the steps after which a `TimeLimit` ends the episode that is being reset; call it within ``reset``.

    `TimeLimit` truncates from outside, where it cannot apply the cost of an episode without an answer, so the
    environment has to end the episode itself. Gymnasium shows a wrapper to nothing below it: `gymnasium.make` leaves
    ``max_episode_steps`` out of the spec that it gives to the environment. But a wrapper that resets the environment is
    among the callers.

    Args:
        env: The environment that is being reset.

    Returns:
        The limit, the lowest of several, or None.
    """
    limits: list[int] = []
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage] -- its documented name
    while frame is not None:
        if frame.f_code.co_name == "reset":
            caller: Any = frame.f_locals.get("self")
            if isinstance(caller, TimeLimit) and cast(Any, caller).unwrapped is env:
                limits.append(cast(Any, caller)._max_episode_steps)
        frame = frame.f_back
    return min(limits, default=None)
