"""Images in any form decoded to one form: 8-bit RGB, upright, read-only."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agile_gym.errors import ImageError
from agile_gym.images.formats import (
    COMMON_EXTENSIONS,
    DEFAULT_MAX_PIXELS,
    NOT_AN_IMAGE,
    check_max_pixels,
    describe_error,
    open_header,
    size_problem,
)
from agile_gym.images.pixels import is_deep, oriented, rgb_from_array, rgb_from_pillow

__all__ = ["Decodable", "decode_image"]

Decodable: TypeAlias = "bytes | str | os.PathLike[str] | Image.Image | NDArray[Any]"
"""An encoded image, the path of one, or an image in memory."""

_ORIENTATION_TAG = 0x0112
_WARNING_LOCK = threading.Lock()


def decode_image(
    data: Decodable, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str | None = None
) -> NDArray[np.uint8]:
    """Decode an image to 8-bit RGB.

    The size is checked before any pixel is decoded. The EXIF orientation is applied, transparency is laid over white,
    of an animation the first frame is taken (of a Pillow image: the frame that it is at), and all other modes are
    converted; colour profiles are not applied. Pillow's global settings are neither used nor changed.

    Args:
        data: Encoded bytes, the path of a file, a Pillow image, or an array: shape (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4) with values of type uint8, uint16 (of 8, 10, 12, 14 or 16 bits, by the largest), bool, or float
            (0 to 1).
        max_pixels: Most pixels (width times height) that are decoded, at least 1.
        name: What error messages call the image; made from ``data`` if left out.

    Returns:
        A new array of shape (H, W, 3), uint8, C-contiguous and read-only.

    Raises:
        ImageError: If the file cannot be read, is corrupt, truncated, too large, or in a format that is not supported;
            or if an array's shape, type or values are not allowed.
        ConfigurationError: If ``max_pixels`` is not a whole number of at least 1.
    """
    limit = check_max_pixels(max_pixels)
    label = name if name is not None else _describe(data)
    if isinstance(data, np.ndarray):
        pixels = _guarded(label, lambda: _from_array(data, limit))
    elif isinstance(data, Image.Image):
        pixels = _guarded(label, lambda: _from_pillow(data, limit))
    elif isinstance(data, (bytes, bytearray)):
        pixels = _guarded(label, lambda: _from_stream(io.BytesIO(data), limit))
    elif isinstance(data, (str, os.PathLike)):
        encoded = read_file(data, label)
        pixels = _guarded(label, lambda: _from_stream(io.BytesIO(encoded), limit))
    else:
        raise ImageError(
            f"{label} is not an image. Give the bytes or the path of an image file, a PIL image, or a numpy array; "
            "a tensor can be turned into an array with tensor.permute(1, 2, 0).numpy()."
        )
    pixels.flags.writeable = False
    return pixels


def read_file(path: str | os.PathLike[str], label: str | None = None) -> bytes:
    """Return the bytes of a file.

    Args:
        path: Where it is.
        label: What error messages call it; the path if left out.

    Returns:
        The bytes.

    Raises:
        ImageError: If there is no such file, or it cannot be read.
    """
    label = repr(os.fspath(path)) if label is None else label
    if not os.path.isfile(path):
        kind = "is a folder, not a file" if os.path.isdir(path) else "does not exist, or is not a regular file"
        raise ImageError(f"The image {label} cannot be read: it {kind}.")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"The image {label} cannot be read: {describe_error(error)}.") from error


def _guarded(label: str, decode: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Run a decoder; every failure becomes an error that names the image."""
    try:
        return decode()
    except ImageError as error:
        raise ImageError(f"The image {label} cannot be used: {_sentence(error)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"The image {label} cannot be used: Pillow itself refuses a picture of this size in this format. "
            "Save it smaller, or as PNG or JPEG."
        ) from error
    except Exception as error:
        raise ImageError(
            f"The image {label} cannot be decoded; it may be corrupt or truncated: {_sentence(error)}"
        ) from error


def _sentence(error: BaseException) -> str:
    """Return what an error says, ending in a full stop."""
    return describe_error(error).rstrip(".") + "."


def _from_stream(stream: BinaryIO, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an open image file."""
    image = open_header(stream)
    if image is None:
        raise ImageError(f"{NOT_AN_IMAGE}. Supported are {', '.join(COMMON_EXTENSIONS)} and others that Pillow reads")
    return _from_pillow(image, max_pixels)


def _from_pillow(image: Image.Image, max_pixels: int) -> NDArray[np.uint8]:
    """Load and convert a Pillow image."""
    _refuse_size(image.size, max_pixels)
    with _without_size_warnings(image.size):
        encoded = _encoded(image) if is_deep(image) else None
        image.load()
        _refuse_size(image.size, max_pixels)
        return oriented(rgb_from_pillow(image, encoded), _orientation(image))


def _encoded(image: Image.Image) -> bytes | None:
    """Return the file of an image that is not loaded yet."""
    stream: BinaryIO | None = getattr(image, "fp", None)
    if stream is None:
        return None
    position = stream.tell()
    stream.seek(0)
    encoded = stream.read()
    stream.seek(position)
    return encoded


def _from_array(array: NDArray[Any], max_pixels: int) -> NDArray[np.uint8]:
    """Check the size of an array and convert it."""
    if array.ndim >= 2:
        height, width = cast("tuple[int, int]", array.shape[:2])
        if height * width > max_pixels:
            _refuse_size((width, height), max_pixels)
    return rgb_from_array(array)


def _refuse_size(size: tuple[int, int], max_pixels: int) -> None:
    """Raise if an image of this size cannot be used."""
    problem = size_problem(size, max_pixels)
    if problem is not None:
        hint = ". Raise max_pixels or make the image smaller" if min(size) > 0 else ""
        raise ImageError(problem + hint)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image, 1 if it has none that can be read."""
    try:
        value: object = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1  # broken metadata is no reason to lose the pixels
    return value if isinstance(value, int) else 1


@contextmanager
def _without_size_warnings(size: tuple[int, int]) -> Generator[None, None, None]:
    """Keep Pillow's warning about large images quiet where the caller's own limit has allowed one.

    The filters of `warnings` belong to the whole process, so they are changed only for images that Pillow may warn
    about, by one thread at a time.
    """
    threshold = Image.MAX_IMAGE_PIXELS
    if threshold is None or size[0] * size[1] <= threshold:
        yield
        return
    with _WARNING_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _describe(data: object) -> str:
    """Return what error messages call an image without a name."""
    if isinstance(data, np.ndarray):
        array = cast("NDArray[Any]", data)
        return f"given as an array of shape {array.shape} and type {array.dtype}"
    if isinstance(data, Image.Image):
        return f"given as a PIL image of mode {data.mode!r}, {data.width}x{data.height}"
    if isinstance(data, (bytes, bytearray)):
        return f"given as {len(data):,} bytes"
    if isinstance(data, (str, os.PathLike)):
        return repr(os.fspath(cast("str | os.PathLike[str]", data)))
    return f"given as {type(data).__name__}"
