"""Measures how the tiny model learns to see: accuracy on photographs it never saw, over the puzzles it has seen.

    python benchmarks/tiny_eyes.py TRAIN_FOLDER TEST_FOLDER [--output curve.csv] [--save model]

Writes one row a measurement: 2,048 puzzles cut from the test photographs (random parts, any unsolved order), answered
in the model's first turn, greedily and sampled at temperature 1.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from agile_gym.images import open_images
from agile_gym.policies.tiny import build_tiny
from agile_gym.policies.tiny.answering import answer_turns, pieces_right
from agile_gym.policies.tiny.eyes import EyesConfig, EyesProgress, train_eyes
from agile_gym.policies.tiny.puzzles import Lesson, PuzzleBatch, PuzzleDrawer

TEST_SEED = 7
CHUNK = 256


class Meter:
    """Answers the same test puzzles over and over, and keeps what came of it."""

    def __init__(self, model, processor, folder: str, config: EyesConfig, count: int) -> None:
        self.model, self.processor = model, processor
        self.lesson = Lesson(processor, config.grid, 5)
        drawer = PuzzleDrawer(open_images(folder), config.grid, TEST_SEED)
        self.batches = [drawer.draw(min(CHUNK, count - start)) for start in range(0, count, CHUNK)]

    def measure(self) -> dict[str, float]:
        """Return Acc and Score, greedy and sampled."""
        random = torch.Generator().manual_seed(TEST_SEED)
        ways = {
            "greedy": None,
            "sampled": lambda logits: torch.multinomial(logits.softmax(-1), 1, generator=random)[:, 0],
        }
        self.model.eval()
        row: dict[str, float] = {}
        for way, choose in ways.items():
            right = np.array([number for batch in self.batches for number in self._right(batch, choose)])
            pieces = self.batches[0].home.shape[1]
            row[f"{way}_acc"] = float(np.mean(right == pieces))
            row[f"{way}_score"] = float(np.mean(right / pieces))
        self.model.train()
        return row

    def _right(self, batch: PuzzleBatch, choose) -> list[int]:
        turns = answer_turns(self.model, self.lesson, batch, choose)
        return pieces_right(self.processor, self.lesson, turns, batch)


def main() -> None:
    """Train, measure, write the curve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", help="folder of photographs to train on")
    parser.add_argument("test", help="folder of other photographs to test on")
    parser.add_argument("--output", type=Path, help="CSV file of the curve")
    parser.add_argument("--save", type=Path, help="directory of the trained model")
    parser.add_argument("--every", type=int, default=100, help="steps between measurements")
    parser.add_argument("--puzzles", type=int, default=2048, help="test puzzles")
    defaults = EyesConfig()
    for name, value in asdict(defaults).items():
        if isinstance(value, int | float | str):
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = vars(parser.parse_args())
    config = replace(defaults, **{name: arguments[name] for name in asdict(defaults) if name in arguments})

    torch.set_num_threads(1)
    model, processor = build_tiny(config.seed)
    meter = Meter(model, processor, arguments["test"], config, arguments["puzzles"])
    rows: list[dict[str, float | str]] = []
    measuring = 0.0

    def progress(entry: EyesProgress) -> None:
        nonlocal measuring
        if entry.stage == "matching" and entry.step % arguments["every"]:
            return
        if entry.stage == "answers" and entry.step % arguments["every"] and entry.step != entry.steps:
            return
        spent = time.process_time() - measuring
        row = {"stage": entry.stage, "step": entry.step, "puzzles": entry.puzzles, "loss": round(entry.loss, 4)}
        row |= {"cpu_seconds": round(spent), "seconds": round(entry.seconds)}
        if entry.stage == "answers":
            row |= {name: round(value, 4) for name, value in meter.measure().items()}
        measuring = time.process_time() - spent
        rows.append(row)
        print(*(f"{name} {value}" for name, value in row.items()), file=sys.stderr, flush=True)

    train_eyes(model, processor, open_images(arguments["train"]), config, progress)
    if arguments["output"]:
        with arguments["output"].open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[-1]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    if arguments["save"]:
        for part in (model, processor):
            part.save_pretrained(arguments["save"])


if __name__ == "__main__":
    main()
