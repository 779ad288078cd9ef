"""Finds photographs of an evaluation that are also in a training set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import ImageError
from agile_gym.evaluation.run import EpisodeResult
from agile_gym.images.sources import ImageSource

__all__ = ["Match", "Overlap", "find_overlap", "fingerprint"]

COARSE = (24, 0.97)
FINE = (64, 0.94)
"""Side of the thumbnails that are compared, in pixels, and the correlation from which on they show the same picture:
first of all pairs, then of those that are alike. On 173 photographs, copies as JPEG of quality 10 have at least 0.978
and 0.968, different photographs at most 0.92 and 0.87; pages of text in one layout reach 0.983 and 0.902."""
SAME_SHAPE = 1.03
"""Largest ratio of the aspect ratios of two copies."""
CHUNK = 256
"""Training images that are compared at a time."""


class Match(NamedTuple):
    """A photograph that is also in the training set.

    Attributes:
        image_id: Hash of its content.
        name: What it is called.
        training_name: What it is called in the training set.
        kind: ``"same"``: the same bytes; ``"copy"``: a copy in another size, format or quality.
    """

    image_id: str
    name: str
    training_name: str
    kind: Literal["same", "copy"]


@dataclass(frozen=True)
class Overlap:
    """What an evaluation and a training set have in common.

    Attributes:
        photographs: Photographs that the evaluation played.
        training_images: Images of the training set.
        unread: How many of these could not be read, and were compared by their bytes alone.
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


def fingerprint(pixels: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Return what stays of a photograph when it is scaled and compressed.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        side: Side of the thumbnail, in pixels.

    Returns:
        (side * side * 3,) float32: the colours of a thumbnail, with mean 0 and length 1 (or 0 for one colour), so that
        the product of two is their correlation.
    """
    small = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    length = float(np.linalg.norm(small))
    return small / length if length > 0 else small


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
    hashes = {training.content_hash(index): index for index in range(len(training))}
    matches = {
        index: Match(source.content_hash(index), source.name(index), training.name(hashes[content]), "same")
        for index in indices
        if (content := source.content_hash(index)) in hashes
    }
    rest = [index for index in indices if index not in matches]
    unread = 0
    for index, number in _alike(source, rest, training):
        if number is None:
            unread += 1
        elif index not in matches and _is_copy(source.load(index), training.load(number)):
            matches[index] = Match(source.content_hash(index), source.name(index), training.name(number), "copy")
    found = {match.image_id for match in matches.values()}
    return Overlap(
        photographs=len(indices),
        training_images=len(training),
        unread=unread,
        matches=tuple(matches[index] for index in sorted(matches)),
        episodes=sum(result.image_id in found for result in results),
        total=len(results),
    )


def _alike(source: ImageSource, indices: Sequence[int], training: ImageSource) -> Iterator[tuple[int, int | None]]:
    """Yield pairs of a photograph and a training image that may be copies; -1 and None for one that is not readable."""
    if not indices:
        return
    _, least = COARSE
    prints, shapes = _stack(_read(source, indices), len(indices))
    for start in range(0, len(training), CHUNK):
        numbers = range(start, min(start + CHUNK, len(training)))
        others, other_shapes = _stack(_read(training, numbers), len(numbers))
        yield from ((-1, None) for _ in range(int(np.isnan(other_shapes).sum())))
        ratio = np.abs(np.log(shapes)[:, None] - np.log(other_shapes)[None])
        alike = (prints @ others.T >= least) & (ratio <= np.log(SAME_SHAPE))
        for row, column in np.argwhere(alike).tolist():
            yield indices[row], start + column


def _is_copy(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> bool:
    side, least = FINE
    return float(fingerprint(ours, side) @ fingerprint(theirs, side)) >= least


def _read(source: ImageSource, indices: Iterable[int]) -> Iterator[NDArray[np.uint8] | None]:
    for index in indices:
        try:
            yield source.load(index)
        except ImageError:
            yield None


def _stack(images: Iterable[NDArray[np.uint8] | None], count: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return coarse fingerprints, one a row, and the aspect ratios (count,); NaN where there is no image."""
    side, _ = COARSE
    prints = np.zeros((count, side * side * 3), np.float32)
    shapes = np.full(count, np.nan)
    for row, pixels in enumerate(images):
        if pixels is not None:
            prints[row], shapes[row] = fingerprint(pixels, side), pixels.shape[1] / pixels.shape[0]
    return prints, shapes
