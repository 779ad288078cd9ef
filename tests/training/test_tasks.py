"""Runs on several environments at once: settings, what follows from them, and a training."""

import json
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ray")
pytest.importorskip("torch")

from agile_gym.errors import ConfigurationError
from agile_gym.evaluation import EnvironmentEntry, SuiteEntry, read_report
from agile_gym.training import stages
from agile_gym.training.checking import check_settings
from agile_gym.training.folder import RunFolder
from agile_gym.training.settings import RunSettings, read_settings
from agile_gym.training.tasks import cold_starts, divide
from agile_gym.transcripts import read_transcripts
from tests.helpers import ROOT
from tests.helpers.trainings import SMALL, environment

EXAMPLES = ROOT / "examples"
QUARTER = "custom_env:QuarterEnv"
QUARTERS = {"name": "quarters", "env": QUARTER, "options": {"size": 32}}
TEACHER = {"quarters": {"teacher": "custom_env:Teacher"}}


@pytest.fixture(autouse=True)
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    sys.modules.pop("custom_env", None)


def mixed(*tasks, **changes):
    """Return the settings of the tiny preset with tasks and 400 episodes of the cold start."""
    given = {"grpo.tasks": list(tasks) or [{"weight": 3}, QUARTERS], "cold_start.tasks": TEACHER}
    return read_settings("tiny", {"cold_start.count": 400} | given | changes)


def from_the_page():
    """Return the file of settings that the page on training shows."""
    section = (ROOT / "docs" / "training.md").read_text("utf-8").partition("## Several environments at once")[2]
    return re.search(r"^```toml\n(.*?)^```", section, re.DOTALL | re.MULTILINE)[1]


def test_the_cold_start_is_divided_by_weight():
    check_settings(mixed())
    made = cold_starts(mixed())
    assert {name: (cold.count, cold.env, cold.teacher) for name, cold in made.items()} == {
        "": (300, None, "expert"),
        "quarters": (100, QUARTER, "custom_env:Teacher"),
    }
    assert made["quarters"].options == {"size": 32}
    assert made["quarters"].turn_range == (1, 1000)
    assert made[""].turn_range == (3, 6)
    assert made[""].seed != made["quarters"].seed
    # Grids and levels of the run's environment have no part of their own, as before there were other tasks.
    same = read_settings("tiny", {"grpo.tasks": [{"grid": "2x2"}, {"grid": "3x3", "weight": 0.1}]})
    assert cold_starts(same) == {"": stages.cold_start_config(same)}


def test_tasks_are_left_out_of_the_cold_start_where_the_settings_say_so():
    left_out = {"cold_start.tasks": {"quarters": {"teacher": "none"}}}
    assert {name: cold.count for name, cold in cold_starts(mixed(**left_out)).items()} == {"": 400}
    assert list(cold_starts(mixed({"weight": 0}, QUARTERS))) == ["quarters"]
    jigsaws_first = mixed({"weight": 0}, QUARTERS, **left_out)  # GRPO plays the other task alone
    assert {name: cold.count for name, cold in cold_starts(jigsaws_first).items()} == {"": 400}
    check_settings(jigsaws_first)
    # The jigsaw with photographs of its own has the expert, and the settings of the section.
    (own,) = cold_starts(mixed({"images": "builtin", "name": "other"}, **{"cold_start.tasks": {}})).values()
    assert (own.count, own.teacher, own.turn_range, own.images, own.split) == (
        400,
        "expert",
        (3, 6),
        "builtin",
        "train",
    )


def test_what_is_left_over_goes_to_the_largest_remainders():
    assert divide(10, [1, 1, 1]) == [4, 3, 3]
    assert divide(7, [0.6, 0.4]) == [4, 3]
    assert divide(100, [1, 2, 4]) == [14, 29, 57]


@given(st.integers(0, 10_000), st.lists(st.integers(1, 10**6), min_size=1, max_size=6))
def test_parts_add_up_and_keep_to_their_weights(count, weights):
    parts = divide(count, [float(weight) for weight in weights])
    assert sum(parts) == count
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - count * weight / sum(weights)) < 1 + 1e-6


