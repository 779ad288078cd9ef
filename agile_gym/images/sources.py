"""Collections of images that can be listed, hashed, loaded by index and split by content."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import ConfigurationError, ImageError, did_you_mean
from agile_gym.images.items import Item, SkippedImage

__all__ = [
    "ImageCollection",
    "ImageSource",
    "ImageSubset",
    "Split",
    "alike_images",
    "check_fraction",
    "check_split",
    "fingerprint",
    "first_of_each",
    "is_copy",
    "select_split",
    "split_of",
    "take_split",
]

Split: TypeAlias = Literal["train", "test"]

_SPLITS: tuple[Split, Split] = ("train", "test")
_DIGITS = 8


def check_split(split: object) -> Split | None:
    """Return the split if it is known.

    Args:
        split: ``"train"``, ``"test"``, or ``None`` for all images.

    Returns:
        The same value.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if split is None or (isinstance(split, str) and split in _SPLITS):
        return split
    hint = did_you_mean(split, _SPLITS) if isinstance(split, str) else "Allowed: 'train', 'test'."
    raise ConfigurationError(f"split={split!r} is not a split of the images. {hint} Leave it out for all images.")


def check_fraction(test_fraction: object) -> float:
    """Return the share of test images if it is one.

    Args:
        test_fraction: A number in the open range (0, 1).

    Returns:
        The number as a float.

    Raises:
        ConfigurationError: If it is no number, or lies outside the range.
    """
    if isinstance(test_fraction, (int, float)) and not isinstance(test_fraction, bool):
        fraction = float(test_fraction)
        if math.isfinite(fraction) and 0.0 < fraction < 1.0:
            return fraction
    raise ConfigurationError(
        f"test_fraction={test_fraction!r} is not allowed: give the share of images kept for testing, "
        "a number above 0 and below 1, such as 0.2."
    )


def split_of(content_hash: str, test_fraction: float) -> Split:
    """Return the split that an image belongs to.

    The answer depends on the two arguments only, so one photograph is in the same split in every folder, in every
    order and on every machine, unless all images of a small folder are on one side (`select_split`). Raising
    ``test_fraction`` moves images from ``"train"`` to ``"test"``, never back.

    Args:
        content_hash: Hexadecimal hash of the content, at least 8 digits; the first 8 are read.
        test_fraction: Share of test images, in the open range (0, 1).

    Returns:
        ``"test"`` if the first 32 bits of the hash, read as a fraction of 2**32, are below ``test_fraction``, and
        ``"train"`` otherwise.

    Raises:
        ConfigurationError: If the fraction is outside its range or the hash is not hexadecimal.
    """
    return "test" if _position(content_hash) < check_fraction(test_fraction) else "train"


def select_split(hashes: Sequence[str], split: Split, test_fraction: float) -> list[int]:
    """Return which images belong to a split.

    Where there are two images or more, both splits have at least one: if `split_of` leaves a split without any, the
    image whose hash is nearest to it moves over.

    Args:
        hashes: The content hash of every image; no two are the same.
        split: The split wanted.
        test_fraction: Share of test images, in the open range (0, 1).

    Returns:
        Ascending indices into ``hashes``.

    Raises:
        ConfigurationError: If the fraction or a hash is not allowed.
    """
    test = {index for index, content in enumerate(hashes) if split_of(content, test_fraction) == "test"}
    if len(hashes) > 1:
        ranked = sorted(range(len(hashes)), key=lambda index: hashes[index].lower())
        if not test:
            test = {ranked[0]}
        elif len(test) == len(hashes):
            test.discard(ranked[-1])
    return [index for index in range(len(hashes)) if (index in test) == (split == "test")]


def _position(content_hash: str) -> float:
    """Return where a hash lies in [0, 1)."""
    digits = content_hash[:_DIGITS]
    if len(digits) < _DIGITS or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
        raise ConfigurationError(
            f"The content hash {content_hash!r} does not start with {_DIGITS} hexadecimal digits. "
            "Use the hex digest of a hash such as SHA-256."
        )
    return int(digits, 16) / 2**32


@runtime_checkable
class ImageSource(Protocol):
    """A fixed, ordered collection of images.

    The order is the same on every machine, and no two images have the same content hash. Objects can be pickled and
    copied.
    """

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def content_hash(self, index: int) -> str:
        """Return the SHA-256 of an image's content, 64 hexadecimal digits.

        It is taken from a file's bytes where there is a file, and from size, mode and decoded pixels otherwise.
        """
        ...

    def name(self, index: int) -> str:
        """Return what people call an image: a relative path, the index in a dataset, a word."""
        ...

    def load(self, index: int) -> NDArray[np.uint8]:
        """Return the pixels of an image.

        Args:
            index: Index of the image, 0 to ``len(self) - 1``.

        Returns:
            RGB array of shape (H, W, 3), uint8, C-contiguous and read-only.

        Raises:
            ImageError: If the pixels turn out to be corrupt, or the file has gone or changed.
        """
        ...


class ImageCollection:
    """Images from files or from memory; an `ImageSource`.

    Attributes:
        skipped: Images that were found but cannot be used, with the reasons.
    """

    def __init__(
        self,
        items: Iterable[Item],
        *,
        max_pixels: int,
        skipped: Iterable[SkippedImage] = (),
    ) -> None:
        """Collect images.

        Args:
            items: The images in their order; of several with the same content the first is kept.
            max_pixels: Most pixels that are decoded per image.
            skipped: Images that were found but cannot be used.
        """
        self._items = first_of_each(items)
        self._max_pixels = max_pixels
        self.skipped = tuple(skipped)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._items)

    def __repr__(self) -> str:
        """Return the number of images and of those skipped."""
        return f"ImageCollection({len(self)} images, {len(self.skipped)} skipped)"

    def content_hash(self, index: int) -> str:
        """Return the SHA-256 of an image's content; see `ImageSource.content_hash`."""
        return self._items[index].content_hash

    def name(self, index: int) -> str:
        """Return what people call an image; see `ImageSource.name`."""
        return self._items[index].name

    def load(self, index: int) -> NDArray[np.uint8]:
        """Return the pixels of an image; see `ImageSource.load`."""
        return self._items[index].load(self._max_pixels)


