"""Aggregates of the benchmarks, from questions and the replies' hits: pure functions, each after its benchmark's code.

A table is a nested mapping with fractions of 1, but for HallusionBench, whose figures are percentages there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from agile_gym.errors import ConfigurationError

__all__ = [
    "Scored",
    "blink_group",
    "categories",
    "cycles",
    "hallusion",
    "mean",
    "mme_realworld_tree",
    "mmmu_official",
    "pairs",
    "splits",
    "three_means",
]


class Scored(NamedTuple):
    """A question that was answered.

    Attributes:
        id: Its id within the benchmark.
        right: True if the answer is right.
        category: Its category.
        fine: Its finer or coarser second category, as the benchmark has it (``l2-category``).
        split: Its split; empty where the file has none.
        facts: Further facts by name: ``cycle``, ``set``, ``figure``, ``number``, ``visual``, ``unclear``.
        question: Its text.
    """

    id: str
    right: bool
    category: str = ""
    fine: str = ""
    split: str = ""
    facts: Mapping[str, str] = {}
    question: str = ""


def mean(rows: Sequence[Scored]) -> float:
    """Return the fraction of questions that are right; 0 for none."""
    return fmean(row.right for row in rows) if rows else 0.0


def groups(rows: Sequence[Scored], key: Callable[[Scored], Hashable]) -> dict[Any, list[Scored]]:
    """Sort rows by a key, in the order of their first appearance."""
    found: dict[Any, list[Scored]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return dict(found)


def categories(rows: Sequence[Scored]) -> dict[str, float]:
    """Return the means ``Overall``, by second category and by category: VLMEvalKit's table of multiple choice."""
    table = {"Overall": mean(rows)}
    for key in (_fine, _category):
        table |= {name: mean(part) for name, part in sorted(groups(rows, key).items()) if name}
    return table


def splits(rows: Sequence[Scored]) -> dict[str, dict[str, float]]:
    """Return the table of `categories` for each split; without one it is called ``none``."""
    return {name or "none": categories(part) for name, part in sorted(groups(rows, lambda row: row.split).items())}


def blink_group(rows: Sequence[Scored]) -> float:
    """Return the mean of the means of the categories, each with equal weight, as lmms-eval has it for BLINK."""
    return fmean(mean(part) for part in groups(rows, lambda row: row.category).values())


def cycles(rows: Sequence[Scored], *, divide_by_all: bool = True) -> dict[str, dict[str, float]]:
    """Return the means of each cycle of HR-Bench, ``all`` and by category, and their ``Average`` over cycles.

    Args:
        rows: The questions.
        divide_by_all: True for a category's average over all cycles, even those that lack it (VLMEvalKit); False for
            one over the cycles that have it (lmms-eval).
    """
    table = {
        name: {"all": mean(part)} | {kind: mean(some) for kind, some in sorted(groups(part, _category).items())}
        for name, part in sorted(groups(rows, lambda row: row.facts["cycle"]).items())
    }
    names = {name for column in table.values() for name in column}
    shown = {name: [column[name] for column in table.values() if name in column] for name in sorted(names)}
    average = {name: sum(values) / (len(table) if divide_by_all else len(values)) for name, values in shown.items()}
    return table | {"Average": average}


def _category(row: Scored) -> str:
    return row.category


def _fine(row: Scored) -> str:
    return row.fine


