"""`agile-gym coldstart`: what it prints, and an interruption."""

import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from agile_gym.cli import main
from agile_gym.transcripts import export_sharegpt, read_transcripts
from tests.helpers.cold_starts import noise


def test_the_table_and_the_episodes(tmp_path, capsys):
    Image.fromarray(noise(200)).save(tmp_path / "noise.png")
    Image.fromarray(noise(200, 1)).save(tmp_path / "more.png")
    words = ["--images", str(tmp_path), "--split", "all", "--option", "image_size=64", "--option", "prompt=short"]
    assert main(["coldstart", "--output", str(tmp_path / "a"), "--count", "18", "--turns", "2", "5", *words]) == 0
    printed = capsys.readouterr()
    assert "2x2, turns:           2      3      4      5    all" in printed.out
    assert f"Written: {tmp_path / 'a'} (18 episodes)" in printed.out
    transcripts = list(read_transcripts(tmp_path / "a"))
    assert len({transcript.task["image_id"] for transcript in transcripts}) == 2
    assert all(turn.text.index("</think>") < 80 for transcript in transcripts for turn in transcript.turns)
    assert export_sharegpt(read_transcripts(tmp_path / "a"), tmp_path / "export") == 18


RANDOM = ["--teacher", "random", "--grid", "1x2", "--turns", "1", "--same-texts", "--max-attempts", "9"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--count", "9"], "9 episodes were wanted and"),
        (["--style", "short"], "--style is an option of the expert"),
    ],
)
def test_what_cannot_be_made_gives_one_line_and_status_1(tmp_path, capsys, words, message):
    assert main(["coldstart", "--output", str(tmp_path / "a"), *RANDOM, *words]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)], ids=["SIGINT", "SIGTERM"])
def test_a_cold_start_that_is_interrupted_goes_on_to_the_same_episodes(tmp_path, number, workers):
    def start(name, *words):
        options = ["--count", "60", "--output", str(tmp_path / name), "--workers", str(workers), *words]
        command = [sys.executable, "-m", "agile_gym", "coldstart", *options, "--option", "image_size=64"]
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, process_group=0)

    process = start("part")
    lines = tmp_path / "part" / "episodes.jsonl"
    while not (lines.exists() and lines.read_bytes().count(b"\n") > 5):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "add --resume to go on" in errors
    assert "Traceback" not in errors
    for name, words in (("part", ["--resume"]), ("whole", [])):
        process = start(name, *words)
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    part, whole = ([t.id for t in read_transcripts(tmp_path / name)] for name in ("part", "whole"))
    assert part == whole
    notes = [(tmp_path / name / "cold_start.json").read_text() for name in ("part", "whole")]
    assert notes[0] == notes[1]
