"""One episode of a question about pictures: drawn from a seed, looked at turn by turn, and answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.primitives import ActionError, Answer
from agile_gym.actions.workspace import ImageRecipe, Workspace, draw_into, render_recipe
from agile_gym.envs.contract import EpisodeDescription
from agile_gym.envs.turns import TurnEpisode, TurnRules, given_options
from agile_gym.envs.visual_qa.config import VisualQAConfig
from agile_gym.envs.visual_qa.prompt import first_text
from agile_gym.puzzle.pixels import resize
from agile_gym.questions.visual import Asked

__all__ = ["VisualQAEpisode", "fit"]


def fit(image: NDArray[np.uint8], canvas: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an image, (h, w, 3) uint8, scaled down to a canvas of a height and width if it is larger."""
    height, width = image.shape[:2]
    scale = min(1.0, canvas[0] / height, canvas[1] / width)
    return image if scale == 1 else resize(image, max(1, int(height * scale)), max(1, int(width * scale)))


class VisualQAEpisode(TurnEpisode[TurnRules[VisualQAConfig]]):
    """The state of one question being answered.

    Attributes:
        asked: The question.
    """

    asked: Asked
    _answer: str | None

    def check_options(self, options: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Return the options of a reset, checked before anything changes."""
        given = given_options(options, self.source.options())
        self.source.check(given)
        return given

    def draw(self, rng: np.random.Generator, options: Mapping[str, Any]) -> str:
        """Draw a question, and return the hash of its first picture."""
        self.asked = self.source.draw(rng, options)
        self.workspace = self.new_workspace([(image.shape[0], image.shape[1]) for image in self.asked.images])
        self._answer = None
        return self.asked.image_id

    def new_workspace(self, sizes: Sequence[tuple[int, int]] | None = None) -> Workspace:
        """Return a workspace as it is at the start of an episode with pictures of some heights and widths.

        Args:
            sizes: Height and width of each picture, in pixels; by default there is one, as large as the canvas.
        """
        canvas = self.rules.canvas
        return Workspace.of_pictures(sizes or [canvas], canvas, max_images=self.max_images)

    def first_text(self, workspace: Workspace) -> str:
        """Return the text of the first observation."""
        rules, asked = self.rules, self.asked
        return first_text(workspace, rules.dialect, asked.text, asked.key, self.max_turns, brief=rules.brief)

    def show(self, canvas: NDArray[np.uint8]) -> tuple[tuple[NDArray[np.uint8], ...], tuple[int, int]]:
        """Write the first picture to a canvas; return all pictures, and height and width of the first."""
        shown = tuple(fit(image, self.rules.canvas) for image in self.asked.images)
        return shown, draw_into(canvas, shown[0])

    def render(self, canvas: NDArray[np.uint8], recipe: ImageRecipe) -> tuple[int, int]:
        """Write an image to a canvas, scaled down if it is larger, and return its height and width."""
        image = render_recipe(recipe, self.asked.images, self.workspace.layout)
        return draw_into(canvas, fit(image, self.rules.canvas))

    def judge(self, answer: Answer) -> tuple[int, ActionError | None]:
        """Return 1 for a right answer, 0 for a wrong one.

        Raises:
            ActionError: If the rule of the question cannot read it.
        """
        if answer.text is None:
            raise ActionError("bad_answer", f"{self.asked.key.form()} This one is an order of pieces.")
        right = self.asked.key.judge(answer.text)
        self._answer = answer.text.strip()
        return int(right), None

    def task(self) -> dict[str, Any]:
        """Return the facts of the question, in JSON's types."""
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

    def revealed(self) -> Mapping[str, Any]:
        """Return the right answers, the facts of the question and the box of its answer."""
        asked = self.asked
        box = None if asked.box is None else list(asked.box)
        return {"solution": list(asked.key.answers), "facts": dict(asked.facts), "box": box}

    def describe(self) -> EpisodeDescription:
        """Describe the question for the record, with the right answer; see `agile_gym.envs.contract`."""
        asked = self.asked
        facts = {"facts": dict(asked.facts), "box": None if asked.box is None else list(asked.box)}
        return EpisodeDescription({**self.task(), **facts}, asked.label, list(asked.key.answers))

    def state(self) -> list[Any]:
        """Return the names of the images that can be looked at, and the answer once there is one."""
        return [*self.workspace.images] if self._answer is None else [self._answer]
