"""Questions about photographs: where a crop is from, which crop is, halves, parts that are turned, changed or moved.

Sizes are fractions of the picture's side, differences grey levels (0 to 255).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np

from agile_gym.puzzle.pixels import resize
from agile_gym.questions.answers import AnswerKey
from agile_gym.questions.kinds import Kind, Made, choice
from agile_gym.questions.likeness import Photographs, Pixels, contrast, difference, least_difference
from agile_gym.questions.visual import Box

__all__ = ["CHANGED", "HALF", "MARGIN", "TURNED", "WHERE", "WHICH", "WHOLE", "blueness", "brightness"]

MARGIN = 24.0
"""Least difference of a crop from every other place where it could be thought to lie."""
LEAST_CONTRAST = 22.0
"""Least standard deviation of a part's pixels, so that it is no plain sky."""
SMALLEST = 8
"""Smallest side of a part, in pixels."""
Rng = np.random.Generator


def _side(share: float, picture: int) -> int:
    return max(SMALLEST, round(share * picture))


def _box(top: int, left: int, side: int, picture: int) -> Box:
    return left / picture, top / picture, (left + side) / picture, (top + side) / picture


def _cut(picture: Pixels, top: int, left: int, side: int) -> Pixels:
    return np.ascontiguousarray(picture[top : top + side, left : left + side])


# --- where in the picture is this crop

