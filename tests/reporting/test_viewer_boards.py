"""Boards that a transcript shows."""

import dataclasses
import time

import numpy as np
import pytest

from agile_gym.reporting.record import PieceReader, Tile, answer_tiles, puzzle_of, tiles_of
from tests.helpers.viewer_samples import LOOKS, Script, play


def test_reader_knows_boards_from_other_images():
    (transcript,) = play(LOOKS, [0])
    puzzle = puzzle_of(transcript)
    reader = PieceReader(puzzle)
    board = transcript.turns[1].images[0]
    found = reader.read(board)
    assert found is not None
    assert found.tiles == (Tile(2, 0), Tile(1, 0), Tile(0, 0), Tile(3, 0))
    assert found.gap == (4, 4)
    for y, x in ((0, 0), (100, 225), (451, 451)):  # in a piece, in the gap, in the last piece
        changed = board.copy()
        changed[y, x] ^= 1
        assert reader.read(changed) is None
    assert reader.read(board[:-1]) is None
    assert reader.read(board[:200, :200]) is None
    assert reader.read(transcript.turns[2].images[0]) is None


def test_equal_pieces_are_told_apart_by_the_state():
    (transcript,) = play(Script("<think>.</think><code>swap(0, 1)\nobserve()</code>"), [0], max_turns=1, image_size=32)
    grey = tuple(np.full_like(image, 90) for image in transcript.prompt_images)
    board = np.full_like(transcript.turns[0].images[0], 90)
    same = dataclasses.replace(transcript, prompt_images=grey)
    reader = PieceReader(puzzle_of(same))
    expected = (Tile(1, 0), Tile(0, 0), Tile(2, 0), Tile(3, 0))
    assert board.shape == (32, 32, 3)  # pieces this small have no gap between them
    assert reader.read(board, expected).tiles == expected


@pytest.mark.parametrize(
    ("state", "tiles"),
    [
        (["B", "A"], ((1, 0), (0, 0))),
        ([["B", 450], ["A", 0]], ((1, 90), (0, 0))),
        (["B"], None),
        (["B", "B"], None),
        (["B", "C"], None),
        ([["B", 45], ["A", 0]], None),
        ([["B", "x"], ["A", 0]], None),
        ([["B"], "A"], None),
        ([None, {"A": 1}], None),
    ],
)
def test_states_are_read_as_tiles(state, tiles):
    assert tiles_of(state, ["A", "B"]) == tiles


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_answers_inside_the_reasoning_are_not_answers(order):
    parts = (
        '<think><answer>["A", "B", "C", "D"]</answer></think>',
        '<answer>```json\n["D", "C", "B", "A"]\n```</answer>',
    )
    (transcript,) = play(Script("".join(parts[part] for part in order)), [0], image_size=32)
    tiles = answer_tiles(transcript.turns[0], puzzle_of(transcript), rotations=False)
    assert [tile.piece for tile in tiles] == [3, 2, 1, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('<answer>["A", "B", "C", "D"]</answer> or <answer>["D", "C", "B", "A"]</answer>', [3, 2, 1, 0]),
        ("<answer>[d, c, b, a]</answer>", [3, 2, 1, 0]),
        ('<answer>["Image D", "c", "B ", "A"]</answer>', [3, 2, 1, 0]),
        ('<answer><answer>["D", "C", "B", "A"]</answer>', None),
        ('<answer>["D", "C", "B", "A"]</answer><answer>', [3, 2, 1, 0]),
        ("<answer>" * 1_000_000, None),
        ("<answer></answer>" * 500_000, None),
        ("<think>" * 1_000_000, None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_last_answer_is_found_in_linear_time(text, answer):
    (transcript,) = play(LOOKS, [0], image_size=32)
    turn = dataclasses.replace(transcript.turns[0], text=text, primitives=("Answer",))
    start = time.process_time()
    tiles = answer_tiles(turn, puzzle_of(transcript), rotations=False)
    assert time.process_time() - start < 5
    assert (tiles and [tile.piece for tile in tiles]) == answer


@pytest.mark.parametrize(
    "size", [None, 8, [], [8], [0, 0], [-8, 8], [8, True], [8.0, 8], ["8", 8], [10**400, 8], [8, 8, 8], [[8], 8]]
)
def test_pieces_of_sizes_that_cannot_be_are_not_cut(size):
    (transcript,) = play(LOOKS, [0], image_size=32, initial_view="board")
    assert len(puzzle_of(transcript).pieces) == 4
    changed = dataclasses.replace(transcript, task={**transcript.task, "piece_size": size})
    assert puzzle_of(changed).pieces == ()
