"""One episode of the jigsaw: drawn from a seed, played turn by turn. Single and vector environments share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from agile_gym.actions.dialects import ParsedTurn
from agile_gym.actions.primitives import FORM_ERRORS, ActionError, Answer, Primitive
from agile_gym.actions.prompt import done_text, error_text, image_captions, result_text
from agile_gym.actions.reading import piece_reader
from agile_gym.actions.tags import MAX_TEXT
from agile_gym.actions.workspace import MAX_IMAGES, Board, ImageRecipe, Workspace, render_into
from agile_gym.envs.contract import EpisodeDescription, RewardParts, no_reward
from agile_gym.envs.jigsaw.config import JigsawRules
from agile_gym.envs.jigsaw.reward import EpisodeRecord, score_episode
from agile_gym.envs.jigsaw.start import ResetOptions, check_reset_options, draw_start, task_text
from agile_gym.errors import ConfigurationError
from agile_gym.images.sources import ImageSource
from agile_gym.puzzle.board import JigsawPuzzle
from agile_gym.puzzle.pixels import BoardLayout, resize

__all__ = ["JigsawEpisode", "JigsawTask", "StepResult", "check_action"]

IMAGES_A_TURN = 2
"""Images that an episode may make for each of its turns, if these are more than `MAX_IMAGES`."""


@dataclass(frozen=True, slots=True)
class JigsawTask:
    """Facts of a puzzle that a policy may use without looking at it.

    Attributes:
        grid: Rows and columns.
        names: Names of the pieces.
        dialect: Name of the dialect.
        initial_view: Images of the first text: ``"pieces"``, ``"board"`` or ``"both"``.
        piece_size: Height and width of a piece, in pixels.
        rotations: True if pieces are also turned.
        board_size: Height and width of the full board, in pixels; it may be shown smaller.
    """

    grid: tuple[int, int]
    names: tuple[str, ...]
    dialect: str
    initial_view: str
    piece_size: tuple[int, int]
    rotations: bool
    board_size: tuple[int, int]

    def full_board(self, shown: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the image of a board at its full size: a thumbnail is enlarged, without its details."""
        return shown if shown.shape[:2] == self.board_size else resize(shown, *self.board_size)


