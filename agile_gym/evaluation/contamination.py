"""Contamination: images of a training set that are also among the photographs or pictures of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import ConfigurationError, printable
from agile_gym.evaluation.run import EpisodeResult
from agile_gym.files import write_text
from agile_gym.images.formats import describe_error
from agile_gym.images.sources import ImageCollection, ImageSource, alike_images, is_copy
from agile_gym.questions.opening import BENCHMARKS, open_questions
from agile_gym.questions.records import MAX_PIXELS, Picture

__all__ = [
    "OVERLAPS",
    "BenchmarkOverlap",
    "Match",
    "Overlap",
    "PictureMatch",
    "common_images",
    "find_overlap",
    "find_training_pictures",
    "overlap_text",
    "read_overlaps",
    "write_overlaps",
]

OVERLAPS = "training_images.json"
"""File of a run that has the training images among the pictures of benchmarks."""
SHOWN = 10
"""Matches that are printed; all are in the results."""

Kind = Literal["same", "copy"]
"""``"same"``: the same bytes; ``"copy"``: a copy in another size, format or quality."""


class Match(NamedTuple):
    """A photograph that is also in the training set.

    Attributes:
        image_id: Hash of its content.
        name: Its name.
        training_name: Its name in the training set.
        kind: Kind of the match.
    """

    image_id: str
    name: str
    training_name: str
    kind: Kind


@dataclass(frozen=True)
class Overlap:
    """Common photographs of an evaluation and a training set.

    Attributes:
        photographs: Photographs that the evaluation played.
        training_images: Images of the training set.
        unread: Number of these that could not be read, and were compared by their bytes alone.
        matches: The photographs that are in both, each once.
        episodes: Episodes of the evaluation that show one of them.
        total: Episodes of the evaluation.
    """

    photographs: int
    training_images: int
    unread: int
    matches: tuple[Match, ...]
    episodes: int
    total: int

    def to_json(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {**asdict(self), "matches": [match._asdict() for match in self.matches]}

    def text(self) -> str:
        """Return it in words."""
        if not self.matches:
            return (
                f"None of the {self.photographs} photographs is among the {self.training_images} training images, as "
                "the same file or as a copy in another size or quality."
            )
        lines = [
            f"{len(self.matches)} of {self.photographs} photographs are also among the {self.training_images} training "
            f"images; {self.episodes} of {self.total} episodes show them:"
        ]
        lines += [f"  {match.name} is {match.training_name} ({match.kind})" for match in self.matches[:10]]
        if len(self.matches) > 10:
            lines.append(f"  and {len(self.matches) - 10} more, listed in the results.")
        return "\n".join(lines)


def common_images(
    source: ImageSource, indices: Sequence[int], training: ImageSource
) -> tuple[list[tuple[int, int, Kind]], int]:
    """Find the photographs that are also in a training set.

    Args:
        source: The photographs.
        indices: Those that are compared.
        training: The training images.

    Returns:
        All pairs, as the index of the photograph, that of the training image and the kind, those with the same bytes
        first; and the number of training images that cannot be read.
    """
    hashes = {training.content_hash(number): number for number in range(len(training))}
    contents = {index: source.content_hash(index) for index in indices}
    pairs: dict[tuple[int, int], Kind] = {
        (index, hashes[content]): "same" for index, content in contents.items() if content in hashes
    }
    unread = 0
    for index, number in alike_images(source, indices, training):
        if number is None:
            unread += 1
        elif (index, number) not in pairs and is_copy(source.load(index), training.load(number)):
            pairs[index, number] = "copy"
    return [(index, number, kind) for (index, number), kind in pairs.items()], unread


def find_overlap(source: ImageSource, training: ImageSource, results: Sequence[EpisodeResult]) -> Overlap:
    """Find the photographs of an evaluation that are also in a training set.

    Files with the same bytes are found, and copies that were scaled, compressed again or saved in another format. Parts
    of a photograph, and mirrored ones, are not.

    Args:
        source: The photographs of the evaluation.
        training: The training images.
        results: The episodes that were played.

    Returns:
        What they have in common.
    """
    played = {result.image_id for result in results}
    indices = [index for index in range(len(source)) if source.content_hash(index) in played]
    pairs, unread = common_images(source, indices, training)
    matches: dict[int, Match] = {}
    for index, number, kind in pairs:
        match = Match(source.content_hash(index), source.name(index), training.name(number), kind)
        matches.setdefault(index, match)
    found = {match.image_id for match in matches.values()}
    return Overlap(
        photographs=len(indices),
        training_images=len(training),
        unread=unread,
        matches=tuple(matches[index] for index in sorted(matches)),
        episodes=sum(result.image_id in found for result in results),
        total=len(results),
    )


@dataclass(frozen=True)
class PictureMatch:
    """A picture of a benchmark that is also in the training set.

    Attributes:
        name: Its name.
        training_name: Name of the training image.
        kind: Kind of the match.
        questions: Ids of the questions that show it.
    """

    name: str
    training_name: str
    kind: Kind
    questions: tuple[str, ...]


@dataclass(frozen=True)
class BenchmarkOverlap:
    """Common images of a benchmark and a training set.

    Attributes:
        benchmark: Key of the benchmark.
        pictures: Different pictures of the benchmark's questions.
        questions: Questions that can be asked.
        training_images: Images of the training set.
        unread: Number of these that could not be read, and were compared by their bytes alone.
        matches: The pictures that are in both, once for each training image.
        affected: Ids of the questions that show one of them.
    """

    benchmark: str
    pictures: int
    questions: int
    training_images: int
    unread: int
    matches: tuple[PictureMatch, ...]
    affected: tuple[str, ...]

    @property
    def found(self) -> int:
        """Number of training images that are among the pictures."""
        return len({match.training_name for match in self.matches})


@dataclass(frozen=True, slots=True)
class _Item:
    """A picture of a benchmark, as an item of a collection of images; 8K pictures are not kept in the cache."""

    name: str
    content_hash: str
    picture: Picture

    def load(self, max_pixels: int) -> NDArray[np.uint8]:
        """Return the pixels; the pictures' own limit holds."""
        del max_pixels
        return self.picture.load()[0]