def test_every_task_is_evaluated_under_its_name():
    plan = stages.evaluation_plan(mixed({"grid": "2x2", "level": [0, 1]}, QUARTERS), "m")
    assert plan.entries == (
        SuiteEntry("2x2", (0, 1), 256),
        EnvironmentEntry(QUARTER, 512, "quarters", {"size": 32}),
    )
    photographs = {"images": "builtin", "test_images": "skimage", "name": "own", "level": 1}
    plan = stages.evaluation_plan(mixed({"weight": 0}, photographs), "m")
    (suite, own) = plan.entries
    assert suite == SuiteEntry("2x2", (0,), 512)
    assert (own.env, own.name, own.options["images"], own.options["split"]) == (
        "JigsawVision-v0", "own", "skimage", None
    )  # fmt: skip
    assert own.options["level"] == 1
    other = read_settings("tiny", {"environment.id": QUARTER, "cold_start.count": 0})
    assert stages.evaluation_plan(other, "m").to_json()["entries"] == [{"env": QUARTER, "episodes": 1024}]


def test_the_jigsaw_can_be_a_task_of_a_run_on_another_environment():
    tasks = [{"name": "quarters"}, {"name": "jigsaw", "env": "JigsawVision-v0", "options": {"image_size": 64}}]
    settings = read_settings(
        "tiny",
        {
            "environment.id": QUARTER,
            "grpo.tasks": tasks,
            "cold_start.count": 9,
            "cold_start.teacher": "custom_env:Teacher",
        },
    )
    check_settings(settings)
    made = cold_starts(settings)
    assert {name: (cold.count, cold.env, cold.teacher) for name, cold in made.items()} == {
        "": (5, QUARTER, "custom_env:Teacher"),
        "jigsaw": (4, None, "expert"),
    }
    plan = stages.evaluation_plan(settings, "m")
    assert plan.grids == ("QuarterEnv", "jigsaw")
    assert plan.entries[1].options == {"images": None, "split": "test", "image_size": 64}


@pytest.mark.parametrize(
    ("tasks", "changes", "message"),
    [
        ([{"env": "Nothing-v0"}], {}, r"^\[grpo\] tasks, Nothing-v0: env = 'Nothing-v0': There is no environment"),
        ([{}, QUARTERS, QUARTERS], {}, r"^\[grpo\] tasks: two tasks have the name 'quarters'"),
        ([{"weight": 0}], {}, r"^\[grpo\] tasks: give at least one task with a weight above 0"),
        ([{}, QUARTERS | {"weight": -1}], {}, r"^\[grpo\] tasks: weight=-1 must be a number from 0"),
        ([{}, QUARTERS | {"options": {"siz": 3}}], {}, r"^\[grpo\] tasks, quarters: env = .*'siz'.*mean 'size'"),
        ([{}, QUARTERS | {"images": "nowhere"}], {}, r"^\[grpo\] tasks, quarters: .*'images'"),
        ([{"images": "nowhere"}], {}, r"nowhere"),
        ([{}, QUARTERS], {"cold_start.tasks": {}}, r"^\[cold_start\] the task 'quarters' has no teacher: .*'none'"),
        ([{}, QUARTERS], {"cold_start.tasks": {"qarters": {}}}, r"tasks: 'qarters' is not a task.*mean 'quarters'"),
        ([{}], {}, r"^\[cold_start\] tasks: 'quarters' is not a task .* There is none in \[grpo\] tasks"),
        ([{}, QUARTERS], {"cold_start.tasks": {"quarters": 3}}, r"tasks: quarters = 3 must be a table"),
        (
            [{}, QUARTERS],
            {"cold_start.tasks": {"quarters": {"teachr": "x"}}},
            r"quarters has no key 'teachr'. Did you mean 'teacher'",
        ),
        ([{}, QUARTERS], {"cold_start.tasks": {"quarters": {"teacher": "x"}}}, r"^\[cold_start\] teacher = 'x'"),
        (
            [{}, QUARTERS],
            {"cold_start.tasks": {"quarters": {"teacher": "custom_env:Teacher", "turns": [3, 1]}}},
            r"^\[cold_start\] tasks, quarters: turns=\[3, 1\]",
        ),
        ([{}, QUARTERS | {"weight": 1e-4}], {}, r"^\[cold_start\] count = 400 is too few: each of 2 tasks"),
        (
            [QUARTERS],
            {"cold_start.tasks": {"quarters": {"teacher": "none"}}},
            r"^\[cold_start\] no task is left: .*Set count = 0",
        ),
    ],
)  # fmt: skip
def test_mistakes_show_before_anything_is_played(tasks, changes, message):
    with pytest.raises(ConfigurationError, match=message) as refusal:
        check_settings(mixed(*tasks, **changes))
    assert len(str(refusal.value).splitlines()) == 1


