from __future__ import annotations

import functools
import itertools

import cv2
import numpy as np
import pytest
import skimage.data

from agile_gym.errors import ConfigurationError
from agile_gym.policies import edge as edge_solver
from agile_gym.policies.edge import EXACT_PIECES, arrange, arrangement_cost, solve_by_edges
from agile_gym.policies.edge_costs import edge_costs


def random_costs(seed, count):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, count)) * 3, rng.exponential(size=(count, count))


def brute_force_costs(right, below, rows, cols):
    """The cost of every arrangement, written without any of the solver's code."""
    orders = np.array(list(itertools.permutations(range(rows * cols))))
    total = np.zeros(len(orders))
    for place in range(rows * cols):
        row, col = divmod(place, cols)
        if col + 1 < cols:
            total += right[orders[:, place], orders[:, place + 1]]
        if row + 1 < rows:
            total += below[orders[:, place], orders[:, place + cols]]
    return orders, total


@functools.cache
def photograph(name):
    image = getattr(skimage.data, name)()
    height, width = image.shape[:2]
    scale = (448 * 448 / (height * width)) ** 0.5
    return cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)


def cut(image, rows, cols):
    height, width = image.shape[0] // rows, image.shape[1] // cols
    return [image[y * height : (y + 1) * height, x * width : (x + 1) * width] for y in range(rows) for x in range(cols)]


def shuffled(pieces, seed):
    """The pieces in another order, and the arrangement that puts them right."""
    while True:
        shown = np.random.default_rng(seed).permutation(len(pieces))
        if not np.array_equal(shown, np.arange(len(pieces))):
            return [pieces[index] for index in shown], tuple(np.argsort(shown).tolist())
        seed += 1000


def is_permutation(order, count):
    return sorted(order) == list(range(count)) and all(type(entry) is int for entry in order)


