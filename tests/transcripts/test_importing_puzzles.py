"""AGILE's puzzles for learning by RL, as small files made by hand, and this library's own exports read back."""

import io
import json
import pickle

import numpy as np
import pytest
import skimage.data
from PIL import Image

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ConfigurationError, ImageError
from agile_gym.images import ImageSource, SkippedImageWarning, clear_cache, open_images
from agile_gym.images.items import hash_bytes
from agile_gym.transcripts import (
    export_verl,
    read_agile_rl,
)
from tests.helpers.made_transcripts import played


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep the cache of the datasets package within the test's folder, and decode anew."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    clear_cache()


def encoded(pixels, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def photograph():
    return np.ascontiguousarray(skimage.data.chelsea()[:200, 40:340])  # 200 x 300


def cut(photo, rows, cols, solution, turns=None):
    """Cut a photograph by hand, so that piece ``solution[place]`` shows the cell at ``place``."""
    high, wide = photo.shape[0] // rows, photo.shape[1] // cols
    pieces = [None] * (rows * cols)
    for place, piece in enumerate(solution):
        row, col = divmod(place, cols)
        cell = photo[row * high : (row + 1) * high, col * wide : (col + 1) * wide]
        pieces[piece] = np.rot90(cell, (turns[piece] if turns else 0) // 90)
    return [encoded(np.ascontiguousarray(piece)) for piece in pieces]


def row(images, truth, source="puzzle", index=0):
    return {
        "prompt": [{"role": "user", "content": "Solve it. " + "<image>" * len(images)}],
        "images": [{"bytes": image} for image in images],
        "reward_model": {"ground_truth": truth if isinstance(truth, str) else json.dumps(truth)},
        "data_source": source,
        "extra_info": {"index": index},
        "env_name": "puzzle_toolbox",
    }


def parquet(path, rows):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


LETTERS = "ABCDEFGHI"


def pairs(solution):
    return [[LETTERS[piece], 0] for piece in solution]


def test_pieces_become_photographs_and_puzzles(tmp_path):
    photo, solution = photograph(), [2, 0, 3, 1]
    pieces = cut(photo, 2, 2, solution)
    other = encoded(skimage.data.coffee(), "JPEG")
    path = parquet(
        tmp_path / "BLINK_3.parquet",
        [
            row(pieces, pairs(solution)),
            row([*pieces, encoded(photo)], pairs(solution)),
            row([other], "A cup of coffee.", source="general_qa"),
        ],
    )
    source = read_agile_rl(path)
    assert isinstance(source, ImageSource)
    assert repr(source) == "AgilePuzzles(3 puzzles, 2 photographs, 0 skipped)"
    assert np.array_equal(source.load(0), photo)
    assert not source.load(0).flags.writeable
    assert np.array_equal(source.load(1), np.asarray(Image.open(io.BytesIO(other))))
    assert source.content_hash(1) == hash_bytes(other)
    assert (source.name(0), source.name(1)) == ("BLINK_3:0", "BLINK_3:2")
    assert [puzzle.kind for puzzle in source.puzzles] == ["pieces", "pieces+reference", "photograph"]
    assert [puzzle.image for puzzle in source.puzzles] == [0, 0, 1]
    assert [puzzle.data_source for puzzle in source.puzzles] == ["puzzle", "puzzle", "general_qa"]
    assert source.puzzles[0].image_size == (200, 300)
    assert source.puzzles[0].puzzle.solution == tuple(solution)
    assert source.puzzles[2].reset_options == {"image": 1}


@pytest.mark.parametrize(("rows", "solution"), [(2, [2, 0, 3, 1]), (2, [0, 3, 2, 1]), (3, [8, 6, 7, 0, 1, 2, 4, 5, 3])])
def test_the_environment_shows_the_rows_own_pieces(tmp_path, rows, solution):
    photo = photograph()[: 66 * rows, : 99 * rows]
    pieces = cut(photo, rows, rows, solution)
    source = read_agile_rl(parquet(tmp_path / "a.parquet", [row(pieces, pairs(solution))]))
    (puzzle,) = source.puzzles
    env = JigsawVisionEnv(grid=rows, images=source, image_size=puzzle.image_size, level=None, reveal=True)
    _, info = env.reset(seed=0, options=puzzle.reset_options)
    shown = [encoded(np.ascontiguousarray(image)) for image in info["images"]]
    assert shown == pieces
    assert info["solution"] == [LETTERS[piece] for piece in solution]
    text = f"<think>t</think><answer>{json.dumps([LETTERS[piece] for piece in solution])}</answer>"
    assert env.step(text)[4]["solved"]
    _, info = env.reset(seed=1)  # or with another permutation of the same photograph
    assert info["image_id"] == source.content_hash(0)


def test_turned_pieces_are_put_upright(tmp_path):
    photo, solution, turns = photograph()[:200, :200], [3, 1, 0, 2], [90, 0, 270, 180]
    truth = [[LETTERS[piece], turns[piece] * 1.0] for piece in solution]
    source = read_agile_rl(parquet(tmp_path / "a.parquet", [row(cut(photo, 2, 2, solution, turns), truth)]))
    assert np.array_equal(source.load(0), photo)
    options = source.puzzles[0].reset_options
    assert options["turns"] == turns
    env = JigsawVisionEnv(images=source, image_size=200, rotations=True, reveal=True)
    _, info = env.reset(options=options)
    assert info["solution"] == truth


@pytest.mark.parametrize(
    ("options", "given"),
    [({}, None), ({"grid": "3x3"}, None), ({"grid": "2x3"}, "2x3"), ({"rotations": True}, None)],
)
def test_an_export_for_verl_reads_back(tmp_path, options, given):
    episodes = played(3, **options)
    export_verl(episodes, tmp_path)
    source = read_agile_rl(tmp_path / "train.parquet", grid=given)
    assert len(source.puzzles) == 3
    for puzzle, episode in zip(source.puzzles, episodes, strict=True):
        env = JigsawVisionEnv(images=source, image_size=puzzle.image_size, level=None, **options)
        _, info = env.reset(options=puzzle.reset_options)
        assert all(map(np.array_equal, info["images"], episode.prompt_images))
        assert puzzle.puzzle.level == episode.task["level"]


def test_images_of_hugging_faces_own_type_are_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    photo, solution = photograph(), [1, 0, 3, 2]
    rows = [row(cut(photo, 2, 2, solution), pairs(solution))]
    features = datasets.Features(
        {
            "images": datasets.Sequence(datasets.Image()),
            "reward_model": {"ground_truth": datasets.Value("string")},
        }
    )
    rows = [{name: entry[name] for name in features} for entry in rows]
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "a.parquet"))
    source = read_agile_rl(tmp_path / "a.parquet")
    assert np.array_equal(source.load(0), photo)
    assert source.puzzles[0].data_source == ""


