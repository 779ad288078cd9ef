"""Aggregates, on tables that the benchmarks' own code scored (data/golden_scores.json)."""

import json
from pathlib import Path

import pytest

from agile_gym.errors import ConfigurationError
from agile_gym.questions import scores
from agile_gym.questions.judging import RULES, judge, score
from agile_gym.questions.matching import lmms_hallusion_intern, vlmevalkit_yes_no
from agile_gym.questions.parsing import PARSERS
from agile_gym.questions.scores import Scored
from agile_gym.questions.tables import Row

GOLDEN = json.loads((Path(__file__).parent / "data" / "golden_scores.json").read_text("utf-8"))["benchmarks"]
KEYS = {
    "RealWorldQA": "realworldqa",
    "HRBench4K": "hrbench4k",
    "HRBench8K": "hrbench8k",
    "HRBench4K_uneven": "hrbench4k",
    "VStarBench": "vstar",
    "MMVP": "mmvp",
    "BLINK": "blink",
    "HallusionBench": "hallusionbench",
    "MME-RealWorld-Lite": "mme-realworld-lite",
    "MMMU": "mmmu",
}


def judged(key, rows, rule=None, layout=0):
    found = []
    for number, row in enumerate(rows):
        texts = {name: "" if value is None else str(value) for name, value in row.items()}
        texts = {"multi-choice options": "[]", "question": ""} | texts
        question = PARSERS[key][layout](key, number, Row(texts))
        right = judge(question, row["prediction"], rule).right
        split, facts = question.split, question.facts
        found.append(Scored(question.id, right, question.category, question.fine, split, facts, question.text))
    return found


