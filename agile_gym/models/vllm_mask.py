# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUntypedBaseClass=false, reportUnknownParameterType=false, reportUnknownArgumentType=false
# vLLM is installed in few environments.
"""Mask of the tokens that vLLM may draw; vLLM imports this module by its name."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor

__all__ = ["AllowedTokens"]


class AllowedTokens(LogitsProcessor):
    """Mask that forbids the same tokens in all requests, as `agile_gym.models.sampling.forbidden_tokens` does."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ANN401 -- vLLM's
        """Take the allowed tokens from vLLM's configuration."""
        allowed = torch.tensor(vllm_config.additional_config["agile_gym_allowed"], device=device)
        self._forbidden = torch.ones(vllm_config.model_config.get_vocab_size(), dtype=torch.bool, device=device)
        self._forbidden[allowed] = False

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Mask logits (rows, V) in place."""
        forbidden = self._forbidden
        if logits.shape[-1] > len(forbidden):
            forbidden = torch.nn.functional.pad(forbidden, (0, logits.shape[-1] - len(forbidden)), value=True)
        return logits.masked_fill_(forbidden[: logits.shape[-1]], -torch.inf)

    def is_argmax_invariant(self) -> bool:
        """Return False: the likeliest token may be forbidden."""
        return False

    def update_state(self, batch_update: Any) -> None:  # noqa: ANN401 -- vLLM's
        """Do nothing: all requests have the same mask."""
