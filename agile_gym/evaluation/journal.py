"""The file that an evaluation keeps of finished episodes, so that none is lost or played again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from agile_gym.envs.config import default_crop
from agile_gym.errors import ConfigurationError, reason_of
from agile_gym.evaluation.plan import EvaluationPlan
from agile_gym.evaluation.results import EpisodeResult
from agile_gym.fingerprints import adopt_paths, fingerprints
from agile_gym.rollout.locks import Lock
from agile_gym.terminal import printable

__all__ = ["JOURNAL_SCHEMA", "Journal", "read_journal"]

JOURNAL_SCHEMA = 2
"""Version of the file's layout. 1 was a line with the plan alone, and results without samples."""
_BEGINNING = b'{"schema":'


class Journal:
    """A file of finished episodes, one JSON text a line, below a line with the settings.

    Every line is handed to the system as soon as its episode is over, so that an interruption, even by SIGKILL, costs
    at most the episodes being played. A line that was cut short is dropped when the file is opened again, and its
    episode is played anew. While a journal is open, no other process can open it.

    Attributes:
        path: The file.
        results: The finished episodes.
        unread: Number of lines that could not be read when the file was opened; their episodes are played again.
    """

    def __init__(
        self,
        path: Path,
        plan: EvaluationPlan,
        *,
        photographs: Mapping[str, Any] | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Open a journal.

        Args:
            path: The file.
            plan: The settings of the evaluation.
            photographs: What the photographs are, in JSON's types, so that an evaluation is resumed with the same.
            resume: Keep the episodes that the file holds and go on after them.
            overwrite: Begin anew even if the file holds episodes.

        Raises:
            ConfigurationError: If it holds episodes and neither is asked for, if it is no journal, if it is to be
                resumed and holds an evaluation with other settings, if another process writes to it, or if it cannot
                be written. Then the file is as it was.
        """
        self.path = path
        self.results: list[EpisodeResult] = []
        self.unread = 0
        settings = _plain(plan)
        header = {"schema": JOURNAL_SCHEMA, "plan": settings, "photographs": dict(photographs or {})}
        header["content"] = fingerprints(settings)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise _not_writable(path, error) from error
        try:
            self._lock = Lock(path, f"Another process is writing to {path}. Wait for it, or give another --output.")
            self._file.seek(0)
            content = self._file.read()
            whole, newline, _ = content.rpartition(b"\n")  # what follows was cut short
            lines = whole.split(b"\n") if newline else []
            if not _is_journal(content):
                raise ConfigurationError(
                    f"{path} is not the journal of an evaluation, and would be replaced. Move it away, or give another "
                    "--output."
                )
            if len(lines) > 1 and not resume and not overwrite:
                raise ConfigurationError(
                    f"{path} holds {len(lines) - 1} finished puzzles already. Add --resume to go on with them, "
                    "--overwrite to begin anew, or give another --output."
                )
            if resume and len(lines) > 1:
                _check_header(lines[0], header, path)
                found, self.unread = _results(lines[1:])
                self.results = [result for result in found if result.key in plan]
                self._file.truncate(len(whole) + 1)
            else:
                self._file.truncate(0)
                self._write(header)
        except OSError as error:
            self.close()
            raise _not_writable(path, error) from error
        except ConfigurationError:
            self.close()
            raise

    def add(self, result: EpisodeResult) -> None:
        """Write down a finished episode.

        Raises:
            ConfigurationError: If it cannot be written, such as on a full disk; what was written before is kept.
        """
        try:
            self._write(result.to_json())
        except OSError as error:
            raise ConfigurationError(
                f"{self.path} cannot be written: {reason_of(error)}. What was written is kept; mend that, and resume."
            ) from error
        self.results.append(result)

    def close(self) -> None:
        """Close the file, and let others open it."""
        self._file.close()
        if hasattr(self, "_lock"):
            self._lock.let_go()

    def _write(self, value: object) -> None:
        line = memoryview((json.dumps(value, separators=(",", ":")) + "\n").encode())
        start = self._file.seek(0, os.SEEK_END)
        try:
            while line:  # one call, but for a full disk or a pipe
                line = line[self._file.write(line) or 0 :]
        except OSError:
            self._file.truncate(start)
            raise


def read_journal(path: Path) -> tuple[dict[str, Any], list[EpisodeResult]]:
    """Read a journal without opening it for writing.

    Args:
        path: The file.

    Returns:
        The settings, and the finished episodes.

    Raises:
        ConfigurationError: If it is no journal, or one of another version.
    """
    try:
        lines = path.read_bytes().rpartition(b"\n")[0].split(b"\n")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {reason_of(error)}.") from error
    return _read_header(lines[0], path), _results(lines[1:])[0]


def _plain(plan: EvaluationPlan) -> dict[str, Any]:
    """Return the settings as JSON gives them back.

    Raises:
        ConfigurationError: If one is not of JSON's types.
    """
    settings = plan.to_json()
    for group in ("options", "policy_options"):
        for name, value in settings[group].items():
            try:
                json.dumps(value)
            except (TypeError, ValueError):
                raise ConfigurationError(
                    f"{group}: {name}={value!r:.100} cannot be written down, so this evaluation cannot keep a journal. "
                    "Give names, numbers, texts, lists and dictionaries only."
                ) from None
    return json.loads(json.dumps(settings))


def _read_header(line: bytes, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or "schema" not in header:
        older = isinstance(header, dict) and "policy" in header
        what = "was written by an older version of agile_gym" if older else "is not the journal of an evaluation"
        raise ConfigurationError(f"{path} {what}, so it cannot be resumed. Give another --output, or --overwrite.")
    if header["schema"] != JOURNAL_SCHEMA:
        raise ConfigurationError(
            f"{path} has the schema {header['schema']!r:.80}; this version of agile_gym reads {JOURNAL_SCHEMA}. Give "
            "another --output, or --overwrite."
        )
    return header  # pyright: ignore[reportUnknownVariableType] -- json.loads is untyped


def _check_header(line: bytes, header: Mapping[str, Any], path: Path) -> None:
    """Check that a journal was begun with the same settings.

    Raises:
        ConfigurationError: If not; the settings that differ are named.
    """
    there = _adopted(_read_header(line, path), header)
    if there.get("photographs") != header["photographs"] and there.get("plan") == header["plan"]:
        raise ConfigurationError(
            f"{path} holds an evaluation with other photographs: {there.get('photographs')!r:.300}, and now they are "
            f"{header['photographs']}. Give the same images, or another --output."
        )
    if {**there, "content": None} == {**header, "content": None}:
        return
    plan, new = there.get("plan"), header["plan"]
    old = cast("dict[str, Any]", plan) if isinstance(plan, dict) else {}
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    differ = "; ".join(
        f"{printable(name[:80])}: {old.get(name)!r:.300} there, {new.get(name)!r:.300} now" for name in names
    )
    raise ConfigurationError(
        f"{path} holds an evaluation with other settings, so it cannot be resumed with these. Give the same, or "
        f"another --output. They differ in {differ or 'the layout'}."
    )


def _adopted(there: dict[str, Any], header: Mapping[str, Any]) -> dict[str, Any]:
    """Return a header with the paths of another one wherever these lead to the same content."""
    plan, before = there.get("plan"), there.get("content", {})
    if not isinstance(plan, dict) or not isinstance(before, dict):
        return there
    old = adopt_paths(cast("dict[str, Any]", plan), header["plan"], cast("dict[str, Any]", before), header["content"])
    ours, theirs = header["plan"].get("images"), old.get("images")
    cropped_alike = "crop" in header["plan"]["options"] or default_crop(theirs) == default_crop(ours)
    if header["photographs"] and there.get("photographs") == header["photographs"] and cropped_alike:
        old["images"] = ours
    return {**there, "plan": old}


def _is_journal(content: bytes) -> bool:
    """Tell whether a file is a journal, of whatever version, perhaps cut short, or empty."""
    first, newline, _ = content.partition(b"\n")
    if first[: len(_BEGINNING)] == _BEGINNING[: len(first)]:
        return True
    try:
        header: Any = json.loads(first) if newline else None
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "policy" in header and "episodes" in header  # version 1


def _results(lines: Iterable[bytes]) -> tuple[list[EpisodeResult], int]:
    """Return the results that can be read, the first of each episode, and the number of lines that cannot."""
    found: dict[object, EpisodeResult] = {}
    unread = 0
    for line in lines:
        try:
            result = EpisodeResult.from_json(json.loads(line))
        except (ValueError, RecursionError):
            unread += 1
            continue
        found.setdefault(result.key, result)
    return list(found.values()), unread


def _not_writable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{path} cannot be written: {reason_of(error)}. Give another --output.")
