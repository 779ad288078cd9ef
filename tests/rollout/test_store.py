"""Stored transcripts: lossless, safe against kills and damage."""

import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_transcripts import differences, made, played, transcripts

from agile_gym.errors import ConfigurationError, MissingDependencyError, TranscriptError
from agile_gym.images.items import hash_pixels
from agile_gym.rollout import Segment, export_sharegpt, export_trl, store
from agile_gym.rollout.pictures import encode_png
from agile_gym.rollout.reading import read_headers, read_transcripts
from agile_gym.rollout.store import FORMATS, TranscriptWriter

SLOW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(folder, episodes, **options):
    with TranscriptWriter(folder, **options) as writer:
        for episode in episodes:
            assert writer.append(episode)


def ids(folder):
    return [transcript.id for transcript in read_transcripts(folder)]


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


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


# ---------------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("kind", FORMATS)
def test_transcripts_are_neither_overwritten_nor_doubled_by_accident(tmp_path, kind):
    write(tmp_path, [made(0), made(1)], format=kind)
    with pytest.raises(ConfigurationError, match=r"holds transcripts already. Resume"):
        TranscriptWriter(tmp_path, format=kind)
    with TranscriptWriter(tmp_path, format=kind, resume=True) as writer:
        assert list(writer.ids) == ["episode-0", "episode-1"]
        assert not writer.append(made(1))
        assert writer.append(made(2))
        assert not writer.append(made(2))
    assert ids(tmp_path) == ["episode-0", "episode-1", "episode-2"]
    write(tmp_path, [made(7)], format=kind, overwrite=True)
    assert ids(tmp_path) == ["episode-7"]
    assert len(files(tmp_path)) == (4 if kind == "jsonl" else 1)


def test_an_empty_folder_can_be_opened_again(tmp_path):
    write(tmp_path, [])
    assert ids(tmp_path) == []
    write(tmp_path, [made(0)])
    assert ids(tmp_path) == ["episode-0"]


@pytest.mark.parametrize("formats", [("jsonl", "jsonl"), ("parquet", "parquet"), ("parquet", "jsonl")])
def test_keep_drops_the_others(tmp_path, monkeypatch, formats):
    monkeypatch.setattr(store, "PART_EPISODES", 3)
    episodes = [made(number) for number in range(8)]
    write(tmp_path, episodes[:6], format=formats[0])
    write(tmp_path, episodes[6:], format=formats[1], resume=True)
    with TranscriptWriter(tmp_path, format=formats[1], resume=True) as writer:
        writer.keep({"episode-4", "episode-7", "episode-1", "never-played"})
        assert list(writer.ids) == ["episode-1", "episode-4", "episode-7"]
        assert writer.append(episodes[2])
        writer.keep(list(writer.ids))
    back = list(read_transcripts(tmp_path))
    assert [episode.id for episode in back] == ["episode-1", "episode-4", "episode-7", "episode-2"]
    assert all(differences(episode, episodes[int(episode.id[-1])]) == [] for episode in back)
    with TranscriptWriter(tmp_path, format=formats[1], resume=True) as writer:
        writer.keep([])
        assert not writer.ids
    assert ids(tmp_path) == []


def test_a_line_that_was_cut_short_is_dropped_wherever_it_was_cut(tmp_path):
    write(tmp_path, [made(0), made(1)])
    path = tmp_path / "episodes.jsonl"
    whole = path.read_bytes()
    begin = whole.index(b"\n") + 1
    for cut in sorted({begin, begin + 1, begin + 2, *range(begin + 3, len(whole) - 1, 97), len(whole) - 2}):
        path.write_bytes(whole[:cut])
        assert ids(tmp_path) == ["episode-0"]
        assert [header.id for header in read_headers(tmp_path)] == ["episode-0"]
        with TranscriptWriter(tmp_path, resume=True) as writer:
            assert list(writer.ids) == ["episode-0"]
            assert writer.append(made(1))
        assert path.read_bytes() == whole
    path.write_bytes(whole[:-1])  # only its end is missing: nothing is lost
    assert ids(tmp_path) == ["episode-0", "episode-1"]
    write(tmp_path, [made(2)], resume=True)
    assert ids(tmp_path) == ["episode-0", "episode-1", "episode-2"]
    path.write_bytes(whole + b"\0" * 100)  # as some file systems leave it after a power cut
    write(tmp_path, [made(2)], resume=True)
    assert ids(tmp_path) == ["episode-0", "episode-1", "episode-2"]


