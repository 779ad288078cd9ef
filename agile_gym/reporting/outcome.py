"""Outcome of a run, from the evaluations after its stages: sentences, and tables beside the paper's rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from agile_gym.errors import ConfigurationError, is_number
from agile_gym.evaluation.benchmarks import PlayedBenchmark, paper_rows, read_benchmarks
from agile_gym.evaluation.compare import LOOK_TITLES, compare_reports
from agile_gym.evaluation.contamination import BenchmarkOverlap
from agile_gym.evaluation.estimates import Estimate
from agile_gym.evaluation.metrics import AVERAGE, LOOK_FRACTIONS
from agile_gym.evaluation.report import Report, metric_title, read_report, reference_rows
from agile_gym.evaluation.run import MAX_COUNT
from agile_gym.questions.opening import BENCHMARKS
from agile_gym.transcripts.behaviours import BEHAVIOURS

__all__ = [
    "EVALUATIONS",
    "Row",
    "StageResult",
    "Table",
    "Verdict",
    "behaviour_tables",
    "behaviours_of",
    "benchmark_table",
    "look_tables",
    "overlap_table",
    "read_results",
    "result_tables",
    "verdicts",
]

EVALUATIONS = {"untrained": "untrained", "coldstart": "cold start", "grpo": "GRPO"}
"""Names of the files of results, and their titles, in the order of the stages."""
_PAPER = (
    "Random",
    "Qwen2.5-VL-7B",
    "Qwen2.5-VL-7B + cold start",
    "Qwen2.5-VL-7B + cold start + RL (AGILE)",
    "GPT-4o",
    "Gemini-2.5-Pro",
)
"""The paper's rows that are shown."""
_METRICS = ("acc", "score")
_DIFFERENCE = ("difference", "low", "high", "p")


class StageResult(NamedTuple):
    """An evaluation after a stage.

    Attributes:
        name: Name of its file, such as ``"coldstart"``.
        title: Title of the stage.
        report: The results.
        transcripts: Folder of the transcripts, which may not exist.
    """

    name: str
    title: str
    report: Report
    transcripts: Path


