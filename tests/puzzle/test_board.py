import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from agile_gym.errors import ConfigurationError
from agile_gym.puzzle import (
    JigsawPuzzle,
    allowed_levels,
    count_permutations,
    parse_grid,
    parse_level,
    piece_names,
    sample_permutation,
    sample_puzzle,
)


def fixed_points(permutation):
    return sum(place == piece for piece, place in enumerate(permutation))


def test_names_continue_after_z_like_spreadsheet_columns():
    names = piece_names(100)
    assert names[:3] == ("A", "B", "C")
    assert names[25:29] == ("Z", "AA", "AB", "AC")
    assert names[51:53] == ("AZ", "BA")
    assert names[99] == "CV"
    assert len(set(names)) == 100


@pytest.mark.parametrize(
    ("given_grid", "expected"),
    [
        (2, (2, 2)),
        ((2, 3), (2, 3)),
        ([10, 10], (10, 10)),
        ("3", (3, 3)),
        ("2x5", (2, 5)),
        ("1x2", (1, 2)),
        ((2, 1), (2, 1)),
    ],
)
def test_grids_in_every_form(given_grid, expected):
    assert parse_grid(given_grid) == expected


@pytest.mark.parametrize("bad", [1, 0, -2, 11, (1, 1), (2,), (2, 3, 4), "2x", "axb", "11x2", True, 2.5, None, (2.0, 2)])
def test_bad_grids_are_refused_with_what_is_allowed(bad):
    with pytest.raises(ConfigurationError, match="1 to 10 rows"):
        parse_grid(bad)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, (0,)),
        ("L2", (2,)),
        (range(3), (0, 1, 2)),
        ([2, 0], (0, 2)),
        ("0-2", (0, 1, 2)),
        ("all", (0, 1, 2)),
        (None, None),
        (np.int64(1), (1,)),
    ],
)
def test_levels_in_every_form(level, expected):
    assert parse_level(level, 4) == expected


@pytest.mark.parametrize("bad", [3, 4, -1, "L3", "0-3", [], [0, 3], "x", True, 1.5, (0, 0.5)])
def test_impossible_levels_are_refused_with_the_allowed_ones(bad):
    with pytest.raises(ConfigurationError, match="Allowed: L0, L1, L2 "):
        parse_level(bad, 4)


@pytest.mark.parametrize("pieces", range(2, 8))
def test_level_counts_and_reachable_permutations_equal_brute_force(pieces):
    by_level = Counter(fixed_points(permutation) for permutation in itertools.permutations(range(pieces)))
    assert {level: count_permutations(pieces, level) for level in range(pieces + 1)} == {
        level: by_level[level] for level in range(pieces + 1)
    }
    unsolved = [level for level in range(pieces) if by_level[level]]
    assert list(allowed_levels(pieces)) == unsolved


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pieces", "level"), [(2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2), (5, 0), (5, 2), (6, 3), (7, 4)]
)
def test_permutations_of_a_level_are_uniform(pieces, level):
    every = [p for p in itertools.permutations(range(pieces)) if fixed_points(p) == level]
    rng = np.random.default_rng(7)
    drawn = Counter(sample_permutation(rng, pieces, (level,)) for _ in range(60 * len(every)))
    assert set(drawn) == set(every)
    if len(every) > 1:
        assert chisquare([drawn[permutation] for permutation in every]).pvalue > 0.001


def test_any_unsolved_permutation_is_uniform():
    every = [p for p in itertools.permutations(range(4)) if p != (0, 1, 2, 3)]
    rng = np.random.default_rng(11)
    drawn = Counter(sample_permutation(rng, 4) for _ in range(5000))
    assert set(drawn) == set(every)
    assert chisquare([drawn[permutation] for permutation in every]).pvalue > 0.001


def test_levels_of_a_range_are_equally_likely():
    rng = np.random.default_rng(3)
    drawn = Counter(fixed_points(sample_permutation(rng, 9, (0, 3, 7))) for _ in range(3000))
    assert set(drawn) == {0, 3, 7}
    assert chisquare(list(drawn.values())).pvalue > 0.001


@pytest.mark.slow
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 10), cols=st.integers(2, 10), data=st.data())
def test_every_puzzle_has_exactly_its_level_and_its_solution_solves_it(seed, rows, cols, data):
    level = data.draw(st.sampled_from(allowed_levels(rows * cols)))
    puzzle = sample_puzzle(np.random.default_rng(seed), rows, cols, (level,), rotations=True)
    assert puzzle.level == level == fixed_points(puzzle.home)
    assert sorted(puzzle.solution) == list(range(rows * cols))
    assert puzzle.pieces_right(puzzle.solution, puzzle.turns) == rows * cols
    again = sample_puzzle(np.random.default_rng(seed), rows, cols, (level,), rotations=True)
    assert again == puzzle


def test_pieces_right_by_hand():
    puzzle = JigsawPuzzle(2, 2, home=(1, 0, 2, 3), turns=(0, 90, 0, 0))
    assert puzzle.solution == (1, 0, 2, 3)
    assert puzzle.level == 2
    upright = (0, 0, 0, 0)
    assert puzzle.pieces_right((0, 1, 2, 3), upright) == 2
    assert puzzle.pieces_right((1, 0, 2, 3), upright) == 3  # piece 1 still lies on its side
    assert puzzle.pieces_right((1, 0, 2, 3), (0, 90, 0, 0)) == 4
    assert puzzle.pieces_right((1, 0, 2, 3), (0, -270, 360, 0)) == 4
    assert puzzle.pieces_right((1, 0, 2), upright) == 0
    assert puzzle.pieces_right((2, 2, 2, 2), upright) == 1
    assert puzzle.pieces_right((-1, 9, 2, 3), upright) == 2


@pytest.mark.parametrize("home", [(0, 1, 2), (0, 1, 2, 2), (1, 2, 3, 4)])
def test_a_puzzle_needs_a_permutation(home):
    with pytest.raises(ConfigurationError, match="give each place once"):
        JigsawPuzzle(2, 2, home, (0, 0, 0, 0))


def test_a_puzzle_needs_right_angles():
    with pytest.raises(ConfigurationError, match="0, 90, 180 or 270"):
        JigsawPuzzle(1, 2, (1, 0), (0, 45))
