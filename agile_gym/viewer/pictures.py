"""Makes the images of a page small, and keeps each once."""

from __future__ import annotations

import base64
import hashlib
import io

import numpy as np
from PIL import Image as PILImage
from PIL import features

from agile_gym.rollout.transcript import Image

__all__ = ["PictureStore", "StoredPicture", "shrink"]

StoredPicture = tuple[int, int, str]
"""Width and height of the original in pixels, and the file as a base64 text."""


class PictureStore:
    """Numbers images by their content, and encodes each when it is first seen.

    Attributes:
        mime: The type of the files.
        count: How many images there are.
    """

    def __init__(self, quality: int) -> None:
        """Make a store.

        Args:
            quality: Quality of the compression, 1 to 100.
        """
        self._quality = quality
        self._format = "WEBP" if features.check("webp") else "JPEG"
        self.mime = f"image/{self._format.lower()}"
        self._numbers: dict[bytes, int] = {}
        self._new: list[StoredPicture] = []

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self._numbers)

    def add(self, image: Image, max_side: int) -> int:
        """Return the number of an image, from 0 in the order in which they are first seen.

        Args:
            image: (h, w, 3) uint8.
            max_side: Largest side, in pixels, to which a new image is scaled down.
        """
        content = np.ascontiguousarray(image)
        key = hashlib.blake2b(content.data, digest_size=16, key=repr(content.shape).encode()).digest()
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers)
            self._new.append(self._encode(content, max_side))
        return number

    def take_new(self) -> tuple[int, list[StoredPicture]]:
        """Return the number of the first image since the last call, and these images, and forget their files."""
        new, self._new = self._new, []
        return self.count - len(new), new

    def _encode(self, image: Image, max_side: int) -> StoredPicture:
        height, width = image.shape[:2]
        file = io.BytesIO()
        options = {"method": 2} if self._format == "WEBP" else {"optimize": True}
        shrink(PILImage.fromarray(image), max_side).save(file, self._format, quality=self._quality, **options)
        return width, height, base64.b64encode(file.getvalue()).decode("ascii")


def shrink(image: PILImage.Image, max_side: int) -> PILImage.Image:
    """Scale an image down so that its longer side is at most ``max_side``; smaller ones stay as they are."""
    scale = max_side / max(image.size)
    if scale >= 1:
        return image
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return image.resize(size, PILImage.Resampling.LANCZOS, reducing_gap=2.0)
