"""Results of a study's runs, put together: ``study.json``, tables, charts and findings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from agile_gym.errors import ConfigurationError
from agile_gym.evaluation.estimates import Estimate
from agile_gym.evaluation.report import EpisodeRow, read_report
from agile_gym.files import write_text
from agile_gym.reporting.charts import Chart, draw_values
from agile_gym.reporting.outcome import Row, Table
from agile_gym.studies.arm import evaluation_path
from agile_gym.studies.arms import Arm, Run
from agile_gym.studies.findings import (
    Finding,
    Played,
    describe_difference,
    describe_trend,
    difference,
    mean,
    points,
    trend,
)
from agile_gym.studies.spec import Factor, Study

__all__ = ["Results", "collect", "put_together", "study_json", "write_json"]

SCHEMA = 1
Key = tuple[str, int, int, int]
Outcomes = Mapping[str, Mapping[int, Mapping[str, Mapping[Key, tuple[float, str]]]]]
"""By arm, seed and metric (``"acc"``, ``"score"``): for each puzzle its value and its photograph."""


@dataclass(frozen=True)
class Results:
    """Results of one evaluation.

    Attributes:
        name: Name of the evaluation.
        acc: Puzzles solved, by arm.
        score: Pieces right, by arm.
        differences: Acc less that of the reference, by arm, all together with 95%; none of the reference itself.
        findings: The sentences.
    """

    name: str
    acc: Mapping[str, Played]
    score: Mapping[str, Played]
    differences: Mapping[str, Estimate]
    findings: list[Finding] = field(default_factory=list[Finding])


def collect(folder: Path, study: Study, runs: Sequence[Run]) -> list[Outcomes]:
    """Read the evaluations that are there.

    Args:
        folder: The study's folder.
        study: The study.
        runs: Its runs.

    Returns:
        The outcomes of each evaluation.

    Raises:
        ConfigurationError: If a file is damaged.
    """
    found: list[Outcomes] = []
    for place in range(len(study.evaluations)):
        arms: dict[str, dict[int, dict[str, dict[Key, tuple[float, str]]]]] = {}
        for run in runs:
            path = evaluation_path(folder, run.name, place)
            if run.arm is not None and path.exists():
                rows = read_report(path).rows
                arms.setdefault(run.arm, {})[run.seed] = {
                    "acc": {_key(row): (float(row.solved), row.image_id) for row in rows},
                    "score": {_key(row): (float(row.score), row.image_id) for row in rows},
                }
        found.append(arms)
    return found


def _key(row: EpisodeRow) -> Key:
    return row.grid, row.level, row.episode, row.sample


def put_together(study: Study, arms: Sequence[Arm], outcomes: Sequence[Outcomes]) -> list[Results]:
    """Compute estimates, differences and findings of each evaluation.

    Args:
        study: The study.
        arms: Its arms.
        outcomes: The outcomes of each evaluation; arms and seeds may be missing.

    Raises:
        ConfigurationError: If arms have not played the same puzzles.
    """
    reference = study.reference or arms[0].name
    found: list[Results] = []
    for entry, outcome in zip(study.evaluations, outcomes, strict=True):
        played = {metric: _played(entry.name, outcome, arms, metric) for metric in ("acc", "score")}
        acc = played["acc"]
        others = [arm.name for arm in arms if arm.name in acc and arm.name != reference]
        differences: dict[str, Estimate] = {}
        for name in others if reference in acc else ():
            estimate = difference(acc[name], acc[reference], len(others))
            if estimate is not None:
                differences[name] = estimate
        results = Results(entry.name, acc, played["score"], differences)
        lines = _lines(study, arms, acc)
        for line in lines:
            results.findings.extend(_trend(study, entry.name, line, acc, len(lines)))
        if not lines:
            for name, estimate in differences.items():
                text = describe_difference(entry.name, name, reference, estimate, _paper(study, name, reference))
                results.findings.append(text)
        found.append(results)
    return found


def _played(evaluation: str, outcome: Outcomes, arms: Sequence[Arm], metric: str) -> dict[str, Played]:
    keys: list[Key] | None = None
    clusters: tuple[str, ...] = ()
    found: dict[str, Played] = {}
    for arm in arms:
        by_seed = outcome.get(arm.name, {})
        rows: list[list[float]] = []
        for seed in by_seed:
            values = by_seed[seed][metric]
            if keys is None:
                keys = sorted(values)
                clusters = tuple(values[key][1] for key in keys)
            if sorted(values) != keys or tuple(values[key][1] for key in keys) != clusters:
                raise ConfigurationError(
                    f"{evaluation}: {arm.name}, seed {seed}, has played other puzzles than the arms before it. Give "
                    "all arms the same [images] test, and settings of puzzles that do not change them."
                )
            rows.append([values[key][0] for key in keys])
        if rows:
            found[arm.name] = Played(tuple(by_seed), np.array(rows, np.float64), clusters)
    return found


class _Line(NamedTuple):
    """Arms along an ordered factor, the values of the other factors being the same."""

    factor: Factor
    others: str
    arms: dict[str, str]


def _lines(study: Study, arms: Sequence[Arm], acc: Mapping[str, Played]) -> list[_Line]:
    """Return the arms along each ordered factor, by its value: one line for each mix of the other values."""
    found: list[_Line] = []
    for factor in study.factors:
        if not factor.ordered or study.design != "grid":
            continue
        lines: dict[str, dict[str, str]] = {}
        for arm in arms:
            others = ", ".join(value for name, value in arm.values.items() if name != factor.name)
            if arm.name in acc:
                lines.setdefault(others, {})[arm.values[factor.name]] = arm.name
        found += [_Line(factor, others, line) for others, line in lines.items() if len(line) > 1]
    return found


def _trend(study: Study, evaluation: str, line: _Line, acc: Mapping[str, Played], comparisons: int) -> list[Finding]:
    values = list(line.arms)
    played = [acc[name] for name in line.arms.values()]
    estimate = trend(played, comparisons)
    if estimate is None:
        return []
    accs = mean(played[0]).value, mean(played[-1]).value
    title = line.factor.title + (f" ({line.others})" if line.others else "")
    paper = _paper(study, line.arms[values[-1]], line.arms[values[0]])
    return [describe_trend(evaluation, title, (values[0], values[-1]), accs, estimate, paper)]


def _paper(study: Study, arm: str, reference: str) -> str:
    if not {arm, reference} <= study.paper.keys():
        return ""
    change = study.paper[arm] - study.paper[reference]
    word = "more" if change > 0 else "less"
    size = "no difference" if not round(change, 1) else f"{abs(change):.1f} {word}"
    return f"the paper has {size}, in {study.paper_figure}" if study.paper_figure else f"the paper has {size}"


def tables(study: Study, arms: Sequence[Arm], results: Results) -> Table:
    """Return the table of an evaluation: a row for each arm."""
    reference = study.reference or arms[0].name
    header = ["Acc", "Score", f"Acc less {reference}", *(f"seed {seed}" for seed in study.seeds)]
    if study.paper:
        header.append("the paper")
    rows: list[Row] = []
    for arm in arms:
        acc = results.acc.get(arm.name)
        cells: list[tuple[str, str]] = []
        for played in (acc, results.score.get(arm.name)):
            cells.append(("", "") if played is None else _percent(mean(played)))
        found = results.differences.get(arm.name)
        cells.append(("", "") if found is None else _signed(found))
        by_seed = {} if acc is None else dict(zip(acc.seeds, acc.values.mean(axis=1), strict=True))
        cells += [(f"{100 * by_seed[seed]:.1f}%" if seed in by_seed else "missing", "") for seed in study.seeds]
        if study.paper:
            cells.append((f"{study.paper[arm.name]:g}" if arm.name in study.paper else "", ""))
        rows.append(Row(arm.name, cells))
    puzzles = max((len(played.clusters) for played in results.acc.values()), default=0)
    photographs = max((len(set(played.clusters)) for played in results.acc.values()), default=0)
    caption = f"{results.name}: {puzzles:,} held-out puzzles of {photographs:,} photographs"
    if study.paper and study.paper_figure:
        caption += f"; the paper: {study.paper_figure}"
    return Table(caption, header, rows)


def _percent(found: Estimate) -> tuple[str, str]:
    return f"{100 * found.value:.1f}%", f"{100 * found.low:.1f} to {100 * found.high:.1f}"


def _signed(found: Estimate) -> tuple[str, str]:
    value, interval = points(found).split(" points, ")
    return value, interval


def chart(study: Study, arms: Sequence[Arm], results: Results) -> Chart | None:
    """Draw Acc of an evaluation: over the values of the first ordered factor, or arm below arm."""
    if not results.acc:
        return None
    title = f"Acc: {results.name}"
    lines = _lines(study, arms, results.acc)
    if lines:
        factor = lines[0].factor
        series = {
            line.others or factor.title: {value: mean(results.acc[name]) for value, name in line.arms.items()}
            for line in lines
            if line.factor is factor
        }
        return draw_values(title, series, ordered=True, across=factor.title)
    named = {arm.name: mean(results.acc[arm.name]) for arm in arms if arm.name in results.acc}
    return draw_values(title, {"Acc": named}, ordered=False)


def study_json(study: Study, arms: Sequence[Arm], results: Sequence[Results], missing: Sequence[str]) -> dict[str, Any]:
    """Return what ``study.json`` holds.

    Args:
        study: The study.
        arms: Its arms.
        results: The results of each evaluation.
        missing: Runs that are not finished.
    """
    evaluations: list[dict[str, Any]] = []
    for one in results:
        entries: dict[str, Any] = {}
        for arm in arms:
            if arm.name not in one.acc:
                continue
            acc, score = one.acc[arm.name], one.score[arm.name]
            found = one.differences.get(arm.name)
            entries[arm.name] = {
                "acc": mean(acc)._asdict(),
                "score": mean(score)._asdict(),
                "seeds": {
                    str(seed): {"acc": fmean(acc.values[row]), "score": fmean(score.values[row])}
                    for row, seed in enumerate(acc.seeds)
                },
                "puzzles": len(acc.clusters),
                "difference": None if found is None else found._asdict(),
            }
        found_texts = [vars(finding) for finding in one.findings]
        evaluations.append({"name": one.name, "arms": entries, "findings": found_texts})
    return {
        "kind": "agile_gym.study",
        "schema": SCHEMA,
        "name": study.name,
        "title": study.title,
        "design": study.design,
        "reference": study.reference or arms[0].name,
        "seeds": list(study.seeds),
        "arms": [{"name": arm.name, "values": arm.values, "changes": arm.changes["grpo"]} for arm in arms],
        "paper": {"figure": study.paper_figure, "arms": study.paper},
        "evaluations": evaluations,
        "missing": list(missing),
    }


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write ``study.json``."""
    with write_text(path) as file:
        file.write(json.dumps(values, indent=2, default=str) + "\n")
