"""Writing of transcripts to a folder during a run, safe against a kill.

A run's folder holds ``episodes.jsonl``, one record a line (`agile_gym.transcripts.values`), and next to it ``images/``,
with each distinct image once. As Parquet, the same lines are packed into ``episodes-00000.parquet`` and so on, with the
images inside, whenever there are enough of them and at the end; until then they are safe as lines.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from agile_gym.errors import ConfigurationError, TranscriptError, did_you_mean, reason_of
from agile_gym.files import Lock, import_pyarrow, replacing, sweep
from agile_gym.outputs import list_names
from agile_gym.transcripts.parts import filter_part, is_part, list_parts, next_part, part_ids, write_part
from agile_gym.transcripts.pictures import ImageFolder
from agile_gym.transcripts.reading import EPISODES, StoredLine, read_lines
from agile_gym.transcripts.record import Transcript
from agile_gym.transcripts.values import MAX_LINE, RecordProblem, dump_record, image_refs, parse_record, to_record

__all__ = ["FORMATS", "TranscriptWriter", "check_own_transcripts"]

FORMATS = ("jsonl", "parquet")
PART_EPISODES = 1000
"""Episodes of a Parquet part."""
_RESUME = "What was written is kept; resume when that is mended, or give another folder."


class TranscriptWriter:
    """Writer of transcripts, one by one; use it in a ``with`` block, or call `close`.

    An episode is whole on disk when `append` returns: its images first, each under its final name only when complete,
    then its line in one go. One process writes to a folder at a time.

    Attributes:
        folder: The folder.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        format: Literal["jsonl", "parquet"] = "jsonl",  # noqa: A002 -- the word for it
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Open a folder, which is made if need be.

        Args:
            folder: Folder for the transcripts.
            format: ``"jsonl"``, or ``"parquet"``, which needs pyarrow.
            resume: Go on after the transcripts that are there. A line that a kill has cut short is dropped.
            overwrite: Begin anew even if there are transcripts; they are deleted. Files of these names that are no
                transcripts are refused, and other files stay.

        Raises:
            ConfigurationError: If the format is unknown, or transcripts are there and neither ``resume`` nor
                ``overwrite`` is given.
            TranscriptError: If the files there are damaged, cannot be written, or are being written by another process.
            MissingDependencyError: If Parquet is requested, or there, and pyarrow is not installed.
        """
        if format not in FORMATS:
            raise ConfigurationError(
                f"format={format!r} is not a format of transcripts. {did_you_mean(format, FORMATS)}"
            )
        if format == "parquet":
            import_pyarrow()  # its lack shows before anything is played
        self.folder = Path(folder)
        self._lines = self.folder / EPISODES
        self._images = ImageFolder(self.folder)
        self._parquet = format == "parquet"
        self._ids: dict[str, None] = {}
        self._file = -1
        self._lock: Lock | None = None
        _OPEN.add(self)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(
                self.folder,
                f"Another process is writing transcripts to {self.folder}. Wait for it to end, or give another folder.",
                TranscriptError,
            )
            if (self.folder / "dataset_info.json").exists():
                raise ConfigurationError(
                    f"{self.folder} holds what agile-gym export wrote, with images of its own. Give another folder."
                )
            if self._lines.is_symlink() or (self._lines.exists() and not self._lines.is_file()):
                raise OSError(f"{EPISODES} is not a file but leads elsewhere")
            there = list_parts(self.folder)
            if overwrite and not resume:
                check_own_transcripts(self.folder)
                self._clear(there)
            elif not resume and (there or _has_lines(self._lines)):
                raise ConfigurationError(
                    f"{self.folder} holds transcripts already. Resume to go on after them, overwrite to begin anew, or "
                    "give another folder."
                )
            self._resume()
        except OSError as error:
            self.close()
            raise TranscriptError(
                f"{self.folder} cannot be written: {reason_of(error)}. Give another folder."
            ) from error
        except BaseException:
            self.close()
            raise

    @property
    def ids(self) -> Collection[str]:
        """Ids of the episodes that are in the folder, in the order in which they were written."""
        return self._ids.keys()

    def append(self, transcript: Transcript) -> bool:
        """Write an episode.

        Args:
            transcript: The episode.

        Returns:
            True if it was written: an id that is there already is not written again.

        Raises:
            ConfigurationError: If it holds something that cannot be stored; then nothing has changed.
            TranscriptError: If the disk is full, for instance. The episodes of `ids` are safe all the same.
        """
        if transcript.id in self._ids:
            return False
        self._check_open()
        try:
            self._write(dump_record(to_record(transcript, self._images.add)))
            self._ids[transcript.id] = None
            self._waiting += 1
            if self._parquet and self._waiting >= PART_EPISODES:
                self._pack()
        except OSError as error:
            raise TranscriptError(f"{self.folder} cannot be written: {reason_of(error)}. {_RESUME}") from error
        return True

    def keep(self, ids: Collection[str]) -> None:
        """Drop all episodes but those given, so that the folder agrees with a list of finished ones.

        Args:
            ids: Ids to keep; those that are not there are passed over.

        Raises:
            TranscriptError: If the files cannot be read or written.
        """
        self._check_open()
        wanted = set(ids)
        if all(name in wanted for name in self._ids):
            return
        try:
            for path in list_parts(self.folder):
                filter_part(path, wanted)
            self._rewrite(line for line in read_lines(self._lines) if line.record["id"] in wanted)
        except OSError as error:
            raise TranscriptError(f"{self.folder} cannot be written: {reason_of(error)}. {_RESUME}") from error
        self._ids = {name: None for name in self._ids if name in wanted}

    def close(self) -> None:
        """Finish: pack the remaining lines, if the format is Parquet, and release the lock of the folder.

        Raises:
            TranscriptError: If the disk is full, for instance; then episodes that are not packed are kept as lines.
        """
        packed = False
        try:
            if self._file >= 0 and self._parquet:
                if self._waiting:
                    self._pack()
                packed = True
        except OSError as error:
            raise TranscriptError(f"{self.folder} cannot be written: {reason_of(error)}. {_RESUME}") from error
        finally:
            self.let_go()
        if packed and list_parts(self.folder):
            self._lines.unlink(missing_ok=True)  # it is empty

    def let_go(self) -> None:
        """Close the files as they are, without packing, as a forked process does with its parent's writer."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        if self._lock is not None:
            self._lock.let_go()

    def __enter__(self) -> TranscriptWriter:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the writer."""
        self.close()

    def _resume(self) -> None:
        """Read the existing episodes, and cut off a line that a kill has left incomplete."""
        self._images.tidy()
        sweep(self.folder)
        packed: dict[str, None] = {name: None for path in list_parts(self.folder) for name in part_ids(path)}
        self._ids = dict(packed)
        repeated, count, end, whole = False, 0, 0, True
        if self._lines.exists():
            for line in read_lines(self._lines):
                repeated = repeated or line.record["id"] in self._ids
                self._ids[line.record["id"]] = None
                count, end, whole = count + 1, line.offset + line.length, line.whole
        self._open(count, end)
        if not whole:  # a complete record without its end, as some editors leave it
            self._write(b"\n")
        if repeated:  # the packing was interrupted between the part and the lines
            self._rewrite(_first_of_each(self._lines, packed))

    def _open(self, count: int, end: int) -> None:
        """Open the file of lines for appending, cut to ``end`` bytes, which hold ``count`` lines."""
        self._file = os.open(self._lines, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        os.ftruncate(self._file, end)
        self._waiting = count

    def _write(self, data: bytes) -> None:
        """Append bytes, all of them or none."""
        start = os.fstat(self._file).st_size
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except BaseException:
            os.ftruncate(self._file, start)
            raise

    def _rewrite(self, lines: Iterator[StoredLine]) -> None:
        """Replace the file of lines by some of its lines, and drop the images that these do not show."""
        count = end = 0
        with replacing(self._lines) as temporary:
            with temporary.open("wb") as file:
                for line in lines:
                    end += file.write(dump_record(line.record))
                    count += 1
            os.close(self._file)  # some systems replace no file that is open
            self._file = -1
        self._open(count, end)
        shown = {ref for line in read_lines(self._lines) for ref in image_refs(line.record)}
        for ref in self._images.refs():
            if ref not in shown:
                self._images.remove(ref)
        self._images.tidy()

    def _pack(self) -> None:
        """Move the lines into a Parquet part."""
        shown: dict[str, None] = {}

        def records() -> Iterator[dict[str, Any]]:
            for line in read_lines(self._lines):
                shown.update(dict.fromkeys(image_refs(line.record)))
                yield line.record

        write_part(next_part(self.folder), records(), self._images.read)
        os.ftruncate(self._file, 0)
        self._waiting = 0
        for ref in shown:
            self._images.remove(ref)
        self._images.tidy()

    def _check_open(self) -> None:
        if self._file < 0:
            raise ConfigurationError("This TranscriptWriter is closed; open another one with resume=True.")

    def _clear(self, parts: list[Path]) -> None:
        for path in (*parts, self._lines):
            path.unlink(missing_ok=True)
        for ref in self._images.refs():
            self._images.remove(ref)
        self._images.tidy()


_OPEN: weakref.WeakSet[TranscriptWriter] = weakref.WeakSet()


def _after_fork() -> None:
    """Let go of the parent's writers, whose locks would otherwise last as long as this process."""
    for writer in _OPEN:
        writer.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _first_of_each(path: Path, seen: dict[str, None]) -> Iterator[StoredLine]:
    """Return the lines whose id has not been seen before."""
    known = dict(seen)
    for line in read_lines(path):
        if line.record["id"] not in known:
            known[line.record["id"]] = None
            yield line


