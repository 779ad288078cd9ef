"""Transcripts on disk that are added to: after a kill, a full disk, another process."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from agile_gym.errors import ConfigurationError, TranscriptError
from agile_gym.images.items import hash_pixels
from agile_gym.transcripts import TranscriptWriter, read_headers, read_transcripts, store
from agile_gym.transcripts.store import FORMATS
from tests.helpers import ROOT
from tests.helpers.made_transcripts import differences, files, ids, made, write

SLOW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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


@pytest.mark.slow
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
sys.path.insert(0, {root!r})
from tests.helpers.made_transcripts import made
from agile_gym.transcripts import store
store.PART_EPISODES = 7
with store.TranscriptWriter({folder!r}, format={kind!r}, resume=True) as writer:
    print("ready", flush=True)
    for number in range(40):
        if f"episode-{{number}}" not in writer.ids:
            writer.append(made(number, size=96, tokens=4000))
            print(f"episode-{{number}}", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_killed_process_resumes_with_nothing_lost_or_doubled(tmp_path, kind):
    program = KILLED.format(root=str(ROOT), folder=str(tmp_path), kind=kind)
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
sys.path.insert(0, {root!r})
from tests.helpers.made_transcripts import made
from agile_gym.errors import ConfigurationError
from agile_gym.transcripts import TranscriptWriter
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


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_neither_writes_nor_keeps_others_from_it(tmp_path):
    program = FORKED.format(root=str(ROOT), folder=str(tmp_path))
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
sys.path.insert(0, {root!r})
from tests.helpers.made_transcripts import made
from agile_gym.errors import TranscriptError
from agile_gym.transcripts import store
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


@pytest.mark.slow
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
    program = FULL.format(root=str(ROOT), folder=str(tmp_path), kind=kind, size=size, limit=limit)
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
