"""Model inputs other than token ids, by family: positions, types, pixels; each observation of a batch once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import import_optional
from agile_gym.images.items import hash_pixels
from agile_gym.models.chat import ChatFormat, Chunk
from agile_gym.models.loading import input_device
from agile_gym.transcripts.record import Image

__all__ = [
    "Reader",
    "cache_name",
    "collate_pixels",
    "has_rope_index",
    "image_arguments",
    "relative_positions",
    "text_positions",
    "type_arguments",
]

_PIXELS_WITH_BATCH = ("idefics3", "smolvlm")
"""Models whose pixels have a batch dimension before that of images: (batch, images, 3, h, w)."""


_SEEN_ONE_BY_ONE = ("llava", "qwen2_vl", "qwen2_5_vl")
"""Models that give features image by image, so that those of an image that is shown several times can be shared."""


def cache_name(model: Any) -> str:  # noqa: ANN401 -- transformers is untyped
    """Return the argument of a model's forward for the cache: ``cache`` in newer versions of transformers."""
    names = inspect.signature(_inner(model).forward).parameters
    return "cache" if "cache" in names and "past_key_values" not in names else "past_key_values"


def has_rope_index(model: Any) -> bool:  # noqa: ANN401 -- transformers is untyped
    """Return whether a model has positions in three dimensions: time, row and column (Qwen's mRoPE)."""
    return hasattr(_inner(model), "get_rope_index")


def text_positions(count: int, *, rows: int) -> NDArray[np.int64]:
    """Return the positions (rows, count) of ``count`` tokens of text, from 0."""
    return np.tile(np.arange(count), (rows, 1))


def relative_positions(model: Any, chunk: Chunk) -> NDArray[np.int64]:  # noqa: ANN401 -- transformers is untyped
    """Return the positions of a chunk's tokens, as if it stood at the start.

    Positions of any model are the same wherever a chunk stands, but for an offset, so they are computed once a chunk.

    Args:
        model: The model.
        chunk: Tokens and images.

    Returns:
        (3, n) int64 for models with positions in three dimensions, else (1, n).
    """
    if not has_rope_index(model):
        return text_positions(len(chunk.ids), rows=1)
    if not chunk.images:
        return text_positions(len(chunk.ids), rows=3)
    torch = import_optional("torch", extra="vlm", purpose="run a vision-language model")
    positions, _ = _inner(model).get_rope_index(
        torch.from_numpy(chunk.ids.astype(np.int64))[None],
        mm_token_type_ids=torch.from_numpy(chunk.is_image.astype(np.int64))[None],
        image_grid_thw=chunk.pixels["image_grid_thw"],
    )
    return positions[:, 0].numpy()


def type_arguments(model: Any, is_image: Any) -> dict[str, Any]:  # noqa: ANN401 -- tensors
    """Return the arguments that mark the tokens of images for a model.

    Args:
        model: The model.
        is_image: (B, T) bool tensor over the whole context, cached tokens included, as Gemma3 lets the tokens of an
            image attend to each other both ways.
    """
    if model.config.model_type == "gemma3":
        return {"token_type_ids": is_image.long()}
    return {}


