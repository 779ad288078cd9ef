"""Prints how close vLLM is to transformers, and sharded learners are to one, in float32 on a CPU.

    python benchmarks/parity.py engines --model FOLDER --images FOLDER     # in an environment with the extra vllm
    python benchmarks/parity.py learners

- engines: the episodes of tests/helpers/vllm_player.py, 3 of 5 turns with images of random sizes, with random models:
  the largest difference of vLLM's log-probabilities from those of transformers; that after the weights have changed,
  three times; that after they have changed without dropping vLLM's caches; and, with --model, the fraction of puzzles
  that a trained tiny model plays with the same words, greedily.
- learners: the steps of tests/helpers/sharded_ranks.py, three, the last with all samples in one of two gloo processes:
  the largest difference of the weights from those of one process, and the bytes that each holds.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the helpers of the tests

MODELS = {"tiny": "tiny", "qwen2_5_vl": "random Qwen2.5-VL", "qwen3_vl": "random Qwen3-VL"}


def table(header, rows):
    """Write a Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def engines(options):
    """Compare the engines."""
    rows = []
    for name, title in MODELS.items():
        command = [sys.executable, "-m", "tests.helpers.vllm_player", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        told = json.loads(done.stdout.splitlines()[-1])
        stale = told["stale"]
        sent = ", ".join(f"{value:.1e}" for value in told["sent"])
        rows.append((title, f"{told['same']:.1e}", sent, stale if isinstance(stale, str) else f"{stale:.2g}"))
    header = ("model", "log-probabilities apart by", "after new weights", "without dropping caches")
    print(table(header, rows))
    if options.model is not None:
        equal = greedy(options)
        print(f"\nOf {len(equal)} puzzles, {sum(equal) / len(equal):.2%} are played with the same words, greedily.")


def greedy(options):
    """Return for each puzzle whether both engines write the same turns."""
    from agile_gym.envs.jigsaw import JigsawVisionEnv
    from agile_gym.policies.model import HFVLMPolicy
    from agile_gym.rollout import EpisodeSpec, play_episodes

    rules = {"image_size": 64, "prompt": "short", "initial_view": "board", "max_turns": 6, "crop": "random", "level": 0}
    make = partial(JigsawVisionEnv, images=options.images, **rules)
    specs = [EpisodeSpec("env", seed, policy_seed=seed, name=str(seed)) for seed in range(options.puzzles)]
    room = {"max_model_len": 512, "kv_cache_memory_bytes": 500_000_000, "max_num_seqs": 128}
    written = []
    for settings in ({}, {"engine": "vllm", "engine_options": room}):
        policy = HFVLMPolicy(options.model, temperature=0.0, max_new_tokens=48, **settings)
        played = play_episodes(policy, specs, {"env": make}, batch=128)
        written.append({spec.name: [turn.text for turn in episode.turns] for spec, episode in played})
    return [written[0][name] == written[1][name] for name in written[0]]


def learners(options):
    """Compare learners."""
    import numpy as np
    import torch

    from tests.helpers.sharded_ranks import KINDS, train_kind, work

    del options
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, args=(2, folder, list(KINDS)), nprocs=2)
        found = [pickle.loads(Path(folder, f"2-{rank}.pkl").read_bytes()) for rank in range(2)]
    rows = []
    for kind in KINDS:
        one = train_kind(kind, sharded=False)
        apart = max(
            float(np.abs(each[kind]["weights"][name] - weights).max())
            for each in found
            for name, weights in one["weights"].items()
        )
        sizes = (
            f"{one['bytes'][name]:,} / {' and '.join(format(each[kind]['bytes'][name], ',') for each in found)}"
            for name in ("parameters", "gradients", "optimizer")
        )
        rows.append((kind, f"{apart:.1e}", *sizes))
    held = (f"{name}, bytes of one / of two" for name in ("parameters", "gradients", "optimizer"))
    print(table(("training", "weights apart by", *held), rows))


def main():
    """Read the options and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("compared", choices=("engines", "learners"))
    parser.add_argument("--model", help="a trained tiny model")
    parser.add_argument("--images", help="photographs that it plays; the built-in ones by default")
    parser.add_argument("--puzzles", type=int, default=1024)
    options = parser.parse_args()
    (engines if options.compared == "engines" else learners)(options)


if __name__ == "__main__":
    main()
