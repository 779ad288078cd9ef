import json

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from agile_gym.errors import ConfigurationError
from agile_gym.evaluation import (
    EpisodeResult,
    EvaluationPlan,
    Journal,
    bootstrap_mean,
    evaluate,
    format_tables,
    reference_rows,
    summarize,
    wilson,
)
from agile_gym.policies import EdgePolicy, RandomPolicy

FAST = {"image_size": 32}


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (1, 24), (37, 300), (299, 300), (5, 7)])
def test_wilson_equals_scipy(successes, trials):
    theirs = binomtest(successes, trials).proportion_ci(method="wilson")
    ours = wilson(successes, trials)
    assert ours == pytest.approx((successes / trials, theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 3), (4, 3), (0, 0)])
def test_wilson_refuses_nonsense(successes, trials):
    with pytest.raises(ValueError, match="make no sense"):
        wilson(successes, trials)


def test_the_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(0).integers(0, 10, 200) / 9
    ours = bootstrap_mean(values)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=1).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert bootstrap_mean(values) == ours
    with pytest.raises(ValueError, match="no values"):
        bootstrap_mean([])


def test_the_papers_tables():
    rows = {row.model: row for row in reference_rows("3x3", "acc")}
    assert rows["Qwen2.5-VL-7B + cold start + RL (AGILE)"].levels == (5, 7, 11, 14, 17.7, 25.3, 38, 48)
    assert rows["Qwen2.5-VL-7B + cold start + RL (AGILE)"].average == 20.8
    assert len(rows) == 10
    for grid in ("2x2", "3x3"):
        for metric in ("acc", "score"):
            for row in reference_rows(grid, metric):
                assert np.mean(row.levels) == pytest.approx(row.average, abs=0.11)
    assert reference_rows("4x4", "acc") == ()


def test_a_plan_has_every_level_and_fixed_seeds():
    plan = EvaluationPlan("edge", episodes=3)
    tasks = list(plan.tasks())
    assert len(tasks) == (3 + 8) * 3
    assert len({task.seed for task in tasks}) == len(tasks)
    assert tasks == list(EvaluationPlan("random", episodes=3).tasks())
    fewer = list(EvaluationPlan("edge", grids=("3x3",), levels=(2,), episodes=2).tasks())
    assert set(fewer) <= set(tasks)  # a puzzle does not depend on what else is played
    assert [task.seed for task in EvaluationPlan("edge", seed=1).tasks()][:3] != [task.seed for task in tasks][:3]


@pytest.mark.parametrize(
    "settings", [{"episodes": 0}, {"seed": -1}, {"grids": ()}, {"grids": ("2x2",), "levels": (5,)}, {"grids": ("1x1",)}]
)
def test_bad_plans_are_refused(settings):
    with pytest.raises(ConfigurationError):
        EvaluationPlan("edge", **settings)


def key(result):
    return result.grid, result.level, result.episode


def test_results_do_not_depend_on_the_batch():
    plan = EvaluationPlan("random", grids=("2x2", "1x3"), episodes=7, options=FAST)
    one = evaluate(RandomPolicy(), plan, batch=1)
    many = evaluate(RandomPolicy(), plan, batch=5)
    assert sorted(one, key=key) == sorted(many, key=key)
    assert {(result.grid, result.level) for result in one} == {
        ("2x2", 0),
        ("2x2", 1),
        ("2x2", 2),
        ("1x3", 0),
        ("1x3", 1),
    }


def test_a_journal_that_was_cut_at_any_byte_resumes_to_the_same_table(tmp_path):
    plan = EvaluationPlan("edge", grids=("2x2",), episodes=4, options=FAST)
    path = tmp_path / "whole.jsonl"
    journal = Journal(path, plan, resume=False)
    evaluate(EdgePolicy(), plan, on_result=journal.add)
    journal.close()
    whole = path.read_bytes()
    expected = format_tables(summarize(journal.results), "edge")
    for cut in np.random.default_rng(0).integers(1, len(whole), 12):
        part = tmp_path / "part.jsonl"
        header = whole.index(b"\n") + 1
        part.write_bytes(whole[: max(cut, header)])
        resumed = Journal(part, plan, resume=True)
        evaluate(EdgePolicy(), plan, done=[result.task for result in resumed.results], on_result=resumed.add)
        resumed.close()
        assert sorted(resumed.results, key=key) == sorted(journal.results, key=key)
        assert format_tables(summarize(resumed.results), "edge") == expected
        assert sorted(part.read_text().splitlines()) == sorted(whole.decode().splitlines())


def test_a_journal_of_other_settings_is_not_touched(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path, EvaluationPlan("edge", episodes=3), resume=False).close()
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="other settings"):
        Journal(path, EvaluationPlan("edge", episodes=4), resume=True)
    assert path.read_bytes() == before


def test_a_policy_that_returns_nonsense_is_named():
    class Forgetful:
        def reset(self, seed=None):
            pass

        def act(self, observations, infos):
            return ["one"] if len(observations) > 1 else [None]

    for batch in (1, 3):
        with pytest.raises(ConfigurationError, match="a text for each"):
            evaluate(Forgetful(), EvaluationPlan("x", grids=("2x2",), episodes=3, options=FAST), batch=batch)


def test_summary_and_table_by_hand():
    results = [
        EpisodeResult("2x2", level, episode, 0, "", solved, score, turns, errors, 0.5)
        for level, episode, solved, score, turns, errors in [
            (0, 0, True, 1.0, 1, 0),
            (0, 1, False, 0.5, 3, 1),
            (2, 0, False, 0.0, 4, 1),
            (2, 1, True, 1.0, 2, 0),
        ]
    ]
    summary = summarize(results)
    assert list(summary["2x2"]) == ["L0", "L2", "avg"]
    assert summary["2x2"]["L0"]["acc"]["value"] == 0.5
    assert summary["2x2"]["avg"]["score"]["value"] == 0.625
    assert summary["2x2"]["avg"]["turns"] == 2.5
    assert summary["2x2"]["avg"]["valid"] == 0.8
    json.dumps(summary)
    lines = format_tables(summary, "mine").splitlines()
    assert lines[3].split() == ["mine", "50.0", "50.0", "50.0"]
    agile = next(line for line in lines if "cold start + RL" in line)
    assert agile.split()[-3:] == ["78.7", "86.7", "82.8"]  # L0, L2 and the paper's average
