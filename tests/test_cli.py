"""The command line, run as a process, as a user runs it; `tests/evaluation` has the commands of evaluation."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

import agile_gym

COMMAND = [sys.executable, "-m", "agile_gym"]


def run(*arguments, cwd, text=None):
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, input=text, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_list_names_every_environment(tmp_path):
    result = run("list", cwd=tmp_path)
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(agile_gym.load_catalogue())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["play", "--grid", "x"], "is not a grid"),
        (["play", "--seed", "-1"], "give a whole number of at least 0"),
        (["play", "--columns", "0"], "at least 1"),
        (["play", "--output", "/proc/nowhere"], "cannot be made"),
        (["bench", "--seconds", "nan"], "above 0"),
        (["eval", "--option", f"gap={'[' * 100_000}"], "gap="),
        (["eval", "--policy-option", f"seed={'[' * 100_000}", "--policy", "random"], "seed="),
    ],
)
def test_mistakes_give_one_line_and_status_1(tmp_path, arguments, message):
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.slow
def test_messages_are_one_line_that_cannot_command_the_terminal(tmp_path):
    folder = tmp_path / "\x1b[2J\nnew\udcff"
    result = run("view", str(folder), cwd=tmp_path)
    assert result.returncode == 1
    name = r"\x1b[2J new\udcff"
    assert result.stderr.startswith("agile-gym: ")
    assert f"{name} does not exist. Give the folder of a run" in result.stderr
    assert result.stderr.endswith("\n")
    assert result.stderr[:-1].isprintable()


@pytest.mark.slow
def test_what_the_terminal_lacks_is_written_as_numbers(tmp_path):
    arguments = ["eval", "--policy", "names:\u8a9e", "--grid", "2", "--levels", "0", "--episodes", "1"]
    (tmp_path / "names.py").write_text("\u8a9e = lambda observation: ''\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert rb"names:\u8a9e" in result.stdout


@pytest.mark.slow
def test_version(tmp_path):
    assert run("--version", cwd=tmp_path).stdout == f"agile-gym {agile_gym.__version__}\n"


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_bench_prints_the_floor_and_pillow_in_the_same_run(tmp_path):
    result = run("bench", "--seconds", "0.05", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in ("env.step", "lower bound", "Pillow", "turn 20", "reset"):
        assert words in result.stdout
