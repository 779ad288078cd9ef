"""Episodes of turns, each of which looks at images or changes a board, in a dialect, or answers.

A kind of environment has options (`TurnConfig`), an episode (`TurnEpisode`: the task, its state and its answers), and
is played by a subclass of `agile_gym.envs.turn_env.TurnEnv` and of `agile_gym.envs.vector.TurnVectorEnv`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from agile_gym.actions.dialects import Dialect
from agile_gym.actions.primitives import FORM_ERRORS, ActionError, Answer, Primitive
from agile_gym.actions.prompt import done_text, error_text, result_text
from agile_gym.actions.tags import MAX_TEXT
from agile_gym.actions.workspace import MAX_IMAGES, ImageRecipe, Workspace
from agile_gym.envs.contract import EpisodeDescription, RewardParts, no_reward
from agile_gym.envs.reward import EpisodeRecord, RewardConfig, score_episode
from agile_gym.errors import ConfigurationError, is_whole, plain, require, require_known

__all__ = ["MAX_TURNS", "StepResult", "TurnConfig", "TurnEpisode", "TurnRules", "check_action", "given_options"]

MAX_TURNS = 1000
IMAGES_A_TURN = 2
"""Images that an episode may make for each of its turns, if these are more than `MAX_IMAGES`."""
_NO_REWARD = no_reward()


class TurnConfig:
    """The options of an environment, as a frozen dataclass; these are options of every one.

    Attributes:
        title: Name of the environment, in messages and of its window.
        max_turns: Turns of an episode, the answer included.
        dialect: Dialect of actions; see `agile_gym.actions.dialects.get_dialect`.
        reward: The reward; see `agile_gym.envs.reward.get_reward`.
        reveal: True if ``info`` includes what `TurnEpisode.revealed` returns.
    """

    title: ClassVar[str]
    max_turns: int
    dialect: str | Dialect
    reward: str | Mapping[str, Any] | RewardConfig
    reveal: bool

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Build a configuration from keyword arguments.

        Raises:
            ConfigurationError: If there is no option of a given name.
        """
        require_known(options, [field.name for field in fields(cast("Any", cls))], cls.title)
        return cls(**{name: plain(value) for name, value in options.items()})

    def check(self) -> None:
        """Check the number of turns, and ``reveal``.

        Raises:
            ConfigurationError: If one has a value that is not allowed.
        """
        require(isinstance(self.reveal, bool), "reveal", self.reveal, "True or False")
        require(is_whole(self.max_turns, MAX_TURNS), "max_turns", self.max_turns, f"a whole number, 1 to {MAX_TURNS}")


ConfigT = TypeVar("ConfigT", bound=TurnConfig)


@dataclass(frozen=True)
class TurnRules(Generic[ConfigT]):
    """A configuration after checking, in the form that an episode uses.

    Attributes:
        config: The options as given.
        canvas: Height and width of the observation, in pixels.
        dialect: The dialect.
        reward: The reward's settings.
        brief: True if texts use as few words as possible.
    """

    config: ConfigT
    canvas: tuple[int, int]
    dialect: Dialect
    reward: RewardConfig
    brief: bool


@dataclass(slots=True)
class StepResult:
    """Result of a turn; the image has been written to the canvas.

    Attributes:
        text: The feedback.
        image_size: Height and width of the image on the canvas, in pixels; (0, 0) if there is none.
        reward: The reward.
        terminated: True if an answer ended the episode.
        truncated: True if the turns ran out.
        info: The step's ``info``.
    """

    text: str
    image_size: tuple[int, int]
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


def check_action(action: object) -> None:
    """Check the type of an action.

    Raises:
        ConfigurationError: If it is not a string.
    """
    if not isinstance(action, str):
        raise ConfigurationError(
            f"The action is a {type(action).__name__}; give the text of a turn, such as action_space.sample() does."
        )


def given_options(options: Mapping[str, Any] | None, names: Sequence[str]) -> dict[str, Any]:
    """Return the options of a reset, whose values are still to be checked.

    Raises:
        ConfigurationError: If they are no dictionary, or there is no option of a given name.
    """
    if options is not None and not isinstance(options, Mapping):
        raise ConfigurationError(f"options={options!r:.80} is not a dictionary; its keys can be {', '.join(names)}.")
    given = dict(options or {})
    require_known(given, names, "reset")
    return given


RulesT = TypeVar("RulesT", bound=TurnRules[Any])


