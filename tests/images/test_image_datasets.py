"""Images of Hugging Face datasets, real ones and objects that look like them."""

import copy
import hashlib
import io
import pickle
import sys
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from agile_gym.errors import ImageError
from agile_gym.images import SkippedImageWarning, open_images
from agile_gym.images.folder import parse_dataset_spec
from agile_gym.learner import MissingDependencyError


def picture(value, width=4):
    return Image.new("RGB", (width, 3), (value, 1, 2))


def png(value):
    buffer = io.BytesIO()
    picture(value).save(buffer, "PNG")
    return buffer.getvalue()


def names(source):
    return [source.name(index) for index in range(len(source))]


class Table:
    """As little of a dataset as is needed."""

    def __init__(self, **columns):
        self.columns = columns
        self.column_names = list(columns)

    def __len__(self):
        return len(next(iter(self.columns.values()), []))

    def __getitem__(self, index):
        return {name: values[index] for name, values in self.columns.items()}


@pytest.fixture(scope="module")
def datasets():
    return pytest.importorskip("datasets")


@pytest.fixture
def real(datasets):
    features = datasets.Features({
        "label": datasets.Value("int64"),
        "photo": datasets.Image(),
        "other": datasets.Image(),
    })  # fmt: skip
    columns = {
        "label": [0, 1, 2, 3],
        "photo": [picture(10), picture(20), picture(10), picture(30)],
        "other": [picture(value) for value in (1, 2, 3, 4)],
    }
    return datasets.Dataset.from_dict(columns, features=features)


class TestRealDataset:
    def test_first_column_of_images(self, real):
        source = open_images(real)
        assert names(source) == ["0", "1", "3"]
        assert [source.load(index)[0, 0].tolist() for index in range(3)] == [[10, 1, 2], [20, 1, 2], [30, 1, 2]]
        assert not source.load(0).flags.writeable
        assert source.load(0).flags.c_contiguous

    def test_hash_is_that_of_the_encoded_image(self, datasets):
        features = datasets.Features({"image": datasets.Image()})
        dataset = datasets.Dataset.from_dict({"image": [{"bytes": png(5), "path": None}]}, features=features)
        assert open_images(dataset).content_hash(0) == hashlib.sha256(png(5)).hexdigest()

    def test_same_hash_as_a_file(self, datasets, tmp_path):
        (tmp_path / "a.png").write_bytes(png(7))
        features = datasets.Features({"image": datasets.Image()})
        dataset = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png")]}, features=features)
        source = open_images(dataset)
        assert source.content_hash(0) == open_images(tmp_path).content_hash(0)
        np.testing.assert_array_equal(source.load(0), open_images(tmp_path).load(0))

    def test_split(self, real):
        whole = open_images(real)
        parts = []
        for split in ("train", "test"):
            with suppress(ImageError):  # three images may all be on one side
                parts += names(open_images(real, split=split, test_fraction=0.5))
        assert sorted(parts) == names(whole)

    def test_pickle_and_copy(self, real):
        source = open_images(real)
        for twin in (pickle.loads(pickle.dumps(source)), copy.deepcopy(source)):
            assert names(twin) == names(source)
            np.testing.assert_array_equal(twin.load(2), source.load(2))

    def test_other_formats_do_not_matter(self, real):
        assert open_images(real.with_format("numpy")).content_hash(1) == open_images(real).content_hash(1)

    def test_missing_and_broken_images_are_skipped(self, datasets):
        features = datasets.Features({"image": datasets.Image()})
        rows = [None, {"bytes": b"nothing", "path": None}, {"bytes": png(4), "path": None}]
        dataset = datasets.Dataset.from_dict({"image": rows}, features=features)
        with pytest.warns(SkippedImageWarning, match="2 images skipped .0: the row has no image"):
            source = open_images(dataset)
        assert names(source) == ["2"]
        with pytest.raises(ImageError, match="2 rows seen, 2 skipped"):
            open_images(dataset.select([0, 1]))

    def test_no_column_of_images(self, datasets):
        dataset = datasets.Dataset.from_dict({"text": ["a"], "label": [1]})
        with pytest.raises(ImageError, match="Its columns: 'text', 'label'"):
            open_images(dataset)

    def test_several_splits(self, datasets, real):
        with pytest.raises(ImageError, match="Its keys: 'train', 'validation'"):
            open_images(datasets.DatasetDict(train=real, validation=real))

    def test_streamed(self, real):
        with pytest.raises(ImageError, match="without streaming"):
            open_images(real.to_iterable_dataset())


