"""The tiny model: a LLaVA (SigLIP vision tower, MLP projector, Llama) of some three million parameters.

It computes what `LlavaForConditionalGeneration` computes, on the same weights, but

- an image is a matrix product and its attention, over one token, a linear map;
- tokens that all conversations share at the start are computed once;
- the last layer is computed only where something is to be predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 -- the usual name

from agile_gym.errors import ConfigurationError, import_optional, require_seed
from agile_gym.files import filling
from agile_gym.interruption import hold
from agile_gym.models.tiny.words import BOS, CONTEXT, END, IMAGE, PAD, build_tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

__all__ = ["PIECE", "TinySizes", "build_processor", "build_tiny", "image_features", "last_hidden", "save_tiny"]

PIECE = 32
"""Side of an image as the model sees it, in pixels; every image is resized to it and is one token."""


@dataclass(frozen=True)
class TinySizes:
    """The sizes of the model.

    Attributes:
        width: Size of a token's vector in the language model, a multiple of ``2 * heads``.
        layers: Layers of the language model.
        heads: Attention heads of the language model.
        inner: Size of the language model's MLP.
        vision_width: Size of an image's vector in the vision tower, a multiple of 4.
        vision_inner: Size of the vision tower's MLP.
    """

    width: int = 192
    layers: int = 4
    heads: int = 6
    inner: int = 512
    vision_width: int = 256
    vision_inner: int = 512

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
        if self.vision_width % 4:
            raise ConfigurationError(f"vision_width={self.vision_width} must be a multiple of 4.")


def build_processor() -> LlavaProcessor:
    """Build the processor: tokenizer, chat template, and images resized to 32 x 32 with pixels from -1 to 1.

    Works with and without torchvision.

    Raises:
        MissingDependencyError: If transformers is not installed.
    """
    transformers: Any = import_optional("transformers", extra="vlm", purpose="build the tiny model")
    side = {"height": PIECE, "width": PIECE}
    # The one that needs no torchvision; before it had a name of its own it was the ordinary one.
    make_images = getattr(transformers, "SiglipImageProcessorPil", None) or transformers.SiglipImageProcessor
    images = make_images(
        size=side,
        crop_size=side,  # nothing is cropped, but LlavaProcessor counts an image's tokens by it
        do_center_crop=False,
        do_resize=True,
        resample=3,  # bicubic
        do_rescale=True,
        do_normalize=True,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        do_convert_rgb=True,
    )
    tokenizer: Any = build_tokenizer()
    return transformers.LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PIECE,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
        image_token=IMAGE,
    )


def build_tiny(
    seed: int = 0, *, sizes: TinySizes | None = None
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Build the model, untrained, with its processor.

    An image of any size becomes one token: 32 x 32 pixels, through a linear map and two small MLPs. What the model
    needs at one turn of a 2x2 jigsaw is then some twenty tokens.

    Args:
        seed: Seed of the weights, 0 to `agile_gym.errors.MAX_SEED`.
        sizes: The sizes; by default some three million parameters.

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
    config = transformers.LlavaConfig(
        vision_config=transformers.SiglipVisionConfig(
            hidden_size=sizes.vision_width,
            intermediate_size=sizes.vision_inner,
            num_hidden_layers=1,
            num_attention_heads=4,
            image_size=PIECE,
            patch_size=PIECE,
            vision_use_head=False,
        ),
        text_config=transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=sizes.width,
            intermediate_size=sizes.inner,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            **ends,
        ),
        image_token_index=ids[IMAGE],
        image_seq_length=1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
        **ends,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.LlavaForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(**ends)
    return model.eval(), processor


def save_tiny(path: str | Path, seed: int = 0, *, sizes: TinySizes | None = None) -> Path:
    """Build the model and write it as an ordinary Hugging Face model directory.

    Args:
        path: Where to write; made if it does not exist.
        seed: Seed of the weights, 0 to `agile_gym.errors.MAX_SEED`.
        sizes: The sizes.

    Returns:
        The path, for ``AutoModelForImageTextToText.from_pretrained`` and ``AutoProcessor.from_pretrained``.

    Raises:
        ConfigurationError: If a size or the seed is not allowed.
        MissingDependencyError: If torch or transformers is not installed.
    """
    target = Path(path)
    parts: tuple[Any, Any] = build_tiny(seed, sizes=sizes)
    with hold(), filling(target) as beside:
        for part in parts:
            part.save_pretrained(beside)
    return target


_MASKED = -1e4


def image_features(model: Any, pixels: Tensor) -> Tensor:  # noqa: ANN401 -- transformers is untyped
    """Compute the vectors that stand for images in the language model.

    Args:
        model: The tiny model.
        pixels: (N, 3, 32, 32) float32, -1 to 1, as the processor makes them.

    Returns:
        (N, width).
    """
    tower = model.model.vision_tower
    patch = tower.embeddings.patch_embedding
    x = F.linear(pixels.flatten(1), patch.weight.flatten(1), patch.bias) + tower.embeddings.position_embedding.weight
    for layer in tower.encoder.layers:
        attention = layer.self_attn  # a token that sees only itself passes its value on
        x = x + attention.out_proj(attention.v_proj(layer.layer_norm1(x)))
        x = x + layer.mlp(layer.layer_norm2(x))
    return model.model.multi_modal_projector(x)


def last_hidden(model: Any, start: Tensor, rest: Tensor, keep: int) -> Tensor:  # noqa: ANN401 -- likewise
    """Compute the language model's last hidden states at the end of conversations that begin alike.

    Args:
        model: The tiny model.
        start: (S, width), the vectors of the tokens that all share, at least one.
        rest: (B, R, width), the vectors of those that follow, images included.
        keep: Number of positions at the end that are wanted, at most R.

    Returns:
        (B, keep, width).
    """
    language = model.model.language_model
    heads: int = language.config.num_attention_heads
    first, width = start.shape
    length = first + rest.shape[1]
    cosine, sine = _rotations(language, length)
    seen = torch.full((length, length), _MASKED, device=start.device).triu(1)
    shared, x = start[None], rest
    for number, layer in enumerate(language.layers, 1):
        final = number == len(language.layers)
        size = width // heads
        weight = torch.cat(
            [
                layer.self_attn.q_proj.weight * size**-0.5,
                layer.self_attn.k_proj.weight,
                layer.self_attn.v_proj.weight,
            ]
        )

        def heads_of(x: Tensor, norm: Any = layer.input_layernorm, weight: Tensor = weight) -> Any:  # noqa: ANN401 -- a module and a tensor of torch
            mixed = F.linear(_norm(x, norm), weight)
            return mixed.view(x.shape[0], x.shape[1], 3, heads, -1).permute(2, 0, 3, 1, 4)

        shared_q, shared_k, shared_v = heads_of(shared)
        q, k, v = heads_of(x)
        shared_k = _rotate(shared_k, cosine[:first], sine[:first]).to(v.dtype)
        q = _rotate(q, cosine[first:], sine[first:]).to(v.dtype)
        k = _rotate(k, cosine[first:], sine[first:]).to(v.dtype)
        if final:
            q, x = q[:, :, -keep:], x[:, -keep:]
        scores = torch.cat([q @ shared_k.transpose(-1, -2), q @ k.transpose(-1, -2)], -1)
        shares = (scores + seen[-q.shape[2] :]).softmax(-1).to(v.dtype)
        x = _after_attention(layer, x, shares[..., :first] @ shared_v + shares[..., first:] @ v)
        if not final:
            shared_q = _rotate(shared_q, cosine[:first], sine[:first]).to(v.dtype)
            scores = shared_q @ shared_k.transpose(-1, -2) + seen[:first, :first]
            shared = _after_attention(layer, shared, scores.softmax(-1).to(v.dtype) @ shared_v)
    return _norm(x, language.norm)


def _after_attention(layer: Any, x: Tensor, mixed: Tensor) -> Tensor:  # noqa: ANN401 -- likewise
    """Add a layer's attention, (B, heads, T, size), and its MLP."""
    x = x + layer.self_attn.o_proj(mixed.transpose(1, 2).flatten(2))
    inner = _norm(x, layer.post_attention_layernorm)
    return x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(inner)) * layer.mlp.up_proj(inner))


def _norm(x: Tensor, norm: Any) -> Tensor:  # noqa: ANN401 -- likewise
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def _rotations(language: Any, length: int) -> tuple[Tensor, Tensor]:  # noqa: ANN401 -- likewise
    """Return cosine and sine, (length, head size), of the rotary positions from 0."""
    positions = torch.arange(length, device=language.norm.weight.device)[None]
    cosine, sine = language.rotary_emb(language.norm.weight, positions)
    return cosine[0], sine[0]


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cosine + torch.cat([-x[..., half:], x[..., :half]], -1) * sine
