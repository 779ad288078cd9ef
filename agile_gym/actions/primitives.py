"""Actions of a turn as frozen primitives, and the named errors of a turn."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "ERROR_KINDS",
    "FORM_ERRORS",
    "ActionError",
    "Answer",
    "Arrange",
    "Crop",
    "ErrorKind",
    "Observe",
    "Primitive",
    "Rotate",
    "RotatePiece",
    "Swap",
    "Zoom",
    "quote",
]

ErrorKind = Literal[
    "text_too_long",
    "code_too_long",
    "no_action",
    "several_actions",
    "unpaired_tags",
    "syntax",
    "not_allowed",
    "unknown_name",
    "unknown_function",
    "bad_argument",
    "bad_index",
    "bad_number",
    "bad_box",
    "unknown_image",
    "not_a_permutation",
    "image_too_large",
    "too_many_images",
    "too_deep",
    "bad_answer",
]
ERROR_KINDS: dict[ErrorKind, str] = {
    "text_too_long": "the turn is longer than the limit",
    "code_too_long": "the code, a tool call, or their number is larger than the limit",
    "no_action": "the turn has neither code nor an answer",
    "several_actions": "the turn has both code and an answer, or several of either",
    "unpaired_tags": "a tag is opened and not closed, or closed and not opened",
    "syntax": "the code, or the JSON, cannot be read",
    "not_allowed": "the code uses something outside the allowed language",
    "unknown_name": "a variable is used that was never made",
    "unknown_function": "a function is called that does not exist",
    "bad_argument": "a function gets too many, too few or unsuitable arguments",
    "bad_index": "an index, or a piece's name, lies outside the puzzle",
    "bad_number": "a number is not finite or far too large",
    "bad_box": "a crop's box is empty",
    "unknown_image": "an image is named that does not exist",
    "not_a_permutation": "a state, or an answer, does not hold every piece exactly once",
    "image_too_large": "the result would be larger than the canvas",
    "too_many_images": "more images were made than an episode may keep",
    "too_deep": "an image was made from an image too many times over, or brackets are nested too deeply",
    "bad_answer": "the answer is not a list of piece names, or of pairs with angles in steps of 90",
}
"""Every kind of error of a model's text, and its meaning."""


FORM_ERRORS: frozenset[ErrorKind] = frozenset(
    ("text_too_long", "no_action", "several_actions", "unpaired_tags", "bad_answer")
)
"""The kinds that concern the form of a turn: it has no single action that could be tried."""


class ActionError(Exception):
    """A model's text that cannot be carried out.

    Raised and caught inside the library: the environment turns it into an observation and never lets it escape.

    Attributes:
        kind: One of `ERROR_KINDS`.
        message: The problem and the allowed values, to be shown to the model.
    """

    def __init__(self, kind: ErrorKind, message: str) -> None:
        """Keep the kind and the message."""
        super().__init__(kind, message)
        self.kind: ErrorKind = kind
        self.message = message

    def forget(self) -> None:
        """Drop the traceback, whose frames would keep a turn's text and image in a cycle until the next collection."""
        self.__traceback__ = self.__context__ = None


# Brackets are left out, too: [INST] and [IMG] are tokens of some chat models.
_UNSAFE = re.compile(r"[^A-Za-z0-9_.,+\-*/=()\" ]")


def quote(fragment: object, limit: int = 40) -> str:
    """Quote a model's text so that an error can show it without passing tags, control or chat tokens on.

    Args:
        fragment: Anything; its text is used.
        limit: Number of characters kept.

    Returns:
        The fragment in single quotes, with every character outside a plain ASCII set replaced by ``?``.
    """
    text = str(fragment)
    short = text[:limit]
    return f"'{_UNSAFE.sub('?', short)}{'...' if len(text) > limit else ''}'"


@dataclass(frozen=True, slots=True)
class Swap:
    """Exchange the pieces at two places.

    Attributes:
        first: A place, row by row from 0.
        second: Another place.
    """

    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Arrange:
    """Put the pieces into a whole new order.

    Attributes:
        order: The piece at each place, row by row: a permutation.
        turns: Degrees by which each piece (not place) is now turned clockwise; None keeps them.
    """

    order: tuple[int, ...]
    turns: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class RotatePiece:
    """Turn the piece at a place clockwise, in puzzles whose pieces are rotated.

    Attributes:
        place: A place, row by row from 0.
        angle: Degrees: 90, 180 or 270.
    """

    place: int
    angle: int


@dataclass(frozen=True, slots=True)
class Observe:
    """Show a board.

    Attributes:
        name: Name of the image that is made; None lets the workspace choose one.
        order: The piece at each place; None shows the current state.
        turns: Degrees by which each piece is turned clockwise; None shows the current ones.
    """

    name: str | None = None
    order: tuple[int, ...] | None = None
    turns: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Crop:
    """Cut a rectangle out of an image.

    Attributes:
        image: Name of the image.
        box: x1, y1, x2, y2 as fractions of the image, from its top left.
        name: Name of the image that is made; None lets the workspace choose one.
    """

    image: str
    box: tuple[float, float, float, float]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Zoom:
    """Scale an image with a Lanczos filter.

    Attributes:
        image: Name of the image.
        factor: Factor for height and width, above 0.
        name: Name of the image that is made; None lets the workspace choose one.
    """

    image: str
    factor: float
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Rotate:
    """Rotate an image counter-clockwise; the canvas expands.

    Attributes:
        image: Name of the image.
        angle: Degrees.
        name: Name of the image that is made; None lets the workspace choose one.
    """

    image: str
    angle: float
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """End the episode with an answer.

    Attributes:
        order: Names of the pieces, row by row; they need not be right, or even exist.
        turns: Degrees by which each of them is turned clockwise, in the same order; None where the answer has none.
        text: The answer to a question about pictures, as it was written; None for an order of pieces.
    """

    order: tuple[str, ...]
    turns: tuple[int, ...] | None = None
    text: str | None = None


Primitive = Swap | Arrange | RotatePiece | Observe | Crop | Zoom | Rotate | Answer
