"""The tiny model: a Qwen2.5-VL (vision transformer, merger, language model) of some 1.3 million parameters.

An image is one token or several, by its size: it is scaled to whole windows of 48 x 48 pixels, and a window is a token.
A piece of 32 x 32 pixels is one, a 2x2 board of 64 x 64 is one, a 3x3 board of 96 x 96 is four, whose seams lie inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 -- the usual name
from numpy.typing import NDArray
from PIL import Image

from agile_gym.errors import ConfigurationError, import_optional, require_seed
from agile_gym.files import filling
from agile_gym.interruption import hold
from agile_gym.models.processors import save_processor
from agile_gym.models.tiny.words import BOS, CONTEXT, END, IMAGE, PAD, build_tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PaddleOCRVLProcessor, Qwen2_5_VLForConditionalGeneration

__all__ = [
    "PIECE",
    "WINDOW",
    "TinySizes",
    "as_pixels",
    "as_tensor",
    "build_processor",
    "build_tiny",
    "image_features",
    "save_tiny",
    "window_grid",
]

PIECE = 32
"""Side of a piece as the tiny model is trained on it, in pixels."""
PATCH = 16
"""Side of a patch of the vision transformer, in pixels."""
MERGE = 3
"""Patches of a token, in each direction."""
WINDOW = PATCH * MERGE
"""Side of what one token shows, in pixels."""
_ROPE_BASE = 10_000.0
MOST_WINDOWS = 4
"""Most tokens of an image: larger ones are scaled down. A setting of the processor (``size``, in pixels)."""


@dataclass(frozen=True)
class TinySizes:
    """The sizes of the model.

    Attributes:
        width: Size of a token's vector in the language model, a multiple of ``2 * heads``.
        layers: Layers of the language model.
        heads: Attention heads of the language model.
        inner: Size of the language model's MLP.
        vision_width: Size of a patch's vector in the vision transformer, a multiple of 16.
        vision_layers: Layers of the vision transformer.
    """

    width: int = 128
    layers: int = 3
    heads: int = 4
    inner: int = 384
    vision_width: int = 64
    vision_layers: int = 2

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ConfigurationError: If one is not positive, or the heads do not divide the width.
        """
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"{name}={value!r} must be a whole number, 1 or more.")
        if self.width % (2 * self.heads):
            raise ConfigurationError(
                f"width={self.width} must be a multiple of 2 * heads = {2 * self.heads}; try {2 * self.heads * 16}."
            )
        if self.vision_width % 16:
            raise ConfigurationError(f"vision_width={self.vision_width} must be a multiple of 16; try 64.")


