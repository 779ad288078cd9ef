"""Images from datasets of the Hugging Face library."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agile_gym.errors import ImageError, did_you_mean, import_optional
from agile_gym.images.cache import shared_cache
from agile_gym.images.decode import decode_image, read_file
from agile_gym.images.formats import describe_error, header_problem
from agile_gym.images.items import Item, SkippedImage, decode_checked, hash_bytes, hash_pixels
from agile_gym.images.sources import ImageCollection

__all__ = ["DatasetLike", "DatasetSpec", "dataset_images", "is_dataset", "load_dataset", "parse_dataset_spec"]

PREFIX = "hf:"
FORMAT = "'hf:NAME', 'hf:NAME:SPLIT' or 'hf:NAME:SPLIT:COLUMN'"


class DatasetLike(Protocol):
    """What is needed of a ``datasets.Dataset``: named columns, a length, and rows as dictionaries."""

    @property
    def column_names(self) -> Sequence[str]:
        """Names of the columns."""
        ...

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """Return a row."""
        ...


class DatasetSpec(NamedTuple):
    """The parts of an ``hf:`` string.

    Attributes:
        name: Name of the dataset, or path of a local one.
        split: Split of the dataset, may have a slice such as ``train[:100]``; ``None`` if left out.
        column: Column that holds the images; ``None`` if left out.
    """

    name: str
    split: str | None
    column: str | None


def is_dataset(value: object) -> TypeGuard[DatasetLike]:
    """Return whether a value has rows and named columns as a ``datasets.Dataset`` does."""
    columns = getattr(value, "column_names", None)
    return isinstance(columns, (list, tuple)) and hasattr(value, "__len__") and hasattr(value, "__getitem__")


def parse_dataset_spec(text: str) -> DatasetSpec:
    """Take an ``hf:`` string apart.

    Args:
        text: ``"hf:NAME[:SPLIT[:COLUMN]]"``; colons within square brackets belong to the split.

    Returns:
        The parts.

    Raises:
        ImageError: If the name is missing, a part is empty, or there are too many parts.
    """
    parts = re.split(r":(?![^\[]*\])", text.removeprefix(PREFIX))
    if len(parts) > 3 or not all(part.strip() for part in parts):
        raise ImageError(
            f"images={text!r} does not name a dataset. Write {FORMAT}, for example 'hf:mnist:train:image'."
        )
    name, split, column = (*(part.strip() for part in parts), None, None)[:3]
    return DatasetSpec(cast("str", name), split, column)


def load_dataset(spec: DatasetSpec) -> DatasetLike:
    """Load a dataset with the ``datasets`` package.

    Args:
        spec: Which one. Without a split, a dataset's only split is taken, or else the one called ``train``.

    Returns:
        The dataset.

    Raises:
        MissingDependencyError: If the package is not installed.
        ImageError: If the dataset cannot be loaded, or it has several splits and none is called ``train``.
    """
    module = import_optional("datasets", extra="data", purpose="load images from a Hugging Face dataset")
    try:
        loaded: object = module.load_dataset(spec.name, split=spec.split)
    except Exception as error:
        raise ImageError(
            f"The dataset {spec.name!r}, split {spec.split or 'not given'}, could not be loaded: "
            f"{type(error).__name__}: {describe_error(error)}. Write {FORMAT} and check the name, the split and the "
            "connection; a dataset on disk can be given as an object."
        ) from error
    if isinstance(loaded, Mapping):
        splits = cast("Mapping[str, object]", loaded)
        if len(splits) != 1 and "train" not in splits:
            raise ImageError(
                f"The dataset {spec.name!r} has the splits {_quoted(splits)}. Say which one: "
                f"'{PREFIX}{spec.name}:{next(iter(splits), 'SPLIT')}'."
            )
        loaded = splits["train"] if "train" in splits else next(iter(splits.values()))
    if not is_dataset(loaded):
        raise ImageError(
            f"Loading {spec.name!r} gave a value of type {type(loaded).__name__}, which has no columns of images."
        )
    return loaded


def dataset_images(dataset: DatasetLike, column: str | None, max_pixels: int) -> ImageCollection:
    """List the images of a dataset.

    All rows are read once, to hash their images; encoded images are not decoded for this. Rows whose image is missing
    or cannot be read are skipped.

    Args:
        dataset: The dataset.
        column: Column that holds the images; found by itself if ``None``: the first whose feature is an image, or else
            the first that holds a PIL image in row 0.
        max_pixels: Most pixels that an image may have.

    Returns:
        The images, named by the index of their row. Empty if no row has a usable one.

    Raises:
        ImageError: If there is no such column.
    """
    dataset = _reset_format(dataset)
    column = _image_column(dataset, column)
    rows = _encoded(dataset, column)
    items: list[Item] = []
    skipped: list[SkippedImage] = []
    for row in range(len(rows)):
        item = _row_item(rows, column, row, max_pixels)
        if isinstance(item, SkippedImage):
            skipped.append(item)
        else:
            items.append(item)
    return ImageCollection(items, max_pixels=max_pixels, skipped=skipped)


@dataclass(frozen=True, slots=True, eq=False)
class RowItem:
    """An image in a row of a dataset.

    Attributes:
        name: Index of the row, as text.
        content_hash: SHA-256 of the encoded image, or of the pixels where the dataset holds decoded images.
        dataset: The dataset.
        column: Column that holds the image.
        row: Index of the row.
    """

    name: str
    content_hash: str
    dataset: DatasetLike
    column: str
    row: int

    def load(self, max_pixels: int) -> NDArray[np.uint8]:
        """Return the pixels, from the cache or decoded; see `agile_gym.images.items.Item.load`."""

        def decode() -> NDArray[np.uint8]:
            label = f"in row {self.row} of the dataset"
            value = _value(self.dataset, self.column, self.row)
            if isinstance(value, bytes):
                return decode_checked(value, self.content_hash, label, max_pixels)
            return decode_image(value, max_pixels=max_pixels, name=label)

        return shared_cache().get(self.content_hash, decode)


def _row_item(dataset: DatasetLike, column: str, row: int, max_pixels: int) -> RowItem | SkippedImage:
    """Hash the image of a row, or say why it cannot be used."""
    name = str(row)
    try:
        value = _value(dataset, column, row)
        if isinstance(value, bytes):
            problem = header_problem(io.BytesIO(value), max_pixels)
            if problem is not None:
                return SkippedImage(name, problem)
            content_hash = hash_bytes(value)
        else:
            content_hash = hash_pixels(decode_image(value, max_pixels=max_pixels, name=f"in row {row}"))
    except ImageError as error:
        return SkippedImage(name, str(error))
    return RowItem(name, content_hash, dataset, column, row)


def _value(dataset: DatasetLike, column: str, row: int) -> bytes | Image.Image:
    """Return the image of a row, encoded if the dataset has it so.

    Raises:
        ImageError: If the row has no image.
    """
    value: object = dataset[row][column]
    if isinstance(value, (bytes, Image.Image)):
        return value
    if isinstance(value, Mapping):
        parts = cast("Mapping[str, object]", value)
        data, path = parts.get("bytes"), parts.get("path")
        if isinstance(data, bytes):
            return data
        if isinstance(path, str) and os.path.isfile(path):
            return read_file(path)
    kind = type(cast("object", value)).__name__
    raise ImageError("the row has no image" if value is None else f"the row holds a value of type {kind}, no image")


def _reset_format(dataset: DatasetLike) -> DatasetLike:
    """Return the dataset with plain Python values, whatever arrays or tensors it is set to return."""
    with_format = getattr(dataset, "with_format", None)
    return cast("DatasetLike", with_format(None)) if callable(with_format) else dataset


def _encoded(dataset: DatasetLike, column: str) -> DatasetLike:
    """Return the column alone, giving encoded images instead of decoded ones where the dataset can."""
    select, cast_column = getattr(dataset, "select_columns", None), getattr(dataset, "cast_column", None)
    feature = _features(dataset).get(column)
    if not (_is_image_feature(feature) and callable(select) and callable(cast_column)):
        return dataset
    alone: object = select([column])
    undecoded: object = cast("Any", type(feature))(decode=False)
    return cast("DatasetLike", cast("Any", alone).cast_column(column, undecoded))


def _image_column(dataset: DatasetLike, wanted: str | None) -> str:
    """Return the column that holds the images."""
    columns = list(dataset.column_names)
    if wanted is not None:
        if wanted in columns:
            return wanted
        raise ImageError(
            f"The dataset has no column {wanted!r}. {did_you_mean(wanted, columns)} Its columns: {_quoted(columns)}."
        )
    features = _features(dataset)
    for column in columns:
        if _is_image_feature(features.get(column)):
            return column
    first: Mapping[str, Any] = dataset[0] if len(dataset) else {}
    for column in columns:
        if isinstance(first.get(column), Image.Image):
            return column
    raise ImageError(
        f"No column of the dataset holds images. Its columns: {_quoted(columns)}. If one of them holds encoded images, "
        "mark it with dataset.cast_column(NAME, datasets.Image()), or name it in 'hf:NAME:SPLIT:COLUMN'."
    )


def _features(dataset: DatasetLike) -> Mapping[str, object]:
    """Return the features of the columns, empty if the dataset does not tell."""
    features: object = getattr(dataset, "features", None)
    return cast("Mapping[str, object]", features) if isinstance(features, Mapping) else {}


def _is_image_feature(feature: object) -> bool:
    """Return whether a feature is that of images."""
    return type(feature).__name__ == "Image"


def _quoted(words: Mapping[str, object] | Sequence[str]) -> str:
    """Return words in quotes with commas between them."""
    return ", ".join(repr(word) for word in words) or "none"
