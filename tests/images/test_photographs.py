"""The built-in photographs: their files, authors, licences, splits and pixels, and the program that makes them."""

import hashlib
import json
import multiprocessing
import pickle
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from agile_gym.images import open_images, split_of
from agile_gym.images.folder import PHOTOGRAPHS
from agile_gym.images.sources import COARSE, FINE, fingerprint

ROOT = Path(__file__).parents[2]
FOLDER = Path(PHOTOGRAPHS)
FILES = sorted(FOLDER.glob("*/*"))
ENTRIES = tomllib.loads((FOLDER / "ATTRIBUTION.toml").read_text(encoding="utf-8"))["photograph"]
PROGRAM = ROOT / "benchmarks" / "photographs.py"
LICENCES = {
    "public domain": "https://creativecommons.org/publicdomain/mark/1.0/",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-2.0": "https://creativecommons.org/licenses/by/2.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
}
PIXELS = "47c9880efae707dc850d8ffcb4e201c286f61d765ac89be65ef8fb7d3c4becd0"
"""SHA-256 of the names and pixels of all photographs, in their order."""


def digest(source):
    """Return the hash of the names and pixels of images."""
    result = hashlib.sha256()
    for index in range(len(source)):
        pixels = source.load(index)
        result.update(f"{source.name(index)} {pixels.shape}".encode())
        result.update(pixels.tobytes())
    return result.hexdigest()


def fingerprints(source, side):
    return np.stack([fingerprint(source.load(index), side) for index in range(len(source))])


def test_every_photograph_has_an_entry_and_every_entry_a_photograph():
    assert [entry["file"] for entry in ENTRIES] == [path.relative_to(FOLDER).as_posix() for path in FILES]
    assert {path.name for path in FOLDER.iterdir()} == {"ATTRIBUTION.toml", "test", "train"}
    assert len({path.stem for path in FILES}) == len(FILES) >= 48
    assert len(list(FOLDER.glob("test/*"))) == 12


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["file"])
def test_an_entry_is_complete_and_true_of_the_file(entry):
    keys = ["file", "title", "author", "source", "copy", "licence", "licence_url", "changes"]
    assert list(entry) == keys
    assert all(isinstance(value, str) and value.strip() == value and value for value in entry.values())
    assert LICENCES[entry["licence"]] == entry["licence_url"]
    assert re.fullmatch(r"https://[^\s/]+/\S+", entry["source"])
    with Image.open(FOLDER / entry["file"]) as image:
        width, height = image.size
        comment = image.info["comment"].decode()
        assert image.format == "JPEG"
        assert [sampling[1:3] for sampling in image.layer] == [(1, 1)] * 3  # colours are not subsampled
        assert not image.getexif()
    scaled = rf"(scaled from \d+ x \d+ to )?{width} x {height} pixels, compressed as JPEG"
    assert re.fullmatch(scaled, entry["changes"])
    assert 200 <= min(width, height) <= 320
    parts = [entry[key] for key in ("title", "author", "source", "licence", "licence_url")]
    assert re.fullmatch(re.escape("; ".join(parts)) + r" #\d+", comment)


def test_size_of_all():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 1_500_000


@pytest.mark.parametrize("fraction", [0.0003, 0.01, 0.2, 0.5, 0.9, 0.9997])
def test_the_split_is_that_of_the_folder_for_any_fraction(fraction, tmp_path):
    for split in ("train", "test"):
        source = open_images(split=split, test_fraction=fraction)
        assert [source.name(index) for index in range(len(source))] == [
            path.stem for path in FILES if path.parent.name == split
        ]
    # copies among other images stay on their sides
    shutil.copytree(FOLDER, tmp_path / "mine", ignore=shutil.ignore_patterns("*.toml"))
    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "mine" / f"{number}.png")
    for split, other in (("train", "test"), ("test", "train")):
        found = open_images(tmp_path / "mine", split=split, test_fraction=fraction)
        listed = [found.name(index) for index in range(len(found))]
        assert not [name for name in listed if name.startswith(f"{other}/")]
        assert len([name for name in listed if name.startswith(f"{split}/")]) == len(list(FOLDER.glob(f"{split}/*")))


def test_the_splits_have_no_picture_in_common():
    train, test = (open_images(split=split) for split in ("train", "test"))
    for side, limit in (COARSE, FINE):
        assert (fingerprints(train, side) @ fingerprints(test, side).T).max() < limit - 0.1
    everything = fingerprints(open_images(), COARSE[0])
    assert (everything @ everything.T - np.eye(len(everything))).max() < COARSE[1] - 0.1