class Verdict(NamedTuple):
    """Effect of GRPO on a grid.

    Attributes:
        kind: ``"gain"``, ``"loss"`` or ``"unclear"``; ``"none"`` where there is nothing to compare with.
        text: A sentence or two.
    """

    kind: str
    text: str


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        label: Its name.
        cells: Text of each cell, and the interval below it or "".
    """

    label: str
    cells: list[tuple[str, str]]


class Table(NamedTuple):
    """A table of results.

    Attributes:
        caption: Its caption.
        header: Names of its columns, but that of the labels.
        rows: The run's own rows.
        paper: The paper's rows.
    """

    caption: str
    header: list[str]
    rows: list[Row]
    paper: list[Row] = []  # noqa: RUF012 -- a field of a tuple; no one changes it


def read_results(folder: Path) -> list[StageResult]:
    """Read the evaluations that are there.

    Args:
        folder: Folder of the results.

    Returns:
        The results, in the order of the stages.

    Raises:
        ConfigurationError: If one is damaged.
    """
    return [
        StageResult(name, title, _checked(read_report(path)), folder / f"{name}-transcripts")
        for name, title in EVALUATIONS.items()
        if (path := folder / f"{name}.json").exists()
    ]


def _checked(report: Report) -> Report:
    """Return a report whose summary has all values that are shown.

    Raises:
        ConfigurationError: If it does not.
    """
    try:
        for grid, columns in report.summary.items():
            values = [*_numbers_of_looks(columns[AVERAGE].get("looks"))]
            values += _numbers_of_fractions(_behaviours(columns[AVERAGE]).values())
            if grid in (report.blank_looks or {}):
                pair = (report.blank_looks or {})[grid][AVERAGE]
                values += [*Estimate(**pair["blanked"]["acc"]), *(pair["acc"][key] for key in _DIFFERENCE)]
            if not all(is_number(value, -MAX_COUNT, MAX_COUNT) for value in values):
                raise ValueError("no number where one must be")
            for name in {**columns, AVERAGE: None}:
                column = columns[name]
                values = [value for metric in _METRICS for value in Estimate(**column[metric])]
                values += [column[key] for key in ("turns", "valid", "answered", "reward", "puzzles", "photographs")]
                if not all(is_number(value, -MAX_COUNT, MAX_COUNT) for value in (*values, *column["uses"].values())):
                    raise ValueError("no number where one must be")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"The summary in {report.path} is damaged: {error!r:.200}. Evaluate again.") from error
    return report


def _numbers_of_looks(looks: Mapping[str, Any] | None) -> list[Any]:
    """Return the numbers of the figures of looks, all that are shown."""
    if looks is None:
        return []
    shown = [*looks["by_looks"].values(), *(looks[name] for name in LOOK_FRACTIONS if name in looks)]
    if not all(number.isascii() and number.isdecimal() and int(number) <= MAX_COUNT for number in looks["by_looks"]):
        raise ValueError("a number of looks that is none")
    return _numbers_of_fractions(shown)


def _numbers_of_fractions(entries: Iterable[Mapping[str, Any]]) -> list[Any]:
    values: list[Any] = []
    for entry in entries:
        if not (type(entry["count"]) is type(entry["of"]) is int and 0 <= entry["count"] <= entry["of"] <= MAX_COUNT):
            raise ValueError("a fraction that is none")
        values += [entry[key] for key in ("value", "low", "high") if entry["of"]]
    return values


def verdicts(results: Sequence[StageResult]) -> list[Verdict]:
    """Return for each grid whether GRPO has gained over the stage before it, outside of the 95% intervals.

    Args:
        results: The evaluations, in the order of the stages.

    Returns:
        One verdict a grid; none without evaluations.
    """
    if not results:
        return []
    last = results[-1]
    before = results[-2] if len(results) > 1 and last.name == "grpo" else None
    found: list[Verdict] = []
    for grid, columns in last.report.summary.items():
        column = columns[AVERAGE]
        acc = Estimate(**column["acc"])
        puzzles = f"{column['puzzles']:,} held-out puzzles ({grid})"
        if before is None or grid not in before.report.summary:
            score = Estimate(**column["score"])
            text = f"After the stage {last.title}, Acc on {puzzles} is {_value(acc)}, and Score {_value(score)}."
            found.append(Verdict("none", text))
            continue
        earlier = Estimate(**before.report.summary[grid][AVERAGE]["acc"])
        found.append(_verdict(puzzles, before, earlier, acc, _paired(before.report, last.report, grid)))
    return found


def _verdict(
    puzzles: str, before: StageResult, earlier: Estimate, acc: Estimate, paired: Mapping[str, Any] | None
) -> Verdict:
    points = 100 * (acc.value - earlier.value)
    change = "raised" if points > 0 else "lowered" if points < 0 else "did not change"
    text = f"On {puzzles}, GRPO {change} Acc: from {_value(earlier)} after the stage {before.title} to {_value(acc)}"
    difference = f"{points:+.1f} points"
    if paired is not None:
        difference += (
            f" (95% interval of the paired difference {100 * paired['low']:+.1f} to {100 * paired['high']:+.1f}, "
            f"p {_p_value(paired['p'])})"
        )
    text += f", {difference}. "
    if acc.low > earlier.high:
        return Verdict("gain", f"{text}The gain is outside of the 95% intervals: they do not overlap.")
    if acc.high < earlier.low:
        return Verdict("loss", f"{text}The loss is outside of the 95% intervals: they do not overlap.")
    what = "gain" if points > 0 else "loss" if points < 0 else "difference"
    return Verdict("unclear", f"{text}The {what} is not outside of the 95% intervals: they overlap.")


def _paired(first: Report, second: Report, grid: str) -> Mapping[str, Any] | None:
    """Return the paired difference of Acc, or None if the puzzles are not the same."""
    try:
        columns = compare_reports(first, second).get(grid)
    except ConfigurationError:
        return None
    return None if columns is None else columns[AVERAGE]["acc"]


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _value(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f}% ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def result_tables(results: Sequence[StageResult]) -> list[list[Table]]:
    """Return for each grid the tables of Acc and Score after each stage beside the paper's, and of behaviour."""
    grids = dict.fromkeys(grid for result in results for grid in result.report.summary)
    return [_grid_tables(grid, results) for grid in grids]