def check_own_transcripts(folder: Path) -> None:
    """Check that files with the names of transcripts are transcripts, before they are deleted.

    Damaged ones count as such, as long as one line, or the columns of a part, can be read.

    Raises:
        ConfigurationError: If not; the files are named.
        OSError: If they cannot be read.
    """
    foreign = [path.name for path in list_parts(folder) if path.is_symlink() or not is_part(path)]
    lines = folder / EPISODES
    if lines.exists() and not (lines.is_file() and _has_own_line(lines)):
        foreign.append(EPISODES)
    if foreign:
        raise ConfigurationError(
            f"{folder} holds files that are no transcripts, and would be deleted: {list_names(foreign)}. Move them "
            "away, or give another folder."
        )


def _has_own_line(path: Path) -> bool:
    """Return whether a file is empty, or one of its lines is a record, if only the last one, which was cut short."""
    empty = True
    with path.open("rb") as file:
        while data := file.readline(MAX_LINE + 1):
            empty = empty and not data.strip()
            try:
                parse_record(data)
            except RecordProblem:
                if data.startswith(b'{"format":') and not data.endswith(b"\n"):
                    return True
                continue
            return True
    return empty


def _has_lines(path: Path) -> bool:
    """Return whether a file holds at least one record, or is damaged."""
    return path.exists() and next(read_lines(path), None) is not None