@dataclass(slots=True)
class StepResult:
    """Result of a turn; the image has been written to the canvas.

    Attributes:
        text: The feedback.
        image_size: Height and width of the image on the canvas, in pixels; (0, 0) if there is none.
        reward: The reward.
        terminated: True if an answer ended the episode.
        truncated: True if the turns ran out.
        info: The step's ``info``, without the images.
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


class JigsawEpisode:
    """The state of one puzzle being solved.

    Attributes:
        rules: The checked options.
        puzzle: The permutation to be undone.
        workspace: State, images and variables.
        pieces: (pieces, piece_height, piece_width, 3) uint8, read-only.
        layout: Sizes of the board.
        max_turns: Turns that the episode may have.
        turn: Turns taken so far.
        done: True if the episode has ended, or has not begun.
        begun: True if there has been an episode.
    """

    puzzle: JigsawPuzzle
    workspace: Workspace
    pieces: NDArray[np.uint8]
    layout: BoardLayout

    def __init__(self, rules: JigsawRules, source: ImageSource) -> None:
        """Make an episode that still has to be `reset`.

        Args:
            rules: The checked options.
            source: Source of photographs; shared between episodes.
        """
        self.rules = rules
        self.max_turns = rules.config.max_turns
        self.turn = 0
        self.done = True
        self.begun = False
        self._source = source
        self._reference: NDArray[np.uint8] | None = None
        self._texts: list[str] = []
        self._code_turns = 0
        self._images = 0
        self._well_formed = True

    def check_options(self, options: Mapping[str, Any] | None) -> ResetOptions:
        """Check the options of a reset before anything changes; see `check_reset_options`."""
        return check_reset_options(self.rules, self._source, options)

    def reset(
        self,
        rng: np.random.Generator,
        options: ResetOptions,
        canvas: NDArray[np.uint8],
        max_steps: int | None = None,
    ) -> StepResult:
        """Draw a puzzle and show it.

        Args:
            rng: Source of all randomness: photograph, crop window and permutation.
            options: Values that are fixed instead of drawn.
            canvas: (H, W, 3) uint8, which gets the board.
            max_steps: Steps after which the episode ends at the latest, if that is before ``max_turns``.

        Returns:
            The first observation; ``info["images"]`` holds the images shown.

        Raises:
            ImageError: If no photograph can be read; then the episode is as it was.
        """
        rules, config = self.rules, self.rules.config
        start = draw_start(rules, self._source, rng, options)
        self.layout, self.puzzle = start.layout, start.puzzle
        self.pieces, self._reference = start.pieces, start.reference
        self.workspace = self.new_workspace()
        self._task = JigsawTask(
            (rules.rows, rules.cols),
            self.workspace.names,
            rules.dialect.name,
            config.initial_view,
            (self.layout.piece_height, self.layout.piece_width),
            config.rotations,
            (self.layout.height, self.layout.width),
        )
        self.max_turns = config.max_turns if max_steps is None else min(config.max_turns, max_steps)
        self.turn, self.done, self.begun = 0, False, True
        self._texts, self._code_turns, self._images, self._well_formed = [], 0, 0, True
        size = self._render(canvas, self._board())
        info = self._info((), None)
        info["images"] = self._first_images(canvas[: size[0], : size[1]])
        info["image_id"] = start.image_id
        return StepResult(self.first_text(self.workspace), size, 0.0, False, False, info)

    def first_text(self, workspace: Workspace) -> str:
        """Return the text of the first observation, for a workspace as it is at the start; it contains no solution."""
        rules = self.rules
        return task_text(rules.prompt, workspace, rules.dialect, self.max_turns, self.captions(workspace))

    def captions(self, workspace: Workspace) -> list[str]:
        """Return the caption of each image of the first observation."""
        config = self.rules.config
        return image_captions(
            workspace.names,
            config.initial_view,
            reference=config.reference_image,
            brief=self.rules.prompt.brief,
        )

    def check_running(self) -> None:
        """Check that a turn can be played.

        Raises:
            gymnasium.error.ResetNeeded: If the episode has ended, or has not begun.
        """
        if self.done:
            raise ResetNeeded("This episode has ended, or has not begun: call reset() before step().")

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
        answer = parsed.primitives[0] if parsed.primitives and isinstance(parsed.primitives[0], Answer) else None
        error, shown = parsed.error, None
        right = 0
        if answer is not None:
            right, error = self._check_answer(answer)
        elif error is None:
            try:
                shown = workspace.execute(parsed.primitives)
                if parsed.variables is not None:
                    workspace.variables = parsed.variables
            except ActionError as failure:
                failure.forget()
                error = failure
        ends = answer is not None or (
            error is not None and rules.reward.invalid_turn == "end" and error.kind in FORM_ERRORS
        )
        truncated = not ends and self.turn >= self.max_turns
        size = (0, 0)
        if shown is not None:
            self._images += 1
            size = self._render(canvas, workspace.images[shown])
        else:
            canvas[...] = 0
        info = self._info(() if error and answer is None else parsed.primitives, error)
        info["images"] = () if shown is None else (canvas[: size[0], : size[1]],)
        reward = 0.0
        if ends or truncated:
            self.done = True
            info["reward"] = parts = self._finish(right, answered=answer is not None)
            reward = parts["total"]
            info["solved"], info["score"] = self._solved, parts["score"]
        return StepResult(self._feedback(parsed, error, shown, answer, ends=ends), size, reward, ends, truncated, info)

    def give_up(self) -> RewardParts:
        """End the episode without an answer, and return its reward: that of any other without one.

        Raises:
            gymnasium.error.ResetNeeded: If the episode has ended, or has not begun.
        """
        if self.done:
            raise ResetNeeded("This episode has ended, or has not begun: there is nothing to give up.")
        self.done = True
        return self._finish(0, answered=False)

    def new_workspace(self) -> Workspace:
        """Return a workspace as it is at the start of an episode."""
        rules = self.rules
        layout = getattr(self, "layout", None) or rules.layout_for(rules.canvas)
        reference = (layout.rows * layout.piece_height, layout.cols * layout.piece_width)
        return Workspace(
            layout,
            rules.canvas,
            rotations=rules.config.rotations,
            reference=reference if rules.config.reference_image else None,
            max_images=max(MAX_IMAGES, IMAGES_A_TURN * rules.config.max_turns),
        )

    def describe(self) -> EpisodeDescription:
        """Describe the puzzle for the record, with its solution; see `agile_gym.envs.contract`."""
        rules, puzzle, task = self.rules, self.puzzle, self._task
        grid = f"{rules.rows}x{rules.cols}"
        facts: dict[str, Any] = {
            "grid": grid,
            "level": puzzle.level,
            "names": list(task.names),
            "dialect": task.dialect,
            "initial_view": task.initial_view,
            "piece_size": list(task.piece_size),
            "rotations": task.rotations,
            "max_turns": self.max_turns,
        }
        solution = self.workspace.state_list(puzzle.solution, puzzle.turns)
        return EpisodeDescription(facts, f"{grid}-L{puzzle.level}", solution)

    def _board(self) -> ImageRecipe:
        board = Board(self.workspace.order, self.workspace.turns)
        return ImageRecipe(self.layout.height, self.layout.width, board)

    def _render(self, canvas: NDArray[np.uint8], recipe: ImageRecipe) -> tuple[int, int]:
        """Write an image to a canvas, boards at their scale, and return its height and width."""
        height, width = render_into(canvas, recipe, self.pieces, self.layout, self._reference)
        scale = self.rules.config.board_scale
        if scale == 1 or not isinstance(recipe.operation, Board):
            return height, width
        small = max(1, round(height * scale)), max(1, round(width * scale))
        thumbnail = resize(canvas[:height, :width], *small)
        canvas[:height, :width] = 0
        canvas[: small[0], : small[1]] = thumbnail
        return small

    def _first_images(self, board: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], ...]:
        images: list[NDArray[np.uint8]] = []
        view = self.rules.config.initial_view
        if view != "board":
            images += list(self.pieces)
        if view != "pieces":
            images.append(board)
        if self._reference is not None:
            images.append(self._reference)
        return tuple(images)

    def _check_answer(self, answer: Answer) -> tuple[int, ActionError | None]:
        """Return the number of right pieces in an answer, and the error of one that no solution can have; or None."""
        pieces = piece_reader(self.workspace.names)
        order, problem = pieces.read_order(answer.order)
        turns = [0] * len(pieces.names)
        for piece, angle in zip(order, answer.turns or (), strict=False):
            if piece >= 0:
                turns[piece] = angle
        error = None
        if problem is not None:
            error = ActionError("not_a_permutation", f"It cannot be right. {problem}.")
        elif any(angle % 90 for angle in turns):
            piece = next(piece for piece in order if turns[piece] % 90)
            wrong = f"The angle of '{pieces.names[piece]}' is {turns[piece]}, and no multiple of 90"
            error = ActionError("bad_answer", f"It cannot be right. {wrong}.")
        return self.puzzle.pieces_right(order, turns), error

    def _finish(self, right: int, *, answered: bool) -> RewardParts:
        count = len(self.workspace.names)
        self._solved = right == count
        record = EpisodeRecord(
            texts=self._texts,
            code_turns=self._code_turns,
            images=self._images,
            well_formed=self._well_formed,
            answered=answered,
            pieces_right=right,
            pieces=count,
            max_turns=self.max_turns,
        )
        return score_episode(record, self.rules.reward)

    def _feedback(
        self, parsed: ParsedTurn, error: ActionError | None, shown: str | None, answer: Answer | None, *, ends: bool
    ) -> str:
        left, brief = self.max_turns - self.turn, self.rules.prompt.brief
        if ends:
            return done_text(error, answered=answer is not None, brief=brief)
        if error is not None:
            return error_text(error, self.workspace, left, brief=brief)
        return result_text(self.workspace, shown, left, well_formed=parsed.well_formed, brief=brief)

    def _info(self, primitives: tuple[Primitive, ...], error: ActionError | None) -> dict[str, Any]:
        info: dict[str, Any] = {
            "task": self._task,
            "reward": no_reward(),
            "primitives": primitives,
            "error": None if error is None else error.kind,
            "turn": self.turn,
            "solved": False,
            "score": 0.0,
        }
        if self.rules.config.reveal:
            workspace, puzzle = self.workspace, self.puzzle
            info["solution"] = workspace.state_list(puzzle.solution, puzzle.turns)
            info["pieces_in_place"] = puzzle.pieces_right(workspace.order, workspace.turns)
            info["level"] = puzzle.level
        return info
