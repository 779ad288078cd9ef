"""Growth of the memory of a training's processes over many iterations.

    python benchmarks/training_memory.py                    # 200 iterations, two runners and two learners
    python benchmarks/training_memory.py --iterations 30 --runners 1 --learners 1

Plays and learns with a small random model, so that growth is not hidden by the size of a model. After every tenth
iteration the resident memory of the driver, of each runner and of each learner is read; peaks are the kernel's. Growth
is the slope of a straight line through the second half of an iteration's figures, as the first half fills caches.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
from pathlib import Path

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

MIB = 2**20


def letters(episode):
    """Return a reward that differs within groups, even for an untrained model."""
    return float(sum(len(turn.text) for turn in episode.turns) % 7)


def memory(_=None):
    """Return the resident memory of a process and its peak, in MiB, and its number."""
    import psutil

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return psutil.Process().memory_info().rss / MIB, peak, os.getpid()


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
    env = {"image_size": 64, "prompt": "short", "images": None, "split": "train", "max_turns": 2}
    return (
        GRPOConfig()
        .environment("JigsawVision-v0", env_config=env)
        .vlm(path=folder)
        .env_runners(num_env_runners=options.runners)
        .learners(num_learners=options.learners)
        .training(
            lr=1e-4,
            groups_per_iteration=options.groups,
            group_size=4,
            max_new_tokens=16,
            rollout_batch=32,
            num_minibatches=2,
            reward_fn=letters,
        )
        .build_algo()
    )


def growth(iterations, figures):
    """Return the slope of figures in MiB over 100 iterations, from the second half of them."""
    half = len(figures) // 2
    if len(figures) - half < 2:
        return float("nan")
    return float(np.polyfit(iterations[half:], figures[half:], 1)[0] * 100)


def markdown(options, iterations, rows):
    """Return the figures as a section in Markdown."""
    quarters = [round(share * (len(iterations) - 1) / 4) for share in range(5)]
    after = " | ".join(f"after {iterations[place]}" for place in quarters)
    lines = [
        "## Memory",
        "",
        f"`python benchmarks/training_memory.py --iterations {options.iterations} --runners {options.runners} "
        f"--learners {options.learners}`: resident memory in MiB of a training of the tiny model; growth is the slope "
        "over the second half.",
        "",
        f"| process | {after} | peak | growth in 100 iterations |",
        "|---|" + "---|" * (len(quarters) + 2),
    ]
    for name, row in rows.items():
        told = [*(row["rss_mib"][place] for place in quarters), row["peak_mib"]]
        lines.append(
            f"| {name} | {' | '.join(f'{figure:.1f}' for figure in told)} | {row['growth_mib_per_100']:+.1f} |"
        )
    return "\n".join(lines) + "\n"


def main():
    """Train, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--runners", type=int, default=2)
    parser.add_argument("--learners", type=int, default=2)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--every", type=int, default=10, help="iterations between two measurements")
    parser.add_argument("--out", type=Path, help="file for the figures, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        algorithm = make_algorithm(options, folder)
        taken, course = [], {}
        for iteration in range(options.iterations + 1):
            if iteration:
                algorithm.train()
            if iteration % options.every == 0 or iteration == options.iterations:
                taken.append(iteration)
                for name, entry in measure(algorithm).items():
                    course.setdefault(name, []).append(entry)
        algorithm.stop()
    rows = {
        name: {
            "rss_mib": [round(entry[0], 1) for entry in entries],
            "peak_mib": round(entries[-1][1], 1),
            "growth_mib_per_100": round(growth(taken, [entry[0] for entry in entries]), 2),
            "same_process": len({entry[2] for entry in entries}) == 1,
        }
        for name, entries in course.items()
    }
    print(f"{'process':<12}{'begin':>9}{'half':>9}{'end':>9}{'peak':>9}   growth in MiB over 100 iterations")
    for name, row in rows.items():
        figures = row["rss_mib"]
        told = [figures[0], figures[len(figures) // 2], figures[-1], row["peak_mib"]]
        print(
            f"{name:<12}{''.join(f'{figure:>9.1f}' for figure in told)}   "
            f"{row['growth_mib_per_100']:+.2f}{'' if row['same_process'] else ' (was started again)'}"
        )
    if options.out:
        settings = {key: value for key, value in vars(options).items() if key != "out"}
        content = {"settings": settings, "iterations": taken, "processes": rows}
        content["markdown"] = markdown(options, taken, rows)
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
