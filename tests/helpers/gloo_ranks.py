"""Computations of two processes together; a module of its own, as each of them imports it anew."""

import pickle
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist

from agile_gym.learner.data import shard_samples
from agile_gym.learner.options import make_optimizer
from agile_gym.learner.ratios import LossStats
from agile_gym.learner.updating import ProcessGroup, StepOptions, Updater
from agile_gym.models import ChatFormat
from agile_gym.models.scoring import Scorer
from tests.helpers.tiny_learning import samples, small_vlm

STEPS = 3
OPTIONS = {"loss": "dapo", "loss_options": {"entropy_coef": 0.01}, "micro_batch_tokens": 200}


def make_updater(vlm, process_group, *, lr=1e-3, reference=None, packing=False, **options):
    """Return an updater of a whole model."""
    optimizer = make_optimizer(vlm.model.named_parameters(), lr=lr, betas=(0.9, 0.999), weight_decay=0.01)
    scorer = Scorer(vlm, ChatFormat(vlm.processor), packing=packing)
    return Updater(scorer, optimizer, StepOptions(**{**OPTIONS, **options}), process_group, reference)


def train(shares, process_group):
    """Take some steps, the last with all samples at one learner, and return weights and metrics."""
    vlm = small_vlm()
    updater = make_updater(vlm, process_group)
    metrics = []
    for step in range(STEPS):
        chosen = shares[process_group.rank]
        if step == STEPS - 1:
            chosen = [sample for share in shares for sample in share] if process_group.rank == 0 else []
        metrics.append(updater.step(chosen))
    weights = {name: parameter.detach().numpy() for name, parameter in vlm.model.named_parameters()}
    return {"metrics": metrics, "weights": weights}


def parameters(rank):
    """Return parameters of two types; the first rank has no gradient for some, and nobody has for the last."""
    shapes = [((3, 2), torch.float32), ((5,), torch.float32), ((2, 2), torch.bfloat16), ((4,), torch.float32)]
    made = [torch.nn.Parameter(torch.full(shape, 1.0 + rank, dtype=dtype)) for shape, dtype in shapes]
    for number, parameter in enumerate(made[:3]):
        if rank or number != 1:
            values = torch.arange(parameter.numel(), dtype=torch.float32).reshape(parameter.shape)
            parameter.grad = (values + 10 * rank).to(parameter.dtype)
    return made


def work(rank, world, folder):
    """Run all of it in one of the processes."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    process_group = ProcessGroup(torch.device("cpu"), distributed=True)
    found = {"rank": process_group.rank, "size": process_group.size, "sums": process_group.add([1.5 + rank, 2.0**60])}
    stats = LossStats(("tokens", "max_x"), torch.tensor([1.0 + rank]), torch.tensor([7.0 - rank]))
    sums, maxima = process_group.reduce(stats.sums, stats.maxima)
    found |= {"reduced": (sums.tolist(), maxima.tolist()), "kept": (stats.sums.tolist(), stats.maxima.tolist())}
    made = parameters(rank)
    process_group.add_gradients(made)
    found["gradients"] = [parameter.grad.float().tolist() for parameter in made]
    found["types"] = [str(parameter.grad.dtype) for parameter in made]
    process_group.share(made)
    found["shared"] = [parameter.float().unique().tolist() for parameter in made]
    found |= train(shard_samples(samples(), world), process_group)
    Path(folder, f"{rank}.pkl").write_bytes(pickle.dumps(found))
    dist.destroy_process_group()
