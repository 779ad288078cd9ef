"""Evaluation on benchmarks of questions: a plan for each, its tables from the results, and a table beside the paper."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from agile_gym.envs.questions import UNREADABLE
from agile_gym.errors import ConfigurationError, is_number, is_whole, printable, reason_of
from agile_gym.evaluation.contamination import BenchmarkOverlap, overlap_text
from agile_gym.evaluation.estimates import Estimate, bootstrap_mean
from agile_gym.evaluation.plan import EnvironmentEntry, EvaluationPlan
from agile_gym.evaluation.report import grid_lines, short_name
from agile_gym.evaluation.run import MAX_COUNT, EpisodeResult
from agile_gym.files import write_text
from agile_gym.questions.judging import score
from agile_gym.questions.opening import BENCHMARKS, open_questions
from agile_gym.questions.records import Question, Skipped
from agile_gym.questions.scores import Scored

__all__ = [
    "BENCHMARK_SCORES",
    "ENV",
    "BenchmarkScore",
    "PlayedBenchmark",
    "counted",
    "format_benchmarks",
    "is_benchmarks",
    "paper_rows",
    "plan_benchmark",
    "read_benchmarks",
    "score_benchmark",
    "write_benchmarks",
]

ENV = "agile_gym.envs.questions:QuestionEnv"
KIND = "agile_gym.benchmarks"
SCHEMA = 1
BENCHMARK_SCORES = "benchmarks"
"""Folder of a training run that has the scores of benchmarks after each stage."""
SHOWN_SKIPS = 3


def plan_benchmark(
    key: str,
    file: Path,
    policy: str,
    *,
    policy_options: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    limit: int | None = None,
    samples: int = 1,
    seed: int = 0,
) -> EvaluationPlan:
    """Plan all questions of a benchmark's file, in their order.

    Args:
        key: Key of the benchmark.
        file: Its file or folder.
        policy: Name of the policy.
        policy_options: Options of the policy.
        options: Options of `agile_gym.envs.questions.QuestionEnv` besides.
        limit: Questions to ask, from the first; None for all.
        samples: Number of times that each is asked.
        seed: Seed of the policy.

    Raises:
        ConfigurationError: If the file cannot be read, or is of another benchmark.
    """
    opened = open_questions(file, key)
    count = len(opened.asked) if limit is None else min(limit, len(opened.asked))
    return EvaluationPlan(
        policy=policy,
        entries=[EnvironmentEntry(ENV, count, numbered=True)],
        samples=samples,
        seed=seed,
        options={
            "benchmark": key,
            "file": str(file),
            "questions": opened.digest,
            "skip_unreadable": True,
            **(options or {}),
        },
        policy_options=dict(policy_options or {}),
    )


@dataclass(frozen=True)
class BenchmarkScore:
    """Scores of one benchmark.

    Attributes:
        key: Key of the benchmark.
        figure: The figure that is reported, a fraction of 1.
        accuracy: Mean over the questions with its 95% interval; questions about one picture count as one draw.
        table: The benchmark's own table.
        asked: Questions that were answered.
        expected: Questions that the benchmark has.
        skipped: Questions that cannot be asked.
        rule: Name of the rule for answers.
        overlap: Training images among its pictures; None if no training images were given.
        unseen: Fraction right of the questions that show none of these; None if there are no such questions.
    """

    key: str
    figure: float
    accuracy: Estimate
    table: Mapping[str, Any]
    asked: int
    expected: int
    skipped: tuple[Skipped, ...]
    rule: str
    overlap: BenchmarkOverlap | None = None
    unseen: float | None = None


def counted(results: Iterable[EpisodeResult]) -> list[EpisodeResult]:
    """Return the episodes that count, ordered: those of questions whose pictures could be decoded in all samples."""
    found = sorted(results, key=lambda result: result.key)
    faults = _faults(found)
    return [result for result in found if result.episode not in faults]


def _faults(results: Iterable[EpisodeResult]) -> dict[int, str]:
    """Return the reasons for the questions that were left out, by their number."""
    labels = {result.episode: result.label or "" for result in results if (result.label or "").startswith(UNREADABLE)}
    return {number: label.removeprefix(UNREADABLE) for number, label in sorted(labels.items())}


def score_benchmark(
    plan: EvaluationPlan, results: Iterable[EpisodeResult], rule: str, overlap: BenchmarkOverlap | None = None
) -> BenchmarkScore:
    """Compute a benchmark's scores from its finished episodes.

    Of questions that were asked several times, the tables are the means over the samples. Questions with a picture that
    could not be decoded are skipped.

    Args:
        plan: Result of `plan_benchmark`.
        results: The episodes.
        rule: Name of the rule for answers.
        overlap: Training images among the benchmark's pictures, if they were looked for.

    Raises:
        ConfigurationError: If no episode is there.
    """
    key, file = plan.options["benchmark"], Path(plan.options["file"])
    opened = open_questions(file, key)
    played = list(results)
    ordered, faults = counted(played), _faults(played)
    skipped = [*opened.skipped, *(Skipped(opened.asked[number].id, reason) for number, reason in faults.items())]
    if not ordered:
        why = f" The first one was left out: {skipped[0].reason}" if skipped else ""
        raise ConfigurationError(f"No question of {BENCHMARKS[key].title} was answered.{why}")
    complete = not skipped and len(opened.asked) == len({result.episode for result in ordered})
    scored = [
        score(
            key,
            [_scored(opened.asked[one.episode], one) for one in ordered if one.sample == sample],
            complete=complete,
        )
        for sample in sorted({result.sample for result in ordered})
    ]
    right = [float(result.solved) for result in ordered]
    seen = frozenset(() if overlap is None else overlap.affected)
    unseen = [result.solved for result in ordered if opened.asked[result.episode].id not in seen]
    return BenchmarkScore(
        key,
        fmean(figure for figure, _ in scored),
        bootstrap_mean(right, [result.image_id for result in ordered]),
        _average([table for _, table in scored]),
        len(ordered) // len(scored),
        BENCHMARKS[key].count,
        tuple(skipped),
        rule,
        overlap,
        None if overlap is None or not unseen else fmean(unseen),
    )


def _scored(question: Question, result: EpisodeResult) -> Scored:
    right, fine = result.solved, question.fine
    return Scored(question.id, right, question.category, fine, question.split, question.facts, question.text)


def _average(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if len(tables) == 1:
        return dict(tables[0])
    found: dict[str, Any] = {}
    for name, value in tables[0].items():
        values: list[Any] = [table[name] for table in tables]
        found[name] = _average(values) if isinstance(value, Mapping) else fmean(values)
    return found


@lru_cache
def paper_rows() -> dict[str, dict[str, float]]:
    """Return the paper's rows: for each model the percentages by the benchmark's title, and ``mean``."""
    text = files("agile_gym.evaluation").joinpath("benchmark_results.csv").read_text(encoding="utf-8")
    rows: dict[str, dict[str, float]] = {}
    for row in csv.DictReader(text.splitlines()):
        rows.setdefault(row["model"], {})[row["benchmark"]] = float(row["value"])
    return rows


def format_benchmarks(scores: Sequence[BenchmarkScore], policy: str) -> str:
    """Write the tables: all benchmarks beside the paper's rows, and then each one's own.

    The mean of all rows is over the benchmarks that were played.

    Args:
        scores: The benchmarks' scores.
        policy: Name of the policy.

    Returns:
        Plain text, in percent.
    """
    titles = [BENCHMARKS[one.key].title for one in scores]
    figures = [100 * one.figure for one in scores]
    rows = [
        [short_name(policy), *(f"{figure:.1f}" for figure in figures), f"{fmean(figures):.1f}"],
        ["  questions right", *(f"{100 * one.accuracy.value:.1f}" for one in scores), ""],
        ["  95% interval, from", *(f"{100 * one.accuracy.low:.1f}" for one in scores), ""],
        ["  to", *(f"{100 * one.accuracy.high:.1f}" for one in scores), ""],
        ["  questions", *(str(one.asked) for one in scores), ""],
        ["  skipped", *(str(len(one.skipped)) for one in scores), ""],
    ]
    if any(one.overlap for one in scores):
        rows += [
            ["  show training images", *(str(len(one.overlap.affected)) if one.overlap else "" for one in scores), ""],
            [
                "  right, of the others",
                *("" if one.unseen is None else f"{100 * one.unseen:.1f}" for one in scores),
                "",
            ],
        ]
    for model, values in paper_rows().items():
        paper = [values[title] for title in titles]
        rows.append([f"paper: {model}", *(f"{value:.1f}" for value in paper), f"{fmean(paper):.1f}"])
    parts = [f"Benchmarks (%)\n{grid_lines(['', *titles, 'mean'], rows)}"]
    for one in scores:
        parts.append(_own_table(one))
    overlaps = {one.key: one.overlap for one in scores if one.overlap}
    if overlaps:
        parts.append(f"Training images\n{overlap_text(overlaps)}")
    parts.append(
        "Intervals: 95% of the questions that are right, by the bootstrap over first pictures. HallusionBench's figure "
        "is the mean of aAcc, fAcc and qAcc; MMVP's counts questions, with pairs in its own table; BLINK's weighs each "
        "question alike."
    )
    return "\n\n".join(parts)


def _own_table(one: BenchmarkScore) -> str:
    scale = 1 if one.key == "hallusionbench" else 100
    lines = [f"{BENCHMARKS[one.key].title} (%), rule {one.rule}"]
    lines += [f"  {printable(name)[:60]:<50} {scale * value:6.1f}" for name, value in _flat(one.table)]
    if one.asked != one.expected:
        lines.append(f"  {one.asked:,} of {one.expected:,} questions of the benchmark: not its full figure.")
    lines += [
        f"  skipped: {printable(skip.id)[:60]}: {printable(skip.reason)[:200]}" for skip in one.skipped[:SHOWN_SKIPS]
    ]
    if len(one.skipped) > SHOWN_SKIPS:
        lines.append(f"  and {len(one.skipped) - SHOWN_SKIPS:,} more, see the file of results.")
    return "\n".join(lines)


def _flat(table: Mapping[str, Any], before: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in table.items():
        path = f"{before} / {name}" if before else name
        found += _flat(value, path) if isinstance(value, Mapping) else [(path, float(value))]  # pyright: ignore[reportUnknownArgumentType] -- nested tables
    return found


def write_benchmarks(path: Path, scores: Sequence[BenchmarkScore], policy: str) -> None:
    """Write the scores of several benchmarks to a JSON file.

    Raises:
        OSError: If it cannot be written.
    """
    values = {
        "kind": KIND,
        "schema": SCHEMA,
        "policy": policy,
        "benchmarks": [
            {**asdict(one), "title": BENCHMARKS[one.key].title, "accuracy": one.accuracy._asdict()} for one in scores
        ],
        "mean": fmean(one.figure for one in scores),
        "paper": paper_rows(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_text(path) as file:
        file.write(json.dumps(values, indent=2) + "\n")


class PlayedBenchmark(NamedTuple):
    """A benchmark in a file of scores.

    Attributes:
        figure: The figure that is reported, a fraction of 1.
        accuracy: Mean over the questions with its 95% interval.
        asked: Questions that were answered.
        expected: Questions that the benchmark has.
    """

    figure: float
    accuracy: Estimate
    asked: int
    expected: int


def read_benchmarks(path: Path) -> dict[str, PlayedBenchmark]:
    """Read a file of scores that `write_benchmarks` wrote.

    Returns:
        The benchmarks by key.

    Raises:
        ConfigurationError: If it cannot be read, or is damaged.
    """
    try:
        values: Any = json.loads(path.read_text("utf-8"))
        if values["kind"] != KIND or values["schema"] != SCHEMA:
            raise ValueError("it is none of this version")
        found: dict[str, PlayedBenchmark] = {}
        for one in values["benchmarks"]:
            accuracy = Estimate(**one["accuracy"])
            counts = one["asked"], one["expected"]
            if one["key"] not in BENCHMARKS or not all(is_number(value, 0, 1) for value in (one["figure"], *accuracy)):
                raise ValueError("no figure where one must be")
            if not all(is_whole(count, MAX_COUNT) for count in counts):
                raise ValueError("no number of questions where one must be")
            found[one["key"]] = PlayedBenchmark(one["figure"], accuracy, *counts)
        return found
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {reason_of(error)}.") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is no file of benchmarks' scores, or damaged: {error!r:.200}.") from error


def is_benchmarks(head: bytes) -> bool:
    """Return whether a file that begins so holds the scores of benchmarks."""
    return head.startswith(b"{") and f'"kind":"{KIND}"'.encode() in head.replace(b" ", b"").replace(b"\n", b"")
