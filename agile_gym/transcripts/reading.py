"""Reading of stored transcripts, one by one, from lines of JSON and from Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from agile_gym.errors import TranscriptError, reason_of
from agile_gym.images.folder import EPISODES
from agile_gym.images.formats import DEFAULT_MAX_PIXELS
from agile_gym.transcripts.parts import list_parts, read_part, read_row
from agile_gym.transcripts.pictures import ImageFolder, check_ref, decode_png
from agile_gym.transcripts.record import Image, Segment, Transcript
from agile_gym.transcripts.values import MAX_LINE, RecordProblem, from_record, image_refs, parse_record

__all__ = [
    "EPISODES",
    "StoredEpisode",
    "StoredLine",
    "TranscriptHeader",
    "read_headers",
    "read_line",
    "read_lines",
    "read_transcripts",
]


class StoredLine(NamedTuple):
    """A record and its place.

    Attributes:
        record: The record.
        number: Number of its line, from 1.
        offset: Start of the line, in bytes.
        length: Length, its end included, in bytes.
        whole: True if it has its end.
    """

    record: dict[str, Any]
    number: int
    offset: int
    length: int
    whole: bool


def read_lines(path: Path) -> Iterator[StoredLine]:
    """Read the records of a file, one by one; a last one that a kill has cut short is passed over.

    Args:
        path: The file.

    Yields:
        The records, in order.

    Raises:
        TranscriptError: If the file cannot be read, or a line is not a record.
    """
    try:
        if not path.is_file():  # a pipe would be waited for without end
            raise OSError("it is not a file")
        with path.open("rb") as file:
            number, offset = 0, 0
            while data := file.readline(MAX_LINE + 1):
                number += 1
                whole = data.endswith(b"\n")
                if len(data) > MAX_LINE:
                    raise _damaged(path, number, f"has more than {MAX_LINE:,} bytes")
                if data.strip():
                    try:
                        record = parse_record(data)
                    except RecordProblem as problem:
                        if not whole:
                            return
                        raise _damaged(path, number, str(problem)) from problem
                    yield StoredLine(record, number, offset, len(data), whole)
                offset += len(data)
    except OSError as error:
        raise TranscriptError(
            f"{path} cannot be read: {reason_of(error)}. Give a folder or a file of transcripts."
        ) from error


def read_line(path: Path, number: int, offset: int, length: int, name: str) -> dict[str, Any]:
    """Read one record again.

    Args:
        path: The file.
        number: Number of its line.
        offset: Start of the line, in bytes.
        length: Length of the line, in bytes.
        name: The id that it must have.

    Raises:
        TranscriptError: If the file has changed since it was listed.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            record = parse_record(file.read(length))
    except (OSError, RecordProblem) as error:
        raise TranscriptError(f"{path}, line {number}, has changed since it was listed. Read it again.") from error
    if record["id"] != name:
        raise TranscriptError(f"{path}, line {number}, has changed since it was listed. Read it again.")
    return record


def _damaged(path: Path, number: int, problem: str) -> TranscriptError:
    return TranscriptError(
        f"{path}, line {number}, {problem}. Restore the file from a copy, or delete the line to go on without it."
    )


MAX_PIXELS = 8 * DEFAULT_MAX_PIXELS
"""Most pixels of the images of an episode together; one that is shown again counts again."""


class StoredEpisode(NamedTuple):
    """An episode as it is on disk.

    Attributes:
        where: File and line, for messages.
        record: The record.
        segments: The segments, where they are stored apart from the record.
        png: Returns the PNG file of a reference.
    """

    where: str
    record: dict[str, Any]
    segments: tuple[Segment, ...] | None
    png: Callable[[str], bytes]

    def transcript(self, *, images: bool) -> Transcript:
        """Return the transcript.

        Raises:
            TranscriptError: If the record is incomplete, or an image is missing or damaged.
        """
        known: dict[str, Image] = {}
        pixels = 0

        def load(ref: str) -> Image:
            nonlocal pixels
            if ref not in known:
                known[ref] = decode_png(self.png(ref), ref, f"The image {check_ref(ref)} of {self.where}")
            pixels += known[ref].size // 3
            if pixels > MAX_PIXELS:
                raise TranscriptError(
                    f"{self.where}, shows images of more than {MAX_PIXELS:,} pixels together. Read it without images "
                    "(images=False)."
                )
            return known[ref]

        try:
            return from_record(self.record, load if images else None, self.segments)
        except RecordProblem as problem:
            raise self.problem(problem) from problem

    def problem(self, problem: RecordProblem) -> TranscriptError:
        """Return the error for a problem of the record."""
        return TranscriptError(
            f"{self.where}, {problem}. Restore the file from a copy, or delete the episode to go on without it."
        )


