"""Speed of GRPO: beside TRL's `GRPOTrainer`, with and without the cache, its parts, and with two processes of each.

    python benchmarks/training_speed.py --output speed.json
    python benchmarks/training_speed.py --quick                   # small: a check that it runs, no measurement
    python benchmarks/training_speed.py --only trl cache

The comparisons:

- TRL: the tiny model in float32, 2x2 puzzles of 64 px, one turn, so that both can play it. Both play the same puzzles
  with the same prompts, as many episodes, in turns of exactly the same number of tokens (no token ends a turn: TRL has
  ``min_new_tokens`` set, and this library's sampler and scorer leave such tokens out), and take one step of
  AdamW for all of them, with gradients clipped. A process and a thread for each: what one leaves in memory would
  slow the other down. The two take turns of some iterations, and wait for each other; the first iterations of each turn
  are not counted. TRL plays without
  vLLM, which has no such model, without a reference model (beta 0) and gradient checkpointing, and logs nothing. Both
  are tuned first: attention, and what is computed at once in an update; the fastest of each is used.

  A rollout of TRL is `GRPOTrainer._generate_and_score_completions`: prompts to tokens, generation, rewards. Its images
  are cut before; this library's rollout makes and plays environments, and keeps log-probabilities and transcripts. An
  update is everything from there to the cleared gradients: batches, forward, backward, step of the optimiser. The
  reward is a sum of token ids, for both.
- Cache: several turns, each with an image of the board; what the model writes is recorded, what is carried out is a
  script, as in benchmarks/cache_reuse.py. Once with the cache kept from turn to turn, once computed from the start in
  every turn; both in a rollout of training, with groups. A Qwen2.5-VL has many tokens an image (random weights, of
  small size), the tiny model has one.
- Parts: several turns, with one runner and one learner. Sections exclude what has a section of its own, so that they
  add up to the iteration.
- Processes: the same with one or two of each.
- Overlap: the same with one of each, where groups are played in turn with the update, and at the same time (max_lag).

Seconds of the processor (CPU) are those of a machine that does nothing else; medians, with the lowest and
highest in brackets. Needs the extra ``train`` and, for the first part, TRL.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import median

HERE = str(Path(__file__).parent)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH", "")]))
sys.path.insert(0, HERE)

PARTS = ("trl", "cache", "profile", "scaling", "overlap")
WARM_UP = 3
"""Iterations that are not counted: memory grows in them."""
TRIES = 3
"""Iterations of each setting that is tried."""
ROUNDS = 3
"""Number of times that TRL and this library alternate."""


def table(header, rows):
    """Write a Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (header, *rows)]
    lines.insert(1, "|" + "---|" * len(header))
    return "\n".join(lines)


def spread(values, digits=0):
    """Write the median of some values, with the lowest and the highest."""
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(values), median(values), max(values)))
    return f"{middle} ({low}-{high})"


def rates(readings, kind):
    """Return tokens a second of each reading."""
    return [reading.tokens / getattr(reading, kind) for reading in readings]


class Worker:
    """A process with one thread in which one library trains, and nothing else."""

    def __init__(self, library, folder):
        self._executor = ProcessPoolExecutor(1, get_context("spawn"), initializer=one_thread)
        self._library, self._folder = library, folder

    def train(self, setting, steps, turn=0):
        """Train, and return the readings of rollout and update of each step, but for the first ones."""
        work = train_trl if self._library == "TRL" else train_ours
        return self._executor.submit(work, setting, WARM_UP + steps, self._folder, turn).result()[WARM_UP:]

    def stop(self):
        """End the process."""
        self._executor.shutdown()


def one_thread():
    """Keep a process to one thread, and its output to standard error."""
    import torch

    torch.set_num_threads(1)
    os.dup2(2, 1)


def train_trl(setting, steps, folder, turn):
    """Train with TRL."""
    import speed_trl

    return speed_trl.train(setting, steps, folder, turn)


def train_ours(setting, steps, folder, turn):
    """Train with this library."""
    import speed_grpo

    return speed_grpo.train(setting, steps)


def processor_seconds(readings):
    """Return the seconds of the processor of a rollout and an update, for choosing the fastest."""
    return median(rollout.processor + update.processor for rollout, update in readings)


