"""Images from datasets of the Hugging Face library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any, NamedTuple, TypeGuard, cast

from agile_gym.errors import ImageError, import_optional
from agile_gym.images.formats import SMALLEST, Size, describe_error
from agile_gym.images.rows import TableLike, find_column, list_rows, quoted
from agile_gym.images.sources import ImageCollection

__all__ = ["DatasetLike", "DatasetSpec", "dataset_images", "is_dataset", "load_dataset", "parse_dataset_spec"]

PREFIX = "hf:"
FORMAT = "'hf:NAME', 'hf:NAME:SPLIT' or 'hf:NAME:SPLIT:COLUMN'"


DatasetLike = TableLike
"""What is needed of a ``datasets.Dataset``."""


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
                f"The dataset {spec.name!r} has the splits {quoted(splits)}. Say which one: "
                f"'{PREFIX}{spec.name}:{next(iter(splits), 'SPLIT')}'."
            )
        loaded = splits["train"] if "train" in splits else next(iter(splits.values()))
    if not is_dataset(loaded):
        raise ImageError(
            f"Loading {spec.name!r} gave a value of type {type(loaded).__name__}, which has no columns of images."
        )
    return loaded


def dataset_images(
    dataset: DatasetLike, column: str | None, max_pixels: int, min_size: Size = SMALLEST
) -> ImageCollection:
    """List the images of a dataset.

    Rows whose image is missing or cannot be read are skipped.

    Args:
        dataset: The dataset.
        column: Column that holds the images; found by itself if ``None``: the first whose feature is an image, or else
            a list of images, or else the first that holds images in the first rows; see `find_column`.
        max_pixels: Most pixels that an image may have.
        min_size: Height and width that an image must have, in pixels.

    Returns:
        The images, named by the index of their row. Empty if no row has a usable one.

    Raises:
        ImageError: If there is no such column.
    """
    dataset = _reset_format(dataset)
    features = _features(dataset)
    images = [name for name, feature in features.items() if _is_image_feature(feature)]
    images = images or [name for name, feature in features.items() if _undecoded(feature) is not None]
    column = find_column(dataset, column, lambda name: name in images)
    items, skipped = list_rows(_encoded(dataset, column), column, max_pixels, min_size)
    return ImageCollection(items, max_pixels=max_pixels, skipped=skipped)


def _reset_format(dataset: DatasetLike) -> DatasetLike:
    """Return the dataset with plain Python values, whatever arrays or tensors it is set to return."""
    with_format = getattr(dataset, "with_format", None)
    return cast("DatasetLike", with_format(None)) if callable(with_format) else dataset


def _encoded(dataset: DatasetLike, column: str) -> DatasetLike:
    """Return the column alone, giving encoded images instead of decoded ones where the dataset can."""
    select = getattr(dataset, "select_columns", None)
    if not callable(select):
        return dataset
    alone: object = select([column])
    undecoded = _undecoded(_features(dataset).get(column))
    return cast("DatasetLike", alone if undecoded is None else cast("Any", alone).cast_column(column, undecoded))


def _undecoded(feature: object) -> object:
    """Return the feature of images, or of lists of images, that leaves them encoded; None for another feature."""
    if _is_image_feature(feature):
        return cast("Any", type(feature))(decode=False)
    if isinstance(feature, list):
        inner = _undecoded(*cast("list[object]", feature)[:1])
        return None if inner is None else [inner]
    inner = _undecoded(getattr(feature, "feature", None)) if is_dataclass(feature) else None
    return None if inner is None else replace(cast("Any", feature), feature=inner)


def _features(dataset: DatasetLike) -> Mapping[str, object]:
    """Return the features of the columns, empty if the dataset does not tell."""
    features: object = getattr(dataset, "features", None)
    return cast("Mapping[str, object]", features) if isinstance(features, Mapping) else {}


def _is_image_feature(feature: object) -> bool:
    """Return whether a feature is that of images."""
    return type(feature).__name__ == "Image"
