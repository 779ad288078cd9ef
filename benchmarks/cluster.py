"""Driver of a training at the size of a cluster, with simulated runners: time beside the ideal, and the driver's cost.

    python benchmarks/cluster.py --runners 16 64 256 1024 --output cluster.json
    python benchmarks/cluster.py --runners 1024 --rows plain --profile
    python benchmarks/cluster.py --record                          # the table TURN anew, from the tiny model

Real are the driver (`agile_gym.learner.grpo.GRPO.train`, from the drawing of groups to the samples of the learners,
with RLlib's manager of actors), Ray's calls and object store, and what the runners answer: groups that the tiny model
played, and the metrics of `VLMEnvRunner`. Simulated are

- the runners: records in a few asynchronous actors, the hosts. A runner answers its calls one after another, as an
  actor does, and sleeps in place of a model. A host packs answers one at a time, and gets weights once for all;
- the machines: there is one. Hosts take processor time from the driver, and nothing travels over a network;
- seconds: those of a turn are drawn from TURN and scaled; a group takes its turns, and a runner its groups, one after
  another. In rows with stragglers one group in 50 takes three to eight times as long;
- the learners: they hand out an array for weights and, with a lag, sleep for half as long as an ideal rollout.

The ideal is the larger of all groups' seconds over the number of runners and the slowest group; no order takes less.
"As split" is what the runner with the longest part takes. Where a node is lost, a host is killed in the middle of the
second iteration that is counted, with all its runners. Each row asserts that every group was taken once, in order.
The driver's seconds are those of the processor, of all its threads, a mean iteration's; those of a part leave out the
parts inside it. "Collecting" is the waiting for answers, unpacking and comparing; "rest" is RLlib's.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pickle
import pstats
import re
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import ray
from cluster_hosts import SIZE, TURNS, Handle, Host, played_group, record, seconds_of
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from agile_gym.learner import GRPOConfig, recovery
from agile_gym.learner.ahead import PlayedAhead
from agile_gym.learner.env_runner import VLMEnvRunner
from agile_gym.learner.grpo import GRPO

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 -- Ray's name; hosts stand for other machines
NAMES = {"plain": "", "stragglers": "stragglers", "lag": "lag 1", "lost": "node lost", "lost_lag": "node lost, lag 1"}


class Logged(VLMEnvRunner):
    """Runner that logs episodes and nothing else."""

    def __init__(self):
        self.metrics, self._sampled, self._weights_seq_no = MetricsLogger(root=False), 0, 0

    def metrics_of(self, episodes):
        """Return the metrics after some episodes, as they are sent."""
        self._log(episodes)
        return pickle.dumps(self.get_metrics())


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

    hosts, learners, pace = (), None, (1.0, False)

    def setup(self, config):
        """Take over runners and learners."""
        config = self.config
        self.callbacks, self.taken = [], []
        self.env_runner_group = EnvRunnerGroup(config=config, local_env_runner=False, _setup=False)
        self.env_runner_group._local_env_runner = None
        keys = [(number, id(self), *self.pace) for number in range(1, config.num_env_runners + 1)]
        handles = [Handle(self.hosts[key[0] % len(self.hosts)], key) for key in keys]
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
    (recovery, "send_groups", "scheduling"),
    (PlayedAhead, "begin", "scheduling"),
    (MetricsLogger, "aggregate", "metrics"),
    (GRPO, "current_weights", "weights"),
    (GRPO, "_sync_weights", "weights"),
    (GRPO, "make_samples", "samples"),
    (GRPO, "learn", "samples"),
)
"""Functions of the driver, and the part that their time counts to."""


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
    splits = [max(map(sum, recovery.split_groups(part, range(runners)).values())) for part in parts]
    Simulated.hosts, Simulated.pace = hosts, pace
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
        if "lost" in row and number == min(2, options.iterations):
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
    algorithm._ahead.settle()
    if options.profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(35)
    taken = [group.spec.index for group in algorithm.taken]
    assert taken == list(range(groups * count)), "a group is lost, or taken twice"
    steps = result["env_runners"]["num_env_steps_sampled_lifetime"]
    assert lag or steps == groups * count * SIZE * TURNS, steps
    return {
        "runners": runners, "row": NAMES[row], "groups": groups,
        "ideal": ideals[1:], "split": splits[1:], "wall": walls,
        "processor": {part: value / options.iterations for part, value in clock.seconds.items()},
        "peak": peak_memory(),
    }  # fmt: skip


PARTS = ("scheduling", "collecting", "metrics", "weights", "samples", "rest")


def line(figures):
    """Return a row of the table."""
    ideal, split, wall = (np.mean(figures[name]) for name in ("ideal", "split", "wall"))
    parts = [f"{figures['processor'].get(part, 0.0):.2f}" for part in PARTS]
    total = f"{sum(figures['processor'].values()):.2f}"
    return (f"{figures['runners']:,}", figures["row"], f"{figures['groups']:,}", f"{ideal:.1f}", f"{split:.1f}",
            f"{wall:.1f}", f"{100 * ideal / wall:.0f}%", total, *parts, f"{figures['peak']:.0f}")  # fmt: skip


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
    header = ("runners", "", "groups", "ideal, s", "as split, s", "measured, s", "efficiency", "driver, CPU s",
              *PARTS, "peak, MiB")  # fmt: skip
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
