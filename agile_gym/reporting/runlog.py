"""Log of a run's metrics: one record an iteration, in files that survive a crash."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from agile_gym.errors import ConfigurationError, plain, reason_of
from agile_gym.files import write_text
from agile_gym.reporting.trackers import Boards, begin_wandb, import_wandb

__all__ = ["STAGES", "Record", "RunLog", "flatten_result", "numbers_of", "read_records"]

_TRAINED = ("loss", "grad_norm", "entropy", "ratio", "approx_kl", "kl_ref", "max_log_ratio")
"""Figures of the learner that are always finite, if nothing is wrong."""
_BOOKKEEPING = re.compile(
    r"default_optimizer_learning_rate|num_module_steps_trained.*|module_train_batch_size_mean|weights_seq_no|total_loss|"
    r"num_(non_)?trainable_parameters|diff_num_grad_updates.*|.*_throughput"
)
"""Figures of RLlib's own that add nothing."""


def flatten_result(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of an iteration from RLlib's result.

    Args:
        result: Result of ``algorithm.train()``.

    Returns:
        The algorithm's own metrics by their names, the learner's as ``learner/NAME``, the held-out evaluation's as
        ``eval/NAME``; and, where they can be computed, ``episodes_per_second`` (of the whole iteration),
        ``tokens_per_second`` (written, while playing; of the whole iteration if groups were played ahead),
        ``trained_tokens_per_second`` (while updating), ``share_constant`` (of the groups that were played, those
        without variance) and ``learner/not_finite`` (number of loss, gradient and the like that were not finite). NaN
        is left out, and so are RLlib's own counters.
    """
    figures = numbers_of(_part(result, "grpo"))
    learner = numbers_of(_part(_part(result, "learners"), "default_policy"))
    figures |= {f"learner/{name}": value for name, value in learner.items() if not _BOOKKEEPING.fullmatch(name)}
    figures |= {f"eval/{name}": value for name, value in numbers_of(_part(result, "evaluation")).items()}
    if learner:
        figures["learner/not_finite"] = float(sum(not math.isfinite(learner.get(name, 0.0)) for name in _TRAINED))
    rollout, update = figures.get("seconds_rollout", 0.0), figures.get("seconds_update", 0.0)
    whole = rollout + update + figures.get("seconds_sync", 0.0)
    for name, amount, divisor in (
        ("episodes_per_second", "episodes", whole),
        ("tokens_per_second", "tokens_written", whole if figures.get("lag_max") else rollout),
        ("trained_tokens_per_second", "learner/tokens", update),
        ("share_constant", "groups_constant", figures.get("groups_played", 0.0)),
    ):
        if amount in figures and divisor > 0:
            figures[name] = figures[amount] / divisor
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def _part(result: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value: object = result.get(key)
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """Return a number as a float, and None for anything else: bools, texts and tables."""
    numbers: dict[str, float] = {}
    for name, value in values.items():
        number = _plain_number(value)
        if number is not None:
            numbers[str(name)] = number
    return numbers


def _plain_number(value: Any) -> float | None:  # noqa: ANN401 -- any value
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a scalar of numpy or torch
        value = value.item()
    number = plain(value)
    return float(number) if isinstance(number, int | float) and not isinstance(number, bool) else None


Record = dict[str, Any]
"""``stage`` (a text), ``iteration`` (a whole number), ``seconds`` since the run's start, and metrics (floats)."""
STAGES = ("vision", "sft", "grpo")
"""The stages of a run, in their order."""
_HEAD = ("stage", "iteration", "seconds")
_BEGINNING = b'{"stage": "'
TABLE = "metrics.csv"
MAX_FILE = 1 << 30
"""Largest file of records that is read, in bytes."""


class RunLog:
    """Records of a run in a folder, and in TensorBoard and Weights & Biases where these are installed.

    ``metrics.jsonl`` has a line for each record, on disk as soon as `add` returns. ``metrics.csv`` is written anew by
    `flush`. TensorBoard's events are in ``tensorboard/STAGE``, if tensorboardX is installed.

    Attributes:
        folder: The run's folder.
        records: All records, in order.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        tensorboard: bool = True,
        wandb: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the log of a run, and go on after the records that are there.

        Args:
            folder: The run's folder; it is made.
            tensorboard: True to write TensorBoard's events, if tensorboardX is installed.
            wandb: True to send records to Weights & Biases, too.
            settings: Configuration of the run that Weights & Biases shows.

        Raises:
            ConfigurationError: If the file that is there is damaged.
            MissingDependencyError: If Weights & Biases is requested and not installed.
        """
        self.folder = Path(folder)
        self._wandb = import_wandb() if wandb else None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / "metrics.jsonl"
        self.records: list[Record] = self._recover()
        self._boards = Boards(self.folder / "tensorboard", STAGES) if tensorboard else None
        self._run = None if self._wandb is None else begin_wandb(self._wandb, self.folder, settings or {}, STAGES)
        self._file = self._path.open("ab", buffering=0)
        self._start_clock()

    def _recover(self) -> list[Record]:
        """Read the records, and cut a torn last line off the file."""
        records, size = _read(self._path)
        torn = self._path.exists() and self._path.stat().st_size > size
        rows = _count_rows(self.folder / TABLE)
        if rows > len(records) + torn:
            raise ConfigurationError(
                f"{self._path} has lost records: it holds {len(records):,}, and {self.folder / TABLE} {rows:,}, which "
                "would be replaced. Restore it from a copy; or move that table away to go on without them."
            )
        if torn:
            with self._path.open("r+b") as file:
                file.truncate(size)
        return records

    def _start_clock(self) -> None:
        self._earlier = float(self.records[-1]["seconds"]) if self.records else 0.0
        self._opened = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of the run; the time between an interruption and the resumption does not count."""
        return self._earlier + time.monotonic() - self._opened

    def add(self, stage: str, iteration: int, metrics: Mapping[str, Any], *, seconds: float | None = None) -> Record:
        """Write a record down.

        Args:
            stage: One of `STAGES`.
            iteration: Its number within the stage, larger than the last one's.
            metrics: Numbers by name. Those that are not finite, and values that are no numbers, are left out.
            seconds: Wall-clock seconds since the run's start; by default `seconds`.

        Returns:
            The record.

        Raises:
            ConfigurationError: If the record does not come after the last one, or the stage is not known.
            OSError: If it cannot be written.
        """
        if stage not in STAGES:
            raise ConfigurationError(f"stage={stage!r} is not known; give one of {', '.join(STAGES)}.")
        if self.records and _place(stage, iteration) <= _place_of(last := self.records[-1]):
            raise ConfigurationError(
                f"Iteration {iteration} of {stage} does not come after iteration {last['iteration']} of "
                f"{last['stage']}, which is logged already. Call truncate_after before iterations are done again."
            )
        figures = {name: value for name, value in numbers_of(metrics).items() if math.isfinite(value)}
        passed = self.seconds if seconds is None else seconds
        record: Record = {"stage": stage, "iteration": iteration, "seconds": round(passed, 3)}
        record |= {name: value for name, value in figures.items() if name not in _HEAD}
        self._write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self.records.append(record)
        if self._boards is not None:
            self._boards.add(record)
        if self._run is not None:
            self._run.log({f"{stage}/{name}": value for name, value in record.items() if name != "stage"})
        return record

    def _write(self, line: bytes) -> None:
        """Append a line, all of it or nothing."""
        start = self._file.seek(0, os.SEEK_END)
        left = memoryview(line)
        try:
            while left:
                left = left[self._file.write(left) or 0 :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(start)
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def history(self, stage: str | None = None) -> list[Record]:
        """Return the records of a stage, or all."""
        return [record for record in self.records if stage in (None, record["stage"])]

    def truncate_after(self, stage: str, iteration: int) -> None:
        """Drop the records after an iteration, from which a run goes on.

        Args:
            stage: The stage that goes on.
            iteration: The last iteration that is kept; 0, or less, drops all of the stage but records of such numbers.

        Raises:
            ConfigurationError: If the stage is not known.
        """
        if stage not in STAGES:
            raise ConfigurationError(f"stage={stage!r} is not known; give one of {', '.join(STAGES)}.")
        kept = [record for record in self.records if _place_of(record) <= _place(stage, iteration)]
        if len(kept) == len(self.records):
            return
        self._write_table(kept)  # first: a table with more rows than there are records shows that some were lost
        self._file.close()
        try:
            with write_text(self._path) as file:
                file.writelines(json.dumps(record, allow_nan=False) + "\n" for record in kept)
        finally:
            self._file = self._path.open("ab", buffering=0)
        self.records = kept
        self._start_clock()
        if self._boards is not None:
            self._boards.rewrite(kept)

    def flush(self) -> Path:
        """Write ``metrics.csv`` anew, with all columns of all records, and return its path."""
        path = self._write_table(self.records)
        if self._boards is not None:
            self._boards.flush()
        return path

    def _write_table(self, records: Sequence[Record]) -> Path:
        columns = [*_HEAD, *sorted({name for record in records for name in record} - set(_HEAD))]
        path = self.folder / TABLE
        with write_text(path) as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)
        return path

    def close(self) -> None:
        """Write ``metrics.csv`` and close all files."""
        if self._file.closed:
            return
        try:
            self.flush()
        finally:
            self._file.close()
            if self._boards is not None:
                self._boards.close()
            if self._run is not None:
                self._run.finish()

    def __enter__(self) -> Self:
        """Return the log itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the log; an error that ends the run takes precedence over one of closing, such as on a full disk."""
        with suppress(*(() if kind is None else (OSError,))):
            self.close()


def read_records(path: str | Path) -> list[Record]:
    """Read ``metrics.jsonl``; a last line that was not written to its end is left out.

    Args:
        path: The file.

    Returns:
        The records, in order; none if there is no file.

    Raises:
        ConfigurationError: If a line is no record, or the file is too large.
    """
    return _read(Path(path))[0]


def _count_rows(path: Path) -> int:
    """Return the number of rows of a table of records; 0 if there is none, or it is not one."""
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return 0
    head, *rows = text.splitlines() or [""]
    return sum(1 for row in rows if row.startswith(tuple(f"{stage}," for stage in STAGES))) * head.startswith(_HEAD[0])


def _read(path: Path) -> tuple[list[Record], int]:
    """Return the records, and the bytes of their lines."""
    if not path.exists():
        return [], 0
    try:
        if not path.is_file():
            raise OSError("it is not a file")
        if path.stat().st_size > MAX_FILE:
            raise ConfigurationError(f"{path} has more than {MAX_FILE:,} bytes, which no log of a run has.")
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {reason_of(error)}. Mend that.") from error
    records: list[Record] = []
    size = 0
    for number, line in enumerate(io.BytesIO(content), 1):
        if not line.endswith(b"\n") and _is_torn(line):
            break
        record = _record(line)
        if record is None:
            raise ConfigurationError(
                f"Line {number} of {path} is no record of a run: {line[:80]!r}. Restore the file from a copy, or begin "
                "the run in another folder."
            )
        records.append(record)
        size += len(line)
    return records, size


def _is_torn(line: bytes) -> bool:
    """Return whether the end of a file is the beginning of a record that a kill has cut short."""
    if not line.strip(b"\0"):  # left by some file systems where a write was begun
        return True
    printable = all(32 <= byte < 127 for byte in line)
    return printable and line[: len(_BEGINNING)] == _BEGINNING[: len(line)]


def _record(line: bytes) -> Record | None:
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    record = cast(Record, value)
    numbers = [number for name, number in record.items() if name != "stage"]
    good = all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
    if not good or record.get("stage") not in STAGES or not isinstance(record.get("iteration"), int):
        return None
    return record if "seconds" in record else None


def _place(stage: str, iteration: int) -> tuple[int, int]:
    return STAGES.index(stage), iteration


def _place_of(record: Record) -> tuple[int, int]:
    return _place(record["stage"], record["iteration"])