def test_what_a_kill_leaves_behind_is_tidied(tmp_path):
    write(tmp_path, [made(0)])
    image = hash_pixels(made(1).images[0])
    left = tmp_path / "images" / image[:2] / f".{image}-123.new"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"half an image")
    (tmp_path / ".episodes.jsonl-123.new").write_bytes(b"half a file")
    before = files(tmp_path)
    write(tmp_path, [], resume=True)
    assert files(tmp_path) == [name for name in before if not name.endswith(".new")]
    assert ids(tmp_path) == ["episode-0"]


def test_an_interrupted_packing_loses_and_doubles_nothing(tmp_path):
    write(tmp_path / "lines", [made(0), made(1)])
    write(tmp_path / "run", [made(0)], format="parquet")
    for path in (tmp_path / "lines").iterdir():  # as if the process was killed after the part was written
        path.rename(tmp_path / "run" / path.name)
    assert ids(tmp_path / "run") == ["episode-0", "episode-1"]
    write(tmp_path / "run", [made(2)], format="parquet", resume=True)
    assert ids(tmp_path / "run") == ["episode-0", "episode-1", "episode-2"]
    assert files(tmp_path / "run") == ["episodes-00000.parquet", "episodes-00001.parquet"]


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from made_transcripts import made
from agile_gym.rollout import store
store.PART_EPISODES = 7
with store.TranscriptWriter({folder!r}, format={kind!r}, resume=True) as writer:
    print("ready", flush=True)
    for number in range(40):
        if f"episode-{{number}}" not in writer.ids:
            writer.append(made(number, size=96, tokens=4000))
            print(f"episode-{{number}}", flush=True)
"""


@pytest.mark.parametrize("kind", FORMATS)
def test_a_killed_process_resumes_with_nothing_lost_or_doubled(tmp_path, kind):
    program = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path), kind=kind)
    rng = np.random.default_rng(0)
    told, kills = [], 0
    for round_ in range(5):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        if round_ < 4:
            for _ in range(int(rng.integers(1, 8))):
                told.append(process.stdout.readline().strip())
            process.kill()  # SIGKILL: somewhere in the middle of the next episodes
        rest, _ = process.communicate()
        told += rest.split()
        finished = process.returncode == 0
        kills += not finished
        present = ids(tmp_path)
        assert len(present) == len(set(present))
        assert set(told) <= set(present)
        if finished:
            break
    assert kills == 4
    assert sorted(present) == sorted(f"episode-{number}" for number in range(40))
    for episode in read_transcripts(tmp_path):
        assert differences(episode, made(int(episode.id.split("-")[1]), size=96, tokens=4000)) == []
    assert not [name for name in files(tmp_path) if name.endswith(".new")]
    if kind == "parquet":
        assert all(name.endswith(".parquet") for name in files(tmp_path))


def test_two_processes_do_not_write_to_one_folder(tmp_path):
    with TranscriptWriter(tmp_path) as writer:
        writer.append(made(0))
        with pytest.raises(TranscriptError, match="Another process is writing"):
            TranscriptWriter(tmp_path, resume=True)
        assert ids(tmp_path) == ["episode-0"]  # reading is no trouble
    write(tmp_path, [made(1)], resume=True)


FORKED = """
import os, sys, time
sys.path.insert(0, {tests!r})
from made_transcripts import made
from agile_gym.errors import ConfigurationError
from agile_gym.rollout.store import TranscriptWriter
writer = TranscriptWriter({folder!r})
writer.append(made(0))
reading, writing = os.pipe()
child = os.fork()
if child:
    os.read(reading, 1)  # the child runs: it may have been slow to start
    writer.append(made(1))
    print(child, flush=True)
    os.kill(os.getpid(), 9)
os.write(writing, b"x")
try:
    writer.append(made(2))
except ConfigurationError:
    time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_neither_writes_nor_keeps_others_from_it(tmp_path):
    program = FORKED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        assert process.wait() == -9
        with TranscriptWriter(tmp_path, resume=True) as writer:
            assert list(writer.ids) == ["episode-0", "episode-1"]
        os.kill(child, 0)  # it is still there
    finally:
        os.kill(child, 9)
        process.stdout.close()


