"""AGILE's released layouts, as small files made by hand, and this library's own exports read back."""

import io
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
from PIL import Image

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ConfigurationError, ImageError, TranscriptError
from agile_gym.images import ImageSource, SkippedImageWarning, clear_cache, open_images
from agile_gym.images.items import hash_bytes
from agile_gym.transcripts import (
    TranscriptWriter,
    export_sharegpt,
    export_verl,
    importing,
    read_agile_cold_start,
    read_agile_rl,
    read_transcripts,
)
from tests.helpers.made_transcripts import played

TASK = "Restore the picture. state = [A, B, C, D]\nA <image> B <image> C <image> D <image>"
SWAP = "state[0], state[1] = state[1], state[0]\nobservation_image_1 = observation(state)"
CROP = "crop_image_1 = crop(image_list[0], [0.5, 0.0, 1.0, 1.0])"
SHOWN = "The code is executed successfully. `observation_image_1` is<image>"


def think(block):
    return f"<think>Let me see.</think>{block}"


def picture(value, size=(6, 4)):
    return np.full((*size, 3), value, np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Make image folders as AGILE's are called, with the pictures 0 to 5 of different values."""
    for place in range(6):
        path = tmp_path / ("jigsaw" if place < 3 else "jigsaw2") / f"{place}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(place)).save(path)
    return tmp_path


PATHS = [f"jigsaw/{place}.png" for place in range(3)] + [f"jigsaw2/{place}.png" for place in range(3, 6)]


def messages(*texts, keys=("role", "content"), names=("user", "assistant")):
    return [{keys[0]: names[place % 2], keys[1]: text} for place, text in enumerate(texts)]


TEXTS = (
    TASK,
    think(f"<code>{SWAP}</code>"),
    SHOWN,
    think(f"<code>{CROP}</code>"),
    "The code is executed successfully. `crop_image_1` is<image>",
    think('<answer>["B", "A", "C", "D"]</answer>'),
)


def write(folder, *entries):
    path = folder / "cold_start_2.json"
    path.write_text(json.dumps(list(entries)), encoding="utf-8")
    return path


# ---------------------------------------------------------------------------------------------------------- cold start


def test_images_of_a_conversation_are_read_once_and_have_a_largest_sum(folder, monkeypatch):
    said = messages(TASK, *TEXTS[1:2], "<image>" * 20, TEXTS[-1])
    file = write(folder, {"messages": said, "images": PATHS[:4] + ["jigsaw/0.png", "./jigsaw/0.png"] * 10})
    (episode,) = read_agile_cold_start(file)
    assert len({id(image) for image in episode.images}) == 5
    monkeypatch.setattr(importing, "MAX_PIXELS", 24 * 24)
    assert len(next(read_agile_cold_start(file)).images) == 24
    monkeypatch.setattr(importing, "MAX_PIXELS", 24 * 24 - 1)
    with pytest.raises(TranscriptError, match=r"conversation 0 .*shows images of more than 575 pixels together"):
        next(read_agile_cold_start(file))


def test_answers_of_a_conversation_are_read_in_other_spellings(folder):
    answer = think("<answer>['Image B', 'a', 'c ', 'F', 'piece e', 'D']</answer>")
    entry = {"messages": messages(TASK.replace("<image>", "", 4) + "<image>" * 6, answer), "images": PATHS}
    (episode,) = read_agile_cold_start(write(folder, entry), grid="2x3")
    assert (episode.solution, episode.solved, episode.turns[0].error) == (tuple("BACFED"), True, None)


@pytest.mark.parametrize("style", ["messages", "conversations"])
def test_a_conversation_becomes_a_transcript(folder, style):
    if style == "messages":
        entry = {"messages": messages(*TEXTS), "images": PATHS}
    else:
        entry = {"conversations": messages(*TEXTS, keys=("from", "value"), names=("human", "gpt")), "images": PATHS}
    (episode,) = read_agile_cold_start(write(folder, entry))
    assert (episode.id, episode.policy, episode.system) == ("cold_start_2-000000", "agile-cold-start", None)
    assert episode.prompt == TASK
    assert [image[0, 0, 0] for image in episode.images] == [0, 1, 2, 3, 4, 5]
    assert len(episode.prompt_images) == 4
    assert [turn.text for turn in episode.turns] == list(TEXTS[1::2])
    assert [turn.feedback for turn in episode.turns] == [*TEXTS[2::2], ""]
    assert [len(turn.images) for turn in episode.turns] == [1, 1, 0]
    assert [turn.primitives for turn in episode.turns] == [("Swap", "Observe"), ("Crop",), ("Answer",)]
    assert [turn.error for turn in episode.turns] == [None, None, None]
    assert [turn.state for turn in episode.turns] == [("B", "A", "C", "D")] * 3
    assert (episode.solution, episode.solved, episode.score) == (("B", "A", "C", "D"), True, 1.0)
    assert episode.reward == pytest.approx(
        {"accuracy": 1.0, "format": 1.0, "step": -0.1, "score": 1.0, "total": 0.9}
    )  # two turns with code
    assert [turn.reward["total"] for turn in episode.turns] == pytest.approx([0, 0, 0.9])
    assert (episode.truncated, episode.segments) == (False, ())
    assert episode.details == {"file": "cold_start_2.json", "index": 0}
    assert episode.task == {
        "grid": "2x2",
        "level": 2,
        "names": ["A", "B", "C", "D"],
        "dialect": "code",
        "initial_view": "pieces",
        "piece_size": [6, 4],
        "rotations": False,
        "max_turns": 3,
        "seed": None,
        "policy_seed": None,
        "image_id": "",
    }
    assert [message.text for message in episode.messages()] == list(TEXTS)


def test_errors_unknown_code_and_system_prompts(folder):
    texts = (
        TASK,
        think("<code>import os</code>"),
        "Error: name 'os' is not defined",
        think("<code>observation_image_1 = paint(state)</code>"),  # AGILE ran it, this dialect has no such word
        SHOWN,
        "I give up.",
    )
    said = [{"role": "system", "content": "Be good."}, *messages(*texts)]
    (episode,) = read_agile_cold_start(write(folder, {"messages": said, "images": PATHS[:5]}))
    assert episode.system == "Be good."
    assert [turn.error for turn in episode.turns] == ["not_allowed", None, "no_action"]
    assert [turn.primitives for turn in episode.turns] == [(), (), ()]
    assert (episode.solved, episode.solution, episode.score, episode.truncated) == (False, (), 0.0, True)
    assert episode.task["level"] is None
    assert (episode.reward["accuracy"], episode.reward["format"]) == (0.0, 0.0)


def test_a_reference_image_is_no_piece(folder):
    texts = (TASK + " whole: <image>", "I give up.")
    (episode,) = read_agile_cold_start(write(folder, {"messages": messages(*texts), "images": PATHS[:5]}))
    assert episode.task["grid"] == "2x2"
    assert len(episode.prompt_images) == 5


def test_images_are_found_below_the_root_only(folder):
    root = folder
    (root / "elsewhere").mkdir()
    file = root / "elsewhere/data.json"
    inside = ["/home/someone/AGILE_Data/cold_start/jigsaw/0.png", "./jigsaw/1.png", "x\\jigsaw\\2.png", "jigsaw2/3.png"]
    entry = {"messages": messages(TASK, TEXTS[-1]), "images": inside}
    file.write_text(json.dumps([entry]))
    (episode,) = read_agile_cold_start(file, root)
    assert [image[0, 0, 0] for image in episode.images] == [0, 1, 2, 3]
    with pytest.raises(TranscriptError, match=r"conversation 0 .*'/home/someone.*which is not in .*elsewhere"):
        list(read_agile_cold_start(file))
    for path in ("../jigsaw/0.png", "jigsaw/../../../etc/passwd", "jigsaw\\..\\..\\x.png", "a\0b"):
        file.write_text(json.dumps([entry | {"images": [path, *inside[1:]]}]))
        with pytest.raises(TranscriptError, match="which leads out of the folder of images"):
            list(read_agile_cold_start(file, root))


def test_episodes_are_read_one_by_one(folder):
    good = {"messages": messages(*TEXTS), "images": PATHS}
    path = write(folder, good, good | {"images": ["gone.png", *PATHS[1:]]})
    episodes = read_agile_cold_start(path)
    assert next(episodes).solved
    with pytest.raises(TranscriptError, match=r"conversation 1 \(from 0\): it names the image 'gone.png'"):
        next(episodes)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (7, "has 7 where a dictionary must be"),
        ({}, "has no 'conversations'"),
        ({"messages": []}, "has no messages"),
        ({"messages": "hello"}, "has 'hello' as 'messages'"),
        ({"messages": [{"role": "user"}]}, "has no 'content'"),
        ({"messages": [{"role": "user", "content": [1]}]}, r"has \[1\] as 'content'"),
        ({"messages": messages("a", "b", names=("user", "tool"))}, "of the role 'tool'"),
        ({"messages": messages("a")}, "does not alternate"),
        ({"messages": messages("a", "b", names=("assistant", "user"))}, "does not alternate"),
        ({"messages": [{"role": "system", "content": "s"}]}, "does not alternate"),
        ({"messages": messages(TASK, "b"), "images": PATHS[:3]}, "has 4 image marks in the user's messages, and 3"),
        ({"messages": messages("a", "b"), "images": PATHS[:1]}, "has 0 image marks in the user's messages, and 1"),
        ({"messages": messages("a", think('<answer>["A", "B", "C"]</answer>'))}, "3 pieces, which make no square"),
    ],
)
def test_what_is_no_conversation_is_told(folder, entry, message):
    with pytest.raises(TranscriptError, match=rf"cold_start_2.json, conversation 0 \(from 0\): it .*{message}"):
        list(read_agile_cold_start(write(folder, entry)))


