"""Questions about what is drawn on photographs: words to be read, shapes to be counted.

Sizes are fractions of the picture's side. The photograph below is softened to values from 64 to 191, so that the
colours of what is drawn occur nowhere else.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from agile_gym.questions.answers import AnswerKey
from agile_gym.questions.kinds import Kind, Made
from agile_gym.questions.likeness import Photographs, Pixels

__all__ = ["COLOURS", "COUNT", "FONT", "SHAPES", "WORD", "WORDS"]

Rng = np.random.Generator


def _softened(picture: Pixels) -> Pixels:
    return picture // 2 + 64


# --- read a drawn word

FONT = cv2.FONT_HERSHEY_SIMPLEX
WORDS = {
    3: "ARM BAG BED BUS CAR CAT CUP DOG EAR EGG FAN HAT JAR KEY LEG MAP NET PEN SEA SUN TOY VAN",
    4: "BALL BIRD BOAT BOOK CAKE DESK DOOR DRUM FISH GATE HAND LAMP LEAF MOON NEST RAIN ROAD SHIP STAR TREE WALL",
    5: "APPLE BREAD CHAIR CLOUD EARTH FLUTE GRASS HORSE HOUSE LEMON MOUSE PAPER PIANO RIVER SHEEP SPOON TABLE TRAIN",
    6: "BASKET BOTTLE BRANCH CAMERA CANDLE CASTLE FLOWER FOREST GARDEN HAMMER LADDER MIRROR ORANGE PENCIL ROCKET",
    7: "BLANKET BRIDGES CHICKEN CURTAIN DIAMOND DOLPHIN EVENING FEATHER KITCHEN LANTERN MACHINE PUMPKIN TRACTOR",
}
"""Words by their number of letters."""
LOWEST = 9
"""Least height of a letter, in pixels."""


def _word(rng: Rng, photographs: Photographs, level: int) -> Made | None:
    measures = WORD.levels[level - 1]
    picture, image_id = photographs.picture(rng)
    size = photographs.side
    words = WORDS[measures["letters"]].split()
    word = words[int(rng.integers(len(words)))]
    height = max(LOWEST, round(measures["height"] * size))
    scale, thickness = _fit(word, height, size)
    (wide, high), below = cv2.getTextSize(word, FONT, scale, thickness)
    pad = max(2, high // 3)
    box_wide, box_high = wide + 2 * pad, high + below + 2 * pad
    if box_wide > size or box_high > size:
        return None
    left, top = int(rng.integers(size - box_wide + 1)), int(rng.integers(size - box_high + 1))
    plate = 255 if rng.integers(2) else int(measures["contrast"])
    ink = 0 if plate < 255 else 255 - int(measures["contrast"])
    if rng.integers(2):
        plate, ink = ink, plate
    drawn = _softened(picture)
    cv2.rectangle(drawn, (left, top), (left + box_wide - 1, top + box_high - 1), (plate,) * 3, cv2.FILLED)
    cv2.putText(drawn, word, (left + pad, top + pad + high), FONT, scale, (ink,) * 3, thickness, cv2.LINE_8)
    box = (left / size, top / size, (left + box_wide) / size, (top + box_high) / size)
    text = "A word is written on the picture. Which?"
    return Made(text, AnswerKey("text", (word,)), (drawn,), image_id, box, dict(measures))


def _fit(word: str, height: int, size: int) -> tuple[float, int]:
    """Return the scale and thickness of letters of a height, or of less where the word would not fit."""
    unit = cv2.getTextSize("H", FONT, 1.0, 1)[0][1]
    while True:
        scale = height / unit
        thickness = max(1, round(height / 12))
        wide = cv2.getTextSize(word, FONT, scale, thickness)[0][0]
        if wide <= 0.8 * size or height <= LOWEST:
            return scale, thickness
        height -= 1


WORD = Kind(
    "word",
    (
        {"letters": 3, "height": 0.16, "contrast": 255},
        {"letters": 4, "height": 0.11, "contrast": 200},
        {"letters": 5, "height": 0.08, "contrast": 150},
        {"letters": 6, "height": 0.05, "contrast": 110},
        {"letters": 7, "height": 0.035, "contrast": 80},
    ),
    _word,
)


# --- count drawn shapes

COLOURS = {"red": (255, 0, 0), "yellow": (255, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
SHAPES = ("circle", "square", "triangle")
_PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles"}
SMALLEST = 7
"""Least side of a shape, in pixels."""
_PLACES = 400
"""Places drawn for a shape before there counts as no room for it."""


class _Shape(NamedTuple):
    shape: str
    colour: str


def _count(rng: Rng, photographs: Photographs, level: int) -> Made | None:
    measures = COUNT.levels[level - 1]
    picture, image_id = photographs.picture(rng)
    size = photographs.side
    low, high = (int(bound) for bound in measures["shapes"])
    number, others = int(rng.integers(low, high + 1)), int(measures["others"])
    kinds = [_Shape(shape, colour) for shape in SHAPES for colour in COLOURS]
    asked = kinds.pop(int(rng.integers(len(kinds))))
    near = [kind for kind in kinds if kind.shape == asked.shape or kind.colour == asked.colour]
    drawn = _softened(picture)
    side = max(SMALLEST, round(measures["side"] * size))
    taken: list[tuple[int, int, int]] = []
    for kind in [asked] * number + [near[int(rng.integers(len(near)))] for _ in range(others)]:
        mine = max(SMALLEST, round(side * float(rng.uniform(0.75, 1.0))))
        place = _place(rng, size, mine, taken)
        if place is None:
            return None
        taken.append((*place, mine))
        _draw(drawn, kind, *place, mine)
    text = f"How many {asked.colour} {_PLURALS[asked.shape]} are drawn on the picture?"
    facts = {"shapes": number, "others": others, "side": measures["side"]}
    return Made(text, AnswerKey("number", (str(number),)), (drawn,), image_id, None, facts)


def _place(rng: Rng, size: int, side: int, taken: list[tuple[int, int, int]]) -> tuple[int, int] | None:
    for _ in range(_PLACES):
        top, left = int(rng.integers(1, size - side)), int(rng.integers(1, size - side))
        if all(
            top + side + 2 < y or y + other + 2 < top or left + side + 2 < x or x + other + 2 < left
            for y, x, other in taken
        ):
            return top, left
    return None


def _draw(drawn: Pixels, kind: _Shape, top: int, left: int, side: int) -> None:
    """Draw a shape with a black outline, in place, within a square."""
    colour, right, bottom = COLOURS[kind.colour], left + side - 1, top + side - 1
    outline = (0, 0, 0)
    if kind.shape == "square":
        cv2.rectangle(drawn, (left, top), (right, bottom), outline, cv2.FILLED)
        cv2.rectangle(drawn, (left + 1, top + 1), (right - 1, bottom - 1), colour, cv2.FILLED)
    elif kind.shape == "circle":
        distance = np.hypot(*(np.mgrid[:side, :side] - (side - 1) / 2))  # (side, side), to the centre
        part = drawn[top : top + side, left : left + side]
        part[distance <= side / 2] = outline
        part[distance <= side / 2 - 1] = colour
    else:
        corners = np.array([[left + (side - 1) // 2, top], [right, bottom], [left, bottom]], np.int32)
        cv2.fillPoly(drawn, [corners], colour)
        cv2.polylines(drawn, [corners], isClosed=True, color=outline)


COUNT = Kind(
    "count",
    (
        {"shapes": (1, 3), "others": 0, "side": 0.16},
        {"shapes": (2, 5), "others": 2, "side": 0.13},
        {"shapes": (4, 8), "others": 4, "side": 0.11},
        {"shapes": (6, 11), "others": 7, "side": 0.09},
        {"shapes": (9, 14), "others": 8, "side": 0.07},
    ),
    _count,
)
