"""Stored transcripts are lossless, and what cannot be stored is refused."""

import os
import sys
import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agile_gym.errors import ConfigurationError, TranscriptError
from agile_gym.images.items import hash_pixels
from agile_gym.learner import MissingDependencyError
from agile_gym.transcripts import Segment, TranscriptWriter, export_sharegpt, export_trl, read_headers, read_transcripts
from agile_gym.transcripts.store import FORMATS
from tests.helpers.made_transcripts import differences, files, ids, made, played, transcripts, write

SLOW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("kind", FORMATS)
def test_played_episodes_read_back_equal(tmp_path, kind):
    episodes = played(6, tokens=50) + [
        replace(episode, id=f"rotated-{episode.id}") for episode in played(3, rotations=True, grid="2x3")
    ]
    write(tmp_path, episodes, format=kind)
    back = list(read_transcripts(tmp_path))
    assert [differences(*pair) for pair in zip(episodes, back, strict=True)] == [[]] * 9
    assert len(back[0].images) == 5
    assert back[0].segments[0].logps.dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@SLOW
@given(episodes=st.lists(transcripts, max_size=3, unique_by=lambda episode: episode.id))
def test_any_episode_reads_back_equal(tmp_path_factory, kind, episodes):
    folder = tmp_path_factory.mktemp("run")
    write(folder, episodes, format=kind)
    back = list(read_transcripts(folder))
    assert [differences(*pair) for pair in zip(episodes, back, strict=True)] == [[]] * len(episodes)
    without = list(read_transcripts(folder, images=False))
    assert [episode.images for episode in without] == [()] * len(episodes)
    assert [episode.prompt for episode in without] == [episode.prompt for episode in episodes]


def test_arrays_that_are_read_belong_to_the_reader(tmp_path):
    for kind in FORMATS:
        write(tmp_path / kind, [made(0)], format=kind)
        (back,) = read_transcripts(tmp_path / kind)
        back.segments[0].advantages[:] = 0  # as a learner does
        assert not back.images[0].flags.writeable


def test_an_image_is_stored_once_under_the_hash_of_its_pixels(tmp_path):
    first = made(0)
    second = replace(made(1), prompt_images=first.prompt_images)
    write(tmp_path, [first, second])
    expected = {hash_pixels(image) for image in (*first.images, *second.images)}
    assert len(expected) == 4
    assert files(tmp_path / "images") == sorted(f"{name[:2]}/{name}.png" for name in expected)
    for name in expected:
        data = (tmp_path / "images" / name[:2] / f"{name}.png").read_bytes()
        pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        assert hash_pixels(pixels) == name


def test_a_list_of_episodes_needs_no_images(tmp_path):
    episodes = played(4, tokens=10)
    write(tmp_path, episodes)
    (tmp_path / "images").rename(tmp_path / "away")
    headers = list(read_headers(tmp_path))
    for header, episode in zip(headers, episodes, strict=True):
        assert (header.id, header.policy, header.solved, header.score) == (
            episode.id,
            episode.policy,
            episode.solved,
            episode.score,
        )
        assert header.task == episode.task
        assert header.reward == episode.reward["total"]
        assert header.errors == tuple(turn.error for turn in episode.turns)
        assert (header.turns, header.truncated) == (len(episode.turns), False)
        assert header.load(images=False).segments[0].ids.size == 10
    assert {header.solved for header in headers} == {True, False}
    assert any(any(header.errors) for header in headers)
    with pytest.raises(TranscriptError, match=r"is missing. Copy the folder 'images'"):
        headers[0].load()


@pytest.mark.parametrize("kind", FORMATS)
def test_headers_load_in_any_order_and_give_encoded_images(tmp_path, kind):
    episodes = [made(number) for number in range(6)]
    write(tmp_path, episodes, format=kind)
    headers = list(read_headers(tmp_path))
    for place in (3, 0, 5):
        assert differences(headers[place].load(), episodes[place]) == []
        encoded = headers[place].load_png()
        decoded = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for data in encoded]
        assert all(map(np.array_equal, decoded, episodes[place].images))
    write(tmp_path, [made(9), made(8)], format=kind, overwrite=True)
    with pytest.raises(TranscriptError, match="changed since it was listed"):
        headers[3].load()


