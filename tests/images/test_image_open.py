"""Everything that may be given as images, apart from folders and datasets."""

import copy
import hashlib
import io
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import agile_gym.images
from agile_gym.errors import ImageError
from agile_gym.images import ImageSource, ImageSubset, SkippedImageWarning, open_images, split_of
from agile_gym.images.folder import builtin_images

RED = np.full((3, 4, 3), (255, 0, 0), np.uint8)


def names(source):
    return [source.name(index) for index in range(len(source))]


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


class TestBuiltin:
    def test_photographs(self):
        source = open_images()
        assert len(source) == 51
        assert names(source) == sorted(names(source))
        assert {"astronaut", "chelsea", "coffee", "rocket", "taj_mahal"} < set(names(source))
        assert names(open_images("builtin")) == names(source)

    def test_a_folder_called_builtin(self, tmp_path, monkeypatch):
        (tmp_path / "builtin").mkdir()
        (tmp_path / "builtin" / "a.png").write_bytes(png(RED))
        monkeypatch.chdir(tmp_path)
        assert names(open_images(Path("builtin"))) == names(open_images("./builtin")) == ["a.png"]
        assert len(open_images("builtin")) == 51

    def test_missing_files(self, tmp_path):
        with pytest.raises(ImageError, match=r"None of the built-in photographs can be used \(there are none\)"):
            builtin_images(1000, str(tmp_path / "missing"))
        (tmp_path / "train").mkdir()
        (tmp_path / "train" / "broken.jpg").write_bytes(b"no image")
        with pytest.raises(ImageError, match=r"\(broken: it is not an image .*Install agile-gym again"):
            builtin_images(1000, str(tmp_path))
        (tmp_path / "train" / "red.jpg").write_bytes(png(RED))
        source = builtin_images(1000, str(tmp_path))  # what has failed is not remembered
        assert names(source) == ["red"]
        assert [skipped.name for skipped in source.skipped] == ["broken"]

    def test_larger_than_allowed(self):
        with pytest.warns(SkippedImageWarning, match="images skipped"):
            small = names(open_images(max_pixels=240 * 320))
        assert 10 < len(small) < 51
        assert len(open_images()) == 51
        with pytest.raises(ImageError, match="alpaca: it is too large: 427x240"):
            open_images(max_pixels=100)


