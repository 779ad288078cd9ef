"""Writes a run as one HTML page that needs nothing else: no network, no script, no other file.

The page is made from the files of the run's folder. What models wrote stands in it as text, and a policy
(Content-Security-Policy) allows nothing but the page's own style and images.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from agile_gym.errors import ConfigurationError
from agile_gym.evaluation.metrics import AVERAGE
from agile_gym.files import write_text
from agile_gym.outputs import check_replaceable, is_generated
from agile_gym.reporting.alarms import alarm_spans
from agile_gym.reporting.charts import STAGE_TITLES, Markup, duration, element, join
from agile_gym.reporting.curves import curves, timing_table
from agile_gym.reporting.outcome import StageResult, read_results, result_tables, verdicts
from agile_gym.reporting.pairs import Pictures, choose_pairs, pair_markup
from agile_gym.reporting.runlog import Record, read_records

__all__ = ["write_report"]

MAX_SETTINGS = 256 * 1024
"""Longest file of settings that is shown, in bytes."""
_POLICY = (
    "default-src 'none'; img-src data:; style-src {style}; script-src 'none'; connect-src 'none'; base-uri 'none'; "
    "form-action 'none'"
)


def write_report(folder: str | Path, output: str | Path, *, title: str | None = None, pairs: int = 10) -> Path:
    """Write the report of a run; what the run has not got to yet is left out.

    Args:
        folder: The run's folder, with ``metrics.jsonl``, ``settings.toml`` and, in ``evaluation``, the results
            ``untrained.json``, ``eyes.json``, ``coldstart.json`` and ``grpo.json`` with their transcripts.
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
    name = title if title is not None else f"Training: {run.resolve().name}"
    pictures = Pictures()
    sections = [
        _results_section(results),
        _curves_section(records, results),
        _alarms_section(records),
        _section("time", "Time", None, timing_table(records)),
        _pairs_section(results, pictures, pairs),
        _settings_section(run / "settings.toml"),
    ]
    present = [section for section in sections if section is not None]
    head = _head(name, records, results, [(anchor, heading) for anchor, heading, _ in present])
    body = join(
        head,
        element("main", *(markup for _, _, markup in present), id="main"),
        element("footer", "Written by agile_gym. Intervals are 95% intervals. This page holds all it shows."),
        pictures.markup(),
    )
    with write_text(target) as file:
        file.write(_page(name, body))
    return target


def _page(title: str, body: Markup) -> str:
    style = "\n".join(
        files(package).joinpath(name).read_text(encoding="ascii")
        for package, name in (("agile_gym.reporting", "base.css"), ("agile_gym.reporting", "report.css"))
    )
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = files("agile_gym.reporting").joinpath("report.html").read_text(encoding="ascii")
    values = {
        "{policy}": _POLICY.format(style=f"'sha256-{digest}'"),
        "{style}": style,
        "{title}": html.escape(title).encode("ascii", "xmlcharrefreplace").decode("ascii"),
    }
    before, mark, after = page.partition("{body}")
    if not mark:
        raise RuntimeError("report.html has no place for the body.")
    for key, value in values.items():
        before = before.replace(key, value)
    return f"{before}{body}{after}"


Section = tuple[str, str, Markup]
"""Anchor, heading and markup of a section."""


def _section(anchor: str, heading: str, note: str | None, *content: Markup) -> Section | None:
    """Return a section, or None if it has no content."""
    if not any(content):
        return None
    quiet = None if note is None else element("p.quiet", note)
    return anchor, heading, element("section", element("h2", heading), quiet, *content, id=anchor)


