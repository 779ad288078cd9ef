"""`ExpertPolicy`: plays from the solution as a good learner would, with looks, thoughts, mistakes and corrections."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.dialects import Dialect, get_dialect
from agile_gym.actions.workspace import Workspace
from agile_gym.coldstart.knowledge import SOURCES, know_puzzle, zoom_factors
from agile_gym.coldstart.script import ScriptTurn, write_script
from agile_gym.coldstart.sentences import STYLES, make_voice
from agile_gym.coldstart.steps import (
    LOOKS,
    MAX_TURNS,
    Cell,
    Looks,
    check_looks,
    draw_single_steps,
    draw_steps,
    expert_cells,
    swaps_needed,
    wrong_swaps,
)
from agile_gym.envs.jigsaw.episode import JigsawTask
from agile_gym.errors import ConfigurationError, check_seed, did_you_mean, is_number
from agile_gym.policies.base import Observation, slot_of
from agile_gym.puzzle.pixels import BoardLayout
from agile_gym.transcripts.record import PolicyRecord

__all__ = ["ExpertPolicy", "cells_of", "check_turns"]

MOVES = ("several", "single")
MISTAKES = 0.3
"""Fraction of episodes with a wrong swap, by default."""
MISTAKABLE = 4
"""From so many pieces on, there is a wrong swap in every puzzle."""


class ExpertPolicy:
    """Policy of expert episodes: looks at board, seams and borders, describes them, moves, and answers rightly.

    Some moves are wrong and are noticed and mended. An episode is drawn from its seed, ``info["policy_seed"]``, if
    there is one, else from the policy's: its number of turns, its kinds of action, its mistakes and its words. Episodes
    with consecutive seeds go through all numbers of turns and kinds of closer looks in turn.

    The record of an episode holds in ``details["steps"]`` the kind of each turn (`agile_gym.coldstart.steps.StepKind`),
    so that training can leave out the turns that are wrong on purpose.
    """

    def __init__(
        self,
        *,
        turns: int | Sequence[int] = (4, 8),
        looks: Sequence[str] = LOOKS,
        style: str = "full",
        knowledge: str = "oracle",
        moves: str = "several",
        mistakes: float = MISTAKES,
        slips: float = 0.0,
        dialect: Dialect | None = None,
        seed: int | None = None,
    ) -> None:
        """Make the policy.

        Args:
            turns: Number of turns, the answer included, or the smallest and the largest, 1 to 32; the environment must
                allow as many. An episode is shorter where there is not so much to do.
            looks: Kinds of closer looks that occur, one or more of ``"board"`` (none), ``"crop"``, ``"zoom"`` and
                ``"both"``.
            style: ``"full"`` writes sentences, ``"short"`` in a few words that are tokens of the tiny model,
                ``"verdict"`` whether the board is right, and ``"none"`` none at all.
            moves: ``"several"`` moves as many pieces a turn as fits the number of turns, ``"single"`` makes one swap a
                turn with a look at the board after each, in as many turns as the puzzle needs.
            knowledge: ``"oracle"`` takes the solution from the environment, which is made with ``reveal=True``;
                ``"edges"`` finds it as `EdgePolicy` does, and is wrong at times.
            mistakes: Fraction of episodes with a wrong swap, where there can be one, 0 to 1.
            slips: Fraction of episodes that look closer and have an action that cannot be carried out, 0 to 1.
            dialect: The dialect, where it is one of the user's own; else that of the task.
            seed: Seed of episodes without one of their own.

        Raises:
            ConfigurationError: If a value is not allowed.
        """
        self.turns, self.looks = check_turns(turns), check_looks(looks)
        choices = (("style", style, STYLES), ("knowledge", knowledge, SOURCES), ("moves", moves, MOVES))
        for name, value, allowed in choices:
            if value not in allowed:
                raise ConfigurationError(f"{name}={value!r} is not allowed. {did_you_mean(value, allowed)}")
        if moves == "single" and (slips or not set(self.looks) <= {"board", "crop"}):
            raise ConfigurationError(
                f"moves='single' with looks={looks!r} and slips={slips!r} is not allowed: give looks that are 'board', "
                "'crop' or both, and no slips."
            )
        for name, value in (("mistakes", mistakes), ("slips", slips)):
            if not is_number(value, 0, 1):
                raise ConfigurationError(f"{name}={value!r} is not allowed; give a fraction from 0 to 1.")
        self._style, self._knowledge, self._moves = style, knowledge, moves
        self._mistakes, self._slips = float(mistakes), float(slips)
        self._dialect = dialect
        self.reset(seed)

    def reset(self, seed: int | None = None) -> None:
        """Drop all episodes, and seed those without a seed of their own."""
        self._seed = int(np.random.SeedSequence(check_seed(seed)).generate_state(1)[0])
        self._scripts: dict[int, list[ScriptTurn]] = {}

    def act(self, observations: Sequence[Observation], infos: Sequence[dict[str, Any]]) -> list[str]:
        """Write the next turn of each episode.

        Raises:
            ConfigurationError: If there is no solution, or the first observation of an episode was not given.
        """
        texts: list[str] = []
        for position, (observation, info) in enumerate(zip(observations, infos, strict=True)):
            slot, turn = slot_of(info, position), int(info["turn"])
            if turn == 0:
                self._scripts[slot] = self._write(observation, info)
            if slot not in self._scripts:
                raise ConfigurationError("ExpertPolicy needs the first observation of an episode; it got a later one.")
            script = self._scripts[slot]
            texts.append(script[min(turn, len(script) - 1)].text)
        return texts

    def finish(self, slot: int) -> PolicyRecord:
        """Return the record of an episode, with the kind of each turn."""
        script = self._scripts.pop(slot, [])
        return PolicyRecord(details={"steps": [turn.kind for turn in script]})

    def _write(self, observation: Observation, info: dict[str, Any]) -> list[ScriptTurn]:
        task: JigsawTask = info["task"]
        rows, cols = task.grid
        image: NDArray[np.uint8] = observation["image"]
        start = _read_board(observation, task)
        seed = info.get("policy_seed")
        own = self._seed if seed is None else int(seed)
        rng = np.random.default_rng([own, zlib.crc32(np.ascontiguousarray(start.pieces).data)])
        knowledge = know_puzzle(info, start.pieces, rows, cols, self._knowledge)
        canvas = (image.shape[0], image.shape[1])
        workspace = Workspace(start.layout, canvas, rotations=task.rotations)
        factors = zoom_factors(*task.piece_size, canvas)
        cells = cells_of(self.turns, rows * cols, factors, self._mistakes, self.looks)
        cell = cells[(int(rng.integers(len(cells))) if seed is None else int(seed)) % len(cells)]
        need = max(swaps_needed(workspace.order, knowledge.goal), 1)
        can_err = bool(wrong_swaps(knowledge.kinds_at(workspace.order), knowledge.kinds_at(knowledge.goal)))
        if self._moves == "single":
            least = need + 1 + (task.initial_view == "pieces" or cell.looks != "board")
            if least > self.turns[1]:
                raise ConfigurationError(
                    f"This puzzle needs {least} turns with moves='single'; turns={self.turns} is too few."
                )
            steps = draw_single_steps(
                rng,
                cell.looks,
                need,
                rows * cols,
                most_turns=self.turns[1],
                sees=task.initial_view != "pieces",
                can_err=can_err,
                mistakes=self._mistakes,
            )
        else:
            steps = draw_steps(rng, cell, need, can_err=can_err, mistakes=self._mistakes, slips=self._slips)
        voice = make_voice(self._style, rng, workspace.names, cols)
        dialect = self._dialect or get_dialect(task.dialect)
        return write_script(rng, knowledge, workspace, dialect, steps, voice)


class _Board(NamedTuple):
    layout: BoardLayout
    pieces: NDArray[np.uint8]


def _read_board(observation: Observation, task: JigsawTask) -> _Board:
    """Read the sizes and the pieces, (N, h, w, 3), off the first observation, which shows the board."""
    (rows, cols), (high, wide) = task.grid, task.piece_size
    height, width = task.board_size
    gaps = [0.0]
    if rows > 1:
        gaps.append((height - rows * high) // (rows - 1) / high)
    if cols > 1:
        gaps.append((width - cols * wide) // (cols - 1) / wide)
    layout = BoardLayout(rows, cols, high, wide, max(gaps) + 1e-9)
    shown = (int(side) for side in observation["image_size"])
    board = task.full_board(observation["image"][tuple(slice(side) for side in shown)])
    return _Board(layout, np.stack([board[cell] for cell in layout.cells]))


def cells_of(
    turns: tuple[int, int], pieces: int, factors: Sequence[float], mistakes: float, looks: Sequence[Looks] = LOOKS
) -> list[Cell]:
    """Return the kinds of episode that the expert goes through.

    Args:
        turns: Smallest and largest number of turns.
        pieces: Number of pieces.
        factors: Factors by which a piece can be enlarged.
        mistakes: Fraction of episodes with a wrong swap.
        looks: Kinds of closer looks that episodes contain.

    Returns:
        The kinds, at least one.
    """
    can_err = mistakes > 0 and pieces >= MISTAKABLE
    cells = expert_cells(turns, zoomable=bool(factors), most_swaps=pieces - 1, can_err=can_err, looks=looks)
    return cells or [Cell(turns[0], looks[-1])]


def check_turns(turns: int | Sequence[int]) -> tuple[int, int]:
    """Return the smallest and the largest number of turns.

    Raises:
        ConfigurationError: If they are not two whole numbers from 1 to 32, in order.
    """
    pair = (turns, turns) if isinstance(turns, int) else tuple(turns)
    if len(pair) != 2 or not all(
        isinstance(count, int) and not isinstance(count, bool) and 1 <= count <= MAX_TURNS for count in pair
    ):
        pair = (1, 0)
    low, high = pair
    if low > high:
        raise ConfigurationError(
            f"turns={turns!r} is not allowed; give a number from 1 to {MAX_TURNS}, or the smallest and the largest."
        )
    return low, high
