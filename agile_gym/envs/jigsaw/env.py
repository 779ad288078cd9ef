"""`JigsawVisionEnv`: AGILE's interactive jigsaw as a Gymnasium environment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from agile_gym.actions.dialects import Dialect
from agile_gym.actions.primitives import Observe, Primitive, Swap
from agile_gym.actions.prompt import IMAGE_MARK
from agile_gym.actions.tags import MAX_TEXT
from agile_gym.envs.contract import EpisodeDescription, RewardParts
from agile_gym.envs.jigsaw.config import JigsawConfig, JigsawRules, resolve, smallest_photo
from agile_gym.envs.jigsaw.episode import JigsawEpisode
from agile_gym.envs.jigsaw.start import enclosing_limit
from agile_gym.envs.spaces import ActionText, CanvasPool, ImageBox, UnicodeText, close_window, render_text, show
from agile_gym.errors import ConfigurationError, check_seed
from agile_gym.images.opening import open_images
from agile_gym.images.sources import ImageSource

__all__ = ["MAX_OBSERVATION_TEXT", "JigsawVisionEnv", "make_spaces", "open_source"]

MAX_OBSERVATION_TEXT = 8192
"""Largest number of characters of an observation's text."""
RENDER_MODES = ("rgb_array", "ansi", "human")

Observation = dict[str, Any]


def make_spaces(rules: JigsawRules, episode: JigsawEpisode) -> tuple[Dict, ActionText]:
    """Return the observation and action space that follow from the rules.

    Raises:
        ConfigurationError: If the text of the first observation does not fit into its space, or marks other images than
            are shown, as a user's template or dialect may have it.
    """
    workspace = episode.new_workspace()
    text, expected = episode.first_text(workspace), len(episode.captions(workspace))
    if len(text) > MAX_OBSERVATION_TEXT:
        raise ConfigurationError(
            f"prompt={str(rules.config.prompt)!r} makes a text of {len(text)} characters for the {rules.rows}x"
            f"{rules.cols} grid; at most {MAX_OBSERVATION_TEXT} fit into an observation. Write a shorter template."
        )
    marks = text.count(IMAGE_MARK)
    if marks != expected:
        raise ConfigurationError(
            f"The text of the task has {marks} marks {IMAGE_MARK} for {expected} images. The mark is kept for images: "
            "neither a template nor the instructions of a dialect may write it."
        )
    height, width = rules.canvas
    observations = Dict(
        {
            "image": ImageBox((height, width, 3)),
            "image_size": Box(0, max(height, width), (2,), np.int64),
            "text": UnicodeText(MAX_OBSERVATION_TEXT),
        }
    )
    return observations, ActionText(MAX_TEXT, rules.dialect, episode.new_workspace)


def open_source(config: JigsawConfig) -> ImageSource:
    """Open the images that a configuration names."""
    return open_images(
        config.images, split=config.split, test_fraction=config.test_fraction, min_size=smallest_photo(config)
    )


