"""Computations of several sharded processes; a module of its own, as each of them imports it anew."""

import pickle
import resource
import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist

from agile_gym.learner.data import shard_samples
from agile_gym.learner.options import ModelOptions, make_optimizer
from agile_gym.learner.sharding import (
    ShardedGroup,
    Sharding,
    assign,
    gathered,
    load_shards,
    local_state,
    missing_shards,
    own_optimizer_state,
    save_shards,
    set_local_state,
)
from agile_gym.learner.updating import ProcessGroup, StepOptions, Updater
from agile_gym.models import VLM, ChatFormat
from agile_gym.models.scoring import Scorer
from tests.helpers.gloo_ranks import OPTIONS
from tests.helpers.tiny_learning import samples, small_vlm

STEPS = 3
CPU = torch.device("cpu")
KINDS = {
    "full": {},
    "frozen": {"freeze": ("vision",)},
    "lora": {"train": "lora", "lora_rank": 4},
    "checkpointing": {"gradient_checkpointing": True},
    "offload": {"cpu_offload": True},
    "packed": {"packing": True},
    "bfloat16": {"autocast": "bfloat16"},
    "corrected": {"correction": "token_truncate"},
}


def text_only(count):
    """Return samples without images, of other lengths than those of the tiny model's episodes."""
    made = []
    for number, sample in enumerate(samples()[:count]):
        segment = sample.segment
        written = np.flatnonzero(segment.turns == segment.turns.max())
        part = slice(written[0] - 1, written[-1] + 1 - number)  # a turn, and the token before it
        cut = {name: getattr(segment, name)[part] for name in ("ids", "loss_mask", "logps", "turns", "advantages")}
        made.append(replace(sample, segment=replace(segment, images=(), **cut), images=()))
    assert not any((sample.segment.ids == image_token()).any() for sample in made)
    return made


def image_token():
    return ChatFormat(small_vlm().processor).image_token_id


def shares_of(step, world):
    """Return the samples of each process in a step: unequal ones, text alone for one, nothing for all but one."""
    if step == 0:
        return shard_samples(samples(), world)
    if step == 1:
        parts = [samples()[:3], text_only(1)]
        return [*parts, *([[]] * (world - 2))] if world > 1 else [[*parts[0], *parts[1]]]
    return [samples(), *([[]] * (world - 1))]


class Learner:
    """A small learner, alone or one of a group that shards the model."""

    def __init__(self, kind, *, sharded, micro_batch_tokens=200):
        options = dict(KINDS[kind])
        autocast, offload = options.pop("autocast", None), options.pop("cpu_offload", False)
        packing = options.pop("packing", False)
        self.correction = options.pop("correction", "none")
        model = prepared(small_vlm().model, ModelOptions(**options))
        vlm = VLM(model, small_vlm().processor, "small")
        chat = ChatFormat(vlm.processor)
        self.group = ProcessGroup(CPU, distributed=False)
        scorer = Scorer(vlm, chat, packing=packing)
        if sharded:
            self.group = ShardedGroup(CPU, distributed=True)
            self.sharding = Sharding(model, CPU, autocast=autocast, cpu_offload=offload)
            scorer = self.sharding.scorer(vlm, chat, temperature=1.0, packing=packing)
        self.named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.model = model
        self.optimizer = make_optimizer(self.named, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01)
        step = StepOptions(**{**OPTIONS, "micro_batch_tokens": micro_batch_tokens, "autocast": autocast})
        step = replace(step, correction=self.correction)
        self.updater = Updater(scorer, self.optimizer, step, self.group)

    def train(self, steps=range(STEPS)):
        self.model.train()
        return [self.take(shares_of(step, self.group.size)[self.group.rank]) for step in steps]

    def take(self, share):
        """Take a step, and return its metrics and the mismatch before it."""
        if self.correction != "none":
            self.updater.compare(share)
        told = self.updater.step(share) | self.updater.mismatch
        self.updater.forget()
        return told

    def weights(self):
        return {name: value.float().numpy().copy() for name, value in gathered(self.named, CPU)}

    def bytes(self):
        """Return the memory of parameters, gradients and the optimiser's state in this process."""

        def size(tensors):
            return sum(getattr(t, "to_local", lambda t=t: t)().nbytes for t in tensors)

        return {
            "parameters": size(self.model.parameters()),
            "gradients": size(p.grad for p in self.model.parameters() if p.grad is not None),
            "optimizer": size(value for entry in self.optimizer.state.values() for value in entry.values()),
        }