def _grid_tables(grid: str, results: Sequence[StageResult]) -> list[Table]:
    mine = [(result.title, result.report.summary[grid]) for result in results if grid in result.report.summary]
    names = list(dict.fromkeys(name for _, columns in mine for name in columns if name != AVERAGE))
    if len(names) != 1:  # the mean over a single level is that level
        names.append(AVERAGE)
    tables: list[Table] = []
    for metric in _METRICS:
        own = [Row(stage, [_cell(columns.get(name), metric) for name in names]) for stage, columns in mine]
        tables.append(Table(f"{grid} {metric_title(metric, grid)} (%)", names, own, _paper_rows(grid, metric, names)))
    return [*tables, _behaviour(grid, mine)]


def look_tables(results: Sequence[StageResult]) -> dict[str, Table]:
    """Return for each grid the table of looks after each stage; none where no stage records its looks.

    Args:
        results: The evaluations, in the order of the stages.
    """
    tables: dict[str, Table] = {}
    for grid in dict.fromkeys(grid for result in results for grid in result.report.summary):
        mine = [result for result in results if grid in result.report.summary]
        columns = [result.report.summary[grid][AVERAGE] for result in mine]
        looks: list[Mapping[str, Any]] = [column.get("looks") or {} for column in columns]
        if not any(looks):
            continue
        rows = [Row("Acc", [_cell(column, "acc") for column in columns])]
        if any(result.report.blank_looks for result in mine):
            pairs = [_blanked_cells((result.report.blank_looks or {}).get(grid)) for result in mine]
            rows.append(Row("Acc, looks blanked", [blanked for blanked, _ in pairs]))
            rows.append(Row("difference", [difference for _, difference in pairs]))
        for name, label in LOOK_TITLES.items():
            if any(name in entry for entry in looks):
                rows.append(Row(label, [_fraction_cell(entry.get(name)) for entry in looks]))
        tables[grid] = Table(f"{grid}: looks (%)", [result.title for result in mine], rows)
    return tables


def behaviour_tables(results: Sequence[StageResult]) -> dict[str, Table]:
    """Return for each grid the table of behaviours after each stage; none where no stage records any.

    Args:
        results: The evaluations, in the order of the stages.
    """
    tables: dict[str, Table] = {}
    for grid, mine in behaviours_of(results).items():
        rows = [
            Row(label, [_fraction_cell(found.get(name)) for found in mine.values()])
            for name, label in BEHAVIOURS.items()
            if any(name in found for found in mine.values())
        ]
        tables[grid] = Table(f"{grid}: episodes that ... (%)", list(mine), rows)
    return tables


