"""The split of images by their content."""

import hashlib
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from agile_gym.errors import ConfigurationError, ImageError
from agile_gym.images import open_images, split_of
from agile_gym.images.sources import select_split

HASHES = st.binary(min_size=1, max_size=8).map(lambda data: hashlib.sha256(data).hexdigest())
FRACTIONS = st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True)


def photographs(folder, count):
    folder.mkdir()
    for index in range(count):
        Image.new("RGB", (4, 3), (index, 7, 9)).save(folder / f"{index:03}.png")
    return folder


@given(HASHES, FRACTIONS)
def test_a_hash_is_in_one_split(content, fraction):
    split = split_of(content, fraction)
    assert split in ("train", "test")
    assert split == split_of(content, fraction) == split_of(content.upper(), fraction)


@given(HASHES, FRACTIONS, FRACTIONS)
def test_a_larger_fraction_only_adds_to_the_test_images(content, one, other):
    low, high = sorted((one, other))
    assert not (split_of(content, low) == "test" and split_of(content, high) == "train")


@given(st.lists(HASHES, unique=True), FRACTIONS)
def test_the_two_splits_share_nothing_and_miss_nothing(hashes, fraction):
    train, test = (select_split(hashes, split, fraction) for split in ("train", "test"))
    assert sorted(train + test) == list(range(len(hashes)))
    natural = [index for index, content in enumerate(hashes) if split_of(content, fraction) == "test"]
    if 0 < len(natural) < len(hashes) or len(hashes) == 1:
        assert test == natural
    elif len(hashes) > 1:  # only the one that is nearest to the other side moves there
        ranked = sorted(hashes)
        moved = ranked[-1] if natural else ranked[0]
        assert [hashes[index] for index in (train if natural else test)] == [moved]


@given(st.lists(HASHES, unique=True, min_size=2), FRACTIONS, st.randoms())
def test_the_order_does_not_matter(hashes, fraction, random):
    mixed = list(hashes)
    random.shuffle(mixed)
    chosen = [{order[i] for i in select_split(order, "test", fraction)} for order in (hashes, mixed)]
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_the_share_of_test_images_is_near_the_fraction(fraction):
    count = 20_000
    hashes = (hashlib.sha256(str(index).encode()).hexdigest() for index in range(count))
    share = sum(split_of(content, fraction) == "test" for content in hashes) / count
    assert abs(share - fraction) < 4 * (fraction * (1 - fraction) / count) ** 0.5


def test_known_values():
    # the first eight digits are compared with the fraction of 2**32
    assert split_of("33333333" + "f" * 56, 0.2) == "test"  # 0x33333333 / 2**32 = 0.19999999995
    assert split_of("33333334" + "0" * 56, 0.2) == "train"
    assert split_of("80000000", 0.5) == "train"
    assert split_of("7fffffff", 0.5) == "test"


@pytest.mark.parametrize("content", ["", "1234", "xyz45678", "0x123456", "-1234567", " 12345678"])
def test_hashes_that_are_none(content):
    with pytest.raises(ConfigurationError, match="hexadecimal"):
        split_of(content, 0.5)


@pytest.mark.parametrize("fraction", [0, 1, 0.0, 1.0, -0.1, 1.5, float("nan"), float("inf"), "0.2", None, True])
def test_fractions_outside_the_range(fraction):
    with pytest.raises(ConfigurationError, match="test_fraction"):
        split_of("0" * 64, fraction)
    with pytest.raises(ConfigurationError, match="test_fraction"):
        open_images(test_fraction=fraction)


@pytest.mark.parametrize(("split", "hint"), [("tst", "Did you mean 'test'"), ("validation", "Allowed"), (3, "Allowed")])
def test_unknown_split(split, hint):
    with pytest.raises(ConfigurationError, match=hint) as caught:
        open_images(split=split)
    assert not isinstance(caught.value, ImageError)


