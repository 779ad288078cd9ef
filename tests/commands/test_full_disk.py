"""Full disks of several sizes, and places that cannot be written: one line, nothing half, and it goes on with room."""

import contextlib
import io
import os
import re
import resource
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from agile_gym.cli import main
from agile_gym.transcripts import read_transcripts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the mounts and limits of Linux are used"),
]
PLAY = ["--episodes", "12", "--grid", "2", "--levels", "0", "--option", "image_size=64", "--keep", "all"]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """An evaluation with its transcripts."""
    folder = tmp_path_factory.mktemp("played")
    command = ["eval", "--policy", "random", "--output", str(folder / "r.json"), *PLAY]
    assert quietly(command) == (0, "")
    return folder


def quietly(command):
    """Run a command; return its status and the last line of its errors that is no progress bar."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        status = main([str(word) for word in command])
    lines = [line for line in errors.getvalue().replace("\r", "\n").splitlines() if line.startswith("agile-gym: ")]
    return status, lines[-1] if lines else ""


def left_over(folder):
    return [path for path in Path(folder).rglob(".*") if path.name.endswith(".new")]


def is_told(line, *words):
    return "Errno" not in line and "rror:" not in line and all(word in line for word in ("agile-gym: ", *words))


@pytest.mark.parametrize("size", ["4k", "8k", "40k", "100k", "200k"])
def test_an_evaluation_on_a_full_disk_goes_on_when_there_is_room(disk, played, size):
    disk.resize(size)
    command = ["eval", "--policy", "random", "--output", disk.path / "r.json", *PLAY]
    status, line = quietly(command)
    assert status == 1
    assert is_told(line, "the disk is full", str(disk.path))
    assert not left_over(disk.path)
    disk.resize("8m")
    assert quietly([*command, "--resume"]) == (0, "")
    ids = [
        [transcript.id for transcript in read_transcripts(folder / "r-transcripts")] for folder in (disk.path, played)
    ]
    assert sorted(ids[0]) == sorted(ids[1])
    assert len(ids[0]) == 12


@pytest.mark.parametrize("size", ["4k", "16k", "100k", "200k", "300k"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_cold_start_on_a_full_disk_goes_on_when_there_is_room(disk, tmp_path, size, kind):
    words = ["--count", "12", "--option", "image_size=64", "--format", kind]
    disk.resize(size)
    command = ["coldstart", "--output", disk.path / "a", *words]
    status, line = quietly(command)
    assert status == 1
    assert is_told(line, "the disk is full", str(disk.path))
    assert not left_over(disk.path)
    disk.resize("8m")
    assert quietly([*command, "--resume"]) == (0, "")
    assert quietly(["coldstart", "--output", tmp_path / "whole", *words]) == (0, "")
    ids = [
        [transcript.id for transcript in read_transcripts(folder)] for folder in (disk.path / "a", tmp_path / "whole")
    ]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("size", ["4k", "20k"])
@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["view", "{played}/r.json", "--output", "{disk}/page.html"], "page.html"),
        (["view", "{played}/r.json", "--gif", "--output", "{disk}/a.gif"], "a.gif"),
        (["export", "{played}/r.json", "--to", "sharegpt", "--output", "{disk}"], "agile_gym.json"),
        (["export", "{played}/r.json", "--to", "trl", "--output", "{disk}"], "train.parquet"),
        (["export", "{played}/r.json", "--to", "verl", "--output", "{disk}/deep"], "deep"),
        (["tiny", "{disk}/model"], "model"),
    ],
)
def test_a_file_that_does_not_fit_is_named_and_the_older_one_stays(disk, played, command, name, size):
    if command[0] == "tiny":
        pytest.importorskip("transformers")
    disk.resize(size)
    status, line = quietly([word.format(played=played, disk=disk.path) for word in command])
    assert status == 1
    assert is_told(line, "the disk is full", str(disk.path / name))
    assert not left_over(disk.path)
    assert not (disk.path / name).is_file()


def test_pictures_and_comparisons_that_do_not_fit(disk, played):
    disk.resize("4k")
    (disk.path / "filler").write_bytes(b"x" * 4096)
    comparison = disk.path / "c.json"
    status, line = quietly(["compare", played / "r.json", played / "r.json", "--output", comparison])
    assert (status, is_told(line, "the disk is full", str(comparison))) == (1, True)
    assert [path.name for path in disk.path.iterdir()] == ["filler"]


def test_standard_output_that_is_full():
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "agile_gym", "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert is_told(result.stderr, "output", "the disk is full")


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("file/x", "not a folder"),
        ("y" * 300, "name is too long"),
        ("loop/x", "lead in a circle|not a folder"),
        ("/proc/nowhere/x", "does not exist"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ["eval", "--policy", "random", *PLAY, "--output", "{output}.json"],
        ["coldstart", "--count", "2", "--output", "{output}"],
        ["export", "{played}/r.json", "--to", "sharegpt", "--output", "{output}"],
        ["play", "--output", "{output}"],
        ["tiny", "{output}"],
    ],
)
def test_places_that_cannot_be_written_are_told_in_words(tmp_path, monkeypatch, played, command, output, reason):
    if command[0] == "tiny":
        pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("quit\n"))
    Path("file").write_text("mine")
    Path("loop").symlink_to("loop")
    status, line = quietly([word.format(output=output, played=played) for word in command])
    assert status == 1
    assert is_told(line)
    assert re.search(reason, line)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]


@pytest.mark.parametrize(
    "command",
    [
        ["view", "{played}/r.json", "--output", "{place}"],
        ["view", "{played}/r.json", "--gif", "--output", "{place}"],
        ["compare", "{played}/r.json", "{played}/r.json", "--output", "{place}"],
        ["eval", "--policy", "random", *PLAY, "--output", "{place}"],
        ["eval", "--policy", "random", *PLAY, "--output", "{place}", "--overwrite"],
    ],
)
@pytest.mark.parametrize(
    "content", [b"precious", b"<!doctype html>\n<p>mine</p>", b'{"mine": 1}', b"GIF89a mine", "input"]
)
def test_files_of_somebody_elses_are_not_replaced(tmp_path, played, command, content):
    place = tmp_path / "mine.json"
    place.write_bytes((played / "r-transcripts" / "episodes.jsonl").read_bytes() if content == "input" else content)
    before = place.read_bytes()
    status, line = quietly([word.format(played=played, place=place) for word in command])
    assert status == 1
    assert "would be replaced" in line
    assert place.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]


def test_what_a_command_wrote_it_replaces(tmp_path, played, monkeypatch):
    for command in (
        ["view", played / "r.json", "--output", tmp_path / "a.html"],
        ["view", played / "r.json", "--gif", "--output", tmp_path / "a.gif"],
        ["compare", played / "r.json", played / "r.json", "--output", tmp_path / "c.json"],
        ["export", played / "r.json", "--to", "sharegpt", "--output", tmp_path / "x"],
        ["export", played / "r.json", "--to", "trl", "--output", tmp_path / "x"],
        ["eval", "--policy", "random", *PLAY, "--output", tmp_path / "e.json", "--overwrite", "--plots"],
        ["play", "--output", tmp_path / "play"],
    ):
        if "--plots" in command:
            pytest.importorskip("matplotlib")
        for _ in range(2):
            monkeypatch.setattr(sys, "stdin", io.StringIO("quit\n"))
            assert quietly(command) == (0, "")


def test_photographs_of_ones_own_are_not_replaced_by_pictures(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(sys, "stdin", io.StringIO("quit\n"))
    for name in ("00.png", "e.png"):
        Image.effect_noise((40, 40), 100).save(tmp_path / name)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    status, line = quietly(["play", "--output", tmp_path])
    assert (status, "is not a picture of agile-gym play" in line) == (1, True)
    with contextlib.suppress(ImportError):
        import_module("matplotlib")
        status, line = quietly(["eval", "--policy", "random", *PLAY, "--output", tmp_path / "e.json", "--plots"])
        assert (status, "is not a picture of agile-gym eval" in line) == (1, True)
    status, line = quietly(["play", "--images", tmp_path, "--output", tmp_path / "play"])
    assert (status, "where the photographs are" in line) == (1, True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_model_is_not_written_over_files_of_others(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "tokenizer.json").write_text("mine")
    status, line = quietly(["tiny", tmp_path])
    assert (status, "tokenizer.json is there already" in line) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_a_read_only_disk(disk, played):
    subprocess.run(["mount", "-o", "remount,ro", str(disk.path)], check=True, capture_output=True)
    for command in (
        ["eval", "--policy", "random", "--output", disk.path / "r.json", *PLAY],
        ["coldstart", "--count", "2", "--output", disk.path],
        ["coldstart", "--count", "2", "--output", disk.path / "deep" / "a"],
        ["view", played / "r.json", "--output", disk.path / "page.html"],
        ["export", played / "r.json", "--to", "sharegpt", "--output", disk.path],
        ["play", "--output", disk.path / "play"],
    ):
        status, line = quietly(command)
        assert status == 1
        assert is_told(line, "the file system is read-only", str(disk.path)), line
    subprocess.run(["mount", "-o", "remount,rw", str(disk.path)], check=True, capture_output=True)


@pytest.mark.parametrize("limit", [1, 300, 5000])
def test_a_limit_on_the_size_of_files(tmp_path, played, limit):
    command = f"""
import resource
from agile_gym.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {resource.RLIM_INFINITY}))
raise SystemExit(main(["view", {str(played / "r.json")!r}, "--output", {str(tmp_path / "page.html")!r}]))
"""
    result = subprocess.run(
        [sys.executable, "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TQDM_DISABLE": "1"},
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert is_told(result.stderr, "page.html", "larger than the system allows")
    assert list(tmp_path.iterdir()) == []
