"""Prints the part of benchmarks/RESULTS.md on a study from its folder, and writes its chart beside that file.

    python benchmarks/study_report.py FOLDER [FOLDER ...]

What is printed is put into the section "Studies" by hand.
"""

import argparse
import json
import re
from pathlib import Path

HERE = Path(__file__).parent
COLOURS = {"quiet": "#5a5f66", "grid": "#deded8", "text": "#1c1e21"}
"""Colours of the page's style that a picture of its own lacks."""


def table(header, rows):
    """Write a Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (header, *rows)]
    lines.insert(1, "|" + "---|" * len(header))
    return "\n".join(lines)


def percent(value):
    """Write a fraction with its interval, in per cent."""
    return f"{100 * value['value']:.1f} ({100 * value['low']:.1f} to {100 * value['high']:.1f})"


def points(value):
    """Write a difference with its interval, in points."""
    return (
        ""
        if value is None
        else f"{100 * value['value']:+.1f} ({100 * value['low']:+.1f} to {100 * value['high']:+.1f})"
    )


def save_chart(page, target):
    """Write the first chart of a page as a picture of its own."""
    svg = re.search(r"<svg viewBox.*?</svg>", page.read_text("utf-8"), re.DOTALL)[0]
    svg = re.sub(r"var\(--([a-z0-9-]+)\)", lambda found: COLOURS.get(found[1], "#2457c5"), svg)
    svg = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" width="400" font-family="sans-serif" ', 1)
    target.write_text(svg + "\n", "utf-8")


def report(folder):
    """Write the part on a study."""
    study = json.loads((folder / "study.json").read_text("utf-8"))
    seconds = json.loads((folder / "spent.json").read_text("utf-8"))["seconds"]
    name = study["name"].rpartition("-")[0] or study["name"]
    image = HERE / f"study-{name}.svg"
    save_chart(folder / "study.html", image)
    seeds = [str(seed) for seed in study["seeds"]]
    parts = [f"## {study['title']}", f"`agile-gym study {name} --images FOLDER --test-images FOLDER --jobs 1`"]
    parts.append(f"Seeds {', '.join(seeds)}; {seconds / 60:.0f} minutes on the wall.")
    if study["missing"]:
        parts.append(f"Not finished: {', '.join(study['missing'])}.")
    for one in study["evaluations"]:
        rows = [
            [
                arm,
                percent(entry["acc"]),
                percent(entry["score"]),
                points(entry["difference"]),
                *(f"{100 * entry['seeds'][seed]['acc']:.1f}" if seed in entry["seeds"] else "" for seed in seeds),
            ]
            for arm, entry in one["arms"].items()
        ]
        puzzles = max(entry["puzzles"] for entry in one["arms"].values())
        header = ["arm", "Acc %", "Score %", f"Acc less {study['reference']}", *(f"seed {seed}" for seed in seeds)]
        parts += [f"{one['name']}: {puzzles:,} episodes", table(header, rows)]
        parts.append("\n".join(f"- {finding['text']}" for finding in one["findings"]))
    parts.append(f"![Acc of the arms]({image.name})")
    return "\n\n".join(part for part in parts if part) + "\n"


def main():
    """Print the parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="folder of agile-gym study")
    print("\n".join(report(folder) for folder in parser.parse_args().folders))


if __name__ == "__main__":
    main()