def test_photographs_have_colours_and_no_large_even_parts():
    source = open_images()
    for index in range(len(source)):
        pixels = source.load(index).astype(float)
        parts = [part for row in np.array_split(pixels, 4) for part in np.array_split(row, 4, axis=1)]
        even = sum(part.std(axis=(0, 1)).mean() < 6 for part in parts)
        assert even <= 4, source.name(index)
        assert np.ptp(pixels, axis=2).mean() > 4, source.name(index)


def test_pixels_are_the_same_with_every_decoder():
    source = open_images()
    assert digest(source) == PIXELS
    for path in FILES:
        found = cv2.imread(str(path))[:, :, ::-1]
        (index,) = [index for index in range(len(source)) if source.name(index) == path.stem]
        np.testing.assert_array_equal(source.load(index), found)


def test_other_processes_see_the_same():
    source = open_images(split="test")
    assert digest(pickle.loads(pickle.dumps(source))) == digest(source)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(digest, (source,)) == digest(source)
        assert pool.apply(digest, (pool.apply(open_images),)) == PIXELS


def test_nothing_is_read_before_it_is_needed():
    code = """
import builtins, io, json, sys
opened = []
sys.addaudithook(lambda event, found: opened.append(str(found[0])) if event == "open" else None)
import agile_gym
count = lambda: len([path for path in opened if path.endswith(".jpg")])
before = count()
from agile_gym.images import cache_info, open_images
source = open_images()
listed = count()
open_images(split="train")
again = count()
misses = cache_info().misses
source.load(3)
print(json.dumps([before, listed, again, misses, count(), cache_info().misses]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == [0, 51, 51, 0, 52, 1]


class TestProgram:
    MANIFEST = """\
# A comment
# of two lines.

[[photograph]]
file = "train/turned.jpg"
title = "A \\"turned\\" picture: Ünïcode, \\\\ and #1"
author = "Somebody"
source = "https://example.org/turned"
copy = "none"
licence = "CC0-1.0"
licence_url = "https://creativecommons.org/publicdomain/zero/1.0/"

[[photograph]]
file = "test/small.jpg"
title = "small"
author = "Somebody"
source = "https://example.org/small"
copy = "none"
licence = "CC-BY-4.0"
licence_url = "https://creativecommons.org/licenses/by/4.0/"
"""

    def make(self, *arguments):
        return subprocess.run([sys.executable, PROGRAM, *arguments], capture_output=True, text=True, check=True).stdout

    def test_photographs_are_made_from_a_folder_and_a_manifest(self, tmp_path):
        originals, output = tmp_path / "originals", tmp_path / "output"
        originals.mkdir()
        wide = np.zeros((300, 600, 3), np.uint8)
        wide[:, :300] = 255, 0, 0
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned to the right
        Image.fromarray(wide).save(originals / "turned.png", exif=exif)
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        Image.new("RGB", (100, 60), (10, 200, 30)).save(originals / "small.tif", icc_profile=profile)
        manifest = tmp_path / "manifest.toml"
        manifest.write_text(self.MANIFEST, encoding="utf-8")
        assert self.make(originals, manifest, "--output", output).startswith("2 photographs")
        with Image.open(output / "train" / "turned.jpg") as turned, Image.open(output / "test" / "small.jpg") as small:
            assert (turned.size, small.size) == ((240, 480), (100, 60))
            np.testing.assert_allclose(np.asarray(turned)[[5, -5], 100], [[255, 0, 0], [0, 0, 0]], atol=6)
            np.testing.assert_allclose(np.asarray(small)[30, 50], [10, 200, 30], atol=6)
        for path in output.glob("*/*.jpg"):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            assert {split_of(content, fraction) for fraction in (0.0003, 0.9997)} == {path.parent.name}
        text = (output / "ATTRIBUTION.toml").read_text(encoding="utf-8")
        assert text.startswith('# A comment\n# of two lines.\n\n[[photograph]]\nfile = "test/small.jpg"')
        made = tomllib.loads(text)["photograph"]
        assert made[0]["changes"] == "100 x 60 pixels, compressed as JPEG"
        assert made[1]["changes"] == "scaled from 300 x 600 to 240 x 480 pixels, compressed as JPEG"
        assert made[1]["title"] == 'A "turned" picture: Ünïcode, \\ and #1'
        assert open_images(output, split="test").name(0) == "test/small.jpg"
        # what was written is a manifest, too, and gives the same
        before = {path.name: path.read_bytes() for path in output.rglob("*.*")}
        self.make(originals, output / "ATTRIBUTION.toml")
        assert {path.name: path.read_bytes() for path in output.rglob("*.*")} == before
