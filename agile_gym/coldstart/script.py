"""Writes a whole expert's episode: for each step the action, and the thought before it.

A thought tells first what the last image showed, then what follows from it, then what is done. Whatever it says of
pieces is so: two pieces are said to fit where they are neighbours in the solution, and said not to fit where they are
not and their borders differ measurably.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from agile_gym.actions import (
    ActionError,
    Answer,
    Arrange,
    Dialect,
    Observe,
    Primitive,
    Swap,
    Turn,
    Workspace,
    Zoom,
)
from agile_gym.actions.tools import MAX_CALLS
from agile_gym.coldstart.knowledge import Joint, Knowledge, joints_of
from agile_gym.coldstart.looks import Look, LookChooser, broken
from agile_gym.coldstart.moves import Pair, right_swap, swap_places, swaps_needed, wrong_swaps
from agile_gym.coldstart.steps import Step, StepKind
from agile_gym.coldstart.voice import Voice
from agile_gym.errors import ConfigurationError

__all__ = ["ScriptTurn", "write_script"]

MAX_SWAPS = 3
"""Most swaps of a turn; where more are needed, the order is written at once."""
MAX_TURNED = 4
MAX_LISTED = 16
"""Rows are listed in words up to so many pieces."""
MAX_REASONS = 3
_ARRANGE = 0.35


class ScriptTurn(NamedTuple):
    """A turn of an expert's episode.

    Attributes:
        text: What is written.
        kind: What is done.
    """

    text: str
    kind: StepKind


def write_script(
    rng: np.random.Generator,
    knowledge: Knowledge,
    workspace: Workspace,
    dialect: Dialect,
    steps: Sequence[Step],
    voice: Voice,
) -> list[ScriptTurn]:
    """Put steps into actions and words.

    Args:
        rng: Source of randomness.
        knowledge: What is known of the puzzle.
        workspace: The episode at its start; it is played to its end.
        dialect: How actions are written.
        steps: What is done, the answer last.
        voice: How thoughts are put.

    Returns:
        One turn a step, but for steps that cannot be done in this puzzle, which are left out.
    """
    writer = _Writer(rng, knowledge, workspace, dialect, voice)
    for index, step in enumerate(steps):
        writer.write(step, steps[index + 1 :])
    return writer.turns


class _Writer:
    """The expert in the middle of an episode."""

    def __init__(
        self, rng: np.random.Generator, knowledge: Knowledge, workspace: Workspace, dialect: Dialect, voice: Voice
    ) -> None:
        self.turns: list[ScriptTurn] = []
        self._rng = rng
        self._know = knowledge
        self._space = workspace
        self._dialect = dialect
        self._voice = voice
        self._looks = LookChooser(rng, knowledge, workspace)
        self._board: str | None = None  # the image that shows the board as it is
        self._fresh = False  # whether that image is the last one
        self._boards = 0
        self._look: Look | None = None  # the closer look whose image is the last one
        self._ready: tuple[Look, str] | None = None  # the look that a slip has spoiled, and what was wrong
        self._moved: tuple[int, ...] = ()  # pieces that the last change moved
        self._wrong: Pair | None = None  # places of the last swap, if it was wrong
        self._noticed = False
        self._tried: set[frozenset[int]] = set()  # pieces whose swap was wrong
        self._told: Joint | None = None  # what was said last of the last image

    def write(self, step: Step, later: Sequence[Step]) -> None:
        """Write the turn of a step, unless it cannot be done."""
        match step.kind:
            case "observe":
                again = self._boards > 0 or bool(self._moved)
                self._turn(step.kind, [*self._finding(), self._voice.observe(again=again)], [Observe()])
            case "move":
                self._move(step, 1 + sum(other.kind == "move" for other in later))
            case "wrong":
                self._err(step)
            case "undo":
                self._undo(step)
            case "slip":
                self._slip(later)
            case "crop" | "zoom":
                self._look_closer(step.kind, later)
            case "answer":
                self._answer()

    # --- looking

    def _look_closer(self, kind: StepKind, later: Sequence[Step]) -> None:
        if self._ready is not None:
            look, problem = self._ready
            self._ready = None
            self._turn(kind, [self._voice.slipped(problem)], [look.primitive], look)
            return
        look = self._choose(kind, later)
        if look is not None:
            # What a crop shows is said when it has been enlarged.
            enlarges = isinstance(look.primitive, Zoom) and look.primitive.image not in self._space.names
            finding = [] if enlarges else self._finding()
            self._turn(kind, [*finding, look.say(self._voice)], [look.primitive], look)

    def _slip(self, later: Sequence[Step]) -> None:
        look = self._choose(later[0].kind, later[1:])
        if look is not None:
            primitive, problem = broken(look, self._space, self._rng)
            self._turn("slip", [*self._finding(), look.say(self._voice)], [primitive])
            self._ready = look, problem

    def _choose(self, kind: StepKind, later: Sequence[Step]) -> Look | None:
        closer = bool(later) and later[0].kind == "zoom"
        if kind == "crop":
            return self._looks.crop(self._board, closer=closer)
        return self._looks.zoom(self._look)

    def _finding(self) -> list[str]:
        """Say what the last image showed."""
        self._told = None
        if self._look is not None:
            return [self._look_finding(self._look)]
        if not self._fresh or not self._upright:
            return []
        if self._wrong is not None and not self._noticed:
            self._noticed = True
            first, second = (self._space.order[place] for place in self._wrong)
            return [*self._misfits(self._moved), self._voice.was_wrong(first, second)]
        fitting = [joint for joint in self._touching(self._moved) if self._fits_clearly(joint)]
        if fitting:
            self._told = self._pick(fitting)
            return [self._voice.fits(self._told)]
        return self._misfits()

    def _look_finding(self, look: Look) -> str:
        angle = 0 if look.piece < 0 else self._know.turns[look.piece]
        if angle:
            return self._voice.turned([(look.piece, angle)])
        joint = look.joint
        if joint is None:
            return ""
        self._told = joint
        if self._know.fits(joint):
            return self._voice.fits(joint, clear=self._know.is_clear(joint))
        return self._voice.misfit(joint) if self._know.is_clear(joint) else self._voice.unclear(joint)

    def _misfits(self, pieces: Sequence[int] | None = None) -> list[str]:
        """Say of one seam of the board, if there is any, that it clearly does not fit."""
        found = [
            joint
            for joint in (self._joints() if pieces is None else self._touching(pieces))
            if not self._know.fits(joint) and self._know.is_clear(joint)
        ]
        return [self._voice.misfit(self._pick(found))] if found and self._upright else []

    def _joints(self) -> list[Joint]:
        return joints_of(self._space.order, self._know.rows, self._know.cols)

    def _touching(self, pieces: Sequence[int]) -> list[Joint]:
        return [joint for joint in self._joints() if joint.first in pieces or joint.second in pieces]

    def _fits_clearly(self, joint: Joint) -> bool:
        return self._know.fits(joint) and self._know.is_clear(joint)

    def _pick(self, joints: Sequence[Joint]) -> Joint:
        return joints[int(self._rng.integers(len(joints)))]

    @property
    def _upright(self) -> bool:
        return self._space.turns == self._know.turns

    @property
    def _solved(self) -> bool:
        return self._upright and self._space.order == self._know.goal

    # --- moving

    def _move(self, step: Step, left: int) -> None:
        """Bring some pieces home: all that are left, if this is the last move."""
        finding = self._finding()
        start, order = self._space.order, self._space.order
        need = swaps_needed(order, self._know.goal)
        count = need if left == 1 else max((need + int(self._rng.integers(left))) // left, min(need, 1))
        pairs: list[Pair] = []
        for _ in range(count):
            pairs.append(right_swap(self._rng, order, self._know.goal))
            order = swap_places(order, pairs[-1])
        lying = [
            (piece, (angle - self._space.turns[piece]) % 360)
            for piece, angle in enumerate(self._know.turns)
            if angle != self._space.turns[piece]
        ]
        if not pairs and not lying:
            return
        at_once = len(pairs) > MAX_SWAPS or len(lying) > MAX_TURNED
        at_once = at_once or (len(pairs) > 1 and self._rng.random() < _ARRANGE)
        if lying:
            finding.append(self._voice.turned(lying[:MAX_TURNED]))
        thoughts = [*finding, *self._reasons(start, pairs)]
        if order == self._know.goal and len(pairs) > 1 and len(order) <= MAX_LISTED:
            thoughts.append(self._voice.rows(self._rows()))
        elif pairs:
            brought = [(self._know.goal[target], target) for _, target in pairs]
            thoughts.append(self._voice.belongs(brought[:MAX_REASONS]))
        changes: list[Primitive]
        if at_once:
            thoughts.append(self._voice.arrange())
            changes = [Arrange(order)]
        else:
            thoughts += self._say_changes(start, pairs, [piece for piece, _ in lying])
            changes = [Swap(*pair) for pair in pairs]
        changes += [Turn(order.index(piece), angle) for piece, angle in lying]
        self._change(step, thoughts, self._shortened(changes, order))

    def _shortened(self, changes: list[Primitive], order: tuple[int, ...]) -> list[Primitive]:
        """Return changes as one new order with all angles, if they are many and the dialect has words for that."""
        if sum(isinstance(change, Turn) for change in changes) <= MAX_TURNED:
            return changes
        whole = Arrange(order, self._know.turns)
        try:
            self._dialect.write([whole], self._space)
        except ValueError:
            if len(changes) >= MAX_CALLS:
                raise ConfigurationError(
                    f"{len(order)} turned pieces are too many for the dialect {self._dialect.name!r}, which turns them "
                    "one by one; use the dialect 'code', or a smaller grid."
                ) from None
            return changes
        return [whole]

    def _say_changes(self, order: tuple[int, ...], pairs: Sequence[Pair], lying: Sequence[int]) -> list[str]:
        swapped: list[tuple[int, int]] = []
        for pair in pairs:
            swapped.append((order[pair[0]], order[pair[1]]))
            order = swap_places(order, pair)
        said = [self._voice.turn(lying)] if lying else []
        return [*said, self._voice.swap(swapped)] if swapped else said

    def _reasons(self, start: tuple[int, ...], pairs: Sequence[Pair]) -> list[str]:
        """Say what the pieces fit to that are brought home: rather to pieces that are there already."""
        goal = self._know.goal
        brought = [goal[target] for _, target in pairs][:MAX_REASONS]
        at_home = {piece for place, piece in enumerate(start) if piece == goal[place]}
        said = [] if self._told is None else [self._told]
        claims: list[str] = []
        for piece in brought:
            joints = [joint for joint in self._shuffled(self._know.neighbours(piece)) if joint not in said]
            anchored = [joint for joint in joints if at_home & {joint.first, joint.second}]
            clear = [joint for joint in anchored if self._know.is_clear(joint)][:1]
            # A piece whose neighbours are not in place is told by two of them, if it is the only one.
            clear = clear or [joint for joint in joints if self._know.is_clear(joint)][: 2 if len(brought) == 1 else 1]
            for joint in clear or (anchored or joints)[:1]:
                said.append(joint)
                claims.append(self._voice.fits(joint, clear=self._know.is_clear(joint)))
            at_home.add(piece)
        return claims

    def _err(self, step: Step) -> None:
        """Swap two pieces of which neither comes home."""
        order = self._space.order
        pairs = [
            pair
            for pair in wrong_swaps(order, self._know.goal)
            if frozenset((order[pair[0]], order[pair[1]])) not in self._tried
        ]
        if not pairs:
            return
        pair = pairs[int(self._rng.integers(len(pairs)))]
        self._tried.add(frozenset((order[pair[0]], order[pair[1]])))
        attempt = self._voice.attempt(order[pair[0]], order[pair[1]])
        self._change(step, [*self._finding(), attempt], [Swap(*pair)])
        self._wrong, self._noticed = pair, False

    def _undo(self, step: Step) -> None:
        if self._wrong is None:
            return
        pair = self._wrong
        first, second = (self._space.order[place] for place in pair)
        self._change(step, [*self._finding(), self._voice.undo(first, second)], [Swap(*pair)])

    def _change(self, step: Step, thoughts: Sequence[str], primitives: Sequence[Primitive]) -> None:
        """Write a turn that changes the board, and may show it."""
        before = self._space.order
        shown = [Observe()] if step.shows else []
        self._turn(step.kind, thoughts, [*primitives, *shown])
        if not step.shows:
            self._board = None
        self._wrong = None
        self._moved = tuple(piece for piece, old in zip(self._space.order, before, strict=True) if piece != old)

    # --- answering

    def _answer(self) -> None:
        thoughts = self._finding()
        goal, turns = self._know.goal, self._know.turns
        if self._solved:
            thoughts.append(self._voice.all_fit())
        else:
            lying = [(piece, angle) for piece, angle in enumerate(turns) if angle != self._space.turns[piece]]
            if lying:
                thoughts.append(self._voice.turned(lying))
            joints = joints_of(goal, self._know.rows, self._know.cols)
            clear = [joint for joint in self._shuffled(joints) if self._know.is_clear(joint)] or joints
            for joint in clear[:MAX_REASONS]:
                thoughts.append(self._voice.fits(joint, clear=self._know.is_clear(joint)))
            if len(goal) <= MAX_LISTED:
                thoughts.append(self._voice.rows(self._rows()))
        thoughts.append(self._voice.answer())
        names = self._space.names
        angles = tuple(turns[piece] for piece in goal) if self._space.rotations else None
        answer = Answer(tuple(names[piece] for piece in goal), angles)
        self.turns.append(ScriptTurn(self._dialect.write([answer], self._space, self._voice.join(thoughts)), "answer"))

    def _rows(self) -> list[list[str]]:
        names, cols = self._space.names, self._know.cols
        goal = [names[piece] for piece in self._know.goal]
        return [goal[start : start + cols] for start in range(0, len(goal), cols)]

    def _shuffled(self, joints: Sequence[Joint]) -> list[Joint]:
        return [joints[index] for index in self._rng.permutation(len(joints)).tolist()]

    def _turn(
        self, kind: StepKind, thoughts: Sequence[str], primitives: Sequence[Primitive], look: Look | None = None
    ) -> None:
        """Write a turn and play it."""
        text = self._dialect.write(primitives, self._space, self._voice.join(list(dict.fromkeys(thoughts))))
        self.turns.append(ScriptTurn(text, kind))
        self._look, self._fresh = look, False
        try:
            shown = self._space.execute(primitives)
        except ActionError as error:
            error.forget()  # a slip, which was meant
            return
        if shown is not None and isinstance(primitives[-1], Observe):
            self._board, self._fresh = shown, True
            self._boards += 1
