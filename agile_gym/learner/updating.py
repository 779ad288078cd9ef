# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch are incomplete.
"""One step of the optimiser: the gradient of a minibatch from micro-batches on one or several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from agile_gym.interruption import own_threads
from agile_gym.learner.correction import MismatchMeter, mismatch_weights
from agile_gym.learner.data import Sample, micro_batches
from agile_gym.learner.losses import LOSSES, LossResult, sft
from agile_gym.learner.ratios import LossStats, TokenBatch, Totals
from agile_gym.models.chat import ChatFormat
from agile_gym.models.scoring import PreparedSegment, Scorer

__all__ = ["SUPERVISED", "ProcessGroup", "StepOptions", "Updater", "autocast"]

_BUCKET_BYTES = 64 * 2**20
"""Gradients are put together up to this size, so that few messages are sent."""


class ProcessGroup:
    """The learners that train one model together; a single one, where nothing is distributed.

    Gradients are added up after the backward passes of all micro-batches. So learners may have different numbers of
    micro-batches, or none, and parameters that got no gradient do no harm.

    Attributes:
        size: Number of learners.
        rank: Number of this one.
    """

    def __init__(self, device: torch.device, *, distributed: bool) -> None:
        """Join.

        Args:
            device: Device that tensors are sent from: a GPU with NCCL, the CPU with gloo.
            distributed: True if a process group was made.
        """
        self._device = device
        self.size: int = dist.get_world_size() if distributed else 1
        self.rank: int = dist.get_rank() if distributed else 0

    def add(self, values: Sequence[float]) -> list[float]:
        """Return the sums of some numbers over all learners."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def reduce(self, sums: Tensor, maxima: Tensor) -> tuple[Tensor, Tensor]:
        """Return sums and maxima over all learners."""
        if self.size > 1:
            sums, maxima = sums.to(self._device).clone(), maxima.to(self._device).clone()
            dist.all_reduce(sums)
            dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
        return sums, maxima

    def add_gradients(self, parameters: Iterable[Any]) -> None:
        """Add up the gradients of parameters over all learners; one that has none counts as 0.

        Args:
            parameters: The same on all learners, in the same order.
        """
        if self.size == 1:
            return
        for bucket in _buckets(parameters):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            start = 0
            for parameter in bucket:
                parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
                start += parameter.numel()

    def clip(self, parameters: Sequence[Any], limit: float | None) -> float:
        """Scale gradients down to a norm.

        Args:
            parameters: The parameters, after `add_gradients`.
            limit: The largest norm, or None.

        Returns:
            The norm before.
        """
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit or float("inf")))

    def level(self, batches: Sequence[Sequence[Sample]], chat: ChatFormat) -> list[list[Sample]]:
        """Return the micro-batches that this learner computes: its own.

        Args:
            batches: Its own.
            chat: The model's chat format.
        """
        del chat
        return [list(batch) for batch in batches]

    def share(self, parameters: Iterable[Any]) -> None:
        """Give all learners the values of the first one."""
        if self.size > 1:
            with torch.no_grad():
                for parameter in parameters:
                    dist.broadcast(parameter.data, 0)


def _buckets(parameters: Iterable[Any]) -> Iterator[list[Any]]:
    """Put parameters of one type together."""
    buckets: dict[torch.dtype, list[Any]] = {}
    sizes: dict[torch.dtype, int] = {}
    for parameter in parameters:
        bucket = buckets.setdefault(parameter.dtype, [])
        bucket.append(parameter)
        size = sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.nbytes
        if size >= _BUCKET_BYTES:
            yield buckets.pop(parameter.dtype)
            del sizes[parameter.dtype]
    yield from buckets.values()


SUPERVISED = "sft"
"""Name of the loss of supervised training."""
Reference = Callable[[Sequence[PreparedSegment]], Tensor]


