"""Page of a study: findings, charts and tables with intervals, and the settings of its arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agile_gym.outputs import check_replaceable, is_generated
from agile_gym.reporting.viewer import write_html
from agile_gym.studies.arm import run_folder
from agile_gym.studies.arms import Arm, Run
from agile_gym.studies.results import Results, chart, tables
from agile_gym.studies.spec import Study
from agile_gym.training.pipeline import REPORT
from agile_gym.training.texts import to_toml

__all__ = ["write_page"]

STYLES = ("base.css", "report.css", "study.css")


def write_page(
    path: Path,
    study: Study,
    arms: Sequence[Arm],
    runs: Sequence[Run],
    results: Sequence[Results],
    missing: Sequence[str],
) -> None:
    """Write the page; it holds no times and no paths, and is the same for the same results.

    Args:
        path: The file, in the study's folder; it is replaced only when the page is complete.
        study: The study.
        arms: Its arms.
        runs: Its runs.
        results: The results of each evaluation.
        missing: Runs that are not finished.

    Raises:
        ConfigurationError: If something else is there.
    """
    check_replaceable(path, is_generated, "a page of agile-gym study")
    parts: list[dict[str, Any]] = []
    for one in results:
        parts.append({"name": one.name, "table": tables(study, arms, one), "chart": chart(study, arms, one)})
    done = {run.name for run in runs} - set(missing)
    write_html(
        path,
        "study.html",
        STYLES,
        (),
        title=study.title,
        summary=study.summary,
        findings=[finding for one in results for finding in one.findings],
        parts=parts,
        seeds=len(study.seeds),
        missing=[run.name for run in runs if run.name in missing and run.arm is not None],
        stats=_stats(study, arms, runs, results),
        arms=[(arm.name, _changes(study, arm.changes["grpo"]), _links(runs, arm, done)) for arm in arms],
        common=_lines({"preset": study.preset, **study.settings}),
        shared=[(run.name, run.users, _link(run)) for run in runs if run.arm is None and run.name in done],
        blocks=(),
    )


def _stats(study: Study, arms: Sequence[Arm], runs: Sequence[Run], results: Sequence[Results]) -> list[tuple[str, str]]:
    shared = [run for run in runs if run.arm is None]
    episodes = sum(played.values.size for one in results for played in one.acc.values())
    return [
        ("arms", f"{len(arms)}"),
        ("seeds", f"{len(study.seeds)}"),
        ("trainings", f"{len(arms) * len(study.seeds)}"),
        ("shared stages", f"{len(shared)}"),
        ("episodes evaluated", f"{episodes:,}"),
    ]


def _changes(study: Study, changes: Mapping[str, Any]) -> str:
    return _lines(
        {key: value for key, value in changes.items() if key not in study.settings or study.settings[key] != value}
    )


def _lines(changes: Mapping[str, Any]) -> str:
    return "\n".join(f"{key} = {to_toml(value)}" for key, value in changes.items())


def _links(runs: Sequence[Run], arm: Arm, done: set[str]) -> list[tuple[str, str]]:
    return [(f"seed {run.seed}", _link(run)) for run in runs if run.arm == arm.name and run.name in done]


def _link(run: Run) -> str:
    return f"{run_folder(Path(), run.name).as_posix()}/{REPORT}"
