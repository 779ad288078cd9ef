"""Opening of images in any form as an `ImageSource`."""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from collections.abc import Generator, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agile_gym.errors import ImageError, did_you_mean
from agile_gym.images.decode import Decodable
from agile_gym.images.folder import (
    PREFIX,
    DatasetLike,
    Scan,
    builtin_images,
    dataset_images,
    is_dataset,
    load_dataset,
    parse_dataset_spec,
    readable_name,
    scan_file,
    scan_folder,
)
from agile_gym.images.formats import (
    COMMON_EXTENSIONS,
    DEFAULT_MAX_PIXELS,
    SMALLEST,
    TABLE_EXTENSION,
    Size,
    check_max_pixels,
    header_problem,
    size_problem,
)
from agile_gym.images.items import ArrayItem, BytesItem, Item, SkippedImage, hash_bytes
from agile_gym.images.rows import parquet_images
from agile_gym.images.sources import ImageCollection, ImageSource, Split, check_fraction, check_split, take_split

__all__ = ["ImagesLike", "SkippedImageWarning", "open_images", "opening_once"]

ImagesLike: TypeAlias = "Decodable | Iterable[Decodable] | DatasetLike | ImageSource | None"
"""All that `open_images` accepts."""

BUILTIN = "builtin"
_NAMED = 3
_ACCEPTED = (
    "Accepted are: None or 'builtin'; the path of a folder, of an image file or of a Parquet file; a list of files, "
    "numpy arrays and PIL images; 'hf:NAME[:SPLIT[:COLUMN]]'; a datasets.Dataset; or an ImageSource."
)
_READABLE = f"Read are {', '.join(COMMON_EXTENSIONS)} and the other formats that Pillow decodes"


_opened: ContextVar[dict[Hashable, ImageSource] | None] = ContextVar("_opened", default=None)


class SkippedImageWarning(UserWarning):
    """Some images cannot be used and were skipped."""


@contextmanager
def opening_once(opened: dict[Hashable, ImageSource]) -> Generator[None]:
    """Open a folder, file or dataset once: within this context, `open_images` returns the source that it has opened.

    Many environments of one process then list and hash the same photographs once.

    Args:
        opened: Sources that were opened in earlier contexts, by the arguments that named them; grows.
    """
    token = _opened.set(opened)
    try:
        yield
    finally:
        _opened.reset(token)


def open_images(
    images: ImagesLike = None,
    *,
    split: Split | None = None,
    test_fraction: float = 0.2,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    min_size: Size = SMALLEST,
) -> ImageSource:
    """Open images for puzzles from any source.

    Of images with the same content only the first is kept. Files that are corrupt, too large, too small or in a format
    that is not supported are skipped: one `SkippedImageWarning` counts them, and the ``skipped`` attribute of the
    result names them all. Files are hashed and their headers checked now; pixels are decoded when an image is loaded,
    so damage further inside a file shows only then.

    Args:
        images: One of

            * ``None`` or ``"builtin"``: the 51 photographs that come with this package, of which 12 are the test split
              whatever ``test_fraction`` is;
            * the path of a folder (searched with all folders below it; hidden files are passed over) or of one file;
              of a Parquet file, or of a folder that holds such and no image files, every image is taken: encoded ones,
              structures of ``bytes`` and ``path`` (within the folder of the file), and lists of either;
            * an iterable of paths of files, encoded images as bytes, numpy arrays and PIL images, in any mix;
              an array of shape (N, H, W, C) is N images. Those in memory are decoded at once, so that later changes
              to them have no effect;
            * one image as bytes, an array or a PIL image;
            * ``"hf:NAME[:SPLIT[:COLUMN]]"``: a dataset loaded with ``datasets.load_dataset``;
            * a ``datasets.Dataset`` with a column of images, or of lists of images;
            * an `ImageSource`, which is returned as it is, or restricted to the split.
        split: ``"train"`` or ``"test"`` for a part of the images, ``None`` for all. An image's part depends on its
            content and on ``test_fraction`` only, see `agile_gym.images.split_of`: a file is in the same part in every
            folder. (The same picture as a file and as an array counts as two.) Where all of a few images are in one
            part, the one that is nearest to the other part moves there.
        test_fraction: Target fraction of test images, in the open range (0, 1).
        max_pixels: Most pixels (width times height) that an image may have, at least 1; larger ones are skipped.
        min_size: Height and width, in pixels, that an image must have; smaller ones are skipped.

    Returns:
        The images, at least one.

    Raises:
        ImageError: If nothing usable is found, the split is empty, a file of a list does not exist, or an image in
            memory is not allowed.
        ConfigurationError: If ``split``, ``test_fraction`` or ``max_pixels`` is not allowed.
        MissingDependencyError: If a package is missing that the images need.
    """
    checked_split, fraction, limit = check_split(split), check_fraction(test_fraction), check_max_pixels(max_pixels)
    given = _describe(images)
    opened, key = _opened.get(), None
    if opened is not None and isinstance(images, (str, os.PathLike)):
        key = (os.fspath(images), checked_split, fraction, limit, min_size)
        if key in opened:
            return opened[key]
    if isinstance(images, ImageSource):
        source: ImageSource = images
        if len(source) == 0:
            raise ImageError(f"{given} holds no images. {_ACCEPTED}")
    else:
        source = _collect(images, given, limit, min_size)
        if source.skipped:
            warnings.warn(_warning(source, given), SkippedImageWarning, stacklevel=2)
    if checked_split is not None:
        source = take_split(source, checked_split, fraction, given)
    if opened is not None and key is not None:
        opened[key] = source
    return source


