"""`VisualQAEnv`: questions about pictures as a Gymnasium environment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from agile_gym.actions.dialects import Dialect
from agile_gym.actions.primitives import Crop, Primitive
from agile_gym.actions.tags import MAX_TEXT
from agile_gym.envs.contract import EpisodeDescription, RewardParts
from agile_gym.envs.jigsaw.start import enclosing_limit
from agile_gym.envs.spaces import ActionText, CanvasPool, ImageBox, UnicodeText, close_window, render_text, show
from agile_gym.envs.visual_qa.config import VisualQAConfig, open_source, resolve
from agile_gym.envs.visual_qa.episode import VisualQAEpisode
from agile_gym.errors import ConfigurationError, check_seed

__all__ = ["MAX_OBSERVATION_TEXT", "VisualQAEnv"]

MAX_OBSERVATION_TEXT = 32_768
"""Largest number of characters of an observation's text."""
RENDER_MODES = ("rgb_array", "ansi", "human")

Observation = dict[str, Any]


class VisualQAEnv(gymnasium.Env[Observation, str]):
    """Answer a question about one or several pictures, after looking closer if need be.

    ## Description
    Each turn the agent writes its reasoning and then either an action, which shows a part of a picture (``crop``) or
    one at another size (``zoom``) or angle (``rotate``), or its answer. The language, its limits and its feedback are
    those of the jigsaw (`agile_gym.envs.jigsaw.JigsawVisionEnv`); there is no board, so that swaps and observations
    are refused with a sentence. Nothing that the agent writes is executed.

    ## Action Space
    A text of at most 32,768 characters: ``<think>...</think>`` and then one of ``<code>...</code>`` (in the dialect
    ``"tools"``: ``<tool_call>...</tool_call>``, one or more) and ``<answer>...</answer>``. Any string is accepted.

    ## Observation Space
    A ``Dict`` of

    - ``image``: ``Box(0, 255, (H, W, 3), uint8)``, the canvas, with the image at its top left and black in the rest: at
      the start the first picture. Images larger than the canvas are scaled down to it; crops of them are cut from their
      full size.
    - ``image_size``: ``Box(0, max(H, W), (2,), int64)``, height and width of the image; (0, 0) for none.
    - ``text``: the question, later the feedback, with ``<image>`` wherever an image belongs.

    ``info`` is that of the contract (`agile_gym.envs.contract`): ``images``, ``task`` (the question's id and label, the
    rule of its answer, the letters of its options, the names of the pictures), ``reward``, ``primitives``, ``error``,
    ``turn``, ``solved`` and ``score``; at reset also ``image_id``. With ``reveal=True`` it also holds ``solution`` (the
    right answers), ``box`` (the part of the first picture that holds the answer, or None) and ``facts``.

    ## Rewards
    That of the jigsaw, paid on the last step: 0.8 for a right answer and 0.2 for the format, less 0.05 a turn with code
    if it is right, less 0.05 times ``max_turns`` if not; see `agile_gym.envs.jigsaw.reward`. An answer is right by the
    rule of the question (`agile_gym.questions.answers`): the letter of an option, yes or no, a number within a
    tolerance, a text without case and marks, or exactly a text. One that the rule cannot read is an error of form.

    ## Starting State
    A question drawn from the seed. ``reset(options=...)`` takes ``question`` (a number) for questions of a table, or
    ``kind`` and ``difficulty`` for generated ones.

    ## Episode End
    Terminates with an answer that can be read; is truncated when ``max_turns`` turns were taken without one, or as many
    as a `gymnasium.wrappers.TimeLimit` around the environment allows.

    ## Arguments
    All options of `agile_gym.envs.visual_qa.VisualQAConfig`, by keyword, and ``render_mode``.

    ## Version History
    - v0: first version.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 1}  # noqa: RUF012 -- Gymnasium's declaration

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:  # noqa: ANN401 -- see VisualQAConfig
        """Make the environment.

        Args:
            render_mode: ``"rgb_array"``, ``"ansi"``, ``"human"`` or None.
            **options: The options of `VisualQAConfig`.

        Raises:
            ConfigurationError: If an option is unknown or has a value that is not allowed, or no question can be asked.
            ImageError: If no images are found.
        """
        self.rules = resolve(VisualQAConfig.from_options(options))
        if render_mode is not None and not (isinstance(render_mode, str) and render_mode in RENDER_MODES):
            raise ConfigurationError(f"render_mode={render_mode!r} is not allowed; give one of {RENDER_MODES} or None.")
        self.render_mode = render_mode
        self.episode = VisualQAEpisode(self.rules, open_source(self.rules))
        height, width = self.rules.canvas
        self.observation_space = Dict(
            {
                "image": ImageBox((height, width, 3)),
                "image_size": Box(0, max(height, width), (2,), np.int64),
                "text": UnicodeText(MAX_OBSERVATION_TEXT),
            }
        )
        self.action_space = ActionText(MAX_TEXT, self.rules.dialect, self._sampled)
        self._canvases = CanvasPool((height, width, 3))
        self._last: Observation | None = None

    def _sampled(self) -> Any:  # noqa: ANN401 -- a workspace
        return self.episode.new_workspace([self.rules.canvas])

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
            ImageError: If no question's pictures can be read, or no unambiguous question can be made.
        """
        given = self.episode.check_options(options)
        super().reset(seed=check_seed(seed))
        canvas = self._canvases.take()
        result = self.episode.reset(self.np_random, given, canvas, enclosing_limit(self))
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
        """Describe the question for the record; see `agile_gym.envs.contract.DescribedEnv`."""
        return self.episode.describe()

    def describe_state(self) -> Sequence[Any]:
        """Return the names of the images that can be looked at, or, at the end, the answer alone."""
        return self.episode.state()

    def give_up(self) -> RewardParts:
        """End the episode without an answer; see `agile_gym.envs.contract.EndableEnv`."""
        return self.episode.give_up()

    def write_turn(self, primitives: Sequence[Primitive], think: str = "") -> str:
        """Write the text of a turn in the dialect, for the episode as it is."""
        return self.dialect.write(primitives, self.episode.workspace, think)

    def usual_turn(self) -> str:
        """Write a turn that crops the first picture; see `agile_gym.envs.contract.PlannedEnv`."""
        return self.dialect.write([Crop("image_1", (0.0, 0.0, 0.99, 0.99))], self._sampled(), "Look closer.")

    def mistakes(self) -> Sequence[str]:
        """Write turns that are answered by long explanations of their errors."""
        tag = self.dialect.action_tag
        bodies = (
            *(
                json.dumps({"name": "crop", "arguments": {"image": "image_1", "box": box}})
                for box in ([1, 1, 1, 1], "")
            ),
            "crop(image_1, [1, 1, 1, 1])",
            "crop(nothing, [1, 1, 1, 1])",
            'swap("A", "B")',
            "import os",
            "{",
        )
        long = "x" * 50
        answer = f"<think></think>\n<answer>{long}</answer>"
        return ["", "<code>", answer, *(f"<think></think>\n<{tag}>{body}</{tag}>" for body in bodies)]

    def _observe(self, canvas: NDArray[np.uint8], size: tuple[int, int], text: str) -> Observation:
        observation = {"image": canvas, "image_size": np.array(size, np.int64), "text": text}
        if self.render_mode is not None:
            self._last = observation
            if self.render_mode == "human":
                self.render()
        return observation

    def render(self) -> NDArray[np.uint8] | str | None:
        """Return the last observation as an array or as coloured text, or show it, by the render mode.

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
        show("VisualQA", image[:height, :width] if height and width else image, text)
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self.render_mode == "human":
            close_window("VisualQA")
