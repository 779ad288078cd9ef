"""A kind of generated question, and a question that was made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

import numpy as np

from agile_gym.questions.answers import AnswerKey
from agile_gym.questions.likeness import Photographs, Pixels
from agile_gym.questions.visual import Box

__all__ = ["Kind", "Made", "choice"]


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A question that was made.

    Attributes:
        text: The question.
        key: The right answer.
        images: The pictures, (h, w, 3) uint8.
        image_id: Content hash of the photograph.
        box: Part of the first picture that holds the answer, if there is one.
        facts: Measures of its difficulty, in JSON's types.
    """

    text: str
    key: AnswerKey
    images: tuple[Pixels, ...]
    image_id: str
    box: Box | None = None
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """A kind of question.

    Attributes:
        name: Its name.
        levels: Its measures at the difficulties 1 to 5, in JSON's types.
        make: Makes a question of a difficulty, or returns None if it would be ambiguous.
    """

    name: str
    levels: Sequence[Mapping[str, Any]]
    make: Callable[[np.random.Generator, Photographs, int], Made | None]


def choice(options: Sequence[str], right: int) -> AnswerKey:
    """Return the key of a choice among options, of which the one of the given index is right."""
    return AnswerKey("choice", (ascii_uppercase[right],), dict(zip(ascii_uppercase, options, strict=False)))
