"""Results of an evaluation: their file, for later runs to be compared with, and their tables beside the paper."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple, cast

from agile_gym.errors import ConfigurationError, did_you_mean, is_number, printable, reason_of
from agile_gym.evaluation.estimates import Estimate
from agile_gym.evaluation.metrics import summarize, summarize_cost
from agile_gym.evaluation.plan import PuzzleKey, grid_name, names_result, pieces_of
from agile_gym.evaluation.run import MAX_COUNT, EpisodeResult
from agile_gym.files import write_text

__all__ = [
    "INTERVALS",
    "REFERENCE_GRIDS",
    "REPORT_SCHEMA",
    "EpisodeRow",
    "Figures",
    "Interval",
    "ReferenceRow",
    "Report",
    "format_cost",
    "format_tables",
    "grid_lines",
    "is_report",
    "metric_title",
    "read_report",
    "reference_rows",
    "short_name",
    "write_report",
]

KIND = "agile_gym.evaluation"
REPORT_SCHEMA = 1
"""Version of the file's layout."""
MAX_FILE = 128 * 1024 * 1024
"""Largest size of a file that is read, in bytes: some millions of episodes."""


class EpisodeRow(NamedTuple):
    """An episode as a report holds it.

    Attributes:
        grid: Such as ``"3x3"``.
        level: Number of pieces that started in their place.
        episode: Number of the puzzle within grid and level.
        sample: Number of times that the puzzle was played before.
        seed: Seed of the environment.
        image_id: SHA-256 of the photograph.
        solved: True if every piece was right.
        score: Fraction of pieces right, 0 to 1.
        label: Of another environment than the jigsaw, the label of the episode; None for a jigsaw.
    """

    grid: str
    level: int
    episode: int
    sample: int
    seed: int
    image_id: str
    solved: bool
    score: float
    label: str | None = None

    @property
    def key(self) -> PuzzleKey:
        """Its name within the plan."""
        return self.grid, self.level, self.episode, self.sample


class Figures(NamedTuple):
    """Figures of a report over all episodes.

    Attributes:
        summary: Result of `summarize`.
        cost: Result of `summarize_cost`.
    """

    summary: dict[str, dict[str, Any]]
    cost: dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Report:
    """A file of results.

    Attributes:
        path: Path of the file.
        plan: The settings, see `EvaluationPlan.to_json`.
        summary: Result of `summarize`.
        rows: One an episode, in the order of grid, level, episode and sample.
        blank_looks: Result of `compare_blanked`, if the puzzles were also played with blanked looks.
    """

    path: Path
    plan: Mapping[str, Any]
    summary: Mapping[str, Mapping[str, Any]]
    rows: tuple[EpisodeRow, ...]
    blank_looks: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def policy(self) -> str:
        """Name of the policy."""
        return str(self.plan["policy"])


def write_report(
    path: Path,
    results: Iterable[EpisodeResult],
    *,
    plan: Mapping[str, Any],
    photographs: Mapping[str, Any],
    overlap: Mapping[str, Any] | None = None,
    blank_looks: Mapping[str, Any] | None = None,
) -> Figures:
    """Write a file of results: all of it, or nothing.

    Args:
        path: The file.
        results: Every episode.
        plan: The settings, in JSON's types.
        photographs: Identity of the photographs, see `PreparedPlan.photographs`.
        overlap: Result of `Overlap.to_json`, or a `BenchmarkOverlap` in JSON's types, if training images were given.
        blank_looks: Result of `compare_blanked`, if the puzzles were also played with blanked looks.

    Returns:
        The figures that it holds.

    Raises:
        OSError: If it cannot be written.
    """
    from agile_gym import __version__

    ordered = sorted(results, key=lambda result: result.key)
    figures = Figures(summarize(ordered), summarize_cost(ordered))
    images = {name: index for index, name in enumerate(sorted({result.image_id for result in ordered}))}
    labelled = any(result.label is not None for result in ordered)
    columns = [name if name != "image_id" else "image" for name in EpisodeRow._fields if name != "label" or labelled]
    head = {
        "kind": KIND,
        "schema": REPORT_SCHEMA,
        "agile_gym": __version__,
        "plan": plan,
        "photographs": photographs,
        "episodes": len(ordered),
        "summary": figures.summary,
        "cost": figures.cost,
        "training_overlap": overlap,
        "blank_looks": blank_looks,
        "images": list(images),
        "columns": columns,
    }
    lines = [
        json.dumps(
            [
                *(*result.key, result.seed, images[result.image_id], result.solved, result.score),
                *([] if result.label is None else [result.label]),
            ]
        )
        for result in ordered
    ]
    body = ",\n    ".join(lines)
    text = f'{json.dumps(head, indent=2)[:-2]},\n  "rows": [\n    {body}\n  ]\n}}\n'
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_text(path) as file:
        file.write(text)
    return figures


