"""The file of results that an evaluation writes, for later runs to be compared with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from agile_gym.arguments import is_number
from agile_gym.errors import ConfigurationError, reason_of
from agile_gym.evaluation.metrics import summarize, summarize_cost
from agile_gym.evaluation.plan import PuzzleKey, grid_name, names_result
from agile_gym.evaluation.run import MAX_COUNT, EpisodeResult
from agile_gym.files import write_text

__all__ = ["REPORT_SCHEMA", "EpisodeRow", "Figures", "Report", "is_report", "read_report", "write_report"]

KIND = "agile_gym.evaluation"
REPORT_SCHEMA = 1
"""Version of the file's layout."""
MAX_FILE = 128 * 1024 * 1024
"""Largest size of a file that is read, in bytes: some millions of episodes."""


class EpisodeRow(NamedTuple):
    """An episode as a report holds it.

    Attributes:
        grid: Such as ``"3x3"``.
        level: How many pieces started in their place.
        episode: Number of the puzzle within grid and level.
        sample: How often the puzzle was played before.
        seed: Seed of the environment.
        image_id: SHA-256 of the photograph.
        solved: Whether every piece was right.
        score: Share of pieces right, 0 to 1.
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
    """What a report says of all episodes.

    Attributes:
        summary: What `summarize` returns.
        cost: What `summarize_cost` returns.
    """

    summary: dict[str, dict[str, Any]]
    cost: dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Report:
    """A file of results.

    Attributes:
        path: Where it was read.
        plan: The settings, see `EvaluationPlan.to_json`.
        summary: What `summarize` returned.
        rows: One an episode, in the order of grid, level, episode and sample.
    """

    path: Path
    plan: Mapping[str, Any]
    summary: Mapping[str, Mapping[str, Any]]
    rows: tuple[EpisodeRow, ...]

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
) -> Figures:
    """Write a file of results: all of it, or nothing.

    Args:
        path: The file.
        results: Every episode.
        plan: The settings, in JSON's types.
        photographs: What identifies the photographs, see `PreparedPlan.photographs`.
        overlap: What `Overlap.to_json` returned, if training images were given.

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
        "images": list(images),
        "columns": columns,
    }
    lines = [
        json.dumps(
            [
                *(*result.key, result.seed, images[result.image_id], result.solved, result.score),
                *([result.label] if labelled else []),
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
    """Tell whether a file that begins so is one of results, of whatever version."""
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
        plan, summary = report["plan"], report["summary"]
        images: list[Any] = report["images"]
        if not isinstance(plan, dict) or not isinstance(plan["policy"], str):
            raise ValueError("the plan is not what eval writes")
        if not isinstance(summary, dict) or not isinstance(images, list):
            raise ValueError("the summary, or the images, are not what eval writes")
        rows = tuple(_row(row, images) for row in report["rows"])
        return Report(path, cast("dict[str, Any]", plan), cast("dict[str, Any]", summary), rows)
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
