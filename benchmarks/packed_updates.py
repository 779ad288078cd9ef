"""Speed of updates on episodes of unequal lengths: packed in one row, against padded to one length.

Usage: python benchmarks/packed_updates.py [--model tiny|qwen|PATH] [--episodes 24] [--repeats 7]

Episodes of one to six turns are played, of at most a number of tokens each and with an image of the board after each
turn but the last. The same steps are then taken on them, padded and packed in turns, with micro-batches of several
sizes. Images are prepared before the clock starts; the vision encoder is computed in every step, as in training.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from statistics import median

import numpy as np
import torch
from cache_reuse import Looking, random_qwen
from tqdm import tqdm

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.learner.data import make_samples, micro_batches
from agile_gym.learner.options import make_optimizer
from agile_gym.learner.updating import ProcessGroup, StepOptions, Updater
from agile_gym.models import ChatFormat, load_vlm
from agile_gym.models.scoring import Scorer
from agile_gym.models.tiny import build_tiny
from agile_gym.policies.model import HFVLMPolicy
from agile_gym.rollout import EpisodeSpec, play_episodes

MOST_TURNS = 6
PACKING = {"padded": False, "packed": True}


def play(model, options):
    """Return samples of episodes, each with a random advantage."""
    policy = HFVLMPolicy(model, max_new_tokens=options.new_tokens, stop=["never written"], device="cpu")
    make_env = partial(
        JigsawVisionEnv, grid=2, level="all", image_size=options.image_size, max_turns=MOST_TURNS, prompt="short"
    )
    rng = np.random.default_rng(0)
    samples = []
    for turns in range(1, MOST_TURNS + 1):
        seeds = range(turns, options.episodes + 1, MOST_TURNS)
        specs = [EpisodeSpec("env", seed, {"level": 0}, policy_seed=seed, name=str(seed)) for seed in seeds]
        policy.reset(0)
        played = play_episodes(Looking(policy, turns - 1), specs, {"env": make_env}, batch=max(1, len(specs)))
        for _, transcript in sorted(played, key=lambda pair: int(pair[1].id)):
            samples += make_samples(transcript, np.float32(rng.normal()))
    return samples


def make_updater(model, options, size, *, packing):
    """Return an updater with a model of its own."""
    vlm = load_vlm(model, device="cpu", dtype="float32")
    optimizer = make_optimizer(vlm.model.named_parameters(), lr=1e-6, betas=(0.9, 0.999), weight_decay=0.0)
    scorer = Scorer(vlm, ChatFormat(vlm.processor), packing=packing)
    step = StepOptions(loss=options.loss, micro_batch_tokens=size)
    return Updater(scorer, optimizer, step, ProcessGroup(torch.device("cpu"), distributed=False))


def spread(values):
    """Return the median of some values, and the smallest and the largest."""
    return f"{median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


def measure(model, samples, options, size):
    """Return a line of the table."""
    updaters = {name: make_updater(model, options, size, packing=packing) for name, packing in PACKING.items()}
    first = {name: updater.step(samples) for name, updater in updaters.items()}  # warm, and on the same weights
    for key in ("loss", "grad_norm"):
        if not np.isclose(first["padded"][key], first["packed"][key], rtol=1e-3, atol=1e-6):
            raise SystemExit(f"{key} differs: {first['padded'][key]} padded, {first['packed'][key]} packed.")
    tokens = sum(map(len, samples))
    walls, processors = ({name: [] for name in PACKING} for _ in range(2))
    for number in tqdm(range(options.repeats), desc=f"{size} tokens"):
        for name in list(PACKING)[:: 1 if number % 2 else -1]:
            wall, processor = time.perf_counter(), time.process_time()
            updaters[name].step(samples)
            walls[name].append(tokens / (time.perf_counter() - wall))
            processors[name].append(tokens / (time.process_time() - processor))
    batches = {name: micro_batches(samples, size, packing=packing) for name, packing in PACKING.items()}
    computed = sum(len(batch) * max(map(len, batch)) for batch in batches["padded"])
    ratios = (median(found["packed"]) / median(found["padded"]) for found in (processors, walls))
    cells = (
        f"{size:,}",
        f"{len(batches['padded'])} / {len(batches['packed'])}",
        f"{1 - tokens / computed:.0%}",
        *map(spread, processors.values()),
        *(f"{ratio:.2f}" for ratio in ratios),
    )
    return f"| {' | '.join(cells)} |"


def main():
    """Play, measure both ways in one run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, qwen (a random Qwen2.5-VL), or the path of a model")
    parser.add_argument("--episodes", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--loss", default="dapo")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048, 4096, 16384])
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model
        if model == "tiny":
            model = folder
            for part in build_tiny(0):
                part.save_pretrained(folder)
        elif model == "qwen":
            model = str(random_qwen(folder))
        samples = play(model, options)
        lengths = sorted(map(len, samples))
        lines = [measure(model, samples, options, size) for size in options.sizes]
    trained = sum(sample.trained for sample in samples)
    print(f"\n{len(samples)} episodes of {lengths[0]} to {lengths[-1]} tokens (median {int(median(lengths))}),")
    print(f"{sum(lengths):,} in all, {trained:,} of them trained. Tokens a CPU second, padded and packed:\n")
    print("| micro_batch_tokens | micro-batches | padding | padded | packed | ratio | ratio by the clock |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
