"""Pieces that look alike: judged against the picture that the board shows, and counted by brute force."""

from collections import Counter
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agile_gym.puzzle import JigsawPuzzle, fixed_layout, sample_permutation, sample_puzzle
from agile_gym.puzzle.board import kinds_of, looks_of, sample_alike
from agile_gym.puzzle.pixels import compose_into, cut_pieces

SIDE = 4


def tile(number, symmetric=False):
    """Return a square of noise, or one that looks the same after a half turn."""
    noise = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return np.maximum(noise, noise[::-1, ::-1]) if symmetric else noise


def cells_of(faces):
    """Return the cells of (number, quarter turns) each; numbers from 100 are the same after a half turn."""
    return [np.rot90(tile(number, number >= 100), -quarter) for number, quarter in faces]


def places_right(cells, pieces, order, turns, layout):
    """Compare the board with the picture, place by place."""
    board, picture = (np.zeros((layout.height, layout.width, 3), np.uint8) for _ in range(2))
    compose_into(board, pieces, layout, order, turns)
    compose_into(picture, np.stack(cells), layout, range(len(cells)))
    return sum(np.array_equal(board[cell], picture[cell]) for cell in layout.cells)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    numbers=st.lists(st.sampled_from([0, 1, 2, 3, 4, 100, 101]), min_size=6, max_size=6),
    quarters=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    rotations=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_a_place_is_right_if_it_shows_the_right_pixels(numbers, quarters, rotations, seed):
    cells = cells_of(zip(numbers, quarters, strict=True))
    rng = np.random.default_rng(seed)
    layout = fixed_layout(2, 3, (2 * SIDE, 3 * SIDE), gap=0)
    puzzle = sample_puzzle(rng, 2, 3, rotations=rotations, looks=looks_of(cells, rotations=rotations))
    pieces = cut_pieces(cells, puzzle)
    assert puzzle.pieces_right(puzzle.solution, puzzle.turns) == 6
    for _ in range(20):
        order = rng.permutation(6).tolist()
        turns = (rng.integers(4, size=6) * 90).tolist() if rotations else [0] * 6
        for _ in range(3):  # towards the solution, so that all counts come up
            assert puzzle.pieces_right(order, turns) == places_right(cells, pieces, order, turns, layout)
            place = int(rng.integers(6))
            other = order.index(puzzle.solution[place])
            order[place], order[other] = order[other], order[place]
            turns[order[place]] = puzzle.turns[order[place]]


@pytest.mark.parametrize("rotations", [False, True])
def test_the_level_is_what_the_board_shows_at_the_start(rotations):
    for numbers in ([0, 0, 0, 1, 2, 3], [0, 0, 1, 1, 2, 2], [100, 100, 0, 1, 2, 3], [0, 0, 0, 1, 1, 2]):
        faces = [(number, place % 4 if rotations else 0) for place, number in enumerate(numbers)]
        cells = cells_of(faces)
        looks = looks_of(cells, rotations=rotations)
        for seed in range(60):
            puzzle = sample_puzzle(np.random.default_rng(seed), 2, 3, [2], rotations=rotations, looks=looks)
            shown = cut_pieces(cells, puzzle)
            right = sum(
                any(np.array_equal(np.rot90(piece, quarter), cell) for quarter in range(4 if rotations else 1))
                for piece, cell in zip(shown, cells, strict=True)
            )
            assert puzzle.level == right == 2
            assert sum(place == piece for piece, place in enumerate(puzzle.home)) == 2  # by name as well