def test_a_file_is_in_the_same_split_in_every_folder(tmp_path):
    one = photographs(tmp_path / "one", 40)
    two = tmp_path / "two"
    (two / "deep").mkdir(parents=True)
    for index, path in enumerate(sorted(one.iterdir(), reverse=True)):
        shutil.copy(path, two / "deep" / f"copy-{index}.png")
    Image.new("L", (5, 5), 3).save(two / "another.png")

    def content(folder, split):
        source = open_images(folder, split=split)
        return {source.content_hash(index) for index in range(len(source))}

    assert content(one, "train") & content(two, "test") == set()
    assert content(one, "test") <= content(two, "test")
    assert len(content(one, "train") | content(one, "test")) == 40
    for split in ("train", "test"):
        assert {split_of(each, 0.2) for each in content(one, split)} == {split}
        listed = open_images(list(one.iterdir()), split=split)
        assert {listed.content_hash(index) for index in range(len(listed))} == content(one, split)


def test_empty_split_says_what_to_do():
    array = np.zeros((3, 4, 3), np.uint8)
    split = split_of(open_images(array).content_hash(0), 0.5)
    empty = "train" if split == "test" else "test"
    with pytest.raises(
        ImageError, match=f"only one, which belongs to split='{split}' with test_fraction=0.5.*at least two"
    ):
        open_images(array, split=empty, test_fraction=0.5)
    assert len(open_images(array, split=split, test_fraction=0.5)) == 1


@pytest.mark.parametrize("fraction", [0.001, 0.2, 0.5, 0.999])
def test_builtin_photographs_have_both_splits(fraction):
    everything = open_images()
    train, test = (open_images(split=split, test_fraction=fraction) for split in ("train", "test"))
    hashes = [{source.content_hash(i) for i in range(len(source))} for source in (train, test, everything)]
    assert hashes[0]
    assert hashes[1]
    assert not hashes[0] & hashes[1]
    assert hashes[0] | hashes[1] == hashes[2]
    # what is right for one hash is right for a lower one: the split follows the content
    assert max(hashes[1]) < min(hashes[0])


def of_one_side(count, split, fraction=0.2):
    """Return different photographs that are all on one side."""
    arrays = []
    seed = 0
    while len(arrays) < count:
        array = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
        if split_of(open_images(array).content_hash(0), fraction) == split:
            arrays.append(array)
        seed += 1
    return arrays


@pytest.mark.parametrize("side", ["train", "test"])
@pytest.mark.parametrize("count", [2, 3, 12])
def test_a_few_photographs_of_one_side_give_both_splits(tmp_path, count, side):
    """In any kind of source."""
    arrays = of_one_side(count, side)
    for index, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{index}.png")
    for images in (arrays, open_images(arrays), np.stack(arrays), tmp_path, sorted(tmp_path.iterdir())):
        everything = open_images(images)
        hashes = {everything.content_hash(index) for index in range(count)}
        parts = []
        for split in ("train", "test"):
            source = open_images(images, split=split)
            parts.append({source.content_hash(index) for index in range(len(source))})
        assert parts[0]
        assert parts[1]
        assert not parts[0] & parts[1]
        assert parts[0] | parts[1] == hashes
        assert max(parts[1]) < min(parts[0])
        backwards = open_images(images, split="test", test_fraction=0.2)
        assert {backwards.content_hash(index) for index in range(len(backwards))} == parts[1]


def test_hashes_that_begin_alike_are_ranked_by_the_rest():
    hashes = ["ffffffff" + digit * 56 for digit in "9a3"]
    for order in (hashes, hashes[::-1]):
        assert [order[index] for index in select_split(order, "test", 0.2)] == [hashes[2]]


def test_one_photograph_given_twice_is_one(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("1.png", "a/2.png"):
        Image.new("RGB", (4, 3), (9, 9, 9)).save(tmp_path / name)
    messages = []
    for split in ("train", "test"):
        try:
            open_images(tmp_path, split=split)
        except ImageError as error:
            messages.append(str(error))
    assert len(messages) == 1
    assert "there is only one" in messages[0]
