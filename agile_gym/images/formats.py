"""Image formats that are read, and opening of a file without decoding its pixels."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import BinaryIO

from PIL import Image

from agile_gym.errors import ConfigurationError

__all__ = [
    "COMMON_EXTENSIONS",
    "DEFAULT_MAX_PIXELS",
    "NOT_AN_IMAGE",
    "SMALLEST",
    "TABLE_EXTENSION",
    "Size",
    "check_max_pixels",
    "describe_error",
    "header_problem",
    "open_header",
    "readable_extensions",
    "size_problem",
    "unsupported_extensions",
]

DEFAULT_MAX_PIXELS = 64_000_000
"""Most pixels (width times height) that an image may have by default."""

COMMON_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""The extensions that messages name as examples."""

Size = tuple[int, int]
"""Height and width, in pixels."""
SMALLEST: Size = (1, 1)

TABLE_EXTENSION = ".parquet"

_EXCLUDED = frozenset({
    *("EPS", "WMF"),  # drawings: read by handing the file to another program, or to the operating system
    *("BUFR", "GRIB", "HDF5", "MPEG"),  # recognised by Pillow but never decoded by it
    *("ICO", "ICNS", "CUR", "BLP", "DCX"),  # hold further images whose size is not in the header
})  # fmt: skip

_UNSUPPORTED = frozenset({
    *(".eps", ".svg", ".wmf", ".emf", ".heic", ".heif", ".jxl", ".ico", ".icns"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
})  # fmt: skip


@lru_cache(maxsize=1)
def _initialise() -> None:
    """Load all of Pillow's plugins, once."""
    Image.init()


def readable_extensions() -> frozenset[str]:
    """Return the extensions of the files that are taken from a folder, in lower case and with their dot.

    They are those of the formats that Pillow decodes itself, together with those of plugins that the program has
    registered (for HEIC files, for instance).
    """
    _initialise()
    known = {extension.lower(): name.upper() for extension, name in Image.registered_extensions().items()}
    opened = {extension for extension, name in known.items() if name in Image.OPEN and name not in _EXCLUDED}
    return frozenset(opened | {".mpo"})


def unsupported_extensions() -> frozenset[str]:
    """Return the extensions of pictures that cannot be read; such files are reported where others are passed over."""
    return _UNSUPPORTED - readable_extensions()


def open_header(stream: BinaryIO) -> Image.Image | None:
    """Read the header of an image file.

    This finds the format as `PIL.Image.open` does, with two differences: formats that need another program or hide
    further images are left out, and Pillow's process-wide limit on the size is neither applied nor changed, so the
    caller has to check ``size`` before anything reads the pixels.

    Args:
        stream: The file, opened for reading bytes and seekable; it has to stay open until the pixels are read.

    Returns:
        The image, without its pixels, or ``None`` if no format recognises the file.

    Raises:
        Exception: Whatever a format's reader raises for a broken header.
    """
    stream.seek(0)
    prefix = stream.read(16)
    tried: set[str] = set()
    for prepare in (Image.preinit, _initialise):
        prepare()
        for name in tuple(Image.ID):
            if name in tried or name in _EXCLUDED:
                continue
            tried.add(name)
            factory, accept = Image.OPEN[name]
            accepted = accept(prefix) if accept is not None else True
            if isinstance(accepted, str) or not accepted:
                continue
            stream.seek(0)
            try:
                return factory(stream, "")
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue
    return None


def header_problem(stream: BinaryIO, max_pixels: int, min_size: Size = SMALLEST) -> str | None:
    """Return the reason why a file cannot be used as an image, from its header only.

    Args:
        stream: The file, opened for reading bytes and seekable.
        max_pixels: Most pixels that an image may have.
        min_size: Height and width that it must have, in pixels. As the orientation is not always in the header,
            an image that fits when it is turned passes.

    Returns:
        The reason, or ``None`` if there is none.
    """
    try:
        image = open_header(stream)
    except Exception as error:
        return f"its header cannot be read ({describe_error(error)})"
    if image is None:
        return NOT_AN_IMAGE
    high, wide = min_size
    turned = size_problem(image.size, max_pixels, (wide, high))
    return turned and size_problem(image.size, max_pixels, min_size)


NOT_AN_IMAGE = "it is not an image in a supported format, or its header is broken"


def size_problem(size: tuple[int, int], max_pixels: int, min_size: Size = SMALLEST) -> str | None:
    """Return the reason why an image of this size cannot be used.

    Args:
        size: Width and height in pixels.
        max_pixels: Most pixels that an image may have.
        min_size: Height and width that it must have, in pixels.

    Returns:
        The reason, or ``None`` if the size is fine.
    """
    width, height = size
    if width < 1 or height < 1:
        return f"it has no pixels (width {width}, height {height})"
    if height < min_size[0] or width < min_size[1]:
        return f"it is too small: {width}x{height} pixels, {min_size[1]}x{min_size[0]} is the least"
    if width * height > max_pixels:
        return f"it is too large: {width}x{height} are {width * height:,} pixels, max_pixels is {max_pixels:,}"
    return None


def check_max_pixels(max_pixels: object) -> int:
    """Return the limit on an image's pixels if it is one.

    Args:
        max_pixels: A whole number of at least 1.

    Returns:
        The same number.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if isinstance(max_pixels, int) and not isinstance(max_pixels, bool) and max_pixels >= 1:
        return max_pixels
    raise ConfigurationError(
        f"max_pixels={max_pixels!r} is not allowed: give a whole number of at least 1, "
        f"such as the default {DEFAULT_MAX_PIXELS:,}."
    )


def describe_error(error: BaseException) -> str:
    """Return an error of another library in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return text or type(error).__name__