def prepared(model, options):
    """Return a model as `build_vlm` prepares it."""
    from agile_gym.learner import options as module

    if options.train == "lora":
        model = module._with_lora(model, options)
    module._freeze(model, options.freeze)
    if options.gradient_checkpointing:
        module._checkpoint_activations(model)
    return model


def train_kind(kind, *, sharded):
    learner = Learner(kind, sharded=sharded)
    metrics = learner.train()
    return {"metrics": metrics, "weights": learner.weights(), "bytes": learner.bytes()}


def snapshots():
    """Take one step, remember it, take another, go back and take it again."""
    learner = Learner("full", sharded=True)
    learner.train([0])
    kept = local_state(learner.named, learner.optimizer)
    learner.train([2])
    first = learner.weights()
    set_local_state(learner.named, learner.optimizer, kept)
    learner.train([2])
    return first, learner.weights()


def stored(folder):
    """Write a checkpoint after a step, and go on."""
    learner = Learner("full", sharded=True)
    learner.train([0])
    save_shards(folder, learner.named, learner.optimizer)
    before = learner.weights()
    learner.train([2])
    return {"before": before, "after": learner.weights()}


def taken_over():
    """Take over the state of an unsharded learner after a step, and go on."""
    whole = Learner("full", sharded=False)
    whole.updater.step(samples())
    learner = Learner("full", sharded=True)
    for (_, own), (_, parameter) in zip(learner.named, whole.named, strict=True):
        assign(own, parameter.detach())
    learner.optimizer.load_state_dict(own_optimizer_state(whole.optimizer.state_dict(), learner.optimizer))
    learner.train([2])
    whole.updater.step(samples())
    return learner.weights(), {name: parameter.detach().numpy() for name, parameter in whole.named}


def unwritable(folder, rank):
    """Try to write a checkpoint where the second process cannot, and write it where all can."""
    learner = Learner("full", sharded=True)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000 if rank else limits[0], limits[1]))
    try:
        save_shards(f"{folder}/full", learner.named, learner.optimizer)
    except OSError as error:
        told = str(error)
    else:
        told = None
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    save_shards(f"{folder}/full", learner.named, learner.optimizer)
    return told, missing_shards(f"{folder}/full")


def resumed(folder, *, sharded):
    """Go on from a checkpoint."""
    learner = Learner("full", sharded=sharded)
    learner.train([2])  # the optimiser has a state of its own, which goes
    load_shards(folder, learner.named, learner.optimizer)
    before = learner.weights()
    learner.train([2])
    return {"before": before, "after": learner.weights()}


def work(rank, world, folder, jobs):
    """Run jobs in one of the processes."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store-{world}"
    dist.init_process_group("gloo", store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    found = {}
    for job in jobs:
        if job in KINDS:
            found[job] = train_kind(job, sharded=True)
        else:
            found[job] = {
                "snapshots": snapshots,
                "taken_over": taken_over,
                "unwritable": lambda: unwritable(folder, rank),
                "stored": lambda: stored(f"{folder}/shards"),
                "resumed": lambda: resumed(f"{folder}/shards", sharded=True),
            }[job]()
    Path(folder, f"{world}-{rank}.pkl").write_bytes(pickle.dumps(found))
    dist.destroy_process_group()
