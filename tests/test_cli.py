"""The command line, run as a process, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

import agile_gym

COMMAND = [sys.executable, "-m", "agile_gym"]


def run(*arguments, cwd, text=None):
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, input=text, capture_output=True, text=True, check=False)


def test_list_names_every_environment(tmp_path):
    result = run("list", cwd=tmp_path)
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(agile_gym.load_catalogue())


def test_eval_prints_tables_beside_the_papers_and_writes_json(tmp_path):
    arguments = ["--episodes", "3", "--grid", "2", "1x3", "--option", "image_size=64", "--output", "out/r.json"]
    result = run("eval", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "2x2 Acc" in result.stdout
    assert "paper: Qwen2.5-VL-7B + cold start + RL (AGILE)   78.7" in result.stdout
    assert "15/15" in result.stderr
    report = json.loads((tmp_path / "out/r.json").read_text())
    assert report["episodes"] == 15
    assert set(report["summary"]) == {"2x2", "1x3"}
    assert len((tmp_path / "out/r.jsonl").read_text().splitlines()) == 16


def test_an_evaluation_that_is_killed_resumes_to_the_same_table(tmp_path):
    arguments = ["eval", "--episodes", "40", "--grid", "3", "--policy", "random", "--option", "image_size=96"]
    whole = run(*arguments, "--output", "whole.json", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    journal = tmp_path / "part.jsonl"
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--output", "part.json"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (journal.exists() and journal.read_bytes().count(b"\n") > 20):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = journal.read_bytes().count(b"\n")
    assert 20 < kept < 321, "the process was not killed in the middle"
    assert not (tmp_path / "part.json").exists()
    resumed = run(*arguments, "--output", "part.json", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.replace("part", "whole") == whole.stdout
    assert json.loads((tmp_path / "part.json").read_text()) == json.loads((tmp_path / "whole.json").read_text())


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path):
    arguments = ["eval", "--episodes", "200", "--grid", "3", "--option", "image_size=96"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    journal = tmp_path / "agile-eval.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (journal.exists() and journal.read_bytes().count(b"\n") > 5):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    kept = journal.read_text().count("\n") - 1
    assert process.returncode == 130
    assert f"{kept} puzzles are kept; add --resume to go on." in errors
    assert "Traceback" not in errors


def test_skipped_files_are_reported_once(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (40, 40), "red").save(folder / "good.png")
    (folder / "bad.png").write_bytes(b"no image")
    result = run("eval", "--images", "photos", "--grid", "2", "--episodes", "1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("bad.png") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "--policy", "egde"], "Did you mean 'edge'"),
        (["eval", "--images", "nowhere"], "neither a folder"),
        (["eval", "--grid", "11"], "is not a grid"),
        (["eval", "--levels", "most"], "give 'all', or numbers"),
        (["eval", "--grid", "2", "--levels", "7"], "Allowed: L0, L1, L2"),
        (["eval", "--option", "labels"], "KEY=VALUE"),
        (["eval", "--option", "lables=true"], "Did you mean 'labels'"),
        (["eval", "--episodes", "0"], "at least one grid, one episode"),
        (["eval", "--batch", "0"], "at least 1"),
        (["eval", "--grid", "2", "--levels", "0", "99"], "Allowed: L0, L1, L2"),
        (["eval", "--option", "grid=3"], "use grids (--grid)"),
        (["eval", "--output", "results.jsonl"], "ends in .json"),
        (["eval", "--output", "."], "ends in .json"),
        (["eval", "--output", "/proc/nowhere/x.json"], "cannot be written"),
        (["eval", "--policy", ":x"], "cannot be loaded"),
        (["play", "--grid", "x"], "is not a grid"),
        (["play", "--seed", "-1"], "give a whole number of at least 0"),
        (["play", "--columns", "0"], "at least 1"),
        (["play", "--output", "/proc/nowhere"], "cannot be made"),
        (["bench", "--seconds", "nan"], "above 0"),
    ],
)
def test_mistakes_give_one_line_and_status_1(tmp_path, arguments, message):
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("*.json"))


def test_finished_puzzles_are_never_thrown_away_by_accident(tmp_path):
    arguments = ["eval", "--episodes", "2", "--grid", "1x2", "--option", "image_size=32"]
    assert run(*arguments, cwd=tmp_path).returncode == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for again in (arguments, [*arguments, "--policy", "random"], [*arguments, "--images", "nowhere", "--overwrite"]):
        result = run(*again, cwd=tmp_path)
        assert result.returncode == 1
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert "--resume" in run(*arguments, cwd=tmp_path).stderr
    assert run(*arguments, "--overwrite", "--policy", "random", cwd=tmp_path).returncode == 0
    assert (tmp_path / "agile-eval.jsonl").read_bytes() != before["agile-eval.jsonl"]


def test_play_shows_a_puzzle_and_saves_what_was_seen(tmp_path):
    text = 'help\nswap("A", "B")\ncrop(image_list[0], [0, 0, 0.5, 1])\nfoo()\nanswer\n'
    result = run("play", "--seed", "1", "--level", "0", "--columns", "20", cwd=tmp_path, text=text)
    assert result.returncode == 0
    assert "\u2580" in result.stdout
    assert "Error (unknown_function)" in result.stdout
    assert "Not solved: " in result.stdout
    sizes = {}
    for path in sorted((tmp_path / "play").iterdir()):
        with Image.open(path) as image:
            sizes[path.name] = image.size
    assert sizes == {"00.png": (452, 452), "01.png": (452, 452), "02.png": (112, 223)}


def test_play_can_be_won_and_left(tmp_path):
    import gymnasium

    _, info = gymnasium.make("JigsawVision-v0", level=None, reveal=True).reset(seed=5)
    text = f"state = {json.dumps(info['solution'])}\nanswer\n"
    won = run("play", "--seed", "5", cwd=tmp_path, text=text)
    assert "Solved!" in won.stdout
    assert won.returncode == 0
    left = run("play", "--seed", "5", cwd=tmp_path, text="observe()\n")
    assert "Left unsolved." in left.stdout
    assert left.returncode == 0


def test_bench_prints_the_floor_and_pillow_in_the_same_run(tmp_path):
    result = run("bench", "--seconds", "0.05", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in ("env.step", "floor", "Pillow", "turn 20", "reset"):
        assert words in result.stdout