def is_report(head: bytes) -> bool:
    """Return whether a file that begins so is one of results, of whatever version."""
    return head.startswith(b"{") and f'"kind":"{KIND}"'.encode() in head.replace(b" ", b"")


def read_report(path: Path) -> Report:
    """Read a file of results.

    Args:
        path: The file.

    Returns:
        The report.

    Raises:
        ConfigurationError: If it is no file of results, or one of another version.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {reason_of(error)}. Give the .json file of agile-gym eval."
        ) from error
    if len(data) > MAX_FILE:
        raise ConfigurationError(
            f"{path} has more than {MAX_FILE:,} bytes, which no results of agile-gym eval have. Give their .json file."
        )
    try:
        values: Any = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not JSON: {error}. Give the .json file of agile-gym eval.") from error
    report = cast("dict[str, Any]", values)
    if not isinstance(values, dict) or report.get("kind") != KIND:
        raise ConfigurationError(
            f"{path} does not hold the results of this version's agile-gym eval. Give the .json file that it wrote, or "
            "evaluate again."
        )
    if report.get("schema") != REPORT_SCHEMA:
        raise ConfigurationError(
            f"{path} has the schema {report.get('schema')!r:.80}; this version of agile_gym reads {REPORT_SCHEMA}. "
            "Evaluate again, or use the version that wrote it."
        )
    try:
        plan, summary, blanked = report["plan"], report["summary"], report.get("blank_looks")
        images: list[Any] = report["images"]
        if not isinstance(plan, dict) or not isinstance(plan["policy"], str):
            raise ValueError("the plan is not what eval writes")
        if not isinstance(summary, dict) or not isinstance(images, list) or not isinstance(blanked, dict | None):
            raise ValueError("the summary, the images, or the blanked looks are not what eval writes")
        rows = tuple(_row(row, images) for row in report["rows"])
        return Report(path, cast("dict[str, Any]", plan), cast("dict[str, Any]", summary), rows, cast("Any", blanked))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{path} is damaged: {error!r:.200}. Evaluate again.") from error


def _row(row: Any, images: list[Any]) -> EpisodeRow:  # noqa: ANN401 -- JSON
    """Check and return a row.

    Raises:
        ValueError: If a value is none that `write_report` writes; other errors, too, where a type is another.
    """
    grid, level, episode, sample, seed, image, solved, score, *rest = row
    (label,) = rest or (None,)
    counts = (level, episode, sample, seed, image)
    if not all(type(count) is int and 0 <= count <= MAX_COUNT for count in counts) or not is_number(score, 0, 1):
        raise ValueError(f"a row with a number that no episode has: {row!r:.150}")
    if not isinstance(images[image], str) or not isinstance(solved, bool):
        raise ValueError(f"a row that no episode has: {row!r:.150}")
    if not names_result(grid, label) or (label is None and (bool(rest) or grid_name(grid) != grid)):
        raise ValueError(f"a row that no episode has: {row!r:.150}")
    return EpisodeRow(grid, level, episode, sample, seed, images[image], solved, score, label)


REFERENCE_GRIDS = ("2x2", "3x3")
"""Grids that the paper reports."""


class ReferenceRow(NamedTuple):
    """A model's row of one of the paper's tables.

    Attributes:
        model: Name of the model, as in the paper.
        levels: Percentage at each level, from L0 on.
        average: Mean percentage over the levels, as printed.
    """

    model: str
    levels: tuple[float, ...]
    average: float


@lru_cache
def reference_rows(grid: str, metric: str) -> tuple[ReferenceRow, ...]:
    """Return the paper's rows for a grid.

    Args:
        grid: Such as ``"2x2"``.
        metric: ``"acc"`` or ``"score"``.

    Returns:
        The rows, in the paper's order; none for a grid that it does not report.
    """
    text = files("agile_gym.evaluation").joinpath("reference_results.csv").read_text(encoding="utf-8")
    rows: list[ReferenceRow] = []
    for row in csv.DictReader(text.splitlines()):
        levels = [float(value) for key, value in row.items() if key.startswith(f"{grid}_L")]
        if row["metric"] == metric and levels:
            rows.append(ReferenceRow(row["model"], tuple(levels), float(row[f"{grid}_avg"])))
    return tuple(rows)


Interval = Literal["puzzle", "photograph"]
INTERVALS: tuple[Interval, ...] = ("puzzle", "photograph")
"""Units that the intervals are taken over."""
FEW_PHOTOGRAPHS = 30
MAX_NAME = 46
"""Longest name of a policy in a table, in characters: about as long as the paper's."""