class TestSequences:
    def test_files_arrays_bytes_and_pillow_images_mixed(self, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(png(RED))
        blue = Image.new("RGB", (2, 2), (0, 0, 255))
        given = [np.zeros((2, 2), bool), path, blue, str(path), png(RED[:2])]
        source = open_images(given)
        assert names(source) == ["image 0", path.as_posix(), "image 2", "image 4"]
        assert [source.load(index)[0, 0].tolist() for index in range(4)] == [
            [0, 0, 0],
            [255, 0, 0],
            [0, 0, 255],
            [255, 0, 0],
        ]
        assert names(open_images(tuple(given))) == names(open_images(iter(given))) == names(source)

    def test_order_is_that_given(self, tmp_path):
        for index in range(3):
            (tmp_path / f"{index}.png").write_bytes(png(RED[:, : index + 1]))
        paths = [tmp_path / name for name in ("2.png", "0.png", "1.png")]
        assert [Path(name).name for name in names(open_images(paths))] == ["2.png", "0.png", "1.png"]

    def test_content_hash_of_decoded_images(self):
        expected = hashlib.sha256(b"3x4:RGB:" + RED.tobytes()).hexdigest()
        rgba = np.dstack([RED, np.full((3, 4), 255, np.uint8)])
        for given in (RED, Image.fromarray(RED), RED.astype(float) / 255, rgba):
            assert open_images([given]).content_hash(0) == expected
        flat = RED.reshape(2, 6, 3)
        assert open_images(flat).content_hash(0) == hashlib.sha256(b"2x6:RGB:" + RED.tobytes()).hexdigest()

    def test_same_content_is_kept_once(self):
        assert names(open_images([RED, RED[:2], Image.fromarray(RED), RED.copy()])) == ["image 0", "image 1"]

    def test_later_changes_do_not_matter(self):
        array, image = RED.copy(), Image.fromarray(RED[:2])
        source = open_images([array, image])
        array[:] = 0
        image.putpixel((0, 0), (9, 9, 9))
        assert source.load(0)[0, 0].tolist() == source.load(1)[0, 0].tolist() == [255, 0, 0]

    @pytest.mark.parametrize("image", [RED, Image.fromarray(RED), png(RED), bytearray(png(RED))])
    def test_one_image(self, image):
        source = open_images(image)
        np.testing.assert_array_equal(source.load(0), RED)
        assert len(source) == 1

    def test_stack_of_images(self):
        assert len(open_images(np.stack([RED, RED // 2, RED]))) == 2

    def test_memory_is_read_only_after_pickling(self):
        source = open_images([RED, png(RED[:2])])
        for twin in (source, pickle.loads(pickle.dumps(source)), copy.deepcopy(source)):
            assert names(twin) == names(source)
            for index in range(2):
                np.testing.assert_array_equal(twin.load(index), source.load(index))
                assert twin.load(index).flags.c_contiguous
                assert not twin.load(index).flags.writeable

    def test_unusable_files_are_skipped(self, tmp_path):
        (tmp_path / "bad.png").touch()
        with pytest.warns(SkippedImageWarning, match=r"2 images skipped \(.*bad\.png"):
            source = open_images([tmp_path / "bad.png", RED, b"nothing"])
        assert names(source) == ["image 1"]
        assert [name for name, _ in source.skipped] == [(tmp_path / "bad.png").as_posix(), "image 2"]

    def test_nothing_left(self, tmp_path):
        (tmp_path / "bad.png").touch()
        with pytest.raises(ImageError, match="1 given, 1 skipped"):
            open_images([tmp_path / "bad.png"])
        with pytest.raises(ImageError, match="0 given, 0 skipped"):
            open_images([])

    def test_mistakes_name_the_image(self, tmp_path):
        (tmp_path / "cat.png").write_bytes(png(RED))
        with pytest.raises(ImageError, match=r"Image 1, .*cot\.png.*does not exist.*Did you mean .*cat\.png"):
            open_images([RED, tmp_path / "cot.png"])
        with pytest.raises(ImageError, match=r"Image 0, .* is a folder"):
            open_images([tmp_path])
        with pytest.raises(ImageError, match="Image 1 is of type int"):
            open_images([RED, 3])
        with pytest.raises(ImageError, match=r"'image 1'.*transpose"):
            open_images([RED, np.zeros((3, 20, 20), np.uint8)])
        with pytest.raises(ImageError, match=r"'image 0'.*too large"):
            open_images([RED], max_pixels=11)


class TestSources:
    class Two:
        """A source of the user's own."""

        def __len__(self):
            return 2

        def content_hash(self, index):
            return ["0" * 64, "f" * 64][index]

        def name(self, index):
            return ["low", "high"][index]

        def load(self, index):
            return RED

    def test_passes_through(self):
        for source in (self.Two(), open_images(RED)):
            assert isinstance(source, ImageSource)
            assert open_images(source) is source

    def test_split_is_applied(self):
        for split, name in (("test", "low"), ("train", "high")):
            source = open_images(self.Two(), split=split)
            assert isinstance(source, ImageSubset)
            assert names(source) == [name]
            assert source.load(0) is RED
            assert source.skipped == ()
            assert split_of(source.content_hash(0), 0.2) == split

    def test_empty(self):
        class Empty(self.Two):
            def __len__(self):
                return 0

        with pytest.raises(ImageError, match="holds no images"):
            open_images(Empty())

    def test_indices_out_of_range(self):
        for source in (open_images(RED), open_images(self.Two(), split="test")):
            for call in (source.load, source.name, source.content_hash):
                with pytest.raises(IndexError):
                    call(1)

    def test_repr(self):
        assert repr(open_images(RED)) == "ImageCollection(1 images, 0 skipped)"
        assert "ImageSubset(39 images of ImageCollection(51" in repr(open_images(split="train"))


class TestMistakes:
    @pytest.mark.parametrize(
        ("given", "hint"),
        [
            ("bultin", "Did you mean 'builtin'"),
            ("https://example.org/a.png", "Addresses are not fetched"),
            ("photos/*.jpg", "glob"),
            ("nowhere/deep/photos", "There is no folder 'nowhere/deep'"),
            ("someone/pictures", "written 'hf:someone/pictures'"),
            ("x" * 5000, "The folder that was searched is"),
            ("a\0b", "neither a folder"),
            ("", "neither a folder"),
        ],
    )
    def test_unknown_text(self, given, hint):
        with pytest.raises(ImageError, match=re.escape(hint)) as caught:
            open_images(given)
        assert "Accepted are" in str(caught.value)

    def test_a_folder_nearby_is_suggested(self, tmp_path):
        (tmp_path / "photos").mkdir()
        with pytest.raises(ImageError, match=r"Did you mean '.*photos'"):
            open_images(tmp_path / "fotos")

    @pytest.mark.parametrize(
        ("given", "hint"),
        [
            (3, "type int"),
            (object(), "Accepted are"),
            ({"train": RED}, "Its keys: 'train'"),
            ({"a.png"}, "no order"),
            (np.zeros(3), "is not an image"),
        ],
    )
    def test_unknown_types(self, given, hint):
        with pytest.raises(ImageError, match=hint):
            open_images(given)


@pytest.mark.slow
def test_import_is_light():
    code = (
        "import sys, agile_gym.images as images; source = images.open_images(split='train'); source.load(0); "
        "print(sorted({'skimage', 'datasets', 'torch', 'cv2', 'scipy'} & set(sys.modules)))"
    )
    # the package may be on the path of this process only
    root = str(Path(agile_gym.images.__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert result.stdout.strip() == "[]"