@dataclass(frozen=True)
class StepOptions:
    """Options of a step.

    Attributes:
        loss: ``"sft"``, or one of `agile_gym.learner.losses.LOSSES`.
        loss_options: Its options.
        micro_batch_tokens: Tokens of a micro-batch at most, padding included if the scorer pads; a single sample may
            have more.
        grad_clip: Largest norm of the gradient, or None.
        autocast: ``"bfloat16"`` computes matrix products in it; None does not.
        correction: Correction of the mismatch; one of `agile_gym.learner.correction.CORRECTIONS`.
        correction_cap: Its largest ratio.
    """

    loss: str
    loss_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    micro_batch_tokens: int = 16384
    grad_clip: float | None = 1.0
    autocast: str | None = None
    correction: str = "none"
    correction_cap: float = 3.0


class Updater:
    """Optimiser steps; every learner has one updater, and all take their steps together.

    Attributes:
        skipped: Steps that were not taken, as the gradient was not finite.
        empty: Steps that were not taken, as no learner had a token to train on.
        mismatch: Mismatch of the sampler and the weights before the first step since `forget`, by token; see
            `agile_gym.learner.correction.mismatch`. Of all samples after `compare`, else of those of the first step
            that had any. Empty before, and in supervised training.
    """

    def __init__(
        self,
        scorer: Scorer,
        optimizer: torch.optim.Optimizer,
        options: StepOptions,
        process_group: ProcessGroup,
        reference: Reference | None = None,
    ) -> None:
        """Make an updater.

        Args:
            scorer: Scorer with the weights that are trained.
            optimizer: Holds these weights.
            options: Options of the steps.
            process_group: The learners.
            reference: Function that returns (B, T) log-probabilities under the reference, if its KL divergence is used.
        """
        self._scorer = scorer
        self._optimizer = optimizer
        self._options = options
        self._process_group = process_group
        self._reference = reference
        self._compared: dict[int, tuple[Tensor, Tensor]] = {}
        self.skipped = 0
        self.empty = 0
        self.mismatch: dict[str, float] = {}

    def compare(self, samples: Sequence[Sample]) -> None:
        """Compare the sampler's log-probabilities with those of the weights as they are, before the first step.

        With a correction, the steps that follow until `forget` start from the latter, and weight the tokens' losses.

        Args:
            samples: This learner's shard of all minibatches, which may be empty.
        """
        options, scorer, meter = self._options, self._scorer, self._meter()
        own = {id(sample) for sample in samples}  # learners with fewer compute blank ones, too
        with own_threads(scorer.vlm.model), torch.no_grad():
            for micro in self._process_group.level(self._micro_batches(samples), scorer.chat):
                rows = [scorer.prepare(sample.segment, sample.images) for sample in micro]
                with autocast(options.autocast, scorer.vlm.device):
                    scores = scorer(rows)
                old = self._sampled(micro, scores.loss_mask)
                logps, mask = scores.logps, scores.loss_mask
                weights = mismatch_weights(logps, old, mask, correction=options.correction, cap=options.correction_cap)
                for row, sample in enumerate(micro):
                    length = len(sample.segment.ids)
                    if id(sample) in own:
                        self._compared[id(sample)] = (logps[row, :length], weights[row, :length])
                meter.add(logps, old, mask)
        self.mismatch = meter.mean(self._process_group.reduce)

    def _meter(self) -> MismatchMeter:
        return MismatchMeter(correction=self._options.correction, cap=self._options.correction_cap)

    def step(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Take a step.

        Args:
            samples: This learner's shard of a minibatch, which may be empty.

        Returns:
            Metrics of the whole minibatch, as `agile_gym.learner.losses` names them, with ``grad_norm``.
        """
        with own_threads(self._scorer.vlm.model):
            return self._step(samples)

    def _step(self, samples: Sequence[Sample]) -> dict[str, float]:
        options, process_group = self._options, self._process_group
        parts = [sample.trained for sample in samples]
        episodes = sum(part / max(1, sample.length) for part, sample in zip(parts, samples, strict=True))
        totals = Totals(*process_group.add([float(sum(parts)), episodes]))
        self._optimizer.zero_grad(set_to_none=True)
        stats: LossStats | None = None
        meter = None if self.mismatch or options.loss == SUPERVISED else self._meter()
        if totals.tokens:
            for micro in process_group.level(self._micro_batches(samples), self._scorer.chat):
                result = self._loss(micro, totals, meter)
                result.loss.backward()
                stats = result.stats if stats is None else stats + result.stats
        if meter is not None:
            self.mismatch = meter.mean(process_group.reduce)
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        process_group.add_gradients(parameters)
        norm = process_group.clip(parameters, options.grad_clip)
        if not totals.tokens:
            self.empty += 1
        elif np.isfinite(norm):
            self._optimizer.step()
        else:
            self.skipped += 1
        return {**self._metrics(stats), "grad_norm": norm}

    def forget(self) -> None:
        """Drop the images of samples that were trained on, and how they compared."""
        self._compared = {}
        self.mismatch = {}
        self._scorer.forget()

    def _micro_batches(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """Put samples together as the scorer computes them."""
        return micro_batches(samples, self._options.micro_batch_tokens, packing=self._scorer.packing)

    def _loss(self, micro: Sequence[Sample], totals: Totals, meter: MismatchMeter | None = None) -> LossResult:
        options, scorer = self._options, self._scorer
        device = scorer.vlm.device
        rows = [scorer.prepare(sample.segment, sample.images) for sample in micro]
        trains_entropy = bool(options.loss_options.get("entropy_coef"))
        with autocast(options.autocast, device):
            scores = scorer(rows, entropies="gradient" if trains_entropy else True)
        if options.loss == SUPERVISED:
            return sft(scores.logps, scores.loss_mask, totals, entropies=scores.entropies)
        shape = tuple(scores.loss_mask.shape)
        advantages = np.zeros(shape, np.float32)
        for row, sample in enumerate(micro):
            segment = sample.segment
            if segment.advantages is not None:
                advantages[row, : len(segment.ids)] = segment.advantages
        old, weights = self._sampled(micro, scores.loss_mask), None
        if meter is not None:
            meter.add(scores.logps.detach(), old, scores.loss_mask)
        if self._compared:
            weights = torch.ones(shape, device=device)
            for row, sample in enumerate(micro):
                if (known := self._compared.get(id(sample))) is not None:
                    old[row, : len(known[0])], weights[row, : len(known[1])] = known
        batch = TokenBatch(
            scores.logps,
            old,
            scores.loss_mask,
            torch.from_numpy(advantages).to(device),
            lengths=torch.tensor([sample.length for sample in micro], device=device),
            ref_logps=None if self._reference is None else self._reference(rows),
            entropies=scores.entropies,
            weights=weights,
        )
        return LOSSES[options.loss](batch, totals, **options.loss_options)

    def _sampled(self, micro: Sequence[Sample], loss_mask: Tensor) -> Tensor:
        """Return the sampler's log-probabilities of samples, in the shape of their loss mask (B, T)."""
        old = np.zeros(tuple(loss_mask.shape), np.float32)
        for row, sample in enumerate(micro):
            old[row, : len(sample.segment.ids)] = sample.segment.logps
        return torch.from_numpy(old).to(loss_mask.device)

    def _metrics(self, stats: LossStats | None) -> dict[str, float]:
        """Return the metrics of all learners; one that had nothing to do has none of its own."""
        if self._process_group.size > 1:
            kinds = len(_names(self._options, reference=self._reference is not None))
            if stats is None:
                names = _names(self._options, reference=self._reference is not None)
                stats = LossStats(names, torch.zeros(kinds - 1), torch.zeros(1))
            stats = LossStats(stats.names, *self._process_group.reduce(stats.sums, stats.maxima))
        return {} if stats is None else stats.metrics()


def autocast(dtype: str | None, device: Any) -> AbstractContextManager[Any]:  # noqa: ANN401 -- a torch.device
    """Return the context in which matrix products are computed in a type, if one is given."""
    if dtype is None:
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, dtype))


def _names(options: StepOptions, *, reference: bool) -> tuple[str, ...]:
    """Return the names of the statistics of a loss, computed on a token that is not trained on."""
    nothing = torch.zeros(1, 1)
    loss_mask = torch.zeros(1, 1, dtype=torch.bool)
    if options.loss == SUPERVISED:
        return sft(nothing, loss_mask, Totals(1, 1), entropies=nothing).stats.names
    batch = TokenBatch(
        nothing, nothing, loss_mask, nothing, ref_logps=nothing if reference else None, entropies=nothing
    )
    return LOSSES[options.loss](batch, Totals(1, 1), **options.loss_options).stats.names
