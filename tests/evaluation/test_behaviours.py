"""Behaviours in an evaluation: of each episode, of each level, in the file, and in the tables."""

import json

import pytest

from agile_gym.evaluation import (
    EnvironmentEntry,
    EpisodeResult,
    EvaluationPlan,
    bootstrap_mean,
    evaluate,
    format_behaviours,
    read_report,
    summarize,
    summarize_behaviours,
    wilson,
    write_report,
)
from agile_gym.transcripts.behaviours import BEHAVIOURS
from tests.evaluation.test_looks import Eye, plan_of
from tests.helpers.evaluation_policies import Reader


def made(found, number=0, level=0, sample=0):
    behaviours = None if found is None else {name: name in found for name in BEHAVIOURS}
    return EpisodeResult("2x2", level, number, sample, number, "p", False, 0.0, 1, behaviours=behaviours)


def test_episodes_of_a_policy_that_checks_its_boards():
    results = evaluate(Reader(), plan_of(episodes=6))
    nothing = dict.fromkeys(BEHAVIOURS, False)
    assert {result.solved for result in results} == {True}
    assert all(result.behaviours == {**nothing, "check_answer": True} for result in results)
    figures = summarize(results)["2x2"]["avg"]["behaviours"]
    assert figures["check_answer"] == {"count": 6, "of": 6, **wilson(6, 6)._asdict()}
    assert figures["mend_mistake"] == {"count": 0, "of": 6, **wilson(0, 6)._asdict()}
    careless = evaluate(Reader(careless=True), plan_of(episodes=24))
    mended = [result for result in careless if result.behaviours["mend_mistake"]]
    assert mended
    assert all(result.looks["mended"] > 0 for result in mended)


def test_figures_by_hand():
    results = [made(["look_closer"]), made([], 1), made(["look_closer", "compare_edges"], 2, 1), made(None, 3)]
    summary = summarize(results)["2x2"]
    assert summary["avg"]["behaviours"] == summarize_behaviours(results)
    assert list(summary["avg"]["behaviours"]) == list(BEHAVIOURS)
    assert summary["avg"]["behaviours"]["look_closer"] == {"count": 2, "of": 3, **wilson(2, 3)._asdict()}
    assert summary["avg"]["behaviours"]["compare_edges"]["value"] == 1 / 3
    assert summary["L1"]["behaviours"]["look_closer"]["of"] == 1
    assert summary["L0"]["behaviours"]["compare_edges"]["value"] == 0
    lines = format_behaviours(summarize(results)).splitlines()
    row = next(line for line in lines if line.startswith("look closer"))
    assert row.split()[2:] == ["50.0", "100.0", "66.7"]
    assert lines[lines.index(row) + 1].split()[-1] == f"{100 * wilson(2, 3).low:.1f}"


def test_samples_of_a_puzzle_are_no_puzzles_of_their_own():
    results = [made(["look_closer"] if number else [], number, sample=sample) for number in (0, 1) for sample in (0, 1)]
    assert summarize_behaviours(results)["look_closer"] == {"count": 2, "of": 4, **bootstrap_mean([0, 1])._asdict()}


def test_what_cannot_be_seen_is_not_counted():
    assert summarize_behaviours([]) is summarize_behaviours([made(None)]) is None
    assert format_behaviours(summarize([made(None)])) == ""
    old = summarize([made([])])
    del old["2x2"]["avg"]["behaviours"], old["2x2"]["L0"]["behaviours"]  # as in older files
    assert format_behaviours(old) == ""
    plan = EvaluationPlan("eye", [EnvironmentEntry("tests.evaluation.test_looks:Lamp", 3)])
    results = evaluate(Eye(), plan)
    assert all(result.behaviours == {} for result in results)
    assert summarize(results)["Lamp"]["avg"]["behaviours"] == {}
    assert format_behaviours(summarize(results)) == ""


def test_the_file_holds_them_and_older_files_are_read(tmp_path):
    path = tmp_path / "r.json"
    figures = write_report(path, [made(["look_closer"])], plan={"policy": "x"}, photographs={})
    assert read_report(path).summary == figures.summary
    file = json.loads(path.read_text())
    assert file["summary"]["2x2"]["L0"]["behaviours"]["look_closer"]["count"] == 1
    for column in file["summary"]["2x2"].values():
        del column["behaviours"]
    path.write_text(json.dumps(file))
    assert "behaviours" not in read_report(path).summary["2x2"]["avg"]


@pytest.mark.parametrize("found", [[], "x", 1, {"look_closer": 1}, {"look_closer": None}, {"more": True}])
def test_behaviours_that_no_episode_has_are_refused(found):
    values = made(["look_closer"]).to_json()
    assert EpisodeResult.from_json(json.loads(json.dumps(values))) == made(["look_closer"])
    with pytest.raises(ValueError, match=r"no episode has|no table"):
        EpisodeResult.from_json({**values, "behaviours": found})
    assert "behaviours" not in made(None).to_json()
    assert EpisodeResult.from_json(made(None).to_json()).behaviours is None
