# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch are incomplete.
"""Correction of a mismatch: the sampler's log-probabilities differ from the learner's for the same weights.

Engines round differently, so that tokens are drawn from another distribution than the one that is trained. Importance
weights make up for it, or leave out what is too far off; they are constants, and multiply the loss of a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from agile_gym.learner.ratios import difference, k3, log_ratios

__all__ = ["CORRECTIONS", "MismatchMeter", "mismatch", "mismatch_weights"]

CORRECTIONS = ("none", "token_truncate", "sequence_mask")
"""The corrections, by name."""


def mismatch_weights(logps: Tensor, sampled: Tensor, loss_mask: Tensor, *, correction: str, cap: float) -> Tensor:
    """Return the weight of each token's loss.

    ``"token_truncate"`` gives a token the ratio of its probabilities, at most the cap; ``"sequence_mask"`` gives all
    tokens of a row the ratio of the row's probabilities, and 0 if it is above the cap.

    Args:
        logps: (B, T) floating, the learner's log-probabilities, with the weights that the tokens were sampled with.
        sampled: (B, T) floating, the sampler's.
        loss_mask: (B, T) bool or integer, 1 on the tokens that are trained on.
        correction: One of `CORRECTIONS`.
        cap: Largest ratio, above 0.

    Returns:
        (B, T) float32 or float64, no gradient.

    Raises:
        ValueError: If an argument is not allowed.
    """
    if correction not in CORRECTIONS:
        raise ValueError(f"correction={correction!r} is not allowed; give one of {', '.join(CORRECTIONS)}.")
    if not cap > 0:
        raise ValueError(f"cap={cap} must be above 0.")
    with torch.no_grad():
        changes = log_ratios(logps, sampled, loss_mask)
        if correction == "none":
            return torch.ones_like(changes)
        if correction == "token_truncate":
            return changes.exp().clamp(max=cap)
        ratios = changes.sum(1, keepdim=True).exp()
        return ratios.masked_fill(ratios > cap, 0).expand_as(changes)


def mismatch(logps: Tensor, sampled: Tensor, loss_mask: Tensor, *, correction: str, cap: float) -> dict[str, Tensor]:
    """Return sums that describe a mismatch, and the largest difference.

    Args:
        logps: As in `mismatch_weights`.
        sampled: As in `mismatch_weights`.
        loss_mask: As in `mismatch_weights`.
        correction: As in `mismatch_weights`.
        cap: As in `mismatch_weights`.

    Returns:
        () each: ``tokens``; ``mismatch_mean``, the sum of absolute differences of log-probabilities; ``mismatch_kl``,
        that of the k3 estimate of KL(sampler || learner); ``mismatch_clipped``, the number of tokens whose ratio, or
        whose sequence's, is above the cap; and ``max_mismatch``.
    """
    on = loss_mask.bool()
    with torch.no_grad():
        apart = difference(logps, sampled, on).abs()
        changes = log_ratios(logps, sampled, loss_mask)
        above = (changes.sum(1, keepdim=True) if correction == "sequence_mask" else changes).exp() > cap
        return {
            "tokens": on.sum().double(),
            "mismatch_mean": apart.sum().double(),
            "mismatch_kl": k3(sampled, logps, loss_mask).sum().double(),
            "mismatch_clipped": (above & on).sum().double(),
            "max_mismatch": apart.amax().double() if apart.numel() else apart.new_zeros(()).double(),
        }


class MismatchMeter:
    """Mismatch of many micro-batches, on all learners."""

    def __init__(self, *, correction: str, cap: float) -> None:
        """Begin.

        Args:
            correction: As in `mismatch_weights`.
            cap: As in `mismatch_weights`.
        """
        self._options: dict[str, Any] = {"correction": correction, "cap": cap}
        nothing = torch.zeros(1, 1)
        self._values = mismatch(nothing, nothing, nothing.bool(), **self._options)  # a learner may have no samples

    def add(self, logps: Tensor, sampled: Tensor, loss_mask: Tensor) -> None:
        """Take the tokens of a micro-batch; the arguments are those of `mismatch`."""
        for name, value in mismatch(logps, sampled, loss_mask, **self._options).items():
            known, new = self._values[name], value.cpu()
            self._values[name] = torch.maximum(known, new) if name.startswith("max_") else known + new

    def mean(self, reduce: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Return the mismatch by token, and the largest.

        Args:
            reduce: Function that returns sums and maxima over all learners, each of which must call it.

        Returns:
            The values of `mismatch` by their names, but for ``tokens``. Empty without tokens.
        """
        names = sorted(self._values, key=lambda name: name.startswith("max_"))
        sums = [self._values[name] for name in names if not name.startswith("max_")]
        added, largest = reduce(torch.stack(sums), torch.stack([self._values[name] for name in names[len(sums) :]]))
        told = dict(zip(names, [*added.tolist(), *largest.tolist()], strict=True))
        tokens = told.pop("tokens")
        if not tokens:
            return {}
        return {name: value if name.startswith("max_") else value / tokens for name, value in told.items()}
