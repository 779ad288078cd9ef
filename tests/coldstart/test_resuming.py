"""Cold starts that are interrupted, killed or damaged, and resumed to the same episodes."""

import json
import random
import shutil
import subprocess
import time

import pytest
from PIL import Image

from agile_gym.coldstart.making import count_episodes
from agile_gym.errors import ConfigurationError
from tests.helpers.cold_starts import command, make, noise
from tests.helpers.expert_episodes import stored


@pytest.mark.slow
def test_parquet_is_resumed_too(tmp_path):
    pytest.importorskip("pyarrow")
    seen = []

    def interrupt(attempts, kept):
        seen.append(attempts)
        if attempts == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "a", format="parquet", on_attempt=interrupt)
    assert seen == list(range(1, 14))
    report = make(tmp_path / "a", format="parquet", resume=True)
    make(tmp_path / "b")
    assert report.complete
    assert stored(tmp_path / "a") == stored(tmp_path / "b")


KILLED = {"count": 40, "options": {"image_size": 120}}


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "times"), [("1", 2), ("2", 1)])
def test_a_cold_start_that_is_killed_again_and_again_resumes_to_the_same(tmp_path, workers, times):
    make(tmp_path / "whole", **KILLED)
    rng, lines = random.Random(1), 0
    path = tmp_path / "part" / "episodes.jsonl"
    for kill in range(times):
        process = subprocess.Popen(
            command(tmp_path / "part", "--workers", workers, *(["--resume"] if kill else [])),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        goal, deadline = lines + rng.randint(1, 12), time.monotonic() + 60
        while (path.read_bytes().count(b"\n") if path.exists() else 0) < goal:
            assert process.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.wait()
        lines = path.read_bytes().count(b"\n")
    assert times <= lines < 40
    assert make(tmp_path / "part", **KILLED, resume=True, batch=3).complete
    assert stored(tmp_path / "part") == stored(tmp_path / "whole")
    figures = [json.loads((tmp_path / name / "cold_start.json").read_text()) for name in ("part", "whole")]
    assert figures[0] == figures[1]


def test_a_finished_cold_start_is_resumed_without_playing(tmp_path):
    first = make(tmp_path)
    before = (tmp_path / "episodes.jsonl").read_bytes()
    again = make(tmp_path, resume=True, on_attempt=lambda *_: pytest.fail("it played"))
    assert again == first
    assert (tmp_path / "episodes.jsonl").read_bytes() == before


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A cold start that is complete."""
    folder = tmp_path_factory.mktemp("whole") / "a"
    make(folder)
    return folder


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"seed": 1}, "seed"),
        ({"count": 21}, "count"),
        ({"grid": 3}, "grid"),
        ({"images": [noise(), noise(seed=1)], "split": None}, "images"),
        ({"options": {"gap": 0.0}}, "options"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_there_is_not_mixed_with_other_settings(whole, settings, word):
    with pytest.raises(ConfigurationError, match=rf"cannot be resumed: .*\({word}"):
        make(whole, **{"count": 20, **settings}, resume=True)


def test_what_is_there_is_replaced_only_if_asked(tmp_path, whole):
    folder = shutil.copytree(whole, tmp_path / "a")
    with pytest.raises(ConfigurationError, match="holds transcripts already"):
        make(folder)
    before = stored(folder)
    make(folder, overwrite=True)
    assert stored(folder) == before


def test_a_folder_without_its_manifest_is_not_resumed(tmp_path, whole):
    folder = shutil.copytree(whole, tmp_path / "a")
    (folder / "cold_start.json").unlink()
    with pytest.raises(ConfigurationError, match="no cold start"):
        make(folder, resume=True)


LOST = {"count": 8, "options": {"image_size": 64}}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A cold start that was interrupted, so that its manifest counts what was played."""
    folder = tmp_path_factory.mktemp("stopped")

    def stop(attempts, kept):
        if kept == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(folder, **LOST, on_attempt=stop)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["all", "first", "third", "last", "file"])
