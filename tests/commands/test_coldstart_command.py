"""`agile-gym coldstart`: what it prints, and an interruption."""

import os
import subprocess
import time

import pytest
from PIL import Image

from agile_gym.cli import main
from agile_gym.transcripts import export_sharegpt, read_transcripts
from tests.helpers.cold_starts import command, noise


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


def test_ctrl_c_keeps_what_is_there_and_says_how_to_go_on(tmp_path):
    process = subprocess.Popen(
        command(tmp_path / "part"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    path = tmp_path / "part" / "episodes.jsonl"
    while not path.exists() or not path.read_bytes():
        assert process.poll() is None
        time.sleep(0.002)
    os.killpg(process.pid, 2)
    _, printed = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "episodes are kept; add --resume to go on." in printed