def collate_pixels(model: Any, pixels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:  # noqa: ANN401 -- tensors
    """Put the images of several chunks together, in order.

    Args:
        model: The model, whose device and dtype the pixels get.
        pixels: `Chunk.pixels` of each chunk with images.

    Returns:
        The arguments of the model's forward, empty without images.
    """
    if not pixels:
        return {}
    torch = import_optional("torch", extra="vlm", purpose="run a vision-language model")
    axis = 1 if model.config.model_type in _PIXELS_WITH_BATCH else 0
    device, batch = input_device(model), dict[str, Any]()
    for name in pixels[0]:
        tensors = [entry[name] for entry in pixels]
        joined = torch.cat(_padded(torch, tensors, axis) if len(tensors) > 1 else tensors, axis)
        batch[name] = joined.to(device, model.dtype if joined.is_floating_point() else joined.dtype)
    if model.config.model_type == "llava_onevision":
        # With more images than one, none of them is cut into tiles; see `agile_gym.models.loading.process`.
        batch["batch_num_images"] = torch.tensor([max(2, len(batch["image_sizes"]))], device=device)
    return batch


def image_arguments(model: Any, pixels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:  # noqa: ANN401 -- tensors
    """Put images together for the model's forward, and encode only once one that is shown several times.

    The episodes of a puzzle show the same pieces, so that most of the vision encoder's cost is spared in an update.
    Gradients add up over the places where an image is shown.

    Args:
        model: The model.
        pixels: The processor's tensors for each image, in order; the same object where it is the same image.

    Returns:
        The arguments of the model's forward: pixels, or features where some are shared and the model takes them.
    """
    order = {id(entry): entry for entry in pixels}
    model_type = model.config.model_type
    if len(order) == len(pixels) or model_type not in _SEEN_ONE_BY_ONE or not _takes_features(model):
        return collate_pixels(model, pixels)
    torch = import_optional("torch", extra="vlm", purpose="run a vision-language model")
    seen = _inner(model).get_image_features(**collate_pixels(model, list(order.values())), return_dict=True)
    places: dict[int, NDArray[np.int64]] = {}
    end = 0
    for key, features in zip(order, seen.pooler_output, strict=True):
        places[key] = np.arange(end, end + len(features))
        end += len(features)
    chosen = torch.from_numpy(np.concatenate([places[id(entry)] for entry in pixels])).to(input_device(model))
    seen.pooler_output = [torch.cat(list(seen.pooler_output)).index_select(0, chosen)]  # (tokens, width) of all images
    return {"mm_encoder_outputs": {"image": seen}}


def _takes_features(model: Any) -> bool:  # noqa: ANN401 -- transformers is untyped
    """Return whether a model's forward takes features of images instead of pixels, as newer versions of it do."""
    return "mm_encoder_outputs" in inspect.signature(_inner(model).forward).parameters


def _padded(torch: Any, tensors: Sequence[Any], axis: int) -> list[Any]:  # noqa: ANN401 -- a module and tensors
    """Pad tensors with zeros behind, in all dimensions but the one they are joined along."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    padded: list[Any] = []
    for tensor in tensors:
        margins = [
            0 if i == axis else want - have for i, (want, have) in enumerate(zip(shape, tensor.shape, strict=True))
        ]
        widths = [width for margin in reversed(margins) for width in (0, margin)]
        padded.append(torch.nn.functional.pad(tensor, widths) if any(widths) else tensor)
    return padded


def _inner(model: Any) -> Any:  # noqa: ANN401 -- transformers is untyped
    """Return the model below adapters and heads."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.model


class Reader:
    """Converter of the observations of a batch into tokens and positions.

    Several episodes of one puzzle show the same images and texts, at the start and often later. Equal observations
    share one chunk, whose identity marks them as equal.
    """

    def __init__(self, chat: ChatFormat, model: Any) -> None:  # noqa: ANN401 -- transformers is untyped
        """Start a batch.

        Args:
            chat: The model's chat format.
            model: The model, which defines the positions.
        """
        self._chat = chat
        self._model = model
        self._chunks: dict[tuple[Any, ...], Chunk] = {}
        self._positions: dict[int, NDArray[np.int64]] = {}

    def opening(self, text: str, images: Sequence[Image]) -> Chunk:
        """Return the start of a conversation; see `ChatFormat.opening`."""
        return self._once(lambda: self._chat.opening(text, images), text, images)

    def follow_up(self, text: str, images: Sequence[Image], *, after: int | None) -> Chunk:
        """Return the tokens to add after the model's turn; see `ChatFormat.follow_up`."""
        ended = after is not None and after == self._chat.end_of_turn
        return self._once(lambda: self._chat.follow_up(text, images, after=after), text, images, ended)

    def positions(self, chunk: Chunk) -> NDArray[np.int64]:
        """Return the positions of a chunk that this reader has made; see `relative_positions`."""
        known = self._positions.get(id(chunk))  # the reader keeps its chunks, so that no other gets the same id
        if known is None:
            known = self._positions[id(chunk)] = relative_positions(self._model, chunk)
        return known

    def _once(self, make: Callable[[], Chunk], text: str, images: Sequence[Image], *kind: bool) -> Chunk:
        key = (kind, text, *map(hash_pixels, images))
        chunk = self._chunks.get(key)
        if chunk is None:
            chunk = self._chunks[key] = make()
        return chunk
