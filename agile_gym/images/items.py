"""One image of a collection, and the cache of decoded images that all environments of a process share."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agile_gym.errors import ConfigurationError, ImageError
from agile_gym.images.decode import decode_image, read_file

__all__ = [
    "DEFAULT_CACHE_LIMIT",
    "ArrayItem",
    "BytesItem",
    "CacheInfo",
    "FileItem",
    "ImageCache",
    "Item",
    "SkippedImage",
    "cache_info",
    "clear_cache",
    "hash_bytes",
    "hash_pixels",
    "set_cache_limit",
    "shared_cache",
]

DEFAULT_CACHE_LIMIT = 256 * 1024 * 1024
"""Bytes of decoded pixels that are kept by default; see `set_cache_limit`."""


class CacheInfo(NamedTuple):
    """State of the cache.

    Attributes:
        hits: Loads answered from the cache so far.
        misses: Loads that had to decode so far.
        images: Images held now.
        bytes: Bytes of pixels held now.
        limit: Most bytes of pixels that may be held.
    """

    hits: int
    misses: int
    images: int
    bytes: int
    limit: int


class ImageCache:
    """Decoded images by content hash; those used longest ago leave first once a number of bytes is passed.

    All methods may be called from several threads. Decoding happens outside the lock, so threads that load different
    images do not wait for each other; two that load the same absent image may both decode it, and then share one.
    """

    def __init__(self, limit: int = DEFAULT_CACHE_LIMIT) -> None:
        """Create an empty cache.

        Args:
            limit: Most bytes of pixels to hold, 0 or more; 0 keeps nothing.

        Raises:
            ConfigurationError: If the limit is not a whole number of 0 or more.
        """
        self._limit = _check_limit(limit)
        self._images: OrderedDict[str, NDArray[np.uint8]] = OrderedDict()
        self._bytes = 0
        self._hits = 0
        self._misses = 0
        self._lock = threading.Lock()

    def get(self, key: str, decode: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return the image with this key, decoding it if it is not held.

        Args:
            key: Content hash of the image.
            decode: Returns the image, an array of shape (H, W, 3); its errors pass through and nothing is stored.

        Returns:
            The image, read-only: the same array for all callers.
        """
        with self._lock:
            held = self._images.get(key)
            if held is not None:
                self._images.move_to_end(key)
                self._hits += 1
                return held
            self._misses += 1
        image = decode()
        image.flags.writeable = False
        with self._lock:
            held = self._images.get(key)
            if held is not None:
                self._images.move_to_end(key)
                return held
            if image.nbytes <= self._limit:
                self._images[key] = image
                self._bytes += image.nbytes
                self._evict()
        return image

    def set_limit(self, limit: int) -> None:
        """Change the limit; images beyond the new one leave at once.

        Args:
            limit: Most bytes of pixels to hold, 0 or more; 0 empties the cache and keeps nothing.

        Raises:
            ConfigurationError: If the limit is not a whole number of 0 or more.
        """
        limit = _check_limit(limit)
        with self._lock:
            self._limit = limit
            self._evict()

    def info(self) -> CacheInfo:
        """Return the state of the cache."""
        with self._lock:
            return CacheInfo(self._hits, self._misses, len(self._images), self._bytes, self._limit)

    def clear(self) -> None:
        """Remove all images and set the counts of hits and misses to 0; the limit stays."""
        with self._lock:
            self._images.clear()
            self._bytes = self._hits = self._misses = 0

    def renew_lock(self) -> None:
        """Take a new lock, for a forked process whose parent may have held the old one."""
        self._lock = threading.Lock()

    def _evict(self) -> None:
        """Drop the images used longest ago until the limit holds; the lock is held."""
        while self._bytes > self._limit:
            _, image = self._images.popitem(last=False)
            self._bytes -= image.nbytes


def _check_limit(limit: object) -> int:
    """Return the limit if it is one."""
    if isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0:
        return limit
    raise ConfigurationError(
        f"The cache limit {limit!r} is not allowed: give a whole number of bytes, 0 or more (0 turns the cache off)."
    )


_SHARED = ImageCache()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_SHARED.renew_lock)


def shared_cache() -> ImageCache:
    """Return the one cache of this process."""
    return _SHARED


def set_cache_limit(limit: int) -> None:
    """Change how many bytes of decoded images this process keeps.

    Args:
        limit: Bytes, 0 or more; 0 turns the cache off. An image larger than the limit is never kept.

    Raises:
        ConfigurationError: If the limit is not a whole number of 0 or more.
    """
    _SHARED.set_limit(limit)


def cache_info() -> CacheInfo:
    """Return the hits, misses, images, bytes and limit of this process's cache."""
    return _SHARED.info()


def clear_cache() -> None:
    """Remove all decoded images of this process and set its counts to 0; the limit stays."""
    _SHARED.clear()


class SkippedImage(NamedTuple):
    """An image that was found but is not used.

    Attributes:
        name: Name in messages, such as its path within the folder.
        reason: Reason for not using it, as part of a sentence.
    """

    name: str
    reason: str


class Item(Protocol):
    """One image of a collection."""

    @property
    def name(self) -> str:
        """Name of the image in messages."""
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
        name: Name of the image in error messages.
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
        name: Name of the image in messages.
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
        name: Name of the image in messages.
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
        name: Name of the image in messages.
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