@pytest.mark.slow
def test_a_folder_of_files_is_one_source_that_splits_and_travels(tmp_path):
    photo = photograph()
    (tmp_path / "RL").mkdir()
    order = [1, 2, 3, 0]
    for number in range(3):
        tiles = [
            row(cut(np.roll(photo, 10 * number + place, axis=1), 2, 2, order), pairs(order)) for place in range(10)
        ]
        parquet(tmp_path / "RL" / f"part_{number}.parquet", tiles)
    source = read_agile_rl(tmp_path / "RL")
    assert len(source) == len({source.content_hash(index) for index in range(30)}) == 30
    assert source.name(29) == "part_2:9"
    assert np.array_equal(source.load(23), np.roll(photo, 23, axis=1))
    train, test = (open_images(source, split=split) for split in ("train", "test"))
    assert len(train) + len(test) == 30
    assert min(len(train), len(test)) > 0
    clear_cache()
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(copy.load(7), np.roll(photo, 7, axis=1))
    assert read_agile_rl([tmp_path / "RL/part_1.parquet"]).content_hash(0) == source.content_hash(10)


def test_the_hash_is_that_of_the_photograph_not_of_the_puzzle(tmp_path):
    photo = photograph()
    orders = [[1, 2, 3, 0], [3, 2, 1, 0]]
    source = read_agile_rl(
        parquet(tmp_path / "a.parquet", [row(cut(photo, 2, 2, order), pairs(order)) for order in orders])
    )
    assert len(source) == 1
    assert [puzzle.image for puzzle in source.puzzles] == [0, 0]
    assert [list(puzzle.puzzle.solution) for puzzle in source.puzzles] == orders


