"""Parts of a collection of photographs."""

import shutil

import numpy as np
import pytest
from PIL import Image

from agile_gym.errors import ConfigurationError
from agile_gym.images import open_images
from agile_gym.studies.photographs import Photographs, uses_photographs


def hashes(folder):
    source = open_images(folder)
    return {source.content_hash(index) for index in range(len(source))}


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "photographs"
    (place / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(20):
        pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(place / ("more" if number % 2 else "") / f"{number}.png")
    return place


def test_parts_are_nested_and_have_nothing_of_those_to_test_on(folder, tmp_path):
    photographs = Photographs(tmp_path / "parts", str(folder), None, divided=True)
    four, eight, train, test = map(photographs.fill, ("{images:4}", "{images:8}", "{images}", "{test}"))
    assert hashes(four) < hashes(eight) < hashes(train)
    assert (len(hashes(four)), len(hashes(eight))) == (4, 8)
    assert not hashes(train) & hashes(test)
    assert hashes(train) | hashes(test) == hashes(folder)


def test_a_part_is_the_same_whatever_files_are_called_and_wherever_they_are(folder, tmp_path):
    first = Photographs(tmp_path / "a", str(folder), None, divided=True).fill("{images:5}")
    moved = tmp_path / "moved"
    moved.mkdir()
    for number, path in enumerate(sorted(folder.rglob("*.png"), reverse=True)):
        shutil.copy(path, moved / f"z{number}.png")
    second = Photographs(tmp_path / "b", str(moved), None, divided=True).fill("{images:5}")
    assert hashes(first) == hashes(second)


def test_folders_as_they_are_given_stay_where_nothing_must_be_divided(folder, tmp_path):
    alone = Photographs(tmp_path / "parts", str(folder), None, divided=False)
    assert alone.fill({"a": ["{images}", 3, "{image}"]}) == {"a": [str(folder), 3, "{image}"]}
    both = Photographs(tmp_path / "parts", str(folder), "elsewhere", divided=True)
    assert (both.fill("{images}"), both.fill("{test}")) == (str(folder), "elsewhere")
    assert hashes(both.fill("{images:20}")) == hashes(folder)
    assert Photographs(tmp_path / "parts", None, None, divided=False).fill("{images}") == "builtin"


def test_the_builtin_photographs_have_parts_too(tmp_path):
    photographs = Photographs(tmp_path, None, None, divided=True)
    part, test = open_images(photographs.fill("{images:3}")), open_images(photographs.fill("{test}"))
    assert (len(part), len(test)) == (3, 12)
    pixels = {source.load(index).tobytes() for source in [open_images(split="train")] for index in range(len(source))}
    assert {part.load(index).tobytes() for index in range(3)} < pixels


def test_no_photographs_are_pictures_of_noise(folder, tmp_path):
    photographs = Photographs(tmp_path / "parts", str(folder), None, divided=True)
    noise = open_images(photographs.fill("{images:0}"))
    assert len(noise) == 8
    assert not {noise.content_hash(index) for index in range(8)} & hashes(folder)
    pixels = noise.load(3).astype(float)
    next_to_it = np.corrcoef(pixels[:, :-1].ravel(), pixels[:, 1:].ravel())[0, 1]
    assert abs(next_to_it) < 0.02  # nothing goes on across a border
    again = Photographs(tmp_path / "again", None, None, divided=True).fill("{images:0}")
    assert hashes(again) == {noise.content_hash(index) for index in range(8)}


def test_too_few_photographs_are_an_error_that_counts_them(folder, tmp_path):
    photographs = Photographs(tmp_path / "parts", str(folder), None, divided=True)
    with pytest.raises(
        ConfigurationError, match=r"wants 140 photographs to train on, and .* has 1\d, those to test on"
    ):
        photographs.fill("{images:140}")
    assert not (tmp_path / "parts").exists()


def test_names_of_photographs_are_found_at_any_depth():
    assert uses_photographs({"a": [{"b": "{images:8}"}, "{test}"], "c": "x{images}"}) == {"part", "test"}
