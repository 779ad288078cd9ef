# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch are incomplete.
"""Tensors on their way between processes: by a process group, or by memory that both share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

__all__ = ["SECONDS", "Entry", "SharedTensors", "TransferError", "WeightsGroup"]

SECONDS = 300.0
"""Time that a transfer may take."""
_ALIGNED = 64
_SHARED = Path("/dev/shm")


class TransferError(RuntimeError):
    """Failure of a transfer."""


@dataclass(frozen=True)
class Entry:
    """One tensor on its way.

    Attributes:
        name: Its name.
        dtype: Its type, as sent, such as ``"bfloat16"``.
        shape: Its shape.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def empty(self, device: torch.device) -> torch.Tensor:
        """Return a tensor to receive it in."""
        return torch.empty(self.shape, dtype=getattr(torch, self.dtype), device=device)

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return getattr(torch, self.dtype).itemsize * int(torch.Size(self.shape).numel())


class WeightsGroup:
    """Process group of the first learner (rank 0) and the runners, beside those that they are in."""

    def __init__(self, store: Any, rank: int, size: int, backend: str, *, seconds: float = SECONDS) -> None:  # noqa: ANN401 -- a Store
        """Join; returns once all have.

        Args:
            store: A ``torch.distributed.Store`` that all reach.
            rank: Number of this process.
            size: Number of processes.
            backend: ``"nccl"`` or ``"gloo"``.
            seconds: Time that joining, and each broadcast, may take.

        Raises:
            TransferError: If torch has no such backend here.
        """
        self.device = torch.device("cpu")
        if backend == "nccl":
            if not torch.cuda.is_available() or not dist.is_nccl_available():
                raise TransferError("this torch has no GPU, or no NCCL")
            self.device = torch.device("cuda", torch.cuda.current_device())
            nccl: Any = dist
            options = nccl.ProcessGroupNCCL.Options()
            options._timeout = timedelta(seconds=seconds)
            self._group: Any = nccl.ProcessGroupNCCL(store, rank, size, options)
        else:
            self._group = dist.ProcessGroupGloo(store, rank, size, timedelta(seconds=seconds))

    def send(self, tensors: Iterable[torch.Tensor]) -> None:
        """Send tensors, from rank 0."""
        for tensor in tensors:
            self._broadcast(tensor.to(self.device).contiguous())
        self._finish()

    def receive(self, entries: Iterable[Entry]) -> Iterator[tuple[str, torch.Tensor]]:
        """Receive tensors, in their order."""
        for entry in entries:
            tensor = entry.empty(self.device)
            self._broadcast(tensor)
            yield entry.name, tensor
        self._finish()

    def _broadcast(self, tensor: torch.Tensor) -> None:
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        self._group.broadcast([tensor], options).wait()

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()

    def close(self) -> None:
        """Leave."""
        if self.device.type == "cuda":
            self._group.abort()
        self._group = None


class SharedTensors:
    """Tensors that other processes of this machine read; they are there until `close`.

    Attributes:
        where: The GPU, or ``"cpu"``.
        handles: Places of the tensors, in their order, for `read`.
    """

    def __init__(self, entries: Sequence[Entry], tensors: Iterable[torch.Tensor]) -> None:
        """Share tensors: on a GPU as they are, on a CPU as copies in a file in memory.

        Raises:
            OSError: If there is no room for them.
        """
        self._kept: list[torch.Tensor] = []
        self._file: Path | None = None
        self.where, self.handles = "cpu", list[Any]()
        total = sum(-(-entry.size // _ALIGNED) * _ALIGNED for entry in entries)
        flat: torch.Tensor | None = None
        offset = 0
        for entry, tensor in zip(entries, tensors, strict=True):
            if tensor.is_cuda:
                from torch.multiprocessing.reductions import reduce_tensor

                self.where = str(torch.cuda.get_device_properties(tensor.device).uuid)
                self._kept.append(tensor.contiguous())
                self.handles.append(reduce_tensor(self._kept[-1])[1])
                continue
            if flat is None:
                flat = self._make_file(total)
            place = flat[offset : offset + entry.size]
            place.copy_(tensor.contiguous().reshape(-1).view(torch.uint8))
            self.handles.append((str(self._file), total, offset))
            offset += -(-entry.size // _ALIGNED) * _ALIGNED

    def _make_file(self, total: int) -> torch.Tensor:
        folder = _SHARED if os.access(_SHARED, os.W_OK) else None
        number, name = tempfile.mkstemp(prefix="agile-gym-weights-", dir=folder)
        self._file = Path(name)
        try:
            os.posix_fallocate(number, 0, total)  # else a full memory would end the process
        except OSError:
            self.close()
            raise
        finally:
            os.close(number)
        return torch.from_file(name, shared=True, size=total, dtype=torch.uint8)

    @staticmethod
    def read(entries: Sequence[Entry], handles: Sequence[Any]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield tensors of another process; they must not be changed, nor kept."""
        flat: torch.Tensor | None = None
        for entry, handle in zip(entries, handles, strict=True):
            if len(handle) == 3:
                name, total, offset = handle
                if flat is None:
                    flat = torch.from_file(name, shared=True, size=total, dtype=torch.uint8)
                part = flat[offset : offset + entry.size].view(getattr(torch, entry.dtype))
                yield entry.name, part.reshape(entry.shape)
            else:
                from torch.multiprocessing.reductions import rebuild_cuda_tensor

                given = list(handle)
                given[6] = torch.cuda.current_device()  # as this process counts GPUs
                yield entry.name, rebuild_cuda_tensor(*given)

    def close(self) -> None:
        """Free the memory, once all have read it."""
        self._kept.clear()
        if self._file is not None:
            self._file.unlink(missing_ok=True)
        if self.where != "cpu":
            torch.cuda.ipc_collect()
