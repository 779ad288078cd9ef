"""`edge`, the baseline without learning: solves puzzles from pixels alone, by matching the pieces' borders.

`arrange` looks for the arrangement with the least sum of `edge_costs` over all joints. Up to `EXACT_PIECES` pieces the
answer is optimal (branch and bound over a dynamic programme). Larger grids are grown greedily from several pieces, then
parts that hold together are kept, moved within the frame and regrown, and last a bounded beam search looks for a
better one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.dialects import write_answer
from agile_gym.actions.primitives import Answer
from agile_gym.envs.jigsaw.episode import JigsawTask
from agile_gym.errors import ConfigurationError
from agile_gym.policies.base import Observation, jigsaw_task
from agile_gym.policies.edge_costs import edge_costs

__all__ = ["EXACT_PIECES", "EdgePolicy", "arrange", "arrangement_cost", "solve_by_edges"]

EXACT_PIECES = 10
"""Up to this many pieces `arrange` returns an arrangement of the least cost."""

_SEEDS = 8  # pieces that the greedy growth starts from
_STARTS = 3  # boards among those that are improved
_REGROWTHS = 40  # most regrowths of each
_BEAM_WIDTH = 1000

_Costs = NDArray[np.float64]
_Board = NDArray[np.intp]


def solve_by_edges(pieces: Sequence[NDArray[np.uint8]], rows: int, cols: int) -> tuple[int, ...]:
    """Put the pieces of one picture in order.

    The same pieces in the same order always give the same answer.

    Args:
        pieces: ``rows * cols`` upright pieces of one shape (h, w, 3), RGB, uint8, in any order; h and w are at least 1.
        rows: Number of rows of the grid, at least 1.
        cols: Number of columns of the grid, at least 1.

    Returns:
        The arrangement in row-major order: entry ``p`` is the index in ``pieces`` of the piece that belongs in place
        ``p``. Always a permutation of ``range(rows * cols)``.

    Raises:
        ConfigurationError: If the number of pieces is not ``rows * cols``, or the pieces are no equal RGB images.
    """
    if rows < 1 or cols < 1:
        raise ConfigurationError(f"A grid has at least 1 row and 1 column, got {rows} x {cols}.")
    if len(pieces) != rows * cols:
        raise ConfigurationError(f"A {rows} x {cols} grid takes {rows * cols} pieces, got {len(pieces)}.")
    right, below = edge_costs(pieces)
    return arrange(right, below, rows, cols)


def arrangement_cost(order: Sequence[int], right: _Costs, below: _Costs, rows: int, cols: int) -> float:
    """Sum the costs of all joints of an arrangement.

    Args:
        order: Row-major arrangement, a permutation of ``range(rows * cols)``.
        right: Costs (N, N), see `edge_costs`.
        below: Costs (N, N), see `edge_costs`.
        rows: Number of rows.
        cols: Number of columns.

    Returns:
        The sum over all pairs of horizontal and vertical neighbours.
    """
    board = np.asarray(order, dtype=np.intp).reshape(rows, cols)
    across = right[board[:, :-1], board[:, 1:]].sum()
    return float(across + below[board[:-1], board[1:]].sum())


def arrange(right: _Costs, below: _Costs, rows: int, cols: int) -> tuple[int, ...]:
    """Find the arrangement of least cost.

    Args:
        right: Cost (N, N) of ``j`` to the right of ``i``; N is ``rows * cols``; the diagonal is not read.
        below: Cost (N, N) of ``j`` under ``i``.
        rows: Number of rows.
        cols: Number of columns.

    Returns:
        The row-major arrangement, a permutation of ``range(N)``: one of the least cost up to `EXACT_PIECES` pieces,
        and a good one above.

    Raises:
        ConfigurationError: If the tables are not (N, N), or have other values than finite ones off the diagonal.
    """
    count = rows * cols
    if rows < 1 or cols < 1 or right.shape != (count, count) or below.shape != (count, count):
        raise ConfigurationError(
            f"The cost tables of a {rows} x {cols} grid have shape ({count}, {count}), "
            f"got {right.shape} and {below.shape}."
        )
    off_diagonal = ~np.eye(count, dtype=np.bool_)
    if not (np.isfinite(right[off_diagonal]).all() and np.isfinite(below[off_diagonal]).all()):
        raise ConfigurationError("The cost tables must be finite off the diagonal; they hold NaN or an infinite value.")
    if cols > rows:  # the state of the search is as wide as the grid
        return _flip(arrange(below, right, cols, rows), cols, rows)
    table = np.stack([right, below]).astype(np.float64)
    board = _grow_and_improve(table, rows, cols)
    best = _beam_search(table, board, None if count <= EXACT_PIECES else _BEAM_WIDTH)
    return tuple(int(piece) for piece in best.ravel())


def _flip(order: tuple[int, ...], rows: int, cols: int) -> tuple[int, ...]:
    """Mirror a row-major arrangement about the main diagonal."""
    return tuple(order[row * cols + col] for col in range(cols) for row in range(rows))


def _board_cost(table: _Costs, board: _Board) -> float:
    """Return the cost of a board (rows, cols) under the tables (2, N, N), right and below."""
    return arrangement_cost(board.ravel().tolist(), table[0], table[1], *board.shape)


def _grow_and_improve(table: _Costs, rows: int, cols: int) -> _Board:
    """Grow boards greedily from several pieces, then regrow the best around the parts that hold together.

    Args:
        table: Costs (2, N, N): to the right, below.
        rows: Number of rows.
        cols: Number of columns.

    Returns:
        A full board (rows, cols).
    """
    count = rows * cols
    outward = np.concatenate([table, table.transpose(0, 2, 1)])  # (4, N, N): pieces to the right, below, left, above
    for side in outward:
        np.fill_diagonal(side, np.inf)
    if count == 1:
        return np.zeros((1, 1), dtype=np.intp)
    # A piece that fits well on all sides is no border piece and has distinctive edges.
    by_fit = np.argsort(outward.min(axis=2).sum(axis=0), kind="stable")
    if count <= EXACT_PIECES:
        return _grow(outward, by_fit[:1, None], rows, cols)

    def complete(fragment: _Board) -> tuple[float, _Board]:
        board = _grow(outward, fragment, rows, cols)
        return _board_cost(table, board), board

    grown = sorted((complete(by_fit[k : k + 1, None]) for k in range(min(_SEEDS, count))), key=lambda entry: entry[0])
    tried: set[tuple[tuple[int, ...], bytes]] = set()
    finished: list[tuple[float, _Board]] = []
    for cost, board in grown[:_STARTS]:
        pending = _fragments(outward, board)
        for _ in range(_REGROWTHS):
            pending = [part for part in pending if (part.shape, part.tobytes()) not in tried]
            if not pending:
                break
            tried.add((pending[0].shape, pending[0].tobytes()))
            new_cost, new_board = complete(pending[0])
            if new_cost < cost - 1e-9:
                cost, board, pending = new_cost, new_board, _fragments(outward, new_board)
        finished.append((cost, board))
    return min(finished, key=lambda entry: entry[0])[1]


def _fragments(outward: _Costs, board: _Board) -> list[_Board]:
    """List parts of a board that hold together, the most promising first.

    Args:
        outward: Costs (4, N, N) of a neighbour to the right, below, to the left and above.
        board: A full board (rows, cols).

    Returns:
        Boards no larger than the given one, with -1 in the empty cells.
    """
    best = outward.argmin(axis=2)  # (4, N): the best neighbour on each side of each piece
    left, right, upper, lower = board[:, :-1], board[:, 1:], board[:-1], board[1:]
    # A joint holds if each of its pieces is the other's best neighbour ("best buddies") and it costs little enough.
    across = np.where((best[0][left] == right) & (best[2][right] == left), outward[0][left, right], np.inf)
    down = np.where((best[1][upper] == lower) & (best[3][lower] == upper), outward[1][upper, lower], np.inf)
    fragments: list[_Board] = []
    for limit in (np.inf, 2.0, 0.5):
        # Cells at even, joints at odd coordinates: parts that hold together are connected.
        held = np.zeros([2 * size - 1 for size in board.shape], dtype=np.uint8)
        held[::2, ::2] = 1
        held[::2, 1::2] = across < limit
        held[1::2, ::2] = down < limit
        labels = np.asarray(cv2.connectedComponents(held, connectivity=4)[1], dtype=np.intp)[::2, ::2]
        sizes = np.bincount(labels.ravel())
        for label in np.argsort(-sizes, kind="stable")[:4]:
            if 2 <= sizes[label] < board.size:
                inside = labels == label
                ys, xs = np.nonzero(inside)
                fragments.append(np.where(inside, board, -1)[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1])
    return fragments


def _grow(outward: _Costs, fragment: _Board, rows: int, cols: int) -> _Board:
    """Complete a fragment to a full board, always filling the cell whose piece is the least in doubt.

    The position of the fragment within the frame stays open until the pieces around it span the frame.

    Args:
        outward: Costs (4, N, N) of a neighbour to the right, below, to the left and above.
        fragment: Pieces placed relative to one another, at most (rows, cols), -1 in empty cells, at least one piece.
        rows: Number of rows.
        cols: Number of columns.

    Returns:
        A full board (rows, cols).
    """
    count = rows * cols
    height, width = fragment.shape
    # Room for the frame in every position around the fragment, and a margin of one cell.
    canvas: _Board = np.full((2 * rows - height + 2, 2 * cols - width + 2), -1, dtype=np.intp)
    sums = np.zeros((*canvas.shape, count))  # cost of the joints of each cell with the pieces placed around it
    doubt = np.full((*canvas.shape, count), np.inf)  # minus the logarithm of how likely a piece is in a cell
    top, left = rows - height + 1, cols - width + 1
    bottom, right = top + height - 1, left + width - 1  # inclusive

    def place(piece: int, y: int, x: int) -> None:
        canvas[y, x] = piece
        sums[:, :, piece] = np.inf
        doubt[:, :, piece] = np.inf
        doubt[y, x] = np.inf
        for side, (dy, dx) in enumerate(((0, 1), (1, 0), (0, -1), (-1, 0))):
            cell = (y + dy, x + dx)
            if canvas[cell] < 0:
                sums[cell] += outward[side, piece]
                fit = -0.5 * sums[cell]  # a joint's cost counts both of its edges
                best = fit.max()
                if best > -np.inf:  # pieces are left
                    doubt[cell] = best + np.log(np.exp(fit - best).sum()) - fit

    ys, xs = np.nonzero(fragment >= 0)
    for y, x in zip(ys.tolist(), xs.tolist(), strict=True):
        place(int(fragment[y, x]), y + top, x + left)
    for _ in range(count - len(ys)):
        first_row, first_col = bottom - rows + 1, right - cols + 1
        window = doubt[first_row : top + rows, first_col : left + cols]
        cell, piece = divmod(int(window.argmin()), count)
        y, x = divmod(cell, window.shape[1])
        y, x = y + first_row, x + first_col
        place(piece, y, x)
        top, bottom, left, right = min(top, y), max(bottom, y), min(left, x), max(right, x)
    return canvas[top : bottom + 1, left : right + 1]


def _beam_search(table: _Costs, board: _Board, width: int | None) -> _Board:
    """Look for a board of less cost by filling the frame in row-major order.

    Partial boards that cannot lead to less cost than the best board known are dropped, and of those that use the same
    pieces and agree in the last ``cols`` of them only the cheapest is kept, since all of them can be completed alike.

    Args:
        table: Costs (2, N, N): to the right, below.
        board: A full board (rows, cols), the best one known.
        width: Most partial boards kept after each step; None keeps all, which makes the answer optimal.

    Returns:
        The given board, or one of less cost.
    """
    rows, cols = board.shape
    count = rows * cols
    bound = _board_cost(table, board)
    bound -= 1e-9 * max(1.0, abs(bound))
    right, below = table[0].copy(), table[1].copy()
    np.fill_diagonal(right, np.inf)
    np.fill_diagonal(below, np.inf)
    # A piece still to be placed costs at least this at its left and at its upper joint.
    least_left = right.min(axis=0) if cols > 1 else np.zeros(count)
    least_above = below.min(axis=0) if rows > 1 else np.zeros(count)
    spared_left = np.concatenate([[0.0], np.cumsum(np.sort(least_left)[::-1])])
    spared_above = np.concatenate([[0.0], np.cumsum(np.sort(least_above)[::-1])])
    keys = np.random.default_rng(0).integers(0, 2**63, size=(1 + cols, count), dtype=np.uint64)

    orders = np.zeros((1, 0), dtype=np.intp)  # (S, k): the first k pieces of each of S partial boards
    costs = np.zeros(1)
    used = np.zeros((1, count), dtype=np.bool_)
    hashes = np.zeros(1, dtype=np.uint64)  # of the set of pieces used
    left_least = np.full(1, least_left.sum() + least_above.sum())  # over the pieces not used
    for place in range(count):
        row, col = divmod(place, cols)
        total = costs[:, None] + np.where(used, np.inf, 0.0)
        if col:
            total = total + right[orders[:, -1]]
        if row:
            total = total + below[orders[:, -cols]]
        rest = left_least[:, None] - (least_left + least_above)
        # Of the places still empty, those of the first column have no left joint and those of the first row no upper.
        slack = spared_left[rows - row - 1] + spared_above[cols - col - 1 if row == 0 else 0]
        estimate = total + rest - slack
        parent, piece = np.nonzero(estimate < bound)
        if len(parent) == 0:
            return board
        ranks = estimate[parent, piece]
        if width is not None and len(parent) > 4 * width:
            keep = np.sort(np.argpartition(ranks, 4 * width)[: 4 * width])
            parent, piece, ranks = parent[keep], piece[keep], ranks[keep]
        new_hashes = hashes[parent] + keys[0, piece]
        if place:
            states = new_hashes + keys[1, piece]
            for back in range(1, min(cols, place + 1)):
                states = states + keys[1 + back, orders[parent, place - back]]
            by_state = np.lexsort((ranks, states))
            ordered = states[by_state]
            keep = by_state[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
        else:
            keep = np.arange(len(parent))
        if width is not None and len(keep) > width:
            keep = keep[np.argsort(ranks[keep], kind="stable")[:width]]
        parent, piece = parent[keep], piece[keep]
        costs = total[parent, piece]
        orders = np.concatenate([orders[parent], piece[:, None]], axis=1)
        used = used[parent]
        used[np.arange(len(piece)), piece] = True
        hashes = new_hashes[keep]
        left_least = left_least[parent] - (least_left + least_above)[piece]
    return orders[costs.argmin()].reshape(rows, cols)


class EdgePolicy:
    """Policy that solves the puzzle with `solve_by_edges` and answers in its first turn.

    It uses nothing but a model's input: the images of the first observation. Pieces must be upright.
    """

    def reset(self, seed: int | None = None) -> None:
        """Do nothing: there is no memory, and nothing is random."""

    def act(self, observations: Sequence[Observation], infos: Sequence[dict[str, Any]]) -> list[str]:
        """Write an answer for each episode.

        Raises:
            ConfigurationError: If pieces are turned, or the first observation of an episode was not given.
        """
        return [_answer(*pair) for pair in zip(observations, infos, strict=True)]


def _answer(observation: Observation, info: dict[str, Any]) -> str:
    task = jigsaw_task(info, "EdgePolicy")
    if task.rotations:
        raise ConfigurationError(
            "EdgePolicy solves puzzles with upright pieces: make the environment without rotations."
        )
    if info["turn"] != 0:
        raise ConfigurationError("EdgePolicy needs the first observation of an episode; it was given a later one.")
    rows, cols = task.grid
    pieces = _cut_board(observation, task) if task.initial_view == "board" else list(info["images"][: rows * cols])
    order = solve_by_edges(pieces, rows, cols)
    return write_answer(Answer(tuple(task.names[piece] for piece in order)), "I compared the borders of all pieces.")


def _cut_board(observation: Observation, task: JigsawTask) -> list[NDArray[np.uint8]]:
    """Cut the image of a board into its pieces, leaving out the gaps."""
    (rows, cols), (height, width), (high, wide) = task.grid, task.board_size, task.piece_size
    step_y = high if rows == 1 else (height - high) // (rows - 1)
    step_x = wide if cols == 1 else (width - wide) // (cols - 1)
    shown = tuple(slice(int(side)) for side in observation["image_size"])
    image = task.full_board(observation["image"][shown])
    return [
        image[row * step_y : row * step_y + high, col * step_x : col * step_x + wide]
        for row in range(rows)
        for col in range(cols)
    ]