FULL = """
import resource, sys
sys.path.insert(0, {tests!r})
from made_transcripts import made
from agile_gym.errors import TranscriptError
from agile_gym.rollout import store
store.PART_EPISODES = 10
writer = store.TranscriptWriter({folder!r}, format={kind!r})
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, -1))  # no file may grow beyond it, as on a full disk
number = 0
try:
    while writer.append(made(number, size={size})):
        number += 1
except TranscriptError as error:
    print(error)
print(*writer.ids, sep=",")
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
for number in range(20):
    writer.append(made(number, size={size}))
writer.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of this kind")
@pytest.mark.parametrize(
    ("kind", "size", "limit", "fails"),
    [
        ("jsonl", 8, 20_000, "in the middle of a line"),
        ("jsonl", 96, 20_000, "in the middle of the first image"),
        ("parquet", 8, 12_000, "in the middle of a line"),
        ("parquet", 32, 60_000, "in the middle of a part"),
    ],
)
def test_a_full_disk_costs_no_episode(tmp_path, kind, size, limit, fails):
    program = FULL.format(tests=str(Path(__file__).parent), folder=str(tmp_path), kind=kind, size=size, limit=limit)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    message, kept = result.stdout.split("\n")[:2]
    assert "cannot be written" in message
    assert "What was written is kept" in message
    count = {"in the middle of the first image": [0], "in the middle of a part": [10]}.get(fails, range(3, 20))
    assert len([name for name in kept.split(",") if name]) in count
    back = list(read_transcripts(tmp_path))
    assert [episode.id for episode in back] == [f"episode-{number}" for number in range(20)]
    assert all(differences(episode, made(number, size=size)) == [] for number, episode in enumerate(back))
    assert not [name for name in files(tmp_path) if name.endswith(".new")]


# ------------------------------------------------------------------------------------------------ refused by the writer


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
    assert back.segments[0].mask.tolist() == [True, False]
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


# ----------------------------------------------------------------------------------------------------------- damage


def edit(old, new):
    """Return what replaces a piece of the second line."""

    def damage(folder):
        path = folder / "episodes.jsonl"
        first, second, third = path.read_bytes().splitlines(keepends=True)
        assert old in second
        path.write_bytes(first + second.replace(old, new, 1) + third)

    return damage


def replace_line(data):
    def damage(folder):
        path = folder / "episodes.jsonl"
        first, _, third = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(first + data + b"\n" + third)

    return damage


IMAGE = hash_pixels(made(1).images[0])
IDS = made(1).segments[0].ids


def picture(data):
    def damage(folder):
        path = folder / "images" / IMAGE[:2] / f"{IMAGE}.png"
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data(path.read_bytes()))

    return damage


def other_picture(data):
    return encode_png(made(5).images[0])


def huge_picture(data):
    return data[:16] + (2**31 - 1).to_bytes(4, "big") * 2 + data[24:]


LINE = r"episodes\.jsonl, line 2, "


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (replace_line(b"{garbage"), LINE + "is not JSON"),
        (replace_line(b"[" * 100_000), LINE + "is not JSON"),
        (replace_line(b"\xff\xfe"), LINE + "is not JSON"),
        (replace_line(b"[1, 2]"), LINE + "is not a transcript"),
        (replace_line(b'{"grid": "2x2"}'), LINE + "is not a transcript"),
        (edit(b'"format":1', b'"format":2'), LINE + "has the format 2.*install a newer one"),
        (edit(b'"format":1', b'"format":"1"'), LINE + "has '1' as 'format'"),
        (edit(b'"id":"episode-1"', b'"id":"../../x"'), LINE + "has '../../x' as its id"),
        (edit(b'"solved":true', b'"solvd":true'), LINE + "has no 'solved'"),
        (edit(b'"solved":true', b'"solved":1'), LINE + "has 1 as 'solved', which must be of type bool"),
        (edit(b'"score":1.0,"reward"', b'"score":true,"reward"'), LINE + "has True as 'score'"),
        (edit(b'"turns":[{', b'"turns":[7,{'), LINE + "has 7 where a dictionary must be"),
        (edit(b'"text":"look"', b'"text":null'), LINE + "has None as 'text'"),
        (edit(b'"primitives":["Observe"]', b'"primitives":[1]'), LINE + "has 1 in 'primitives'"),
        (edit(b'"total":0.95', b'"sum":0.95'), LINE + "has no 'total'"),
        (edit(IMAGE.encode(), b"../../../etc/passwd"), LINE + r"refers to the image '\.\./\.\./\.\./etc/passwd'"),
        (edit(IMAGE.encode(), IMAGE[:-1].encode() + b"/"), LINE + "refers to the image"),
        (edit(b'"ids":"', b'"ids":"!'), LINE + "has a segment whose ids cannot be read"),
        (edit(b'"ids":"', b'"ids":"AAAAAA=='), LINE + "has a segment whose ids cannot be read"),
        (edit(b'"ids":"', b'"ids":"AAAAAAAAAAAAAAAA'), LINE + "has a damaged segment"),
        (edit(b'"mask":"AQ', b'"mask":"/w'), LINE + "has a segment whose mask are neither 0 nor 1"),
        (edit(b'"images":[0,1,2]', b'"images":[0,-1,2]'), LINE + "has -1 as the index of an image"),
        (edit(b'"logps":"', b'"logps":null,"old":"'), LINE + "has a segment without"),
        (picture(None), rf"The image .*{IMAGE}\.png is missing"),
        (picture(lambda data: b""), rf"The image {IMAGE} of .*line 2 is not a PNG file"),
        (picture(lambda data: b"GIF89a" + data), "is not a PNG file"),
        (
            picture(lambda data: data[: len(data) // 2]),
            f"The image {IMAGE} of .*line 2.* cannot be decoded|cannot be used",
        ),
        (picture(other_picture), f"The image {IMAGE} of .*line 2 holds another image than its name says"),
        (picture(huge_picture), "says that it has 2147483647 x 2147483647 pixels"),
    ],
)
def test_damage_is_told_with_file_and_line(tmp_path, damage, message):
    write(tmp_path, [made(number) for number in range(3)])
    damage(tmp_path)
    episodes = read_transcripts(tmp_path)
    assert next(episodes).id == "episode-0"  # what comes before is read
    with pytest.raises(TranscriptError, match=message):
        next(episodes)


def test_an_over_long_line_is_refused(tmp_path, monkeypatch):
    write(tmp_path, [made(0)])
    monkeypatch.setattr("agile_gym.rollout.lines.MAX_LINE", 100)
    with pytest.raises(TranscriptError, match="line 1, has more than 100 bytes"):
        ids(tmp_path)


def test_a_writer_does_not_go_on_after_damage(tmp_path):
    write(tmp_path, [made(number) for number in range(3)])
    replace_line(b"{garbage")(tmp_path)
    with pytest.raises(TranscriptError, match=LINE):
        TranscriptWriter(tmp_path, resume=True)
    write(tmp_path, [made(4)], overwrite=True)
    assert ids(tmp_path) == ["episode-4"]


def test_paths_that_hold_no_transcripts(tmp_path):
    with pytest.raises(TranscriptError, match=r"does not exist. Give the folder of a run"):
        read_transcripts(tmp_path / "nothing")
    with pytest.raises(TranscriptError, match=r"neither episodes.jsonl nor episodes-"):
        read_headers(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(TranscriptError, match=r"must end in .jsonl or .parquet"):
        read_transcripts(tmp_path / "notes.txt")


def test_single_files_can_be_read(tmp_path):
    write(tmp_path / "a", [made(0)])
    write(tmp_path / "b", [made(0)], format="parquet")
    assert ids(tmp_path / "a/episodes.jsonl") == ids(str(tmp_path / "b/episodes-00000.parquet")) == ["episode-0"]


def test_damaged_parts_are_told(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    write(tmp_path, [made(0, size=64), made(1, size=64)], format="parquet")
    path = tmp_path / "episodes-00000.parquet"
    whole = path.read_bytes()
    table = pq.read_table(path)
    for data in (b"", b"PAR1", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(TranscriptError, match=r"episodes-00000.parquet cannot be read as Parquet"):
            ids(tmp_path)
    path.write_bytes(whole[:200] + bytes(2000) + whole[2200:])
    with pytest.raises(TranscriptError, match=r"episodes-00000.parquet"):
        list(read_transcripts(tmp_path))
    pq.write_table(pa.table({"prompt": ["x"]}), path)
    with pytest.raises(TranscriptError, match="is not a file of transcripts: it has the columns prompt"):
        ids(tmp_path)
    broken = table.set_column(table.schema.get_field_index("record"), "record", pa.array(["{", "{"]))
    pq.write_table(broken, path)
    with pytest.raises(TranscriptError, match="row 0 of row group 0, is not JSON"):
        ids(tmp_path)
    empty = pa.array([[], []], table.schema.field("images").type)
    pq.write_table(table.set_column(table.schema.get_field_index("images"), "images", empty), path)
    with pytest.raises(TranscriptError, match="row 0 of row group 0, has no image"):
        ids(tmp_path)
    assert [episode.id for episode in read_transcripts(tmp_path, images=False)] == ["episode-0", "episode-1"]


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
        + '"details":{},"segments":[{"ids":"AQAAAAIAAAA=","mask":"AAE=","logps":"AAAAAAAAAL8=","turns":"//8AAA==",'
        + '"advantages":null,"images":[0]}]}\n'
    )
    (episode,) = read_transcripts(tmp_path)
    assert np.array_equal(episode.images[0], image)
    segment = episode.segments[0]
    assert segment.ids.tolist() == [1, 2]
    assert segment.mask.tolist() == [False, True]
    assert segment.logps.tolist() == [0.0, -0.5]
    assert segment.turns.tolist() == [-1, 0]
    assert (segment.images, segment.advantages) == ((0,), None)
    assert episode.turns[0].usage.context_tokens == 9
    assert episode.score == 1.0