def behaviours_of(results: Sequence[StageResult]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Return for each grid with behaviours, by the title of each stage, the fractions over all levels."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for grid in dict.fromkeys(grid for result in results for grid in result.report.summary):
        mine: dict[str, Mapping[str, Any]] = {
            result.title: _behaviours(result.report.summary[grid][AVERAGE])
            for result in results
            if grid in result.report.summary
        }
        if any(mine.values()):
            found[grid] = mine
    return found


def _behaviours(column: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the fractions of a column by behaviour; none where they are not recorded, or cannot be seen."""
    found: Mapping[str, Mapping[str, Any]] = column.get("behaviours") or {}
    return {name: entry for name, entry in found.items() if name in BEHAVIOURS}


def overlap_table(overlaps: Mapping[str, BenchmarkOverlap]) -> Table:
    """Return the table of training images among the pictures of benchmarks."""
    rows = [
        Row(BENCHMARKS[key].title, [(f"{count:,}", "") for count in (one.found, one.pictures, len(one.affected))])
        for key, one in overlaps.items()
    ]
    total = next((one.training_images for one in overlaps.values()), 0)
    header = ["training images in it", "its pictures", "questions that show one"]
    return Table(f"Of the {total:,} training images", header, rows)


def benchmark_table(folder: Path) -> Table | None:
    """Return the table of benchmarks after each stage, beside the paper's rows; None where none was played.

    Args:
        folder: Folder of the scores.

    Raises:
        ConfigurationError: If a file of them is damaged.
    """
    found = {
        title: read_benchmarks(folder / f"{name}.json")
        for name, title in EVALUATIONS.items()
        if (folder / f"{name}.json").exists()
    }
    keys = [key for key in BENCHMARKS if any(key in played for played in found.values())]
    if not keys:
        return None
    rows: list[Row] = []
    for title, played in found.items():
        cells = [_benchmark_cell(played.get(key)) for key in keys]
        figures = [played[key].figure for key in keys if key in played]
        rows.append(
            Row(title, [*cells, (f"{100 * fmean(figures):.1f}" if len(figures) == len(keys) else "\u2013", "")])
        )
    titles = [BENCHMARKS[key].title for key in keys]
    paper = [Row(model, [(f"{values[title]:.1f}", "") for title in titles]) for model, values in paper_rows().items()]
    for row in paper:
        row.cells.append((f"{fmean(float(cell) for cell, _ in row.cells):.1f}", ""))
    return Table("Benchmarks (%)", [*titles, "mean"], rows, paper)


_NO_CELL = ("\u2013", "")


def _blanked_cells(columns: Mapping[str, Any] | None) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the cells of Acc with blanked looks, and of what looks add to it."""
    if columns is None:
        return _NO_CELL, _NO_CELL
    difference, low, high, p = (columns[AVERAGE]["acc"][key] for key in _DIFFERENCE)
    interval = f"{100 * low:+.1f} to {100 * high:+.1f}, p {_p_value(p)}"
    return _cell(columns[AVERAGE]["blanked"], "acc"), (f"{100 * difference:+.1f}", interval)


def _benchmark_cell(played: PlayedBenchmark | None) -> tuple[str, str]:
    """Return the figure of a benchmark; below it, the interval of questions right, and their number if not all."""
    if played is None:
        return _NO_CELL
    low, high = 100 * played.accuracy.low, 100 * played.accuracy.high
    part = "" if played.asked == played.expected else f", {played.asked:,} of {played.expected:,} questions"
    return f"{100 * played.figure:.1f}", f"{low:.1f} to {high:.1f}{part}"


def _fraction_cell(entry: Mapping[str, Any] | None) -> tuple[str, str]:
    if entry is None or not entry["of"]:
        return _NO_CELL
    interval = f"{100 * entry['low']:.1f} to {100 * entry['high']:.1f}"
    return f"{100 * entry['value']:.1f}", f"{interval} of {entry['of']:,}"


def _cell(column: Mapping[str, Any] | None, metric: str) -> tuple[str, str]:
    if column is None:
        return "\u2013", ""
    value = Estimate(**column[metric])
    return f"{100 * value.value:.1f}", f"{100 * value.low:.1f} to {100 * value.high:.1f}"


def _paper_rows(grid: str, metric: str, names: Sequence[str]) -> list[Row]:
    """Return the paper's rows; their averages are over the same levels as one's own."""
    rows: list[Row] = []
    for row in reference_rows(grid, metric):
        paper = {f"L{level}": value for level, value in enumerate(row.levels)}
        known = [paper[name] for name in names if name in paper]
        if row.model not in _PAPER or not known:
            continue
        paper[AVERAGE] = row.average if len(known) == len(row.levels) else fmean(known)
        rows.append(Row(row.model, [(f"{paper[name]:.1f}" if name in paper else "\u2013", "") for name in names]))
    return rows


def _behaviour(grid: str, mine: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """Return the table of the model's behaviour after each stage."""
    columns = [every[AVERAGE] for _, every in mine]
    rows: list[tuple[str, list[str]]] = [
        ("turns an episode", [f"{column['turns']:.2f}" for column in columns]),
        ("valid turns (%)", [f"{100 * column['valid']:.1f}" for column in columns]),
        ("episodes with an answer (%)", [f"{100 * column['answered']:.1f}" for column in columns]),
        ("reward", [f"{column['reward']:.3f}" for column in columns]),
    ]
    for action in sorted({name for column in columns for name in column["uses"]}):
        rows.append((f"{action} an episode", [f"{column['uses'].get(action, 0):.2f}" for column in columns]))
    rows.append(("puzzles", [f"{column['puzzles']:,}" for column in columns]))
    rows.append(("photographs", [f"{column['photographs']:,}" for column in columns]))
    body = [Row(label, [(cell, "") for cell in cells]) for label, cells in rows]
    return Table(f"{grid}: what the model did", [title for title, _ in mine], body)