class TurnEpisode(ABC, Generic[RulesT]):
    """The state of an episode; single and vector environments share it.

    Attributes:
        rules: The checked options.
        source: Source of what is drawn; shared between episodes.
        workspace: State, images and variables.
        parts: Parts of an answer that are right or wrong.
        max_turns: Turns that the episode may have.
        turn: Turns taken so far.
        done: True if the episode has ended, or has not begun.
        begun: True if there has been an episode.
    """

    workspace: Workspace
    parts = 1

    def __init__(self, rules: RulesT, source: Any) -> None:  # noqa: ANN401 -- of any kind
        """Make an episode that still has to be `reset`.

        Args:
            rules: The checked options.
            source: Source of what is drawn.
        """
        self.rules = rules
        self.source = source
        self.max_turns: int = rules.config.max_turns
        self.turn = 0
        self.done = True
        self.begun = False
        self._texts: list[str] = []
        self._code_turns = 0
        self._images = 0
        self._well_formed = True

    @abstractmethod
    def check_options(self, options: Mapping[str, Any] | None) -> Any:  # noqa: ANN401 -- as `draw` takes them
        """Return the options of a reset, checked before anything changes; see `given_options`.

        Raises:
            ConfigurationError: If one is unknown or not allowed.
        """

    @abstractmethod
    def draw(self, rng: np.random.Generator, options: Any) -> str:  # noqa: ANN401 -- as `check_options` returns them
        """Draw an episode, make its workspace, and return the hash of its image.

        Raises:
            ImageError: If none can be drawn; then the episode is as it was.
        """

    @abstractmethod
    def new_workspace(self) -> Workspace:
        """Return a workspace as it may be at the start of an episode."""

    @abstractmethod
    def first_text(self, workspace: Workspace) -> str:
        """Return the text of the first observation, for a workspace as it is at the start; it contains no solution."""

    @abstractmethod
    def show(self, canvas: NDArray[np.uint8]) -> tuple[tuple[NDArray[np.uint8], ...], tuple[int, int]]:
        """Write the first image to a canvas; return the images of the first text, and height and width of that one."""

    @abstractmethod
    def render(self, canvas: NDArray[np.uint8], recipe: ImageRecipe) -> tuple[int, int]:
        """Write an image to a canvas, with zeros in the rest, and return its height and width."""

    @abstractmethod
    def judge(self, answer: Answer) -> tuple[int, ActionError | None]:
        """Return the number of parts right in an answer, and the error of one that no solution can have, or None.

        Raises:
            ActionError: If it cannot be read, so that it does not count as an answer.
        """

    @abstractmethod
    def task(self) -> Any:  # noqa: ANN401 -- facts of any kind
        """Return the facts of the episode that a policy may use, for ``info``."""

    @abstractmethod
    def revealed(self) -> Mapping[str, Any]:
        """Return the additions of ``reveal`` to ``info``, such as the solution."""

    @abstractmethod
    def describe(self) -> EpisodeDescription:
        """Describe the episode for the record, with its solution; see `agile_gym.envs.contract`."""

    def state(self) -> list[Any]:
        """Return the state as a model writes it."""
        return self.workspace.state_list()

    @property
    def max_images(self) -> int:
        """Images that the episode may make."""
        return max(MAX_IMAGES, IMAGES_A_TURN * self.rules.config.max_turns)

    def reset(
        self,
        rng: np.random.Generator,
        options: Any,  # noqa: ANN401 -- of any kind
        canvas: NDArray[np.uint8],
        max_steps: int | None = None,
    ) -> StepResult:
        """Draw an episode and show it.

        Args:
            rng: Source of all randomness.
            options: Values that are fixed instead of drawn: the result of `check_options`.
            canvas: (H, W, 3) uint8, which gets the first image.
            max_steps: Steps after which the episode ends at the latest, if that is before ``max_turns``.

        Returns:
            The first observation; ``info["images"]`` holds the images shown.

        Raises:
            ImageError: If none can be drawn; then the episode is as it was.
        """
        image_id = self.draw(rng, options)
        most = self.rules.config.max_turns
        self.max_turns = most if max_steps is None else min(most, max_steps)
        self.turn, self.done, self.begun = 0, False, True
        self._texts, self._code_turns, self._images, self._well_formed = [], 0, 0, True
        images, size = self.show(canvas)
        info = self._info((), None)
        info["images"], info["image_id"] = images, image_id
        return StepResult(self.first_text(self.workspace), size, 0.0, False, False, info)

    def check_running(self, call: str = "call reset() before step()") -> None:
        """Check that a turn can be played.

        Args:
            call: End of the error's sentence.

        Raises:
            gymnasium.error.ResetNeeded: If the episode has ended, or has not begun.
        """
        if self.done:
            raise ResetNeeded(f"This episode has ended, or has not begun: {call}.")

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
        right, answered = 0, False
        if error is None:
            try:
                if primitives and isinstance(primitives[0], Answer):
                    right, error = self.judge(primitives[0])
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
            size = self.render(canvas, workspace.images[shown])
        info = self._info(primitives if error is None or answered else (), error)
        info["images"] = () if shown is None else (canvas[: size[0], : size[1]],)
        reward = 0.0
        if ends or truncated:
            info["reward"] = parts = self._finish(right, answered=answered)
            reward = parts["total"]
            info["solved"], info["score"] = right == self.parts, parts["score"]
        left, brief = self.max_turns - self.turn, rules.brief
        if ends:
            feedback = done_text(error, answered=answered, brief=brief)
        elif error is not None:
            feedback = error_text(error, workspace, left, brief=brief)
        else:
            feedback = result_text(workspace, shown, left, well_formed=parsed.well_formed, brief=brief)
        return StepResult(feedback, size, reward, ends, truncated, info)

    def give_up(self) -> RewardParts:
        """End the episode without an answer, and return its reward: that of any other without one.

        Raises:
            gymnasium.error.ResetNeeded: If the episode has ended, or has not begun.
        """
        self.check_running("there is nothing to give up")
        return self._finish(0, answered=False)

    def score(self, record: EpisodeRecord) -> RewardParts:
        """Return the reward of an episode that has ended."""
        return score_episode(record, self.rules.reward)

    def _finish(self, right: int, *, answered: bool) -> RewardParts:
        self.done = True
        record = EpisodeRecord(
            texts=self._texts,
            code_turns=self._code_turns,
            images=self._images,
            well_formed=self._well_formed,
            answered=answered,
            pieces_right=right,
            pieces=self.parts,
            max_turns=self.max_turns,
            json_answer=self.workspace.board,
        )
        return self.score(record)

    def _info(self, primitives: tuple[Primitive, ...], error: ActionError | None) -> dict[str, Any]:
        info: dict[str, Any] = {
            "task": self.task(),
            "reward": _NO_REWARD.copy(),
            "primitives": primitives,
            "error": None if error is None else error.kind,
            "turn": self.turn,
            "solved": False,
            "score": 0.0,
        }
        if self.rules.config.reveal:
            info.update(self.revealed())
        return info
