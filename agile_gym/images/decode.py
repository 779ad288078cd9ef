"""Decoding of images in any form, mode and type to one form: 8-bit RGB, upright, read-only."""

from __future__ import annotations

import io
import os
import re
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

__all__ = ["Decodable", "decode_image", "is_deep", "oriented", "rgb_from_array", "rgb_from_pillow"]

_ALLOWED = (
    "Allowed are the shapes (H, W), (H, W, 1), (H, W, 3) and (H, W, 4) with values of type uint8, uint16, bool, "
    "or float between 0 and 1."
)
_TOLERANCE = 1e-6
_DEPTHS = (8, 10, 12, 14)
"""Bits that the values of 16-bit pictures may have; those with larger values have 16."""
_DARK_FLOAT = 16
_CHANNELS = (1, 3, 4)


def rgb_from_pillow(image: Image.Image, encoded: bytes | None = None) -> NDArray[np.uint8]:
    """Turn a loaded Pillow image of any mode into RGB.

    Transparent pixels are laid over white. Values of 16 bits, grey or coloured, count as 8, 10, 12, 14 or 16 bits, by
    the largest of an image: cameras and scanners store 12 bits, say, in files of 16, where they would be black.
    Integers of other ranges are stretched from their minimum and maximum to 0 and 255. Float values are multiplied by
    255 if all lie between 0 and 1, rounded if the largest lies between 16 and 255 and none is negative, and stretched
    otherwise. Colour profiles are not applied.

    Args:
        image: The image.
        encoded: The file that it comes from, if `is_deep` is true: Pillow keeps 8 bits of each colour.

    Returns:
        A new array of shape (H, W, 3), C-contiguous.

    Raises:
        ImageError: If float values are not finite.
        ValueError: If Pillow cannot convert the mode.
    """
    if image.mode == "F":
        return _grey(_from_floats(np.asarray(image, dtype=np.float32)))
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey(_from_integers(np.asarray(image)))
    if image.mode == "La":
        image = image.convert("LA")
    if encoded is not None:
        image = _brightened(image, encoded)
    if image.has_transparency_data:
        image = _over_white(image.convert("RGBA"))
    elif image.mode != "RGB":
        image = image.convert("RGB")
    return np.array(image, dtype=np.uint8, order="C")


def is_deep(image: Image.Image) -> bool:
    """Return whether an image, not loaded yet, has colours of 16 bits in its file, of which Pillow keeps 8."""
    tiles: list[Any] = list(getattr(image, "tile", ()))
    return image.mode in ("RGB", "RGBA", "LA") and any(re.search(";16|, 65535", str(tile[3])) for tile in tiles)


def rgb_from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Turn an array into RGB.

    Args:
        array: Pixels of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), the last with alpha, which is laid over white.
            Values of type uint8, uint16 (of 8, 10, 12, 14 or 16 bits, by the largest), bool, or float (0 to 1).

    Returns:
        A new array of shape (H, W, 3), C-contiguous.

    Raises:
        ImageError: If the shape, the type or a value is not allowed.
    """
    _check_shape(array.shape)
    given = np.asarray(array)
    if given.dtype == np.uint16 and given.ndim == 3 and given.shape[2] == 4:
        values = _deep_to_uint8(given)
    else:
        values = _to_uint8(given)
    if values.ndim == 2:
        return _grey(values)
    channels = values.shape[2]
    if channels == 1:
        return _grey(values[:, :, 0])
    if channels == 4:
        blended = _over_white(Image.fromarray(np.ascontiguousarray(values)))
        return np.array(blended, dtype=np.uint8, order="C")
    return np.array(values, dtype=np.uint8, order="C")


def oriented(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn and mirror stored pixels as their EXIF orientation requires.

    Args:
        pixels: Array of shape (H, W, 3) as it is stored.
        orientation: Value of the EXIF tag, 1 to 8; others count as 1.

    Returns:
        Array of shape (H, W, 3), or (W, H, 3) for orientations 5 to 8, C-contiguous.
    """
    across = pixels.swapaxes(0, 1)
    turned = {
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: across,
        6: across[:, ::-1],
        7: across[::-1, ::-1],
        8: across[::-1],
    }.get(orientation, pixels)
    return np.ascontiguousarray(turned)


