# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch are incomplete.
"""Ratios and divergences from log-probabilities, token counts of a batch, and statistics that add up over ranks.

Arithmetic is in float32, or in float64 where the log-probabilities are. Values where a loss mask is 0 have no
influence and get no gradient, be they NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "MAX_LOG_RATIO",
    "LossStats",
    "TokenBatch",
    "Totals",
    "check_mask",
    "check_shapes",
    "count",
    "difference",
    "entropy",
    "k3",
    "log_ratios",
    "mask_truncated",
    "only",
]

MAX_LOG_RATIO = 20.0
"""Logarithms of ratios are clamped to +- this before they are exponentiated; beyond it, the gradient is 0."""


def check_mask(loss_mask: Tensor) -> None:
    """Check that a loss mask is (B, T), bool or integer.

    Raises:
        ValueError: If it is not.
    """
    if loss_mask.ndim != 2:
        raise ValueError(f"loss_mask {tuple(loss_mask.shape)} must have shape (B, T).")
    if loss_mask.is_floating_point() or loss_mask.is_complex():
        raise ValueError(f"loss_mask must be bool or integer, not {loss_mask.dtype}: a token is trained on or not.")


def check_shapes(loss_mask: Tensor, **arrays: Tensor | None) -> None:
    """Check that a loss mask is one, and that arrays have its shape and are floating.

    Args:
        loss_mask: (B, T) bool or integer.
        arrays: (B, T) floating each, or None.

    Raises:
        ValueError: If one does not fit.
    """
    check_mask(loss_mask)
    for name, array in arrays.items():
        if array is None:
            continue
        if array.shape != loss_mask.shape:
            raise ValueError(
                f"{name} {tuple(array.shape)} must have the shape (B, T) of loss_mask, {tuple(loss_mask.shape)}."
            )
        if not array.is_floating_point():
            raise ValueError(f"{name} must be floating, not {array.dtype}.")


def only(array: Tensor, loss_mask: Tensor) -> Tensor:
    """Return (B, T) an array in float32, or float64 if it is that, with 0 where the bool loss mask (B, T) is."""
    wide = array if array.dtype == torch.float64 else array.float()
    return wide.masked_fill(~loss_mask, 0)


def difference(first: Tensor, second: Tensor, loss_mask: Tensor) -> Tensor:
    """Return (B, T) first - second, 0 where the bool loss mask (B, T) is."""
    return only(first, loss_mask) - only(second, loss_mask)


def log_ratios(logps: Tensor, old_logps: Tensor, loss_mask: Tensor) -> Tensor:
    """Return the logarithm of each token's importance ratio.

    Args:
        logps: (B, T) floating, log-probabilities now.
        old_logps: (B, T) floating, log-probabilities when sampled.
        loss_mask: (B, T) bool or integer.

    Returns:
        (B, T) float32 or float64, log(p / p_old), clamped to +-20; 0 where the loss mask is.

    Raises:
        ValueError: If a shape or type does not fit.
    """
    check_shapes(loss_mask, logps=logps, old_logps=old_logps)
    return difference(logps, old_logps, loss_mask.bool()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def k3(logps: Tensor, ref_logps: Tensor, loss_mask: Tensor) -> Tensor:
    """Estimate the KL divergence from the reference at each token: r - 1 - log r, where r = p_ref / p.

    It is never negative, and its mean over tokens drawn from p is KL(p || p_ref) (Schulman's third estimator).

    Args:
        logps: (B, T) floating, log-probabilities now.
        ref_logps: (B, T) floating, log-probabilities under the reference.
        loss_mask: (B, T) bool or integer.

    Returns:
        (B, T) float32 or float64, in nats; log r is clamped to +-20; 0 where the loss mask is.

    Raises:
        ValueError: If a shape or type does not fit.
    """
    check_shapes(loss_mask, logps=logps, ref_logps=ref_logps)
    change = log_ratios(ref_logps, logps, loss_mask)
    return torch.expm1(change) - change


def entropy(logps: Tensor) -> Tensor:
    """Return the entropy of distributions.

    Args:
        logps: (..., V) floating, log-probabilities of the whole vocabulary; -inf for tokens that cannot be drawn.

    Returns:
        (...) of the same type, in nats.
    """
    return -(logps.exp() * logps.masked_fill(logps == -torch.inf, 0)).sum(-1)


@dataclass(frozen=True, slots=True)
class Totals:
    """Divisors of the loss of a whole batch; both add up over micro-batches and ranks.

    Attributes:
        tokens: Tokens that are trained on, in all micro-batches of all ranks.
        episodes: Episodes with such tokens. An episode that is cut into several rows is one, and a row of it counts
            for the fraction of its tokens.
    """

    tokens: float
    episodes: float

    def __add__(self, other: Totals) -> Totals:
        """Return the counts of two micro-batches, or ranks, together."""
        return Totals(self.tokens + other.tokens, self.episodes + other.episodes)


@dataclass(frozen=True, eq=False, slots=True)
class TokenBatch:
    """The tokens of a micro-batch. Row ``b``, column ``t`` is the same token in every array.

    Values where the loss mask is 0 have no influence on a loss or its gradient, be they NaN.

    Attributes:
        logps: (B, T) floating, the log-probability of each token under the weights that are trained.
        old_logps: (B, T) floating, its log-probability when it was sampled.
        loss_mask: (B, T) bool or integer, 1 on the tokens that are trained on: those that the model wrote.
        advantages: (B,) or (B, T) floating, one an episode or one a token.
        lengths: (B,) the number of trained tokens of the whole episode that a row belongs to, if episodes are cut into
            several rows; None if each row is an episode.
        ref_logps: (B, T) floating, the log-probability of each token under the reference, for its KL term.
        entropies: (B, T) floating, the entropy of the distribution that each token was drawn from, in nats.
        weights: (B, T) floating, a factor of the policy's loss of each token; None for 1. See
            `agile_gym.learner.correction`.
    """

    logps: Tensor
    old_logps: Tensor
    loss_mask: Tensor
    advantages: Tensor
    lengths: Tensor | None = None
    ref_logps: Tensor | None = None
    entropies: Tensor | None = None
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        """Check shapes and types.

        Raises:
            ValueError: If one does not fit.
        """
        check_shapes(
            self.loss_mask,
            logps=self.logps,
            old_logps=self.old_logps,
            ref_logps=self.ref_logps,
            entropies=self.entropies,
            weights=self.weights,
        )
        shape = self.loss_mask.shape
        if self.advantages.shape not in (shape, shape[:1]):
            raise ValueError(
                f"advantages {tuple(self.advantages.shape)} must have shape (B,) or (B, T); (B, T) is {tuple(shape)}."
            )
        if not self.advantages.is_floating_point():
            raise ValueError(f"advantages must be floating, not {self.advantages.dtype}.")
        if self.lengths is not None and self.lengths.shape != shape[:1]:
            raise ValueError(
                f"lengths {tuple(self.lengths.shape)} must have shape (B,); loss_mask (B, T) is {tuple(shape)}."
            )


@dataclass(frozen=True, eq=False, slots=True)
class LossStats:
    """Statistics of a loss. Add those of micro-batches; reduce ``sums`` over ranks by sum, ``maxima`` by maximum.

    Attributes:
        names: Names of the sums, then of the maxima.
        sums: (S,) floating, no gradient.
        maxima: (M,) floating, no gradient.
    """

    names: tuple[str, ...]
    sums: Tensor
    maxima: Tensor

    @classmethod
    def make(cls, sums: dict[str, Tensor], maxima: dict[str, Tensor]) -> LossStats:
        """Make statistics of scalars, which lose their gradients.

        Args:
            sums: () each; ``"tokens"`` is among them. ``"loss"`` and ``"episodes"`` are reported as they are, all
                others a token.
            maxima: () each; at least one.
        """
        parts = (torch.stack([value.detach() for value in part.values()]) for part in (sums, maxima))
        return cls((*sums, *maxima), *parts)

    def __add__(self, other: LossStats) -> LossStats:
        """Return the statistics of two micro-batches, or ranks, together.

        Raises:
            ValueError: If they are of different kinds.
        """
        if self.names != other.names:
            raise ValueError(f"Statistics of {self.names} and of {other.names} do not add up.")
        return LossStats(self.names, self.sums + other.sums, torch.maximum(self.maxima, other.maxima))

    def metrics(self) -> dict[str, float]:
        """Return the statistics as numbers; see `agile_gym.learner.losses` for their names."""
        values = dict(zip(self.names, [*self.sums.tolist(), *self.maxima.tolist()], strict=True))
        tokens = max(values["tokens"], 1.0)
        means = set(self.names[: len(self.sums)]) - {"tokens", "episodes", "loss"}
        return {name: value / tokens if name in means else value for name, value in values.items()}


def count(loss_mask: Tensor, lengths: Tensor | None = None) -> Totals:
    """Count the tokens and episodes that the rows of a batch add to the totals.

    Args:
        loss_mask: (B, T) bool or integer, 1 on the tokens that are trained on.
        lengths: (B,) trained tokens of the whole episode that each row belongs to; None if each row is an episode.

    Returns:
        The counts, to be added up over micro-batches and ranks before the first loss is computed.

    Raises:
        ValueError: If a shape or type does not fit.
    """
    check_mask(loss_mask)
    if lengths is not None and lengths.shape != loss_mask.shape[:1]:
        raise ValueError(
            f"lengths {tuple(lengths.shape)} must have shape (B,); loss_mask (B, T) is {tuple(loss_mask.shape)}."
        )
    tokens = loss_mask.bool().sum(1).double().cpu()
    wholes = tokens if lengths is None else lengths.double().cpu()
    return Totals(float(tokens.sum()), float((tokens / wholes.clamp(min=1)).sum()))


def mask_truncated(loss_mask: Tensor, truncated: Tensor) -> Tensor:
    """Take episodes that were cut off out of a batch, so that they are neither trained on nor counted.

    Meant for those whose text was cut, by a limit of tokens or of the context. An episode that runs out of turns is
    an outcome like another, which the reward covers.

    Args:
        loss_mask: (B, T) bool or integer, 1 on the tokens that are trained on.
        truncated: (B,) bool, True for rows of such episodes.

    Returns:
        (B, T) bool.

    Raises:
        ValueError: If a shape or type does not fit.
    """
    check_mask(loss_mask)
    if truncated.shape != loss_mask.shape[:1] or truncated.dtype != torch.bool:
        raise ValueError(
            f"truncated {tuple(truncated.shape)} of {truncated.dtype} must have shape (B,) and be bool; loss_mask "
            f"(B, T) is {tuple(loss_mask.shape)}."
        )
    return loss_mask.bool() & ~truncated[:, None]
