"""Folders of image files: what is found, in which order, and what is passed over."""

import copy
import hashlib
import os
import pickle
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from agile_gym.errors import ImageError
from agile_gym.images import ImageSource, SkippedImageWarning, folder, open_images


def save(path, value=0, size=(4, 3), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 1, 2)).save(path, **options)
    return path


def names(source):
    return [source.name(index) for index in range(len(source))]


def bomb():
    """A PNG file of a few bytes whose header promises 10 billion pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b""), b"IEND")
    packed = (struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) for body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_nested_folders_in_the_order_of_their_paths(tmp_path):
    for value, name in enumerate(["b.png", "a/z.png", "a.png", "a/b/c.bmp", "B.PNG", "a-1.gif"]):
        save(tmp_path / name, value * 10)
    source = open_images(tmp_path)
    assert isinstance(source, ImageSource)
    assert names(source) == sorted(["b.png", "a/z.png", "a.png", "a/b/c.bmp", "B.PNG", "a-1.gif"])
    assert source.skipped == ()


def test_a_file_that_changes_is_read_again(tmp_path):
    path = tmp_path / "a.bmp"
    hashes = []
    for shade in (10, 200):
        Image.new("RGB", (8, 8), (shade, shade, shade)).save(path)
        found = open_images(str(tmp_path))
        hashes.append(found.content_hash(0))
        assert hashes[-1] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert open_images(str(tmp_path)).content_hash(0) == hashes[-1]
    assert hashes[0] != hashes[1]
    path.write_bytes(b"BM" + path.read_bytes()[2:40])
    with pytest.raises(ImageError):
        open_images(str(tmp_path))


def test_content_hash_is_that_of_the_file(tmp_path):
    path = save(tmp_path / "a.png", 5)
    source = open_images(tmp_path)
    assert source.content_hash(0) == hashlib.sha256(path.read_bytes()).hexdigest()
    np.testing.assert_array_equal(source.load(0), np.full((3, 4, 3), (5, 1, 2)))
    assert not source.load(0).flags.writeable


def test_hidden_files_and_other_kinds_are_passed_over(tmp_path):
    save(tmp_path / ".hidden.png", 1)
    save(tmp_path / ".git" / "a.png", 2)
    save(tmp_path / "._a.png", 3)
    save(tmp_path / "a.png", 4)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "Makefile").write_text("all:")
    (tmp_path / "folder.png").mkdir()
    source = open_images(tmp_path)
    assert names(source) == ["a.png"]
    assert source.skipped == ()


def test_a_hidden_root_is_fine(tmp_path):
    save(tmp_path / ".cache" / "a.png")
    assert names(open_images(tmp_path / ".cache")) == ["a.png"]


def test_unicode_and_odd_names(tmp_path):
    wanted = ["Bär und Käse.png", "写真.png", "a b.png", "🐈.png", "quote'\"%s{}.png"]
    for value, name in enumerate(wanted):
        save(tmp_path / name, value)
    source = open_images(tmp_path)
    assert sorted(names(source)) == sorted(wanted)
    assert [source.load(index).shape for index in range(5)] == [(3, 4, 3)] * 5


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_text_can_be_printed(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.png"
    with open(path, "wb") as file:
        Image.new("L", (2, 2)).save(file, "PNG")
    source = open_images(tmp_path)
    source.name(0).encode("utf-8")
    assert source.load(0).shape == (2, 2, 3)


def test_same_content_is_kept_once(tmp_path):
    for name in ("c.png", "a/x.png", "b.png"):
        save(tmp_path / name, 9)
    save(tmp_path / "d.png", 10)
    assert names(open_images(tmp_path)) == ["a/x.png", "d.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs links and pipes")
def test_links(tmp_path):
    root = tmp_path / "root"
    save(root / "a.png", 1)
    save(tmp_path / "elsewhere" / "b.png", 2)
    (root / "broken.png").symlink_to(tmp_path / "nothing.png")
    (root / "file.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    (root / "loop").symlink_to(root)
    (root / "self.png").symlink_to(root / "self.png")
    os.mkfifo(root / "pipe.png")
    source = open_images(root)
    assert names(source) == ["a.png", "file.png"]
    assert source.skipped == ()
    (root / "deep").symlink_to(tmp_path / "elsewhere")
    assert names(open_images(root)) == ["a.png", "deep/b.png"]


def test_unusable_files_are_counted_in_one_warning(tmp_path):
    save(tmp_path / "good.png")
    (tmp_path / "bomb.png").write_bytes(bomb())
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "phone.svg").write_text("<svg/>")
    with pytest.warns(SkippedImageWarning) as caught:
        source = open_images(tmp_path)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "4 images skipped" in message
    assert "bomb.png" in message
    assert "100000x100000" in message
    assert "and 1 more" in message
    assert "1 used" in message
    assert caught[0].filename == __file__
    assert [name for name, _ in source.skipped] == ["bomb.png", "empty.png", "phone.svg", "text.jpg"]
    assert "max_pixels is 64,000,000" in dict(source.skipped)["bomb.png"]
    assert "not supported" in dict(source.skipped)["phone.svg"]
    assert names(source) == ["good.png"]


def test_split_of_a_folder_tells_what_was_skipped(tmp_path):
    for value in range(20):
        save(tmp_path / f"{value}.png", value)
    (tmp_path / "bad.png").touch()
    with pytest.warns(SkippedImageWarning):
        source = open_images(tmp_path, split="train")
    assert [name for name, _ in source.skipped] == ["bad.png"]


def test_max_pixels(tmp_path):
    save(tmp_path / "small.png", size=(10, 10))
    save(tmp_path / "large.png", size=(11, 10))
    with pytest.warns(SkippedImageWarning, match=r"large\.png.*11x10"):
        source = open_images(tmp_path, max_pixels=100)
    assert names(source) == ["small.png"]
    assert len(open_images(tmp_path, max_pixels=110)) == 2


def test_a_raised_limit_opens_what_pillow_would_not(tmp_path, monkeypatch):
    save(tmp_path / "large.png", size=(30, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_images(tmp_path).load(0).shape == (30, 30, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_damage_behind_the_header_shows_when_loading(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    source = open_images(tmp_path)
    assert len(source) == 1
    for _ in range(2):
        with pytest.raises(ImageError, match=r"cut\.png.*corrupt or truncated"):
            source.load(0)


def test_extension_does_not_decide_the_format(tmp_path):
    save(tmp_path / "really-a-png.jpg", format="PNG")
    np.testing.assert_array_equal(open_images(tmp_path).load(0)[0, 0], [0, 1, 2])


def test_unreadable_files_and_folders(tmp_path, monkeypatch):
    save(tmp_path / "good.png")
    save(tmp_path / "closed.png", 3)
    save(tmp_path / "folder" / "b.png", 4)

    def refuse(original, name):
        def call(path, *rest):
            if os.path.basename(path) == name:
                raise PermissionError(13, "Permission denied", path)
            return original(path, *rest)

        return call

    monkeypatch.setattr(folder, "open", refuse(open, "closed.png"), raising=False)
    monkeypatch.setattr(folder.os, "listdir", refuse(os.listdir, "folder"))
    with pytest.warns(SkippedImageWarning, match="Permission denied"):
        source = open_images(tmp_path)
    assert sorted(name for name, _ in source.skipped) == ["closed.png", "folder"]
    with pytest.raises(ImageError, match="cannot be listed: Permission denied"):
        open_images(tmp_path / "folder")


class TestNothingUsable:
    def test_empty_folder(self, tmp_path):
        with pytest.raises(ImageError, match="0 files seen") as caught:
            open_images(tmp_path)
        for part in (str(tmp_path), ".jpg", ".png", "built-in photographs"):
            assert part in str(caught.value)

    def test_only_other_and_broken_files(self, tmp_path):
        for index in range(3):
            (tmp_path / f"{index}.txt").touch()
        (tmp_path / "noext").touch()
        (tmp_path / "bad.png").touch()
        with pytest.raises(ImageError, match=r"5 files seen, 1 skipped \(bad\.png") as caught:
            open_images(tmp_path)
        assert "4 of other kinds (.txt: 3, no extension: 1)" in str(caught.value)

    def test_one_broken_file(self, tmp_path):
        (tmp_path / "bad.png").write_bytes(bomb())
        with pytest.raises(ImageError, match=r"bad\.png.*100000x100000"):
            open_images(tmp_path / "bad.png")


def test_one_file(tmp_path):
    path = save(tmp_path / "a.png")
    for given in (path, str(path)):
        assert names(open_images(given)) == ["a.png"]


def test_relative_paths_survive_a_change_of_folder(tmp_path, monkeypatch):
    save(tmp_path / "photos" / "a.png", 77)
    monkeypatch.chdir(tmp_path)
    sources = [open_images(given) for given in ("photos", "photos/a.png", ["photos/a.png"])]
    assert [source.name(0) for source in sources] == ["a.png", "a.png", "photos/a.png"]
    monkeypatch.chdir("/")
    assert [source.load(0)[0, 0, 0] for source in sources] == [77] * 3


def test_home_is_expanded(tmp_path, monkeypatch):
    save(tmp_path / "photos" / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert len(open_images("~/photos")) == len(open_images(["~/photos/a.png"])) == 1


def test_pickle_and_copy(tmp_path):
    for value in range(20):
        save(tmp_path / f"{value:02}.png", value)
    for split in (None, "train"):
        source = open_images(tmp_path, split=split)
        for twin in (pickle.loads(pickle.dumps(source)), copy.deepcopy(source), copy.copy(source)):
            assert names(twin) == names(source)
            assert twin.content_hash(3) == source.content_hash(3)
            np.testing.assert_array_equal(twin.load(3), source.load(3))
            assert not twin.load(3).flags.writeable


def test_what_this_package_writes_is_no_photograph(tmp_path):
    def noise(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((20, 20), 90).save(path)

    noise(tmp_path / "one.png")
    noise(tmp_path / "images" / "two.png")  # a folder of this name is as good as another
    for name, mark in (("run", "agile-gym.json"), ("a", "episodes.jsonl"), ("b", "episodes-00000.parquet")):
        noise(tmp_path / name / "images" / "ab" / "cd.png")
        (tmp_path / name / mark).write_text("")
    noise(tmp_path / "a" / "three.png")
    assert [item.name for item in open_images(tmp_path)._items] == ["a/three.png", "images/two.png", "one.png"]
