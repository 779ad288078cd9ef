"""Growth of the memory of a training's processes over many iterations, and the bytes of the images that they send.

    python benchmarks/training_memory.py                    # 200 iterations, two runners and two learners
    python benchmarks/training_memory.py --iterations 30 --runners 1 --learners 1
    python benchmarks/training_memory.py --bytes            # of one iteration's groups and samples

Plays and learns with a small random model, so that growth is not hidden by the size of a model: episodes of five turns,
each but the last with an image of the board. After every tenth iteration the resident memory of the driver, of each
runner and of each learner is read; then free memory is handed back to the system (``gc.collect``, ``malloc_trim``), and
it is read again, without what processes share. Peaks are the kernel's. Growth is the slope of a straight line through
the second half of a process's figures, as the first half fills caches. ``--arenas 2`` sets MALLOC_ARENA_MAX.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import resource
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

HERE = str(Path(__file__).parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH", "")]))

MIB = 2**20
FIGURES = ("rss_mib", "private_mib", "blocks", "peak_mib", "process")


def looking_policy(model, *, turns, **options):
    """Return a policy whose turns but the last are carried out as an observation of the board."""
    from cache_reuse import Looking

    from agile_gym.policies.model import HFVLMPolicy

    return Looking(HFVLMPolicy(model, **options), turns - 1)


def letters(episode):
    """Return a reward that differs within groups, from the tokens that the model wrote."""
    return float(sum(int(segment.ids[segment.loss_mask].sum()) for segment in episode.segments) % 7)


def memory(_=None):
    """Return the `FIGURES` of a process; private memory is read after free memory was handed back."""
    import psutil

    process = psutil.Process()
    held = process.memory_info().rss
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    left = process.memory_info()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return held / MIB, (left.rss - left.shared) / MIB, sys.getallocatedblocks(), peak, os.getpid()


def measure(algorithm):
    """Return the memory of all processes of an algorithm by name."""
    found = {"driver": memory()}
    if algorithm.env_runner_group.num_remote_env_runners():
        told = algorithm.env_runner_group.foreach_env_runner(memory, local_env_runner=False)
        found |= {f"runner {number + 1}": entry for number, entry in enumerate(told)}
    if algorithm.learner_group.is_remote:
        told = algorithm.learner_group.foreach_learner(memory).result_or_errors
        found |= {f"learner {number + 1}": entry.get() for number, entry in enumerate(told)}
    return found


def make_algorithm(options, folder):
    """Build the algorithm that is measured."""
    import ray

    from agile_gym.learner import GRPOConfig
    from agile_gym.models.tiny import TinySizes, build_tiny

    sizes = TinySizes(width=64, layers=2, heads=4, inner=96, vision_width=32)
    model, processor = build_tiny(0, sizes=sizes)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    processes = options.runners + options.learners
    ray.init(num_cpus=max(1, processes), include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    env = {
        "image_size": options.image_size,
        "prompt": "short",
        "images": None,
        "split": "train",
        "grid": "2x2",
        "max_turns": options.turns,
    }
    return (
        GRPOConfig()
        .environment("JigsawVision-v0", env_config=env)
        .vlm(path=folder)
        .env_runners(num_env_runners=options.runners)
        .learners(num_learners=options.learners)
        .training(
            lr=1e-4,
            groups_per_iteration=options.groups,
            group_size=options.group_size,
            max_new_tokens=16,
            rollout_batch=32,
            num_minibatches=2,
            filter_zero_variance_groups=False,
            reward_fn=letters,
            policy_class=partial(looking_policy, turns=options.turns),
        )
        .build_algo()
    )


def growth(iterations, figures):
    """Return the slope of figures in MiB over 100 iterations, from the second half of them."""
    half = len(figures) // 2
    if len(figures) - half < 2:
        return float("nan")
    return float(np.polyfit(iterations[half:], figures[half:], 1)[0] * 100)


def measure_bytes(algorithm):
    """Return the bytes of an iteration's groups, and of its samples for one and two learners, as Ray stores them."""
    import ray

    from agile_gym.learner.data import shard_samples
    from agile_gym.learner.memory import put_shards

    context = ray._private.worker.global_worker.get_serialization_context()
    stored = []
    put = ray.put

    def watched(value, **kwargs):
        stored.append(context.serialize(value).total_bytes)
        return put(value, **kwargs)

    batch = algorithm.collect()
    samples = algorithm.make_samples(batch)
    episodes = [episode for group in batch.groups for episode in group.episodes]
    images = [image for episode in episodes for image in episode.images]
    told = {
        "episodes": len(episodes),
        "images": len(images),
        "different_images": len({(image.shape, image.tobytes()) for image in images}),
        "bytes_of_images": sum(image.nbytes for image in images),
        "answers": context.serialize(batch.groups).total_bytes,
    }
    ray.put = watched
    try:
        for learners in (1, 2):
            put_shards(shard_samples(samples, learners))
            told[f"samples_{learners}"] = sum(stored)
            stored.clear()
    finally:
        ray.put = put
    return told


