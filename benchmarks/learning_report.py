"""Writes the part of benchmarks/RESULTS.md on training, from runs of benchmarks/learning.py, and their curves.

    python benchmarks/learning_report.py RUNS [RUNS ...] [--speed FILE] [--memory FILE]

Each RUNS is a folder of `learning.py`, and becomes a section with a picture, benchmarks/learning.svg and so on. FILE is
what `training_speed.py --output` and `training_memory.py --out` wrote.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np

from agile_gym.evaluation import Estimate, bootstrap_mean, compare_reports, read_report
from agile_gym.reporting.charts import require_matplotlib
from agile_gym.reporting.runlog import read_records
from agile_gym.training.settings import read_settings

HERE = Path(__file__).parent
START = "<!-- From here on written by benchmarks/learning_report.py -->"
END = "<!-- To here -->"
STAGES = {"coldstart": "cold start", "grpo": "GRPO"}
WHAT = {
    "photos": "trained on the folder of photographs",
    "builtin": "trained on the built-in photographs alone",
    "at-once": "control: supervised training on 8,000 solved puzzles, answered at once from the first board",
    "one-turn": "control: cold start of as many solved puzzles and GRPO, answering at once",
    "blanked": "control: cold start and GRPO with looks that show grey, in training and play",
    "no-crops": "control: cold start and GRPO without crops and zooms",
    "shuffled": "control: GRPO on rewards shuffled over the batch",
    "no-step": "GRPO without the reward's part for steps",
}
AVERAGE = "avg"


def table(header, rows):
    """Write a Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (header, *rows)]
    lines.insert(1, "|" + "---|" * len(header))
    return "\n".join(lines)


def shares(estimate):
    """Write a fraction with its interval, in per cent."""
    value, low, high = (100 * number for number in Estimate(**estimate))
    return f"{value:.1f} ({low:.1f}-{high:.1f})"


class Run:
    """Results of a run."""

    def __init__(self, folder):
        self.name, self.folder = folder.name, folder
        self.settings = read_settings(str(folder / "settings.toml"))
        self.reports = {
            stage: read_report(path) for stage in STAGES if (path := folder / "evaluation" / f"{stage}.json").exists()
        }
        self.sampled = {
            stage: read_report(path)
            for stage in STAGES
            if (path := folder / "evaluation" / "sampled" / f"{stage}.json").exists()
        }
        more = folder / "evaluation" / "more-turns" / "coldstart.json"
        longer = np.max(self.settings.cold_start.turns) > self.settings.environment.max_turns
        self.more_turns = read_report(more) if longer and more.exists() else None
        self.records = read_records(folder / "metrics.jsonl")

    def grids(self):
        """Return the grids that were played."""
        return list(next(iter(self.reports.values())).summary)

    def column(self, stage, grid, *, sampled=False):
        """Return the figures of a stage over all levels."""
        report = (self.sampled if sampled else self.reports).get(stage)
        return None if report is None else report.summary[grid][AVERAGE]

    def gain(self, grid, *, sampled=False):
        """Return the paired difference of Acc between cold start and GRPO."""
        reports = self.sampled if sampled else self.reports
        return compare_reports(reports["coldstart"], reports["grpo"])[grid][AVERAGE]["acc"]

    def gain_by_photograph(self, grid):
        """Return the same with the bootstrap over photographs, puzzles of one being alike."""
        pairs = {}
        for stage in ("coldstart", "grpo"):
            for row in self.reports[stage].rows:
                if row.grid == grid:
                    pairs.setdefault((row.level, row.episode), []).append((row.solved, row.image_id))
        doubled = [(after[0] - before[0] + 1) / 2 for before, after in pairs.values()]  # between 0 and 1
        estimate = bootstrap_mean(doubled, [before[1] for before, _ in pairs.values()])
        value, low, high = (2 * number - 1 for number in estimate)
        return {"difference": value, "low": low, "high": high}

    def seconds(self):
        """Return the wall-clock seconds of each stage, from the records."""
        ends, start = {}, 0.0
        for record in self.records:
            ends[record["stage"]] = record["seconds"]
        took = {}
        for stage, end in ends.items():
            took[stage], start = end - start, end
        return took