def test_select_skips_images_of_others(tmp_path):
    write(tmp_path, [made(0), made(1)])
    for image in made(0).images:
        name = hash_pixels(image)
        (tmp_path / "images" / name[:2] / f"{name}.png").unlink()
    assert [t.id for t in read_transcripts(tmp_path, select=lambda header: header.id == "episode-1")] == ["episode-1"]


def test_reading_holds_one_episode_at_a_time(tmp_path):
    write(tmp_path, [made(number, size=256) for number in range(20)])  # 0.6 MB of pixels each
    tracemalloc.start()
    assert sum(len(episode.images) for episode in read_transcripts(tmp_path)) == 60
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "../escape"}, "cannot be the id"),
        ({"id": ""}, "cannot be the id"),
        ({"id": "x" * 201}, "cannot be the id"),
        ({"task": {"when": object()}}, "object is not JSON"),
        ({"details": {1: {2, 3}}}, "set is not JSON"),
        ({"prompt_images": (np.zeros((4, 4), np.uint8),)}, r"shape \(h, w, 3\)"),
        ({"prompt_images": (np.zeros((4, 4, 3), np.float32),)}, "type float32"),
        ({"prompt_images": (np.zeros((0, 4, 3), np.uint8),)}, "0 x 4 pixels"),
        ({"prompt_images": ("picture.png",)}, "this is picture.png"),
        (
            {
                "segments": (
                    Segment(
                        np.array([2**40]), np.ones(1, np.bool_), np.zeros(1, np.float32), np.zeros(1, np.int16), ()
                    ),
                )
            },
            "ids of a segment are int64 and hold values that int32 cannot",
        ),
        (
            {
                "segments": (
                    Segment(np.ones(1, np.int32), np.ones(1, np.bool_), np.array([0.1]), np.zeros(1, np.int16), ()),
                )
            },
            "logps of a segment are float64",
        ),
    ],
)
def test_what_cannot_be_stored_is_refused_and_changes_nothing(tmp_path, change, message):
    with TranscriptWriter(tmp_path) as writer:
        writer.append(made(0))
        with pytest.raises(ConfigurationError, match=message):
            writer.append(replace(made(1), **change))
        assert list(writer.ids) == ["episode-0"]
        assert writer.append(made(2))
    assert ids(tmp_path) == ["episode-0", "episode-2"]


def test_numpy_numbers_and_wider_types_are_stored_where_nothing_is_lost(tmp_path):
    segment = Segment(np.array([5, 6]), np.array([1, 0]), np.array([0.5, np.nan]), np.array([0, -1]), (np.int64(0),))
    details = {"seed": np.int64(3), "rate": np.float32(0.5), "greedy": np.bool_(True)}
    write(tmp_path, [replace(made(0), details=details, segments=(segment,))])
    (back,) = read_transcripts(tmp_path)
    assert back.details == {"seed": 3, "rate": 0.5, "greedy": True}
    assert back.segments[0].ids.tolist() == [5, 6]
    assert back.segments[0].loss_mask.tolist() == [True, False]
    assert back.segments[0].ids.dtype == np.int32


def test_the_writer_says_what_it_needs(tmp_path):
    with pytest.raises(ConfigurationError, match=r"'parquett' is not a format of transcripts. Did you mean 'parquet'"):
        TranscriptWriter(tmp_path, format="parquett")
    (tmp_path / "file").write_text("")
    with pytest.raises(TranscriptError, match=r"cannot be written: .* Give another folder"):
        TranscriptWriter(tmp_path / "file")
    writer = TranscriptWriter(tmp_path / "run")
    writer.close()
    writer.close()
    with pytest.raises(ConfigurationError, match="is closed"):
        writer.append(made(0))
    with pytest.raises(ConfigurationError, match="is closed"):
        writer.keep([])


