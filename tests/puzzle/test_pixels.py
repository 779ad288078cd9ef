import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agile_gym.errors import ConfigurationError
from agile_gym.puzzle import BoardLayout, JigsawPuzzle, fixed_layout, sample_puzzle, scaled_layout
from agile_gym.puzzle.pixels import (
    choose_window,
    compose_into,
    crop_box,
    cut_cells,
    cut_pieces,
    draw_labels,
    erosion_margin,
    rotate,
    rotated_size,
    scaled_layout_bound,
    zoom,
)


def random_image(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def slow_board(pieces, layout, order, turns):
    """A board drawn pixel by pixel, white first, without any of the library's geometry."""
    gap_y, gap_x = int(layout.gap * layout.piece_height), int(layout.gap * layout.piece_width)
    height = layout.rows * layout.piece_height + (layout.rows - 1) * gap_y
    width = layout.cols * layout.piece_width + (layout.cols - 1) * gap_x
    board = [[(255, 255, 255)] * width for _ in range(height)]
    for place, piece in enumerate(order):
        row, col = place // layout.cols, place % layout.cols
        high, wide = layout.piece_height, layout.piece_width
        for y in range(high):
            for x in range(wide):
                # Where the pixel comes from before a clockwise turn.
                source = {0: (y, x), 90: (high - 1 - x, y), 180: (high - 1 - y, wide - 1 - x), 270: (x, wide - 1 - y)}
                sy, sx = source[turns[piece]]
                board[row * (high + gap_y) + y][col * (wide + gap_x) + x] = tuple(pieces[piece][sy, sx])
    return np.array(board, np.uint8)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 4),
    cols=st.integers(2, 4),
    high=st.integers(4, 9),
    wide=st.integers(4, 9),
    gap=st.sampled_from([0.0, 0.02, 0.2, 0.5]),
    seed=st.integers(0, 1000),
    rotations=st.booleans(),
)
def test_boards_equal_a_board_drawn_pixel_by_pixel(rows, cols, high, wide, gap, seed, rotations):
    if rotations:
        wide = high
    layout = BoardLayout(rows, cols, high, wide, gap)
    rng = np.random.default_rng(seed)
    pieces = rng.integers(0, 256, (rows * cols, high, wide, 3), np.uint8)
    order = rng.permutation(rows * cols).tolist()
    turns = (rng.integers(4, size=rows * cols) * 90).tolist() if rotations else [0] * (rows * cols)
    expected = slow_board(pieces, layout, order, turns)
    assert expected.shape == (layout.height, layout.width, 3)
    out = np.full((layout.height + 3, layout.width + 2, 3), 7, np.uint8)
    compose_into(out, pieces, layout, order, turns)
    np.testing.assert_array_equal(out[: layout.height, : layout.width], expected)
    assert (out[layout.height :] == 7).all()
    assert (out[:, layout.width :] == 7).all()


def test_agile_gap_is_two_percent_rounded_down():
    layout = fixed_layout(2, 2, 448)
    assert (layout.piece_height, layout.piece_width) == (224, 224)
    assert (layout.height, layout.width) == (452, 452)  # int(0.02 * 224) == 4
    layout = fixed_layout(3, 3, 448)
    assert (layout.piece_height, layout.height) == (149, 3 * 149 + 2 * 2)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 5),
    cols=st.integers(2, 5),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    rotations=st.booleans(),
)
def test_the_solution_restores_the_picture_whatever_its_size(seed, rows, cols, height, width, rotations):
    photo = random_image(seed, height, width)
    layout = fixed_layout(rows, cols, (40, 50), gap=0.0, square=rotations)
    puzzle = sample_puzzle(np.random.default_rng(seed), rows, cols, rotations=rotations)
    window = (0, 0, height, width)
    cells = cut_cells(photo, window, layout)
    pieces = cut_pieces(cells, puzzle)
    solved = JigsawPuzzle(rows, cols, tuple(range(rows * cols)), (0,) * (rows * cols))
    upright = cut_pieces(cells, solved)
    picture = np.empty((layout.height, layout.width, 3), np.uint8)
    compose_into(picture, upright, layout, range(rows * cols))
    restored = np.empty_like(picture)
    compose_into(restored, pieces, layout, puzzle.solution, puzzle.turns)
    np.testing.assert_array_equal(restored, picture)


def test_pieces_of_a_photograph_of_the_right_size_are_its_cells():
    photo = random_image(1, 40, 60)
    layout = fixed_layout(2, 3, (40, 60))
    puzzle = JigsawPuzzle(2, 3, (5, 0, 1, 2, 3, 4), (0,) * 6)
    pieces = cut_pieces(cut_cells(photo, (0, 0, 40, 60), layout), puzzle)
    np.testing.assert_array_equal(pieces[0], photo[20:, 40:])
    np.testing.assert_array_equal(pieces[1], photo[:20, :20])


def test_eroded_pieces_keep_their_size_and_lose_their_borders():
    layout = fixed_layout(2, 2, 40)
    margin = erosion_margin(20, 0.1)
    assert margin == 2  # 20 pixels are left of 25 (rounded to 24) when a tenth is cut from each side
    photo = random_image(2, 48, 48)
    puzzle = JigsawPuzzle(2, 2, (0, 1, 2, 3), (0, 0, 0, 0))
    pieces = cut_pieces(cut_cells(photo, (0, 0, 48, 48), layout, erode=0.1), puzzle)
    assert pieces.shape == (4, 20, 20, 3)
    np.testing.assert_array_equal(pieces[0], photo[2:22, 2:22])
    np.testing.assert_array_equal(pieces[3], photo[26:46, 26:46])


