"""Number of threads that torch computes with on a CPU: one for a small model, as many as before for a larger one.

Products of small matrices are over before several threads have met. Where there is other work for the processor, each
product waits until the last of its threads gets its turn, which takes many times as long as the product.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

__all__ = ["SMALL", "divide_threads", "own_threads"]

SMALL = 10_000_000
"""Parameters of a model that is computed in one thread, at most; the tiny model has 2.5 million."""
_VARIABLE = "OMP_NUM_THREADS"
_divided = False


@contextmanager
def own_threads(model: Any) -> Generator[None]:  # noqa: ANN401 -- a torch.nn.Module
    """Compute in one thread for the length of the ``with`` block if the model is small and on a CPU.

    The number that torch has besides is put back. If the user has set ``OMP_NUM_THREADS``, that number holds.

    Args:
        model: The model.
    """
    if (_VARIABLE in os.environ and not _divided) or not _is_small(model):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def divide_threads(processes: int) -> None:
    """Give torch, which is not imported yet, the share of this process in the processors, unless the user chose.

    Args:
        processes: How many processes share them.
    """
    global _divided
    if _VARIABLE not in os.environ:
        os.environ[_VARIABLE] = str(max(1, (os.cpu_count() or 1) // processes))
        _divided = True


def _is_small(model: Any) -> bool:  # noqa: ANN401 -- a torch.nn.Module
    count = 0
    for parameter in model.parameters():
        count += parameter.numel()
        if count > SMALL or parameter.device.type != "cpu":
            return False
    return True
