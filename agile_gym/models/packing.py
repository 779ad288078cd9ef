# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Packed sequences: several of them one behind the other in one row, each of which attends to itself alone.

Nothing is padded then, and logits are computed of the very tokens that are scored. With PyTorch's attention (sdpa) the
mask is block-diagonal without ever being made: each sequence is attended to by itself, causally, so that the cost is
that of the sequences and not of the row. FlashAttention finds the sequences by the positions, which begin anew at 0.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from agile_gym.errors import ConfigurationError, did_you_mean
from agile_gym.models.inputs import has_rope_index

__all__ = ["FAMILIES", "PACKING", "find_obstacle", "packed_arguments", "prepare_packing", "resolve_packing"]

PACKING = ("off", "on", "auto")
"""Values of the setting."""
FAMILIES = frozenset(
    {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "llava_onevision", "internvl", "idefics3", "smolvlm"}
)
"""Types of models whose packed sequences are tested against padded ones."""
_ATTENTION = "agile_gym_packed_sdpa"
_FLASH = "flash_attention_2"
_logger = logging.getLogger(__name__)
_told: set[str] = set()


def resolve_packing(packing: str, model: Any) -> bool:  # noqa: ANN401 -- transformers is untyped
    """Decide if sequences are packed.

    Args:
        packing: ``"off"``, ``"on"``, or ``"auto"``: if the model can; else the reason is logged, once.
        model: The model.

    Raises:
        ConfigurationError: If they are to be packed and the model cannot, or the value is not allowed.
    """
    if packing not in PACKING:
        raise ConfigurationError(f"packing={packing!r} is not allowed. {did_you_mean(packing, PACKING)}")
    obstacle = None if packing == "off" else find_obstacle(model)
    if obstacle is None:
        return packing == "on" or packing == "auto"
    if packing == "on":
        raise ConfigurationError(f"packing='on' is not possible: {obstacle} Set packing='auto' or 'off', which pad.")
    if obstacle not in _told:
        _told.add(obstacle)
        _logger.warning("Sequences are padded, not packed: %s", obstacle)
    return False


def find_obstacle(model: Any) -> str | None:  # noqa: ANN401 -- transformers is untyped
    """Return the reason why a model cannot score packed sequences, or None."""
    kind = model.config.model_type
    if kind not in FAMILIES:
        return f"models of type {kind!r} are not tested with packed sequences, as {', '.join(sorted(FAMILIES))} are."
    config = _decoder_config(model)
    layers = set(getattr(config, "layer_types", None) or ())
    windowed = not layers and getattr(config, "sliding_window", None) is not None
    if windowed or layers - {"full_attention"}:
        told = ", ".join(sorted(layers - {"full_attention"})) or f"sliding_window={config.sliding_window}"
        return f"the text model has layers that do not attend to the whole sequence ({told})."
    if config._attn_implementation not in ("sdpa", _ATTENTION, _FLASH):
        return f"attention={config._attn_implementation!r} computes padded rows only; 'sdpa' and {_FLASH!r} pack."
    return None


def prepare_packing(model: Any) -> None:  # noqa: ANN401 -- transformers is untyped
    """Make the text model's attention one that takes packed sequences; for any other input it stays PyTorch's.

    It stays in place, as gradient checkpointing calls it again in the backward pass.

    Args:
        model: A model without an obstacle; see `find_obstacle`.
    """
    config = _decoder_config(model)
    if config._attn_implementation != "sdpa":
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_ATTENTION, _attend)
    AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
    config._attn_implementation = _ATTENTION


def packed_arguments(model: Any, lengths: Sequence[int], positions: Tensor) -> dict[str, Any]:  # noqa: ANN401 -- as above
    """Return the arguments of a model's forward that keep packed sequences apart.

    Args:
        model: A model that `prepare_packing` has prepared.
        lengths: Tokens of each sequence, in order; N in all.
        positions: (1 or 3, 1, N) int64, positions of the tokens, which begin anew in each sequence.

    Returns:
        ``attention_mask`` and ``position_ids``.
    """
    three = has_rope_index(model)
    if _decoder_config(model)._attn_implementation == _ATTENTION:
        # transformers passes a mask of four dimensions to the attention unchanged. It stays on the CPU: each layer
        # reads the lengths, and would have to wait for a GPU.
        return {
            "attention_mask": torch.tensor(lengths, dtype=torch.int32)[None, None, None],
            "position_ids": positions if three else positions[0],
        }
    counts = torch.cat([torch.arange(length, device=positions.device) for length in lengths])[None, None]
    return {"attention_mask": None, "position_ids": torch.cat([counts, positions]) if three else counts[0]}


def _attend(
    module: Any,  # noqa: ANN401 -- transformers is untyped
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,  # noqa: ANN401 -- likewise
) -> tuple[Tensor, None]:
    """Attend to each packed sequence by itself, or, with a mask of another kind, as PyTorch's attention does.

    Args:
        module: The layer.
        query: (B, heads, T, width) of the queries; B is 1 if sequences are packed.
        key: (B, key heads, T, width).
        value: (B, key heads, T, width).
        attention_mask: (1, 1, 1, K) int32, the lengths of packed sequences, or a mask for PyTorch's attention.
        **options: Of that attention.

    Returns:
        (B, T, heads, width), and None instead of the weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is None or attention_mask.dtype != torch.int32:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    lengths = attention_mask.flatten().tolist()
    parts = zip(*(tensor.split(lengths, 2) for tensor in (query, key, value)), strict=True)
    options["is_causal"] = True
    return torch.cat([sdpa_attention_forward(module, q, k, v, None, **options)[0] for q, k, v in parts], 1), None


def _decoder_config(model: Any) -> Any:  # noqa: ANN401 -- transformers is untyped
    """Return the configuration that the layers of the text model read."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.get_decoder().config