_METRICS = (
    ("acc", "Acc: puzzles with every piece right", "Acc: episodes solved"),
    ("score", "Score: pieces right", "Score: mean score"),
)
"""Title of each metric, for the jigsaw and for other environments."""


def metric_title(metric: str, grid: str) -> str:
    """Return the title of a metric in a table of a grid, or of another environment."""
    return next(titles[0 if pieces_of(grid) else 1] for name, *titles in _METRICS if name == metric)


def format_tables(summary: Mapping[str, Mapping[str, Any]], policy: str, *, interval: Interval = "puzzle") -> str:
    """Write the tables: one's own rows, with their intervals below, the paper's rows, and the policy's behaviour.

    The averages of the paper's rows are over the same levels as one's own.

    Args:
        summary: Result of `agile_gym.evaluation.summarize`.
        policy: Name of the policy.
        interval: Unit that the 95% intervals are over, one of `INTERVALS`.

    Returns:
        Plain text, at most four tables a grid. It depends on the arguments alone.

    Raises:
        ConfigurationError: If ``interval`` is not known.
    """
    if interval not in INTERVALS:
        raise ConfigurationError(f"interval={interval!r} is not known. {did_you_mean(interval, INTERVALS)}")
    parts, policy = list[str](), short_name(policy)
    for grid, columns in summary.items():
        names = list(columns)
        for metric in ("acc", "score"):
            key = metric if interval == "puzzle" else f"{metric}_by_photograph"
            rows = _estimate_rows(policy, [columns[name][key] for name in names])
            rows.append(["  puzzles", *(str(columns[name]["puzzles"]) for name in names)])
            for row in reference_rows(grid, metric):
                paper = {f"L{level}": value for level, value in enumerate(row.levels)}
                shown = [paper[name] for name in names if name in paper]
                paper["avg"] = row.average if len(shown) == len(paper) else fmean(shown)
                rows.append([f"paper: {row.model}", *(f"{paper[name]:.1f}" for name in names)])
            parts.append(f"{grid} {metric_title(metric, grid)} (%)\n{grid_lines(['', *names], rows)}")
        if any(columns[name]["pass"] for name in names):
            parts.append(f"{grid} pass@k: puzzles solved by one of k samples (%)\n{_pass_table(columns)}")
        parts.append(f"{grid} What the policy did\n{_behaviour_table(columns)}")
    parts.append(_interval_note(summary, interval))
    return "\n\n".join(parts)


def short_name(policy: str) -> str:
    """Return the end of a long name, such as a model's path, which identifies it best."""
    policy = printable(policy)
    return policy if len(policy) <= MAX_NAME else f"...{policy[3 - MAX_NAME :]}"


