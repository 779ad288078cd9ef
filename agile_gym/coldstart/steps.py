"""Schedule of an expert's episode: swaps that lead to the solution or away from it, and looks, turn by turn.

A board is an order: the piece at each place, row by row. The goal is the order of the solved board.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from agile_gym.errors import ConfigurationError

__all__ = [
    "LOOKS",
    "MAX_TURNS",
    "Cell",
    "Looks",
    "Pair",
    "Step",
    "StepKind",
    "check_looks",
    "draw_single_steps",
    "draw_steps",
    "expert_cells",
    "right_swap",
    "swap_places",
    "swaps_needed",
    "wrong_swaps",
]

Pair = tuple[int, int]
"""Two places."""


def swap_places(order: Sequence[int], places: Pair) -> tuple[int, ...]:
    """Return a board with the pieces at two places exchanged."""
    changed = list(order)
    first, second = places
    changed[first], changed[second] = changed[second], changed[first]
    return tuple(changed)


def swaps_needed(order: Sequence[int], goal: Sequence[int]) -> int:
    """Return the least number of swaps that lead to the goal: the number of pieces less the number of cycles."""
    home = {piece: place for place, piece in enumerate(goal)}
    seen: set[int] = set()
    cycles = 0
    for start in range(len(order)):
        cycles += start not in seen
        place = start
        while place not in seen:
            seen.add(place)
            place = home[order[place]]
    return len(order) - cycles


def right_swap(rng: np.random.Generator, order: Sequence[int], goal: Sequence[int]) -> Pair:
    """Draw a swap that brings a piece home, so that one swap less is needed.

    Args:
        rng: Source of randomness.
        order: The board, which is not solved.
        goal: The solved board.

    Returns:
        The place where the piece lies, and the one where it belongs.
    """
    wrong = [place for place, piece in enumerate(order) if piece != goal[place]]
    target = wrong[int(rng.integers(len(wrong)))]
    return order.index(goal[target]), target


def wrong_swaps(order: Sequence[int], goal: Sequence[int]) -> list[Pair]:
    """List the swaps of a plausible mistake: neither piece comes home, and the board changes.

    Args:
        order: The board; pieces that look alike may have the same number.
        goal: The solved board, with the same numbers.

    Returns:
        Pairs of places, the lower first. Where there are swaps of two misplaced pieces, only these, else those of a
        misplaced piece with one that is in its place. Empty where every swap brings a piece home.
    """
    wrong = [place for place, piece in enumerate(order) if piece != goal[place]]
    for others in (wrong, range(len(order))):
        pairs = {(min(a, b), max(a, b)) for a in wrong for b in others if a != b}
        found = sorted((a, b) for a, b in pairs if order[a] not in (order[b], goal[b]) and order[b] != goal[a])
        if found:
            return found
    return []


Looks = Literal["board", "crop", "zoom", "both"]
LOOKS: tuple[Looks, ...] = ("board", "crop", "zoom", "both")
"""Kinds of closer looks of an episode: none, crops, zooms (of pieces), or both."""
MAX_TURNS = 32
"""Most turns of an expert's episode."""

StepKind = Literal["observe", "move", "wrong", "undo", "crop", "zoom", "slip", "answer"]
MAX_CLOSE, MAX_WRONG = 4, 2
MOST_LOST = 2
"""Turns that a wrong swap costs at most: its own, and that of the swap that mends it."""


class Cell(NamedTuple):
    """The kind of an episode.

    Attributes:
        turns: Number of turns, the answer included.
        looks: Kind of its closer looks.
    """

    turns: int
    looks: Looks


class Step(NamedTuple):
    """Step of a turn.

    Attributes:
        kind: ``"move"`` leads towards the solution, ``"wrong"`` is a swap that does not, ``"undo"`` takes it back;
            ``"slip"`` is an action that cannot be carried out, and is then done right in the next turn.
        shows: True if a move also shows the board.
        single: True if a move is one swap, even if it is the last move; else the last one is all that are left.
        closer: True if a crop of the whole board is shown instead, which has the details that a thumbnail lacks.
    """

    kind: StepKind
    shows: bool = True
    single: bool = False
    closer: bool = False