def test_rows_that_cannot_be_used_are_skipped_and_told(tmp_path):
    photo, solution = photograph(), [1, 0, 3, 2]
    pieces = cut(photo, 2, 2, solution)
    truth = pairs(solution)
    small = encoded(np.full((6, 4, 3), 1, np.uint8))
    bad = [
        (row(pieces[:3], truth), "it has 3 images for 4 pieces"),
        (row([], truth), "it has no images"),
        (row(pieces, "no JSON"), "its ground truth 'no JSON' is not JSON"),
        (row(pieces, "[" * 5000), "is not JSON of"),
        (row(pieces, [["A", 0]] * 4), "each piece once"),
        (row(pieces, [["A", 0], ["B", 0], ["C", 0], ["E", 0]]), "each piece once"),
        (row(pieces, [["A", 0], ["B", 0], ["C", 0], ["D", 45]]), "each piece once"),
        (row(pieces, [["A", 0, 1], ["B", 0], ["C", 0], ["D", 0]]), "each piece once"),
        (row(pieces, {"A": 0}), "is not JSON of"),
        (row([*pieces[:3], small], truth), "its pieces do not fit together"),
        (row([*pieces[:3], b"no image"], truth), "one of its images cannot be used: it is not an image"),
        (row(cut(photo, 2, 3, [1, 0, 3, 2, 5, 4]), pairs([1, 0, 3, 2, 5, 4])), "6 pieces do not make a grid of 2x2"),
    ]
    rows = [row(pieces, truth), *(entry for entry, _ in bad)]
    rows[2]["images"] = [{"bytes": None}]
    bad[1] = (rows[2], "one of its images has no bytes")
    path = parquet(tmp_path / "a.parquet", rows)
    with pytest.warns(SkippedImageWarning, match=r"12 rows skipped \(a:1: it has 3 images for 4 pieces; .*1 used"):
        source = read_agile_rl(path)
    assert len(source) == 1
    for (name, reason), (number, (_, expected)) in zip(source.skipped, enumerate(bad, 1), strict=True):
        assert name == f"a:{number}"
        assert expected in reason


def test_damage_inside_an_image_shows_when_it_is_loaded(tmp_path):
    pieces = cut(photograph(), 2, 2, [1, 0, 3, 2])
    pieces[2] = pieces[2][: len(pieces[2]) // 2]
    source = read_agile_rl(parquet(tmp_path / "a.parquet", [row(pieces, pairs([1, 0, 3, 2]))]))
    with pytest.raises(ImageError, match="a:0"):
        source.load(0)


def test_files_that_are_not_agiles(tmp_path):
    with pytest.raises(ImageError, match=r"does not exist. Give AGILE's folder RL"):
        read_agile_rl(tmp_path / "nothing.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"holds no .parquet file"):
        read_agile_rl(tmp_path / "empty")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ImageError, match=r"bad.parquet cannot be read as Parquet"):
        read_agile_rl(tmp_path / "bad.parquet")
    path = parquet(tmp_path / "other.parquet", [{"text": "hello", "images": 3}])
    with pytest.raises(ImageError, match=r"other.parquet has no column reward_model, so it is not in AGILE's layout"):
        read_agile_rl(path)
    path = parquet(tmp_path / "rows.parquet", [row([b"x"], "[]")])
    with pytest.raises(ImageError, match=r"No row of .*rows.parquet can be used \(rows:0: one of its images"):
        read_agile_rl(path)
    with pytest.raises(ConfigurationError, match="is not a grid"):
        read_agile_rl(path, grid="x")
    large = parquet(tmp_path / "large.parquet", [row([encoded(photograph())], "[]")])
    with pytest.raises(ImageError, match="max_pixels is 100"):
        read_agile_rl(large, max_pixels=100)
