"""Parquet files and datasets whose rows hold images in any form: encoded, by path, in structures and in lists."""

import copy
import io
import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ImageError
from agile_gym.files import write_rows
from agile_gym.images import SkippedImageWarning, open_images
from agile_gym.learner import MissingDependencyError
from agile_gym.policies import RandomPolicy
from agile_gym.rollout import EpisodeSpec, play_episodes
from agile_gym.transcripts import export_sharegpt, export_trl, export_verl

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def picture(value, size=(6, 5)):
    return Image.new("RGB", size, (value, 1, 2))


def png(value, **options):
    buffer = io.BytesIO()
    picture(value, **options).save(buffer, "PNG")
    return buffer.getvalue()


def names(source):
    return [source.name(index) for index in range(len(source))]


def values(source):
    return [int(source.load(index)[0, 0, 0]) for index in range(len(source))]


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


ONE, TWO, THREE = ({"bytes": png(value)} for value in (1, 2, 3))
FORMS = {
    "bytes": ({"picture": [png(1), png(2), png(3)]}, ["0", "1", "2"]),
    "structures": ({"picture": [{"bytes": png(n), "path": None} for n in (1, 2, 3)]}, ["0", "1", "2"]),
    "structures without a path": ({"img": [{"bytes": png(n)} for n in (1, 2, 3)]}, ["0", "1", "2"]),
    "structures with more": (
        {"img": [{"bytes": png(n), "path": "elsewhere.png", "height": 5} for n in (1, 2, 3)]},
        ["0", "1", "2"],
    ),
    "lists of bytes": ({"shots": [[png(1), png(2)], [png(3)]]}, ["0[0]", "0[1]", "1[0]"]),
    "lists of structures": ({"images": [[ONE, TWO], [THREE]]}, ["0[0]", "0[1]", "1[0]"]),
    "lists of lists": ({"images": [[[ONE], [TWO, THREE]]]}, ["0[0]", "0[1]", "0[2]"]),
    "beside other columns": (
        {
            "prompt": [[{"role": "user", "content": "<image>"}]] * 3,
            "data": [b"no image", b"", None],
            "sound": [{"bytes": b"RIFF", "path": "a.wav"}] * 3,
            "label": [1, 2, 3],
            "images": [[{"bytes": png(n), "path": None}] for n in (1, 2, 3)],
        },
        ["0[0]", "1[0]", "2[0]"],
    ),
    "from the second row on": ({"images": [None, [ONE], [TWO, THREE]]}, ["1[0]", "2[0]", "2[1]"]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore::agile_gym.images.SkippedImageWarning")
class TestForms:
    def check(self, source, expected):
        assert names(source) == expected
        assert values(source) == [1, 2, 3]
        for twin in (pickle.loads(pickle.dumps(source)), copy.deepcopy(source)):
            assert values(twin) == [1, 2, 3]
        files = [open_images([data]).content_hash(0) for data in (png(1), png(2), png(3))]
        assert [source.content_hash(index) for index in range(3)] == files  # so that splits agree

    @pytest.mark.parametrize("group", [1, 2, 100])
    def test_parquet(self, form, group, tmp_path):
        columns, expected = FORMS[form]
        path = write(tmp_path / "data.parquet", columns, row_group_size=group)
        for images in (path, str(path)):
            self.check(open_images(images), expected)
        for images in (tmp_path, [path]):
            prefix = "data.parquet" if images == tmp_path else str(path)
            self.check(open_images(images), [f"{prefix}:{name}" for name in expected])

    def test_datasets(self, form):
        datasets = pytest.importorskip("datasets")
        columns, expected = FORMS[form]
        self.check(open_images(datasets.Dataset.from_dict(columns)), expected)

    def test_datasets_loaded_from_parquet(self, form, tmp_path):
        datasets = pytest.importorskip("datasets")
        columns, expected = FORMS[form]
        write(tmp_path / "data.parquet", columns)
        loaded = datasets.Dataset.from_parquet(str(tmp_path / "data.parquet"), cache_dir=str(tmp_path / "cache"))
        self.check(open_images(loaded), expected)


@pytest.mark.parametrize("feature", ["List", "Sequence", "LargeList", "list", "column"])
def test_lists_of_image_features(feature):
    datasets = pytest.importorskip("datasets")
    image = datasets.Image()
    made = {"list": [image], "column": image}.get(feature) or getattr(datasets, feature)(image)
    features = datasets.Features({"label": datasets.Value("int64"), "photos": made})
    rows = [[picture(1), picture(2)], [picture(3)]] if feature != "column" else [picture(1), picture(2)]
    source = open_images(datasets.Dataset.from_dict({"label": [0, 1], "photos": rows}, features=features))
    assert values(source) == ([1, 2, 3] if feature != "column" else [1, 2])


def made_transcripts(count=3):
    makers = {"env": lambda: JigsawVisionEnv(image_size=64, reveal=True)}
    specs = [EpisodeSpec("env", seed=seed) for seed in range(count)]
    return [transcript for _, transcript in play_episodes(RandomPolicy(seed=0), specs, makers)]


@pytest.mark.parametrize("export", [export_verl, export_trl])
def test_what_is_exported_can_be_opened(export, tmp_path):
    transcripts = made_transcripts()
    export(transcripts, tmp_path)
    shown = [image for transcript in transcripts for image in transcript.prompt_images]
    for images in (tmp_path / "train.parquet", tmp_path):
        source = open_images(images)
        assert len(source) == 12
        for index, image in enumerate(shown):
            np.testing.assert_array_equal(source.load(index), image)
    env = JigsawVisionEnv(images=tmp_path, image_size=32)
    assert env.reset(seed=0)[1]["image_id"] in {source.content_hash(index) for index in range(12)}


def test_exported_images_of_conversations_can_be_opened(tmp_path):
    export_sharegpt(made_transcripts(1), tmp_path)
    assert len(open_images(tmp_path)) == 4


def test_rows_of_our_own_writer(tmp_path):
    schema = pa.schema([("images", pa.list_(pa.struct([("bytes", pa.binary())])))])
    rows = [{"images": [{"bytes": png(2 * n)}, {"bytes": png(2 * n + 1)}]} for n in range(60)]
    write_rows(tmp_path / "x.parquet", schema, rows, lambda _: 1 << 20)  # many row groups
    source = open_images(tmp_path / "x.parquet")
    order = np.random.default_rng(0).permutation(len(source)).tolist()
    assert [int(source.load(index)[0, 0, 0]) for index in order] == order


class TestPaths:
    def rows(self, tmp_path, *paths):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        return write(folder / "x.parquet", {"image": [{"bytes": None, "path": path} for path in paths]})

    def test_files_beside_the_parquet_file(self, tmp_path, monkeypatch):
        self.rows(tmp_path, "a.png", "deep/b.png", "./c.png")
        (tmp_path / "data/deep").mkdir()
        for number, name in enumerate(("a.png", "deep/b.png", "c.png")):
            picture(number).save(tmp_path / "data" / name)
        monkeypatch.chdir(tmp_path)
        source = open_images("data/x.parquet")
        monkeypatch.chdir("/")
        assert values(source) == [0, 1, 2]
        picture(99).save(tmp_path / "data/a.png")
        from agile_gym.images import clear_cache

        clear_cache()
        with pytest.raises(ImageError, match="has changed"):
            source.load(0)

    @pytest.mark.parametrize(
        "bad",
        ["../secret.png", "deep/../../secret.png", "{root}/secret.png", "link.png", "links/secret.png",
         "..\\secret.png", "a\0b.png", "C:\\secret.png", "/dev/zero", "~/secret.png", "missing.png", "", ".",
         "x" * 5000],
    )  # fmt: skip
    def test_no_path_leaves_the_folder(self, bad, tmp_path):
        picture(7).save(tmp_path / "secret.png")
        path = self.rows(tmp_path, bad.replace("{root}", str(tmp_path)), "good.png")
        folder = path.parent
        picture(1).save(folder / "good.png")
        os.symlink(tmp_path / "secret.png", folder / "link.png")
        os.symlink(tmp_path, folder / "links")
        with pytest.warns(SkippedImageWarning, match="1 image skipped .0: the row names the file"):
            source = open_images(path)
        assert (names(source), values(source)) == (["1"], [1])


class TestBroken:
    def test_broken_rows_are_skipped_and_reported(self, tmp_path):
        rows = [[{"bytes": png(1)}, {"bytes": b"broken"}], None, [], [{"bytes": None}], [None, {"bytes": png(2)}]]
        path = write(tmp_path / "x.parquet", {"images": rows})
        with pytest.warns(SkippedImageWarning, match="5 images skipped"):
            source = open_images(path)
        assert [entry.name for entry in source.skipped] == ["0[1]", "1", "2", "3[0]", "4[0]"]
        assert values(source) == [1, 2]

    def test_images_that_are_cut_off_show_when_they_are_loaded(self, tmp_path):
        data = png(1, size=(60, 50))
        source = open_images(write(tmp_path / "x.parquet", {"images": [[data[: len(data) // 2]], [data]]}))
        assert source.load(1)[0, 0, 0] == 1
        with pytest.raises(ImageError, match="in row 0 of the dataset cannot be decoded"):
            source.load(0)

    def test_the_same_image_counts_once(self, tmp_path):
        path = write(tmp_path / "x.parquet", {"images": [[png(1), png(1)], [png(1), png(2)]]})
        assert names(open_images(path)) == ["0[0]", "1[1]"]

    def test_too_small_and_too_large(self, tmp_path):
        path = write(tmp_path / "x.parquet", {"images": [[png(1), png(2, size=(1, 1))], [png(3, size=(40, 40))]]})
        with pytest.warns(SkippedImageWarning, match=r"0\[1\]: it is too small.*1\[0\]: it is too large"):
            source = open_images(path, max_pixels=500, min_size=(2, 2))
        assert values(source) == [1]

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda path: path.write_bytes(b"nothing"), "not a Parquet file, or damaged"),
            (lambda path: path.write_bytes(b""), "not a Parquet file, or damaged"),
            (lambda path: write(path, {"text": ["a"], "label": [1]}), "Its columns: 'text', 'label'"),
            (lambda path: write(path, {"numbers": [[1, 2, 3]]}), "Its columns: 'numbers'"),
            (lambda path: write(path, {"images": [[{"bytes": b"broken"}]]}), "it is not an image in a"),
            (lambda path: write(path, {"image": pa.array([], pa.binary())}), "No column"),
        ],
    )  # fmt: skip
    def test_files_that_hold_none_say_so_in_one_line(self, make, message, tmp_path):
        make(tmp_path / "x.parquet")
        for images in (tmp_path / "x.parquet", tmp_path, [tmp_path / "x.parquet"]):
            with pytest.raises(ImageError, match=message) as caught:
                open_images(images)
            assert "\n" not in str(caught.value)

    def test_a_damaged_file_beside_good_ones(self, tmp_path):
        write(tmp_path / "a.parquet", {"images": [[png(1)]]})
        (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing PAR1")
        write(tmp_path / "c.parquet", {"other": [{"bytes": png(2)}]})
        with pytest.warns(SkippedImageWarning, match="1 image skipped .b.parquet: "):
            source = open_images(tmp_path)
        assert names(source) == ["a.parquet:0[0]", "c.parquet:0"]

    def test_a_page_that_is_damaged(self, tmp_path):
        noise = [np.random.default_rng(n).bytes(500) for n in range(40)]
        rows = [png(n) + noise[n] for n in range(40)]
        path = write(
            tmp_path / "x.parquet", {"image": rows}, row_group_size=10, compression="zstd", use_dictionary=False
        )
        data = bytearray(path.read_bytes())
        start = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
        data[start : start + 3000] = bytes(3000)
        path.write_bytes(data)
        with pytest.warns(SkippedImageWarning, match="10 images skipped .20: the row cannot be read"):
            source = open_images(path)
        assert values(source) == [*range(20), *range(30, 40)]

    def test_folders_of_image_files_are_as_ever(self, tmp_path):
        picture(5).save(tmp_path / "a.png")
        write(tmp_path / "x.parquet", {"images": [[png(1)]]})
        assert names(open_images(tmp_path)) == ["a.png"]
        assert names(open_images([tmp_path / "a.png", tmp_path / "x.parquet"])) == [
            str(tmp_path / "a.png"),
            f"{tmp_path / 'x.parquet'}:0[0]",
        ]

    def test_deep_lists_and_long_ones_end_soon(self, tmp_path):
        deep = [png(1)]
        for _ in range(20):
            deep = [deep]
        path = write(tmp_path / "x.parquet", {"deep": [deep], "image": [png(3)]})
        assert values(open_images(path)) == [3]

    def test_without_the_package(self, tmp_path, monkeypatch):
        path = write(tmp_path / "x.parquet", {"images": [[png(1)]]})
        monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
        with pytest.raises(MissingDependencyError, match=r"agile-gym\[data\]"):
            open_images(path)


def test_splits_of_a_table_agree_with_those_of_files(tmp_path):
    rows = [[{"bytes": png(n)} for n in range(start, start + 4)] for start in range(0, 40, 4)]
    path = write(tmp_path / "x.parquet", {"images": rows})
    (tmp_path / "files").mkdir()
    for number in range(40):
        (tmp_path / f"files/{number}.png").write_bytes(png(number))
    for split in ("train", "test"):
        sources = [open_images(images, split=split) for images in (path, tmp_path / "files")]
        hashes = [{source.content_hash(index) for index in range(len(source))} for source in sources]
        assert hashes[0] == hashes[1]


def test_messages_that_hold_structures_are_not_taken_for_images(tmp_path):
    message = json.dumps({"bytes": "no"})
    path = write(tmp_path / "x.parquet", {"message": [message], "meta": [{"path": 3, "bytes": 4}], "photo": [png(4)]})
    assert values(open_images(path)) == [4]