def _collect(images: object, given: str, max_pixels: int, min_size: Size) -> ImageCollection:
    """Open anything but an `ImageSource`."""
    if images is None or (isinstance(images, str) and images == BUILTIN):
        return builtin_images(max_pixels)
    if isinstance(images, str) and images.startswith(PREFIX):
        spec = parse_dataset_spec(images)
        return _usable_rows(load_dataset(spec), spec.column, given, max_pixels, min_size)
    if isinstance(images, (str, os.PathLike)):
        return _from_path(cast("str | os.PathLike[str]", images), given, max_pixels, min_size)
    if isinstance(images, (bytes, bytearray, Image.Image)) or (_is_array(images) and images.ndim != 4):
        return _from_items([images], given, max_pixels, min_size)
    if is_dataset(images):
        return _usable_rows(images, None, given, max_pixels, min_size)
    if isinstance(images, Mapping):
        keys = ", ".join(repr(key) for key in cast("Mapping[object, object]", images))
        raise ImageError(f"{given} cannot be opened; give one of its values, such as a split. Its keys: {keys}.")
    if isinstance(images, AbstractSet):
        raise ImageError(f"{given} has no order that stays the same. Give a list instead, such as sorted(images).")
    if isinstance(images, (Sized, Iterator)) and isinstance(images, Iterable):
        return _from_items(list(cast("Iterable[object]", images)), given, max_pixels, min_size)
    hint = "Load a streamed dataset without streaming=True. " if hasattr(images, "column_names") else ""
    raise ImageError(f"{given} cannot be opened as images. {hint}{_ACCEPTED}")


def _from_path(path: str | os.PathLike[str], given: str, max_pixels: int, min_size: Size) -> ImageCollection:
    """Open a folder or a file."""
    text: str = os.path.expanduser(os.fspath(path))
    if os.path.isdir(text):
        scan = scan_folder(text, max_pixels, min_size)
        if not scan.items and scan.tables:
            return _from_tables(scan.tables, scan.skipped, given, max_pixels, min_size)
        if not scan.items:
            raise ImageError(_nothing_in_folder(scan, given))
        return ImageCollection(scan.items, max_pixels=max_pixels, skipped=scan.skipped)
    if os.path.isfile(text):
        if _table_path(text) is not None:
            return _from_tables([("", text)], (), given, max_pixels, min_size)
        item = scan_file(text, readable_name(os.path.basename(text)), max_pixels, min_size)
        if isinstance(item, SkippedImage):
            raise ImageError(f"{given} cannot be used: {item.reason}. {_READABLE}. Give another file, or a folder.")
        return ImageCollection([item], max_pixels=max_pixels)
    raise ImageError(f"{given} is neither a folder, nor a file, nor a known word. {_path_hint(text)} {_ACCEPTED}")