def test_labels_are_drawn_in_the_corner_only():
    pieces = np.full((2, 100, 100, 3), 90, np.uint8)
    draw_labels(pieces)
    assert (pieces[:, :12, :8] != 90).any()
    assert (pieces[:, 50:, 50:] == 90).all()
    assert (pieces[0] != pieces[1]).any()


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    aspect=st.floats(0.2, 5),
    low=st.floats(0.01, 1),
    seed=st.integers(0, 99),
)
def test_windows_lie_inside_the_photograph_and_keep_the_aspect(height, width, aspect, low, seed):
    for scale in (None, (low, 1.0)):
        top, left, rows, cols = choose_window(np.random.default_rng(seed), (height, width), aspect, scale)
        assert top >= 0
        assert left >= 0
        assert rows >= 1
        assert cols >= 1
        assert top + rows <= height
        assert left + cols <= width
        if min(rows, cols) > 20:
            assert cols / rows == pytest.approx(aspect, rel=0.08)
        if scale is None and min(height, width) > 20:
            assert rows == height or cols == width
            assert abs((height - rows) - 2 * top) <= 1
            assert abs((width - cols) - 2 * left) <= 1


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    box=st.lists(st.floats(-2, 3), min_size=4, max_size=4),
)
def test_crop_boxes_are_truncated_and_clamped_to_the_last_pixel(height, width, box):
    expected = []
    for value, size in zip(box, (width, height, width, height), strict=True):
        pixel = int(value * size)
        expected.append(0 if pixel < 0 else size - 1 if pixel > size - 1 else pixel)
    assert list(crop_box(height, width, box)) == expected


def test_a_crop_to_the_end_leaves_out_the_last_pixel_as_in_agile():
    assert crop_box(10, 20, (0, 0, 1, 1)) == (0, 0, 19, 9)
    assert crop_box(10, 20, (0.5, 0.25, 0.99, 0.51)) == (10, 2, 19, 5)


@pytest.mark.parametrize("factor", [0.3, 0.5, 1.0, 1.5, 2.0, 3.7])
def test_zoom_is_lanczos(factor):
    import skimage.data

    photo = skimage.data.astronaut()[100:200, 100:230]
    result = zoom(photo, factor)
    size = (int(130 * factor), int(100 * factor))
    reference = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS))
    assert result.shape == reference.shape
    assert np.abs(result.astype(int) - reference).mean() < 1


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    angle=st.one_of(st.floats(-400, 400), st.integers(-8, 8).map(lambda quarter: quarter * 45)),
)
def test_rotated_sizes_are_known_beforehand(height, width, angle):
    assert rotate(np.zeros((height, width, 3), np.uint8), angle).shape[:2] == rotated_size(height, width, angle)


def test_a_quarter_turn_is_counter_clockwise_and_exact():
    image = random_image(3, 5, 8)
    np.testing.assert_array_equal(rotate(image, 90), np.rot90(image))


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(1, 10),
    cols=st.integers(2, 10),
    height=st.integers(1, 4000),
    width=st.integers(1, 4000),
    max_pixels=st.integers(4000, 600_000),
    gap=st.sampled_from([0.0, 0.02, 0.3]),
)
def test_scaled_boards_fit_their_canvas_and_keep_the_aspect(rows, cols, height, width, max_pixels, gap):
    layout = scaled_layout(rows, cols, (height, width), max_pixels, gap=gap)
    high, wide = scaled_layout_bound(rows, cols, max_pixels, gap)
    assert layout.height <= high
    assert layout.width <= wide
    assert min(layout.piece_height, layout.piece_width) >= 4
    board_high, board_wide = layout.rows * layout.piece_height, layout.cols * layout.piece_width
    if 0.5 <= height / width <= 2 and min(height, width) > 200 and max_pixels > 100_000:
        assert board_high * board_wide <= max_pixels
        assert board_wide / board_high == pytest.approx(width / height, rel=0.12)
    if height * width <= max_pixels and min(height, width) >= 100 and 0.5 <= height / width <= 2:
        assert board_high > height - rows  # a small photograph keeps its size, but for whole pieces
        assert board_wide > width - cols


@pytest.mark.parametrize("size", [0, 3, -5, 9000, (10,), (10, 10, 10), 4.5, (4.5, 9), True, "448"])
def test_bad_sizes_are_refused(size):
    with pytest.raises(ConfigurationError, match="is not a size"):
        fixed_layout(2, 2, size)


def test_boards_too_small_for_their_grid_are_refused_with_a_size_that_works():
    with pytest.raises(ConfigurationError, match=r"at least \(40, 40\)"):
        fixed_layout(10, 10, 39)
    fixed_layout(10, 10, 40)
    with pytest.raises(ConfigurationError, match="give at least 1600"):
        scaled_layout(10, 10, (100, 100), 1599)
    scaled_layout(10, 10, (100, 100), 1600)
