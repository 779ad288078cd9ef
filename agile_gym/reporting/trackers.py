"""Figures of a run on their way to TensorBoard and to Weights & Biases, which are optional."""

from __future__ import annotations

import importlib
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agile_gym.errors import MissingDependencyError

__all__ = ["Boards", "begin_wandb", "import_wandb"]

FLUSH_SECONDS = 30
"""Seconds after which events are on disk, for readers during the run."""


class Boards:
    """TensorBoard's events: a run a stage, so that each counts its own iterations. Without tensorboardX, nothing."""

    def __init__(self, folder: Path, stages: Sequence[str]) -> None:
        """Begin, or go on after events that are there.

        Args:
            folder: Folder of the events, with a folder for each stage.
            stages: The stages.
        """
        self._stages = stages
        self._folder = folder
        self._writers: dict[str, Any] = {}
        self._flushed = time.monotonic()
        try:
            importlib.import_module("tensorboardX")
            self._events: Any = importlib.import_module("tensorboardX.event_file_writer")
            self._protocol: Any = importlib.import_module("tensorboardX.proto.event_pb2")
            self._summary: Any = importlib.import_module("tensorboardX.summary")
        except ImportError:
            self._events = None

    def add(self, record: Mapping[str, Any]) -> None:
        """Write the figures of a record; if that fails, as on a full disk, no more are written."""
        if self._events is None:
            return
        stage, folder = record["stage"], self._folder / record["stage"]
        try:
            if stage not in self._writers:  # not SummaryWriter, whose thread dies on a full disk and is waited for
                folder.mkdir(parents=True, exist_ok=True)
                self._writers[stage] = self._events.EventsWriter(str(folder / "events"), f".{uuid.uuid4().hex[:8]}")
            for name, value in record.items():
                if name not in ("stage", "iteration"):
                    summary = self._summary.scalar(name, value)
                    event = self._protocol.Event(wall_time=time.time(), step=record["iteration"], summary=summary)
                    self._writers[stage].write_event(event)
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self.flush()
        except OSError:
            self._give_up()

    def rewrite(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Begin anew: events cannot be taken back."""
        if self._events is None:
            return
        self.close()
        for stage in self._stages:
            for path in (self._folder / stage).glob("events.out.tfevents.*"):
                path.unlink(missing_ok=True)
        for record in records:
            self.add(record)

    def flush(self) -> None:
        """Make sure that all is on disk."""
        self._flushed = time.monotonic()
        try:
            for writer in self._writers.values():
                writer.flush()
        except OSError:
            self._give_up()

    def close(self) -> None:
        """Close the files; later figures begin new ones."""
        for writer in self._writers.values():
            try:
                writer.close()
            except OSError:  # a failed write is not tried again
                raw: Any = writer
                for name in ("_py_recordio_writer", "_writer", "raw"):
                    raw = getattr(raw, name, None)
                if raw is not None:
                    raw.close()
        self._writers = {}

    def _give_up(self) -> None:
        self.close()
        self._events = None


def import_wandb() -> Any:  # noqa: ANN401 -- a module
    """Import Weights & Biases.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise MissingDependencyError(
            "The package 'wandb' is needed to send figures to Weights & Biases. Install it with: pip install wandb. Or "
            "leave it out: all figures are in metrics.csv, too."
        ) from error


def begin_wandb(wandb: Any, folder: Path, settings: Mapping[str, Any], stages: Sequence[str]) -> Any:  # noqa: ANN401 -- wandb's types
    """Begin a run of Weights & Biases, or go on with the one that the folder names."""
    path = folder / "wandb-id.txt"
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12], encoding="ascii")
    run = wandb.init(
        project="agile-gym",
        name=folder.resolve().name,
        id=path.read_text(encoding="ascii").strip(),
        dir=str(folder),
        config=dict(settings),
        resume="allow",
    )
    for stage in stages:
        run.define_metric(f"{stage}/*", step_metric=f"{stage}/iteration")
    return run