def _table_path(image: object) -> str | None:
    """Return the path of a Parquet file, if it is that."""
    if not isinstance(image, (str, os.PathLike)):
        return None
    path: str = os.path.expanduser(os.fspath(cast("str | os.PathLike[str]", image)))
    return path if path.lower().endswith(TABLE_EXTENSION) and os.path.isfile(path) else None


def _add_table(
    items: list[Item], skipped: list[SkippedImage], path: str, name: str, max_pixels: int, min_size: Size
) -> None:
    """Add the images of a Parquet file, whose names begin with its name if it has one."""
    try:
        found, broken = parquet_images(path, max_pixels, min_size, f"{name}:" if name else "")
    except ImageError as error:
        skipped.append(SkippedImage(name or readable_name(os.path.basename(path)), str(error)))
    else:
        items += found
        skipped += broken


def _from_tables(
    tables: Sequence[tuple[str, str]], passed: Iterable[SkippedImage], given: str, max_pixels: int, min_size: Size
) -> ImageCollection:
    """Open Parquet files, each with the name that its images' names begin with; one alone has none."""
    items: list[Item] = []
    skipped = list(passed)
    for name, path in tables:
        _add_table(items, skipped, path, name, max_pixels, min_size)
    if not items:
        raise ImageError(
            f"{given} holds no usable image: {len(tables)} Parquet {'file' if len(tables) == 1 else 'files'} seen, "
            f"{len(skipped)} images skipped{_named(skipped)}. {_READABLE}. {_ACCEPTED}"
        )
    return ImageCollection(items, max_pixels=max_pixels, skipped=skipped)


def _from_items(images: Sequence[object], given: str, max_pixels: int, min_size: Size) -> ImageCollection:
    """Open images given one by one."""
    items: list[Item] = []
    skipped: list[SkippedImage] = []
    for index, image in enumerate(images):
        table = _table_path(image)
        if table is not None:
            _add_table(items, skipped, table, readable_name(table), max_pixels, min_size)
            continue
        item = _open_item(image, index, max_pixels, min_size)
        if isinstance(item, SkippedImage):
            skipped.append(item)
        else:
            items.append(item)
    if not items:
        raise ImageError(
            f"{given} holds no usable image: {len(images)} given, {len(skipped)} skipped{_named(skipped)}. "
            f"{_READABLE}. {_ACCEPTED}"
        )
    return ImageCollection(items, max_pixels=max_pixels, skipped=skipped)


def _open_item(image: object, index: int, max_pixels: int, min_size: Size) -> Item | SkippedImage:
    """Open one image of several."""
    if isinstance(image, Image.Image) or _is_array(image):
        item = ArrayItem.of(image, f"image {index}", max_pixels)
        problem = size_problem((item.pixels.shape[1], item.pixels.shape[0]), max_pixels, min_size)
        return item if problem is None else SkippedImage(item.name, problem)
    if isinstance(image, (bytes, bytearray)):
        data = bytes(image)
        problem = header_problem(io.BytesIO(data), max_pixels, min_size)
        name = f"image {index}"
        return BytesItem(name, hash_bytes(data), data) if problem is None else SkippedImage(name, problem)
    if isinstance(image, (str, os.PathLike)):
        path: str = os.path.expanduser(os.fspath(cast("str | os.PathLike[str]", image)))
        if os.path.isfile(path):
            return scan_file(path, readable_name(path), max_pixels, min_size)
        if os.path.isdir(path):
            raise ImageError(f"Image {index}, {path!r}, is a folder. Give a folder by itself, not within a list.")
        raise ImageError(f"Image {index}, {path!r}, does not exist. {_path_hint(path)}".rstrip())
    raise ImageError(
        f"Image {index} is of type {type(image).__name__}. In a list, give paths of files, encoded images as bytes, "
        "numpy arrays or PIL images; a tensor can be turned into an array with tensor.permute(1, 2, 0).numpy()."
    )


