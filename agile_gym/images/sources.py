"""Collections of images that can be listed, hashed and loaded by index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import ImageError
from agile_gym.images.items import Item, SkippedImage
from agile_gym.images.split import Split, select_split

__all__ = ["ImageCollection", "ImageSource", "ImageSubset", "first_of_each", "take_split"]


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
            index: Which image, 0 to ``len(self) - 1``.

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
        skipped: What the other source has skipped, if it tells.
    """

    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        """Select images.

        Args:
            source: Where they come from.
            indices: Which images, in their new order.
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
        given: How messages call the source.

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