def build_processor() -> PaddleOCRVLProcessor:
    """Build the processor: tokenizer, chat template, and images scaled to windows of 48 x 48, pixels from -1 to 1.

    Works with and without torchvision, which Qwen2.5-VL's own processor needs for videos. PaddleOCR-VL's makes the same
    inputs of images.

    Raises:
        MissingDependencyError: If transformers is not installed.
    """
    transformers: Any = import_optional("transformers", extra="vlm", purpose="build the tiny model")
    # The one that needs no torchvision; before it had a name of its own it was the ordinary one.
    make_images = getattr(transformers, "Qwen2VLImageProcessorPil", None) or transformers.Qwen2VLImageProcessor
    images = make_images(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=1,
        size={"shortest_edge": WINDOW**2, "longest_edge": MOST_WINDOWS * WINDOW**2},
        do_resize=True,
        resample=3,  # bicubic
        do_rescale=True,
        do_normalize=True,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        do_convert_rgb=True,
    )
    tokenizer: Any = build_tokenizer()
    return transformers.PaddleOCRVLProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def build_tiny(
    seed: int = 0, *, sizes: TinySizes | None = None
) -> tuple[Qwen2_5_VLForConditionalGeneration, PaddleOCRVLProcessor]:
    """Build the model, untrained, with its processor.

    What the model needs at one turn of a 2x2 jigsaw is some twenty tokens.

    Args:
        seed: Seed of the weights, 0 to `agile_gym.arguments.MAX_SEED`.
        sizes: The sizes; by default some 1.3 million parameters.

    Returns:
        The model in float32, in evaluation mode, and its processor.

    Raises:
        ConfigurationError: If a size or the seed is not allowed.
        MissingDependencyError: If torch or transformers is not installed.
    """
    seed = require_seed(seed)
    torch: Any = import_optional("torch", extra="vlm", purpose="build the tiny model")
    transformers: Any = import_optional("transformers", extra="vlm", purpose="build the tiny model")
    sizes = sizes or TinySizes()
    processor = build_processor()
    tokenizer: Any = processor.tokenizer
    ids: dict[str, int] = {token: tokenizer.convert_tokens_to_ids(token) for token in (BOS, END, PAD, IMAGE)}
    ends = {"bos_token_id": ids[BOS], "eos_token_id": ids[END], "pad_token_id": ids[PAD]}
    half = sizes.width // sizes.heads // 2
    sides = 3 * half // 8
    config = transformers.Qwen2_5_VLConfig(
        vision_config={
            "depth": sizes.vision_layers,
            "hidden_size": sizes.vision_width,
            "out_hidden_size": sizes.width,
            "intermediate_size": 2 * sizes.vision_width,
            "num_heads": 4,
            "window_size": MOST_WINDOWS * WINDOW,
            "fullatt_block_indexes": list(range(sizes.vision_layers)),
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 1,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": sizes.width,
            "intermediate_size": sizes.inner,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.heads,
            "max_position_embeddings": CONTEXT,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [half - 2 * sides, sides, sides],
            },
            "tie_word_embeddings": True,
            **ends,
        },
        image_token_id=ids[IMAGE],
        # There are no videos, and nothing stands around an image: ids that are no words.
        video_token_id=len(tokenizer),
        vision_start_token_id=len(tokenizer) + 1,
        vision_end_token_id=len(tokenizer) + 2,
        tie_word_embeddings=True,
        **ends,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.Qwen2_5_VLForConditionalGeneration(config)
        for parameter in model.model.visual.parameters():
            if parameter.ndim > 1:  # transformers' standard deviation of 0.02 suits wide layers
                torch.nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
    model.generation_config = transformers.GenerationConfig(**ends)
    return model.eval(), processor


def save_tiny(path: str | Path, seed: int = 0, *, sizes: TinySizes | None = None) -> Path:
    """Build the model and write it as an ordinary Hugging Face model directory.

    Args:
        path: Folder to write to; made if it does not exist.
        seed: Seed of the weights, 0 to `agile_gym.arguments.MAX_SEED`.
        sizes: The sizes.

    Returns:
        The path, for ``AutoModelForImageTextToText.from_pretrained`` and ``AutoProcessor.from_pretrained``.

    Raises:
        ConfigurationError: If a size or the seed is not allowed.
        MissingDependencyError: If torch or transformers is not installed.
    """
    target = Path(path)
    parts: tuple[Any, Any] = build_tiny(seed, sizes=sizes)
    model, processor = parts
    with hold(), filling(target) as beside:
        model.save_pretrained(beside)
        save_processor(processor, beside)
    return target


def window_grid(height: int, width: int) -> tuple[int, int]:
    """Return how many windows high and wide the processor makes an image of a height and a width, in pixels."""
    high, wide = round(height / WINDOW), round(width / WINDOW)
    scale = math.sqrt(height * width) / WINDOW
    if high * wide > MOST_WINDOWS:
        scale /= math.sqrt(MOST_WINDOWS)
        return max(1, math.floor(height / scale / WINDOW)), max(1, math.floor(width / scale / WINDOW))
    if high * wide < 1:
        return math.ceil(height / scale / WINDOW), math.ceil(width / scale / WINDOW)
    return high, wide