def tune(setting, workers, quick):
    """Return the fastest settings of TRL and of this library, and the times of all."""
    episodes = setting.groups * setting.group_size
    sizes = {"TRL": [episodes // 4, episodes // 2, episodes], "agile_gym": [1024, 2048, 4096]}
    attentions = ["sdpa"] if quick else ["sdpa", "eager"]
    tried = {library: {} for library in sizes}
    for library, entries in sizes.items():
        for attention, size in product(attentions, entries[-1:] if quick else entries):
            chosen = replace(setting, attention=attention, micro_batch=size)
            tried[library][chosen] = processor_seconds(workers[library].train(chosen, 1 if quick else TRIES))
    best = [min(entries, key=entries.get) for entries in tried.values()]
    told = [
        {"library": library, "attention": entry.attention, "micro_batch": entry.micro_batch, "cpu_seconds": value}
        for library, entries in tried.items()
        for entry, value in entries.items()
    ]
    return *best, told


def beside_trl(model, options, folder):
    """Measure TRL and this library in turn."""
    setting = replace(base(model), groups=2, group_size=4, new_tokens=8) if options.quick else base(model)
    workers = {library: Worker(library, folder) for library in ("TRL", "agile_gym")}
    theirs, ours, tried = tune(setting, workers, options.quick)
    readings, each = {"TRL": [], "agile_gym": []}, -(-options.repetitions // ROUNDS)
    for turn in range(-(-options.repetitions // each)):
        readings["TRL"] += workers["TRL"].train(theirs, each, turn)
        readings["agile_gym"] += workers["agile_gym"].train(ours, each)
    for worker in workers.values():
        worker.stop()
    rows, figures = [], {}
    for place, what in enumerate(("rollout", "update")):
        for kind, unit in (("wall", "s"), ("processor", "CPU second")):
            values = {name: rates([pair[place] for pair in pairs], kind) for name, pairs in readings.items()}
            ratio = median(values["agile_gym"]) / median(values["TRL"])
            figures[f"{what}_{kind}"] = {**values, "ratio": ratio}
            rows.append((f"{what}, tokens a {unit}", *(spread(entry) for entry in values.values()), f"{ratio:.2f}"))
    counts = {name: [pair[place].tokens for pair in pairs for place in (0, 1)] for name, pairs in readings.items()}
    assert len({count for entry in counts.values() for count in entry}) == 1, counts
    version = importlib.metadata.version("trl")
    text = f"""### Beside TRL {version}

{setting.groups} puzzles of {setting.group_size} episodes, one turn of {setting.new_tokens}
tokens: {counts["TRL"][0]:,} tokens written and trained on an iteration, {len(readings["TRL"])} iterations of each.
Settings that were fastest: TRL {theirs.attention}, {theirs.micro_batch} rows at once; agile_gym {ours.attention},
{ours.micro_batch:,} tokens at once (padding included).

{table(("", f"TRL {version}", "agile_gym", "ratio"), rows)}

CPU seconds of an iteration with the settings that were tried (medians): {told(tried)}.
"""
    return text, {"setting": asdict(setting), "tried": tried, "tokens": counts["TRL"][0], "rates": figures}


def told(tried):
    """Write the times of the settings tried."""
    return "; ".join(
        f"{library} "
        + ", ".join(
            f"{entry['attention']} {entry['micro_batch']:,}: {entry['cpu_seconds']:.2f}"
            for entry in tried
            if entry["library"] == library
        )
        for library in ("TRL", "agile_gym")
    )


def base(model):
    """Return the setting of the comparison with TRL."""
    from speed_grpo import Setting

    return Setting(model)


def with_and_without_cache(model, options, folder):
    """Measure rollouts of several turns, with the cache kept and from the start in every turn."""
    from cache_reuse import random_qwen
    from speed_grpo import build, measure_rollout

    several = replace(base(model), turns=5, new_tokens=32)
    if options.quick:
        settings = {"tiny, 64 px": replace(several, groups=2, group_size=2, turns=3, new_tokens=4)}
    else:
        qwen = replace(several, model=str(random_qwen(os.path.join(folder, "qwen"))), groups=2, group_size=4)
        settings = {
            "tiny, 64 px": several,
            "random Qwen2.5-VL, 224 px": replace(qwen, image_size=224),
            "random Qwen2.5-VL, 448 px": replace(qwen, image_size=448),
            "random Qwen2.5-VL, 616 px": replace(qwen, image_size=616, groups=1),
            "random Qwen2.5-VL, 448 px, full prompt": replace(qwen, image_size=448, groups=1, prompt="full"),
        }
    rows, figures = [], {}
    for name, setting in settings.items():
        algorithms = {reuse: build(replace(setting, reuse_cache=reuse)) for reuse in (True, False)}
        readings = {True: [], False: []}
        repetitions = min(3, options.repetitions) if setting.model == model else 1
        for _ in range(1 + repetitions):
            batches = {}
            for reuse, algorithm in algorithms.items():
                reading, batches[reuse] = measure_rollout(algorithm)
                readings[reuse].append(reading)
        for algorithm in algorithms.values():
            algorithm.stop()
        kept, scratch = (readings[reuse][1:] for reuse in (True, False))
        ratio = {kind: median(rates(kept, kind)) / median(rates(scratch, kind)) for kind in ("wall", "processor")}
        episodes = [[e for group in batches[reuse].groups for e in group.episodes] for reuse in (True, False)]
        written = [[segment.ids.tolist() for e in part for segment in e.segments] for part in episodes]
        context = [turn.usage.context_tokens for turn in episodes[0][0].turns]
        figures[name] = {
            "setting": asdict(setting),
            "context": context,
            "kept": rates(kept, "processor"),
            "scratch": rates(scratch, "processor"),
            "ratio": ratio,
            "same_tokens": written[0] == written[1],
        }
        rows.append(
            (
                name,
                f"{setting.groups} x {setting.group_size}",
                f"{context[0]}-{context[-1]}",
                spread(rates(kept, "processor")),
                spread(rates(scratch, "processor")),
                f"{ratio['processor']:.2f}",
                f"{ratio['wall']:.2f}",
                "yes" if written[0] == written[1] else "no",
            )
        )
    turns, tokens = (getattr(next(iter(settings.values())), name) for name in ("turns", "new_tokens"))
    header = ("model and photographs", "groups", "tokens of context", "cache kept, tokens a CPU second",
              "from the start",               "ratio", "ratio by the clock", "same tokens drawn")  # fmt: skip
    text = f"""### The cache, over turns

Rollouts of {turns} turns of {tokens} tokens, an image of the board after each turn but the last; tokens written.

{table(header, rows)}
"""
    return text, figures


def several_turns(model, options):
    """Return the setting of profile and scaling."""
    setting = replace(base(model), groups=8, turns=5, runners=1, learners=1)
    return replace(setting, groups=2, group_size=2, turns=3, new_tokens=4) if options.quick else setting


def measure_processes(setting, repetitions):
    """Train with runners and learners of their own; return the parts and times of each iteration."""
    from speed_grpo import build
    from speed_watch import watch, watched_iteration

    algorithm = build(setting)
    clock = watch(algorithm)
    told = [watched_iteration(algorithm, clock) for _ in range(WARM_UP + repetitions)][WARM_UP:]
    algorithm.stop()
    return [parts for parts, _ in told], [times for _, times in told]


def profile(model, options, folder):
    """Measure the parts of an iteration."""
    from speed_watch import ORDER

    setting = several_turns(model, options)
    iterations, _ = measure_processes(setting, min(5, options.repetitions))
    seconds = {name: sum(parts.get(name, 0.0) for parts in iterations) / len(iterations) for name in ORDER}
    total = sum(seconds.values())
    assert not set().union(*iterations) - set(ORDER)
    rows = [(name, f"{value:.3f}", f"{100 * value / total:.1f}") for name, value in seconds.items()]
    rows.append(("iteration", f"{total:.3f}", "100.0"))
    text = f"""### Where the time goes

The tiny model, {setting.groups} puzzles of {setting.group_size} episodes, {setting.turns} turns of
{setting.new_tokens} tokens with an image of the board after each but the last; one runner, one learner, one thread
each; mean of {len(iterations)} iterations.

{table(("part", "seconds", "%"), rows)}
"""
    return text, {"setting": asdict(setting), "seconds": seconds, "total": total}


def scaling(model, options, folder):
    """Measure rollouts and updates with one and two processes of each."""
    rows, figures, first = [], {}, {}
    for runners, learners in ((1, 1), (2, 1), (1, 2), (2, 2)):
        setting = replace(several_turns(model, options), runners=runners, learners=learners)
        _, times = measure_processes(setting, min(3, options.repetitions))
        row = [runners, learners]
        for what, count in (("rollout", runners), ("update", learners)):
            walls, busiest = ([entry[what][place] for entry in times] for place in (0, 1))
            figures[f"{what}_{runners}_{learners}"] = {"wall": walls, "busiest_cpu": busiest}
            if runners == learners == 1:
                first[what] = median(walls), median(busiest)
            gain = first[what][0] / median(walls), first[what][1] / median(busiest)
            row += [spread(walls, 2), spread(busiest, 2), f"{gain[0]:.2f} / {gain[1]:.2f}" if count > 1 else ""]
        rows.append(tuple(row))
    header = ("runners", "learners", "rollout, s", "of the busiest runner, CPU s", "faster by the clock / CPU",
              "update, s", "of the busiest learner, CPU s", "faster by the clock / CPU")  # fmt: skip
    text = f"""### One and two processes

The same iteration on {os.cpu_count()} cores.

{table(header, rows)}
"""
    return text, figures


def overlap(model, options, folder):
    """Measure iterations whose groups are played before the update, and during the one before."""
    import time

    from speed_grpo import build

    each = -(-min(6, options.repetitions) // ROUNDS)
    algorithms = {lag: build(replace(several_turns(model, options), max_lag=lag)) for lag in (0, 1)}
    figures = {lag: {"wall": [], "wait": [], "update": []} for lag in algorithms}
    for number in range(1 if options.quick else ROUNDS):
        for lag, algorithm in algorithms.items():  # in turn, as other processes may load the machine
            skipped = 1 if number else WARM_UP
            for iteration in range(skipped + each):
                start = time.perf_counter()
                told = algorithm.train()["grpo"]
                if iteration >= skipped:  # those of the first were played before
                    assert told["lag_mean"] == told["lag_max"] == lag
                    figures[lag]["wall"].append(time.perf_counter() - start)
                    figures[lag]["wait"].append(float(told["seconds_rollout"]))
                    figures[lag]["update"].append(float(told["seconds_update"]))
            algorithm._ahead.settle()
    for algorithm in algorithms.values():
        algorithm.stop()
    first = median(figures[0]["wall"])
    rows = [
        (lag, *(spread(values, 2) for values in entry.values()), f"{first / median(entry['wall']):.2f}")
        for lag, entry in figures.items()
    ]
    count = len(figures[0]["wall"])
    header = ("max_lag", "iteration, s", "waiting for groups, s", "update, s", "faster")
    text = f"""### Playing while learning

The same iteration with one runner and one learner, a process each, {count} iterations of each on {os.cpu_count()}
cores; load {os.getloadavg()[1]:.1f} over the last five minutes.

{table(header, rows)}
"""
    return text, figures


def main():
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repetitions", type=int, default=None, help="iterations that are counted; 9 by default")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, help="file for the figures and their tables, as JSON")
    options = parser.parse_args()
    options.repetitions = options.repetitions or (1 if options.quick else 9)
    if "trl" in options.only and importlib.util.find_spec("trl") is None:
        parser.error("TRL is not installed; install it, or leave the comparison out with --only.")
    import ray
    import torch
    from run_all import machine
    from speed_grpo import start_ray

    from agile_gym.models.tiny import save_tiny

    torch.set_num_threads(1)
    work = {
        "trl": beside_trl,
        "cache": with_and_without_cache,
        "profile": profile,
        "scaling": scaling,
        "overlap": overlap,
    }
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("torch", "transformers", "ray"))
    texts = [f"## Speed of training\n\n`python benchmarks/training_speed.py`, {machine()}, {versions}.\n"]
    figures = {}
    print(texts[0])
    with tempfile.TemporaryDirectory() as folder:
        model = str(save_tiny(os.path.join(folder, "tiny")))
        for part in PARTS:
            if part in options.only:
                if part != "trl" and not ray.is_initialized():
                    start_ray()
                print(f"{part} ...", file=sys.stderr)
                text, figures[part] = work[part](model, options, folder)
                texts.append(text)
                print(text, flush=True)
                if options.output:  # what is measured is kept, whatever comes
                    content = {"markdown": "\n".join(texts), "figures": figures, "repetitions": options.repetitions}
                    options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        ray.shutdown()


if __name__ == "__main__":
    main()
