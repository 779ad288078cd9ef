# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch are incomplete.
"""What several learners do together: add up numbers and gradients, and begin with the same weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["Ranks"]

_BUCKET_BYTES = 64 * 2**20
"""Gradients are put together up to this size, so that few messages are sent."""


class Ranks:
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
            device: Where tensors are sent from: a GPU with NCCL, the CPU with gloo.
            distributed: Whether a process group was made.
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