def stage_rows(runs):
    """Return a row for each run and stage, and one for the cold start with as many turns as its experts had."""
    rows = []
    for run in runs:
        for grid in run.grids():
            for stage, title in STAGES.items():
                column = run.column(stage, grid)
                if column is None:
                    continue
                drawn = run.column(stage, grid, sampled=True)
                blanked = run.reports[stage].blank_looks
                rows.append(
                    (
                        run.name,
                        title,
                        *cells(column),
                        "" if drawn is None else shares(drawn["acc"]),
                        "" if blanked is None else shares(blanked[grid][AVERAGE]["blanked"]["acc"]),
                    )
                )
                if stage == "coldstart" and run.more_turns is not None:
                    turns = np.max(run.settings.cold_start.turns)
                    more = run.more_turns.summary[grid][AVERAGE]
                    rows.append((run.name, f"{title}, {turns} turns allowed", *cells(more), "", ""))
    return rows


def cells(column):
    """Return the cells of a row about an evaluation."""
    uses = column["uses"]
    return (
        shares(column["acc"]),
        shares(column["acc_by_photograph"]),
        shares(column["score"]),
        *(f"{100 * share:.1f}" for share in (column["answered"], column["valid"], column["reward_parts"]["format"])),
        f"{column['turns']:.2f}",
        f"{uses.get('Crop', 0):.2f} / {uses.get('Zoom', 0):.2f}",
    )


def gain_rows(runs):
    """Return a row for each run: the gain of GRPO, and whether the intervals overlap."""
    rows = []
    for run in runs:
        for grid in run.grids():
            if {"coldstart", "grpo"} - set(run.reports):
                continue
            before, after = (Estimate(**run.column(stage, grid)["acc"]) for stage in ("coldstart", "grpo"))
            gain = run.gain(grid)
            apart = "above" if after.low > before.high else "below" if after.high < before.low else "overlap"
            drawn = run.gain(grid, sampled=True) if {"coldstart", "grpo"} <= set(run.sampled) else None
            rows.append(
                (
                    run.name,
                    grid,
                    f"{100 * before.value:.1f} -> {100 * after.value:.1f}",
                    difference(gain),
                    difference(run.gain_by_photograph(grid)),
                    f"{after.value / before.value:.2f}" if before.value else "",
                    apart,
                    "" if drawn is None else difference(drawn),
                )
            )
    return rows


def difference(entry):
    """Write a paired difference of fractions with its interval, in points."""
    return f"{100 * entry['difference']:+.1f} ({100 * entry['low']:+.1f} to {100 * entry['high']:+.1f})"


def time_rows(runs, processes):
    """Return a row for each run: its time by stage."""
    rows = []
    for run in runs:
        took = run.seconds()
        spent = sum(entry["processor"] for entry in processes if entry["run"] == run.name)
        grpo = [record for record in run.records if record["stage"] == "grpo"]
        episodes = sum(record.get("episodes", 0) for record in grpo)
        rows.append(
            (run.name, *(f"{took.get(stage, 0):,.0f}" for stage in ("vision", "sft", "grpo")), f"{episodes:,.0f}",
             f"{spent / 60:.1f}" if spent else "")
        )  # fmt: skip
    return rows


def picture(runs, path):
    """Draw the Acc of held-out puzzles over the iterations of GRPO."""
    import matplotlib

    figure = require_matplotlib().Figure(figsize=(9, 4.2), layout="constrained")
    panes = figure.subplots(1, 2, sharey=True)
    for pane, key, title in ((panes[0], "eval/acc", "held out, greedy"), (panes[1], "acc", "training, sampled")):
        for number, run in enumerate(runs):
            grpo = [record for record in run.records if record["stage"] == "grpo" and key in record]
            points = [(record["iteration"], 100 * record[key]) for record in grpo]
            start, end = (run.column(stage, run.grids()[0]) for stage in STAGES)
            if key == "eval/acc" and start is not None:
                points.insert(0, (0, 100 * start["acc"]["value"]))
            if key == "eval/acc" and end is not None:
                points.append((run.settings.grpo.iterations, 100 * end["acc"]["value"]))
            line = "--" if run.name in ("one-turn", "blanked", "no-crops", "shuffled", "no-step") else "-"
            style = {"color": f"C{number}", "ls": line, "lw": 1.4, "marker": "." if key == "eval/acc" else ""}
            pane.plot(*zip(*points, strict=True), label=run.name, **style)
        pane.set(title=f"Acc, {title}", xlabel="iterations of GRPO", ylim=(0, 100))
        pane.grid(alpha=0.3)
    panes[0].set_ylabel("%")
    panes[1].legend(handles=panes[0].lines, fontsize=8)
    with matplotlib.rc_context({"svg.hashsalt": path.name}):  # the same file for the same figures
        figure.savefig(path, metadata={"Date": None})