def find_training_pictures(files: Mapping[str, Path], training: ImageSource) -> dict[str, BenchmarkOverlap]:
    """Find the training images that are among the pictures of benchmarks, as `find_overlap` does.

    Every training image is decoded once, and every picture of all questions that can be asked.

    Args:
        files: The benchmarks' files by key.
        training: The training images.

    Returns:
        The common images of each benchmark.

    Raises:
        ConfigurationError: If a file cannot be read, or is of another benchmark.
    """
    shown: dict[str, dict[str, dict[str, None]]] = {}
    items: list[_Item] = []
    opened = {key: open_questions(file, key) for key, file in files.items()}
    for key, found in opened.items():
        for question, hashes in zip(found.asked, found.hashes, strict=True):
            for picture, content in zip(question.pictures, hashes, strict=True):
                shown.setdefault(content, {}).setdefault(key, {})[question.id] = None
                items.append(_Item(picture.name, content, picture))
    pictures = ImageCollection(items, max_pixels=MAX_PIXELS)
    pairs, unread = common_images(pictures, range(len(pictures)), training)
    overlaps: dict[str, BenchmarkOverlap] = {}
    for key, found in opened.items():
        matches = tuple(
            PictureMatch(pictures.name(index), training.name(number), kind, tuple(shown[content][key]))
            for index, number, kind in sorted(pairs)
            if key in shown[content := pictures.content_hash(index)]
        )
        affected = {name for match in matches for name in match.questions}
        overlaps[key] = BenchmarkOverlap(
            key,
            sum(key in keys for keys in shown.values()),
            len(found.asked),
            len(training),
            unread,
            matches,
            tuple(question.id for question in found.asked if question.id in affected),
        )
    return overlaps


def overlap_text(overlaps: Mapping[str, BenchmarkOverlap]) -> str:
    """Return the common images of benchmarks and a training set in words."""
    lines: list[str] = []
    for key, one in overlaps.items():
        title = BENCHMARKS[key].title
        if not one.matches:
            lines.append(f"{title}: none of the {one.training_images:,} training images is among its pictures.")
            continue
        lines.append(
            f"{title}: {one.found:,} of the {one.training_images:,} training images are among its pictures; "
            f"{len(one.affected):,} of {one.questions:,} questions show one:"
        )
        for match in one.matches[:SHOWN]:
            ids = ", ".join(match.questions[:SHOWN]) + (", ..." if len(match.questions) > SHOWN else "")
            lines.append(printable(f"  {match.training_name} ({match.kind}): {match.name}, questions: {ids}"))
        if len(one.matches) > SHOWN:
            lines.append(f"  and {len(one.matches) - SHOWN:,} more, listed in the results.")
    unread = next((one.unread for one in overlaps.values()), 0)
    if unread:
        lines.append(f"{unread:,} training images could not be read, and were compared by their bytes alone.")
    return "\n".join(lines)


def write_overlaps(path: Path, overlaps: Mapping[str, BenchmarkOverlap]) -> None:
    """Write the result of `find_training_pictures` to a JSON file.

    Raises:
        OSError: If it cannot be written.
    """
    with write_text(path) as file:
        file.write(json.dumps([asdict(one) for one in overlaps.values()], indent=1) + "\n")


def read_overlaps(path: Path) -> dict[str, BenchmarkOverlap]:
    """Read the result of `write_overlaps`.

    Raises:
        ConfigurationError: If it is none.
    """
    try:
        found = [_overlap(value) for value in json.loads(path.read_text("utf-8"))]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigurationError(
            f"{path} does not hold the training images among benchmarks' pictures ({describe_error(error)}). Remove it."
        ) from error
    return {one.benchmark: one for one in found}


def _overlap(value: Any) -> BenchmarkOverlap:  # noqa: ANN401 -- any value
    """Read one benchmark of `write_overlaps`; errors are those of Python."""
    matches: list[PictureMatch] = []
    for match in value["matches"]:
        kind: Kind = "same" if match["kind"] == "same" else "copy"
        questions = tuple(map(str, match["questions"]))
        matches.append(PictureMatch(str(match["name"]), str(match["training_name"]), kind, questions))
    names = ("pictures", "questions", "training_images", "unread")
    if value["benchmark"] not in BENCHMARKS or not all(type(value[name]) is int for name in names):
        raise ValueError("a value that it cannot have")
    pictures, questions, images, unread = (value[name] for name in names)
    affected = tuple(map(str, value["affected"]))
    return BenchmarkOverlap(value["benchmark"], pictures, questions, images, unread, tuple(matches), affected)
