"""A batch split over micro-batches and over processes, with a small real model."""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from agile_gym.learner.losses import sft
from agile_gym.learner.ratios import TokenBatch, Totals, count, entropy
from tests.helpers.loss_samples import LOSSES, TERMS, add_up, take

FEATURES, VOCABULARY = 4, 5
NAMES = (*LOSSES, "sft")


def small_model():
    """Return a model of (B, T, FEATURES) -> (B, T, VOCABULARY), always the same."""
    generator = torch.Generator().manual_seed(5)
    model = torch.nn.Linear(FEATURES, VOCABULARY, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def small_batch(rows, columns, seed=0):
    """Return the arrays of a batch for the model, rows of quite different lengths."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, columns, FEATURES, generator=generator, dtype=torch.float64)
    tokens = torch.randint(VOCABULARY, (rows, columns), generator=generator)
    with torch.no_grad():
        logps = small_model()(inputs).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    noise = torch.randn(2, rows, columns, generator=generator, dtype=torch.float64)
    loss_mask = torch.arange(columns) < torch.arange(1, rows + 1)[:, None] * columns // rows
    loss_mask &= torch.rand(rows, columns, generator=generator) < 0.8
    loss_mask[:, 0] = True
    return {
        "inputs": inputs,
        "tokens": tokens,
        "old_logps": logps + 0.3 * noise[0],
        "ref_logps": logps + 0.3 * noise[1],
        "loss_mask": loss_mask,
        "advantages": torch.randn(rows, generator=generator, dtype=torch.float64),
    }


def forward(name, model, arrays, totals):
    """Return a loss of some rows."""
    logps = model(arrays["inputs"]).log_softmax(-1)
    picked = logps.gather(-1, arrays["tokens"][..., None])[..., 0]
    if name == "sft":
        return sft(picked, arrays["loss_mask"], totals)
    rest = {
        key: arrays[key] for key in ("old_logps", "ref_logps", "loss_mask", "advantages", "lengths") if key in arrays
    }
    return LOSSES[name](TokenBatch(picked, entropies=entropy(logps), **rest), totals, **TERMS)


def accumulate(name, arrays, parts):
    """Return loss, metrics and the model's gradient after a backward pass for each part, a list of rows."""
    model = small_model()
    micro_batches = [take(arrays, part) for part in parts]
    totals = add_up(count(micro["loss_mask"], micro.get("lengths")) for micro in micro_batches)
    loss, stats = 0.0, None
    for micro in micro_batches:
        result = forward(name, model, micro, totals)
        result.loss.backward()
        loss += result.loss.item()
        stats = result.stats if stats is None else stats + result.stats
    return loss, stats.metrics(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def work(rank, world, address, arrays, parts, answers):
    """Train as one of some processes: ``parts[rank]`` are its micro-batches."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    micro_batches = [take(arrays, part) for part in parts[rank]]
    mine = add_up(count(micro["loss_mask"]) for micro in micro_batches)
    numbers = torch.tensor([mine.tokens, mine.episodes], dtype=torch.float64)
    dist.all_reduce(numbers)
    totals = Totals(*numbers.tolist())
    told = {}
    for name in NAMES:
        model = DistributedDataParallel(small_model())
        stats = None
        for number, micro in enumerate(micro_batches):
            model.require_backward_grad_sync = number == len(micro_batches) - 1
            result = forward(name, model, micro, totals)
            (world * result.loss).backward()
            stats = result.stats if stats is None else stats + result.stats
        dist.all_reduce(stats.sums)
        dist.all_reduce(stats.maxima, op=dist.ReduceOp.MAX)
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        told[name] = (gradient.tolist(), stats.metrics())
    answers.put((rank, told))
    dist.barrier()
    dist.destroy_process_group()
