"""One episode of a question about pictures: drawn from a seed, looked at turn by turn, and answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from agile_gym.actions.primitives import FORM_ERRORS, ActionError, Answer, Primitive
from agile_gym.actions.prompt import done_text, error_text, result_text
from agile_gym.actions.tags import MAX_TEXT
from agile_gym.actions.workspace import MAX_IMAGES, Workspace, render_recipe
from agile_gym.envs.contract import EpisodeDescription, RewardParts, no_reward
from agile_gym.envs.jigsaw.episode import StepResult, check_action
from agile_gym.envs.jigsaw.reward import EpisodeRecord, score_episode
from agile_gym.envs.visual_qa.config import VisualQARules
from agile_gym.envs.visual_qa.prompt import first_text
from agile_gym.errors import ConfigurationError, did_you_mean
from agile_gym.puzzle.pixels import resize
from agile_gym.questions.visual import Asked, QuestionSource

__all__ = ["IMAGES_A_TURN", "VisualQAEpisode", "fit"]

IMAGES_A_TURN = 2
"""Images that an episode may make for each of its turns, if these are more than `MAX_IMAGES`."""


def fit(image: NDArray[np.uint8], canvas: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an image, (h, w, 3) uint8, scaled down to a canvas of a height and width if it is larger."""
    height, width = image.shape[:2]
    scale = min(1.0, canvas[0] / height, canvas[1] / width)
    return image if scale == 1 else resize(image, max(1, int(height * scale)), max(1, int(width * scale)))


