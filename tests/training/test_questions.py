"""A training on questions about pictures, by the ordinary command."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("ray")
pytest.importorskip("torch")

from agile_gym.evaluation import read_report
from agile_gym.questions.generated import KINDS
from agile_gym.transcripts import read_transcripts
from tests.helpers.trainings import SMALL, environment, grpo_iterations, weights

SETTINGS = {
    "grpo.iterations": 2,
    "environment.canvas_size": 64,
    "environment.prompt": "short",
    "environment.kinds": ["half", "which"],
    "environment.difficulty": 1,
    "environment.max_turns": 3,
    "environment.split": "train",
    "environment.reveal": True,
    "cold_start.teacher": "oracle",
    "cold_start.teacher_options": {"look": True},
}


@pytest.mark.slow
def test_questions_are_trained_on(tmp_path):
    folder = tmp_path / "run"
    kept = {key: value for key, value in SMALL.items() if key.partition(".")[0] != "vision" and "replay" not in key}
    pairs = [f"--set={key}={json.dumps(value)}" for key, value in (kept | SETTINGS).items()]
    result = subprocess.run(
        [sys.executable, "-m", "agile_gym", "train", "--output", str(folder), "--env", "VisualQA-v0", *pairs],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=environment(), timeout=240,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    episodes = list(read_transcripts(folder / "cold-start"))
    assert len(episodes) == 12
    assert all(episode.solved and episode.task["label"] in ("half", "which") for episode in episodes)
    looks = [episode for episode in episodes if len(episode.turns) > 1]
    assert looks
    assert all(episode.turns[0].primitives == ("Crop",) for episode in looks)
    assert grpo_iterations(folder) == [1, 2]
    sft, grpo = weights(folder, "sft"), weights(folder)
    assert any((sft[name] != grpo[name]).any() for name in sft)
    for stage in ("coldstart", "grpo"):
        rows = read_report(folder / "evaluation" / f"{stage}.json").rows
        assert len(rows) == 6
        assert {row.label for row in rows} <= {"half", "which"} <= set(KINDS)
