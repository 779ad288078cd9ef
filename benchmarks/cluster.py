"""Driver of a training at the size of a cluster, with simulated runners: time against the ideal, and the driver's cost.

    python benchmarks/cluster.py --runners 16 64 256 1024 --output cluster.json
    python benchmarks/cluster.py --runners 1024 --rows plain --profile
    python benchmarks/cluster.py --record                          # the table TURN anew, from the tiny model

Real are the driver, `agile_gym.learner.grpo.GRPO` with RLlib's manager of actors (`train`, from the drawing of groups to
the samples of the learners), Ray's calls and object store, the nodes (raylets of `ray.cluster_utils.Cluster`) and what
runners answer: groups of episodes that the tiny model played, and the metrics of `VLMEnvRunner`. Simulated are

- the runners: each is a record in an asynchronous actor, a host, which holds many of them; a runner answers its calls
  one after another, as an actor does, and sleeps in place of a model. A host answers in turn, so that replies wait for
  its processor; and an object that many runners of a host fetch travels once to it, not once to each;
- seconds: those of a turn are drawn from TURN and scaled, a group takes its turns one after another, and a runner its
  groups; rows with stragglers slow one group in 50 down, three to eight times;
- the machines: all nodes share this one's cores, so that hosts take processor time from the driver;
- the learners: they sleep, and hand out an array for weights.

The ideal is the larger of all groups' seconds over the number of runners, and the slowest group: no order takes less.
With a lag, groups are played while the learners sleep as long as an ideal rollout. Where a node is lost, its raylet and
hosts are killed in the middle of the second iteration; that all groups are taken once, in order, is asserted in each row.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import inspect
import json
import os
import pickle
import pstats
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import ray
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.actor_manager import FaultTolerantActorManager
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from agile_gym.learner import GRPOConfig
from agile_gym.learner.ahead import PlayedAhead
from agile_gym.learner.env_runner import VLMEnvRunner
from agile_gym.learner.groups import Group, GroupPlay, make_group, play_groups
from agile_gym.learner.grpo import GRPO
from agile_gym.learner.messages import RunnerReply

TURN = (0.64, 0.69, 0.72, 0.77, 0.79, 0.82, 0.84, 0.85, 0.88, 0.9, 0.93, 0.96, 0.99, 1.01, 1.05, 1.09, 1.14, 1.2, 1.3, 1.54, 2.78)  # fmt: skip
"""Seconds of a turn over their mean, at every twentieth of the distribution: 300 turns of the tiny model, 8 episodes in
a batch, at most 48 tokens a turn, one core of an AMD EPYC beside other work; the mean was 0.128 s."""
TURNS, SIZE = 5, 8
NAMES = {
    "plain": "plain",
    "stragglers": "stragglers",
    "lag": "lag 1",
    "lost": "node lost",
    "lost_lag": "node lost, lag 1",
}


def seconds_of(index, scale, stragglers):
    """Return the seconds that a group takes, a function of its number."""
    rng = np.random.default_rng([7, index])
    seconds = scale * float(np.interp(rng.random(TURNS), np.linspace(0, 1, len(TURN)), TURN).sum())
    return seconds * rng.uniform(3, 8) if stragglers and rng.random() < 0.02 else seconds


class Logged(VLMEnvRunner):
    """Runner that logs episodes and nothing else."""

    def __init__(self):
        self.metrics, self._sampled, self._weights_seq_no = MetricsLogger(root=False), 0, 0

    def metrics_of(self, episodes):
        """Return the metrics after some episodes, as they are sent."""
        self._log(episodes)
        return pickle.dumps(self.get_metrics())


@dataclass
class Packed:
    """What another process unpacks; this one need not import it."""

    content: bytes

    def __reduce__(self):
        return pickle.loads, (self.content,)


class Runner:
    """Record of a simulated runner."""

    config = SimpleNamespace(is_multi_agent=False, enable_env_runner_and_connector_v2=True)

    def __init__(self, number, host):
        self.number, self.host, self.turn, self.weights, self.taken = number, host, asyncio.Lock(), 0, None

    async def sample_groups(self, groups, *, weights, explore, evaluation):
        """Sleep, and return the played groups."""
        if self.taken != weights.name:
            self.set_state(await weights.state)
            self.taken = weights.name
        for spec in groups:
            await asyncio.sleep(seconds_of(spec.index, *self.host.pace))
        play = GroupPlay(tuple(Group(spec, self.host.episodes, self.weights) for spec in groups))
        return RunnerReply(self.number, play, Packed(self.host.metrics[len(groups)]))

    def set_state(self, state):
        """Take over weights."""
        self.weights = state[WEIGHTS_SEQ_NO]


class Host:
    """Actor that holds runners; one that was started anew holds new ones."""

    def __init__(self, template):
        self.episodes, self.metrics = template
        self.pace, self._runners = (1.0, False), {}

    async def pid(self):
        """Return the number of the process."""
        return os.getpid()

    async def set_pace(self, pace):
        """Set the seconds of a turn, and whether there are stragglers."""
        self.pace = pace

    async def call(self, number, name, args, kwargs):
        """Call a function of a runner, after those before."""
        runner = self._runners.setdefault(number, Runner(number, self))
        async with runner.turn:
            if name == "apply":
                result = kwargs.pop("func")(runner, *args, **kwargs)
            else:
                result = getattr(runner, name)(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result


@dataclass(frozen=True)
class Method:
    """Function of a runner, called as that of an actor."""

    host: object
    number: int
    name: str

    def remote(self, *args, **kwargs):
        """Send the call to the host."""
        return self.host.call.remote(self.number, self.name, args, kwargs)


class Handle:
    """Stand-in for the handle of a runner's actor."""

    def __init__(self, host, number):
        self.apply, self.sample_groups = Method(host, number, "apply"), Method(host, number, "sample_groups")


