"""The jigsaw itself: permutations, sizes and pixels; no text, no models, no Gymnasium."""

from agile_gym.puzzle.board import (
    JigsawPuzzle,
    allowed_levels,
    count_permutations,
    parse_grid,
    parse_level,
    piece_names,
    sample_permutation,
    sample_puzzle,
)
from agile_gym.puzzle.pixels import BoardLayout, fixed_layout, scaled_layout

__all__ = [
    "BoardLayout",
    "JigsawPuzzle",
    "allowed_levels",
    "count_permutations",
    "fixed_layout",
    "parse_grid",
    "parse_level",
    "piece_names",
    "sample_permutation",
    "sample_puzzle",
    "scaled_layout",
]
