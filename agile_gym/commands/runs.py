"""Finds the transcripts that a user means by a run."""

from __future__ import annotations

from pathlib import Path

from agile_gym.errors import TranscriptError

__all__ = ["find_run"]


def find_run(path: Path) -> Path:
    """Return where transcripts are: what was given, or, beside the results of an evaluation, their folder.

    Args:
        path: A folder of transcripts, a file in it, or the results (.json) or the journal (.jsonl) of an evaluation.

    Raises:
        TranscriptError: If results are given, and there are no transcripts beside them.
    """
    if path.suffix not in (".json", ".jsonl"):
        return path
    beside = path.with_name(f"{path.stem}-transcripts")
    if path.suffix == ".jsonl":
        return beside if beside.is_dir() else path
    if not beside.is_dir():
        raise TranscriptError(
            f"There are no transcripts of {path}: the folder {beside} does not exist. Give the folder of a run, or "
            "evaluate with transcripts kept."
        )
    return beside
