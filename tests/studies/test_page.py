"""Sentences, tables and the page of a study, from made-up outcomes with a known truth."""

import json
import re

import pytest

pytest.importorskip("ray")
pytest.importorskip("torch")

from agile_gym.errors import ConfigurationError
from agile_gym.evaluation.metrics import Estimate
from agile_gym.studies.arms import expand, plan_runs
from agile_gym.studies.page import write_page
from agile_gym.studies.results import put_together, study_json, tables
from tests.helpers.browsers import CONTRASTS, start_browser
from tests.helpers.study_samples import ABLATED, ABLATIONS, SCALED, SCALING, outcomes


def page_of(folder, study, accs, missing=()):
    arms = expand(study)
    results = put_together(study, arms, outcomes(study, accs))
    write_page(folder / "study.html", study, arms, plan_runs(study, arms), results, missing)
    return (folder / "study.html").read_text()


def test_differences_that_are_there_are_found_and_others_are_not():
    results = put_together(ABLATIONS, expand(ABLATIONS), outcomes(ABLATIONS, ABLATED))
    kinds = {one.name: [finding.kind for finding in one.findings] for one in results}
    assert kinds["2x2"] == ["none", "loss", "loss"]
    assert kinds["3x3"][:2] == ["none", "none"]
    texts = [finding.text for finding in results[0].findings]
    assert texts[0].startswith("2x2: no difference seen between step weight 0.5 and base (")
    assert texts[0].endswith("; the paper has 0.4 less, in mean of nine general benchmarks).")
    assert texts[2].startswith("2x2: Acc of no cold start is below that of base by 4")


def test_an_ordered_factor_has_one_sentence_on_its_trend():
    (one,) = put_together(SCALING, expand(SCALING), outcomes(SCALING, SCALED))
    (finding,) = one.findings
    assert finding.kind == "gain"
    assert re.match(r"2x2: Acc rises over photographs in GRPO: it is [12].\.\d% at 0 and [67]", finding.text)
    (level,) = put_together(SCALING, expand(SCALING), outcomes(SCALING, [dict.fromkeys(SCALED[0], 0.5)], seed=1))
    assert [finding.kind for finding in level.findings] == ["none"]


def test_the_table_has_means_differences_seeds_and_the_papers_figures():
    arms = expand(ABLATIONS)
    made = outcomes(ABLATIONS, ABLATED)
    del made[0]["step weight 0"][2]
    one, _ = put_together(ABLATIONS, arms, made)
    table = tables(ABLATIONS, arms, one)
    seeds = ["seed 0", "seed 1", "seed 2"]
    assert table.header == ["Acc", "Score", "Acc less base", *seeds, "the paper"]
    rows = {row.label: [text for text, _ in row.cells] for row in table.rows}
    assert list(rows) == ["base", "step weight 0.5", "step weight 0", "no cold start"]
    base = made[0]["base"]
    mine = [sum(value for value, _ in base[seed]["acc"].values()) / 200 for seed in range(3)]
    assert rows["base"][0] == f"{100 * sum(mine) / 3:.1f}%"
    assert rows["base"][2] == ""
    assert rows["base"][3:] == [*(f"{100 * acc:.1f}%" for acc in mine), "65.2"]
    assert rows["step weight 0"][5] == "missing"
    assert table.caption == "2x2: 200 held-out puzzles of 40 photographs; the paper: mean of nine general benchmarks"


def test_the_figures_are_json_and_the_same_for_the_same_outcomes():
    arms = expand(ABLATIONS)
    texts = set()
    for _ in range(2):
        results = put_together(ABLATIONS, arms, outcomes(ABLATIONS, ABLATED))
        texts.add(json.dumps(study_json(ABLATIONS, arms, results, [])))
    (text,) = texts
    values = json.loads(text)
    arm = values["evaluations"][0]["arms"]["step weight 0"]
    assert Estimate(**arm["difference"]).high < 0
    assert arm["puzzles"] == 200
    assert set(arm["seeds"]) == {"0", "1", "2"}


def test_arms_that_have_played_other_puzzles_are_not_compared():
    made = outcomes(ABLATIONS, ABLATED)
    made[0]["step weight 0"][1]["acc"].pop(("2x2", 0, 3, 0))
    with pytest.raises(ConfigurationError, match="2x2: step weight 0, seed 1, has played other puzzles"):
        put_together(ABLATIONS, expand(ABLATIONS), made)


def test_the_page_is_the_same_bytes_and_names_what_is_missing(tmp_path):
    first = page_of(tmp_path, ABLATIONS, ABLATED)
    assert first == page_of(tmp_path, ABLATIONS, ABLATED)
    assert "Not finished" not in first
    assert "runs/no_cold_start-seed2/report.html" in first
    part = page_of(tmp_path, ABLATIONS, ABLATED, missing=["base-seed1"])
    assert "Not finished: 1 of the trainings (base-seed1)" in part
    assert "runs/base-seed1/report.html" not in part


def test_a_file_that_is_no_page_of_a_study_is_kept(tmp_path):
    (tmp_path / "study.html").write_text("mine")
    with pytest.raises(ConfigurationError, match="would be replaced"):
        page_of(tmp_path, SCALING, SCALED)
    assert (tmp_path / "study.html").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize(("study", "accs"), [(ABLATIONS, ABLATED), (SCALING, SCALED)], ids=["ablations", "scaling"])
def test_the_page_fits_and_can_be_read(study, accs, tmp_path):
    page_of(tmp_path, study, accs)
    browser = start_browser(tmp_path / "profile")
    try:
        for width, theme in ((1300, "light"), (1300, "dark"), (420, "light")):
            metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            features = [{"name": "prefers-color-scheme", "value": theme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            browser.get((tmp_path / "study.html").as_uri())
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            faint = [entry for entry in browser.execute_script(CONTRASTS) if entry[0] < 4.5]
            assert faint == []
            assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    finally:
        browser.quit()