def test_without_pyarrow_only_parquet_is_missing(tmp_path, monkeypatch):
    write(tmp_path / "parts", [made(0)], format="parquet")
    for name in [*(name for name in sys.modules if name.split(".")[0] == "pyarrow"), "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    write(tmp_path / "run", [made(0)])
    assert ids(tmp_path / "run") == ["episode-0"]
    message = r"'pyarrow' is needed to read and write Parquet files. Install it with: pip install 'agile-gym\[data\]'"
    with pytest.raises(MissingDependencyError, match=message):
        TranscriptWriter(tmp_path / "new", format="parquet")
    assert not (tmp_path / "new").exists()
    with pytest.raises(MissingDependencyError, match=message):
        ids(tmp_path / "parts")
    with pytest.raises(MissingDependencyError, match=message):
        export_trl([made(0)], tmp_path / "out")
    assert export_sharegpt([made(0)], tmp_path / "out") == 1


def test_parquet_columns_are_of_use_to_others(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    episodes = played(3, tokens=20)
    write(tmp_path, episodes, format="parquet")
    rows = pq.read_table(tmp_path / "episodes-00000.parquet").to_pylist()
    for row, episode in zip(rows, episodes, strict=True):
        assert (row["id"], row["grid"], row["level"], row["solved"]) == (episode.id, "2x2", 0, episode.solved)
        assert (row["format"], row["turns"], row["reward"]) == (1, len(episode.turns), episode.reward["total"])
        assert row["segments"][0]["ids"] == episode.segments[0].ids.tolist()
        assert row["segments"][0]["advantages"] is None
        first = cv2.imdecode(np.frombuffer(row["images"][0]["bytes"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.array_equal(first, episode.images[0])


def test_the_format_on_disk_is_what_it_was(tmp_path):
    # A record of format 1, written by hand: later versions must go on reading it.
    folder = tmp_path / "images" / "e7"
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    name = "f47f1a9fcdd9ae9cd8a83c5e7c2f4a1ea9b1a4fbaf2ad1c9b8a4a1b5cf3b7d11"
    name = hash_pixels(image)
    folder = tmp_path / "images" / name[:2]
    folder.mkdir(parents=True)
    cv2.imwrite(os.fspath(folder / f"{name}.png"), image[..., ::-1])
    reward = '{"accuracy":1.0,"format":1.0,"step":0.0,"score":1.0,"total":1.0}'
    (tmp_path / "episodes.jsonl").write_text(
        '{"format":1,"id":"e","policy":"p","task":{"grid":"1x2"},"system":null,"prompt":"<image>","prompt_images":["'
        + name
        + '"],"turns":[{"text":"t","feedback":"f","images":[],"primitives":["Answer"],"error":null,"state":["A","B"],'
        + f'"reward":{reward},"env_seconds":0.5,"usage":{{"seconds":1,"context_tokens":9,"computed_tokens":null,'
        + f'"new_tokens":2}}}}],"solution":["B","A"],"solved":true,"score":1,"reward":{reward},"truncated":false,'
        + '"details":{},"segments":[{"ids":"AQAAAAIAAAA=","loss_mask":"AAE=","logps":"AAAAAAAAAL8=","turns":"//8AAA==",'
        + '"advantages":null,"images":[0]}]}\n'
    )
    (episode,) = read_transcripts(tmp_path)
    assert np.array_equal(episode.images[0], image)
    segment = episode.segments[0]
    assert segment.ids.tolist() == [1, 2]
    assert segment.loss_mask.tolist() == [False, True]
    assert segment.logps.tolist() == [0.0, -0.5]
    assert segment.turns.tolist() == [-1, 0]
    assert (segment.images, segment.advantages) == ((0,), None)
    assert episode.turns[0].usage.context_tokens == 9
    assert episode.score == 1.0