class _Frame(NamedTuple):
    """Numbers of turns by purpose; ``split`` counts the moves that are looked at in a turn of their own."""

    close: int
    slip: int
    observe: int
    moves: int
    wrong: int
    undo: int
    split: int


def check_looks(looks: Sequence[str]) -> tuple[Looks, ...]:
    """Return kinds of closer looks, each once, in the order of `LOOKS`.

    Raises:
        ConfigurationError: If there is none, or one that is unknown.
    """
    given = (looks,) if isinstance(looks, str) else tuple(looks)
    if not given or not set(given) <= set(LOOKS):
        raise ConfigurationError(f"looks={looks!r} is not allowed; give one or more of {LOOKS}.")
    return tuple(way for way in LOOKS if way in given)


def expert_cells(
    turns: tuple[int, int],
    *,
    zoomable: bool = True,
    most_swaps: int | None = None,
    can_err: bool = True,
    looks: Sequence[Looks] = LOOKS,
) -> list[Cell]:
    """List the kinds of episode that there can be.

    Args:
        turns: Smallest and largest number of turns.
        zoomable: True if a piece can be enlarged on the canvas.
        most_swaps: Most swaps that a puzzle needs, which limits the moves of an expert; None sets no limit.
        can_err: True if an expert may try wrong swaps.
        looks: The allowed kinds of closer looks.

    Returns:
        The kinds; an episode of few turns has no room for every kind of look.
    """
    cells = [
        Cell(count, way)
        for way in looks
        for count in range(turns[0], turns[1] + 1)
        if count > _least_close(way) and (way != "zoom" or zoomable)
    ]
    if most_swaps is None:
        return cells
    most_wrong = MAX_WRONG if can_err else 0
    return [cell for cell in cells if any(_frames(cell.turns - 1, cell.looks, most_swaps, most_wrong, False))]


def draw_steps(
    rng: np.random.Generator, cell: Cell, need: int, *, can_err: bool, mistakes: float, slips: float
) -> list[Step]:
    """Draw the step of each turn.

    Args:
        rng: Source of randomness.
        cell: The kind of the episode.
        need: Swaps that are needed, at least 1.
        can_err: True if there is a wrong swap to be tried.
        mistakes: Probability that there is one, 0 to 1.
        slips: Probability of an action that cannot be carried out, 0 to 1.

    Returns:
        The steps, the answer last: as many as the cell requires, or fewer where there is not so much to do.
    """
    errs, slipping = rng.random() < mistakes and can_err, rng.random() < slips and cell.looks != "board"
    for total in range(cell.turns, 0, -1):
        frames = list(_frames(total - 1, cell.looks, need, MAX_WRONG if can_err and mistakes > 0 else 0, slipping))
        frames = [frame for frame in frames if frame.moves] or frames
        frames = [frame for frame in frames if (frame.wrong > 0) == errs] or frames
        frames = [frame for frame in frames if frame.slip == slipping] or frames
        if frames:
            weights = np.array([_weight(frame) for frame in frames])
            frame = frames[int(rng.choice(len(frames), p=weights / weights.sum()))]
            return [*_lay_out(rng, frame, cell.looks), Step("answer")]
    return [Step("answer")]


def draw_single_steps(
    rng: np.random.Generator,
    looks: Looks,
    need: int,
    pieces: int,
    *,
    most_turns: int,
    sees: bool,
    can_err: bool,
    mistakes: float,
) -> list[Step]:
    """Draw the step of each turn of an episode that makes one swap a turn and looks at the board after each.

    There is a wrong swap, at any time, only where all swaps that may be needed after it fit into the turns. It is not
    taken back as such: the next ones go on from the board as it is. So some episodes are solved in the last turn.

    Args:
        rng: Source of randomness.
        looks: Kind of the closer looks: none, or crops of each whole board, for boards that are shown as
            thumbnails; then the first board is looked at so, too.
        need: Swaps that are needed, at least 1.
        pieces: Number of pieces.
        most_turns: Largest number of turns.
        sees: True if the board is shown at the start, so that no look at it has to come first.
        can_err: True if there is a wrong swap to be tried.
        mistakes: Probability that there is one, 0 to 1.

    Returns:
        The steps, the answer last. More swaps than needed: those of a solved board are left out.
    """
    closer = looks != "board"
    first = [Step("observe", closer=closer)] if closer or not sees else []
    errs = rng.random() < mistakes and can_err and most_turns - need - 1 - len(first) >= MOST_LOST
    move = Step("move", single=True, closer=closer)
    wrong = [*[move] * int(rng.integers(need)), Step("wrong", closer=closer)] if errs else []
    return [*first, *wrong, *[move] * (pieces - 1), Step("answer")]


