"""Simulated runners for benchmarks/cluster.py: records in asynchronous actors, and what stands for their handles.

It imports little, so that the processes of the actors start soon.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import ray

from agile_gym.learner.groups import Group, GroupPlay, make_group, play_groups
from agile_gym.learner.messages import RunnerReply

__all__ = ["SIZE", "TURN", "TURNS", "Handle", "Host", "played_group", "record", "seconds_of"]

TURN = (0.64, 0.69, 0.72, 0.77, 0.79, 0.82, 0.84, 0.85, 0.88, 0.9, 0.93, 0.96, 0.99, 1.01, 1.05, 1.09, 1.14, 1.2, 1.3,
        1.54, 2.78)  # fmt: skip
"""Seconds of a turn over their mean, at every twentieth of the distribution: 300 turns of the tiny model, 8 episodes in
a batch, at most 48 tokens a turn, one core of an AMD EPYC beside other work; the mean was 0.128 s."""
TURNS, SIZE = 5, 4
"""Turns of an episode, and episodes of a group."""


def seconds_of(index, scale, stragglers):
    """Return the seconds that a group takes, a function of its number."""
    rng = np.random.default_rng([7, index])
    seconds = scale * float(np.interp(rng.random(TURNS), np.linspace(0, 1, len(TURN)), TURN).sum())
    return seconds * rng.uniform(3, 8) if stragglers and rng.random() < 0.02 else seconds


@dataclass
class Packed:
    """Stand-in for an object that another process unpacks and that this one need not import."""

    content: bytes

    def __reduce__(self):
        return pickle.loads, (self.content,)


class Runner:
    """Record of a simulated runner."""

    config = SimpleNamespace(is_multi_agent=False, enable_env_runner_and_connector_v2=True)

    def __init__(self, number, host, pace):
        self.number, self.host, self.pace = number, host, pace
        self.turn, self.weights, self.taken = asyncio.Lock(), None, None

    async def sample_groups(self, groups, *, weights, explore, evaluation):
        """Sleep, and return the played groups."""
        if self.taken != weights.name:
            self.set_state(await weights.state)
            self.taken = weights.name
        for spec in groups:
            await asyncio.sleep(seconds_of(spec.index, *self.pace))
        play = GroupPlay(tuple(Group(spec, self.host.episodes) for spec in groups))
        return RunnerReply(self.number, play, Packed(self.host.metrics[len(groups)]))

    def set_state(self, state):
        """Take over weights."""
        self.weights = state


class Host:
    """Actor that holds runners; one that was started anew holds new ones."""

    def __init__(self, template):
        self.episodes, self.metrics = template
        self._runners = {}

    @ray.method(max_task_retries=-1)
    async def pid(self):
        """Return the number of the process."""
        return os.getpid()

    async def call(self, key, name, args, kwargs):
        """Call a function of a runner, after those before."""
        if key not in self._runners:
            number, _, *pace = key
            self._runners[key] = Runner(number, self, pace)
        runner = self._runners[key]
        async with runner.turn:
            if name == "apply":
                result = kwargs.pop("func")(runner, *args, **kwargs)
            else:
                result = getattr(runner, name)(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result


class Handle:
    """Stand-in for the handle of a runner's actor: sends calls to the runner's host."""

    def __init__(self, host, key):
        def method(name):
            return SimpleNamespace(remote=lambda *args, **kwargs: host.call.remote(key, name, args, kwargs))

        self.apply, self.sample_groups = method("apply"), method("sample_groups")


def played_group():
    """Return the episodes of a group that the tiny model plays, and the seconds of its turns."""
    import torch
    from cache_reuse import Looking

    from agile_gym.envs.jigsaw import JigsawVisionEnv
    from agile_gym.models.tiny import save_tiny
    from agile_gym.policies.model import HFVLMPolicy

    class Timed(HFVLMPolicy):
        seconds = ()

        def act(self, observations, infos):
            start = time.perf_counter()
            texts = super().act(observations, infos)
            self.seconds += (time.perf_counter() - start,)
            return texts

    torch.set_num_threads(1)
    make = partial(JigsawVisionEnv, grid=2, level=0, image_size=64, max_turns=TURNS, prompt="short")
    with tempfile.TemporaryDirectory() as folder:
        policy = Timed(str(save_tiny(Path(folder, "tiny"))), max_new_tokens=48, temperature=1.0, device="cpu")
        while True:
            group = make_group(len(policy.seconds), seed=0, size=SIZE, shares=[1.0])
            play = play_groups(Looking(policy, TURNS - 1), [group], {0: make}, batch=SIZE)
            yield play.groups[0].episodes, policy.seconds[-TURNS:]


def record(groups=64):
    """Print the table TURN."""
    rounds = played_group()
    turns = [seconds for _ in range(groups) for seconds in next(rounds)[1]][4 * TURNS :]  # without warming up
    shares = np.quantile(turns, np.linspace(0, 1, len(TURN))) / np.mean(turns)
    print(f"{len(turns)} turns, mean {np.mean(turns):.3f} s\n{shares.round(2).tolist()}")