def image_features(model: Any, pixels: Tensor) -> Tensor:  # noqa: ANN401 -- transformers is untyped
    """Compute the vectors that stand for images of one size in the language model.

    It is what the model computes, in one pass over all images instead of one after the other.

    Args:
        model: The tiny model.
        pixels: (N, 3, H, W) float32, -1 to 1, whole windows high and wide, as the processor makes them.

    Returns:
        (N, T, width), the T windows row by row.
    """
    tower = model.model.visual
    count, high, wide = len(pixels), pixels.shape[2] // WINDOW, pixels.shape[3] // WINDOW
    patches = pixels.view(count, 3, high, MERGE, PATCH, wide, MERGE, PATCH).permute(0, 2, 5, 3, 6, 1, 4, 7)
    x = F.linear(patches.reshape(count, high * wide * MERGE**2, -1), tower.patch_embed.proj.weight.flatten(1))
    cosine, sine = _rotations(x.shape[-1] // tower.blocks[0].attn.num_heads, high, wide, x.device)
    for block in tower.blocks:
        attention = block.attn
        mixed = attention.qkv(block.norm1(x)).view(count, x.shape[1], 3, attention.num_heads, -1)
        q, k, v = mixed.permute(2, 0, 3, 1, 4)
        q, k = (_rotate(part, cosine, sine) for part in (q, k))
        seen = F.scaled_dot_product_attention(q, k, v)
        x = x + attention.proj(seen.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return tower.merger(x).view(count, high * wide, -1)


def _rotations(size: int, high: int, wide: int, device: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 -- torch.device
    """Return cosine and sine, (patches, size), of the rotary positions of patches: those of rows, those of columns."""
    rows, cols = torch.meshgrid(torch.arange(high * MERGE), torch.arange(wide * MERGE), indexing="ij")
    places = torch.stack([rows, cols], -1).view(high, MERGE, wide, MERGE, 2).transpose(1, 2).reshape(-1, 2, 1)
    angles = (places / _ROPE_BASE ** (torch.arange(0, size // 2, 2) / (size // 2))).flatten(1).repeat(1, 2).to(device)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cosine + torch.cat([-x[..., half:], x[..., :half]], -1) * sine


def as_tensor(array: NDArray[Any], device: Any) -> Tensor:  # noqa: ANN401 -- torch.device or its name
    """Return an array as a tensor on a device."""
    return torch.from_numpy(array).to(device)  # pyright: ignore[reportUnknownMemberType] -- torch is partly typed


def as_pixels(images: NDArray[np.uint8], device: Any) -> Tensor:  # noqa: ANN401 -- torch.device or its name
    """Return images of one size, (N, h, w, 3) uint8, as the processor makes them: at most two levels of 255 apart.

    Returns:
        (N, 3, H, W) float32 from -1 to 1, whole windows high and wide.
    """
    count, height, width = images.shape[:3]
    high, wide = (side * WINDOW for side in window_grid(height, width))
    pixels = as_tensor(images, device).permute(0, 3, 1, 2).float()
    if width != wide:  # first, as Pillow does it
        pixels = torch.matmul(pixels.reshape(-1, width), _resizing(width, wide).T.to(device)).clamp_(0, 255).round_()
        pixels = pixels.view(count, 3, height, wide)
    if height != high:
        pixels = torch.matmul(_resizing(height, high).to(device), pixels).clamp_(0, 255).round_()
    return pixels.div_(127.5).sub_(1)


@cache
def _resizing(source: int, target: int) -> Tensor:
    """Return the matrix (target, source) that resizes a side as Pillow does, bicubic."""
    rows = [
        np.asarray(Image.fromarray(row[None]).resize((target, 1), Image.Resampling.BICUBIC))[0]
        for row in np.eye(source, dtype=np.float32)
    ]
    return as_tensor(np.ascontiguousarray(np.stack(rows, 1)), "cpu")