def test_files_that_cannot_be_read(folder):
    with pytest.raises(TranscriptError, match="cannot be read"):
        read_agile_cold_start(folder / "nothing.json")
    path = folder / "cold.json"
    for content, message in ((b"{", "is not JSON"), (b"\xff", "is not JSON"), (b"{}", "not hold a list .* but a dict")):
        path.write_bytes(content)
        with pytest.raises(TranscriptError, match=message):
            read_agile_cold_start(path)
    with pytest.raises(ConfigurationError, match="grid='zwei' is not a grid"):
        read_agile_cold_start(write(folder), grid="zwei")
    (folder / "jigsaw/0.png").write_bytes(b"no image")
    with pytest.raises(TranscriptError, match=r"conversation 0 .*jigsaw/0.png.* cannot be used"):
        list(read_agile_cold_start(write(folder, {"messages": messages(*TEXTS), "images": PATHS})))


def test_an_imported_episode_can_be_stored(folder):
    (episode,) = read_agile_cold_start(write(folder, {"messages": messages(*TEXTS), "images": PATHS}))
    with TranscriptWriter(folder / "run") as writer:
        writer.append(episode)
    (back,) = read_transcripts(folder / "run")
    assert back.task == episode.task
    assert len(back.images) == 6


@pytest.mark.parametrize(("grid", "given"), [("2x2", None), ("3x3", None), ("2x3", "2x3")])
def test_an_export_for_llama_factory_reads_back(tmp_path, grid, given):
    episodes = [episode for episode in played(6, grid=grid) if episode.solved]
    export_sharegpt(episodes, tmp_path)
    back = list(read_agile_cold_start(tmp_path / "agile_gym.json", grid=given))
    assert len(back) == len(episodes) > 2
    for episode, first in zip(back, episodes, strict=True):
        assert [(m.role, m.text) for m in episode.messages()] == [(m.role, m.text) for m in first.messages()]
        assert all(map(np.array_equal, episode.images, first.images))
        assert (episode.solution, episode.solved, episode.reward) == (first.solution, True, first.reward)
        assert [t.primitives for t in episode.turns] == [t.primitives for t in first.turns]
        assert [t.state for t in episode.turns] == [t.state for t in first.turns]
        assert [t.error for t in episode.turns] == [t.error for t in first.turns]
        same = ("grid", "level", "names", "dialect", "piece_size", "rotations")
        assert {key: episode.task[key] for key in same} == {key: first.task[key] for key in same}


# ------------------------------------------------------------------------------------------- puzzles for learning by RL


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
    small = encoded(picture(1))
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


def test_reading_the_same_episode_twice_changes_nothing(folder):
    path = write(folder, {"messages": messages(*TEXTS), "images": PATHS})
    first, second = (next(read_agile_cold_start(path)) for _ in range(2))
    assert replace(first, turns=(), prompt_images=()).__dict__ == replace(second, turns=(), prompt_images=()).__dict__