def expect(table, golden):
    for name, value in golden.items():
        if isinstance(value, dict):
            expect(table[name], value)
        elif value is None:
            assert name not in table
        else:
            assert table[name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("name", GOLDEN)
def test_tables_of_vlmevalkit(name):
    key, golden = KEYS[name], GOLDEN[name]["vlmevalkit"]
    rows = judged(key, golden["rows"])
    assert {row.id: float(row.right) for row in rows} == golden["hits"]
    figure, table = score(key, rows)
    if "none" in golden["scores"] or "validation" in golden["scores"]:
        table = scores.splits(rows)
    expect(table, golden["scores"])
    reported = {"HallusionBench": lambda: golden["mean_of_three"] / 100, "MMVP": lambda: golden["scores"]["Average"]}
    if name in reported:
        assert figure == pytest.approx(reported[name]())


def test_realworldqa_of_lmms_eval():
    golden = GOLDEN["RealWorldQA"]["lmms_eval"]
    rows = judged("realworldqa", golden["rows"], layout=1)
    assert [float(row.right) for row in rows] == golden["hits"]
    assert scores.mean(rows) == golden["scores"]["exact_match"]


@pytest.mark.parametrize("name", ["HRBench4K", "HRBench8K"])
def test_hrbench_of_lmms_eval(name):
    golden = GOLDEN[name]["lmms_eval"]["scores"]
    rows = judged(KEYS[name], GOLDEN[name]["vlmevalkit"]["rows"], "lmms_hrbench_mcq")
    average = scores.cycles(rows, divide_by_all=False)["Average"]
    expect({"single": average["single"], "average": average["all"], "cross": average["cross"]}, golden)


def test_a_category_that_a_cycle_lacks_is_divided_by_the_cycles_that_have_it():
    rows = [Scored("0", True, "a", facts={"cycle": "0"}), Scored("1", True, "b", facts={"cycle": "1"})]
    assert scores.cycles(rows, divide_by_all=False)["Average"] == {"a": 1.0, "all": 1.0, "b": 1.0}
    assert scores.cycles(rows)["Average"] == {"a": 0.5, "all": 1.0, "b": 0.5}


def test_vstar_of_lmms_eval():
    golden = GOLDEN["VStarBench"]["lmms_eval"]
    rows = judged("vstar", GOLDEN["VStarBench"]["vlmevalkit"]["rows"], "lmms_vstar")
    assert [float(row.right) for row in rows] == golden["hits"]
    percent = {f"vstar_{name.lower()}_acc": 100 * value for name, value in scores.categories(rows).items()}
    expect(percent, golden["scores"])


def test_mmvp_of_lmms_eval():
    golden = GOLDEN["MMVP"]["lmms_eval"]
    rows = judged("mmvp", GOLDEN["MMVP"]["vlmevalkit"]["rows"], "lmms_mmvp")
    assert [row.right for row in rows] == golden["hits"]
    means = scores.pairs(rows, strict=False)
    expect({"mmvp_accuracy": means["Average"], "mmvp_pair_accuracy": means["Overall"]}, golden["scores"])


def test_halves_of_pairs():
    rows = [Scored(str(number), number != 3, question=f"q{(number - 1) // 2}") for number in (1, 2, 3, 4)]
    assert scores.pairs(rows) == {"Average": 0.75, "Overall": 0.5}
    assert scores.pairs(rows[1:], strict=False) == {"Average": 2 / 3, "Overall": 0.0}
    with pytest.raises(ConfigurationError, match="no second half"):
        scores.pairs(rows[:3])
    with pytest.raises(ConfigurationError, match="no second half"):
        scores.pairs(rows[1:])


def test_blink_of_lmms_eval():
    golden = GOLDEN["BLINK"]["lmms_eval"]
    rows = judged("blink", GOLDEN["BLINK"]["vlmevalkit"]["rows"], "lmms_blink")
    assert [row.right for row in rows] == golden["hits"]
    expect(scores.categories(rows) | {"blink group": scores.blink_group(rows)}, golden["scores"])


def hallusion_rows(rows, read):
    found = []
    for row in rows:
        answer = read(row["model_prediction"])
        right = answer == row["gt_answer"]
        names = {"set": row["set_id"], "figure": row["figure_id"], "number": row["question_id"]}
        facts = {**names, "unclear": "1" if answer == "2" else "0"}
        found.append(Scored("", right, row["category"], f"{row['category']}_{row['subcategory']}", "", facts))
    return found


def yes_no(reply):
    return {"Yes": "1", "No": "0", "Unknown": "2"}[vlmevalkit_yes_no(reply)]


def test_hallusionbench_of_lmms_eval():
    golden = GOLDEN["HallusionBench"]
    rows = golden["lmms_eval_intern"]["rows"]
    intern = scores.hallusion(hallusion_rows(rows, lmms_hallusion_intern))["Overall"]
    expect({name: value / 100 for name, value in intern.items()}, golden["lmms_eval_intern"]["scores"])
    grouped = scores.hallusion(hallusion_rows(rows, yes_no))["Overall"]
    rounded = {name: round(value, 4) for name, value in grouped.items()}
    assert rounded == golden["lmms_eval_grouping"]["scores"]


def test_hallusionbench_with_questions_without_an_image():
    golden = GOLDEN["HallusionBench"]["lmms_eval_grouping_with_text_only"]
    rows = GOLDEN["HallusionBench"]["lmms_eval_intern"]["rows"] + golden["extra_rows"]
    found = scores.hallusion(hallusion_rows(rows, yes_no), text_only=True)["Overall"]
    assert {name: round(value, 4) for name, value in found.items()} == golden["scores"]


def test_mme_realworld_of_lmms_eval():
    golden = GOLDEN["MME-RealWorld-Lite"]["lmms_eval"]
    rows = GOLDEN["MME-RealWorld-Lite"]["vlmevalkit"]["rows"]
    read = [
        RULES["mme-realworld-lite"]["mme_realworld"](
            PARSERS["mme-realworld-lite"][0](
                "mme-realworld-lite", 0, Row({**row, "multi-choice options": "[]"} | {"index": "0"})
            ),
            row["prediction"],
        ).answer
        or ""
        for row in rows
    ]
    assert read == golden["pred_answer"]
    found = judged("mme-realworld-lite", rows, "mme_realworld")
    assert scores.mean(found) == pytest.approx(golden["scores"]["mme_realworld_score"])


@pytest.mark.parametrize(("rule", "golden"), [("mmmu_official_choice", "official"), ("lmms_mmmu_choice", None)])
def test_mmmu_by_its_own_rules(rule, golden):
    rows = judged("mmmu", GOLDEN["MMMU"]["official"]["rows"], rule, layout=1)
    if golden is None:
        wanted = GOLDEN["MMMU"]["lmms_eval_group_img"]["scores"]["mmmu_acc"]
        assert round(scores.mean(rows), 3) == wanted
        return
    verdicts = {row.id: "Correct" if row.right else "Wrong" for row in rows}
    assert verdicts == GOLDEN["MMMU"]["official"]["judged"]
    expect(scores.mmmu_official(rows), GOLDEN["MMMU"]["official"]["scores"])
