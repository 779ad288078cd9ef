"""Checks that a training has learned, by what it left in its folder.

Usage: python .ci/check_training.py FOLDER

Prints what it has found, and exits with 1 if the cold start's loss did not fall, no group of GRPO had better and worse
episodes, or GRPO left the weights as they were. Numbers are compared with each other only, not with those of a machine.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def change(before: Path, after: Path) -> tuple[float, bool]:
    """Return the largest change of a weight between two models, and whether all weights are numbers."""
    former, latter = (load_file(folder / "model" / "model.safetensors") for folder in (before, after))
    largest = max(float(np.abs(latter[name] - former[name]).max()) for name in former)
    return largest, former.keys() == latter.keys() and all(np.isfinite(array).all() for array in latter.values())


def main() -> int:
    """Check a run."""
    folder = Path(sys.argv[1])
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    sft, grpo = ([record for record in records if record["stage"] == stage] for stage in ("sft", "grpo"))
    losses = [record["learner/loss"] for record in sft]
    varied = [record["groups_played"] - record["groups_constant"] for record in grpo]
    norms = [record.get("learner/grad_norm", 0.0) for record in grpo]
    learned, whole = change(folder / "vision", folder / "sft")
    reinforced, still_whole = change(folder / "sft", folder / "grpo")
    checks = {
        f"the cold start's loss fell from {losses[0]:.3f} to {losses[-1]:.3f}": losses[-1] < losses[0],
        f"the cold start changed weights by up to {learned:.2g}": learned > 0 and whole,
        f"groups with better and worse episodes, by iteration: {varied}": sum(varied) > 0,
        f"norms of GRPO's gradients: {norms}": max(norms) > 0,
        f"GRPO changed weights by up to {reinforced:.2g}": reinforced > 0 and still_whole,
    }
    for check, holds in checks.items():
        print(f"{'good' if holds else 'BAD '}  {check}")
    if not all(checks.values()):
        print(f"{folder}: the training has not learned.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