class TestLookAlike:
    def test_pillow_images(self):
        source = open_images(Table(text=["a", "b"], image=[picture(1), picture(2)]))
        assert names(source) == ["0", "1"]
        assert source.load(1)[0, 0].tolist() == [2, 1, 2]
        assert source.content_hash(0) == open_images(picture(1)).content_hash(0)
        assert pickle.loads(pickle.dumps(source)).load(0)[0, 0].tolist() == [1, 1, 2]

    def test_too_large(self):
        with pytest.warns(SkippedImageWarning, match="too large"):
            source = open_images(Table(image=[picture(1, 9), picture(2)]), max_pixels=12)
        assert names(source) == ["1"]

    def test_empty(self):
        with pytest.raises(ImageError, match="No column"):
            open_images(Table(image=[]))

    def test_row_that_changes(self):
        table = Table(image=[picture(1)])
        features = {"image": type("Image", (), {})()}
        table.features = features
        table.columns["image"] = [{"bytes": png(1), "path": None}]
        source = open_images(table)
        table.columns["image"] = [{"bytes": png(99), "path": None}]
        with pytest.raises(ImageError, match="row 0 of the dataset has changed"):
            source.load(0)


class TestNames:
    @pytest.fixture
    def loaded(self, monkeypatch):
        calls = []
        answers = {}

        def load_dataset(name, split=None):
            calls.append((name, split))
            if name not in answers:
                raise FileNotFoundError(f"Dataset '{name}' doesn't exist")
            return answers[name]

        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
        return SimpleNamespace(calls=calls, answers=answers)

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("hf:mnist", ("mnist", None, None)),
            ("hf:me/pets:test", ("me/pets", "test", None)),
            ("hf:me/pets:test:photo", ("me/pets", "test", "photo")),
            ("hf:me/pets:train[:100]:photo", ("me/pets", "train[:100]", "photo")),
            ("hf:me/pets:train[10:20]", ("me/pets", "train[10:20]", None)),
        ],
    )
    def test_parts(self, text, parts):
        assert parse_dataset_spec(text) == parts

    @pytest.mark.parametrize("text", ["hf:", "hf::train", "hf:a::b", "hf:a:b:c:d", "hf: "])
    def test_parts_that_are_none(self, text):
        with pytest.raises(ImageError, match=r"hf:NAME:SPLIT:COLUMN"):
            open_images(text)

    def test_column_and_split(self, loaded):
        loaded.answers["pets"] = Table(a=[picture(1)], b=[picture(2)])
        assert open_images("hf:pets:test:b").load(0)[0, 0, 0] == 2
        assert open_images("hf:pets").load(0)[0, 0, 0] == 1
        assert loaded.calls == [("pets", "test"), ("pets", None)]

    def test_unknown_column(self, loaded):
        loaded.answers["pets"] = Table(photo=[picture(1)], label=[1])
        with pytest.raises(ImageError, match=r"Did you mean 'photo'\? Its columns: 'photo', 'label'"):
            open_images("hf:pets:train:foto")
        with pytest.raises(ImageError, match="the row holds a value of type int, no image"):
            open_images("hf:pets:train:label")

    def test_split_left_out(self, loaded):
        one, two = Table(image=[picture(1)]), Table(image=[picture(2)])
        loaded.answers.update(both={"test": two, "train": one}, single={"validation": two}, many={"a": one, "b": two})
        assert open_images("hf:both").load(0)[0, 0, 0] == 1
        assert open_images("hf:single").load(0)[0, 0, 0] == 2
        with pytest.raises(ImageError, match=r"has the splits 'a', 'b'.*'hf:many:a'"):
            open_images("hf:many")

    def test_what_cannot_be_loaded(self, loaded):
        with pytest.raises(ImageError, match=r"'nothing'.*FileNotFoundError.*doesn't exist"):
            open_images("hf:nothing:train")
        loaded.answers["odd"] = 3
        with pytest.raises(ImageError, match="type int"):
            open_images("hf:odd")

    def test_without_the_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(MissingDependencyError, match="datasets"):
            open_images("hf:mnist")
