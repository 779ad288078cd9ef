"""`JigsawVisionEnv` and `JigsawVisionVectorEnv`: AGILE's interactive jigsaw as Gymnasium environments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gymnasium.spaces import Dict

from agile_gym.actions.primitives import Observe, Swap
from agile_gym.actions.prompt import IMAGE_MARK
from agile_gym.envs.jigsaw.config import JigsawConfig, JigsawRules, resolve, smallest_photo
from agile_gym.envs.jigsaw.episode import JigsawEpisode
from agile_gym.envs.spaces import ActionText
from agile_gym.envs.turn_env import TurnEnv
from agile_gym.envs.vector import TurnVectorEnv
from agile_gym.errors import ConfigurationError
from agile_gym.images.opening import open_images
from agile_gym.images.sources import ImageSource

__all__ = ["MAX_OBSERVATION_TEXT", "JigsawVisionEnv", "JigsawVisionVectorEnv", "open_source"]

MAX_OBSERVATION_TEXT = 8192
"""Largest number of characters of an observation's text."""


def open_source(config: JigsawConfig) -> ImageSource:
    """Open the images that a configuration names."""
    return open_images(
        config.images, split=config.split, test_fraction=config.test_fraction, min_size=smallest_photo(config)
    )


class JigsawVisionEnv(TurnEnv[JigsawEpisode, JigsawRules]):
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
    ``max_turns``. See `agile_gym.envs.reward` for the settings and the preset of the released code.

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

    max_text = MAX_OBSERVATION_TEXT
    wrong_turns = ("", "<answer>A</answer>", "<code>")
    wrong_code = (
        "crop(image_list[0], [1, 1, 1, 1])",
        "crop(image_list[0], [0, 0, 1, 1])\ncrop(nothing, [1, 1, 1, 1])",
        f'state = ["{"x" * 50}", "A", "a"]',
        json.dumps({"name": "arrange", "arguments": {"order": ["x" * 50, "A", "a"]}}),
    )

    @classmethod
    def make_episodes(cls, options: Mapping[str, Any], count: int) -> list[JigsawEpisode]:
        """Make episodes that share the rules and the photographs."""
        rules = resolve(JigsawConfig.from_options(options))
        source = open_source(rules.config)
        return [JigsawEpisode(rules, source) for _ in range(count)]

    @classmethod
    def make_spaces(cls, episode: JigsawEpisode) -> tuple[Dict, ActionText]:
        """Return the observation and action space that follow from the rules.

        Raises:
            ConfigurationError: If the text of the first observation does not fit into its space, or marks other images
                than are shown, as a user's template or dialect may have it.
        """
        rules, workspace = episode.rules, episode.new_workspace()
        text, expected = episode.first_text(workspace), len(episode.captions(workspace))
        if len(text) > cls.max_text:
            raise ConfigurationError(
                f"prompt={str(rules.config.prompt)!r} makes a text of {len(text)} characters for the {rules.rows}x"
                f"{rules.cols} grid; at most {cls.max_text} fit into an observation. Write a shorter template."
            )
        marks = text.count(IMAGE_MARK)
        if marks != expected:
            raise ConfigurationError(
                f"The text of the task has {marks} marks {IMAGE_MARK} for {expected} images. The mark is kept for "
                "images: neither a template nor the instructions of a dialect may write it."
            )
        return super().make_spaces(episode)

    def usual_turn(self) -> str:
        """Write a turn that swaps two pieces and shows the board; see `agile_gym.envs.contract.PlannedEnv`."""
        return self.write_turn([Swap(0, self.rules.rows * self.rules.cols - 1), Observe()])


class JigsawVisionVectorEnv(TurnVectorEnv):
    """``num_envs`` jigsaws that are stepped together.

    With the same seeds it gives the same episodes as that many `JigsawVisionEnv`, element for element. Spaces and
    options are theirs, batched: ``image`` is (num_envs, H, W, 3), ``image_size`` (num_envs, 2), ``text`` a tuple of
    strings; actions are a sequence of ``num_envs`` strings. ``infos`` follow Gymnasium's vector format.

    ## Autoreset
    ``autoreset_mode`` is one of Gymnasium's: by default an episode that has ended is reset by the next step, whose
    action is then ignored (``NEXT_STEP``); ``SAME_STEP`` resets at once and puts the last observation and info into
    ``final_obs`` and ``final_info``; ``DISABLED`` leaves it to ``reset(options={"reset_mask": ...})``.
    """

    single = JigsawVisionEnv
    metadata = TurnVectorEnv.metadata
