"""One episode of the jigsaw: a puzzle that is drawn from a seed, and a board that is solved turn by turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.primitives import ActionError, Answer
from agile_gym.actions.prompt import image_captions
from agile_gym.actions.reading import piece_reader
from agile_gym.actions.workspace import Board, ImageRecipe, Workspace, draw_into, render_into
from agile_gym.envs.contract import EpisodeDescription
from agile_gym.envs.jigsaw.config import JigsawRules
from agile_gym.envs.jigsaw.start import ResetOptions, check_reset_options, draw_start, task_text
from agile_gym.envs.turns import TurnEpisode
from agile_gym.puzzle.board import JigsawPuzzle
from agile_gym.puzzle.pixels import BoardLayout, resize

__all__ = ["JigsawEpisode", "JigsawTask"]


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


class JigsawEpisode(TurnEpisode[JigsawRules]):
    """The state of one puzzle being solved.

    Attributes:
        puzzle: The permutation to be undone.
        pieces: (pieces, piece_height, piece_width, 3) uint8, read-only.
        layout: Sizes of the board.
    """

    puzzle: JigsawPuzzle
    pieces: NDArray[np.uint8]
    layout: BoardLayout
    _reference: NDArray[np.uint8] | None

    def check_options(self, options: Mapping[str, Any] | None) -> ResetOptions:
        """Check the options of a reset before anything changes; see `check_reset_options`."""
        return check_reset_options(self.rules, self.source, options)

    def draw(self, rng: np.random.Generator, options: ResetOptions) -> str:
        """Draw a puzzle: photograph, crop window and permutation; return the hash of the photograph."""
        rules = self.rules
        start = draw_start(rules, self.source, rng, options)
        self.layout, self.puzzle = start.layout, start.puzzle
        self.pieces, self._reference = start.pieces, start.reference
        self.workspace = self.new_workspace()
        self.parts = len(self.workspace.names)
        self._task = JigsawTask(
            (rules.rows, rules.cols),
            self.workspace.names,
            rules.dialect.name,
            rules.config.initial_view,
            (self.layout.piece_height, self.layout.piece_width),
            rules.config.rotations,
            (self.layout.height, self.layout.width),
        )
        return start.image_id

    def show(self, canvas: NDArray[np.uint8]) -> tuple[tuple[NDArray[np.uint8], ...], tuple[int, int]]:
        """Write the board to a canvas; return the images of the first text, and height and width of the board."""
        board = Board(self.workspace.order, self.workspace.turns)
        height, width = self.render(canvas, ImageRecipe(self.layout.height, self.layout.width, board))
        images: list[NDArray[np.uint8]] = []
        view = self.rules.config.initial_view
        if view != "board":
            images += list(self.pieces)
        if view != "pieces":
            images.append(canvas[:height, :width])
        if self._reference is not None:
            images.append(self._reference)
        return tuple(images), (height, width)

    def first_text(self, workspace: Workspace) -> str:
        """Return the text of the first observation, for a workspace as it is at the start; it contains no solution."""
        rules = self.rules
        return task_text(rules.prompt, workspace, rules.dialect, self.max_turns, self.captions(workspace))

    def captions(self, workspace: Workspace) -> list[str]:
        """Return the caption of each image of the first observation."""
        config = self.rules.config
        return image_captions(
            workspace.names, config.initial_view, reference=config.reference_image, brief=self.rules.brief
        )

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
            max_images=self.max_images,
        )

    def render(self, canvas: NDArray[np.uint8], recipe: ImageRecipe) -> tuple[int, int]:
        """Write an image to a canvas, boards at their scale, and return its height and width."""
        height, width = render_into(canvas, recipe, self.pieces, self.layout, self._reference)
        scale = self.rules.config.board_scale
        if scale == 1 or not isinstance(recipe.operation, Board):
            return height, width
        thumbnail = resize(canvas[:height, :width], max(1, round(height * scale)), max(1, round(width * scale)))
        return draw_into(canvas, thumbnail)

    def judge(self, answer: Answer) -> tuple[int, ActionError | None]:
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

    def task(self) -> JigsawTask:
        """Return the facts of the puzzle."""
        return self._task

    def revealed(self) -> Mapping[str, Any]:
        """Return the solution, the number of pieces in place and the level."""
        workspace, puzzle = self.workspace, self.puzzle
        return {
            "solution": workspace.state_list(puzzle.solution, puzzle.turns),
            "pieces_in_place": puzzle.pieces_right(workspace.order, workspace.turns),
            "level": puzzle.level,
        }

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
