"""Measures how the tiny model's vision pretraining goes: what is read on photographs that are held out, over the time.

    python benchmarks/tiny_vision.py FOLDER [--grids 2x2 3x3] [--seeds 0 1 2] [--output curve.csv] [--save model]

Writes one row a measurement and grid: the probe (`agile_gym.models.tiny.exercises.ProbeResult`) beside the processor's
seconds of the training alone. Of the folder's photographs a share is held out (``--held-out``).
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

import torch

from agile_gym.images import open_images
from agile_gym.models.tiny import build_tiny
from agile_gym.models.tiny.pretraining import VisionPretraining, VisionPretrainingConfig
from agile_gym.puzzle import parse_grid


def run(
    config: VisionPretrainingConfig, options: argparse.Namespace, write: Callable[[dict[str, object]], None]
) -> None:
    """Train one model and write its curve, row by row."""
    model, processor = build_tiny(config.seed)
    training = VisionPretraining(model, open_images(options.folder), config)
    spent, begun = 0.0, time.process_time()
    for entry in training.run():
        if entry.step % options.every and entry.step < entry.steps:
            continue
        spent += time.process_time() - begun
        for probe in training.probe():
            figures = {
                name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(probe).items()
            }
            row = {"seed": config.seed, "step": entry.step, "loss": round(entry.loss, 4), "cpu_seconds": round(spent)}
            write(row | figures)
        begun = time.process_time()
    if options.save:
        for part in (model, processor):
            part.save_pretrained(options.save)


def main() -> None:
    """Read the options, train a model a seed, write the curves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", help="folder of photographs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--grids", nargs="+", default=["2x2"], help="such as 2x2 3x3")
    parser.add_argument("--output", type=Path, help="CSV file of the curve")
    parser.add_argument("--save", type=Path, help="directory of the trained model, of the last seed")
    parser.add_argument("--every", type=int, default=500, help="steps between measurements")
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

        def write(row: dict[str, object]) -> None:
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