def pairs(rows: Sequence[Scored], *, strict: bool = True) -> dict[str, float]:
    """Return MMVP's means: ``Average`` of questions and ``Overall`` of pairs, both of which must be right.

    Args:
        rows: The questions; their ids are numbers, and two that follow one another are a pair.
        strict: True to refuse a question whose other half is missing; False to leave it out of the pairs.

    Raises:
        ConfigurationError: If a pair is not complete, or has two different questions.
    """
    ordered = sorted(rows, key=lambda row: int(row.id))
    if not strict:
        first = 0 if ordered and int(ordered[0].id) == 0 else 1
        parts = [part for part in groups(ordered, lambda row: (int(row.id) - first) // 2).values() if len(part) == 2]
    else:
        parts = [ordered[at : at + 2] for at in range(0, len(ordered), 2)]
        for part in parts:
            if len(part) < 2 or part[0].question != part[1].question:
                raise ConfigurationError(
                    f"MMVP: the question {part[0].id} has no second half, so that pairs cannot be scored. Give a file "
                    "with both questions of each pair."
                )
    return {"Average": mean(rows), "Overall": fmean(all(row.right for row in part) for part in parts) if parts else 0.0}


TEXT_ONLY_FIGURE = "0"


def hallusion(rows: Sequence[Scored], *, text_only: bool = False) -> dict[str, dict[str, float]]:
    """Return aAcc, fAcc and qAcc of HallusionBench in percent: ``Overall``, by category and by second category.

    Args:
        rows: The questions.
        text_only: True to score questions without an image by their own rule: those of VS with figure 0 are right when
            unclear, and are left out of fAcc.
    """
    table = {"Overall": _three(rows, text_only=text_only)}
    for key in (_category, _fine):
        table |= {name: _three(part, text_only=text_only) for name, part in groups(rows, key).items() if name}
    return table


def _three(rows: Sequence[Scored], *, text_only: bool) -> dict[str, float]:
    def imageless(row: Scored) -> bool:
        return text_only and row.category == "VS" and row.facts["figure"] == TEXT_ONLY_FIGURE

    judged = [row._replace(right=row.right or (imageless(row) and row.facts.get("unclear") == "1")) for row in rows]
    figures = groups(
        [row for row in judged if not imageless(row)], lambda row: (row.fine, row.facts["set"], row.facts["figure"])
    )
    questions = groups(judged, lambda row: (row.fine, row.facts["set"], row.facts["number"]))
    return {
        "aAcc": 100 * mean(judged),
        "fAcc": 100 * _all_right(figures),
        "qAcc": 100 * _all_right(questions),
    }


def _all_right(parts: Mapping[Any, Sequence[Scored]]) -> float:
    return fmean(all(row.right for row in part) for part in parts.values()) if parts else 0.0


def three_means(table: Mapping[str, Mapping[str, float]]) -> float:
    """Return the mean of aAcc, fAcc and qAcc over all questions: the one figure of HallusionBench in tables."""
    return fmean(table["Overall"].values())


TASKS = ("Reasoning", "Perception")
SCENES = ("Monitoring", "Autonomous_Driving", "OCR with Complex Context", "Diagram and Table", "Remote Sensing")


def mme_realworld_tree(rows: Sequence[Scored]) -> dict[str, Any]:
    """Return the means of MME-RealWorld by task, scene and second category, with ``Avg`` of each and ``Overall``."""
    table: dict[str, Any] = {"Overall": mean(rows)}
    for task in TASKS:
        inside = [row for row in rows if row.category.partition("/")[0] == task]
        table[task] = {}
        for scene in SCENES:
            part = [row for row in inside if row.category.partition("/")[2] == scene]
            fine = groups(part, lambda row: _merged(row.fine))
            table[task][scene] = {name: mean(some) for name, some in fine.items()} | {"Avg": mean(part) if part else 0}
        table[task]["Avg"] = mean(inside)
    return table


def _merged(fine: str) -> str:
    """Return a second category in lower case, with those of attributes merged."""
    fine = fine.lower()
    return f"{fine.partition('/')[0]}/attribute" if "attribute" in fine else fine


DOMAINS: Mapping[str, tuple[str, ...]] = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
"""Subjects of MMMU by domain."""


def domain_of(subject: str) -> str:
    """Return the domain of a subject of MMMU; empty for an unknown one."""
    return next((domain for domain, subjects in DOMAINS.items() if subject in subjects), "")


def mmmu_official(rows: Sequence[Scored]) -> dict[str, float]:
    """Return MMMU's own table: means by domain (``Overall-...``), by subject, and ``Overall``."""
    table: dict[str, float] = {}
    for domain, subjects in DOMAINS.items():
        inside = [row for row in rows if row.category in subjects]
        if inside:
            table[f"Overall-{domain}"] = mean(inside)
            table |= {name: mean(part) for name, part in sorted(groups(inside, _category).items())}
    return table | {"Overall": mean(rows)}
