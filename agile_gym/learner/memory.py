# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray are incomplete.
"""Memory of a training's processes: each image once in Ray's object store, and free memory handed back.

Pickle writes an array that several samples of a shard show once. What several shards need is put into the store by
itself, and each learner fetches what it needs.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import ray

from agile_gym.learner.data import Sample

__all__ = ["fetch_images", "hand_back", "put_shards"]


def put_shards(shards: Sequence[Sequence[Sample]]) -> list[ray.ObjectRef[list[Sample]]]:
    """Put the samples of learners into Ray's object store.

    Args:
        shards: The samples of each learner. Images that are one array are stored once; see
            `agile_gym.transcripts.record.ImageTable`.

    Returns:
        A reference for each learner to its samples, for `fetch_images`. The store keeps the images as long as these.
    """
    images = {id(image): image for shard in shards for sample in shard for image in sample.images}
    needed = Counter(key for shard in shards for key in {id(image) for sample in shard for image in sample.images})
    apart: dict[int, Any] = {key: ray.put(images[key]) for key, count in needed.items() if count > 1}

    def packed(sample: Sample) -> Sample:
        return replace(sample, images=tuple(apart.get(id(image), image) for image in sample.images))

    return [ray.put([packed(sample) for sample in shard] if apart else list(shard)) for shard in shards]


def fetch_images(samples: Sequence[Sample]) -> list[Sample]:
    """Return samples of `put_shards` with all their images; those that are equal share one array."""
    shown: list[Any] = [image for sample in samples for image in sample.images]
    order = list(dict.fromkeys(image for image in shown if isinstance(image, ray.ObjectRef)))
    if not order:
        return list(samples)
    found: dict[Any, Any] = dict(zip(order, ray.get(order), strict=True))

    def fetched(sample: Sample) -> Sample:
        known: Sequence[Any] = sample.images
        return replace(
            sample, images=tuple(found[image] if isinstance(image, ray.ObjectRef) else image for image in known)
        )

    return [fetched(sample) for sample in samples]


def hand_back() -> None:
    """Hand free memory back to the system, after groups were played or trained on.

    The allocator of glibc keeps most of what a process once needed, and over many iterations the resident memory creeps
    up, as blocks of other sizes do not fit into the gaps of what is kept. Nothing happens where the C library has no
    ``malloc_trim``, such as on macOS.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:  # noqa: ANN401 -- a foreign function
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