def _estimate_rows(title: str, estimates: Iterable[Mapping[str, float]]) -> list[list[str]]:
    given = [Estimate(**estimate) for estimate in estimates]
    return [
        [title, *(f"{100 * estimate.value:.1f}" for estimate in given)],
        ["  95% interval, from", *(f"{100 * estimate.low:.1f}" for estimate in given)],
        ["  to", *(f"{100 * estimate.high:.1f}" for estimate in given)],
    ]


def _pass_table(columns: Mapping[str, Any]) -> str:
    names = list(columns)
    rows: list[list[str]] = []
    for k in columns[names[0]]["pass"]:
        rows += _estimate_rows(f"pass@{k}", [columns[name]["pass"][k] for name in names])
    return grid_lines(["", *names], rows)


def _behaviour_table(columns: Mapping[str, Any]) -> str:
    names = list(columns)
    everything = columns[names[-1]]
    rows = [["turns an episode", *(f"{columns[name]['turns']:.2f}" for name in names)]]
    for number in sorted(everything["turn_counts"], key=int):
        counts = [columns[name]["turn_counts"].get(number, 0) / columns[name]["episodes"] for name in names]
        rows.append([f"  episodes of {number} (%)", *(f"{100 * share:.1f}" for share in counts)])
    rows.append(["valid turns (%)", *(f"{100 * columns[name]['valid']:.1f}" for name in names)])
    for kind in sorted(everything["errors"], key=lambda kind: (-everything["errors"][kind], kind)):
        turns = {name: columns[name]["turns"] * columns[name]["episodes"] for name in names}
        shares = [columns[name]["errors"].get(kind, 0) / turns[name] for name in names]
        rows.append([f"  {kind} (%)", *(f"{100 * share:.1f}" for share in shares)])
    rows.append(["episodes with an answer (%)", *(f"{100 * columns[name]['answered']:.1f}" for name in names)])
    for kind in everything["given_up"]:
        shares = [columns[name]["given_up"].get(kind, 0) / columns[name]["episodes"] for name in names]
        rows.append([f"given up: {kind} (%)", *(f"{100 * share:.1f}" for share in shares)])
    for action in everything["uses"]:
        rows.append([f"{action} an episode", *(f"{columns[name]['uses'].get(action, 0):.2f}" for name in names)])
    rows.append(["reward", *(f"{columns[name]['reward']:.3f}" for name in names)])
    return grid_lines(["", *names], rows)


def _interval_note(summary: Mapping[str, Mapping[str, Any]], interval: Interval) -> str:
    columns = [column for grid in summary.values() for column in grid.values()]
    photographs = max((column["photographs"] for column in columns), default=0)
    if interval == "puzzle":
        repeated = any(column["pass"] for column in columns)
        how = "by the bootstrap" if repeated else "for Acc Wilson's, for Score the bootstrap"
        if not any(map(pieces_of, summary)):
            return f"Intervals are over episodes: {how}."
        text = (
            f"Intervals are over puzzles: {how}. They are about other puzzles made of these {photographs} photographs; "
            "--interval photograph is about other photographs."
        )
    else:
        text = f"Intervals are over the {photographs} photographs, by the bootstrap."
        if photographs < FEW_PHOTOGRAPHS:
            text += " So few make them too narrow."
    return text


def format_cost(cost: Mapping[str, Mapping[str, float | None]]) -> str:
    """Write the table of time and tokens an episode.

    Args:
        cost: Result of `agile_gym.evaluation.summarize_cost`.

    Returns:
        Plain text.
    """
    labels = {
        "policy_seconds": "seconds of the policy (batches count whole)",
        "env_seconds": "seconds of the environment",
        "context_tokens": "tokens of the contexts of all turns",
        "computed_tokens": "  of them computed",
        "new_tokens": "tokens written",
    }
    rows: list[list[str]] = []
    for key, label in labels.items():
        values = [columns[key] for columns in cost.values()]
        if all(value is None for value in values):
            continue
        form = ".4f" if key.endswith("seconds") else ",.0f"
        rows.append([label, *("-" if value is None else format(value, form) for value in values)])
    return f"Cost an episode\n{grid_lines(['', *cost], rows)}"


def grid_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align a table: the first column to the left, the others to the right, a rule below the header."""
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(line.rstrip() for line in lines)