def levels_by_brute_force(kinds):
    """Return for each level the boards that show so many right places, each as what it shows."""
    boards = {}
    for home in permutations(range(len(kinds))):
        shown = tuple(kinds[place] for place in home)
        boards.setdefault(sum(a == b for a, b in zip(shown, kinds, strict=True)), set()).add(shown)
    return boards


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_every_level_that_exists_is_drawn_exactly_and_every_board_of_it_comes_up(count):
    """For all ways in which places can look alike."""
    checked = 0
    for kinds in product(range(count), repeat=count):
        if list(dict.fromkeys(kinds)) != list(range(len(set(kinds)))) or not 1 < len(set(kinds)) < count:
            continue  # the same with other numbers, or nothing alike
        boards = levels_by_brute_force(kinds)
        possible = [level for level in boards if level < count]
        rng = np.random.default_rng(1)
        for level in range(count - 1):
            drawn = {
                tuple(kinds[place] for place in sample_alike(rng, kinds, [level]))
                for _ in range(150 if count < 5 else 60)
            }
            right = {sum(a == b for a, b in zip(board, kinds, strict=True)) for board in drawn}
            if level in possible:
                assert right == {level}
                assert drawn == boards[level] or count == 5
            else:
                nearest = min(abs(other - level) for other in possible)
                assert {abs(other - level) for other in right} == {nearest}
        several = Counter(
            sum(kinds[place] == kinds[piece] for piece, place in enumerate(sample_alike(rng, kinds, range(count - 1))))
            for _ in range(40 * len(possible))
        )
        assert set(several) == set(possible)
        for _ in range(10):
            home = sample_alike(rng, kinds, None)
            assert any(kinds[place] != kinds[piece] for piece, place in enumerate(home))
            assert all(place == piece or kinds[place] != kinds[piece] for piece, place in enumerate(home))
        checked += 1
    assert checked == {2: 0, 3: 3, 4: 13, 5: 50}[count]


@pytest.mark.slow
def test_boards_of_a_level_are_drawn_evenly():
    kinds = (0, 0, 1, 1, 2)
    boards = levels_by_brute_force(kinds)[1]
    rng = np.random.default_rng(0)
    drawn = Counter(tuple(kinds[place] for place in sample_alike(rng, kinds, [1])) for _ in range(4000))
    assert drawn.keys() == boards
    assert max(drawn.values()) < 3 * min(drawn.values())


def test_large_boards_with_few_kinds():
    for kinds in ([0] * 50 + [1] * 50, [0] * 98 + [1, 2], [*range(60), *[60] * 40]):
        for level in (0, 50, 97, 98):
            home = sample_alike(np.random.default_rng(level), kinds, [level])
            assert sorted(home) == list(range(100))
            right = sum(kinds[place] == kinds[piece] for piece, place in enumerate(home))
            assert right == level or kinds[1] == 0  # of two kinds, some levels do not exist
            assert right < 100


def test_all_alike_leaves_nothing_to_draw():
    assert sample_alike(np.random.default_rng(0), [3, 3, 3, 3], [0]) is None
    looks = looks_of([tile(1)] * 4)
    puzzle = sample_puzzle(np.random.default_rng(0), 2, 2, [0], looks=looks)
    assert (puzzle.level, puzzle.pieces_right((3, 2, 1, 0), (0,) * 4)) == (4, 4)


def test_pieces_that_all_differ_are_drawn_as_ever():
    cells = cells_of([(number, 0) for number in range(6)])
    assert looks_of(cells) is None
    assert looks_of(cells, rotations=True) is None
    symmetric = looks_of(cells_of([(100, 0), *((number, 0) for number in range(5))]), rotations=True)
    assert len(set(kinds_of(symmetric))) == 6  # nothing is alike, but one may stand on its head
    for seed in range(30):
        for levels in (None, [0], [1, 3]):
            ways = [
                sample_puzzle(np.random.default_rng(seed), 2, 3, levels, looks=looks) for looks in (None, symmetric)
            ]
            assert ways[0].home == ways[1].home == sample_permutation(np.random.default_rng(seed), 6, levels)


def test_a_piece_that_is_named_twice_counts_once():
    looks = looks_of(cells_of([(0, 0), (0, 0), (1, 0), (2, 0)]))
    puzzle = JigsawPuzzle(2, 2, (0, 1, 2, 3), (0,) * 4, looks)
    assert puzzle.pieces_right((0, 0, 2, 3), (0,) * 4) == 3
    assert puzzle.pieces_right((1, 0, 2, 3), (0,) * 4) == 4
    assert puzzle.pieces_right((1, 0, 2, -1), (0,) * 4) == 3
    assert puzzle.pieces_right((1, 0, 2, 3), (0, 90, 45, 0)) == 2


def test_a_difference_of_one_value_anywhere_tells_pieces_apart():
    plain = np.full((37, 53, 3), 200, np.uint8)
    for y, x, channel in ((0, 0, 0), (36, 52, 2), (1, 1, 1), (17, 23, 0)):
        other = plain.copy()
        other[y, x, channel] = 201
        assert looks_of([plain, other]) is None
        assert looks_of([plain, other, plain.copy()]) == ((0,), (1,), (0,))