def test_episodes_that_were_lost_are_not_made_up_for_by_others(tmp_path, stopped, lost):
    folder = shutil.copytree(stopped, tmp_path / "a")
    path = folder / "episodes.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 6
    if lost == "file":
        path.unlink()
    else:
        number = {"first": 0, "third": 2, "last": 5}.get(lost)
        path.write_bytes(b"" if number is None else b"".join(lines[:number] + lines[number + 1 :]))
    with pytest.raises(ConfigurationError, match="has lost episodes"):
        make(folder, **LOST, resume=True)
    with pytest.raises(ConfigurationError, match=r"has lost episodes|holds no transcripts"):
        count_episodes(folder)
    path.write_bytes(b"".join(lines))
    assert make(folder, **LOST, resume=True).complete
    assert count_episodes(folder) == 8


@pytest.mark.parametrize("number", [0, 2, 4])
def test_an_episode_that_was_lost_after_a_kill_is_missed(tmp_path, stopped, number):
    folder = shutil.copytree(stopped, tmp_path / "a")
    manifest = json.loads((folder / "cold_start.json").read_text())
    (folder / "cold_start.json").write_text(json.dumps({**manifest, "kept": 0, "attempts": 0, "rejected": {}}))
    lines = (folder / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "episodes.jsonl").write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
    with pytest.raises(ConfigurationError, match="has lost episodes: an episode is missing before"):
        make(folder, **LOST, resume=True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"3",
        b"\0\xff",
        b'{"config": {',
        b'{"config": 1}',
        b"[" * 100_000,
        "rejected",
        "kept",
        "dir",
    ],
)
def test_a_damaged_manifest_is_named(tmp_path, stopped, content):
    folder = shutil.copytree(stopped, tmp_path / "a")
    path = folder / "cold_start.json"
    manifest = json.loads(path.read_text())
    path.unlink()
    if content == "dir":
        path.mkdir()
    elif isinstance(content, str):
        path.write_text(json.dumps({**manifest, content: {"surplus": "x"}}))
    else:
        path.write_bytes(content)
    before = (folder / "episodes.jsonl").read_bytes()
    with pytest.raises(ConfigurationError, match=r"cold_start\.json (is damaged|cannot be read)"):
        make(folder, **LOST, resume=True)
    assert (folder / "episodes.jsonl").read_bytes() == before


def test_a_file_that_is_no_manifest_is_not_replaced(tmp_path):
    (tmp_path / "cold_start.json").write_text('{"mine": 1}')
    for options in ({}, {"overwrite": True}):
        with pytest.raises(ConfigurationError, match="is not what agile-gym coldstart wrote"):
            make(tmp_path, count=2, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["cold_start.json"]


def test_photographs_that_moved_and_a_folder_among_them(tmp_path, monkeypatch):
    for number, name in enumerate(("one", "two", "three")):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(noise(100, number)).save(tmp_path / "photos" / f"{name}.png")
    settings = {"count": 6, "split": None, "options": {"image_size": 64}}

    def stop(attempts, kept):
        if kept == 2:
            raise KeyboardInterrupt

    folder = tmp_path / "photos" / "made"  # its images are not taken for photographs
    with pytest.raises(KeyboardInterrupt):
        make(folder, images=str(tmp_path / "photos"), **settings, on_attempt=stop)
    (tmp_path / "photos").rename(tmp_path / "moved")
    folder = tmp_path / "moved" / "made"
    monkeypatch.chdir(tmp_path)
    for images in ("moved", "moved/", "./x/../moved", str(tmp_path / "moved")):
        (tmp_path / "x").mkdir(exist_ok=True)
        make(folder, images=images, **settings, resume=True)
    Image.fromarray(noise(100, 9)).save(tmp_path / "moved" / "four.png")
    with pytest.raises(ConfigurationError, match="other photographs"):
        make(folder, images=str(tmp_path / "moved"), **settings, resume=True)
