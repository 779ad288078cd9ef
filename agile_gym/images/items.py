"""One image of a collection: its name, the hash of its content, and the way to its pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agile_gym.errors import ImageError
from agile_gym.images.cache import shared_cache
from agile_gym.images.decode import decode_image, read_file

__all__ = ["ArrayItem", "BytesItem", "FileItem", "Item", "SkippedImage", "hash_bytes", "hash_pixels"]


class SkippedImage(NamedTuple):
    """An image that was found but is not used.

    Attributes:
        name: What it is called, such as its path within the folder.
        reason: Why it is not used, as part of a sentence.
    """

    name: str
    reason: str


class Item(Protocol):
    """One image of a collection."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def content_hash(self) -> str:
        """SHA-256 of its content, 64 hexadecimal digits."""
        ...

    def load(self, max_pixels: int) -> NDArray[np.uint8]:
        """Return its pixels, shape (H, W, 3), C-contiguous and read-only."""
        ...


def hash_bytes(data: bytes) -> str:
    """Return the SHA-256 of an encoded image, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def hash_pixels(pixels: NDArray[np.uint8]) -> str:
    """Return a hash of a decoded image.

    Args:
        pixels: Array of shape (H, W, 3).

    Returns:
        SHA-256 of ``"HxW:RGB:"`` with the sizes in decimal digits, followed by the pixels row by row; 64 hexadecimal
        digits.
    """
    digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}:RGB:".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def decode_checked(data: bytes, content_hash: str, name: str, max_pixels: int) -> NDArray[np.uint8]:
    """Decode the bytes of an image that was hashed before.

    Args:
        data: The encoded image.
        content_hash: SHA-256 that the bytes had.
        name: What error messages call the image.
        max_pixels: Most pixels to decode.

    Returns:
        Array of shape (H, W, 3), read-only.

    Raises:
        ImageError: If the bytes have changed since, or cannot be decoded.
    """
    if hash_bytes(data) != content_hash:
        raise ImageError(
            f"The image {name} has changed since it was listed, so it may belong to another split now. "
            "Open the images again."
        )
    return decode_image(data, max_pixels=max_pixels, name=name)


@dataclass(frozen=True, slots=True)
class FileItem:
    """An image in a file.

    Attributes:
        name: What people call it.
        content_hash: SHA-256 of the file's bytes.
        path: Absolute path of the file.
    """

    name: str
    content_hash: str
    path: str

    def load(self, max_pixels: int) -> NDArray[np.uint8]:
        """Return the pixels, from the cache or decoded; see `Item.load`."""

        def decode() -> NDArray[np.uint8]:
            label = repr(self.path)
            return decode_checked(read_file(self.path, label), self.content_hash, label, max_pixels)

        return shared_cache().get(self.content_hash, decode)


@dataclass(frozen=True, slots=True)
class BytesItem:
    """An encoded image in memory.

    Attributes:
        name: What people call it.
        content_hash: SHA-256 of the bytes.
        data: The bytes.
    """

    name: str
    content_hash: str
    data: bytes

    def load(self, max_pixels: int) -> NDArray[np.uint8]:
        """Return the pixels, from the cache or decoded; see `Item.load`."""
        return shared_cache().get(
            self.content_hash, lambda: decode_image(self.data, max_pixels=max_pixels, name=repr(self.name))
        )


@dataclass(frozen=True, slots=True, eq=False)
class ArrayItem:
    """A decoded image in memory.

    Attributes:
        name: What people call it.
        content_hash: Hash of the pixels, see `hash_pixels`.
        pixels: Array of shape (H, W, 3).
    """

    name: str
    content_hash: str
    pixels: NDArray[np.uint8]

    @classmethod
    def of(cls, image: NDArray[Any] | Image.Image, name: str, max_pixels: int) -> ArrayItem:
        """Convert an image in memory; later changes to ``image`` do not reach the item.

        Raises:
            ImageError: If it is not an image that is allowed.
        """
        pixels = decode_image(image, max_pixels=max_pixels, name=repr(name))
        return cls(name, hash_pixels(pixels), pixels)

    def load(self, max_pixels: int) -> NDArray[np.uint8]:
        """Return the pixels without a copy; see `Item.load`."""
        view = self.pixels.view()
        view.flags.writeable = False  # pickling and copying lose the flag of the array itself
        return view