class ImageSubset:
    """Some images of another source; an `ImageSource`.

    Attributes:
        source: The other source.
        skipped: Images that the other source has skipped, if it lists them.
    """

    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        """Select images.

        Args:
            source: The other source.
            indices: Indices of the images, in their new order.
        """
        self.source = source
        self._indices = tuple(indices)

    @property
    def skipped(self) -> tuple[SkippedImage, ...]:
        """Images that the other source has found but cannot use; empty if it does not tell."""
        return tuple(getattr(self.source, "skipped", ()))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._indices)

    def __repr__(self) -> str:
        """Return the number of images and where they come from."""
        return f"ImageSubset({len(self)} images of {self.source!r})"

    def content_hash(self, index: int) -> str:
        """Return the SHA-256 of an image's content; see `ImageSource.content_hash`."""
        return self.source.content_hash(self._indices[index])

    def name(self, index: int) -> str:
        """Return what people call an image; see `ImageSource.name`."""
        return self.source.name(self._indices[index])

    def load(self, index: int) -> NDArray[np.uint8]:
        """Return the pixels of an image; see `ImageSource.load`."""
        return self.source.load(self._indices[index])


def first_of_each(items: Iterable[Item]) -> tuple[Item, ...]:
    """Return the items without those whose content has been seen before."""
    kept: dict[str, Item] = {}
    for item in items:
        kept.setdefault(item.content_hash, item)
    return tuple(kept.values())


def take_split(source: ImageSource, split: Split, test_fraction: float, given: str) -> ImageSubset:
    """Return the images of a source that belong to a split.

    Args:
        source: All images.
        split: The split wanted.
        test_fraction: Share of test images, in the open range (0, 1).
        given: Name of the source in messages.

    Returns:
        The images of the split in their order.

    Raises:
        ImageError: If there are none.
    """
    hashes = [source.content_hash(index) for index in range(len(source))]
    indices = select_split(hashes, split, test_fraction)
    if indices:
        return ImageSubset(source, indices)
    other = "train" if split == "test" else "test"
    raise ImageError(
        f"No image of {given} is left for split={split!r}: there is only one, which belongs to split={other!r} with "
        f"test_fraction={test_fraction:g}. Give at least two different images, or leave split out."
    )


COARSE = (24, 0.97)
FINE = (64, 0.94)
"""Side of the thumbnails that are compared, in pixels, and the correlation from which on they show the same picture:
first of all pairs, then of those that are alike. On 173 photographs, copies as JPEG of quality 10 have at least 0.978
and 0.968, different photographs at most 0.92 and 0.87; pages of text in one layout reach 0.983 and 0.902."""
SAME_SHAPE = 1.03
"""Largest ratio of the aspect ratios of two copies."""
CHUNK = 256
"""Training images that are compared at a time."""


def fingerprint(pixels: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Return a fingerprint of a photograph that survives scaling and compression.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        side: Side of the thumbnail, in pixels.

    Returns:
        (side * side * 3,) float32: the colours of a thumbnail, with mean 0 and length 1 (or 0 for one colour), so that
        the product of two is their correlation.
    """
    import cv2

    small = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    length = float(np.linalg.norm(small))
    return small / length if length > 0 else small


def alike_images(
    source: ImageSource, indices: Sequence[int], training: ImageSource
) -> Iterator[tuple[int, int | None]]:
    """Yield pairs of a photograph and a training image that may be copies; -1 and None for one that is not readable.

    Args:
        source: The photographs.
        indices: Those that are compared.
        training: The training images, all of which are compared.
    """
    if not indices:
        return
    _, least = COARSE
    prints, shapes = _stack(_read(source, indices), len(indices))
    for start in range(0, len(training), CHUNK):
        numbers = range(start, min(start + CHUNK, len(training)))
        others, other_shapes = _stack(_read(training, numbers), len(numbers))
        yield from ((-1, None) for _ in range(int(np.isnan(other_shapes).sum())))
        ratio = np.abs(np.log(shapes)[:, None] - np.log(other_shapes)[None])
        alike = (prints @ others.T >= least) & (ratio <= np.log(SAME_SHAPE))
        for row, column in np.argwhere(alike).tolist():
            yield indices[row], start + column


def is_copy(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> bool:
    """Return whether two photographs, each (H, W, 3) uint8, are one in two sizes, formats or qualities."""
    side, least = FINE
    return float(fingerprint(ours, side) @ fingerprint(theirs, side)) >= least


def _read(source: ImageSource, indices: Iterable[int]) -> Iterator[NDArray[np.uint8] | None]:
    for index in indices:
        try:
            yield source.load(index)
        except ImageError:
            yield None


def _stack(images: Iterable[NDArray[np.uint8] | None], count: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return coarse fingerprints, one a row, and the aspect ratios (count,); NaN where there is no image."""
    side, _ = COARSE
    prints = np.zeros((count, side * side * 3), np.float32)
    shapes = np.full(count, np.nan)
    for row, pixels in enumerate(images):
        if pixels is not None:
            prints[row], shapes[row] = fingerprint(pixels, side), pixels.shape[1] / pixels.shape[0]
    return prints, shapes
