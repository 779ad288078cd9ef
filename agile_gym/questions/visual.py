"""Questions about pictures that an environment asks: records, the sources' protocol, and questions that are listed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import ConfigurationError, ImageError
from agile_gym.images.items import Item
from agile_gym.images.sources import Split, select_split
from agile_gym.questions.answers import AnswerKey
from agile_gym.questions.records import Skipped

__all__ = ["Asked", "Box", "ListedQuestions", "QuestionSource", "UnreadableQuestionWarning", "VisualQuestion"]

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 as fractions of a picture, from its top left."""
_REDRAWS = 16


class UnreadableQuestionWarning(UserWarning):
    """A question's picture turned out to be damaged when it was asked, and another question was drawn."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A question as it is asked.

    Attributes:
        id: Its id within the source.
        text: The question, without options.
        key: The right answers, the options, and the rule.
        images: The pictures, (h, w, 3) uint8, read-only, at their own sizes.
        image_id: Content hash of the photograph that the first picture shows.
        label: Name of its kind, by which results are grouped; may be empty.
        box: Part of the first picture that holds the answer, if that is known.
        facts: Measures of its difficulty, in JSON's types; they may give the answer away.
    """

    id: str
    text: str
    key: AnswerKey
    images: tuple[NDArray[np.uint8], ...]
    image_id: str
    label: str = ""
    box: Box | None = None
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


class QuestionSource(Protocol):
    """A source of questions."""

    def draw(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Asked:
        """Draw a question; all that is random follows from ``rng``.

        Args:
            rng: Source of randomness.
            options: Values that are fixed instead of drawn, as `check` has them.

        Raises:
            ImageError: If no picture can be read.
        """
        ...

    def check(self, options: Mapping[str, Any]) -> None:
        """Check the options of a reset before anything is drawn.

        Raises:
            ConfigurationError: If one is not allowed.
        """
        ...

    def options(self) -> Sequence[str]:
        """Return the names of the options."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class VisualQuestion:
    """A question of a table, whose pictures are decoded when it is asked.

    Attributes:
        id: Its id.
        text: The question, without options.
        key: The right answers, the options, and the rule.
        pictures: The pictures, in order; at least one.
        label: Its category; may be empty.
        box: x1, y1, x2, y2 of the part of the first picture that holds the answer: pixels, or fractions where none is
            above 1.
    """

    id: str
    text: str
    key: AnswerKey
    pictures: tuple[Item, ...]
    label: str = ""
    box: Box | None = None


class ListedQuestions:
    """Questions of a table; a `QuestionSource`.

    Attributes:
        questions: Those that can be asked, in order.
        skipped: Those that cannot, with the reasons.
    """

    def __init__(self, questions: Sequence[VisualQuestion], skipped: Sequence[Skipped], max_pixels: int) -> None:
        """Keep questions.

        Args:
            questions: Those that can be asked, at least one.
            skipped: Those that cannot.
            max_pixels: Most pixels that are decoded a picture.
        """
        self.questions, self.skipped = tuple(questions), tuple(skipped)
        self._max_pixels = max_pixels

    def __len__(self) -> int:
        """Return the number of questions that can be asked."""
        return len(self.questions)

    def of_split(self, split: Split | None, test_fraction: float) -> ListedQuestions:
        """Return the questions of a split, which follows from the content of the pictures.

        Questions that share a picture, directly or through others, are in one split, so that no picture is in both.

        Raises:
            ConfigurationError: If none is left.
        """
        if split is None:
            return self
        groups = _components([[item.content_hash for item in one.pictures] for one in self.questions])
        names = sorted(set(groups))
        chosen = {names[index] for index in select_split(names, split, test_fraction)}
        kept = [one for one, group in zip(self.questions, groups, strict=True) if group in chosen]
        if not kept:
            raise ConfigurationError(
                f"No question is left for split={split!r}: all {len(self.questions)} share their pictures. Give "
                "questions about at least two pictures, or leave split out."
            )
        return ListedQuestions(kept, self.skipped, self._max_pixels)

    def options(self) -> Sequence[str]:
        """Return the names of the options of a reset."""
        return ("question",)

    def check(self, options: Mapping[str, Any]) -> None:
        """Check the options of a reset.

        Raises:
            ConfigurationError: If there is no question of this number.
        """
        number = options.get("question")
        if number is not None and (type(number) is not int or not 0 <= number < len(self.questions)):
            raise ConfigurationError(
                f"question={number!r:.80} does not exist; give a number from 0 to {len(self.questions) - 1:,}."
            )

    def draw(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Asked:
        """Draw a question, or ask that of the number ``options["question"]``.

        Raises:
            ImageError: If none of many questions has pictures that can be decoded.
        """
        number: int | None = options.get("question")
        if number is not None:
            return self._ask(self.questions[number])
        problem: ImageError | None = None
        for _ in range(_REDRAWS):
            question = self.questions[int(rng.integers(len(self.questions)))]
            try:
                return self._ask(question)
            except ImageError as error:
                problem = error
                warnings.warn(
                    f"The question {question.id!r:.80} was left out: {error}", UnreadableQuestionWarning, stacklevel=2
                )
        raise ImageError(f"None of {_REDRAWS} questions drawn has pictures that can be read. The last: {problem}")

    def _ask(self, question: VisualQuestion) -> Asked:
        images = tuple(item.load(self._max_pixels) for item in question.pictures)
        return Asked(
            question.id,
            question.text,
            question.key,
            images,
            question.pictures[0].content_hash,
            question.label,
            _fractions(question.box, images[0].shape[0], images[0].shape[1]),
        )


def _fractions(box: Box | None, height: int, width: int) -> Box | None:
    """Return a box as fractions of a picture, clipped to it; None if nothing of it lies in the picture."""
    if box is None:
        return None
    scale = (1.0, 1.0) if max(box) <= 1 else (1 / width, 1 / height)
    x1, y1, x2, y2 = (min(max(side * scale[place % 2], 0.0), 1.0) for place, side in enumerate(box))
    return (x1, y1, x2, y2) if math.isfinite(x1 + y1 + x2 + y2) and x1 < x2 and y1 < y2 else None


def _components(sets: Sequence[Sequence[str]]) -> list[str]:
    """Return the name of each set's component, where sets that share an entry are connected: its smallest entry."""
    parent: dict[str, str] = {}

    def find(entry: str) -> str:
        root = entry
        while parent.setdefault(root, root) != root:
            root = parent[root]
        while parent[entry] != root:
            parent[entry], entry = root, parent[entry]
        return root

    for entries in sets:
        first = find(entries[0])
        for other in entries[1:]:
            root = find(other)
            low, high = min(first, root), max(first, root)
            parent[high] = low
            first = low
    return [find(entries[0]) for entries in sets]
