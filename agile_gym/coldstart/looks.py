"""Closer looks of an expert at seams, borders and pieces, and the claims that follow from them.

Two pieces are said to fit where they are neighbours in the solution, and said not to fit where they are not and their
borders differ measurably.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from agile_gym.actions.primitives import Crop, Primitive, Zoom
from agile_gym.actions.workspace import Workspace
from agile_gym.coldstart.knowledge import (
    BORDERS,
    Border,
    Joint,
    Knowledge,
    border_box,
    differ_clearly,
    joints_of,
    seam_box,
    zoom_factors,
)
from agile_gym.coldstart.sentences import Voice

__all__ = ["MAX_REASONS", "Claims", "Look", "LookChooser", "broken"]

_T = TypeVar("_T")
_WRONG_SEAM = 0.6
"""Fraction of looks at a seam that does not fit, while there is one."""
_PIECE = 0.2
"""Fraction of crops of a piece although there is a board to be cropped."""


@dataclass(frozen=True)
class Look:
    """A closer look.

    Attributes:
        primitive: The crop or the zoom.
        joint: The joint that it shows: a seam of the board, or how a border of a piece goes on in the solution; None if
            it shows none.
        piece: The piece that is shown; -1 for a seam.
        border: The border of the piece that is shown, if it is one.
    """

    primitive: Crop | Zoom
    joint: Joint | None
    piece: int = -1
    border: Border | None = None

    def say(self, voice: Voice) -> str:
        """Write the sentence that announces the look."""
        if isinstance(self.primitive, Zoom):
            return voice.enlarge(None if self.border is not None or self.piece < 0 else self.piece)
        if self.border is not None:
            return voice.look_border(self.piece, self.border)
        return voice.look_seam(self.joint) if self.joint is not None else ""


class LookChooser:
    """Choice of closer looks, each seam and border once while there are others."""

    def __init__(self, rng: np.random.Generator, knowledge: Knowledge, workspace: Workspace) -> None:
        """Prepare.

        Args:
            rng: Source of randomness.
            knowledge: Facts about the puzzle.
            workspace: The episode, which goes on meanwhile.
        """
        self._rng = rng
        self._know = knowledge
        self._space = workspace
        self._seen: set[object] = set()

    def note(self, joint: Joint) -> None:
        """Mark a seam as mentioned, so that another one is looked at."""
        self._seen.add(joint)

    def crop(self, board: str | None, *, closer: bool) -> Look:
        """Choose a crop.

        Args:
            board: The image that shows the board as it is, if there is one.
            closer: True if the crop is enlarged next, so that a part of a seam is better.

        Returns:
            A look at a seam of the board, or at a border of a piece.
        """
        upright = self._space.turns == self._know.turns
        if board is None or not upright or self._rng.random() < _PIECE:
            return self._crop_piece()
        joint = self._choose_seam()
        self._seen.add(joint)
        place = self._space.order.index(joint.first)
        part: Literal["whole", "first", "second"] = "whole"
        if closer:
            part = "first" if self._rng.random() < 0.5 else "second"
        return Look(Crop(board, seam_box(self._space.layout, place, joint.side, part)), joint)

    def enlarge(self, last: Look) -> Look | None:
        """Choose a factor for the crop that was shown last; None if it cannot be enlarged on the canvas."""
        key = next(reversed(self._space.images))
        recipe = self._space.images[key]
        factors = zoom_factors(recipe.height, recipe.width, self._space.canvas)
        if not factors:
            return None
        return Look(Zoom(key, self._one_of(factors)), last.joint, last.piece, last.border)

    def zoom_piece(self) -> Look | None:
        """Choose a piece to be enlarged; None if the canvas has no room for that."""
        layout = self._space.layout
        factors = zoom_factors(layout.piece_height, layout.piece_width, self._space.canvas)
        if not factors:
            return None
        fresh = [piece for piece in self._know.goal if ("zoom", piece) not in self._seen]
        piece = self._one_of(fresh or list(self._know.goal))
        self._seen.add(("zoom", piece))
        clear = [joint for joint in self._know.neighbours(piece) if self._know.is_clear(joint)]
        joint = self._one_of(clear) if clear and self._know.turns[piece] == 0 else None
        return Look(Zoom(self._space.names[piece], self._one_of(factors)), joint, piece)

    def _choose_seam(self) -> Joint:
        """Choose a seam of the board: rather a clear one, and rather one that does not fit."""
        joints = joints_of(self._space.order, self._know.rows, self._know.cols)
        clear = [joint for joint in joints if self._know.is_clear(joint)]
        fresh = [joint for joint in clear if joint not in self._seen]
        candidates = fresh or [joint for joint in joints if joint not in self._seen] or joints
        wrong = [joint for joint in candidates if not self._know.fits(joint)]
        right = [joint for joint in candidates if self._know.fits(joint)]
        prefer_wrong = self._rng.random() < _WRONG_SEAM
        return self._one_of((wrong or right) if prefer_wrong else (right or wrong))

    def _crop_piece(self) -> Look:
        """Choose a border of a piece; of a piece that lies as it belongs, one that clearly goes on in another piece."""
        borders: list[tuple[Joint, int, Border]] = [
            (joint, piece, border)
            for joint in joints_of(self._know.goal, self._know.rows, self._know.cols)
            for piece, border in _borders(joint)
            if self._know.turns[piece] == 0
        ]
        clear = [entry for entry in borders if self._know.is_clear(entry[0])]
        fresh = [entry for entry in clear if entry[1:] not in self._seen] or clear
        if fresh:
            joint, piece, border = self._one_of(fresh)
        else:  # there is nothing clear to be seen
            joint, piece = None, self._one_of(self._know.goal)
            border = BORDERS[int(self._rng.integers(len(BORDERS)))]
        self._seen.add((piece, border))
        box = border_box(border, int(self._rng.integers(3)))
        return Look(Crop(self._space.names[piece], box), joint, piece, border)

    def _one_of(self, values: Sequence[_T]) -> _T:
        return values[int(self._rng.integers(len(values)))]


def broken(look: Look, workspace: Workspace, rng: np.random.Generator) -> tuple[Primitive, str]:
    """Spoil a look so that it cannot be carried out.

    Args:
        look: The look as it should be.
        workspace: The episode.
        rng: Source of randomness.

    Returns:
        The action, and the kind of its error: ``"box"``, ``"factor"`` or ``"name"``.
    """
    primitive = look.primitive
    if isinstance(primitive, Zoom):
        side = min(workspace.layout.piece_height, workspace.layout.piece_width)
        return Zoom(primitive.image, float(2 + max(workspace.canvas) // side)), "factor"
    if rng.random() < 0.5:
        x1, y1, x2, y2 = primitive.box
        return Crop(primitive.image, (x2, y2, x1, y1)), "box"
    return Crop("observation_image_9", primitive.box), "name"


def _borders(joint: Joint) -> tuple[tuple[int, Border], tuple[int, Border]]:
    """Return the two borders that meet in a joint."""
    if joint.side == "right":
        return (joint.first, "right"), (joint.second, "left")
    return (joint.first, "bottom"), (joint.second, "top")


MAX_REASONS = 3
"""Most pieces, or seams, that a turn gives reasons for."""


class Claims:
    """Choice of true statements, and their wording.

    Attributes:
        told: The last seam that was mentioned, if it was of the last image.
    """

    def __init__(self, rng: np.random.Generator, knowledge: Knowledge, workspace: Workspace, voice: Voice) -> None:
        """Prepare.

        Args:
            rng: Source of randomness.
            knowledge: Facts about the puzzle.
            workspace: The episode, which goes on meanwhile.
            voice: Wording of the statements.
        """
        self.told: Joint | None = None
        self._rng = rng
        self._know = knowledge
        self._space = workspace
        self._voice = voice

    @property
    def upright(self) -> bool:
        """Return whether every piece stands upright."""
        return self._space.turns == self._know.turns

    @property
    def solved(self) -> bool:
        """Return whether the board is solved."""
        return self.upright and self._know.kinds_at(self._space.order) == self._know.kinds_at(self._know.goal)

    def seam(self, joint: Joint) -> str:
        """Write whether a seam fits, as far as it is visible."""
        self.told = joint
        if self._know.fits(joint):
            return self._fits(joint)
        return self._misfit(joint) if self._know.is_clear(joint) else self._voice.unclear(joint)

    def of_look(self, look: Look) -> str:
        """Write the result of a closer look."""
        angle = 0 if look.piece < 0 else self._know.turns[look.piece]
        if angle:
            return self._voice.turned([(look.piece, angle)])
        return "" if look.joint is None else self.seam(look.joint)

    def of_board(self, moved: Sequence[int]) -> list[str]:
        """Write a statement about the board: a seam of pieces just moved that fits, else any that does not.

        Args:
            moved: The pieces that moved last.
        """
        fitting = [joint for joint in self._touching(moved) if self._know.fits(joint) and self._know.is_clear(joint)]
        return [self.seam(self._pick(fitting))] if fitting else self.misfits()

    def misfits(self, pieces: Sequence[int] | None = None) -> list[str]:
        """Write that one seam of the board, if there is any, clearly does not fit.

        Args:
            pieces: The pieces that it must touch; None takes any seam.
        """
        found = [
            joint
            for joint in (self._joints() if pieces is None else self._touching(pieces))
            if not self._know.fits(joint) and self._know.is_clear(joint)
        ]
        return [self.seam(self._pick(found))] if found else []

    def reasons(self, order: Sequence[int], pieces: Sequence[int]) -> list[str]:
        """Write the neighbours of the pieces that are brought home: rather pieces that are there already.

        Args:
            order: The board before.
            pieces: The pieces.
        """
        kinds = self._know.kinds
        at_home = {piece for place, piece in enumerate(order) if kinds[piece] == kinds[self._know.goal[place]]}
        said = [] if self.told is None else [self.told]
        claims: list[str] = []
        for piece in pieces[: self._voice.most_reasons]:
            joints = [joint for joint in self._shuffled(self._know.neighbours(piece)) if joint not in said]
            anchored = [joint for joint in joints if at_home & {joint.first, joint.second}]
            clear = [joint for joint in anchored if self._know.is_clear(joint)][:1]
            # A piece whose neighbours are not in place is described by two of them, if it is the only one.
            clear = clear or [joint for joint in joints if self._know.is_clear(joint)][: 2 if len(pieces) == 1 else 1]
            for joint in clear or (anchored or joints)[:1]:
                said.append(joint)
                claims.append(self._fits(joint))
            at_home.add(piece)
        return claims

    def conclusions(self) -> list[str]:
        """Write the rows of the solved board."""
        joints = joints_of(self._know.goal, self._know.rows, self._know.cols)
        clear = [joint for joint in self._shuffled(joints) if self._know.is_clear(joint)] or joints
        return [self._fits(joint) for joint in clear[:MAX_REASONS] if joint != self.told]

    def _fits(self, joint: Joint) -> str:
        colours = self._know.colours(joint)
        colour = colours[0] if colours is not None and colours[0] == colours[1] else None
        return self._voice.fits(joint, clear=self._know.is_clear(joint), colour=colour)

    def _misfit(self, joint: Joint) -> str:
        colours = self._know.colours(joint)
        return self._voice.misfit(joint, colours=colours if colours is not None and differ_clearly(*colours) else None)

    def _joints(self) -> list[Joint]:
        """Return the seams of the board; none while pieces lie turned, as their borders will change."""
        return joints_of(self._space.order, self._know.rows, self._know.cols) if self.upright else []

    def _touching(self, pieces: Sequence[int]) -> list[Joint]:
        return [joint for joint in self._joints() if joint.first in pieces or joint.second in pieces]

    def _pick(self, joints: Sequence[Joint]) -> Joint:
        return joints[int(self._rng.integers(len(joints)))]

    def _shuffled(self, joints: Sequence[Joint]) -> list[Joint]:
        return [joints[index] for index in self._rng.permutation(len(joints)).tolist()]
