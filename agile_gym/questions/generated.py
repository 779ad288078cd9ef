"""Questions made from any photographs, which nobody has labelled: kinds, difficulties, and the source that draws them.

Each kind has five difficulties with a stated measure. A question that would be ambiguous, such as a crop that fits in
two places, is not asked: another one is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from agile_gym.errors import ConfigurationError, ImageError, did_you_mean, plain
from agile_gym.images.sources import ImageSource
from agile_gym.questions.generated_drawings import COUNT, WORD
from agile_gym.questions.generated_photographs import CHANGED, HALF, TURNED, WHERE, WHICH, WHOLE
from agile_gym.questions.kinds import Kind
from agile_gym.questions.likeness import Photographs
from agile_gym.questions.visual import Asked

__all__ = ["DIFFICULTIES", "KINDS", "GeneratedQuestions", "parse_difficulty", "parse_kinds"]

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (WHERE, WHICH, HALF, TURNED, CHANGED, WHOLE, WORD, COUNT)}
"""The kinds of question by name."""
DIFFICULTIES = 5
TRIES = 200
"""Questions drawn before none that is unambiguous counts as impossible."""


def parse_kinds(kinds: object) -> tuple[str, ...]:
    """Return the names of kinds: one name, a list of names, or None for all.

    Raises:
        ConfigurationError: If there is no such kind.
    """
    given: Any = plain(kinds)
    if given is None:
        return tuple(KINDS)
    names = list(cast("list[Any]", given)) if isinstance(given, list | tuple) else [given]
    for name in names or [""]:
        if name not in KINDS:
            raise ConfigurationError(f"There is no kind of question {name!r:.80}. {did_you_mean(name, KINDS)}")
    return tuple(dict.fromkeys(names))


def parse_difficulty(difficulty: object) -> tuple[int, ...]:
    """Return difficulties, 1 to 5: a number, a list, ``"2-4"`` or ``"all"``.

    Raises:
        ConfigurationError: If it is something else.
    """
    given: Any = plain(difficulty)
    if given == "all":
        return tuple(range(1, DIFFICULTIES + 1))
    if isinstance(given, str):
        low, dash, high = given.partition("-")
        if low.strip().isdecimal() and (not dash or high.strip().isdecimal()):
            given = list(range(int(low[:9]), min(int(high[:9]) if dash else int(low[:9]), 100) + 1))
    numbers: list[Any] = list(cast("list[Any]", given)) if isinstance(given, list | tuple) else [given]
    if not numbers or not all(type(number) is int and 1 <= number <= DIFFICULTIES for number in numbers):
        raise ConfigurationError(
            f"difficulty={difficulty!r:.80} is not allowed; give a number from 1 to {DIFFICULTIES}, a list of them, a "
            "range such as '1-3', or 'all'."
        )
    return tuple(dict.fromkeys(numbers))


class GeneratedQuestions:
    """Questions made from photographs; an `agile_gym.questions.visual.QuestionSource`.

    Attributes:
        kinds: Names of the kinds that are drawn, all equally often.
        difficulties: The difficulties that are drawn, all equally often.
    """

    def __init__(self, source: ImageSource, side: int, kinds: Sequence[str], difficulties: Sequence[int]) -> None:
        """Make questions about the photographs of a source.

        Args:
            source: The photographs.
            side: Side of the pictures, in pixels.
            kinds: Names of kinds, of `KINDS`.
            difficulties: Difficulties, 1 to 5.
        """
        self.kinds, self.difficulties = tuple(kinds), tuple(difficulties)
        self._photographs = Photographs(source, side)

    def options(self) -> Sequence[str]:
        """Return the names of the options of a reset."""
        return ("kind", "difficulty")

    def check(self, options: Mapping[str, Any]) -> None:
        """Check the options of a reset.

        Raises:
            ConfigurationError: If there is no such kind or difficulty.
        """
        parse_kinds(options.get("kind"))
        if "difficulty" in options:
            parse_difficulty(options["difficulty"])

    def draw(self, rng: np.random.Generator, options: Mapping[str, Any]) -> Asked:
        """Draw a question.

        Args:
            rng: Source of randomness.
            options: ``kind`` and ``difficulty`` replace those of the source.

        Raises:
            ImageError: If no unambiguous question was found, or no photograph can be read.
        """
        kinds = self.kinds if options.get("kind") is None else parse_kinds(options["kind"])
        levels = parse_difficulty(options["difficulty"]) if "difficulty" in options else self.difficulties
        kind = KINDS[kinds[int(rng.integers(len(kinds)))]]
        level = levels[int(rng.integers(len(levels)))]
        for _ in range(TRIES):
            made = kind.make(rng, self._photographs, level)
            if made is not None:
                for image in made.images:
                    image.setflags(write=False)
                facts = {"difficulty": level, **made.facts}
                name = f"{kind.name}-{level}"
                return Asked(name, made.text, made.key, made.images, made.image_id, kind.name, made.box, facts)
        raise ImageError(
            f"No question of kind {kind.name!r} and difficulty {level} could be made in {TRIES} tries: these "
            "photographs are too uniform, or the pictures too small. Give others, or leave the kind out."
        )
