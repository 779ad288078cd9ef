"""Small trainings in processes of their own, and what they leave."""

import json
import os
import subprocess
import sys

SMALL = {
    "vision.steps": 4,
    "vision.probes": 8,
    "vision.batch": 8,
    "vision.few": 0,
    "cold_start.count": 12,
    "sft.epochs": 1,
    "sft.batch_size": 4,
    "sft.replay_size": 2,
    "sft.replay_count": 6,
    "sft.num_minibatches": 1,
    "grpo.iterations": 3,
    "grpo.groups_per_iteration": 2,
    "grpo.group_size": 2,
    "grpo.num_minibatches": 1,
    "grpo.filter_zero_variance_groups": False,
    "grpo.max_new_tokens": 12,
    "grpo.entropy_coef": 0.1,  # a gradient even where no episode is better than another
    "evaluation.episodes": 6,
    "evaluation.interval": 2,
    "evaluation.interval_episodes": 4,
    "resources.runners": 0,
    "resources.learners": 0,
    "checkpoints.every": 1,
}


def command(folder, *words, **changes):
    pairs = [f"--set={key}={json.dumps(value)}" for key, value in (SMALL | changes).items()]
    return [sys.executable, "-m", "agile_gym", "train", "--output", str(folder), *pairs, *words]


def environment():
    return os.environ | {"PYTHONWARNINGS": "ignore"}


def run(folder, *words, **changes):
    return subprocess.run(
        command(folder, *words, **changes), capture_output=True, text=True, check=False, env=environment(), timeout=240
    )


def grpo_iterations(folder):
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record["iteration"] for record in records if record["stage"] == "grpo"]


def weights(folder, stage="grpo"):
    from safetensors.numpy import load_file

    return load_file(folder / stage / "model" / "model.safetensors")