class VisualQAEpisode:
    """The state of one question being answered.

    Attributes:
        rules: The checked options.
        asked: The question.
        workspace: Images and variables.
        max_turns: Turns that the episode may have.
        turn: Turns taken so far.
        done: True if the episode has ended, or has not begun.
    """

    asked: Asked
    workspace: Workspace

    def __init__(self, rules: VisualQARules, source: QuestionSource) -> None:
        """Make an episode that still has to be `reset`.

        Args:
            rules: The checked options.
            source: Source of questions.
        """
        self.rules, self.source = rules, source
        self.max_turns = rules.config.max_turns
        self.turn, self.done = 0, True
        self._answer: str | None = None

    def check_options(self, options: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Return the options of a reset, checked before anything changes.

        Raises:
            ConfigurationError: If one is unknown or not allowed.
        """
        if options is not None and not isinstance(options, Mapping):
            raise ConfigurationError(f"options={options!r:.80} is not a dictionary.")
        given = dict(options or {})
        names = self.source.options()
        for name in given:
            if name not in names:
                raise ConfigurationError(f"reset has no option {name!r:.80}. {did_you_mean(name, names)}")
        self.source.check(given)
        return given

    def reset(
        self, rng: np.random.Generator, options: Mapping[str, Any], canvas: NDArray[np.uint8], max_steps: int | None
    ) -> StepResult:
        """Draw a question and show its pictures.

        Args:
            rng: Source of all randomness.
            options: Values that are fixed instead of drawn.
            canvas: (H, W, 3) uint8, which gets the first picture.
            max_steps: Steps after which the episode ends at the latest, if that is before ``max_turns``.

        Returns:
            The first observation.

        Raises:
            ImageError: If no question can be asked; then the episode is as it was.
        """
        config = self.rules.config
        self.asked = self.source.draw(rng, options)
        self.max_turns = config.max_turns if max_steps is None else min(config.max_turns, max_steps)
        self.workspace = self.new_workspace([(image.shape[0], image.shape[1]) for image in self.asked.images])
        self.turn, self.done, self._answer = 0, False, None
        self._texts: list[str] = []
        self._code_turns, self._images, self._well_formed = 0, 0, True
        shown = tuple(fit(image, self.rules.canvas) for image in self.asked.images)
        size = _draw(canvas, shown[0])
        info = self._info((), None)
        info["images"], info["image_id"] = shown, self.asked.image_id
        return StepResult(self.first_text(), size, 0.0, False, False, info)

    def first_text(self) -> str:
        """Return the text of the first observation."""
        rules, asked = self.rules, self.asked
        return first_text(self.workspace, rules.dialect, asked.text, asked.key, self.max_turns, brief=rules.brief)

    def new_workspace(self, sizes: Sequence[tuple[int, int]]) -> Workspace:
        """Return a workspace as it is at the start of an episode with pictures of some heights and widths."""
        most = max(MAX_IMAGES, IMAGES_A_TURN * self.rules.config.max_turns)
        return Workspace.of_pictures(sizes, self.rules.canvas, max_images=most)

    def step(self, text: str, canvas: NDArray[np.uint8]) -> StepResult:
        """Play a turn.

        Args:
            text: Text of the turn: any string.
            canvas: (H, W, 3) uint8, which gets the image that the turn requested, or zeros.

        Returns:
            The observation, reward and end.

        Raises:
            ConfigurationError: If ``text`` is not a string.
            gymnasium.error.ResetNeeded: If the episode has ended, or has not begun.
        """
        check_action(text)
        self.check_running()
        rules, workspace = self.rules, self.workspace
        self.turn += 1
        parsed = rules.dialect.parse(text, workspace)
        self._texts.append(text[: MAX_TEXT + 1])  # the rest is not read
        self._well_formed &= parsed.well_formed
        self._code_turns += parsed.has_code
        primitives, error, shown = parsed.primitives, parsed.error, None
        answered = right = False
        if error is None:
            try:
                if primitives and isinstance(primitives[0], Answer):
                    right = self._judge(primitives[0])
                    answered = True
                else:
                    shown = workspace.execute(primitives)
                    if parsed.variables is not None:
                        workspace.variables = parsed.variables
            except ActionError as failure:
                failure.forget()
                error = failure
        ends = answered or (error is not None and rules.reward.invalid_turn == "end" and error.kind in FORM_ERRORS)
        truncated = not ends and self.turn >= self.max_turns
        size = (0, 0)
        if shown is None:
            canvas[...] = 0
        else:
            self._images += 1
            recipe = workspace.images[shown]
            size = _draw(canvas, fit(render_recipe(recipe, self.asked.images, workspace.layout), rules.canvas))
        info = self._info(() if error else primitives, error)
        info["images"] = () if shown is None else (canvas[: size[0], : size[1]],)
        reward = 0.0
        if ends or truncated:
            self.done = True
            info["reward"] = parts = self._finish(right=right, answered=answered)
            reward = parts["total"]
            info["solved"], info["score"] = bool(parts["accuracy"]), parts["score"]
        left = self.max_turns - self.turn
        if ends:
            feedback = done_text(error, answered=answered, brief=rules.brief)
        elif error is not None:
            feedback = error_text(error, workspace, left, brief=rules.brief)
        else:
            feedback = result_text(workspace, shown, left, well_formed=parsed.well_formed, brief=rules.brief)
        return StepResult(feedback, size, reward, ends, truncated, info)

    def check_running(self) -> None:
        """Check that a turn can be played.

        Raises:
            gymnasium.error.ResetNeeded: If the episode has ended, or has not begun.
        """
        if self.done:
            raise ResetNeeded("This episode has ended, or has not begun: call reset() before step().")

    def give_up(self) -> RewardParts:
        """End the episode without an answer, and return its reward.

        Raises:
            gymnasium.error.ResetNeeded: If the episode has ended, or has not begun.
        """
        self.check_running()
        self.done = True
        return self._finish(right=False, answered=False)

    def describe(self) -> EpisodeDescription:
        """Describe the question for the record, with the right answer; see `agile_gym.envs.contract`."""
        asked = self.asked
        facts = {"facts": dict(asked.facts), "box": None if asked.box is None else list(asked.box)}
        return EpisodeDescription({**self._public(), **facts}, asked.label, list(asked.key.answers))

    def state(self) -> list[Any]:
        """Return the names of the images that can be looked at, and the answer once there is one."""
        return [*self.workspace.images] if self._answer is None else [self._answer]

    def _judge(self, answer: Answer) -> bool:
        if answer.text is None:
            raise ActionError("bad_answer", f"{self.asked.key.form()} This one is an order of pieces.")
        right = self.asked.key.judge(answer.text)
        self._answer = answer.text.strip()
        return right

    def _finish(self, *, right: bool, answered: bool) -> RewardParts:
        record = EpisodeRecord(
            texts=self._texts,
            code_turns=self._code_turns,
            images=self._images,
            well_formed=self._well_formed,
            answered=answered,
            pieces_right=int(right),
            pieces=1,
            max_turns=self.max_turns,
            json_answer=False,
        )
        return score_episode(record, self.rules.reward)

    def _public(self) -> dict[str, Any]:
        asked = self.asked
        return {
            "question": asked.id,
            "label": asked.label,
            "rule": asked.key.rule,
            "choices": list(asked.key.choices),
            "pictures": list(self.workspace.names),
            "dialect": self.rules.dialect.name,
            "max_turns": self.max_turns,
        }

    def _info(self, primitives: tuple[Primitive, ...], error: ActionError | None) -> dict[str, Any]:
        info: dict[str, Any] = {
            "task": self._public(),
            "reward": no_reward(),
            "primitives": primitives,
            "error": None if error is None else error.kind,
            "turn": self.turn,
            "solved": False,
            "score": 0.0,
        }
        if self.rules.config.reveal:
            asked = self.asked
            info["solution"], info["facts"] = list(asked.key.answers), dict(asked.facts)
            info["box"] = None if asked.box is None else list(asked.box)
        return info


def _draw(canvas: NDArray[np.uint8], image: NDArray[np.uint8]) -> tuple[int, int]:
    """Write an image to the top left of a canvas, with zeros (black) in the rest, and return its height and width."""
    height, width = image.shape[:2]
    canvas[:height, :width] = image
    canvas[height:] = 0
    canvas[:height, width:] = 0
    return height, width
