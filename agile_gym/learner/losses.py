# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch are incomplete.
"""The losses, as pure functions of log-probabilities: `grpo`, `dr_grpo`, `dapo`, `gspo` and, for the cold start, `sft`.

A loss is a sum over tokens divided by counts of the whole batch, which the caller gives as `Totals`. So the losses and
gradients of any micro-batches simply add up to those of the whole batch::

    totals = sum(map(count, masks), Totals(0, 0))    # of all micro-batches; then all-reduced over ranks
    for micro in micro_batches:
        result = dapo(micro, totals)
        (world_size * result.loss).backward()    # DistributedDataParallel takes the mean over ranks: make it the sum
        stats = stats + result.stats

Arithmetic is in float32, or in float64 where the log-probabilities are. Differences of log-probabilities are clamped to
+-20 before they are exponentiated (a ratio of 4.9e8), so that no ratio is infinite; beyond, the gradient is 0. A NaN
among the trained tokens is passed on, for the caller to find in the norm of the gradient.

Metrics, besides ``loss``, ``tokens`` and ``episodes``, are means over the trained tokens: ``clip_frac_low`` and
``clip_frac_high`` (fractions whose ratio is below, above, the clip range and so has no gradient), ``ratio``,
``approx_kl`` (k3 estimate of KL(old || new)), ``kl_ref`` (k3 estimate of KL(new || reference)), ``entropy`` (in nats)
and, for `sft`, ``nll``. ``max_log_ratio`` is the largest absolute difference between new and old log-probabilities,
before the clamp: before the first step it measures how far sampling and training disagree. ``max_nll`` is the largest
of `sft`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from agile_gym.learner.ratios import LossStats, TokenBatch, Totals, check_shapes, difference, k3, log_ratios, only

__all__ = ["LOSSES", "LossResult", "clip_range", "dapo", "dr_grpo", "grpo", "gspo", "sft"]


class LossResult(NamedTuple):
    """Result of a loss.

    Attributes:
        loss: () float32 or float64, this micro-batch's part of the loss of the whole batch.
        stats: Its statistics.
    """

    loss: Tensor
    stats: LossStats


def grpo(
    batch: TokenBatch,
    totals: Totals,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
) -> LossResult:
    """GRPO: the mean over episodes of the mean over their tokens (Shao et al., arXiv 2402.03300).

    Args:
        batch: The tokens.
        totals: Counts of the whole batch.
        clip_low: Ratios are clipped at 1 - clip_low, ...
        clip_high: ... and at 1 + clip_high.
        kl_coef: Weight of the KL divergence from the reference, which is averaged as the rest of the loss is.
        entropy_coef: Weight of the entropy bonus, which is a mean over tokens for each of the losses.

    Returns:
        This micro-batch's part of the loss, and statistics.

    Raises:
        ValueError: If a shape, a count or an option does not fit.
    """
    ratios = _token_ratios(batch)
    weights = _by_episode(batch) / _positive("totals.episodes", totals.episodes)
    return _clipped(batch, totals, ratios, weights, (clip_low, clip_high), kl_coef, entropy_coef)


def dr_grpo(
    batch: TokenBatch,
    totals: Totals,
    *,
    max_tokens: int,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
) -> LossResult:
    """Dr. GRPO: the mean over episodes of the sum over their tokens, divided by a constant (Liu et al., 2503.20783).

    Long answers are not favoured when they are wrong. To be used with advantages that no standard deviation divides.

    Args:
        batch: The tokens.
        totals: Counts of the whole batch.
        max_tokens: The constant, such as the largest number of tokens that the model may write in an episode.
        clip_low: As in `grpo`.
        clip_high: As in `grpo`.
        kl_coef: As in `grpo`.
        entropy_coef: As in `grpo`.

    Returns:
        This micro-batch's part of the loss, and statistics.

    Raises:
        ValueError: If a shape, a count or an option does not fit.
    """
    ratios = _token_ratios(batch)
    constant = _positive("max_tokens", max_tokens) * _positive("totals.episodes", totals.episodes)
    weights = torch.full_like(ratios[:, :1].detach(), 1 / constant)
    return _clipped(batch, totals, ratios, weights, (clip_low, clip_high), kl_coef, entropy_coef)


def dapo(
    batch: TokenBatch,
    totals: Totals,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
) -> LossResult:
    """DAPO: the mean over all tokens of the batch, clipped higher above than below (Yu et al., arXiv 2503.14476).

    Args:
        batch: The tokens.
        totals: Counts of the whole batch.
        clip_low: As in `grpo`.
        clip_high: As in `grpo`.
        kl_coef: As in `grpo`.
        entropy_coef: As in `grpo`.

    Returns:
        This micro-batch's part of the loss, and statistics.

    Raises:
        ValueError: If a shape, a count or an option does not fit.
    """
    ratios = _token_ratios(batch)
    weights = torch.full_like(ratios[:, :1].detach(), 1 / _positive("totals.tokens", totals.tokens))
    return _clipped(batch, totals, ratios, weights, (clip_low, clip_high), kl_coef, entropy_coef)


def gspo(
    batch: TokenBatch,
    totals: Totals,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
) -> LossResult:
    """GSPO: one ratio a sequence, the geometric mean of its tokens' (Zheng et al., arXiv 2507.18071).

    A sequence is a row; an episode that is cut into several rows has several ratios, and counts as one in the mean.
    Where advantages differ from token to token, each token's gradient is its own advantage's, as in the paper's
    GSPO-token; with one advantage a row the two are the same.

    Args:
        batch: The tokens.
        totals: Counts of the whole batch.
        clip_low: As in `grpo`, for the ratio of the sequence.
        clip_high: As in `grpo`, for the ratio of the sequence.
        kl_coef: As in `grpo`.
        entropy_coef: As in `grpo`.

    Returns:
        This micro-batch's part of the loss, and statistics.

    Raises:
        ValueError: If a shape, a count or an option does not fit.
    """
    changes = log_ratios(batch.logps, batch.old_logps, batch.loss_mask)
    means = changes.sum(1, keepdim=True) / batch.loss_mask.bool().sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    # The value of the sequence's ratio everywhere, with the gradient of the token's own log-probability.
    ratios = (means.detach() + changes - changes.detach()).exp()
    weights = _by_episode(batch) / _positive("totals.episodes", totals.episodes)
    return _clipped(batch, totals, ratios, weights, (clip_low, clip_high), kl_coef, entropy_coef)


LOSSES: dict[str, Callable[..., LossResult]] = {"grpo": grpo, "dr_grpo": dr_grpo, "dapo": dapo, "gspo": gspo}
"""The losses of reinforcement learning, by name."""


def clip_range(loss: str) -> tuple[float, float]:
    """Return the distances below and above 1 at which a loss clips ratios by default."""
    options = inspect.signature(LOSSES[loss]).parameters
    return options["clip_low"].default, options["clip_high"].default


def sft(logps: Tensor, loss_mask: Tensor, totals: Totals, *, entropies: Tensor | None = None) -> LossResult:
    """Cross-entropy of the tokens that the model is to write: their mean over the whole batch.

    Args:
        logps: (B, T) floating, log-probabilities.
        loss_mask: (B, T) bool or integer, 1 on the tokens that are trained on.
        totals: Counts of the whole batch; only ``tokens`` is used.
        entropies: (B, T) floating, reported among the metrics, or None.

    Returns:
        This micro-batch's part of the loss, and statistics.

    Raises:
        ValueError: If a shape or a count does not fit.
    """
    check_shapes(loss_mask, logps=logps, entropies=entropies)
    on = loss_mask.bool()
    nll = -only(logps, on).sum()
    loss = nll / _positive("totals.tokens", totals.tokens)
    sums = {"loss": loss, "tokens": on.sum().to(loss), "nll": nll}
    if entropies is not None:
        sums["entropy"] = only(entropies, on).sum().to(loss)
    return LossResult(loss, LossStats.make(sums, {"max_nll": _largest(only(logps.detach(), on))}))


def _clipped(
    batch: TokenBatch,
    totals: Totals,
    ratios: Tensor,
    weights: Tensor,
    clip: tuple[float, float],
    kl_coef: float,
    entropy_coef: float,
) -> LossResult:
    """Sum the clipped surrogate, the KL term and the entropy bonus.

    Args:
        batch: The tokens.
        totals: Counts of the whole batch.
        ratios: (B, T), 1 where the loss mask is 0.
        weights: (B, 1) no gradient, weight of a token of each row.
        clip: Distances below and above 1 at which ratios are clipped.
        kl_coef: Weight of the KL term.
        entropy_coef: Weight of the entropy bonus.
    """
    low, high = clip
    if not (0 <= low <= 1 and 0 <= high < math.inf):
        raise ValueError(f"clip_low={low} must be from 0 to 1, and clip_high={high} at least 0.")
    for name, weight, given in (
        ("kl_coef", kl_coef, batch.ref_logps),
        ("entropy_coef", entropy_coef, batch.entropies),
    ):
        if not 0 <= weight < math.inf:
            raise ValueError(f"{name}={weight} is not allowed; give a number of at least 0.")
        if weight and given is None:
            raise ValueError(f"{name}={weight} needs {'ref_logps' if name == 'kl_coef' else 'entropies'} (B, T).")
    on = batch.loss_mask.bool()
    advantages = batch.advantages if batch.advantages.ndim == 2 else batch.advantages[:, None]
    advantages = only(advantages.expand_as(on), on).to(ratios)
    losses = -torch.minimum(ratios * advantages, ratios.clamp(1 - low, 1 + high) * advantages)
    if batch.weights is not None:
        losses = losses * only(batch.weights, on).to(ratios)
    with torch.no_grad():
        change = difference(batch.logps, batch.old_logps, on).to(ratios)
        sums = {
            "tokens": on.sum(),
            "episodes": (_by_episode(batch) * on).sum(),
            "clip_frac_low": ((ratios < 1 - low) & (advantages < 0)).sum(),
            "clip_frac_high": ((ratios > 1 + high) & (advantages > 0)).sum(),
            "ratio": (ratios * on).sum(),
            "approx_kl": k3(batch.old_logps, batch.logps, on).sum(),
        }
    if batch.ref_logps is not None:
        kl = k3(batch.logps, batch.ref_logps, on)
        sums["kl_ref"] = kl.sum()
        losses = losses + kl_coef * kl if kl_coef else losses
    loss = (losses * weights).sum()
    if batch.entropies is not None:
        entropies = only(batch.entropies, on).sum()
        sums["entropy"] = entropies
        if entropy_coef:
            loss = loss - entropy_coef * entropies / _positive("totals.tokens", totals.tokens)
    numbers = {"loss": loss} | {name: value.to(loss) for name, value in sums.items()}
    return LossResult(loss, LossStats.make(numbers, {"max_log_ratio": _largest(change)}))


def _token_ratios(batch: TokenBatch) -> Tensor:
    """Return p / p_old of each token, (B, T); 1 where the loss mask is 0."""
    return log_ratios(batch.logps, batch.old_logps, batch.loss_mask).exp()


def _by_episode(batch: TokenBatch) -> Tensor:
    """Return 1 / the number of tokens of each row's episode, (B, 1)."""
    lengths = batch.loss_mask.bool().sum(1) if batch.lengths is None else batch.lengths
    dtype = torch.float64 if batch.logps.dtype == torch.float64 else torch.float32
    return 1 / lengths[:, None].to(dtype).clamp(min=1)


def _largest(array: Tensor) -> Tensor:
    """Return the largest absolute value, 0 if there is none."""
    return array.abs().amax() if array.numel() else array.new_zeros(())


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={value} must be above 0: there is nothing to train on, or it was not counted.")
    return value
