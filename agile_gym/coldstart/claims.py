"""What an expert says of pieces: what an image showed, and why pieces belong where they are brought.

Two pieces are said to fit where they are neighbours in the solution, and said not to fit where they are not and their
borders differ measurably.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agile_gym.actions import Workspace
from agile_gym.coldstart.colours import differ_clearly
from agile_gym.coldstart.knowledge import Joint, Knowledge, joints_of
from agile_gym.coldstart.looks import Look
from agile_gym.coldstart.voice import Voice

__all__ = ["MAX_REASONS", "Claims"]

MAX_REASONS = 3
"""Most pieces, or seams, that a turn gives reasons for."""


class Claims:
    """Chooses true statements and puts them into words.

    Attributes:
        told: The last seam that was spoken of, if it was of the last image.
    """

    def __init__(self, rng: np.random.Generator, knowledge: Knowledge, workspace: Workspace, voice: Voice) -> None:
        """Prepare.

        Args:
            rng: Source of randomness.
            knowledge: What is known of the puzzle.
            workspace: The episode, which goes on meanwhile.
            voice: How it is put.
        """
        self.told: Joint | None = None
        self._rng = rng
        self._know = knowledge
        self._space = workspace
        self._voice = voice

    @property
    def upright(self) -> bool:
        """Whether every piece stands upright."""
        return self._space.turns == self._know.turns

    @property
    def solved(self) -> bool:
        """Whether the board is solved."""
        return self.upright and self._know.kinds_at(self._space.order) == self._know.kinds_at(self._know.goal)

    def seam(self, joint: Joint) -> str:
        """Say of a seam whether it fits, as far as it can be told."""
        self.told = joint
        if self._know.fits(joint):
            return self._fits(joint)
        return self._misfit(joint) if self._know.is_clear(joint) else self._voice.unclear(joint)

    def of_look(self, look: Look) -> str:
        """Say what a closer look showed."""
        angle = 0 if look.piece < 0 else self._know.turns[look.piece]
        if angle:
            return self._voice.turned([(look.piece, angle)])
        return "" if look.joint is None else self.seam(look.joint)

    def of_board(self, moved: Sequence[int]) -> list[str]:
        """Say what the board shows: a seam of pieces just moved that fits, else any that does not.

        Args:
            moved: The pieces that moved last.
        """
        fitting = [joint for joint in self._touching(moved) if self._know.fits(joint) and self._know.is_clear(joint)]
        return [self.seam(self._pick(fitting))] if fitting else self.misfits()

    def misfits(self, pieces: Sequence[int] | None = None) -> list[str]:
        """Say of one seam of the board, if there is any, that it clearly does not fit.

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
        """Say what the pieces fit to that are brought home: rather to pieces that are there already.

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
            # A piece whose neighbours are not in place is told by two of them, if it is the only one.
            clear = clear or [joint for joint in joints if self._know.is_clear(joint)][: 2 if len(pieces) == 1 else 1]
            for joint in clear or (anchored or joints)[:1]:
                said.append(joint)
                claims.append(self._fits(joint))
            at_home.add(piece)
        return claims

    def conclusions(self) -> list[str]:
        """Say what the solved board is put together from."""
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
        """Return the seams of the board; none while pieces lie turned, as their borders are not what they will be."""
        return joints_of(self._space.order, self._know.rows, self._know.cols) if self.upright else []

    def _touching(self, pieces: Sequence[int]) -> list[Joint]:
        return [joint for joint in self._joints() if joint.first in pieces or joint.second in pieces]

    def _pick(self, joints: Sequence[Joint]) -> Joint:
        return joints[int(self._rng.integers(len(joints)))]

    def _shuffled(self, joints: Sequence[Joint]) -> list[Joint]:
        return [joints[index] for index in self._rng.permutation(len(joints)).tolist()]
