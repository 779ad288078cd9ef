"""Photographs of a study: what ``{images}``, ``{images:N}`` and ``{test}`` stand for in its settings.

``{images}`` are those to train on, ``{images:8}`` eight of them, and ``{test}`` those to test on. Parts of a collection
are folders in that of the study, with links to the files, or PNG files where there are none. The photographs of a part
follow from their content, and those of a smaller part are in every larger one. ``{images:0}`` are pictures of
noise, on which all stages can be trained, but nothing can be learned about photographs.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from agile_gym.errors import ConfigurationError
from agile_gym.images.opening import open_images
from agile_gym.images.sources import ImageSource

__all__ = ["Photographs", "uses_photographs"]

BUILTIN = "builtin"
_NOISE, _NOISE_SIDE = 8, 128
"""Number of pictures of noise, and their height and width in pixels."""
_PLACE = re.compile(r"\{(images|test)(?::(\d{1,9}))?\}")


class Photographs:
    """The photographs that a study was given.

    Attributes:
        folder: Folder for parts of them.
    """

    def __init__(self, folder: Path, images: str | None, test: str | None, *, divided: bool) -> None:
        """Take the sources.

        Args:
            folder: Folder for parts of them; it is made when there is one.
            images: Photographs to train on; None for the built-in ones.
            test: Photographs to test on; None for a split of the others.
            divided: True if ``{test}`` or a part is used, so that the split must be folders of its own.
        """
        self.folder, self._images, self._test, self._divided = folder, images or BUILTIN, test, divided

    def fill(self, value: Any) -> Any:  # noqa: ANN401 -- any value of TOML
        """Return a value in which names of photographs are replaced, at any depth.

        Raises:
            ConfigurationError: If there are fewer than a part wants.
            ImageError: If there are none.
        """
        if isinstance(value, Mapping):
            return {key: self.fill(entry) for key, entry in cast("Mapping[str, Any]", value).items()}
        if isinstance(value, list):
            return [self.fill(entry) for entry in cast("list[Any]", value)]
        match = _PLACE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            return value
        count = None if match[2] is None else int(match[2])
        if match[1] == "test":
            return self._test if self._test is not None else self._part("test", None)
        if count is None and (self._test is not None or not self._divided):
            return self._images
        return self._part("train", count)

    def _part(self, split: str, count: int | None) -> str:
        """Return the folder of a part, which is made unless it is there."""
        target = self.folder / (split if count is None else f"{split}-{count}")
        if target.is_dir():
            return str(target)
        source = open_images(self._images, split=None if self._test is not None else cast("Any", split))
        order = sorted(range(len(source)), key=source.content_hash)
        if count is not None and count > len(order):
            raise ConfigurationError(
                f"{{images:{count}}} wants {count:,} photographs to train on, and {self._images} has {len(order):,}"
                + ("" if self._test is not None else ", those to test on left out")
                + ". Give more with --images, or change the study."
            )
        beside = target.with_name(f".{target.name}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        if count == 0:
            _draw_noise(beside)
        for index in order[:count]:
            self._put(source, index, beside)
        beside.rename(target)
        return str(target)

    def _put(self, source: ImageSource, index: int, folder: Path) -> None:
        name = source.content_hash(index)[:16]
        path = Path(self._images) / source.name(index)
        if Path(self._images).is_dir() and path.is_file():
            os.symlink(path.resolve(), folder / f"{name}{path.suffix}")
            return
        from PIL import Image

        Image.fromarray(source.load(index)).save(folder / f"{name}.png")


def _draw_noise(folder: Path) -> None:
    """Write pictures whose pixels have nothing to do with each other."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(_NOISE):
        pixels = rng.integers(0, 256, (_NOISE_SIDE, _NOISE_SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"noise-{number}.png")


def uses_photographs(value: object) -> set[str]:
    """Return the names of photographs in a value: ``"images"``, ``"test"``, and ``"part"`` for ``{images:N}``."""
    return set(_uses(value))


def _uses(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for entry in cast("Mapping[str, Any]", value).values():
            yield from _uses(entry)
    elif isinstance(value, list):
        for entry in cast("list[Any]", value):
            yield from _uses(entry)
    elif isinstance(value, str) and (match := _PLACE.fullmatch(value)):
        yield "part" if match[2] else match[1]
