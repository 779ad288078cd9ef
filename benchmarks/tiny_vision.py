"""Measures the vision of the tiny model: accuracy on held-out photographs, over the number of training puzzles.

    python benchmarks/tiny_vision.py TRAIN_FOLDER TEST_FOLDER [--seeds 0 1 2] [--output curve.csv] [--save model]

Writes one row a measurement and grid: puzzles of the test photographs (random parts, any unsolved order), answered
in the model's first turn, greedily and sampled at temperature 1. ``--start`` goes on from a saved model.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText

from agile_gym.images import open_images
from agile_gym.models.tiny import build_tiny
from agile_gym.models.tiny.exercises import answer_turns, pieces_right
from agile_gym.models.tiny.pretraining import VisionPretrainingConfig, VisionProgress, pretrain_vision
from agile_gym.models.tiny.puzzles import Lesson, PuzzleBatch, PuzzleDrawer
from agile_gym.puzzle import parse_grid

TEST_SEED = 7
CHUNK = 256


class Meter:
    """Repeated measurement on the same test puzzles of a grid."""

    def __init__(self, model, processor, folder: str, grid: tuple[int, int], count: int) -> None:
        self.model, self.processor, self.grid = model, processor, grid
        self.lesson = Lesson(processor, grid, 5)
        drawer = PuzzleDrawer(open_images(folder), grid, TEST_SEED)
        self.batches = [drawer.draw(min(CHUNK, count - start)) for start in range(0, count, CHUNK)]

    def measure(self) -> dict[str, float]:
        """Return Acc and Score, greedy and sampled."""
        random = torch.Generator().manual_seed(TEST_SEED)
        ways = {
            "greedy": None,
            "sampled": lambda logits: torch.multinomial(logits.softmax(-1), 1, generator=random)[:, 0],
        }
        row: dict[str, float] = {}
        for way, choose in ways.items():
            right = np.array([number for batch in self.batches for number in self._right(batch, choose)])
            pieces = self.grid[0] * self.grid[1]
            row[f"{way}_acc"] = round(float(np.mean(right == pieces)), 4)
            row[f"{way}_score"] = round(float(np.mean(right / pieces)), 4)
        return row

    def _right(self, batch: PuzzleBatch, choose) -> list[int]:
        turns = answer_turns(self.model, self.lesson, batch, choose)
        return pieces_right(self.processor, self.lesson, turns, batch)


def run(
    config: VisionPretrainingConfig, options: argparse.Namespace, write: Callable[[dict[str, float | str]], None]
) -> None:
    """Train one model and write its curve, row by row."""
    model, processor = build_tiny(config.seed)
    if options.start:
        model.load_state_dict(AutoModelForImageTextToText.from_pretrained(options.start).state_dict())
    meters = [Meter(model, processor, options.test, grid, options.puzzles) for grid in config.grids]
    measuring = time.process_time()

    def progress(entry: VisionProgress) -> None:
        nonlocal measuring
        last = entry.step == entry.steps
        if (entry.step % options.every and not last) or (entry.stage == "matching" and not last):
            return
        spent = time.process_time() - measuring
        for meter in meters:
            row = {"seed": config.seed, "grid": "{}x{}".format(*meter.grid), "stage": entry.stage, "step": entry.step}
            row |= {"puzzles": entry.puzzles, "loss": round(entry.loss, 4), "cpu_seconds": round(spent)}
            write(row | meter.measure())
        measuring = time.process_time() - spent

    pretrain_vision(model, processor, open_images(options.train), config, progress)
    if options.save:
        for part in (model, processor):
            part.save_pretrained(options.save)


def main() -> None:
    """Read the options, train a model a seed, write the curves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("train", help="folder of photographs to train on")
    parser.add_argument("test", help="folder of other photographs to test on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--grids", nargs="+", default=["2x2"], help="such as 2x2 3x3")
    parser.add_argument("--start", help="directory of a tiny model to go on from")
    parser.add_argument("--output", type=Path, help="CSV file of the curve")
    parser.add_argument("--save", type=Path, help="directory of the trained model, of the last seed")
    parser.add_argument("--every", type=int, default=200, help="steps between measurements")
    parser.add_argument("--puzzles", type=int, default=2048, help="test puzzles a grid")
    parser.add_argument("--threads", type=int, default=1)
    defaults = VisionPretrainingConfig()
    numbers = [name for name, value in asdict(defaults).items() if isinstance(value, int | float) and name != "seed"]
    for name in numbers:
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(getattr(defaults, name)))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # else the tiny model has one
    torch.set_num_threads(options.threads)
    given = {name: getattr(options, name) for name in numbers if getattr(options, name) is not None}
    config = replace(defaults, grids=tuple(map(parse_grid, options.grids)), **given)
    with open(options.output or os.devnull, "w", newline="", encoding="utf-8") as file:
        writer: csv.DictWriter[str] | None = None

        def write(row: dict[str, float | str]) -> None:
            nonlocal writer
            if writer is None:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            print(*(f"{name} {value}" for name, value in row.items()), file=sys.stderr, flush=True)

        for seed in options.seeds:
            run(replace(config, seed=seed), options, write)


if __name__ == "__main__":
    main()