_CELLS: Mapping[int, tuple[str, ...]] = {
    2: ("top left", "top right", "bottom left", "bottom right"),
    3: tuple(f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right")),
}


def _cell_place(rng: Rng, picture: int, side: int, grid: int) -> tuple[int, int, int]:
    """Draw a cell, and the top and left of a part within it, a pixel from its borders where there is room."""
    cell = int(rng.integers(grid * grid))
    starts: list[int] = []
    for number in divmod(cell, grid):
        low, high = -(-number * picture // grid), (number + 1) * picture // grid - side
        starts.append(int(rng.integers(low, max(low, high) + 1)))
    return cell, starts[0], starts[1]


def _where(rng: Rng, photographs: Photographs, level: int) -> Made | None:
    picture, image_id = photographs.picture(rng)
    measures = WHERE.levels[level - 1]
    side, grid = _side(measures["side"], photographs.side), int(measures["rows"])
    cell, top, left = _cell_place(rng, photographs.side, side, grid)
    crop = _cut(picture, top, left, side)
    if contrast(crop) < LEAST_CONTRAST or least_difference(picture, crop, (top, left)) < MARGIN:
        return None
    parts = {2: "quarters", 3: "nine equal parts (three rows of three)"}[grid]
    text = f"image_1 is divided into {parts}. In which of them does image_2 lie, which was cut out of image_1?"
    box = _box(top, left, side, photographs.side)
    return Made(text, choice(_CELLS[grid], cell), (picture, crop), image_id, box, dict(measures))


WHERE = Kind(
    "where",
    (
        {"side": 0.4, "rows": 2},
        {"side": 0.28, "rows": 2},
        {"side": 0.22, "rows": 3},
        {"side": 0.16, "rows": 3},
        {"side": 0.12, "rows": 3},
    ),
    _where,
)


# --- which of four crops is from the picture

_SHOWN = 0.6
"""Side of the part of a photograph that is shown, as a fraction of its shorter side; the rest gives other crops."""


def _which(rng: Rng, photographs: Photographs, level: int) -> Made | None:
    measures = WHICH.levels[level - 1]
    size, side = photographs.side, _side(measures["side"], photographs.side)
    photo, image_id = photographs.draw(rng)
    height, width = int(photo.shape[0]), int(photo.shape[1])
    shown = max(1, round(_SHOWN * min(height, width)))
    top, left = int(rng.integers(height - shown + 1)), int(rng.integers(width - shown + 1))
    picture = resize(photo[top : top + shown, left : left + shown], size, size)
    y, x = int(rng.integers(size - side + 1)), int(rng.integers(size - side + 1))
    crops = [_cut(picture, y, x, side)]
    same = 3 if len(photographs) < 4 else int(measures["same"])
    part = max(1, round(side * shown / size))
    ids = {image_id}
    while len(crops) < 4:
        if len(crops) <= same:
            other = _outside(rng, photo, (top, left, shown), part)
            if other is None:
                return None
            crops.append(resize(other, side, side))
        else:
            other, other_id = photographs.picture(rng)
            if other_id in ids:
                continue
            ids.add(other_id)
            crops.append(_cut(other, int(rng.integers(size - side + 1)), int(rng.integers(size - side + 1)), side))
    if any(contrast(crop) < LEAST_CONTRAST for crop in crops):
        return None
    if any(difference(one, crops[other]) < MARGIN for place, one in enumerate(crops) for other in range(place)):
        return None
    if any(least_difference(picture, crop) < MARGIN for crop in crops[1:]):
        return None
    order: list[int] = rng.permutation(4).tolist()
    text = "Which of the pictures image_2 to image_5 was cut out of image_1?"
    key = choice([f"image_{number}" for number in range(2, 6)], order.index(0))
    images = (picture, *(crops[place] for place in order))
    return Made(text, key, images, image_id, _box(y, x, side, size), {"side": measures["side"], "same": same})


def _outside(rng: Rng, photo: Pixels, window: tuple[int, int, int], side: int) -> Pixels | None:
    """Draw a square part of a photograph outside of a square window, or None where there is no room for it."""
    height, width = int(photo.shape[0]), int(photo.shape[1])
    top, left, shown = window
    if side > min(height, width):
        return None
    for _ in range(20):
        y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        if y + side <= top or y >= top + shown or x + side <= left or x >= left + shown:
            return photo[y : y + side, x : x + side]
    return None


WHICH = Kind(
    "which",
    (
        {"side": 0.5, "same": 0},
        {"side": 0.35, "same": 0},
        {"side": 0.3, "same": 1},
        {"side": 0.25, "same": 3},
        {"side": 0.15, "same": 3},
    ),
    _which,
)


# --- which half is brighter or bluer


def brightness(part: Pixels) -> float:
    """Return the mean brightness of a part: 0.299 red + 0.587 green + 0.114 blue, 0 to 255."""
    red, green, blue, _ = cv2.mean(part)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def blueness(part: Pixels) -> float:
    """Return the mean blue of a part less the mean of its red and green, -255 to 255."""
    red, green, blue, _ = cv2.mean(part)
    return blue - (red + green) / 2


_LOOKS: tuple[tuple[str, Callable[[Pixels], float], tuple[float, float, float]], ...] = (
    ("brighter on average", brightness, (1.0, 1.0, 1.0)),
    ("bluer on average, that is, has more blue compared with its red and green", blueness, (-0.5, -0.5, 0.5)),
)
"""For each question the words, the measure, and the change of the channels that raises it by 1."""
_HALVES = (("left", "right"), ("top", "bottom"))
_CORRECTIONS = 8


def _half(rng: Rng, photographs: Photographs, level: int) -> Made | None:
    low, high = (float(bound) for bound in HALF.levels[level - 1]["margin"])
    words, measure, channels = _LOOKS[int(rng.integers(len(_LOOKS)))]
    across, right, margin = int(rng.integers(2)), int(rng.integers(2)), float(rng.uniform(low, high))
    picture, image_id = photographs.picture(rng)
    middle = photographs.side // 2
    picture = np.ascontiguousarray(picture[: 2 * middle, : 2 * middle])

    def halves(image: Pixels) -> tuple[Pixels, Pixels]:
        return (image[:middle], image[middle:]) if across else (image[:, :middle], image[:, middle:])

    def gap(image: Pixels) -> float:
        first, second = map(measure, halves(image))
        return second - first if right else first - second

    if gap(picture) < 0 and not across:
        picture = np.ascontiguousarray(picture[:, ::-1])
    made, shift = picture, 0.0
    for _ in range(_CORRECTIONS):
        found = gap(made)
        if low <= found <= high:
            text = f"Which half of the picture is {words}?"
            facts = {"margin": round(found, 3)}
            key = choice([f"the {side} half" for side in _HALVES[across]], right)
            return Made(text, key, (made,), image_id, None, facts)
        shift += margin - found
        changed = picture.astype(np.float32)
        one, other = halves(changed)  # pyright: ignore[reportArgumentType] -- floats for now
        step = np.asarray(channels, np.float32) * (shift / 2)
        one += -step if right else step
        other += step if right else -step
        made = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    return None


HALF = Kind(
    "half",
    (
        {"margin": (48.0, 80.0)},
        {"margin": (32.0, 48.0)},
        {"margin": (22.0, 32.0)},
        {"margin": (15.0, 22.0)},
        {"margin": (10.0, 15.0)},
    ),
    _half,
)


# --- how is this piece turned

_ANGLES = (0, 90, 180, 270)


def _turned(rng: Rng, photographs: Photographs, level: int) -> Made | None:
    measures = TURNED.levels[level - 1]
    size, side = photographs.side, _side(measures["side"], photographs.side)
    picture, image_id = photographs.picture(rng)
    top, left = int(rng.integers(size - side + 1)), int(rng.integers(size - side + 1))
    piece = _cut(picture, top, left, side)
    turns = [np.ascontiguousarray(np.rot90(piece, -number)) for number in range(4)]
    if contrast(piece) < LEAST_CONTRAST or min(difference(piece, other) for other in turns[1:]) < MARGIN:
        return None
    if any(least_difference(picture, other) < MARGIN for other in turns[1:]):  # it would fit in another way
        return None
    number = int(rng.integers(4))
    text = "image_2 was cut out of image_1 and perhaps turned. By how many degrees was it turned clockwise?"
    key = choice([str(angle) for angle in _ANGLES], number)
    return Made(text, key, (picture, turns[number]), image_id, _box(top, left, side, size), dict(measures))


TURNED = Kind("turned", tuple({"side": side} for side in (0.5, 0.36, 0.26, 0.18, 0.12)), _turned)


# --- what changed between two versions

Edit = Callable[[Pixels, float], Pixels]


def _shifted(part: Pixels, amount: float) -> Pixels:
    return np.clip(part.astype(np.float32) + amount, 0, 255).astype(np.uint8)


def _grey(part: Pixels, _: float) -> Pixels:
    return np.asarray(cv2.cvtColor(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)


def _blurred(part: Pixels, _: float) -> Pixels:
    sigma = max(2.0, part.shape[0] / 10)
    return np.asarray(cv2.GaussianBlur(part, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.uint8)


_EDITS: tuple[tuple[str, Edit], ...] = (
    ("it was made brighter", _shifted),
    ("it was made darker", lambda part, strength: _shifted(part, -strength)),
    ("it was turned upside down", lambda part, _: np.ascontiguousarray(part[::-1, ::-1])),
    ("its colours were made grey", _grey),
    ("it was blurred", _blurred),
)


def _changed(rng: Rng, photographs: Photographs, level: int) -> Made | None:
    measures = CHANGED.levels[level - 1]
    size, side, strength = photographs.side, _side(measures["side"], photographs.side), float(measures["strength"])
    picture, image_id = photographs.picture(rng)
    cell, top, left = _cell_place(rng, size, side, 2)
    right, asks_where = int(rng.integers(len(_EDITS))), bool(rng.integers(2))
    part = _cut(picture, top, left, side)
    versions = [part, *(edit(part, strength) for _, edit in _EDITS)]
    least = measures["least"]
    made = versions[right + 1]
    others = versions[:1] if asks_where else [one for one in versions if one is not made]
    if contrast(part) < LEAST_CONTRAST or any(difference(made, other) < least for other in others):
        return None
    after = picture.copy()
    after[top : top + side, left : left + side] = made
    text = "image_2 is image_1 after one square part of it was changed. "
    if asks_where:
        text, key = text + "In which quarter of the picture does that part lie?", choice(_CELLS[2], cell)
    else:
        order: list[int] = rng.permutation(len(_EDITS)).tolist()
        text, key = text + "What was done to that part?", choice([_EDITS[n][0] for n in order], order.index(right))
    return Made(text, key, (picture, after), image_id, _box(top, left, side, size), dict(measures))


CHANGED = Kind(
    "changed",
    (
        {"side": 0.4, "strength": 90, "least": 24},
        {"side": 0.3, "strength": 70, "least": 22},
        {"side": 0.22, "strength": 60, "least": 20},
        {"side": 0.16, "strength": 50, "least": 18},
        {"side": 0.12, "strength": 40, "least": 16},
    ),
    _changed,
)


# --- is the picture whole, or were parts of it exchanged


def _whole(rng: Rng, photographs: Photographs, level: int) -> Made | None:
    measures = WHOLE.levels[level - 1]
    rows, moved = int(measures["rows"]), int(measures["moved"])
    picture, image_id = photographs.picture(rng)
    side = photographs.side // rows
    picture = np.ascontiguousarray(picture[: rows * side, : rows * side])
    places = [(row * side, column * side) for row in range(rows) for column in range(rows)]
    chosen: list[int] = rng.choice(len(places), moved, replace=False).tolist()
    mixed = picture.copy()
    for place, source in zip(chosen, (*chosen[1:], chosen[0]), strict=True):  # each to the place of another one
        (top, left), (y, x) = places[place], places[source]
        part, other = _cut(picture, top, left, side), _cut(picture, y, x, side)
        if contrast(part) < LEAST_CONTRAST or difference(part, other) < MARGIN:
            return None
        mixed[top : top + side, left : left + side] = other
    whole = bool(rng.integers(2))
    text = f"A picture was cut into {rows * rows} equal parts. Are they all in their places?"
    key = AnswerKey("yes_no", ("yes" if whole else "no",))
    return Made(text, key, (picture if whole else mixed,), image_id, None, dict(measures))


WHOLE = Kind(
    "whole",
    (
        {"rows": 2, "moved": 4},
        {"rows": 2, "moved": 2},
        {"rows": 3, "moved": 3},
        {"rows": 3, "moved": 2},
        {"rows": 4, "moved": 2},
    ),
    _whole,
)
