"""Writing of an expert's whole episode: for each step the action, and the thought before it.

A thought describes first the last image, then the conclusion, then the action. Every claim about pieces is true;
see `agile_gym.coldstart.looks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from agile_gym.actions.dialects import Dialect
from agile_gym.actions.primitives import ActionError, Answer, Arrange, Crop, Observe, Primitive, RotatePiece, Swap
from agile_gym.actions.tools import MAX_CALLS
from agile_gym.actions.workspace import Workspace
from agile_gym.coldstart.knowledge import Knowledge
from agile_gym.coldstart.looks import MAX_REASONS, Claims, Look, LookChooser, broken
from agile_gym.coldstart.sentences import Voice
from agile_gym.coldstart.steps import Pair, Step, StepKind, right_swap, swap_places, swaps_needed, wrong_swaps
from agile_gym.errors import ConfigurationError

__all__ = ["ScriptTurn", "write_script"]

MAX_SWAPS = 3
"""Most swaps of a turn; where more are needed, the order is written at once."""
MAX_TURNED = 4
MAX_LISTED = 16
"""Rows are listed in words up to so many pieces."""
_ARRANGE = 0.35
_WHOLE = (0.0, 0.0, 1.0, 1.0)
"""Box of a whole image."""


class ScriptTurn(NamedTuple):
    """A turn of an expert's episode.

    Attributes:
        text: Text of the turn.
        kind: Kind of its step.
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
        knowledge: Facts about the puzzle.
        workspace: The episode at its start; it is played to its end.
        dialect: Dialect of the actions.
        steps: The steps, the answer last.
        voice: Wording of the thoughts.

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
        self._claims = Claims(rng, knowledge, workspace, voice)
        self._looks = LookChooser(rng, knowledge, workspace)
        self._board: str | None = None  # the image that shows the board as it is
        self._fresh = False  # True if that image is the last one
        self._boards = 0
        self._look: Look | None = None  # the closer look whose image is the last one
        self._ready: tuple[Look, str] | None = None  # the look that a slip has spoiled, and the kind of error
        self._moved: tuple[int, ...] = ()  # pieces that the last change moved
        self._wrong: Pair | None = None  # places of the last swap, if it was wrong
        self._noticed = False
        self._tried: set[frozenset[int]] = set()  # pieces whose swap was wrong

    def write(self, step: Step, later: Sequence[Step]) -> None:
        """Write the turn of a step, unless it cannot be done."""
        match step.kind:
            case "observe":
                look = self._voice.observe(first=not self.turns, again=self._boards > 0 or bool(self._moved))
                self._turn(step.kind, [*self._finding(), look], self._shown(step))
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
        if kind == "zoom" and self._look is not None and isinstance(self._look.primitive, Crop):
            look = self._looks.enlarge(self._look)
            if look is not None:  # the crop is described once it has been enlarged
                self._turn(kind, [look.say(self._voice)], [look.primitive], look)
                return
        finding = self._finding()
        look = self._choose(kind, later)
        if look is not None:
            self._turn(kind, [*finding, look.say(self._voice)], [look.primitive], look)

    def _slip(self, later: Sequence[Step]) -> None:
        finding = self._finding()
        look = self._choose(later[0].kind, later[1:])
        if look is not None:
            primitive, problem = broken(look, self._space, self._rng)
            self._turn("slip", [*finding, look.say(self._voice)], [primitive])
            self._ready = look, problem

    def _choose(self, kind: StepKind, later: Sequence[Step]) -> Look | None:
        if self._claims.told is not None:
            self._looks.note(self._claims.told)  # another seam is looked at
        if kind == "crop":
            return self._looks.crop(self._board, closer=bool(later) and later[0].kind == "zoom")
        return self._looks.zoom_piece()

    def _finding(self) -> list[str]:
        """Describe the last image."""
        self._claims.told = None
        if self._look is not None:
            return [self._claims.of_look(self._look)]
        if not self._fresh:
            return []
        if self._wrong is not None and not self._noticed:
            self._noticed = True
            first, second = (self._space.order[place] for place in self._wrong)
            return [*self._claims.misfits(self._moved), self._voice.was_wrong(first, second)]
        return self._claims.of_board(self._moved)

    def _shown(self, step: Step) -> list[Primitive]:
        """Return the primitives that show the board, or all of it in detail where it is shown as a thumbnail."""
        if not step.closer:
            return [Observe()]
        name = self._space.fresh_key("observation_image")
        return [Observe(name), Crop(name, _WHOLE)]

    # --- moving

    def _move(self, step: Step, left: int) -> None:
        """Bring some pieces home: all that are left, if this is the last move."""
        finding = self._finding()
        start, order = self._space.order, self._space.order
        need = swaps_needed(order, self._know.goal)
        if step.single:
            count = min(need, 1)
        else:
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
        thoughts = [*finding, *self._claims.reasons(start, [self._know.goal[target] for _, target in pairs])]
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
            changes = [Swap(*(sorted(pair) if step.single else pair)) for pair in pairs]
        changes += [RotatePiece(order.index(piece), angle) for piece, angle in lying]
        self._change(step, thoughts, self._shortened(changes, order))

    def _shortened(self, changes: list[Primitive], order: tuple[int, ...]) -> list[Primitive]:
        """Return changes as one new order with all angles, if they are many and the dialect has words for that."""
        if sum(isinstance(change, RotatePiece) for change in changes) <= MAX_TURNED:
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

    def _err(self, step: Step) -> None:
        """Swap two pieces of which neither comes home."""
        order = self._space.order
        pairs = wrong_swaps(self._know.kinds_at(order), self._know.kinds_at(self._know.goal))
        if not pairs:
            return
        pairs = [pair for pair in pairs if frozenset(order[place] for place in pair) not in self._tried] or pairs
        pair = pairs[int(self._rng.integers(len(pairs)))]
        self._tried.add(frozenset(order[place] for place in pair))
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
        shown = self._shown(step) if step.shows else []
        self._turn(step.kind, thoughts, [*primitives, *shown])
        if not step.shows:
            self._board = None
        self._wrong = None
        self._moved = tuple(piece for piece, old in zip(self._space.order, before, strict=True) if piece != old)

    # --- answering

    def _answer(self) -> None:
        thoughts = self._finding()
        goal, turns = self._know.goal, self._know.turns
        if self._claims.solved:
            thoughts.append(self._voice.all_fit())
        else:
            lying = [(piece, angle) for piece, angle in enumerate(turns) if angle != self._space.turns[piece]]
            if lying:
                thoughts.append(self._voice.turned(lying))
            thoughts += self._claims.conclusions()
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
        if shown is not None and (isinstance(primitives[-1], Observe) or _shows_board(primitives)):
            self._board, self._fresh = shown, True
            self._boards += 1


def _shows_board(primitives: Sequence[Primitive]) -> bool:
    """Return whether the last of some primitives is a crop of the whole board, which the one before it shows."""
    if len(primitives) < 2 or not isinstance(primitives[-2], Observe):
        return False
    crop = primitives[-1]
    return isinstance(crop, Crop) and crop.box == _WHOLE
