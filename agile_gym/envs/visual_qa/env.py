"""`VisualQAEnv`: questions about pictures as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agile_gym.actions.primitives import Crop
from agile_gym.envs.turn_env import TurnEnv
from agile_gym.envs.turns import TurnRules
from agile_gym.envs.visual_qa.config import VisualQAConfig, open_source, resolve
from agile_gym.envs.visual_qa.episode import VisualQAEpisode

__all__ = ["VisualQAEnv"]


class VisualQAEnv(TurnEnv[VisualQAEpisode, TurnRules[VisualQAConfig]]):
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
    if it is right, less 0.05 times ``max_turns`` if not; see `agile_gym.envs.reward`. An answer is right by the
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

    wrong_turns = ("", "<code>", f"<think></think>\n<answer>{'x' * 50}</answer>")
    wrong_code = ("crop(image_1, [1, 1, 1, 1])", "crop(nothing, [1, 1, 1, 1])", 'swap("A", "B")')

    @classmethod
    def make_episodes(cls, options: Mapping[str, Any], count: int) -> list[VisualQAEpisode]:
        """Make episodes that share the rules and the questions."""
        rules = resolve(VisualQAConfig.from_options(options))
        source = open_source(rules)
        return [VisualQAEpisode(rules, source) for _ in range(count)]

    def usual_turn(self) -> str:
        """Write a turn that crops the first picture; see `agile_gym.envs.contract.PlannedEnv`."""
        look = Crop("image_1", (0.0, 0.0, 0.99, 0.99))
        return self.dialect.write([look], self.episode.new_workspace(), "Look closer.")
