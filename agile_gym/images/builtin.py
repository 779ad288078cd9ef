"""Photographs that are there without a download: those that scikit-image ships in its wheel."""

from __future__ import annotations

import os
from importlib.util import find_spec

from agile_gym.errors import ImageError, MissingDependencyError
from agile_gym.images.folder import scan_file
from agile_gym.images.items import FileItem, SkippedImage
from agile_gym.images.sources import ImageCollection

__all__ = ["BUILTIN_PHOTOGRAPHS", "builtin_images"]

BUILTIN_PHOTOGRAPHS = {
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
"""Names of the photographs and the files that hold them, in the order in which they are listed."""


def builtin_images(max_pixels: int) -> ImageCollection:
    """Return the colour photographs of everyday things that scikit-image ships.

    They are an astronaut, the cat Chelsea, a cup of coffee, a motorcycle and a rocket. Left out are grey pictures,
    drawings and textures, pictures taken through a telescope, an ophthalmoscope or a microscope (whose parts look too
    much alike), and the second view of the motorcycle. The files are read where they lie; scikit-image itself is not
    imported.

    Args:
        max_pixels: Most pixels that an image may have.

    Returns:
        The photographs.

    Raises:
        MissingDependencyError: If scikit-image is not installed.
        ImageError: If it has none of the files.
    """
    folder = _data_folder()
    items: list[FileItem] = []
    skipped: list[SkippedImage] = []
    for name, file in BUILTIN_PHOTOGRAPHS.items():
        item = scan_file(os.path.join(folder, file), name, max_pixels)
        if isinstance(item, FileItem):
            items.append(item)
        else:
            skipped.append(item)
    if not items:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped)
        raise ImageError(
            f"None of the built-in photographs can be used ({reasons}). They belong to the scikit-image package and "
            f"were looked for in {folder!r}. Install scikit-image again, or give a folder of your own images."
        )
    return ImageCollection(items, max_pixels=max_pixels, skipped=skipped)


def _data_folder() -> str:
    """Return the folder in which scikit-image keeps its pictures, without importing it."""
    spec = find_spec("skimage")
    locations = spec.submodule_search_locations if spec is not None else None
    if not locations:
        raise MissingDependencyError(
            "The package 'scikit-image' is needed to use the built-in photographs. "
            "Install it with: pip install scikit-image"
        )
    return os.path.join(next(iter(locations)), "data")
