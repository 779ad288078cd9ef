"""The division of images into training and test images, decided by what an image holds and by nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

from agile_gym.errors import ConfigurationError, did_you_mean

__all__ = ["Split", "check_fraction", "check_split", "select_split", "split_of"]

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
