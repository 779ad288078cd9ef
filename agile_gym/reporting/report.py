"""Report of a run as one self-contained HTML page.

The page is made from the files of the run's folder. Texts of models stand in it as text; episodes are shown as by
the viewer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agile_gym.errors import ConfigurationError
from agile_gym.evaluation.benchmarks import BENCHMARK_SCORES
from agile_gym.evaluation.contamination import OVERLAPS, overlap_text, read_overlaps
from agile_gym.evaluation.metrics import AVERAGE
from agile_gym.evaluation.plan import pieces_of
from agile_gym.outputs import check_replaceable, is_generated
from agile_gym.reporting.alarms import alarm_spans
from agile_gym.reporting.curves import behaviour_charts, curves, look_charts, stage_times
from agile_gym.reporting.figures import STAGE_TITLES, duration
from agile_gym.reporting.outcome import (
    StageResult,
    behaviour_tables,
    benchmark_table,
    look_tables,
    overlap_table,
    read_results,
    result_tables,
    verdicts,
)
from agile_gym.reporting.record import puzzle_of
from agile_gym.reporting.runlog import Record, read_records
from agile_gym.reporting.viewer import BOARD, EpisodeBlocks, write_html
from agile_gym.transcripts.reading import TranscriptHeader, read_headers
from agile_gym.transcripts.record import Transcript

__all__ = ["choose_pairs", "write_report"]

MAX_SETTINGS = 256 * 1024
"""Longest file of settings that is shown, in bytes."""
IMAGE_SIDE, QUALITY = 224, 75
STYLES = ("base.css", "episode.css", "turn.css", "narrow.css", "report.css")
SCRIPTS = (*BOARD, "pairs.js")

Pair = tuple[Transcript, Transcript]
"""The same puzzle, played before and after."""


def write_report(folder: str | Path, output: str | Path, *, title: str | None = None, pairs: int = 10) -> Path:
    """Write the report of a run; stages that have not begun are left out.

    Args:
        folder: The run's folder, with ``metrics.jsonl``, ``settings.toml`` and, in ``evaluation``, the results
            ``untrained.json``, ``coldstart.json`` and ``grpo.json`` with their transcripts; perhaps `OVERLAPS`.
        output: The file; it is replaced only when the page is complete.
        title: Title of the page; by default the folder's name.
        pairs: Most puzzles that are shown as they were played before and after.

    Returns:
        The file.

    Raises:
        ConfigurationError: If the folder holds nothing of a run, a file of it is damaged, or the page cannot be
            written there.
    """
    run, target = Path(folder), Path(output)
    if target.is_dir() or not target.parent.is_dir():
        raise ConfigurationError(
            f"The report cannot be written to {target}; give the name of a file in a folder that exists."
        )
    check_replaceable(target, is_generated, "a report of agile-gym train")
    records = read_records(run / "metrics.jsonl")
    results = read_results(run / "evaluation")
    if not records and not results:
        raise ConfigurationError(
            f"{run} holds neither metrics.jsonl with an iteration nor an evaluation; give the folder of a run of "
            "agile-gym train."
        )
    chosen, titles = _pairs(results, pairs)
    overlaps = read_overlaps(run / OVERLAPS) if (run / OVERLAPS).is_file() else {}
    blocks = EpisodeBlocks(IMAGE_SIDE, QUALITY)
    settings = run / "settings.toml"
    write_html(
        target,
        "report.html",
        STYLES,
        SCRIPTS,
        title=title if title is not None else f"Training: {run.resolve().name}",
        verdicts=verdicts(results),
        stats=_stats(records, results),
        tables=result_tables(results),
        look_tables=look_tables(results),
        look_charts=look_charts(results),
        benchmark_table=benchmark_table(run / BENCHMARK_SCORES),
        overlap_table=overlap_table(overlaps) if overlaps else None,
        overlap_text=overlap_text(overlaps),
        behaviour_tables=behaviour_tables(results),
        behaviour_charts=behaviour_charts(results),
        charts=curves(records, results),
        records=records,
        spans=alarm_spans(records),
        times=stage_times(records),
        pairs=chosen,
        pair_titles=titles,
        of_jigsaw=_of_jigsaw(results),
        settings=_settings(settings) if settings.is_file() else "",
        blocks=blocks.read(episode for pair in chosen if not isinstance(pair, str) for episode in pair),
    )
    return target


def _stats(records: Sequence[Record], results: Sequence[StageResult]) -> list[tuple[str, str]]:
    """Return the figures at the head: Acc from stage to stage, time, iterations."""
    entries: list[tuple[str, str]] = []
    grids = dict.fromkeys(grid for result in results for grid in result.report.summary)
    for grid in grids:
        values = [result.report.summary[grid] for result in results if grid in result.report.summary]
        steps = " \u2192 ".join(f"{100 * columns[AVERAGE]['acc']['value']:.1f}%" for columns in values)
        titles = " \u2192 ".join(result.title for result in results if grid in result.report.summary)
        entries.append((f"Acc {grid}: {titles}", steps))
    if records:
        entries.append(("time in all", duration(float(records[-1]["seconds"]))))
    for stage in dict.fromkeys(record["stage"] for record in records):
        count = max(int(record["iteration"]) for record in records if record["stage"] == stage)  # not all are recorded
        what = "steps" if stage == "vision" else "iterations"
        entries.append((f"{what}: {STAGE_TITLES.get(stage, stage)}", f"{count:,}"))
    episodes = sum(float(record.get("episodes", 0.0)) for record in records)
    if episodes:
        entries.append(("episodes played in GRPO", f"{episodes:,.0f}"))
    return entries


def _of_jigsaw(results: Sequence[StageResult]) -> bool:
    return any(pieces_of(grid) for result in results for grid in result.report.summary)


def _pairs(results: Sequence[StageResult], count: int) -> tuple[list[Pair | str], list[str]]:
    """Return episodes before and after, or the error of one of a pair; and the titles of the two stages."""
    played = [result for result in results if result.transcripts.is_dir()]
    if len(played) < 2:
        return [], ["", ""]
    after = played[-1]
    before = next((result for result in played if result.name == "coldstart" and result is not after), played[0])
    pairs: list[Pair | str] = []
    for pair in choose_pairs(before.transcripts, after.transcripts, count):
        try:
            for episode in pair:
                puzzle_of(episode)
            pairs.append((_without_tokens(pair[0]), _without_tokens(pair[1])))
        except ConfigurationError as error:
            pairs.append(str(error))
    return pairs, [before.title, after.title]


def _without_tokens(episode: Transcript) -> Transcript:
    return replace(episode, segments=())


def choose_pairs(before: Path, after: Path, count: int = 10) -> list[tuple[Transcript, Transcript]]:
    """Return episodes of the same puzzles from two folders of transcripts.

    Args:
        before: A folder of transcripts.
        after: Another one.
        count: Largest number of puzzles; they are spread evenly over those in both, whatever their outcome.

    Returns:
        The pairs, by grid, level and number; none if a folder is missing.

    Raises:
        TranscriptError: If the transcripts are damaged.
    """
    if not before.is_dir() or not after.is_dir():
        return []
    ours = {header.id: header for header in read_headers(before)}
    theirs = {header.id: header for header in read_headers(after)}
    both = sorted((name for name in ours if name in theirs and _same(ours[name], theirs[name])), key=_natural)
    chosen = [both[place * len(both) // count] for place in range(count)] if len(both) > count else both
    return [(ours[name].load(), theirs[name].load()) for name in chosen]


def _same(first: TranscriptHeader, second: TranscriptHeader) -> bool:
    return all(first.task.get(key) == second.task.get(key) for key in ("grid", "seed", "image_id", "names"))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _settings(path: Path) -> str:
    data = path.read_bytes()[: MAX_SETTINGS + 1]
    shown = data[:MAX_SETTINGS].decode("utf-8", "replace")
    return f"{shown}\n(The rest is not shown.)" if len(data) > MAX_SETTINGS else shown
