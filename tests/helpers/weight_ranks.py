"""Processes that send each other tensors; a module of its own, as each of them imports it anew."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist

from agile_gym.learner.shared_weights import Entry, SharedTensors, WeightsGroup

NAMES = ("matrix", "turned", "half", "whole", "number", "nothing")


def tensors(round_):
    """Return tensors of several kinds, whose values follow from the round."""
    matrix = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7 + round_
    return {
        "matrix": matrix,
        "turned": matrix.T,  # not in one piece
        "half": (matrix[:2] * 3).to(torch.bfloat16),
        "whole": torch.arange(5) * 10 + round_,
        "number": torch.tensor(0.1 + round_, dtype=torch.float64),
        "nothing": torch.zeros((0, 3)),
    }


def entries():
    return [Entry(name, str(value.dtype)[6:], tuple(value.shape)) for name, value in tensors(0).items()]


def plain(pairs):
    """Return tensors as lists of numbers, copied."""
    return {name: [str(value.dtype), list(value.shape), value.double().reshape(-1).tolist()] for name, value in pairs}


def work(rank, size, folder):
    """Send or receive two rounds, and leave what was received in a file."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", size)
    group = WeightsGroup(store, rank, size, "gloo", seconds=60)
    rounds = []
    for round_ in range(2):
        if rank == 0:
            group.send(tensors(round_).values())
        else:
            rounds.append(plain(group.receive(entries())))
    group.close()
    Path(folder, f"{rank}.json").write_text(json.dumps(rounds))


def join_alone(folder):
    """Wait in vain for another process, and leave the error in a file."""
    store = dist.FileStore(f"{folder}/alone", 2)
    store.set_timeout(timedelta(seconds=2))
    try:
        WeightsGroup(store, 0, 2, "gloo", seconds=2)
    except Exception as error:
        Path(folder, "alone.txt").write_text(type(error).__name__)


def read(folder):
    """Read tensors that another process shares."""
    handles = json.loads(Path(folder, "handles.json").read_text())
    Path(folder, "read.json").write_text(json.dumps(plain(SharedTensors.read(entries(), handles))))


def expected(round_):
    """Return the values by numpy, apart from torch."""
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4) / np.float32(7) + np.float32(round_)
    return {
        "matrix": matrix,
        "turned": matrix.T,
        "whole": np.arange(5) * 10 + round_,
        "number": np.array(0.1 + round_),
        "nothing": np.zeros((0, 3)),
    }
