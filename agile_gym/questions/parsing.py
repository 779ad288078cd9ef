"""Rows of benchmarks' files as questions: one function for each benchmark and layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from agile_gym.questions.records import Kind, Question
from agile_gym.questions.scores import domain_of
from agile_gym.questions.tables import Row, read_list

__all__ = ["BLINK_TASKS", "PARSERS", "Parser"]

Parser = Callable[[str, int, Row], Question]
"""Function from the benchmark's key, the number of the row and the row to the question."""
LETTERS = "ABCDEFGHIJ"
BLINK_TASKS = frozenset(
    (
        "Art_Style",
        "Counting",
        "Forensic_Detection",
        "Functional_Correspondence",
        "IQ_Test",
        "Jigsaw",
        "Multi-view_Reasoning",
        "Object_Localization",
        "Relative_Depth",
        "Relative_Reflectance",
        "Semantic_Correspondence",
        "Spatial_Relation",
        "Visual_Correspondence",
        "Visual_Similarity",
    )
)


def _lettered(options: list[str]) -> dict[str, str]:
    return dict(zip(LETTERS, options, strict=False))


def _choice(benchmark: str, number: int, row: Row) -> Question:
    """Read a row of VLMEvalKit's multiple choice."""
    texts = row.texts
    choices = {letter: texts[letter] for letter in LETTERS if texts.get(letter, "").strip()}
    facts = {"cycle": texts["cycle_category"]} if "cycle_category" in texts else {}
    answer = texts.get("answer", "").strip()
    kind: Kind = "choice" if choices or benchmark != "mmmu" else "open"
    answers = (answer,)
    if kind == "open":
        answers = tuple(read_list(answer) or [answer])
    return Question(
        benchmark,
        texts.get("index", str(number)).strip(),
        kind,
        texts.get("question", ""),
        answers,
        choices,
        tuple(row.pictures),
        hint=texts.get("hint", ""),
        category=texts.get("category", ""),
        fine=texts.get("l2-category", ""),
        split=texts.get("split", ""),
        facts=facts,
    )


_LISTED = re.compile(r"^\(([A-E])\)\s?")


def _mme(benchmark: str, number: int, row: Row) -> Question:
    given: Any = row.values.get("multi-choice options")
    options = [str(one) for one in cast("list[object]", given)] if isinstance(given, list) else None
    texts = row.texts
    return Question(
        benchmark,
        texts.get("index", str(number)).strip(),
        "choice",
        texts["question"],
        (texts["answer"].strip(),),
        _lettered(
            [_LISTED.sub("", option) for option in options or read_list(row.texts["multi-choice options"]) or []]
        ),
        tuple(row.pictures),
        category=texts.get("category", ""),
        fine=texts.get("l2-category", ""),
    )


def _hallusion_tsv(benchmark: str, number: int, row: Row) -> Question:
    texts = row.texts
    parts = texts["index"].strip().split("_")
    facts: dict[str, str] = {}
    if len(parts) >= 6:
        facts = {"set": parts[3], "figure": parts[4], "number": parts[5]}
    return Question(
        benchmark,
        texts["index"].strip(),
        "yes_no",
        texts["question"],
        (texts["answer"].strip().capitalize(),),
        pictures=tuple(row.pictures),
        category=texts.get("category", ""),
        fine=texts.get("l2-category", ""),
        facts=facts,
    )


def _hallusion_parquet(benchmark: str, number: int, row: Row) -> Question:
    texts = row.texts
    names = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
    return Question(
        benchmark,
        "_".join(texts.get(name, "") for name in names),
        "yes_no",
        texts["question"],
        ({"1": "Yes", "0": "No"}.get(texts["gt_answer"].strip(), texts["gt_answer"]),),
        pictures=tuple(row.pictures),
        category=texts["category"],
        fine=f"{texts['category']}_{texts['subcategory']}",
        facts={"set": texts["set_id"], "figure": texts["figure_id"], "number": texts["question_id"]},
        layout="parquet",
    )


_INSTRUCTION = "Answer with the option's letter from the given choices directly."


def _vstar_parquet(benchmark: str, number: int, row: Row) -> Question:
    texts = row.texts
    text = texts["text"].strip().removesuffix(_INSTRUCTION).rstrip()
    before, *rest = re.split(r"\(([A-D])\)", text)
    choices = {letter: option.strip() for letter, option in zip(rest[::2], rest[1::2], strict=True)}
    return Question(
        benchmark,
        texts.get("question_id", str(number)),
        "choice",
        before.strip(),
        (texts["label"].strip(),),
        choices,
        tuple(row.pictures),
        category=texts["category"],
        layout="parquet",
    )


_AB = re.compile(r"^\s*\(a\)\s*(.*?)\s*\(b\)\s*(.*?)\s*$", re.DOTALL)


def _mmvp_parquet(benchmark: str, number: int, row: Row) -> Question:
    texts = row.texts
    found = _AB.match(texts["Options"])
    return Question(
        benchmark,
        texts["Index"],
        "choice",
        texts["Question"],
        (texts["Correct Answer"].strip().strip("()").upper(),),
        _lettered([found[1], found[2]]) if found else {},
        tuple(row.pictures),
        layout="parquet",
    )


def _blink_parquet(benchmark: str, number: int, row: Row) -> Question:
    texts = row.texts
    given: Any = row.values.get("choices") or []
    return Question(
        benchmark,
        texts["idx"],
        "choice",
        texts["question"],
        (texts["answer"].strip().strip("()"),),
        _lettered([str(one) for one in given]),
        tuple(row.pictures),
        category=texts["sub_task"],
        layout="parquet",
    )


def _mmmu_parquet(benchmark: str, number: int, row: Row) -> Question:
    texts = row.texts
    options = read_list(texts["options"])
    split, _, rest = texts["id"].partition("_")
    subject = rest.rpartition("_")[0]
    answer = texts["answer"].strip()
    is_open = texts.get("question_type", "") != "multiple-choice"
    return Question(
        benchmark,
        texts["id"],
        "open" if is_open else "choice",
        texts["question"],
        tuple(read_list(answer) or [answer]) if is_open else (answer,),
        {} if is_open else _lettered(options or []),
        tuple(row.pictures),
        category=subject,
        fine=domain_of(subject).replace(" and ", " & "),
        split=split,
        layout="parquet",
    )


def _realworldqa_parquet(benchmark: str, number: int, row: Row) -> Question:
    """Read a row whose question holds its options and an instruction."""
    texts = row.texts
    return Question(
        benchmark,
        str(number),
        "open",
        texts["question"].strip(),
        (texts["answer"].strip(),),
        pictures=tuple(row.pictures),
        layout="parquet",
    )


def _choice_parquet(benchmark: str, number: int, row: Row) -> Question:
    return replace(_choice(benchmark, number, row), layout="parquet")


def _mme_parquet(benchmark: str, number: int, row: Row) -> Question:
    return replace(_mme(benchmark, number, row), layout="parquet")


PARSERS: Mapping[str, tuple[Parser, Parser]] = {
    "mme-realworld-lite": (_mme, _mme_parquet),
    "realworldqa": (_choice, _realworldqa_parquet),
    "hrbench4k": (_choice, _choice_parquet),
    "hrbench8k": (_choice, _choice_parquet),
    "vstar": (_choice, _vstar_parquet),
    "mmvp": (_choice, _mmvp_parquet),
    "blink": (_choice, _blink_parquet),
    "hallusionbench": (_hallusion_tsv, _hallusion_parquet),
    "mmmu": (_choice, _mmmu_parquet),
}
"""For each benchmark the functions for TSV and Parquet."""
