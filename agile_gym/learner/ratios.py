# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch are incomplete.
"""Ratios, divergences and entropies of what a model would write, from log-probabilities.

Arithmetic is in float32, or in float64 where the log-probabilities are. What stands where a mask is 0 has no influence
and gets no gradient, be it NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["MAX_LOG_RATIO", "check_mask", "check_shapes", "difference", "entropy", "k3", "log_ratios", "only"]

MAX_LOG_RATIO = 20.0
"""Logarithms of ratios are clamped to +- this before they are exponentiated; beyond it, the gradient is 0."""


def check_mask(mask: Tensor) -> None:
    """Check that a mask is (B, T), bool or integer.

    Raises:
        ValueError: If it is not.
    """
    if mask.ndim != 2:
        raise ValueError(f"mask {tuple(mask.shape)} must have shape (B, T).")
    if mask.is_floating_point() or mask.is_complex():
        raise ValueError(f"mask must be bool or integer, not {mask.dtype}: a token is trained on or not.")


def check_shapes(mask: Tensor, **arrays: Tensor | None) -> None:
    """Check that a mask is one, and that arrays have its shape and are floating.

    Args:
        mask: (B, T) bool or integer.
        arrays: (B, T) floating each, or None.

    Raises:
        ValueError: If one does not fit.
    """
    check_mask(mask)
    for name, array in arrays.items():
        if array is None:
            continue
        if array.shape != mask.shape:
            raise ValueError(f"{name} {tuple(array.shape)} must have the shape (B, T) of mask, {tuple(mask.shape)}.")
        if not array.is_floating_point():
            raise ValueError(f"{name} must be floating, not {array.dtype}.")


def only(array: Tensor, mask: Tensor) -> Tensor:
    """Return (B, T) an array in float32, or float64 if it is that, with 0 where the bool mask (B, T) is."""
    wide = array if array.dtype == torch.float64 else array.float()
    return wide.masked_fill(~mask, 0)


def difference(first: Tensor, second: Tensor, mask: Tensor) -> Tensor:
    """Return (B, T) first - second, 0 where the bool mask (B, T) is."""
    return only(first, mask) - only(second, mask)


def log_ratios(logps: Tensor, old_logps: Tensor, mask: Tensor) -> Tensor:
    """Return how much likelier each token has become.

    Args:
        logps: (B, T) floating, log-probabilities now.
        old_logps: (B, T) floating, log-probabilities when sampled.
        mask: (B, T) bool or integer.

    Returns:
        (B, T) float32 or float64, log(p / p_old), clamped to +-20; 0 where the mask is.

    Raises:
        ValueError: If a shape or type does not fit.
    """
    check_shapes(mask, logps=logps, old_logps=old_logps)
    return difference(logps, old_logps, mask.bool()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def k3(logps: Tensor, ref_logps: Tensor, mask: Tensor) -> Tensor:
    """Estimate the KL divergence from the reference at each token: r - 1 - log r, where r = p_ref / p.

    It is never negative, and its mean over tokens drawn from p is KL(p || p_ref) (Schulman's third estimator).

    Args:
        logps: (B, T) floating, log-probabilities now.
        ref_logps: (B, T) floating, log-probabilities under the reference.
        mask: (B, T) bool or integer.

    Returns:
        (B, T) float32 or float64, in nats; log r is clamped to +-20; 0 where the mask is.

    Raises:
        ValueError: If a shape or type does not fit.
    """
    check_shapes(mask, logps=logps, ref_logps=ref_logps)
    change = log_ratios(ref_logps, logps, mask)
    return torch.expm1(change) - change


def entropy(logps: Tensor) -> Tensor:
    """Return the entropy of distributions.

    Args:
        logps: (..., V) floating, log-probabilities of the whole vocabulary; -inf for what cannot be drawn.

    Returns:
        (...) of the same type, in nats.
    """
    return -(logps.exp() * logps.masked_fill(logps == -torch.inf, 0)).sum(-1)
