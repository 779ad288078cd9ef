"""Generated questions, each answered again from the pixels by other means than those that made it."""

from collections import Counter

import cv2
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from agile_gym.errors import ConfigurationError, ImageError
from agile_gym.images.opening import open_images
from agile_gym.questions.answers import RULES
from agile_gym.questions.generated import DIFFICULTIES, KINDS, GeneratedQuestions, parse_difficulty, parse_kinds

LEVELS = range(1, DIFFICULTIES + 1)
CLEAR = 14.0
"""Least root mean square difference, in grey levels, of any other place or reading at full resolution."""
QUARTERS = ("top left", "top right", "bottom left", "bottom right")
NINE = [f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right")]


@pytest.fixture(scope="module")
def photographs():
    return open_images(None)


def asked(photographs, kind, level, seeds=3, side=96):
    source = GeneratedQuestions(photographs, side, (kind,), (level,))
    return [source.draw(np.random.default_rng([level, seed]), {}) for seed in range(seeds)]


def answer(question):
    (given,) = question.key.answers
    return question.key.choices.get(given, given)


def differences(picture, part):
    """Return the root mean square difference of a part at each place of a picture, by going through all places."""
    high, wide = part.shape[:2]
    found = np.empty((picture.shape[0] - high + 1, picture.shape[1] - wide + 1))
    windows = sliding_window_view(picture, (high, wide), axis=(0, 1))  # (rows, columns, 3, high, wide)
    target = part.transpose(2, 0, 1).astype(np.float32)
    for row in range(found.shape[0]):
        found[row] = np.sqrt(((windows[row].astype(np.float32) - target) ** 2).mean(axis=(1, 2, 3)))
    return found


def places(picture, part):
    """Return the places of a picture that look like a part, exactly and nearly, as rows of top and left."""
    found = differences(picture, part)
    return np.argwhere(found == 0), np.argwhere(found < CLEAR)


@pytest.mark.parametrize("level", LEVELS)
def test_where_is_the_one_place_of_the_crop(photographs, level):
    for question in asked(photographs, "where", level, seeds=2):
        picture, crop = question.images
        exact, near = places(picture, crop)
        (place,) = exact
        side = len(crop)
        assert np.abs(near - place).max() <= side / 2
        assert side == max(8, round(question.facts["side"] * 96))
        rows = question.facts["rows"]
        names = QUARTERS if rows == 2 else NINE
        centre = (place + side / 2) * rows / 96
        first, last = np.floor(place * rows / 96), np.floor((place + side - 1) * rows / 96)
        np.testing.assert_array_equal(first, last)  # it does not lie across a border
        assert answer(question) == names[int(centre[0]) * rows + int(centre[1])]
        assert question.box == pytest.approx(
            (place[1] / 96, place[0] / 96, (place[1] + side) / 96, (place[0] + side) / 96)
        )


@pytest.mark.parametrize("level", LEVELS)
def test_which_is_the_one_crop_that_the_picture_has(photographs, level):
    for question in asked(photographs, "which", level, seeds=2, side=64):
        picture, *crops = question.images
        least = [differences(picture, crop).min() for crop in crops]
        right = int(np.argmin(least))
        assert least[right] == 0
        assert sorted(least)[1] > CLEAR
        assert answer(question) == f"image_{right + 2}"


@pytest.mark.parametrize("level", LEVELS)
def test_halves_differ_by_the_stated_margin(photographs, level):
    low, high = KINDS["half"].levels[level - 1]["margin"]
    for question in asked(photographs, "half", level, seeds=8):
        (picture,) = question.images
        red, green, blue = picture.astype(float).transpose(2, 0, 1)
        value = blue - (red + green) / 2 if "bluer" in question.text else 0.299 * red + 0.587 * green + 0.114 * blue
        sides = {"top": value[:48], "bottom": value[48:], "left": value[:, :48], "right": value[:, 48:]}
        names = [option.split()[1] for option in question.key.choices.values()]
        first, second = (sides[name].mean() for name in names)
        assert low <= abs(first - second) <= high
        assert question.facts["margin"] == pytest.approx(abs(first - second), abs=0.01)
        assert answer(question) == f"the {names[0] if first > second else names[1]} half"


@pytest.mark.parametrize("level", LEVELS)
def test_turned_is_the_one_angle_at_which_the_piece_fits(photographs, level):
    for question in asked(photographs, "turned", level, seeds=2, side=64):
        picture, piece = question.images
        least = [differences(picture, np.rot90(piece, number)).min() for number in range(4)]
        right = int(np.argmin(least))
        assert least[right] == 0
        assert sorted(least)[1] > CLEAR
        assert answer(question) == str(90 * right)


def edit_of(before, after):
    """Return the words for a change, from the pixels."""
    difference = after.astype(int) - before
    if (after == before[::-1, ::-1]).all():
        return "it was turned upside down"
    if (after == after[..., :1]).all():
        return "its colours were made grey"
    if (difference >= 0).all():
        return "it was made brighter"
    if (difference <= 0).all():
        return "it was made darker"
    return "it was blurred" if after.std() < before.std() else "nothing that is known"


@pytest.mark.parametrize("level", LEVELS)
def test_changed_is_one_square_part(photographs, level):
    for question in asked(photographs, "changed", level, seeds=8):
        before, after = question.images
        x1, y1, x2, y2 = (round(96 * side) for side in question.box)
        mask = (before != after).any(axis=2)
        assert mask[y1:y2, x1:x2].mean() > 0.2
        mask[y1:y2, x1:x2] = False
        assert not mask.any()
        old, new = before[y1:y2, x1:x2], after[y1:y2, x1:x2]
        assert np.sqrt(((new.astype(float) - old) ** 2).mean()) >= question.facts["least"]
        quarters = {int(2 * y >= 96) * 2 + int(2 * x >= 96) for y in (y1, y2 - 1) for x in (x1, x2 - 1)}
        (quarter,) = quarters
        right = QUARTERS[quarter] if "quarter" in question.text else edit_of(old, new)
        assert answer(question) == right


@pytest.mark.parametrize("level", LEVELS)
def test_whole_is_a_picture_with_all_parts_in_their_places(level):
    ramp = np.tile(np.linspace(0, 255, 128).astype(np.uint8), (128, 1))  # red tells the column, green the row
    noise = np.random.default_rng(0).integers(0, 256, (128, 128), np.uint8)
    answers = set()
    for question in asked(open_images([np.stack([ramp, ramp.T, noise], -1)]), "whole", level, seeds=12):
        (picture,), rows = question.images, question.facts["rows"]
        side = 96 // rows
        cells = picture.reshape(rows, side, rows, side, 3).mean(axis=(1, 3))  # (rows, columns, 3)
        column = np.argsort(np.argsort(cells[..., 0].ravel(), kind="stable")) // rows
        row = np.argsort(np.argsort(cells[..., 1].ravel(), kind="stable")) // rows
        away = int((row * rows + column != np.arange(rows * rows)).sum())
        assert away == (question.facts["moved"] if answer(question) == "no" else 0)
        answers.add(answer(question))
    assert answers == {"yes", "no"}


def letters():
    """Return each letter as OpenCV draws it, as a mask of 24 x 24."""
    found = {}
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        canvas = np.zeros((160, 160), np.uint8)
        cv2.putText(canvas, letter, (20, 120), cv2.FONT_HERSHEY_SIMPLEX, 4.0, 255, 9)
        found[letter] = squared(canvas > 0)
    return found


def squared(mask):
    rows, columns = np.where(mask.any(axis=1))[0], np.where(mask.any(axis=0))[0]
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    return cv2.resize(part, (24, 24), interpolation=cv2.INTER_AREA)


def read_word(plate):
    """Read dark or light letters on a plate of one colour: its connected parts, from left to right."""
    distance = np.abs(plate[..., 0].astype(int) - plate[0, 0, 0])
    ink = distance > 0.7 * distance.max()  # without the soft edges by which neighbours may touch
    count, labels, stats, _ = cv2.connectedComponentsWithStats(ink.astype(np.uint8))
    known = letters()
    word = ""
    for number in sorted(range(1, count), key=lambda label: stats[label, cv2.CC_STAT_LEFT]):
        mask = squared(labels == number)
        word += min(known, key=lambda letter: float(np.square(known[letter] - mask).sum()))
    return word


@pytest.mark.parametrize("level", LEVELS)
def test_words_are_read_letter_by_letter(photographs, level):
    for question in asked(photographs, "word", level, seeds=4, side=900):
        (picture,) = question.images
        x1, y1, x2, y2 = (round(900 * side) for side in question.box)
        plate = picture[y1:y2, x1:x2]
        assert read_word(plate) == answer(question)
        assert int(plate.max()) - int(plate.min()) == question.facts["contrast"]
        assert question.key.judge(answer(question).lower())
        assert not question.key.judge("WORD")


COLOURS = {"red": (255, 0, 0), "yellow": (255, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def shapes_in(picture):
    """Count shapes by colour and form, from the share of its box that each connected part of one colour fills."""
    found = Counter()
    for colour, value in COLOURS.items():
        mask = (picture == value).all(axis=2).astype(np.uint8)
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
        for number in range(1, count):
            _, _, wide, high, area = stats[number]
            full = area / (wide * high)
            found[colour, "square" if full > 0.95 else "circle" if full > 0.66 else "triangle"] += 1
    return found


@pytest.mark.parametrize("level", LEVELS)
def test_shapes_are_counted(photographs, level):
    low, high = KINDS["count"].levels[level - 1]["shapes"]
    for question in asked(photographs, "count", level, seeds=6, side=320):
        (picture,) = question.images
        found = shapes_in(picture)
        words = question.text.split()
        number = found[words[2], words[3].removesuffix("s")]
        assert low <= number <= high
        assert answer(question) == str(number)
        assert found.total() - number == question.facts["others"]
        assert not question.key.judge(str(number + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_occurs_and_a_seed_repeats_itself(photographs, kind):
    source = GeneratedQuestions(photographs, 64, (kind,), (1, 2))
    drawn = [source.draw(np.random.default_rng(seed), {}) for seed in range(40)]
    again = [source.draw(np.random.default_rng(seed), {}) for seed in range(5)]
    for one, other in zip(drawn, again, strict=False):
        assert (one.text, one.key, one.image_id, one.box) == (other.text, other.key, other.image_id, other.box)
        assert all((a == b).all() for a, b in zip(one.images, other.images, strict=True))
    assert all(one.key.rule in RULES and one.key.problem() is None and one.label == kind for one in drawn)
    assert {one.facts["difficulty"] for one in drawn} == {1, 2}
    assert all(not image.flags.writeable and image.dtype == np.uint8 for one in drawn for image in one.images)
    counts = Counter(answer(one) for one in drawn)
    assert max(counts.values()) < 30  # no answer is nearly always right
    if drawn[0].key.choices and kind != "changed":
        letters_of = Counter(one.key.answers[0] for one in drawn)
        assert set(letters_of) == set(max((one.key.choices for one in drawn), key=len)) or kind == "where"


def test_photographs_that_are_too_few_or_too_uniform():
    rng = np.random.default_rng(0)
    one = cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), (300, 220), interpolation=cv2.INTER_NEAREST)
    source = GeneratedQuestions(open_images([one]), 96, tuple(KINDS), (1,))
    for kind in KINDS:
        source.draw(np.random.default_rng(0), {"kind": kind})  # "which" takes all crops from the one there is
    grey = GeneratedQuestions(open_images([np.full((200, 200, 3), 99, np.uint8)]), 96, tuple(KINDS), (1,))
    for kind in ("where", "which", "turned", "changed"):
        with pytest.raises(ImageError, match=f"No question of kind '{kind}' and difficulty 1 .* too uniform"):
            grey.draw(np.random.default_rng(0), {"kind": kind})
    for kind in ("half", "word", "count"):
        grey.draw(np.random.default_rng(0), {"kind": kind})


@pytest.mark.parametrize(("kind", "level"), [("where", 3), ("which", 4), ("turned", 4)])
def test_parts_that_occur_twice_are_not_asked_about(kind, level):
    tile = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8), (0, 0), 5).astype(float)
    tile = sum(np.rot90(tile, number) for number in range(4))
    tile = (tile - tile.min()) / (tile.max() - tile.min()) * 255
    lattice = np.tile(tile.astype(np.uint8), (8, 8, 1))  # looks the same 60 pixels on, and a quarter turn on
    source = GeneratedQuestions(open_images([lattice]), 96, (kind,), (level,))
    with pytest.raises(ImageError, match=f"No question of kind '{kind}'"):
        source.draw(np.random.default_rng(0), {})


def test_difficulties_and_kinds_are_checked():
    assert [parse_difficulty(value) for value in (2, "3", "2-4", "all", [5, 1], "1 - 2", np.int64(4))] == [
        (2,), (3,), (2, 3, 4), (1, 2, 3, 4, 5), (5, 1), (1, 2), (4,),
    ]  # fmt: skip
    for value in (0, 6, "0-2", "2-6", "4-2", "x", [], [1, "2"], True, 1.5, None, "-", "1-"):
        with pytest.raises(ConfigurationError, match="difficulty="):
            parse_difficulty(value)
    assert parse_kinds(None) == tuple(KINDS)
    assert parse_kinds("count") == ("count",)
    assert parse_kinds(["count", "half", "count"]) == ("count", "half")
    for value in ("counts", [], ["half", 3], 3):
        with pytest.raises(ConfigurationError, match="There is no kind of question"):
            parse_kinds(value)
