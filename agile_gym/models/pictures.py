# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Runs a model's processor over images, whatever their sizes: those that it would refuse are made to fit.

A model can cut any sliver out of an image. Processors refuse some (Qwen's, those with a side ratio above 200) and blow
up others (where the shorter side is scaled to a fixed length). What is done to an image depends on the image and
the processor alone, so that training makes the same pixels of it as a rollout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agile_gym.transcripts.record import Image

__all__ = ["ImageRefusedError", "fit_image", "process"]

_LIMITS = ((1, 200), (32, 50), (64, 4))
"""Shortest side in pixels, and how many times as long the other may be. All images keep to the first; where a processor
refuses one, the next is tried."""


class ImageRefusedError(Exception):
    """A processor takes an image in no form."""


def fit_image(image: Image, shortest: int, ratio: int) -> Image:
    """Return an image whose sides keep to limits, made by repeating rows or columns.

    Args:
        image: (h, w, 3) uint8.
        shortest: Pixels that the shorter side has at least.
        ratio: How many times as long as the shorter side the longer one is at most.

    Returns:
        The image itself if it keeps to them, else one with more rows, columns or both.
    """
    for axis in (0, 1):
        have = image.shape[axis]
        want = max(have, shortest, -(-image.shape[1 - axis] // ratio))
        if want > have:
            places: NDArray[np.intp] = np.arange(want) * have // want
            image = image.take(places, axis)
    return image


def process(processor: Any, text: str, images: Sequence[Image], **options: Any) -> Mapping[str, Any]:  # noqa: ANN401 -- transformers is untyped
    """Call a processor with a text and its images, made to fit.

    Args:
        processor: The processor.
        text: A text with as many image tokens as there are images.
        images: The images, (h, w, 3) uint8.
        **options: The tokenizer's.

    Returns:
        The processor's tensors.

    Raises:
        ImageRefusedError: If the processor takes one of the images in no form.
    """
    try:
        return _call(processor, text, [fit_image(image, *_LIMITS[0]) for image in images], **options)
    except Exception:  # processors raise whatever they like
        fitted = [_first_that_is_taken(processor, image) for image in images]
    return _call(processor, text, fitted, **options)


def _first_that_is_taken(processor: Any, image: Image) -> Image:  # noqa: ANN401 -- transformers is untyped
    """Return an image in the first form that a processor takes."""
    reason = ""
    for limits in _LIMITS:
        fitted = fit_image(image, *limits)
        try:
            _call(processor, processor.image_token, [fitted])
        except ImportError:
            raise
        except Exception as error:  # as above
            reason = f"{type(error).__name__}: {error}"
        else:
            return fitted
    height, width = image.shape[:2]
    raise ImageRefusedError(f"The image processor refuses an image of {width} x {height} pixels: {reason}")


def _call(processor: Any, text: str, images: Sequence[Image], **options: Any) -> Mapping[str, Any]:  # noqa: ANN401 -- transformers is untyped
    """Call a processor with a text and its images.

    LLaVA-OneVision cuts the image of a conversation with a single one into tiles, but not those of a longer one. Here
    all images are treated as in a conversation of several, however many a single turn brings.
    """
    from PIL import Image as PillowImage

    pictures = [PillowImage.fromarray(np.ascontiguousarray(image)) for image in images]
    if not type(processor).__name__.startswith("LlavaOnevision"):
        return processor(text=[text], images=pictures, return_tensors="pt", **options)
    single = len(pictures) == 1
    marks, shown = (processor.image_token, [*pictures, *pictures]) if single else ("", pictures)
    encoded = dict(processor(text=[text + marks], images=[shown], return_tensors="pt", **options))
    encoded.pop("batch_num_images")
    if single:
        ids = encoded["input_ids"][0]
        added = int((ids == processor.image_token_id).sum()) // 2
        encoded = {name: encoded[name][:1] for name in ("pixel_values", "image_sizes")}
        encoded["input_ids"] = ids[None, : len(ids) - added]
    return encoded
