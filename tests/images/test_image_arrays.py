"""Numpy arrays of every allowed shape and type, and those that are refused."""

import numpy as np
import pytest

from agile_gym.errors import ImageError
from agile_gym.images import decode_image


def test_uint8_rgb_is_copied():
    array = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    result = decode_image(array)
    np.testing.assert_array_equal(result, array)
    array[0, 0, 0] = 99
    assert result[0, 0, 0] == 0
    assert array.flags.writeable
    assert not result.flags.writeable


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1)])
def test_grey(shape):
    result = decode_image(np.arange(6, dtype=np.uint8).reshape(shape))
    np.testing.assert_array_equal(result, np.arange(6).reshape(2, 3, 1).repeat(3, axis=2))
    assert result.flags.c_contiguous


def test_rgba_lies_over_white():
    array = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [10, 20, 30, 51]]], dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(array), [[[10, 20, 30], [255, 255, 255], [206, 208, 210]]])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 257, 25700, 65535]], dtype=np.uint16), [0, 1, 100, 255]),
        (np.array([[0, 257, 25700, 65535]], dtype=">u2"), [0, 1, 100, 255]),
        (np.array([[False, True]]), [0, 255]),
        (np.array([[0, 0.2, 0.5, 1]], dtype=np.float64), [0, 51, 128, 255]),
        (np.array([[0, 0.2, 0.5, 1]], dtype=np.float32), [0, 51, 128, 255]),
        (np.array([[0, 0.5, 1]], dtype=np.float16), [0, 128, 255]),
        (np.array([[-1e-8, 1 + 1e-8]]), [0, 255]),
    ],
)
def test_types(array, expected):
    np.testing.assert_array_equal(decode_image(array)[0, :, 1], expected)


@pytest.mark.parametrize("kind", ["reversed", "fortran", "strided"])
def test_memory_layouts(kind):
    base = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    array = {"reversed": base[::-1, ::-1], "fortran": np.asfortranarray(base), "strided": base[::2, ::3]}[kind]
    result = decode_image(array)
    np.testing.assert_array_equal(result, array)
    assert result.flags.c_contiguous


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((2, 20, 30, 3), np.uint8), r"list\(array\)"),
        (np.zeros((20, 30, 2), np.uint8), r"\(20, 30, 2\) is not an image"),
        (np.zeros(5, np.uint8), "is not an image"),
        (np.zeros((), np.uint8), "is not an image"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4, 0), np.uint8), "no pixels"),
        (np.zeros((2, 2), np.int64), r"int64.*astype"),
        (np.zeros((2, 2), np.complex128), "complex128"),
        (np.array([["a"]]), "is not an image"),
        (np.array([[None]]), "object"),
        (np.array([[0.0, 255.0]]), "Divide it by 255"),
        (np.array([[0.0, 1.01]]), "from 0 to 1.01"),
        (np.array([[-0.5, 1.0]]), "from -0.5 to 1"),
        (np.array([[0.0, np.nan]]), "NaN"),
        (np.array([[0.0, np.inf]]), "NaN or infinite"),
    ],
)
def test_refused(array, message):
    with pytest.raises(ImageError, match=message) as caught:
        decode_image(array)
    assert "Allowed are" in str(caught.value)


def test_too_large():
    with pytest.raises(ImageError, match="30x20 are 600 pixels"):
        decode_image(np.zeros((20, 30, 3), np.uint8), max_pixels=599)
    assert decode_image(np.zeros((20, 30, 3), np.uint8), max_pixels=600).shape == (20, 30, 3)
