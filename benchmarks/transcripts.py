"""Measures the costs of storing transcripts: memory, disk and time, for many episodes with images and tokens.

Usage: python benchmarks/transcripts.py [--episodes 10000] [--format jsonl|parquet] [--image-size 224] [--folder DIR]

Plays 2x2 puzzles for two turns (swap and observe, then answer) with made-up tokens, while every episode is written to
disk; then reads all of them back, and lists them without images. Without --folder the files are deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.rollout import EpisodeSpec, play_episodes
from agile_gym.transcripts import PolicyRecord, Segment, TranscriptWriter, TurnUsage, read_headers, read_transcripts

SWAP = "state[0], state[1] = state[1], state[0]\nobservation_image_1 = observation(state)"


class TwoTurns:
    """Policy that swaps and observes, then gives the right answer; its record has as many tokens as such an episode."""

    def __init__(self, tokens):
        self._tokens = tokens
        self._rng = np.random.default_rng(0)

    def reset(self, seed=None):
        """Seed the made-up tokens."""
        self._rng = np.random.default_rng(seed)

    def act(self, observations, infos):
        """Write a turn for each episode."""
        reasoning = "I compare the borders of the pieces. " * 10
        return [
            f"<think>{reasoning}</think>"
            + (f"<code>{SWAP}</code>" if info["turn"] == 0 else f"<answer>{json.dumps(info['solution'])}</answer>")
            for info in infos
        ]

    def finish(self, slot):
        """Return made-up tokens: a quarter of them written by the model, in two turns."""
        length = self._tokens
        turns = np.full(length, -1, np.int16)
        turns[length // 2 : length * 5 // 8] = 0
        turns[length * 7 // 8 :] = 1
        mask = turns >= 0
        logps = np.where(mask, -self._rng.exponential(0.3, length), 0).astype(np.float32)
        ids = self._rng.integers(0, 151_000, length).astype(np.int32)
        usage = (TurnUsage(0.1, length // 2, length // 2, 100), TurnUsage(0.1, length, length // 2, 100))
        return PolicyRecord(usage=usage, segments=(Segment(ids, mask, logps, turns, (0, 1, 2, 3, 4)),))


def peak_memory():
    """Return the largest resident size of this process so far, in MB."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (1e6 if sys.platform == "darwin" else 1024)


def main():
    """Write, read and list; print the figures as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--format", choices=["jsonl", "parquet"], default="jsonl")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        makers = {"2x2": lambda: JigsawVisionEnv(grid=2, image_size=options.image_size, reveal=True)}
        specs = (EpisodeSpec("2x2", seed=seed) for seed in range(options.episodes))
        policy = TwoTurns(options.tokens)
        policy.reset(0)
        before = peak_memory()
        print("| | episodes/s | peak memory |\n|---|---|---|")
        start = time.perf_counter()
        writing = 0.0
        with TranscriptWriter(folder, format=options.format) as writer:
            played = play_episodes(policy, specs, makers, batch=8, policy_name="two-turns")
            for _, transcript in tqdm(played, total=options.episodes, disable=None):
                begin = time.perf_counter()
                writer.append(transcript)
                writing += time.perf_counter() - begin
            begin = time.perf_counter()
        writing += time.perf_counter() - begin
        seconds = time.perf_counter() - start
        print(f"| before | | {before:.0f} MB |")
        print(f"| play and write | {options.episodes / seconds:.0f} | {peak_memory():.0f} MB |")
        print(f"| of which write | {options.episodes / writing:.0f} | |")
        start = time.perf_counter()
        count = sum(len(transcript.images) == 5 for transcript in read_transcripts(folder))
        assert count == options.episodes, f"{count} episodes with five images were read back"
        print(f"| read | {count / (time.perf_counter() - start):.0f} | {peak_memory():.0f} MB |")
        start = time.perf_counter()
        count = sum(header.solved for header in read_headers(folder))
        print(f"| list | {count / (time.perf_counter() - start):.0f} | {peak_memory():.0f} MB |")
        files = [path for path in folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        print(f"\n{options.episodes} episodes as {options.format}: {size / 1e6:,.0f} MB on disk, {len(files)} files")


if __name__ == "__main__":
    main()
