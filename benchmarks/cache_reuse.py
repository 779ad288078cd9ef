"""Savings of the key-value cache that is kept from turn to turn, against computing every turn from the start.

Usage: python benchmarks/cache_reuse.py [--model PATH] [--turns 5] [--episodes 4] [--new-tokens 32]

Plays the same episodes twice, 448 px images, an observation of the board in every turn, and an answer at the end. The
model's text is recorded; the actions follow a script, so that every turn brings an image whatever the model writes.
Without --model, a Qwen2.5-VL with random weights (and a token a byte of text) is built.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.policies.model import HFVLMPolicy
from agile_gym.rollout import EpisodeSpec, play_episodes

LOOK = "<think>Let me look.</think><code>observation(state)</code>"
ANSWER = '<think>Done.</think><answer>["B", "A", "C", "D"]</answer>'


class Looking:
    """Wrapper that carries out observations while the conversation goes on with the model's text."""

    def __init__(self, policy, turns):
        self.policy, self.turns = policy, turns

    def reset(self, seed=None):
        self.policy.reset(seed)

    def act(self, observations, infos):
        self.policy.act(observations, infos)
        return [LOOK if info["turn"] < self.turns else ANSWER for info in infos]

    def finish(self, slot):
        return self.policy.finish(slot)


def random_qwen(folder):
    """Build a Qwen2.5-VL with random weights, large enough that computing takes longer than the loop around it."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.helpers import families

    width = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 8}
    families.TEXT.update(width, num_hidden_layers=6, max_position_embeddings=32768)
    families.SMALL.update(width)
    families.FAMILIES["qwen2_5_vl"] = partial(families.qwen2_5_vl, head=32)
    return families.save("qwen2_5_vl", folder)


def measure(policy, turns, episodes, label):
    """Play, and return seconds, tokens computed before writing, and the texts."""
    make_env = partial(JigsawVisionEnv, grid=2, level="all", image_size=448, max_turns=turns + 1)
    specs = [EpisodeSpec("env", seed, {"level": 0}, policy_seed=seed, keep_images=False) for seed in range(episodes)]
    policy.reset(0)
    start = time.perf_counter()
    played = play_episodes(Looking(policy, turns), specs, {"env": make_env}, batch=episodes)
    transcripts = [transcript for _, transcript in tqdm(played, total=episodes, desc=label)]
    seconds = time.perf_counter() - start
    transcripts.sort(key=lambda transcript: transcript.task["seed"])
    computed = sum(turn.usage.computed_tokens for t in transcripts for turn in t.turns)
    logps = np.concatenate([segment.logps[segment.loss_mask] for t in transcripts for segment in t.segments])
    ids = [segment.ids.tolist() for t in transcripts for segment in t.segments]
    context = [turn.usage.context_tokens for turn in transcripts[0].turns]
    return seconds, computed, ids, logps, context


def main():
    """Measure both ways in one run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or str(random_qwen(folder))
        make = partial(HFVLMPolicy, model, max_new_tokens=options.new_tokens, stop=["never written"], device="cpu")
        results = {}
        for label, reuse in (("cache kept", True), ("from scratch", False)):
            policy = make(reuse_cache=reuse)
            measure(policy, 1, 1, "warm-up")
            results[label] = measure(policy, options.turns, options.episodes, label)
    kept, scratch = results["cache kept"], results["from scratch"]
    same = kept[2] == scratch[2]
    logps = f"differ by at most {np.abs(kept[3] - scratch[3]).max():.1e}" if same else "are of different tokens"
    name = "pretrained" if options.model else "random Qwen2.5-VL"
    print(f"\nmodel: {name}; context at each turn: {kept[4]} tokens\n")
    print("| | prompt tokens computed | seconds |\n|---|---|---|")
    for label, (seconds, computed, *_) in results.items():
        print(f"| {label} | {computed:,} | {seconds:.1f} |")
    print(f"| ratio | {scratch[1] / kept[1]:.2f} | {scratch[0] / kept[0]:.2f} |")
    print(f"\nSame tokens sampled: {same}; log-probabilities {logps}")


if __name__ == "__main__":
    main()
