"""The tiny model's forward pass once more, for batches of conversations that begin alike: less work, the same numbers.

It computes what `LlavaForConditionalGeneration` computes, on the same weights, but

- an image is a matrix product and its attention, over one token, a linear map;
- tokens that all conversations share at the start are computed once;
- the last layer is computed only where something is to be predicted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 -- the usual name

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["image_features", "last_hidden"]

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
