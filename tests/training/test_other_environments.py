"""Trainings on an environment of one's own."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("ray")
pytest.importorskip("torch")

from agile_gym.errors import ConfigurationError
from agile_gym.evaluation import read_report
from agile_gym.training.checking import check_settings
from agile_gym.training.settings import read_settings
from agile_gym.transcripts import read_transcripts
from tests.helpers import ROOT
from tests.helpers.trainings import SMALL, environment, grpo_iterations, weights

EXAMPLES = ROOT / "examples"
QUARTER = "custom_env:QuarterEnv"


def run_other(folder, *words, **changes):
    """Train on the environment of the example, in the folder of its module, with the preset's own sections."""
    kept = {key: value for key, value in SMALL.items() if key.partition(".")[0] != "vision" and "replay" not in key}
    pairs = [f"--set={key}={json.dumps(value)}" for key, value in (kept | {"grpo.iterations": 2} | changes).items()]
    return subprocess.run(
        [sys.executable, "-m", "agile_gym", "train", "--output", str(folder), "--env", QUARTER, *pairs, *words],
        cwd=EXAMPLES, capture_output=True, text=True, check=False, env=environment(), timeout=240,
    )  # fmt: skip


@pytest.mark.slow
def test_another_environment_is_trained_on(tmp_path):
    folder = tmp_path / "run"
    result = run_other(folder, "--set=cold_start.teacher=custom_env:Teacher", "--set=environment.size=32")
    assert result.returncode == 0, result.stderr
    episodes = list(read_transcripts(folder / "cold-start"))
    assert len(episodes) == 12
    assert all(episode.solved and episode.prompt_images[0].shape == (32, 32, 3) for episode in episodes)
    assert grpo_iterations(folder) == [1, 2]
    sft, grpo = weights(folder, "sft"), weights(folder)
    assert any((sft[name] != grpo[name]).any() for name in sft)
    assert not (folder / "vision").exists()
    assert not (folder / "replay").exists()
    for stage in ("coldstart", "grpo"):
        report = read_report(folder / "evaluation" / f"{stage}.json")
        assert {row.label for row in report.rows} <= {"top", "bottom"}
        assert len(report.rows) == 6
    page = (folder / "report.html").read_text()
    assert "QuarterEnv" in page
    assert "Qwen2.5-VL-7B" not in page  # the paper's rows are of the jigsaw
    again = run_other(folder, "--resume")
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_a_runner_of_its_own_finds_the_environment_and_the_cold_start_may_be_left_out(tmp_path):
    folder = tmp_path / "run"
    more = {"resources.runners": 1, "cold_start.count": 0, "grpo.tasks": [{"options": {"size": 32}}]}
    result = run_other(folder, **more)
    assert result.returncode == 0, result.stderr
    assert grpo_iterations(folder) == [1, 2]
    assert not (folder / "sft").exists()
    assert (folder / "grpo" / "model" / "config.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {},
            r"\[cold_start\] the expert plays the jigsaw only, and the environment is custom_env:QuarterEnv. Set teach",
        ),
        ({"vision.steps": 3, "cold_start.count": 0}, r"\[vision\] plays the jigsaw; leave it out"),
        ({"sft.replay_size": 3, "cold_start.count": 0}, r"\[sft\] replay_size plays the jigsaw; leave it out"),
        ({"environment.id": 3}, r"\[environment\] id = 3 must be a text"),
    ],
)
def test_stages_of_the_jigsaw_are_refused_for_another_environment(changes, message, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    with pytest.raises(ConfigurationError, match=message):
        check_settings(read_settings("tiny", {"environment.id": QUARTER} | changes))


def test_options_of_a_preset_do_not_go_to_another_environment(tmp_path):
    settings = read_settings("tiny", {"environment.id": QUARTER, "cold_start.count": 0, "environment.size": 32})
    assert settings.environment.to_mapping() == {"id": QUARTER, "size": 32}
    assert (settings.env, settings.has_cold_start, settings.vision.explicit()) == (QUARTER, False, {})
    assert "turns" not in settings.cold_start.explicit()
    path = tmp_path / "settings.toml"
    path.write_text(settings.to_toml())
    assert read_settings(str(path)) == settings
    assert read_settings(str(path), {"environment.id": QUARTER}) == settings
    assert read_settings("tiny", {"environment.id": "JigsawVision-v0"}).environment.image_size == 64
