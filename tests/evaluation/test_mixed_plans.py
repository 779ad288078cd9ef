"""Plans of puzzles and of other environments at once."""

import sys
from functools import partial

import pytest

from agile_gym.errors import ConfigurationError
from agile_gym.evaluation import (
    EnvironmentEntry,
    EvaluationPlan,
    SuiteEntry,
    evaluate,
    play_in_workers,
    prepare_plan,
    read_report,
    write_report,
)
from agile_gym.policies import make_policy
from tests.helpers import ROOT

QUARTER = "custom_env:QuarterEnv"
ENTRIES = [
    SuiteEntry("1x2", (0,), 3),
    EnvironmentEntry(QUARTER, 4, "small", {"size": 32}),
    EnvironmentEntry(QUARTER, 4, "large", {"size": 64}),
]


@pytest.fixture(autouse=True)
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    yield
    sys.modules.pop("custom_env", None)


def make_plan(**changes):
    return EvaluationPlan("custom_env:guess", ENTRIES, options={"image_size": 64, "prompt": "short"}, **changes)


def test_each_entry_is_played_in_its_own_environment(tmp_path):
    plan = make_plan()
    assert (len(plan), plan.env, plan.plays_jigsaw) == (11, None, True)
    prepared = prepare_plan(plan)
    sides = {name: prepared.makers[name]().reset(seed=0)[1]["images"][0].shape[0] for name in ("small", "large")}
    assert sides == {"small": 32, "large": 64}
    results = evaluate(make_policy(plan.policy), plan, prepared=prepared)
    assert {name: sum(one.grid == name for one in results) for name in plan.grids} == {"1x2": 3, "small": 4, "large": 4}
    assert {one.label for one in results if one.grid == "1x2"} == {None}
    path = tmp_path / "results.json"
    write_report(path, results, plan=plan.to_json(), photographs=prepared.photographs())
    report = read_report(path)
    assert {row[:4]: (row.solved, row.label) for row in report.rows} == {
        one.key: (one.solved, one.label) for one in results
    }
    assert list(report.summary["1x2"]) == ["L0", "avg"]
    assert set(report.summary["small"]) <= {"bottom", "top", "avg"}
    assert report.plan["entries"] == [
        {"grid": "1x2", "levels": [0], "episodes": 3},
        {"env": QUARTER, "episodes": 4, "name": "small", "options": {"size": 32}},
        {"env": QUARTER, "episodes": 4, "name": "large", "options": {"size": 64}},
    ]
    assert EvaluationPlan("p", [EnvironmentEntry(QUARTER, 4)]).to_json()["entries"] == [{"env": QUARTER, "episodes": 4}]


@pytest.mark.slow
def test_workers_play_the_same(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "examples"), prepend=":")
    plan = make_plan()
    prepared = prepare_plan(plan)
    alone = evaluate(make_policy(plan.policy), plan, prepared=prepared)
    both = [one.result for one in play_in_workers(prepared, plan.tasks(), workers=2)]
    facts = [{one.key: (one.image_id, one.solved, one.turns) for one in results} for results in (alone, both)]
    assert facts[0] == facts[1]


@pytest.mark.parametrize(
    "entries",
    [
        [SuiteEntry("1x2", (0,), 3), EnvironmentEntry(QUARTER, 4)],
        [EnvironmentEntry(QUARTER, 4, "a", {}), EnvironmentEntry(QUARTER, 4, "b")],
    ],
)
def test_an_environment_with_the_options_of_the_plan_is_alone(entries):
    with pytest.raises(ConfigurationError, match="has one entry, its own, or each environment has options of its own"):
        EvaluationPlan("p", entries)


def test_two_entries_of_one_name_are_refused():
    entry = partial(EnvironmentEntry, QUARTER, 4, "a")
    with pytest.raises(ConfigurationError, match="a L0: named more than once"):
        EvaluationPlan("p", [entry({"size": 32}), entry({"size": 64})])
