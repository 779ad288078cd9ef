"""The rules for answers, on 1,919 cases that the benchmarks' own code decided (data/golden_matching.json)."""

import json
from collections import Counter
from pathlib import Path

import pytest

from agile_gym.questions import matching
from agile_gym.questions.judging import unwrap
from agile_gym.questions.mmmu import mmmu_open, mmmu_open_parse

GOLDEN = json.loads((Path(__file__).parent / "data" / "golden_matching.json").read_text("utf-8"))


def answer(case):
    rule, reply = case["rule"], case["reply"]
    choices = {letter: str(text) for letter, text in (case["choices"] or {}).items()}
    if rule in matching.CHOICE_RULES:
        return matching.CHOICE_RULES[rule](reply, choices)
    if rule == "mme_realworld_scored":
        return int(matching.mme_realworld_scored(reply) == case["answer"])
    if rule == "mmmu_open_parse":
        found = mmmu_open_parse(reply)
        return [
            *sorted(one for one in found if not isinstance(one, str)),
            *sorted(o for o in found if isinstance(o, str)),
        ]
    if rule == "mmmu_open":
        return mmmu_open(reply, case["answer"])
    if rule == "lmms_realworldqa_scored":
        return float(matching.lmms_realworldqa_scored(reply, case["answer"]))
    return getattr(matching, rule)(reply)


@pytest.mark.parametrize("rule", GOLDEN["header"]["rules"])
def test_rules_decide_as_the_benchmarks_own_code(rule):
    cases = [case for case in GOLDEN["cases"] if case["rule"] == rule]
    assert len(cases) == GOLDEN["header"]["rules"][rule]["cases"]
    wrong = [(case["reply"], case["expected"], answer(case)) for case in cases if answer(case) != case["expected"]]
    assert wrong == []


def test_no_case_is_left_out():
    counts = Counter(case["rule"] for case in GOLDEN["cases"])
    assert counts == {rule: facts["cases"] for rule, facts in GOLDEN["header"]["rules"].items()}
    assert counts.total() == 1919


@pytest.mark.parametrize(
    ("reply", "inside"),
    [
        ("<think>A or B</think><answer> B </answer>", "B"),
        ("<think>A</think> C", "C"),
        ("<answer>A</answer> no, <answer>D", "D"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_tags_are_taken_off(reply, inside):
    assert unwrap(reply) == inside
