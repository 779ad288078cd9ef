"""Turns of the reference policies for questions about pictures: a look at the part that matters, an answer, a guess."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from agile_gym.actions.dialects import DIALECTS, write_answer
from agile_gym.actions.primitives import Answer, Crop, Primitive, Zoom
from agile_gym.actions.workspace import Workspace
from agile_gym.errors import ConfigurationError

__all__ = ["guess", "is_question", "known_answer", "look_or_answer"]

MARGIN = 0.15
"""Width of the surroundings that a look shows, as a fraction of the box's sides."""
SMALL = 0.4
"""A crop whose sides are less than this fraction of the canvas is then shown larger."""
MAX_ZOOM = 4.0
_LOOKS = (
    "Look closer at the part that matters.",
    "The answer is to be seen in one part: look at it closer.",
    "That part is small. Look at it alone.",
    "First look closer where it is.",
)
_ZOOMS = ("It is still small: show it larger.", "Show this part larger.", "A larger view will help.")
_ANSWERS = ("Now it can be seen.", "That settles it.", "This shows the answer.", "It is clear now.")
_MOST = 10


def is_question(info: Mapping[str, Any]) -> bool:
    """Return whether an ``info`` is that of a question about pictures."""
    task: object = info.get("task")
    return isinstance(task, Mapping) and {"rule", "choices", "pictures"} <= cast("Mapping[str, Any]", task).keys()


def known_answer(info: Mapping[str, Any]) -> str:
    """Return the first right answer from an ``info``.

    Raises:
        ConfigurationError: If the environment does not give it.
    """
    if not info.get("solution"):
        raise ConfigurationError("OraclePolicy needs the solution: make the environment with reveal=True.")
    return str(info["solution"][0])


def look_or_answer(observation: Mapping[str, Any], info: Mapping[str, Any], think: str | None, *, look: bool) -> str:
    """Write the turn of an episode whose solution is known: a crop of the box, perhaps a zoom, then the answer.

    Args:
        observation: The observation.
        info: Its ``info``, with ``solution`` and ``box``.
        think: The thought of the answer; None chooses one.
        look: True to look at the box first, where there is one and a turn for it.

    Returns:
        The text of the turn.

    Raises:
        ConfigurationError: If the environment does not give the solution, or has a dialect that is not built in.
    """
    answer = Answer((), text=known_answer(info))
    task, turn = info["task"], int(info["turn"])
    pick = int(info.get("policy_seed", 0)) + turn
    spare = task["max_turns"] - turn > 1
    box: Any = info.get("box")
    if look and spare and turn == 0 and box is not None:
        return _write(Crop(task["pictures"][0], _around(box)), info, _LOOKS[pick % len(_LOOKS)])
    if look and spare and turn == 1 and box is not None and info["images"]:
        height, width = info["images"][0].shape[:2]
        most = min(observation["image"].shape[0] / height, observation["image"].shape[1] / width, MAX_ZOOM)
        if most * SMALL >= 1:
            factor = math.floor(10 * most) / 10
            return _write(Zoom("crop_image_1", factor), info, _ZOOMS[pick % len(_ZOOMS)])
    if think is None:
        think = _ANSWERS[pick % len(_ANSWERS)] if turn else "This can be seen at once."
    return write_answer(answer, think)


def _around(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    right, down = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    sides = (max(0.0, x1 - right), max(0.0, y1 - down), min(1.0, x2 + right), min(1.0, y2 + down))
    left, top, end, bottom = (math.floor(100 * side) / 100 for side in sides)
    return left, top, min(1.0, round(end + 0.01, 2)), min(1.0, round(bottom + 0.01, 2))


def _write(primitive: Primitive, info: Mapping[str, Any], think: str) -> str:
    task = info["task"]
    if task["dialect"] not in DIALECTS:
        raise ConfigurationError(f"OraclePolicy looks in the dialects {', '.join(DIALECTS)} only; leave look out.")
    workspace = Workspace.of_pictures([(1, 1)] * len(task["pictures"]), (1, 1))
    return DIALECTS[task["dialect"]].write([primitive], workspace, think)


def guess(info: Mapping[str, Any], rng: np.random.Generator) -> str:
    """Write a random answer: an option, yes or no, a number from 0 to 10, or, to an open question, a word."""
    task = info["task"]
    letters: list[str] = list(task["choices"])
    if task["rule"] == "yes_no":
        letters = ["yes", "no"]
    elif task["rule"] == "number":
        letters = [str(number) for number in range(_MOST + 1)]
    word = letters[int(rng.integers(len(letters)))] if letters else "unknown"
    return write_answer(Answer((), text=word), "I guess.")
