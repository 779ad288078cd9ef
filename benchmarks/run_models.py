"""Measures the figures of benchmarks/MODELS.md, and writes that file.

Usage: python benchmarks/run_models.py [--only NAME ...] [--model PATH] [--train FOLDER]

Each section is the output of a script in this folder, which can be run by itself. Sections that are not run again stay
as they were. With --model, the cache is also measured with that model; with --train, the vision pretraining of the tiny
model is measured on the photographs of a folder.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

from run_all import machine

HERE = Path(__file__).parent
TITLES = {
    "cache": "The cache that is kept from turn to turn",
    "cache-model": "The same with pretrained weights",
    "kills": "An evaluation that is killed ten times",
    "transcripts": "Storing transcripts",
    "vision": "The tiny model learns to see",
}


def commands(options):
    """Return each section's script and arguments."""
    every = {
        "cache": ["cache_reuse.py"],
        "kills": ["kill_and_resume.py", "--suite", "paper", "--workers", "2"],
        "transcripts": ["transcripts.py"],
    }
    if options.model:
        every["cache-model"] = ["cache_reuse.py", "--model", options.model]
    if options.train:
        every["vision"] = ["tiny_vision.py", options.train, "--grids", "2x2", "3x3"]
    return {name: words for name, words in every.items() if not options.only or name in options.only}


def read_sections(path):
    """Return the sections that the file holds, by title."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return dict(re.findall(r"^## ([^\n]+)\n\n(.*?)(?=\n## |\Z)", text, re.MULTILINE | re.DOTALL))


def main():
    """Run the scripts and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(TITLES), default=None)
    parser.add_argument("--model", default=None)
    parser.add_argument("--train", default=None)
    options = parser.parse_args()
    path = HERE / "MODELS.md"
    sections = read_sections(path)
    for name, words in commands(options).items():
        print(f"{TITLES[name]} ...", file=sys.stderr)
        command = [sys.executable, str(HERE / words[0]), *words[1:]]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        shown = " ".join(["python", f"benchmarks/{words[0]}", *(w if os.sep not in w else "FOLDER" for w in words[1:])])
        told = done.stdout.strip()
        if "|---" not in told:
            told = f"```\n{told}\n```"
        sections[TITLES[name]] = f"`{shown}`\n\n{told}\n"
        versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("agile-gym", "torch", "transformers"))
        head = f"# Models\n\nWritten by `python benchmarks/run_models.py`; do not edit. {machine()}, {versions}.\n"
        ordered = [(title, sections[title]) for title in TITLES.values() if title in sections]
        path.write_text("\n".join([head, *(f"## {title}\n\n{text}" for title, text in ordered)]), encoding="utf-8")


if __name__ == "__main__":
    main()