class Learners:
    """Stand-in for the learners: sleeps, and hands out an array for weights."""

    is_local = False

    def __init__(self, seconds, weights):
        self.seconds, self.weights, self.updates = seconds, np.ones(weights, np.uint8), 0

    def update(self, **_):
        time.sleep(self.seconds)
        self.updates += 1
        return []

    def get_state(self, **_):
        state = {COMPONENT_RL_MODULE: {DEFAULT_MODULE_ID: {"weights": self.weights}}, WEIGHTS_SEQ_NO: self.updates}
        return {COMPONENT_LEARNER: state}

    def foreach_learner(self, _):
        return SimpleNamespace(result_or_errors=[SimpleNamespace(get=lambda: None)])

    def ping(self):
        """Be alive."""


class Simulated(GRPO):
    """The algorithm, with runners and learners that were made before."""

    hosts, learners = (), None

    def setup(self, config):
        """Take over runners and learners."""
        config = self.config
        self.callbacks, self.taken = [], []
        self.env_runner_group = EnvRunnerGroup(config=config, local_env_runner=False, _setup=False)
        self.env_runner_group._local_env_runner = None
        handles = [Handle(self.hosts[n % len(self.hosts)], n + 1) for n in range(config.num_env_runners)]
        self.env_runner_group._worker_manager.add_actors(handles)
        self.learner_group = self.learners
        self.env_to_module_connector = self.module_to_env_connector = SimpleNamespace(get_state=dict)
        self._set_up_metrics()
        self._begin()

    def make_samples(self, batch):
        """Note what was played."""
        self.taken += batch.played
        return super().make_samples(batch)


class Clock:
    """Processor seconds of this process, all its threads, by part; a part inside another counts as itself alone."""

    def __init__(self):
        self.seconds, self._parts, self._last = Counter(), ["rest"], time.process_time()

    def switch(self):
        """Give the seconds since the last call to the current part."""
        now = time.process_time()
        self.seconds[self._parts[-1]] += now - self._last
        self._last = now

    def watch(self, owner, name, part):
        """Count a function as a part."""
        real = getattr(owner, name)

        def timed(*args, **kwargs):
            self.switch()
            self._parts.append(part)
            try:
                return real(*args, **kwargs)
            finally:
                self.switch()
                self._parts.pop()

        setattr(owner, name, timed)


def start_hosts(count, episodes):
    """Start Ray, and the hosts."""
    ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=2 << 30, log_to_driver=False,
             logging_level="ERROR")  # fmt: skip
    metrics = {number: Logged().metrics_of(episodes * number) for number in range(1, 65)}
    kind = ray.remote(num_cpus=0.001, max_restarts=-1, max_concurrency=10_000)(Host)
    template = ray.put((episodes, metrics))
    return [kind.remote(template) for _ in range(count)]


WATCHED = (
    (GRPO, "collect", "collecting"),
    (GRPO, "_draw", "scheduling"),
    (FaultTolerantActorManager, "_call_actors", "scheduling"),
    (PlayedAhead, "begin", "scheduling"),
    (MetricsLogger, "aggregate", "metrics"),
    (GRPO, "current_weights", "weights"),
    (GRPO, "_sync_weights", "weights"),
    (GRPO, "make_samples", "samples"),
    (GRPO, "learn", "samples"),
)
"""Functions of the driver, and the part that their time counts to."""


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


