"""Batches of tokens for tests, and every loss with one signature."""

import functools

import torch

from agile_gym.learner.losses import dapo, dr_grpo, grpo, gspo
from agile_gym.learner.ratios import TokenBatch, Totals, count

LOSSES = {"grpo": grpo, "dr_grpo": functools.partial(dr_grpo, max_tokens=7), "dapo": dapo, "gspo": gspo}
ARRAYS = ("logps", "old_logps", "advantages", "ref_logps", "entropies")
TERMS = {"kl_coef": 0.3, "entropy_coef": 0.2}


def random_arrays(seed, rows, columns, *, spread=0.6, per_token=False, dtype=torch.float64):
    """Return arrays of a batch, random and without gradients; each row has at least one trained token."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    loss_mask = torch.rand(rows, columns, generator=generator) < 0.6
    loss_mask[torch.arange(rows), torch.randint(columns, (rows,), generator=generator)] = True
    old = -normal(rows, columns).abs() - 0.1
    arrays = {
        "logps": old + spread * normal(rows, columns),
        "old_logps": old,
        "advantages": normal(rows, columns) if per_token else normal(rows),
        "ref_logps": old + spread * normal(rows, columns),
        "entropies": normal(rows, columns).abs(),
    }
    return {name: array.to(dtype) for name, array in arrays.items()} | {"loss_mask": loss_mask}


def loss_and_gradients(loss, arrays, totals=None, **options):
    """Return the loss, its statistics, and its gradients at the log-probabilities and entropies."""
    leaves = {name: arrays[name].clone().requires_grad_() for name in ("logps", "entropies")}
    batch = TokenBatch(**arrays | leaves)
    result = loss(batch, totals or count(batch.loss_mask, batch.lengths), **options)
    result.loss.backward()
    gradients = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
    return result.loss.detach(), result.stats, gradients


def take(arrays, rows):
    """Return some rows of the arrays of a batch."""
    return {name: array[rows] for name, array in arrays.items()}


def add_up(counts):
    """Return the totals of a whole batch."""
    return sum(counts, Totals(0, 0))
