"""Learning curves of the same GRPO run with transformers and with vLLM, from one cold start, over several seeds.

    python benchmarks/engine_curves.py --model RUN/sft/model --train FOLDER --test FOLDER --output curves.jsonl

The tiny model plays 2x2 boards of 64 px, level 0, at most 6 turns, as in the preset `tiny`: 20 iterations of 32
puzzles, 8 episodes each. Runner, engine and learner are in one process, and each run in a process of its own. A seed
draws the same puzzles for both engines; the tokens drawn differ, as the random numbers do. At the end of a run the same
held-out puzzles are played greedily. Runs that are in the file are not done again.

The table has the mean return of each iteration, with its 95% interval over the seeds (Student's t), and counts the
iterations in which the mean of one engine lies in the interval of the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

HERE = str(Path(__file__).parent)
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
sys.path.insert(0, HERE)

ENGINES = ("hf", "vllm")
T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Quantiles of Student's t at 97.5%, by the number of seeds."""


def arguments():
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the model after its cold start")
    parser.add_argument("--train", help="photographs to train on; the built-in ones by default")
    parser.add_argument("--test", help="photographs to test on; likewise")
    parser.add_argument("--output", type=Path, required=True, help="file for the curves, as JSON lines")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--groups", type=int, default=32)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--episodes", type=int, default=256, help="held-out puzzles at the end")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)  # set for processes of this script
    return parser.parse_args()


def train(options, engine, seed):
    """Train once, and return the curve."""
    import ray

    from agile_gym.learner import GRPOConfig

    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    rules = {"grid": 2, "level": 0, "image_size": 64, "prompt": "short", "initial_view": "board", "max_turns": 6}
    rules |= {"crop": "random", "images": options.train, **({} if options.train else {"split": "train"})}
    test = {"images": options.test, "level": 0} if options.test else {"split": "test", "level": 0}
    room = {"max_model_len": 512, "kv_cache_memory_bytes": 500_000_000, "max_num_seqs": 128}
    config = (
        GRPOConfig()
        .environment("JigsawVision-v0", env_config=rules)
        .vlm(path=options.model, freeze=["vision", "projector"], autocast="none")
        .env_runners(num_env_runners=0)
        .learners(num_learners=0)
        .debugging(seed=seed)
        .evaluation(evaluation_duration=options.episodes, evaluation_config={"env_config": test})
        .training(
            lr=5e-4,
            loss="dapo",
            advantage_scale="none",
            group_size=options.group_size,
            groups_per_iteration=options.groups,
            num_minibatches=2,
            micro_batch_tokens=8192,
            max_new_tokens=48,
            rollout_batch=options.groups * options.group_size,
            engine=engine,
            engine_options=room if engine == "vllm" else None,
        )
    )
    algorithm = config.build_algo()
    curve, begun, rollout = [], time.process_time(), 0.0
    for _ in range(options.iterations):
        result = algorithm.train()
        told, learner = result["grpo"], result["learners"]["default_policy"]
        rollout += float(told["seconds_rollout"])
        names = ("return", "acc", "score", "turns")
        curve.append({**{name: float(told[name]) for name in names}, "mismatch": float(learner["max_mismatch"])})
    processor = time.process_time() - begun
    end = algorithm.evaluate()
    tested = {name: float(end[name]) for name in ("acc", "acc_low", "acc_high", "score")}
    algorithm.stop()
    return {"engine": engine, "seed": seed, "curve": curve, "tested": tested, "processor": processor,
            "rollout": rollout}  # fmt: skip


def interval(values):
    """Return mean and half the width of the 95% interval of some seeds."""
    return mean(values), T[len(values)] * stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0


def report(runs, seeds):
    """Write the tables."""
    from training_speed import table

    by = {(run["engine"], run["seed"]): run for run in runs}
    seeds = [seed for seed in seeds if all((engine, seed) in by for engine in ENGINES)]
    if not seeds:
        return "No seed has both engines yet."
    rows, inside = [], dict.fromkeys(ENGINES, 0)
    iterations = min(len(run["curve"]) for run in by.values())
    for number in range(iterations):
        values = {engine: [by[engine, seed]["curve"][number]["return"] for seed in seeds] for engine in ENGINES}
        told = {engine: interval(entry) for engine, entry in values.items()}
        for engine, other in (ENGINES, ENGINES[::-1]):
            middle, half = told[other]
            inside[engine] += abs(told[engine][0] - middle) <= half
        cells = [f"{middle:+.3f} ± {half:.3f}" for middle, half in told.values()]
        each = [f"{value:+.3f}" for engine in ENGINES for value in values[engine]]
        rows.append((number + 1, *cells, *each))
    header = ("iteration", *ENGINES, *(f"{engine}, seed {seed}" for engine in ENGINES for seed in seeds))
    tests = [
        (engine, seed, *(f"{100 * by[engine, seed]['tested'][name]:.1f}" for name in ("acc", "acc_low", "acc_high")),
         f"{max(entry['mismatch'] for entry in by[engine, seed]['curve']):.1e}",
         f"{by[engine, seed]['processor']:.0f}")
        for engine in ENGINES for seed in seeds
    ]  # fmt: skip
    count = f"In {inside['vllm']} of {iterations} iterations the mean of vLLM lies in the interval of transformers, in "
    count += f"{inside['hf']} the reverse."
    ends = table(("engine", "seed", "Acc, held out", "from", "to", "largest mismatch", "CPU seconds"), tests)
    return f"{table(header, rows)}\n\n{count}\n\n{ends}"


def main():
    """Do what is missing, and print the tables."""
    options = arguments()
    if options.run:
        print("\n" + json.dumps(train(options, options.run[0], int(options.run[1]))))
        return
    runs = [json.loads(line) for line in options.output.read_text().splitlines()] if options.output.exists() else []
    done = {(run["engine"], run["seed"]) for run in runs}
    for seed in options.seeds:
        for engine in ENGINES:
            if (engine, seed) in done:
                continue
            command = [sys.executable, __file__, *sys.argv[1:], "--run", engine, str(seed)]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            runs.append(json.loads(told.splitlines()[-1]))
            with options.output.open("a") as file:
                file.write(json.dumps(runs[-1]) + "\n")
    print(report(runs, options.seeds))


if __name__ == "__main__":
    main()