def _check_shape(shape: tuple[int, ...]) -> None:
    """Refuse a shape that is not an image's."""
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in _CHANNELS):
        if 0 in shape:
            raise ImageError(f"an array of shape {shape} has no pixels. {_ALLOWED}")
        return
    hint = ""
    if len(shape) == 3 and shape[0] in _CHANNELS:
        hint = " The channels seem to come first: put them last with array.transpose(1, 2, 0)."
    elif len(shape) == 4:
        hint = " Several images go in a list: give list(array) instead."
    raise ImageError(f"an array of shape {shape} is not an image. {_ALLOWED}{hint}")


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Bring the values of an array to 0..255."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "u" and size == 1:
        return cast("NDArray[np.uint8]", array)
    if kind == "u" and size == 2:
        return _from_integers(array)
    if kind == "b":
        return np.multiply(array, 255, dtype=np.uint8)
    if kind == "f":
        return _from_unit_floats(array)
    hint = " Use array.astype(np.uint8) if its values lie between 0 and 255." if kind in "iu" else ""
    raise ImageError(f"an array of type {array.dtype} is not an image. {_ALLOWED}{hint}")


def _from_unit_floats(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Turn floats between 0 and 1 into 0..255."""
    if not bool(np.isfinite(values).all()):
        raise ImageError(f"an array of type {values.dtype} holds NaN or infinite values. {_ALLOWED}")
    low, high = float(values.min()), float(values.max())
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        hint = " Divide it by 255." if low >= 0 and high <= 255 else ""
        raise ImageError(f"an array of type {values.dtype} holds values from {low:g} to {high:g}. {_ALLOWED}{hint}")
    return _round(np.clip(values, 0, 1) * np.float32(255))


def _from_floats(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Turn the floats of an image file into 0..255."""
    if not bool(np.isfinite(values).all()):
        raise ImageError("its float values are not all finite")
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return _round(values * np.float32(255))
    if low >= 0 and _DARK_FLOAT <= high <= 255:
        return _round(values)
    return _stretch(values.astype(np.float64), low, high)


def _from_integers(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Turn integers of up to 32 bits into 0..255."""
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high <= 65535:
        white = next((2**bits - 1 for bits in _DEPTHS if high < 2**bits), 65535)
        return ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    return _stretch(values.astype(np.float64), low, high)


def _deep_to_uint8(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Turn 16-bit colours into 0..255; alpha, where there are 2 or 4 channels, may have another depth than they."""
    if values.shape[2] % 2:
        return _from_integers(values)
    return np.dstack([_from_integers(values[:, :, :-1]), _from_integers(values[:, :, -1])])


def _brightened(image: Image.Image, encoded: bytes) -> Image.Image:
    """Return an image of 16-bit colours, as Pillow has it, by its own depth if that is less than 16 bits."""
    high = np.asarray(image)
    colours = 1 if image.mode == "LA" else 3
    white = 1 << _DEPTHS[-1]
    if int(high[:, :, :colours].max()) > white >> 8:  # some formats are rounded up
        return image
    deep = _read_deep(encoded, image.mode)
    if deep is None or deep.shape != high.shape or int(np.abs((deep >> 8).astype(np.int16) - high).max()) > 1:
        deep = np.left_shift(high, 8, dtype=np.uint16)  # few levels, yet better than none
    if int(deep[:, :, :colours].max()) >= white:
        return image
    return Image.fromarray(_deep_to_uint8(deep))


def _read_deep(encoded: bytes, mode: str) -> NDArray[np.uint16] | None:
    """Read the 16-bit colours of a file; None if OpenCV cannot."""
    import cv2

    try:
        found: Any = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if found is None or found.dtype != np.uint16 or found.ndim != 3:
        return None
    if mode == "LA":
        return found[:, :, 2:] if found.shape[2] == 4 else None
    return found[:, :, [2, 1, 0, 3][: found.shape[2]]] if found.shape[2] in (3, 4) else None


def _stretch(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """Map the range from low to high onto 0..255; values that are all the same become 0."""
    return _round((values - low) * (255 / (high - low))) if high > low else np.zeros(values.shape, np.uint8)


def _round(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Round values between 0 and 255."""
    return np.floor(values + 0.5).clip(0, 255).astype(np.uint8)


def _grey(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeat one channel three times."""
    return np.repeat(values[:, :, np.newaxis], 3, axis=2)


def _over_white(image: Image.Image) -> Image.Image:
    """Lay an RGBA image over white."""
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image)
    return white


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
        name: Name of the image in error messages; made from ``data`` if left out.

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
        path: Path of the file.
        label: Name of the file in error messages; the path if left out.

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
    """Return the message of an error, ending in a full stop."""
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
    """Return a description for error messages of an image without a name."""
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