class JigsawVisionEnv(gymnasium.Env[Observation, str]):
    """Solve a jigsaw by writing a short piece of text a turn.

    ## Description
    A photograph is cut into pieces, which are shuffled and named A, B, C, ... in the order in which they are shown.
    Each turn the agent writes its reasoning and then either some code, which can swap pieces and show the board or
    parts of any image, or its answer: the list of pieces, row by row, that restores the photograph ("Agentic Jigsaw
    Interaction Learning", arXiv 2510.01304). Nothing that the agent writes is executed: code is read against a white
    list.

    ## Action Space
    A text of at most 32,768 characters: ``<think>...</think>`` and then one of ``<code>...</code>`` (in the dialect
    ``"tools"``: ``<tool_call>...</tool_call>``, one or more) and ``<answer>...</answer>``. Any string is accepted; one
    that cannot be carried out costs a turn and is answered by an error with the reason. ``sample()`` draws sound turns.

    ## Observation Space
    A ``Dict`` of

    - ``image``: ``Box(0, 255, (H, W, 3), uint8)``, the canvas, as large as the board (or ``canvas_size``). The image
      lies at its top left, in its own size; the rest is black. At the start it is the board.
    - ``image_size``: ``Box(0, max(H, W), (2,), int64)``, height and width of the image in pixels; (0, 0) after a turn
      without an image.
    - ``text``: the task, later the feedback, with ``<image>`` wherever an image belongs.

    ``info`` holds ``images``, the arrays that those marks stand for, in order, as (h, w, 3) uint8 (at the start, the
    pieces); ``task``, the facts of the puzzle that need no look at it (`JigsawTask`); ``reward``, the parts of the
    reward (`agile_gym.envs.contract.RewardParts`); ``primitives``, those read from the turn; ``error``, the
    kind of error or None, also for an answer that ends the episode and cannot be right, since it lacks a piece, has one
    twice or names one that is not there; ``turn``, the turns taken; ``solved`` and ``score`` (fraction of pieces
    right), which are given when the episode has ended; at reset also ``image_id``, the hash of the photograph. With
    ``reveal=True`` it also holds ``solution``, ``level`` and ``pieces_in_place``.

    ## Rewards
    R = 0.8 R_acc + 0.2 R_format + R_step, paid on the last step (paper, section 3): R_acc is 1 for a right answer, that
    is, one whose board shows the photograph (pieces that look alike may stand for each other; see ``equal_pieces``),
    R_format 1 if all turns kept to the tags, R_step -0.05 for each turn with code if solved, else -0.05 times
    ``max_turns``. See `agile_gym.envs.jigsaw.reward` for the settings and the preset of the released code.

    ## Starting State
    Photograph, crop and permutation are drawn from the seed; pieces all differ where there are such photographs.
    ``reset(options=...)`` takes ``image`` (an index or an array), ``level``, ``permutation`` (the place where each
    piece belongs) and ``turns``.

    ## Episode End
    Terminates with an answer; is truncated when ``max_turns`` turns were taken without one, or as many as a
    `gymnasium.wrappers.TimeLimit` around the environment allows (``gymnasium.make(..., max_episode_steps=...)``), if
    these are fewer; task, feedback and reward then count with them.

    ## Arguments
    All options of `agile_gym.envs.jigsaw.JigsawConfig`, by keyword, and ``render_mode``.

    ## Version History
    - v0: first version.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 1}  # noqa: RUF012 -- Gymnasium's declaration

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:  # noqa: ANN401 -- see JigsawConfig
        """Make the environment.

        Args:
            render_mode: ``"rgb_array"``, ``"ansi"``, ``"human"`` or None.
            **options: The options of `JigsawConfig`.

        Raises:
            ConfigurationError: If an option is unknown or has a value that is not allowed.
            ImageError: If no images are found.
        """
        self.rules = resolve(JigsawConfig.from_options(options))
        if render_mode is not None and not (isinstance(render_mode, str) and render_mode in RENDER_MODES):
            raise ConfigurationError(f"render_mode={render_mode!r} is not allowed; give one of {RENDER_MODES} or None.")
        self.render_mode = render_mode
        self.owner: gymnasium.Env[Any, Any] = self  # the environment that this one is a part of, which wrappers wrap
        self.episode = JigsawEpisode(self.rules, open_source(self.rules.config))
        self.observation_space, self.action_space = make_spaces(self.rules, self.episode)
        self._canvases = CanvasPool((*self.rules.canvas, 3))
        self._last: Observation | None = None

    @property
    def dialect(self) -> Dialect:
        """Dialect of actions."""
        return self.rules.dialect

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
        """
        given = self.episode.check_options(options)
        super().reset(seed=check_seed(seed))
        canvas = self._canvases.take()
        result = self.episode.reset(self.np_random, given, canvas, enclosing_limit(self.owner))
        observation = self._observe(canvas, result.image_size, result.text)
        return observation, result.info

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
        """Describe the puzzle for the record, with its solution; see `agile_gym.envs.contract.DescribedEnv`."""
        return self.episode.describe()

    def describe_state(self) -> Sequence[Any]:
        """Return the board as a model writes it: names, or [name, angle] pairs."""
        return self.episode.workspace.state_list()

    @property
    def max_turns(self) -> int:
        """Turns that an episode may have."""
        return self.episode.max_turns

    def give_up(self) -> RewardParts:
        """End the episode without an answer; see `agile_gym.envs.contract.EndableEnv`."""
        return self.episode.give_up()

    def write_turn(self, primitives: Sequence[Primitive], think: str = "") -> str:
        """Write the text of a turn in the dialect, for the episode as it is."""
        return self.dialect.write(primitives, self.episode.workspace, think)

    def usual_turn(self) -> str:
        """Write a turn that swaps two pieces and shows the board; see `agile_gym.envs.contract.PlannedEnv`."""
        return self.write_turn([Swap(0, self.rules.rows * self.rules.cols - 1), Observe()])

    def mistakes(self) -> Sequence[str]:
        """Write turns that are answered by long explanations of their errors."""
        tag = self.dialect.action_tag
        bodies = (
            *(json.dumps({"name": "crop", "arguments": {"image": "A", "box": box}}) for box in ([1, 1, 1, 1], "")),
            "crop(image_list[0], [1, 1, 1, 1])",
            "crop(image_list[0], [0, 0, 1, 1])\ncrop(nothing, [1, 1, 1, 1])",
            f'state = ["{"x" * 50}", "A", "a"]',
            json.dumps({"name": "arrange", "arguments": {"order": ["x" * 50, "A", "a"]}}),
            "import os",
            "{",
        )
        return ["", "<answer>A</answer>", "<code>", *(f"<think></think>\n<{tag}>{body}</{tag}>" for body in bodies)]

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
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render_mode, such as gym.make(..., render_mode='rgb_array').")
            return None
        if self._last is None:
            raise gymnasium.error.ResetNeeded("There is nothing to render yet: call reset() first.")
        image: NDArray[np.uint8] = self._last["image"]
        if self.render_mode == "rgb_array":
            return image.copy()
        size, text = self._last["image_size"], self._last["text"]
        if self.render_mode == "ansi":
            return render_text(image, size, text)
        height, width = size
        show("JigsawVision", image[:height, :width] if height and width else image, text)
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self.render_mode == "human":
            close_window("JigsawVision")
