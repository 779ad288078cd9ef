"""Records of questions about images, whose pictures are read when they are needed."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import ImageError
from agile_gym.images.decode import decode_image
from agile_gym.images.formats import header_problem

__all__ = ["MAX_PIXELS", "Kind", "Picture", "Question", "Questions", "Skipped", "from_base64"]

MAX_PIXELS = 200_000_000
"""Most pixels of a picture: those of benchmarks have up to about 90 million."""
Kind = Literal["choice", "yes_no", "open"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that is read when it is needed.

    Attributes:
        name: Its name in messages.
        read: Returns its encoded bytes; may raise `ImageError`.
    """

    name: str
    read: Callable[[], bytes]

    def check(self) -> tuple[str, str | None]:
        """Return the SHA-256 of the encoded bytes, and the reason why it cannot be used, from its header alone."""
        try:
            data = self.read()
        except ImageError as error:
            return "", str(error)
        return hashlib.sha256(data).hexdigest(), header_problem(io.BytesIO(data), MAX_PIXELS)

    def load(self) -> tuple[NDArray[np.uint8], str]:
        """Return the pixels, (H, W, 3) uint8, read-only, and the SHA-256 of the encoded bytes.

        Raises:
            ImageError: If it cannot be read or decoded.
        """
        data = self.read()
        return decode_image(data, max_pixels=MAX_PIXELS, name=self.name), hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Question:
    """A question about pictures.

    Attributes:
        benchmark: Key of its benchmark.
        id: Its id within the benchmark.
        kind: ``"choice"`` (among options), ``"yes_no"`` or ``"open"``.
        text: The question.
        answers: The right answers, of which any will do: a letter, ``"Yes"`` or ``"No"``, or texts.
        choices: Texts of the options by letter, in order; empty for questions that are no choice.
        pictures: The pictures, in order.
        hint: A text that goes before the question.
        category: Its category.
        fine: Its second category, finer or coarser.
        split: Its split; empty where the file has none.
        facts: Further facts by name, such as ``cycle``, ``set``, ``figure`` and ``number``.
        layout: ``"tsv"`` or ``"parquet"``: the layout of the file that it comes from.
    """

    benchmark: str
    id: str
    kind: Kind
    text: str
    answers: tuple[str, ...]
    choices: Mapping[str, str] = field(default_factory=dict[str, str])
    pictures: tuple[Picture, ...] = ()
    hint: str = ""
    category: str = ""
    fine: str = ""
    split: str = ""
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    layout: str = "tsv"

    def problem(self) -> str | None:
        """Return the reason why it cannot be asked, whatever its pictures are, or None."""
        if not self.text.strip():
            return "there is no question"
        if not self.answers or not all(answer.strip() for answer in self.answers):
            return "there is no answer"
        if self.kind == "choice" and not set(self.answers) <= set(self.choices):
            return f"the answer {self.answers[0]!r:.40} is none of the choices {', '.join(self.choices) or '(none)'}"
        if self.kind == "yes_no" and not set(self.answers) <= {"Yes", "No"}:
            return f"the answer {self.answers[0]!r:.40} is neither Yes nor No"
        return None if self.pictures else "there is no image"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A question that cannot be asked.

    Attributes:
        id: Its id.
        reason: The reason.
    """

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Questions:
    """The questions of a benchmark's file.

    Attributes:
        benchmark: Key of the benchmark.
        asked: Those that can be asked, in the order of the file.
        skipped: Those that cannot.
        hashes: For each that can be asked, the SHA-256 of the encoded bytes of its pictures.
    """

    benchmark: str
    asked: tuple[Question, ...]
    skipped: tuple[Skipped, ...] = ()
    hashes: tuple[tuple[str, ...], ...] = ()

    @property
    def digest(self) -> str:
        """Identity of the questions that can be asked, of their answers, options and pictures."""
        known = hashlib.sha256()
        for one, hashes in zip(self.asked, self.hashes, strict=True):
            values = (one.id, one.text, one.answers, sorted(one.choices.items()), one.split, hashes)
            known.update(repr(values).encode())
        return known.hexdigest()[:16]


def from_base64(text: str, name: str) -> bytes:
    """Decode base64.

    Raises:
        ImageError: If it is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"the image of {name} is not base64 ({error})") from error
