"""Context of an episode, without a model."""

import numpy as np
import torch

from agile_gym.models import Chunk, Context
from agile_gym.models.inputs import collate_pixels, text_positions


def positions(chunk):
    """Count an image as two positions, as models do whose positions have rows and columns."""
    steps = np.where(chunk.is_image, 0, 1)
    if chunk.images:
        steps[np.flatnonzero(chunk.is_image)[-1]] = 2
    places = np.cumsum(steps) - steps
    return np.stack([places] * 3)


def chunk(*ids, images=0):
    """Return tokens; those from 100 on are placeholders of images."""
    array = np.array(ids, np.int32)
    return Chunk(array, array >= 100, {"pixel_values": images} if images else {}, images)


def cached(context, count):
    """Put the first tokens into a cache that holds their numbers."""
    context.cached = count
    context.cache = [(torch.arange(float(count))[None, :, None], torch.arange(float(count))[None, :, None])]


def test_nothing_that_was_read_last_is_in_a_segment():
    context = Context()
    context.read(chunk(1, 100, 2, images=1), positions)
    assert context.finished_segments() == ()
    context.write([5, 6], [-0.5, -0.25])
    context.read(chunk(7, 101, images=1), positions)
    (segment,) = context.finished_segments()
    assert segment.ids.tolist() == [1, 100, 2, 5, 6]
    assert segment.loss_mask.tolist() == [False, False, False, True, True]
    assert segment.logps.tolist() == [0, 0, 0, -0.5, -0.25]
    assert segment.turns.tolist() == [-1, -1, -1, 0, 0]
    assert segment.images == (0,)


def test_an_empty_turn_is_a_turn():
    context = Context()
    context.read(chunk(1, 2), positions)
    context.write([], [])
    assert context.last_token is None
    context.read(chunk(3), positions)
    context.write([9], [-1.0])
    (segment,) = context.finished_segments()
    assert segment.ids.tolist() == [1, 2, 3, 9]
    assert segment.turns.tolist() == [-1, -1, -1, 1]


def test_what_is_not_cached_is_pending_at_its_place():
    context = Context()
    context.read(chunk(1, 100, 100, 2, images=1), positions)
    ids, is_image, places, shown = context.pending()
    assert ids.tolist() == [1, 100, 100, 2]
    assert is_image.tolist() == [False, True, True, False]
    assert places.tolist() == [[0, 1, 1, 3]] * 3
    assert [piece.images for piece in shown] == [1]
    assert context.next_position() == 4
    context.write([5, 6], [0, 0])
    cached(context, 5)
    context.read(chunk(7, 101, images=1), positions)
    ids, _, places, shown = context.pending()
    assert ids.tolist() == [6, 7, 101]
    assert places.tolist() == [[5, 6, 7]] * 3
    assert [piece.ids.tolist() for piece in shown] == [[7, 101]]


def test_a_window_cuts_the_cache_at_the_image_that_is_dropped():
    context = Context(window=1)
    context.read(chunk(1, 100, images=1), positions)
    context.write([5], [-0.5])
    context.read(chunk(2, 101, 3, images=1), positions, chunk(2, 50, 51, 3))
    context.write([6, 7], [-0.25, -0.125])
    cached(context, 7)  # all but the last
    context.forget_pixels()
    context.read(chunk(4, 102, images=1), positions, chunk(4, 50, 51))
    assert context.cached == 3
    ((keys, values),) = context.cache
    assert keys[0, :, 0].tolist() == values[0, :, 0].tolist() == [0, 1, 2]
    ids, _, places, shown = context.pending()
    assert ids.tolist() == [2, 50, 51, 3, 6, 7, 4, 102]
    # The dropped image and what follows it counted two places and one; the words instead of it count one each.
    assert places[0].tolist() == [3, 4, 5, 6, 7, 8, 9, 10]
    assert [piece.ids.tolist() for piece in shown] == [[4, 102]]
    context.write([8], [-1.0])
    first, second = context.finished_segments()
    assert first.ids.tolist() == [1, 100, 5, 2, 101, 3, 6, 7]
    assert first.turns.tolist() == [-1, -1, 0, -1, -1, -1, 1, 1]
    assert first.images == (0, 1)
    assert second.ids.tolist() == [1, 100, 5, 2, 50, 51, 3, 6, 7, 4, 102, 8]
    assert second.turns.tolist() == [-1] * 11 + [2]
    assert second.logps.tolist() == [0] * 11 + [-1.0]
    assert second.images == (0, 2)


def test_text_positions():
    assert text_positions(3, rows=2).tolist() == [[0, 1, 2]] * 2


class Model:
    """The part of a model that `collate_pixels` uses."""

    device, dtype = torch.device("cpu"), torch.bfloat16

    def __init__(self, kind):
        self.config = type("Config", (), {"model_type": kind})


def test_images_of_several_chunks_are_joined_where_the_family_counts_them():
    one = {"pixel_values": torch.ones(1, 4, 3, 5, 8), "pixel_attention_mask": torch.ones(1, 4, 5, 8, dtype=torch.bool)}
    two = {
        "pixel_values": torch.ones(1, 1, 3, 7, 6) * 2,
        "pixel_attention_mask": torch.ones(1, 1, 7, 6, dtype=torch.bool),
    }
    joined = collate_pixels(Model("idefics3"), [one, two])
    assert joined["pixel_values"].shape == (1, 5, 3, 7, 8)
    assert joined["pixel_values"].dtype == torch.bfloat16
    assert joined["pixel_attention_mask"].dtype == torch.bool
    assert joined["pixel_attention_mask"].sum(dim=(2, 3)).tolist() == [[40, 40, 40, 40, 42]]
    assert (joined["pixel_values"].sum(dim=(2, 3, 4)) == torch.tensor([[120.0] * 4 + [252]])).all()
    grids = [{"pixel_values": torch.ones(rows, 9), "image_grid_thw": torch.tensor([[1, 1, rows]])} for rows in (3, 2)]
    joined = collate_pixels(Model("qwen3_vl"), grids)
    assert joined["pixel_values"].shape == (5, 9)
    assert joined["image_grid_thw"].tolist() == [[1, 1, 3], [1, 1, 2]]
    assert collate_pixels(Model("qwen3_vl"), []) == {}
