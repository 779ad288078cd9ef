"""Figures of a run on their way to TensorBoard and to Weights & Biases, which are optional."""

from __future__ import annotations

import importlib
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agile_gym.errors import MissingDependencyError

__all__ = ["Boards", "begin_wandb", "import_wandb"]


class Boards:
    """TensorBoard's events: a run a stage, so that each counts its own iterations. Without tensorboardX, nothing."""

    def __init__(self, folder: Path, stages: Sequence[str]) -> None:
        """Begin, or go on after events that are there.

        Args:
            folder: Where they are, in a folder for each stage.
            stages: The stages.
        """
        self._stages = stages
        self._folder = folder
        self._writers: dict[str, Any] = {}
        try:
            self._module: Any = importlib.import_module("tensorboardX")
        except ImportError:
            self._module = None

    def add(self, record: Mapping[str, Any]) -> None:
        """Write the figures of a record."""
        if self._module is None:
            return
        stage = record["stage"]
        if stage not in self._writers:
            self._writers[stage] = self._module.SummaryWriter(logdir=str(self._folder / stage))
        for name, value in record.items():
            if name not in ("stage", "iteration"):
                self._writers[stage].add_scalar(name, value, record["iteration"])

    def rewrite(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Begin anew: events cannot be taken back."""
        if self._module is None:
            return
        self.close()
        for stage in self._stages:
            shutil.rmtree(self._folder / stage, ignore_errors=True)
        for record in records:
            self.add(record)

    def flush(self) -> None:
        """Make sure that all is on disk."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Close the files; what is added later begins new ones."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


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
