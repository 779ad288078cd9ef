"""Journal of finished episodes, and the session that keeps it in step with the transcripts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from agile_gym.envs.jigsaw.config import default_crop
from agile_gym.errors import ConfigurationError, printable, reason_of
from agile_gym.evaluation.plan import EvaluationPlan
from agile_gym.evaluation.report import is_report
from agile_gym.evaluation.run import EpisodeResult, PreparedPlan, hold_back, play_tasks
from agile_gym.evaluation.workers import play_in_workers
from agile_gym.files import Lock
from agile_gym.interruption import hold
from agile_gym.outputs import adopt_paths, check_replaceable, fingerprints
from agile_gym.policies.base import Policy
from agile_gym.transcripts.store import TranscriptWriter, check_own_transcripts

__all__ = ["JOURNAL_SCHEMA", "Journal", "Session", "blanked_path", "read_journal"]

JOURNAL_SCHEMA = 4
"""Version of the layout: 1 was a line with the plan, and had no samples; 2 had no looks; 3 had no behaviours."""
_READ_SCHEMAS = (2, 3, JOURNAL_SCHEMA)
_BEGINNING = b'{"schema":'


class Journal:
    """A file of finished episodes, one JSON text a line, below a line with the settings.

    Every line is handed to the system when its episode has ended, so that an interruption, even by SIGKILL, costs
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
            photographs: Identity of the photographs, in JSON's types, so that an evaluation is resumed with the same.
            resume: Keep the episodes that the file holds and go on after them.
            overwrite: Begin anew even if the file holds episodes.

        Raises:
            ConfigurationError: If it holds episodes and neither is set, if it is no journal, if it is to be
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
            whole, newline, _ = content.rpartition(b"\n")  # the rest was cut short
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
        """Close the file, and release its lock."""
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
    if header["schema"] not in _READ_SCHEMAS:
        raise ConfigurationError(
            f"{path} has the schema {header['schema']!r:.80}; this version of agile_gym reads "
            f"{_READ_SCHEMAS[0]} to {JOURNAL_SCHEMA}. Give another --output, or --overwrite."
        )
    return header  # pyright: ignore[reportUnknownVariableType] -- json.loads is untyped


def _check_header(line: bytes, header: Mapping[str, Any], path: Path) -> None:
    """Check that a journal was begun with the same settings.

    Raises:
        ConfigurationError: If not; the settings that differ are named.
    """
    there = _adopted({**_read_header(line, path), "schema": JOURNAL_SCHEMA}, header)
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
    """Return whether a file is a journal, of whatever version, perhaps cut short, or empty."""
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


def blanked_path(output: Path) -> Path:
    """Return the file of results with blanked looks, ``NAME-blanked.json``, that is beside ``NAME.json``."""
    return output.with_name(f"{output.stem}-blanked.json")


class Session:
    """The journal of an evaluation and its transcripts, which always agree, whenever the process is killed.

    A transcript is written before its line in the journal, and what the journal does not name is dropped when both are
    opened again. Use it in a ``with`` block, or call `close`.

    Attributes:
        plan: The plan.
        journal: The finished episodes.
        transcripts: Folder of the transcripts.
    """

    def __init__(
        self,
        prepared: PreparedPlan,
        output: Path,
        *,
        keep: int | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Open the files.

        Args:
            prepared: The plan.
            output: The file of results, ``NAME.json``. The journal is ``NAME.jsonl``, and the transcripts are in the
                folder ``NAME-transcripts``.
            keep: Transcripts to be kept a level; None leaves it to the policy, see `play_tasks`.
            resume: Go on after the episodes that are there.
            overwrite: Begin anew even if there are some.

        Raises:
            ConfigurationError: If there are episodes and neither is set, or they cannot be resumed; if a file
                would be replaced that no evaluation wrote; then the files are as they were.
            TranscriptError: If the transcripts that are there are damaged.
        """
        self.plan: EvaluationPlan = prepared.plan
        self.transcripts = output.with_name(f"{output.stem}-transcripts")
        self._prepared = prepared
        self._keep = keep
        self._writer: TranscriptWriter | None = None
        journal = output.with_suffix(".jsonl")
        check_replaceable(output, is_report, "a file of results of agile-gym eval")
        if output.exists() and not journal.exists() and not overwrite:
            raise ConfigurationError(
                f"{output} is there already, without the journal {journal} that an evaluation could go on with, and "
                "would be replaced. Give another --output, or --overwrite."
            )
        if overwrite and self.transcripts.exists():
            check_own_transcripts(self.transcripts)
        self.journal = Journal(
            journal,
            self.plan,
            photographs=prepared.photographs(),
            resume=resume,
            overwrite=overwrite,
        )
        try:
            if keep != 0 or self.transcripts.exists():
                self._writer = TranscriptWriter(self.transcripts, resume=resume, overwrite=overwrite)
                done = {result.key for result in self.journal.results}
                names = {task.name for task in self.plan.tasks() if task.key in done}
                self._check_agreement(self._writer, names)
                self._writer.keep(names)
        except BaseException:
            self.close()
            raise

    def _check_agreement(self, writer: TranscriptWriter, done: Collection[str]) -> None:
        """Check that the journal has not lost episodes whose transcripts are there and would be dropped.

        A kill leaves at most one transcript whose line is missing, and a line that cannot be read lacks one, too.

        Raises:
            ConfigurationError: If it has.
        """
        more = [name for name in writer.ids if name not in done]
        if len(more) > 1 + self.journal.unread:
            raise ConfigurationError(
                f"The journal {self.journal.path} lacks {len(more):,} puzzles whose transcripts are in "
                f"{self.transcripts} ({more[0]!r:.80} for one), so it has lost lines. Restore it from a copy; or move "
                "that folder away, and they are played again."
            )

    def play(
        self,
        policy: Policy | None,
        *,
        batch: int = 8,
        workers: int = 1,
        on_lost: Callable[[str], None] | None = None,
    ) -> Iterator[EpisodeResult]:
        """Play the remaining puzzles.

        Args:
            policy: Plays. It is not needed where several processes play, as each makes its own.
            batch: Number of episodes played in one batch (in each process).
            workers: Number of processes; 1 plays in this one.
            on_lost: Called with a sentence when a worker process was lost.

        Yields:
            Each episode when it has ended and is written down.

        Raises:
            AgileGymError: If the policy fails or gives up everything (see `hold_back`), or files cannot be written.
                What is written down is kept.
        """
        done = {result.key for result in self.journal.results}
        tasks = (task for task in self.plan.tasks() if task.key not in done)
        if workers == 1 and policy is not None:
            policy.reset(self.plan.seed)
            episodes = play_tasks(policy, self._prepared, tasks, batch=batch, keep=self._keep)
        else:
            episodes = play_in_workers(
                self._prepared, tasks, workers=workers, batch=batch, keep=self._keep, on_lost=on_lost
            )
        proven = any(result.written for result in self.journal.results)
        for result, transcript in hold_back(episodes, self.plan.policy, proven=proven):
            with hold():
                if transcript is not None and self._writer is not None:
                    self._writer.append(transcript)
                self.journal.add(result)
            yield result

    def close(self) -> None:
        """Close the files."""
        try:
            if self._writer is not None:
                self._writer.close()
        finally:
            self.journal.close()

    def __enter__(self) -> Self:
        """Return the session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the session."""
        self.close()