def peak_memory(*, anew=False):
    """Return the largest resident memory of this process in MiB, since it was counted anew."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def measure(hosts, runners, row, options, clock):
    """Train some iterations after one that is not counted; return the figures of a row."""
    groups, lag, count = runners * options.groups, int("lag" in row), options.iterations + 1
    pace = options.seconds, row == "stragglers"
    seconds = [seconds_of(index, *pace) for index in range(groups * count)]
    parts = [seconds[start : start + groups] for start in range(0, len(seconds), groups)]
    ideals = [max(sum(part) / runners, max(part)) for part in parts]
    ray.get([host.set_pace.remote(pace) for host in hosts])
    Simulated.hosts = hosts
    Simulated.learners = Learners(ideals[1] / 2 if lag else 0.0, options.weights * 2**20)
    config = GRPOConfig(Simulated).environment("JigsawVision-v0").env_runners(num_env_runners=runners)
    config.training(group_size=SIZE, groups_per_iteration=groups, max_lag=lag, filter_zero_variance_groups=False)
    config.learner_snapshots = False
    algorithm = Simulated(config)
    algorithm.train()
    clock.switch()
    clock.seconds.clear()
    peak_memory(anew=True)
    walls, profiler = [], cProfile.Profile()
    for number in range(1, count):
        if "lost" in row and number == 2:
            pid = ray.get(hosts[0].pid.remote())
            timer = threading.Timer(0.4 * ideals[number], os.kill, (pid, signal.SIGKILL))
            timer.start()
        start = time.perf_counter()
        if options.profile:
            profiler.enable()
        result = algorithm.train()
        profiler.disable()
        walls.append(time.perf_counter() - start)
    clock.switch()
    if "lost" in row:
        assert ray.get(hosts[0].pid.remote()) != pid
    if options.profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(35)
    assert [group.spec.index for group in algorithm.taken] == list(range(groups * count)), (
        "a group is lost, or taken twice"
    )
    steps = result["env_runners"]["num_env_steps_sampled_lifetime"]
    assert lag or steps == groups * count * SIZE * TURNS, steps
    return {
        "runners": runners, "row": NAMES[row], "groups": groups, "ideal": ideals[1:], "wall": walls,
        "processor": {part: value / options.iterations for part, value in clock.seconds.items()},
        "peak": peak_memory(),
    }  # fmt: skip


PARTS = ("scheduling", "collecting", "metrics", "weights", "samples", "rest")


def line(figures):
    """Return a row of the table."""
    ideal, wall = np.mean(figures["ideal"]), np.mean(figures["wall"])
    parts = [f"{figures['processor'].get(part, 0.0):.2f}" for part in PARTS]
    total = f"{sum(figures['processor'].values()):.2f}"
    return (f"{figures['runners']:,}", figures["row"], f"{figures['groups']:,}", f"{ideal:.1f}", f"{wall:.1f}",
            f"{100 * ideal / wall:.0f}%", total, *parts, f"{figures['peak']:.0f}")  # fmt: skip


def main():
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runners", type=int, nargs="+", default=(16, 64, 256, 1024))
    parser.add_argument("--rows", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--iterations", type=int, default=3, help="those that are counted; %(default)s by default")
    parser.add_argument("--groups", type=int, default=2, help="groups a runner in each iteration")
    parser.add_argument("--seconds", type=float, default=1.0, help="mean seconds of a turn")
    parser.add_argument("--weights", type=int, default=16, help="MiB of weights")
    parser.add_argument("--hosts", type=int, default=4, help="processes that hold the runners")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--record", action="store_true", help="print the table of seconds, and nothing else")
    parser.add_argument("--output", type=Path, help="file for the figures and their table, as JSON")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    from training_speed import table

    if options.record:
        record()
        return
    clock = Clock()
    for owner, name, part in WATCHED:
        clock.watch(owner, name, part)
    episodes, _ = next(played_group())
    hosts = start_hosts(options.hosts, episodes)
    header = ("runners", "", "groups", "ideal, s", "measured, s", "efficiency", "driver, CPU s", *PARTS, "peak, MiB")
    figures = []
    for runners in options.runners:
        for row in options.rows:
            figures.append(measure(hosts, runners, row, options, clock))
            print(line(figures[-1]), file=sys.stderr)
            content = {"markdown": table(header, map(line, figures)), "figures": figures}
            if options.output:  # what is measured is kept, whatever comes
                options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.0f}\n\n{content['markdown']}")


if __name__ == "__main__":
    main()