class TranscriptHeader:
    """Header of a stored transcript, for lists of episodes; the rest is read on request.

    Attributes:
        id: Id of the episode.
        policy: Name of the policy.
        task: The puzzle; see `agile_gym.transcripts.Transcript`.
        solved: True if the right answer was given.
        score: Fraction of pieces right in the answer, 0 to 1.
        reward: The whole reward.
        truncated: True if the turns ran out.
        turns: Number of turns.
        errors: Kind of the error of each turn, or None.
    """

    def __init__(self, episode: StoredEpisode, fetch: Callable[[], StoredEpisode]) -> None:
        """Read the header from a record.

        Args:
            episode: The episode, perhaps without segments and images.
            fetch: Reads it again, with everything.

        Raises:
            TranscriptError: If the record is incomplete.
        """
        try:
            transcript = from_record(episode.record, None, ())
        except RecordProblem as problem:
            raise episode.problem(problem) from problem
        self.id = transcript.id
        self.policy = transcript.policy
        self.task: Mapping[str, Any] = transcript.task
        self.solved = transcript.solved
        self.score = transcript.score
        self.reward = transcript.reward["total"]
        self.truncated = transcript.truncated
        self.turns = len(transcript.turns)
        self.errors = tuple(turn.error for turn in transcript.turns)
        self._fetch = fetch

    def __repr__(self) -> str:
        """Return id, policy and result."""
        return f"TranscriptHeader({self.id!r}, {self.policy!r}, solved={self.solved}, turns={self.turns})"

    def load(self, *, images: bool = True) -> Transcript:
        """Read the transcript.

        Args:
            images: True to read its images.

        Raises:
            TranscriptError: If it is damaged, an image is missing, or the file has changed.
        """
        return self._fetch().transcript(images=images)

    def load_png(self) -> list[bytes]:
        """Read the images as PNG files, without decoding them, in the order of `Transcript.images`.

        Raises:
            TranscriptError: If one is missing, or the file has changed.
        """
        episode = self._fetch()
        try:
            refs = image_refs(episode.record)
        except RecordProblem as problem:
            raise episode.problem(problem) from problem
        known = {ref: episode.png(ref) for ref in refs}
        return [known[ref] for ref in refs]


def read_transcripts(
    path: str | Path, *, images: bool = True, select: Callable[[TranscriptHeader], bool] | None = None
) -> Iterator[Transcript]:
    """Read stored transcripts, one by one, in the order in which they were written.

    An episode whose writing was interrupted is passed over.

    Args:
        path: The folder of a run, or a ``.jsonl`` or ``.parquet`` file in it.
        images: True to read images; without them, transcripts are as if recorded with ``keep_images=False``.
        select: Filter of the episodes, called before their images are read; None selects all.

    Returns:
        An iterator over the transcripts; only one is held at a time.

    Raises:
        TranscriptError: If there are none, a file is damaged, or an image is missing; the message names file and line.
        MissingDependencyError: If it is Parquet and pyarrow is not installed.
    """
    return (
        episode.transcript(images=images)
        for episode, fetch in _episodes(_files(Path(path)), content=True)
        if select is None or select(TranscriptHeader(episode, fetch))
    )


def read_headers(path: str | Path) -> Iterator[TranscriptHeader]:
    """List stored transcripts without their images; see `read_transcripts`."""
    files = _files(Path(path))
    return (TranscriptHeader(episode, fetch) for episode, fetch in _episodes(files, content=False))


def _files(path: Path) -> list[Path]:
    """Return the files that hold the episodes, in order."""
    if path.is_file():
        if path.suffix not in (".jsonl", ".parquet"):
            raise TranscriptError(f"{path} is not a file of transcripts: its name must end in .jsonl or .parquet.")
        return [path]
    if not path.exists():
        raise TranscriptError(f"{path} does not exist. Give the folder of a run, or a .jsonl or .parquet file in it.")
    files = list_parts(path)
    if (path / EPISODES).exists():
        files.append(path / EPISODES)
    if not files:
        raise TranscriptError(f"{path} holds no transcripts: there is neither {EPISODES} nor episodes-*.parquet in it.")
    return files


def _episodes(files: list[Path], *, content: bool) -> Iterator[tuple[StoredEpisode, Callable[[], StoredEpisode]]]:
    """Read episodes, each with the function that reads it again."""
    seen: set[str] = set()
    for path in files:
        if path.suffix == ".parquet":
            for stored in read_part(path, content=content):
                where = f"{path}, row {stored.row} of row group {stored.group}"
                episode = StoredEpisode(where, stored.record, stored.segments, partial(_png, stored.images, where))
                seen.add(episode.record["id"])
                yield episode, partial(_fetch_row, path, stored.group, stored.row, episode.record["id"])
            continue
        folder = ImageFolder(path.parent)
        for line in read_lines(path):
            name = line.record["id"]
            if name not in seen:  # it may be in a part already, if its packing was interrupted
                seen.add(name)
                episode = StoredEpisode(f"{path}, line {line.number}", line.record, None, folder.read)
                yield episode, partial(_fetch_line, path, line.number, line.offset, line.length, name)


def _fetch_line(path: Path, number: int, offset: int, length: int, name: str) -> StoredEpisode:
    record = read_line(path, number, offset, length, name)
    return StoredEpisode(f"{path}, line {number}", record, None, ImageFolder(path.parent).read)


def _fetch_row(path: Path, group: int, row: int, name: str) -> StoredEpisode:
    stored = read_row(path, group, row, name)
    where = f"{path}, row {row} of row group {group}"
    return StoredEpisode(where, stored.record, stored.segments, partial(_png, stored.images, where))


def _png(images: dict[str, bytes] | None, where: str, ref: str) -> bytes:
    if images is None or ref not in images:
        raise TranscriptError(
            f"{where}, has no image {check_ref(ref)}. Restore the file from a copy, or read it without images."
        )
    return images[ref]
