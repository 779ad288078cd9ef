"""A study of minimal trainings, in real processes: what it leaves, and how it goes on."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray")
pytest.importorskip("torch")

from tests.helpers.trainings import environment

STUDY = """
title = "Two arms"
preset = "tiny"
design = "grid"
seeds = [0, 1]

[settings]
vision = { steps = 2, probes = 8, batch = 4, few = 0 }
cold_start = { count = 4 }
sft = { epochs = 1, batch_size = 4, num_minibatches = 1 }
grpo = { iterations = 1, groups_per_iteration = 1, group_size = 2, num_minibatches = 1, max_new_tokens = 4 }
evaluation = { episodes = 1, interval = 0, blank_looks = false }
resources = { runners = 0, learners = 0 }

[factors.photographs]
stage = "grpo"
ordered = true
[factors.photographs.values]
"0" = { "grpo.iterations" = 0 }
"3" = { "images.train" = "{images:3}" }

[[evaluations]]
grid = "2x2"
levels = 0
episodes = 4
"""


def study(folder, *words, output="out", text=STUDY):
    (folder / "s.toml").write_text(text)
    command = [sys.executable, "-m", "agile_gym", "study", "s.toml", "--output", output, "--jobs", "1", *words]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=900)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_arms_and_two_seeds_become_a_page_and_the_command_goes_on(tmp_path):
    result = study(tmp_path)
    assert result.returncode == 0, result.stderr
    out = tmp_path / "out"
    values = json.loads((out / "study.json").read_text())
    arms = values["evaluations"][0]["arms"]
    assert {name: set(arm["seeds"]) for name, arm in arms.items()} == {"0": {"0", "1"}, "3": {"0", "1"}}
    assert values["missing"] == []
    page = (out / "study.html").read_bytes()
    assert "4 held-out puzzles" in page.decode()
    runs = sorted(path.name for path in (out / "runs").iterdir())
    cold = [name for name in runs if name.startswith("cold-start-")]
    assert runs == ["0-seed0", "0-seed1", "3-seed0", "3-seed1", *cold]
    assert len(cold) == 2
    for name in runs:  # the shared stage was run once: its model is the same file
        model = out / "runs" / name / "sft" / "model" / "model.safetensors"
        assert model.stat().st_nlink == 3
        assert (out / "runs" / name / "report.html").exists()
    assert [(out / "runs" / name / "grpo").exists() for name in runs[:4]] == [False, False, True, True]
    assert len(os.listdir(out / "photographs" / "train-3")) == 3

    (out / "study.html").unlink()
    again = study(tmp_path)
    assert again.returncode == 0, again.stderr
    assert "6 runs, 0 left" in again.stdout
    assert (out / "study.html").read_bytes() == page

    other = study(tmp_path, "--set=grpo.lr=1e-3")
    assert other.returncode == 1
    assert "out holds a study whose run " in other.stderr
    assert "has other [grpo]. Give another --output" in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set=grpo.lrr=1"], r"arm '0': [grpo] has no key 'lrr'"),
        (["--set=grpo.iterations=3"], "--set grpo.iterations is what the factor photographs changes"),
        (["--set=sft.batch_size=0"], "batch_size"),
        (["--budget-hours", "0.0001"], "the budget of 0.0001 hours is too small: the study takes about"),
        (["--jobs", "0"], "--jobs"),
        (["--images", "missing"], "missing"),
        (["--set=environment.max_turns=0"], "max_turns"),
    ],
)
def test_mistakes_are_told_before_anything_begins(words, message, tmp_path):
    result = study(tmp_path, *words)
    assert result.returncode == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.slow
def test_arms_that_would_be_evaluated_on_other_photographs_are_refused_before_anything_begins(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "mine").mkdir()
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (80, 80, 3), np.uint8)).save(tmp_path / "mine" / f"{number}.png")
    text = STUDY.replace('"{images:3}"', '"mine"')
    result = study(tmp_path, text=text)
    assert result.returncode == 1
    assert "arm '3': the evaluation '2x2' would have other photographs than those of the arm '0'" in result.stderr
    assert not (tmp_path / "out" / "runs").exists()