@pytest.mark.parametrize(
    ("rows", "cols"), [(1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (2, 3), (3, 2), (1, 6), (6, 1)]
)
def test_small_grids_are_solved_exactly(rows, cols):
    for seed in range(25):
        right, below = random_costs(seed, rows * cols)
        orders, totals = brute_force_costs(right, below, rows, cols)
        order = arrange(right, below, rows, cols)
        assert arrangement_cost(order, right, below, rows, cols) == pytest.approx(totals.min())
        assert order == tuple(orders[totals.argmin()])


@pytest.mark.parametrize(("rows", "cols"), [(2, 4), (4, 2)])
def test_eight_pieces_are_solved_exactly(rows, cols):
    right, below = random_costs(5, 8)
    orders, totals = brute_force_costs(right, below, rows, cols)
    assert arrange(right, below, rows, cols) == tuple(orders[totals.argmin()])


def test_three_by_three_is_solved_exactly():
    right, below = random_costs(0, 9)
    orders, totals = brute_force_costs(right, below, 3, 3)
    order = arrange(right, below, 3, 3)
    assert arrangement_cost(order, right, below, 3, 3) == pytest.approx(totals.min())
    assert order == tuple(orders[totals.argmin()])


@pytest.mark.parametrize(("rows", "cols"), [(4, 4), (3, 7), (7, 3), (10, 10), (1, 12), (20, 1)])
def test_large_grids_with_clear_costs_are_solved(rows, cols):
    count = rows * cols
    assert count > EXACT_PIECES
    rng = np.random.default_rng(rows * 100 + cols)
    right, below = rng.uniform(2, 9, (count, count)), rng.uniform(2, 9, (count, count))
    truth = rng.permutation(count)
    board = truth.reshape(rows, cols)
    right[board[:, :-1], board[:, 1:]] = rng.uniform(0, 1, (rows, cols - 1))
    below[board[:-1], board[1:]] = rng.uniform(0, 1, (rows - 1, cols))
    assert arrange(right, below, rows, cols) == tuple(truth)


@pytest.mark.parametrize("seed", range(3))
def test_the_clear_part_of_a_large_grid_is_found_below_an_unclear_one(seed):
    rng = np.random.default_rng(seed)
    right, below = rng.uniform(2, 9, (64, 64)), rng.uniform(2, 9, (64, 64))
    board = rng.permutation(64).reshape(8, 8)
    clear = board[3:]  # the joints of the three rows above are as good as any others
    right[clear[:, :-1], clear[:, 1:]] = rng.uniform(0, 1, (5, 7))
    below[clear[:-1], clear[1:]] = rng.uniform(0, 1, (4, 8))
    found = np.reshape(arrange(right, below, 8, 8), (8, 8))
    row = int(np.argwhere(found == clear[0, 0])[0, 0])
    np.testing.assert_array_equal(found[row : row + 5], clear)
    assert arrangement_cost(found.ravel().tolist(), right, below, 8, 8) < arrangement_cost(
        board.ravel().tolist(), right, below, 8, 8
    )


def test_large_grids_do_better_than_chance_on_random_costs():
    right, below = random_costs(1, 25)
    cost = arrangement_cost(arrange(right, below, 5, 5), right, below, 5, 5)
    rng = np.random.default_rng(2)
    chance = min(arrangement_cost(rng.permutation(25).tolist(), right, below, 5, 5) for _ in range(2000))
    assert cost < chance


def test_the_diagonal_is_not_read():
    right, below = random_costs(3, 6)
    expected = arrange(right, below, 2, 3)
    for value in (np.inf, np.nan, -1000.0):
        np.fill_diagonal(right, value)
        np.fill_diagonal(below, value)
        assert arrange(right, below, 2, 3) == expected


def test_arrange_leaves_its_tables_alone():
    right, below = random_costs(3, 12)
    copies = right.copy(), below.copy()
    arrange(right, below, 3, 4)
    np.testing.assert_array_equal(right, copies[0])
    np.testing.assert_array_equal(below, copies[1])


def test_arrangement_cost_adds_every_joint_once():
    right = np.arange(36.0).reshape(6, 6)
    below = right * 1000
    # 5 0 2      right: 5-0 0-2 4-1 1-3      below: 5-4 0-1 2-3
    # 4 1 3
    assert arrangement_cost((5, 0, 2, 4, 1, 3), right, below, 2, 3) == (30 + 2 + 25 + 9) + 1000 * (34 + 1 + 15)


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
@pytest.mark.parametrize(("rows", "cols"), [(2, 2), (3, 3), (4, 4), (2, 5), (1, 3), (3, 1)])
def test_photographs_are_solved(name, rows, cols):
    pieces = cut(photograph(name), rows, cols)
    for seed in range(4):
        shown, truth = shuffled(pieces, seed)
        assert solve_by_edges(shown, rows, cols) == truth


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_photographs_are_solved_at_ten_by_ten(name):
    shown, truth = shuffled(cut(photograph(name), 10, 10), 0)
    assert solve_by_edges(shown, 10, 10) == truth


@pytest.mark.parametrize(("name", "size"), [("coffee", 10), ("chelsea", 8)])
def test_the_growth_alone_solves_photographs(monkeypatch, name, size):
    monkeypatch.setattr(edge_solver, "_BEAM_WIDTH", 1)  # the beam search then hardly ever finds anything better
    shown, truth = shuffled(cut(photograph(name), size, size), 1)
    assert solve_by_edges(shown, size, size) == truth


def test_regrowth_mends_what_a_single_growth_gets_wrong(monkeypatch):
    monkeypatch.setattr(edge_solver, "_BEAM_WIDTH", 1)
    tables = [random_costs(seed, 36) for seed in range(4)]
    regrown = [arrangement_cost(arrange(*table, 6, 6), *table, 6, 6) for table in tables]
    monkeypatch.setattr(edge_solver, "_REGROWTHS", 0)
    grown = [arrangement_cost(arrange(*table, 6, 6), *table, 6, 6) for table in tables]
    assert np.all(np.array(regrown) <= grown)
    assert min(np.array(regrown) - grown) < -1


def test_edge_costs_rank_the_true_neighbours_first():
    right, below = edge_costs(cut(photograph("chelsea"), 3, 4))
    assert right.shape == below.shape == (12, 12)
    assert right.dtype == below.dtype == np.float64
    for table in (right, below):
        assert np.isposinf(np.diagonal(table)).all()
        off_diagonal = table[~np.eye(12, dtype=bool)]
        assert np.isfinite(off_diagonal).all()
        assert (off_diagonal >= 0).all()
    grid = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(right[grid[:, :-1]].argmin(axis=-1), grid[:, 1:])
    np.testing.assert_array_equal(below[grid[:-1]].argmin(axis=-1), grid[1:])


def test_edge_costs_of_the_transposed_pieces_are_swapped():
    pieces = cut(photograph("coffee"), 2, 3)
    right, below = edge_costs(pieces)
    right_transposed, below_transposed = edge_costs([piece.transpose(1, 0, 2) for piece in pieces])
    np.testing.assert_allclose(right_transposed, below, rtol=1e-5)
    np.testing.assert_allclose(below_transposed, right, rtol=1e-5)


def test_edge_costs_follow_the_order_of_the_pieces():
    pieces = cut(photograph("coffee"), 2, 3)
    right, below = edge_costs(pieces)
    new = np.array([4, 1, 0, 5, 3, 2])
    right_new, below_new = edge_costs([pieces[index] for index in new])
    np.testing.assert_allclose(right_new, right[np.ix_(new, new)], rtol=1e-5)
    np.testing.assert_allclose(below_new, below[np.ix_(new, new)], rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_gradient_is_continued_rather_than_an_edge_copied(axis):
    def ramp(start):
        grey = start + 4 * np.indices((8, 8))[axis]
        return grey[:, :, None].repeat(3, axis=2).astype(np.uint8)

    # The first piece ends at 28: the next pixel of the ramp is 32, whereas 28 is the closest colour.
    costs = edge_costs([ramp(0), ramp(32), ramp(28)])[1 - axis]
    assert costs[0, 1] < costs[0, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (1, 10), (10, 1), (4, 5), (10, 10)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (5, 9)])
def test_the_answer_is_a_permutation(rows, cols, shape):
    count = rows * cols
    rng = np.random.default_rng(count)
    noise = rng.integers(0, 256, (count, *shape, 3), dtype=np.uint8)
    flat = np.broadcast_to(rng.integers(0, 256, (count, 1, 1, 3), dtype=np.uint8), noise.shape)
    identical = np.broadcast_to(noise[:1], noise.shape)
    black = np.zeros_like(noise)
    for pieces in (noise, flat, identical, black):
        assert is_permutation(solve_by_edges(list(pieces), rows, cols), count)


def test_the_answer_is_repeatable():
    rng = np.random.default_rng(7)
    pieces = list(rng.integers(0, 256, (36, 6, 8, 3), dtype=np.uint8))
    before = np.stack(pieces)
    first = solve_by_edges(pieces, 6, 6)
    np.random.default_rng(8).random(3)
    assert solve_by_edges([piece.copy() for piece in pieces], 6, 6) == first
    np.testing.assert_array_equal(np.stack(pieces), before)


@pytest.mark.parametrize(("rows", "cols", "given"), [(2, 2, 3), (2, 2, 5), (1, 2, 0), (3, 3, 8)])
def test_a_wrong_number_of_pieces_is_refused(rows, cols, given):
    pieces = [np.zeros((4, 4, 3), np.uint8)] * given
    with pytest.raises(ConfigurationError, match=rf"{rows} x {cols} grid takes {rows * cols} pieces, got {given}"):
        solve_by_edges(pieces, rows, cols)


@pytest.mark.parametrize(("rows", "cols"), [(0, 2), (2, 0), (-2, -2)])
def test_an_empty_grid_is_refused(rows, cols):
    with pytest.raises(ValueError, match="at least 1 row"):
        solve_by_edges([np.zeros((4, 4, 3), np.uint8)] * 4, rows, cols)


def test_unequal_pieces_are_refused():
    pieces = [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)]
    with pytest.raises(ConfigurationError, match=r"piece 1 has \(4, 5, 3\)"):
        solve_by_edges(pieces, 1, 2)


@pytest.mark.parametrize(
    "piece",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))],
)
def test_pieces_that_are_no_rgb_images_are_refused(piece):
    with pytest.raises(ConfigurationError, match="RGB image of shape"):
        solve_by_edges([piece, piece], 1, 2)


def test_no_pieces_have_no_edge_costs():
    with pytest.raises(ConfigurationError, match="At least 1 piece"):
        edge_costs([])


def test_bad_cost_tables_are_refused():
    right, below = random_costs(0, 4)
    with pytest.raises(ConfigurationError, match=r"shape \(6, 6\)"):
        arrange(right, below, 2, 3)
    with pytest.raises(ConfigurationError, match="grid"):
        arrange(right, below, -2, -2)
    for value in (np.nan, np.inf):
        below[0, 1] = value
        with pytest.raises(ConfigurationError, match="finite"):
            arrange(right, below, 2, 2)