def _head(
    title: str, records: Sequence[Record], results: Sequence[StageResult], contents: Sequence[tuple[str, str]]
) -> Markup:
    sentences = [element(f"p.verdict.{verdict.kind}", verdict.text) for verdict in verdicts(results)]
    if not sentences:
        sentences.append(element("p.verdict.none", "No stage of this run has been evaluated on held-out puzzles yet."))
    links = [element("a", heading, href=f"#{anchor}") for anchor, heading in contents]
    return element(
        "header.head",
        element("h1", title),
        element("nav.contents", *links, aria_label="Contents"),
        *sentences,
        _stats(records, results),
    )


def _stats(records: Sequence[Record], results: Sequence[StageResult]) -> Markup:
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
        what = "steps" if stage == "eyes" else "iterations"
        entries.append((f"{what}: {STAGE_TITLES.get(stage, stage)}", f"{count:,}"))
    episodes = sum(float(record.get("episodes", 0.0)) for record in records)
    if episodes:
        entries.append(("episodes played in GRPO", f"{episodes:,.0f}"))
    return element("dl.stats", *(element("div", element("dt", key), element("dd", value)) for key, value in entries))


def _results_section(results: Sequence[StageResult]) -> Section | None:
    note = (
        "All puzzles of the evaluation are played after each stage; below each figure is its 95% interval. The paper's "
        "rows are there for orientation only: they are of Qwen2.5-VL-7B and larger models, on other photographs, and "
        "say nothing about this model."
    )
    return _section("results", "Results on held-out puzzles", note, result_tables(results))


def _curves_section(records: Sequence[Record], results: Sequence[StageResult]) -> Section | None:
    note = (
        "Over iterations. Figures of training are means of the sampled episodes of an iteration; held-out ones are "
        "of puzzles that are never trained on, always the same, and the band is their 95% interval."
    )
    drawings = curves(records, results)
    return _section("curves", "Curves", note, element("div.charts", *drawings) if drawings else Markup(""))


def _alarms_section(records: Sequence[Record]) -> Section | None:
    if not records:
        return None
    spans = alarm_spans(records)
    if not spans:
        return _section("alarms", "Alarms", None, element("p.quiet", "None was raised."))
    items: list[Markup] = []
    for span in spans:
        when = f"iteration {span.first}" if span.first == span.last else f"iterations {span.first} to {span.last}"
        where = f"{STAGE_TITLES.get(span.stage, span.stage)}, {when}" + (
            f" ({span.times} of them)" if span.times < span.last - span.first + 1 else ""
        )
        items.append(element("li", element("small", where), span.alarm.text))
    note = "What looked wrong on the way. Each is shown as it was when it was raised last."
    return _section("alarms", "Alarms", note, element("ol.alarm-list", *items))


def _pairs_section(results: Sequence[StageResult], pictures: Pictures, count: int) -> Section | None:
    played = [result for result in results if result.transcripts.is_dir()]
    if len(played) < 2:
        return None
    after = played[-1]
    before = next((result for result in played if result.name == "coldstart" and result is not after), played[0])
    found = choose_pairs(before.transcripts, after.transcripts, count)
    titles = before.title[:1].upper() + before.title[1:], after.title[:1].upper() + after.title[1:]
    pairs = [
        pair_markup(first, second, titles, pictures, unfolded=number == 0)
        for number, (first, second) in enumerate(found)
    ]
    note = (
        f"{len(pairs)} held-out puzzles as they were played after the stage {before.title} and after {after.title}. "
        "They are spread evenly over the list of puzzles, whatever came of them. A green frame marks a piece in its "
        "place. Open one to read its turns."
    )
    return _section("episodes", "The same puzzles before and after", note, *pairs)


def _settings_section(path: Path) -> Section | None:
    if not path.is_file():
        return None
    data = path.read_bytes()[: MAX_SETTINGS + 1]
    shown = data[:MAX_SETTINGS].decode("utf-8", "replace")
    if len(data) > MAX_SETTINGS:
        shown += "\n(The rest is not shown.)"
    fold = element("details.settings", element("summary", "settings.toml"), element("pre", shown, tabindex=0))
    return _section("settings", "Settings", None, fold)