def describe(settings):
    """Name the puzzles of a run."""
    environment = settings.environment
    given = environment.given()
    rows = given.get("grid", 2)
    name = f"{rows}x{rows}" if isinstance(rows, int) else str(rows)
    level = given.get("level", 0)
    name += ", all levels" if level == "all" else f", level {level}"
    if given.get("board_scale", 1) != 1:
        name += f", boards shown at {given['board_scale']:g} of their size"
    return f"{name}, at most {given.get('max_turns', 5)} turns"


def learning(folder, runs, image):
    """Return the section on the runs of a folder."""
    processes = [json.loads(line) for line in (folder / "processes.jsonl").read_text("utf-8").splitlines()]
    first = runs[0]
    column = first.column("coldstart", first.grids()[0])
    names = "\n".join(
        f"- `{run.name}`: {WHAT[re.sub('-[0-9]+$', '', run.name)]}, seed {run.settings.seed}" for run in runs
    )
    header = ("run", "after", "Acc %", "Acc %, interval over photographs", "Score %", "answered %", "valid turns %",
              "R_format %", "turns", "crops / zooms an episode", "Acc %, sampled", "Acc %, looks blanked")  # fmt: skip
    gains = ("run", "grid", "Acc %", "gain, points", "interval over photographs", "ratio", "GRPO's interval",
             "gain when sampled, points")  # fmt: skip
    command = ["python benchmarks/learning.py --train FOLDER --test FOLDER --output RUNS", *changes(first.settings)]
    return f"""## Learning on photographs, played on held-out ones: {describe(first.settings)}

`{" ".join(command)}`

The tiny model. After each stage {column["puzzles"]:,} puzzles of {column["photographs"]} photographs that no stage was
trained on, random parts, greedy; 95% intervals in brackets. Sampled is at temperature 1, as in training; with blanked
looks, the same weights are shown grey in place of every image after the first prompt.

{names}

{table(header, stage_rows(runs))}

What GRPO has added to its cold start (paired, the same puzzles), and whether the two 95% intervals are apart:

{table(gains, gain_rows(runs))}

![Acc over the iterations of GRPO]({image})

Wall-clock seconds of the stages, each run on one core beside another, evaluations on the way included, and minutes of
processor of the whole run (a run that branches off has not done the stages before again):

{table(("run", "vision", "cold start", "GRPO", "episodes of GRPO", "minutes in all"), time_rows(runs, processes))}
"""


def changes(settings):
    """Return the differences of a run's settings from the preset's, but for photographs, seed and evaluation."""
    preset = read_settings("tiny").to_mapping()
    mine = settings.to_mapping()
    return [
        f"--set {section}.{key}={json.dumps(value)}"
        for section, entries in mine.items()
        if isinstance(entries, dict) and section not in ("images", "evaluation")
        for key, value in entries.items()
        if value != preset[section].get(key)
    ]


def write_part(path, text):
    """Put the text in the place of this script's former one; what is before and after it stays."""
    former = path.read_text("utf-8") if path.exists() else "# Results\n"
    before, _, mine = former.partition(START)
    after = mine.partition(END)[2].strip()
    mine = f"{before.rstrip()}\n\n{START}\n\n# Training\n\n{text.rstrip()}\n\n{END}\n\n{after}"
    path.write_text(mine.rstrip() + "\n", "utf-8")


def main():
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of benchmarks/learning.py; note.md is quoted")
    parser.add_argument("--speed", type=Path)
    parser.add_argument("--memory", type=Path)
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md")
    options = parser.parse_args()
    order, parts = [*WHAT], []
    for number, place in enumerate(options.runs):
        folders = [path.parent for path in place.glob("*/report.html")]
        folders.sort(key=lambda path: (order.index(re.sub("-[0-9]+$", "", path.name)), path.name))
        runs = [Run(folder) for folder in folders]
        image = f"learning{f'-{number + 1}' if number else ''}.svg"
        picture(runs, options.output.with_name(image))
        note = place / "note.md"
        parts.append(learning(place, runs, image) + (f"\n{note.read_text('utf-8')}" if note.exists() else ""))
    for file in (options.speed, options.memory):
        if file is not None:
            parts.append(json.loads(file.read_text("utf-8"))["markdown"])
    write_part(options.output, "\n".join(parts))
    print(f"Written: {options.output}")


if __name__ == "__main__":
    main()
