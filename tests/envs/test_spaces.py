import copy
import pickle

import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.spaces.utils import flatdim, flatten, flatten_space, unflatten
from gymnasium.vector.utils import batch_space

from agile_gym.envs.spaces import ImageBox, UnicodeText


def test_image_boxes_are_boxes_without_their_memory():
    ours, theirs = ImageBox((6, 7, 3), seed=3), Box(0, 255, (6, 7, 3), np.uint8, seed=3)
    assert isinstance(ours, Box)
    assert ours == theirs
    np.testing.assert_array_equal(ours.sample(), theirs.sample())
    batched = batch_space(ours, 4)
    assert batched == batch_space(theirs, 4)
    for space in (ours, batched, pickle.loads(pickle.dumps(batched)), copy.deepcopy(batched)):
        assert sum(bound.strides != (0,) * bound.ndim for bound in (space.low, space.high, space.bounded_below)) == 0
        assert space.sample() in space
    assert len(pickle.dumps(ImageBox((1000, 1000, 3)))) < 2000
    assert np.zeros((6, 7, 3), np.uint8) in ours
    assert np.zeros((6, 7), np.uint8) not in ours
    assert np.zeros((6, 7, 3), np.int64) not in ours
    twin = copy.deepcopy(ours)
    np.testing.assert_array_equal(ours.sample(), twin.sample())


@pytest.mark.parametrize("text", ["", "abc", "n\u00f6 \U0001f9e9 \u202e \x00", "x" * 30])
def test_any_string_survives_flattening(text):
    space = UnicodeText(30)
    assert text in space
    flat = flatten(space, text)
    assert flat in flatten_space(space)
    assert flat.shape == (flatdim(space),)
    assert unflatten(space, flat) == text