def test_other_photographs_of_a_task_are_no_resumption(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"1")
    settings = mixed(QUARTERS | {"images": str(tmp_path / "photos")})
    RunFolder(tmp_path / "run").begin(settings, stages.content_of(settings))
    folder = RunFolder(tmp_path / "run", resume=True)
    folder.begin(settings, stages.content_of(settings))
    folder.close()
    (tmp_path / "photos" / "a.png").write_bytes(b"2")
    with pytest.raises(ConfigurationError, match=r"other settings in \[grpo\].*tasks.quarters.images \(other photo"):
        RunFolder(tmp_path / "run", resume=True).begin(settings, stages.content_of(settings))


@pytest.mark.slow
def test_the_example_of_the_page_trains(tmp_path):
    (tmp_path / "mix.toml").write_text(from_the_page())
    settings = RunSettings.from_toml(from_the_page())
    check_settings(settings)
    kept = {key: value for key, value in SMALL.items() if key.partition(".")[0] != "vision" and "replay" not in key}
    kept |= {"grpo.iterations": 2, "grpo.groups_per_iteration": 5, "evaluation.episodes": 8, "evaluation.interval": 2}
    pairs = [f"--set={key}={json.dumps(value)}" for key, value in kept.items()]
    folder = tmp_path / "mixed"
    words = ["train", "--preset", str(tmp_path / "mix.toml"), "--output", str(folder), *pairs]
    result = subprocess.run(
        [sys.executable, "-m", "agile_gym", *words],
        cwd=EXAMPLES, capture_output=True, text=True, check=False, env=environment(), timeout=240,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    counts = {
        name: [episode.task.get("env", "jigsaw") for episode in read_transcripts(folder / "cold-start" / name)]
        for name in ("", "quarters")
    }
    assert counts == {"": ["jigsaw"] * 8, "quarters": ["QuarterEnv"] * 4}
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = records[-1]
    assert (last["stage"], last["iteration"], last["episodes"]) == ("grpo", 2, 10)
    assert last["episodes/jigsaw"] + last["episodes/quarters"] == 10
    shares = [last[f"episodes/{name}"] / 10 for name in ("jigsaw", "quarters")]
    whole = sum(
        share * last.get(f"return/{name}", 0) for share, name in zip(shares, ("jigsaw", "quarters"), strict=True)
    )
    assert last["return"] == pytest.approx(whole)
    assert {key for key in last if key.startswith("eval/acc/")} <= {"eval/acc/jigsaw", "eval/acc/quarters"}
    for stage in ("coldstart", "grpo"):
        report = read_report(folder / "evaluation" / f"{stage}.json")
        assert [row.grid for row in report.rows] == ["2x2"] * 4 + ["quarters"] * 4
    page = (folder / "report.html").read_text()
    assert "Return by task" in page
    assert "held-out puzzles (quarters)" in page
    assert "   jigsaw: Acc " in result.stdout
    RunFolder(folder, overwrite=True).close()  # it knows all files
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["agile-gym.json"]