def _least_close(looks: Looks) -> int:
    return {"board": 0, "crop": 1, "zoom": 1, "both": 2}[looks]


def _frames(turns: int, looks: Looks, need: int, most_wrong: int, slipping: bool) -> Iterator[_Frame]:
    """List the ways to spend some turns."""
    most_close = 0 if looks == "board" else MAX_CLOSE
    for close in range(_least_close(looks), min(most_close, turns) + 1):
        for slip in {0, int(slipping and close > 0)}:
            for observe in (0, 1):
                rest = turns - close - slip - observe
                if rest == 0:
                    yield _Frame(close, slip, observe, 0, 0, 0, 0)
                for moves in range(1, min(need, rest) + 1):
                    for wrong in range(min(most_wrong, rest - moves) + 1):
                        # A wrong swap that is not undone can be a swap less for those that follow.
                        for undo in range(max(0, moves + wrong - need), wrong + 1):
                            split = rest - moves - wrong - undo
                            if 0 <= split <= moves + wrong + undo:
                                yield _Frame(close, slip, observe, moves, wrong, undo, split)


def _weight(frame: _Frame) -> float:
    """Prefer to look at the board first, not to split moves, to err once, and to look closer as often as to move."""
    changes = frame.moves + frame.wrong + frame.undo
    uneven = abs(frame.close - changes) if frame.close else 0
    return (
        (3.0 if frame.observe else 1.0)
        * (4.0 if frame.slip else 1.0)
        * 0.5 ** (frame.split + max(frame.wrong - 1, 0) + 0.5 * uneven)
    )


def _lay_out(rng: np.random.Generator, frame: _Frame, looks: Looks) -> list[Step]:
    """Put the turns in order."""
    blocks: list[list[Step]] = [[Step("move")] for _ in range(frame.moves)]
    undone = [True] * frame.undo + [False] * (frame.wrong - frame.undo)
    for undo in undone:
        wrong = [[Step("wrong")], [Step("undo")]] if undo else [[Step("wrong")]]
        place = int(rng.integers(frame.moves))  # a right move always follows
        before = [index for index, block in enumerate(blocks) if block[0].kind == "move"][place]
        blocks[before:before] = wrong
    splits: list[int] = rng.permutation(len(blocks))[: frame.split].tolist()
    for index in splits:
        blocks[index] = [Step(blocks[index][0].kind, False), Step("observe")]
    if frame.observe:
        blocks.insert(0, [Step("observe")])
    slip = frame.slip
    for group in _close_groups(rng, frame.close, looks):
        place = int(rng.integers(len(blocks) + 1))
        if place < len(blocks) and blocks[place][0].kind == "undo":
            place += int(rng.integers(2))
        blocks.insert(place, [Step("slip"), *group] if slip else group)
        slip = 0
    return [step for block in blocks for step in block]


def _close_groups(rng: np.random.Generator, close: int, looks: Looks) -> list[list[Step]]:
    """Divide the closer looks into groups that follow each other directly, such as a crop and its enlargement."""
    if looks != "both":
        return [[Step("crop")] if looks == "crop" else [Step("zoom")] for _ in range(close)]
    groups = [[Step("crop"), Step("zoom")]]
    left = close - 2
    while left > 0:
        if left >= 2 and rng.random() < 0.5:
            groups.append([Step("crop"), Step("zoom")])
            left -= 2
        else:
            groups.append([Step("crop" if rng.random() < 0.7 else "zoom")])
            left -= 1
    return groups