def markdown(options, iterations, rows):
    """Return the figures as a section in Markdown."""
    quarters = [round(share * (len(iterations) - 1) / 4) for share in range(5)]
    after = " | ".join(f"after {iterations[place]}" for place in quarters)
    lines = [
        "## Memory",
        "",
        f"`python benchmarks/training_memory.py --iterations {options.iterations} --runners {options.runners} "
        f"--learners {options.learners}`: MiB of a training of the tiny model, episodes of {options.turns} turns with "
        "images, free memory handed back before each reading; growth is the slope over the second half.",
        "",
        f"| process | {after} | growth in 100 iterations | peak | resident before handing back, growth |",
        "|---|" + "---|" * (len(quarters) + 3),
    ]
    for name, row in rows.items():
        told = " | ".join(f"{row['private_mib'][place]:.1f}" for place in quarters)
        lines.append(
            f"| {name} | {told} | {row['growth_private']:+.1f} | {row['peak_mib']:.1f} | {row['growth_rss']:+.1f} |"
        )
    return "\n".join(lines) + "\n"


def main():
    """Train, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--runners", type=int, default=2)
    parser.add_argument("--learners", type=int, default=2)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--every", type=int, default=10, help="iterations between two measurements")
    parser.add_argument("--arenas", type=int, help="largest number of the allocator's arenas in each process")
    parser.add_argument("--bytes", action="store_true", help="count the bytes that one iteration sends instead")
    parser.add_argument("--out", type=Path, help="file for the figures, as JSON")
    options = parser.parse_args()
    if options.arenas and os.environ.get("MALLOC_ARENA_MAX") != str(options.arenas):
        os.environ["MALLOC_ARENA_MAX"] = str(options.arenas)  # it is read when a process starts
        os.execv(sys.executable, [sys.executable, *sys.argv])
    with tempfile.TemporaryDirectory() as folder:
        algorithm = make_algorithm(options, folder)
        if options.bytes:
            print(json.dumps(measure_bytes(algorithm), indent=1))
            algorithm.stop()
            return
        taken, course = [], {}
        for iteration in range(options.iterations + 1):
            if iteration:
                algorithm.train()
            if iteration % options.every == 0 or iteration == options.iterations:
                taken.append(iteration)
                for name, entry in measure(algorithm).items():
                    course.setdefault(name, []).append(dict(zip(FIGURES, entry, strict=True)))
                told = ", ".join(f"{name} {entries[-1]['private_mib']:.1f}" for name, entries in course.items())
                print(f"{iteration}: {told}", file=sys.stderr, flush=True)
        algorithm.stop()
    rows = {}
    for name, entries in course.items():
        figures = {key: [round(entry[key], 1) for entry in entries] for key in FIGURES[:3]}
        rows[name] = {
            **figures,
            "peak_mib": round(entries[-1]["peak_mib"], 1),
            "growth_rss": round(growth(taken, figures["rss_mib"]), 2),
            "growth_private": round(growth(taken, figures["private_mib"]), 2),
            "growth_blocks": round(growth(taken, figures["blocks"])),
            "same_process": len({entry["process"] for entry in entries}) == 1,
        }
    print(
        f"{'process':<12}{'begin':>9}{'half':>9}{'end':>9}{'peak':>9}   growth in 100 iterations: MiB, resident, blocks"
    )
    for name, row in rows.items():
        figures = row["private_mib"]
        told = [figures[0], figures[len(figures) // 2], figures[-1], row["peak_mib"]]
        print(
            f"{name:<12}{''.join(f'{figure:>9.1f}' for figure in told)}   "
            f"{row['growth_private']:+.2f} {row['growth_rss']:+.2f} {row['growth_blocks']:+d}"
            f"{'' if row['same_process'] else ' (was started again)'}"
        )
    if options.out:
        settings = {key: value for key, value in vars(options).items() if key != "out"}
        content = {"settings": settings, "iterations": taken, "processes": rows}
        content["markdown"] = markdown(options, taken, rows)
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
