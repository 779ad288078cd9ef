"""The images of transcripts on disk: PNG files named by the hash of their pixels, each written once."""

from __future__ import annotations

import os
import re
import stat
import struct
from pathlib import Path

import cv2
import numpy as np

from agile_gym.errors import ConfigurationError, ImageError, TranscriptError, reason_of
from agile_gym.files import sweep
from agile_gym.images.decode import decode_image
from agile_gym.images.formats import DEFAULT_MAX_PIXELS
from agile_gym.images.items import hash_pixels
from agile_gym.transcripts.record import Image

__all__ = ["IMAGES", "ImageFolder", "check_image", "check_ref", "decode_png", "encode_png"]

IMAGES = "images"
"""Name of the folder that holds the images, next to the transcripts."""
MAX_FILE = 256 * 1024 * 1024
"""Largest size of an image file that is read, in bytes."""
_HEADER = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_NEXT = "Restore it from a copy, or read the transcripts without images (images=False)."
_NAME = re.compile(r"[0-9a-f]{64}\.png")


def check_image(image: Image) -> None:
    """Check that an image can be stored and read back.

    Raises:
        ConfigurationError: If it is not of shape (h, w, 3) and type uint8, or has no pixels or too many.
    """
    given: object = image
    if not isinstance(given, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"an array of shape {image.shape} and type {image.dtype}" if isinstance(given, np.ndarray) else given
        raise ConfigurationError(f"An image of a transcript must be of shape (h, w, 3) and type uint8; this is {what}.")
    height, width = image.shape[:2]
    if not 1 <= height * width <= DEFAULT_MAX_PIXELS:
        raise ConfigurationError(
            f"An image of a transcript has {height} x {width} pixels; 1 to {DEFAULT_MAX_PIXELS:,} can be stored."
        )


def encode_png(image: Image) -> bytes:
    """Encode an image as PNG, in OpenCV's quickest way that compresses.

    Args:
        image: (h, w, 3) uint8, RGB, in any memory layout.

    Raises:
        ConfigurationError: If it is not such an array, or cannot be encoded.
    """
    check_image(image)
    done, data = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR))
    if not done:
        raise ConfigurationError(f"OpenCV cannot encode an image of shape {image.shape} as PNG.")
    return np.asarray(data, np.uint8).tobytes()


def decode_png(data: bytes, ref: str, where: str) -> Image:
    """Decode an image and check that it is the one that is referred to.

    Args:
        data: The file's bytes.
        ref: Hash of the pixels that it must have.
        where: Name of the image in messages.

    Returns:
        (h, w, 3) uint8, RGB, C-contiguous and read-only.

    Raises:
        TranscriptError: If it is no PNG file, too large, damaged, or another image.
    """
    if not data.startswith(_HEADER) or len(data) < len(_HEADER) + 8:
        raise TranscriptError(f"{where} is not a PNG file. {_NEXT}")
    width, height = struct.unpack(">II", data[len(_HEADER) : len(_HEADER) + 8])
    if not 1 <= width * height <= DEFAULT_MAX_PIXELS:
        raise TranscriptError(f"{where} declares {width} x {height} pixels; {DEFAULT_MAX_PIXELS:,} are allowed.")
    try:
        image = decode_image(data, name=where)
    except ImageError as error:
        raise TranscriptError(f"{error} {_NEXT}") from error
    if hash_pixels(image) != ref:
        raise TranscriptError(f"{where} holds another image than its name refers to. {_NEXT}")
    return image


def check_ref(ref: str) -> str:
    """Return a reference if it is the hash of an image, so that it can name no other file.

    Raises:
        TranscriptError: If it is anything else.
    """
    if not _NAME.fullmatch(f"{ref}.png"):
        raise TranscriptError(f"{ref!r:.80} does not refer to an image: a reference is 64 hexadecimal digits.")
    return ref


class ImageFolder:
    """A folder of images, in subfolders by the first two digits of their hash.

    A file gets its name when it is complete, so that a process that is killed leaves no half image under it.
    """

    def __init__(self, folder: Path) -> None:
        """Name the folder, which is made with the first image.

        Args:
            folder: The folder that has the transcripts, and `IMAGES` in it.
        """
        self._folder = folder / IMAGES

    def path(self, ref: str) -> Path:
        """Return the path of the image of a reference."""
        return self._folder / check_ref(ref)[:2] / f"{ref}.png"

    def add(self, image: Image) -> str:
        """Write an image, unless it is there already, and return its reference.

        Raises:
            ConfigurationError: If it is not an image that can be stored.
            OSError: If it cannot be written.
        """
        check_image(image)
        ref = hash_pixels(image)
        if not self._has(ref):
            self._write(ref, encode_png(image))
        return ref

    def read(self, ref: str) -> bytes:
        """Return an image's file.

        Raises:
            TranscriptError: If it is missing or cannot be read.
        """
        path = self.path(ref)
        try:
            about = path.stat()
            if not stat.S_ISREG(about.st_mode):  # a device has no end, and a pipe is waited for without end
                raise TranscriptError(f"The image {path} is not a file. {_NEXT}")
            if about.st_size > MAX_FILE:  # read(MAX_FILE + 1) would take that much memory for any file
                raise TranscriptError(f"The image {path} has more than {MAX_FILE:,} bytes. {_NEXT}")
            return path.read_bytes()
        except FileNotFoundError:
            raise TranscriptError(
                f"The image {path} is missing. Copy the folder {IMAGES!r} along with the transcripts, or read them "
                "without images (images=False)."
            ) from None
        except OSError as error:
            raise TranscriptError(f"The image {path} cannot be read: {reason_of(error)}. {_NEXT}") from error

    def load(self, ref: str) -> Image:
        """Return an image; see `decode_png`."""
        return decode_png(self.read(ref), ref, f"The image {self.path(ref)}")

    def remove(self, ref: str) -> None:
        """Remove an image, if it is there."""
        self.path(ref).unlink(missing_ok=True)

    def refs(self) -> list[str]:
        """Return the references of all images."""
        return [path.stem for path in self._folder.glob("??/*.png") if _NAME.fullmatch(path.name)]

    def tidy(self) -> None:
        """Remove partial files that a killed process has left, and subfolders that are empty."""
        folders = list(self._folder.glob("??"))
        for folder in folders:
            sweep(folder)
        for folder in (*folders, self._folder):
            try:
                folder.rmdir()
            except OSError:
                continue  # it is not empty, or not there

    def _write(self, ref: str, data: bytes) -> None:
        path = self.path(ref)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{ref}-{os.getpid()}.new")
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _has(self, ref: str) -> bool:
        try:
            return self.path(ref).stat().st_size > 0
        except OSError:
            return False