def _usable_rows(
    dataset: DatasetLike, column: str | None, given: str, max_pixels: int, min_size: Size
) -> ImageCollection:
    """Open a dataset that has to have images."""
    source = dataset_images(dataset, column, max_pixels, min_size)
    if len(source):
        return source
    raise ImageError(
        f"{given} holds no usable image: {len(dataset)} rows seen, {len(source.skipped)} skipped"
        f"{_named(source.skipped)}. {_READABLE}. Name another column with 'hf:NAME:SPLIT:COLUMN', or give other images."
    )


def _is_array(value: object) -> TypeGuard[NDArray[Any]]:
    """Return whether a value is a numpy array."""
    return isinstance(value, np.ndarray)


def _path_hint(path: str) -> str:
    """Return a suggestion for a path that does not exist, or an empty text."""
    if "://" in path:
        return "Addresses are not fetched: download the images and give the folder."
    if any(sign in path for sign in "*?["):
        return "For a pattern, give the files: sorted(glob.glob(PATTERN))."
    parent, name = os.path.split(path.rstrip("/" + os.sep))
    try:
        nearby = [entry for entry in os.listdir(parent or os.curdir) if not entry.startswith(".")]
    except (OSError, ValueError):
        dataset = f" A Hugging Face dataset is written {PREFIX + path!r}." if path.count("/") == 1 and parent else ""
        return f"There is no folder {parent!r} either.{dataset}"
    choices = {os.path.join(parent, entry): entry for entry in nearby}
    words = {**choices, **({} if parent else {BUILTIN: BUILTIN})}
    hint = did_you_mean(os.path.join(parent, name), words) if words else ""
    return hint if hint.startswith("Did you mean") else f"The folder that was searched is {os.path.abspath(parent)!r}."


def _nothing_in_folder(scan: Scan, given: str) -> str:
    """Return the reason why a folder gives no images."""
    ignored = sum(scan.ignored.values())
    seen = len(scan.skipped) + ignored
    text = f"{given} holds no usable image: {seen} files seen, {len(scan.skipped)} skipped{_named(scan.skipped)}"
    if ignored:
        text += f", {ignored} of other kinds ({_extensions(scan.ignored)})"
    return f"{text}. {_READABLE}. Check the path, convert the files, or leave images out for the built-in photographs."


def _extensions(counts: Counter[str]) -> str:
    """Return the most frequent extensions with their counts."""
    common = [f"{extension or 'no extension'}: {count}" for extension, count in counts.most_common(_NAMED)]
    return ", ".join(common) + (", ..." if len(counts) > _NAMED else "")


def _named(skipped: Sequence[SkippedImage]) -> str:
    """Return the first few skipped images with their reasons in brackets, or an empty text."""
    if not skipped:
        return ""
    first = "; ".join(f"{name}: {reason}" for name, reason in skipped[:_NAMED])
    more = f"; and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    return f" ({first}{more})"


def _warning(source: ImageCollection, given: str) -> str:
    """Return the text that reports the skipped images."""
    total = len(source.skipped)
    return (
        f"{given}: {total} {'image' if total == 1 else 'images'} skipped{_named(source.skipped)}; {len(source)} used. "
        "The attribute 'skipped' of the source lists all."
    )


def _describe(images: object) -> str:
    """Return a description for messages of the given images."""
    if images is None or isinstance(images, str):
        return f"images={images!r}"
    if isinstance(images, os.PathLike):
        return f"images={os.fspath(cast('os.PathLike[str]', images))!r}"
    if _is_array(images):
        return f"images (an array of shape {images.shape} and type {images.dtype})"
    kind: str = type(images).__name__
    length = f", length {len(cast('Sequence[object]', images))}" if isinstance(images, (list, tuple)) else ""
    return f"images (of type {kind}{length})"
