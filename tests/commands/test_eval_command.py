"""``agile-gym eval`` and ``compare``, run as processes, as a user runs them."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from agile_gym.cli import main
from agile_gym.evaluation import read_journal
from agile_gym.images.folder import PHOTOGRAPHS
from agile_gym.transcripts import read_transcripts
from tests.helpers import ROOT

COMMAND = [sys.executable, "-m", "agile_gym"]


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def run(*arguments, cwd):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=cwd, env=environment(), capture_output=True, text=True, check=False
    )


def start(*arguments, cwd, **options):
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], cwd=cwd, env=environment(), stdout=subprocess.DEVNULL, **options
    )


def tables(text):
    """Printed tables without time, which differs from run to run, and names of files."""
    before, cost, _ = text.partition("\nCost an episode\n")
    assert cost
    return before


def lasting(report):
    """Content of a file of results, without time."""
    return {key: value for key, value in json.loads(report.read_text()).items() if key != "cost"}


def wait_for_lines(path, count, process):
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_bytes().count(b"\n") > count):
        assert time.monotonic() < deadline
        assert process.poll() is None, "it ended too soon"
        time.sleep(0.002)


def check_complete(folder, name, episodes):
    """Every episode is in the journal once, and those with transcripts are those that are to be kept."""
    _, results = read_journal(folder / f"{name}.jsonl")
    lines = (folder / f"{name}.jsonl").read_bytes().splitlines()
    assert len(results) == len(lines) - 1 == len({result.key for result in results}) == episodes
    kept = sorted("{}-L{}-{}".format(*result.key[:3]) for result in results if result.episode < 10)
    assert sorted(transcript.id for transcript in read_transcripts(folder / f"{name}-transcripts")) == kept


@pytest.mark.slow
def test_eval_prints_tables_beside_the_papers_and_writes_what_it_found(tmp_path):
    arguments = ["--episodes", "3", "--grid", "2", "1x3", "--option", "image_size=64", "--output", "out/r.json"]
    result = run("eval", *arguments, "--plots", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "2x2 Acc" in result.stdout
    assert "paper: Qwen2.5-VL-7B + cold start + RL (AGILE)   78.7" in result.stdout
    assert "15/15" in result.stderr
    assert "Acc 100.0%" in result.stderr
    report = json.loads((tmp_path / "out/r.json").read_text())
    assert report["episodes"] == len(report["rows"]) == 15
    assert set(report["summary"]) == {"2x2", "1x3"}
    check_complete(tmp_path / "out", "r", 15)
    with Image.open(tmp_path / "out/r.png") as image:
        assert image.width > 1000


@pytest.mark.slow
def test_results_are_kept_where_the_reader_of_the_tables_has_seen_enough(tmp_path):
    arguments = ["eval", "--policy", "random", "--episodes", "2", "--grid", "2", "--option", "image_size=32"]
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert b"Error" not in process.stderr.read()
    assert process.returncode == 0
    assert json.loads((tmp_path / "agile-eval.json").read_text())["episodes"] == 6


@pytest.mark.parametrize("name", ["r.json", "r.jsonl"])
@pytest.mark.parametrize("content", ["", "{", '{"name": "somebody\'s"}', '{"name": "somebody\'s"}\n'])
@pytest.mark.parametrize("resume", [False, True])
def test_files_that_are_none_of_an_evaluations_are_not_replaced(tmp_path, monkeypatch, capsys, name, content, resume):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(content)
    arguments = ["--policy", "random", "--episodes", "1", "--grid", "2", "--levels", "0", "--option", "image_size=32"]
    command = ["eval", *arguments, "--output", "r.json"]
    anew = not content or (content == "{" and name == "r.jsonl")  # an empty file, or a journal that was cut short
    for flags in (["--resume"] if resume else [], *([] if anew else [["--overwrite"]])):
        if anew and name == "r.jsonl":
            continue
        assert main([*command, *flags]) == 1
        assert (tmp_path / name).read_text() == content
        assert [path.name for path in tmp_path.iterdir()] == [name]
        error = capsys.readouterr().err
        assert re.search(rf"{name} is (not|there).*would be replaced\. (Move it away|Give another)", error)
        assert error.count("\n") == 1
    if anew:
        assert main([*command, "--overwrite"]) == 0
        assert json.loads((tmp_path / "r.json").read_text())["episodes"] == 1


def test_without_a_word_the_papers_suite_is_played():
    from agile_gym.cli import _parser
    from agile_gym.commands.eval import _plan
    from agile_gym.evaluation import EvaluationPlan

    assert _plan(_parser().parse_args(["eval"])) == EvaluationPlan("edge")
    assert len(EvaluationPlan("edge")) == 3300


def test_a_suite_and_what_is_given_besides(tmp_path):
    (tmp_path / "mine.toml").write_text(
        "seed = 5\nsamples = 2\n[options]\nimage_size = 32\nmax_turns = 3\n[[puzzles]]\ngrid = 2\nepisodes = 3\n"
    )
    arguments = ["eval", "--policy", "random", "--suite", "mine.toml", "--levels", "0", "2", "--option", "gap=0"]
    result = run(*arguments, "--policy-option", "seed=3", "--keep", "all", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "agile-eval.json").read_text())
    assert report["plan"] == {
        "policy": "random",
        "entries": [{"grid": "2x2", "levels": [0, 2], "episodes": 3}],
        "samples": 2,
        "seed": 5,
        "images": None,
        "options": {"image_size": 32, "max_turns": 3, "gap": 0},
        "policy_options": {"seed": 3},
    }
    assert report["episodes"] == 12
    assert "pass@2" in result.stdout
    assert len(list(read_transcripts(tmp_path / "agile-eval-transcripts"))) == 12


@pytest.mark.slow
def test_an_evaluation_that_is_killed_again_and_again_resumes_to_the_same_table(tmp_path):
    policy = ["--policy", "tests.helpers.evaluation_policies:Wanderer"]
    arguments = ["eval", *policy, "--episodes", "30", "--grid", "3", "--option", "image_size=96"]
    whole = run(*arguments, "--output", "whole.json", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    journal, rng = tmp_path / "part.jsonl", random.Random(0)
    kills, lines = 0, 0
    while kills < 4:
        process = start(*arguments, "--output", "part.json", "--resume", cwd=tmp_path, stderr=subprocess.DEVNULL)
        wait_for_lines(journal, lines + rng.randrange(1, 40), process)
        time.sleep(0.02 * rng.random())
        process.kill()
        assert process.wait() == -signal.SIGKILL
        kills += 1
        lines = journal.read_bytes().count(b"\n")
    assert 4 < lines < 240
    assert not (tmp_path / "part.json").exists()
    resumed = run(*arguments, "--output", "part.json", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert tables(resumed.stdout) == tables(whole.stdout)
    assert lasting(tmp_path / "part.json") == lasting(tmp_path / "whole.json")
    for name in ("whole", "part"):
        check_complete(tmp_path, name, 240)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are looked up in /proc")
def test_workers_give_the_same_table_and_end_with_their_parent(tmp_path):
    policy = ["--policy", "tests.helpers.evaluation_policies:Wanderer"]
    arguments = ["eval", *policy, "--episodes", "40", "--grid", "2", "--option", "image_size=64"]
    whole = run(*arguments, "--output", "whole.json", cwd=tmp_path)
    journal = tmp_path / "part.jsonl"
    several = [*arguments, "--output", "part.json", "--workers", "2", "--batch", "3"]
    process = start(*several, cwd=tmp_path, stderr=subprocess.DEVNULL)
    wait_for_lines(journal, 20, process)
    workers = [int(pid) for pid in _children(process.pid)]
    process.kill()
    process.wait()
    assert len(workers) >= 2
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)
    resumed = run(*several, "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert tables(resumed.stdout) == tables(whole.stdout)
    assert lasting(tmp_path / "part.json") == lasting(tmp_path / "whole.json")
    check_complete(tmp_path, "part", 120)


def _children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 2)])
def test_an_interruption_keeps_what_is_finished_and_says_how_to_go_on(tmp_path, number, workers):
    arguments = ["eval", "--episodes", "200", "--grid", "3", "--option", "image_size=96", "--workers", workers]
    process = start(*arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    journal = tmp_path / "agile-eval.jsonl"
    wait_for_lines(journal, 5, process)
    os.killpg(process.pid, number)  # as a terminal and systemd do: to the workers, too
    _, errors = process.communicate(timeout=60)
    kept = journal.read_text().count("\n") - 1
    assert process.returncode == 128 + number
    assert "was killed by signal" not in errors
    assert f"{kept} puzzles are kept; add --resume to go on." in errors
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_workers_leave_signals_to_their_parent(tmp_path, number):
    arguments = ["eval", "--episodes", "40", "--grid", "2", "--option", "image_size=64", "--workers", "2"]
    process = start(*arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for_lines(tmp_path / "agile-eval.jsonl", 5, process)
    tracker = [
        pid for pid in _children(process.pid) if b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    for pid in set(_children(process.pid)) - set(tracker):
        os.kill(int(pid), number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "was killed" not in errors


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are looked up in /proc")
def test_ctrl_c_while_workers_start_is_quiet(tmp_path):
    arguments = ["eval", "--suite", "quick", "--workers", "3"]
    process = start(*arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while len(_children(process.pid)) < 4:  # the workers, and what watches over them
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(0.1)  # Python is up in the last one, and imports
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_policy_that_fails_leaves_what_is_finished(tmp_path, workers):
    policy = [
        "--policy",
        "tests.helpers.evaluation_policies:Failing",
        "--policy-option",
        "how=foreseen",
        "--policy-option",
        "calls=9",
    ]
    arguments = ["eval", *policy, "--suite", "quick", "--option", "image_size=32", "--workers", workers]
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    kept = (tmp_path / "agile-eval.jsonl").read_text().count("\n") - 1
    assert 0 < kept < 100
    assert f"{kept} puzzles are kept; add --resume to go on." in result.stderr
    assert "The server at 127.0.0.1 is down. Start it again." in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_module_beside_the_user_is_found(tmp_path):
    (tmp_path / "mine.py").write_text('def act(observation):\n    return \'<answer>["A", "B"]</answer>\'\n')
    script = Path(sys.executable).with_name("agile-gym")
    command = [script] if script.exists() else COMMAND
    result = subprocess.run(
        [*command, "eval", "--policy", "mine:act", "--grid", "1x2", "--episodes", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_skipped_files_are_reported_once(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (40, 40), "red").save(folder / "good.png")
    (folder / "bad.png").write_bytes(b"no image")
    result = run("eval", "--images", "photos", "--grid", "2", "--episodes", "2", "--workers", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("bad.png") == 1


@pytest.mark.slow
def test_photographs_of_the_training_set_are_reported(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    (folder / "drink.jpg").write_bytes((Path(PHOTOGRAPHS) / "train" / "coffee.jpg").read_bytes())
    arguments = ["--grid", "1x2", "--episodes", "300", "--option", "image_size=32", "--training-images", "train"]
    result = run("eval", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^1 of \d\d photographs are also among the 1 training images", result.stdout, re.MULTILINE)
    assert "coffee is drink.jpg (same)" in result.stdout
    overlap = json.loads((tmp_path / "agile-eval.json").read_text())["training_overlap"]
    assert [match["name"] for match in overlap["matches"]] == ["coffee"]


@pytest.mark.slow
def test_two_evaluations_are_compared(tmp_path):
    for policy in ("edge", "random"):
        arguments = ["--policy", policy, "--grid", "2", "--episodes", "20", "--option", "image_size=64"]
        assert run("eval", *arguments, "--output", f"{policy}.json", "--keep", "none", cwd=tmp_path).returncode == 0
    result = run("compare", "random.json", "edge.json", "--output", "difference.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "second minus first" in result.stdout
    comparison = json.loads((tmp_path / "difference.json").read_text())
    assert comparison["2x2"]["avg"]["acc"]["difference"] > 0.7
    assert comparison["2x2"]["avg"]["acc"]["p"] < 1e-9
    assert not list(tmp_path.glob("*-transcripts"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "--policy", "egde"], "Did you mean 'edge'"),
        (["eval", "--policy", "hf"], "Write 'hf:MODEL'"),
        (["eval", "--policy", "random", "--policy-option", "sed=3"], "Did you mean 'seed'"),
        (["eval", "--policy", "random", "--policy-option", "seed"], "KEY=VALUE, such as temperature"),
        (["eval", "--suite", "papre"], "Did you mean 'paper'"),
        (["eval", "--suite", "quick", "--grid", "2"], "exclude each other"),
        (["eval", "--suite", "quick", "--levels", "7"], "Allowed: L0, L1, L2, L4"),
        (["eval", "--images", "nowhere"], "neither a folder"),
        (["eval", "--training-images", "nowhere"], "neither a folder"),
        (["eval", "--grid", "11"], "is not a grid"),
        (["eval", "--levels", "most"], "give 'all', or numbers"),
        (["eval", "--grid", "2", "--levels", "7"], "Allowed: L0, L1, L2"),
        (["eval", "--option", "labels"], "KEY=VALUE"),
        (["eval", "--option", "lables=true"], "Did you mean 'labels'"),
        (["eval", "--episodes", "0"], "give at least one"),
        (["eval", "--samples", "0"], "samples"),
        (["eval", "--batch", "0"], "at least 1"),
        (["eval", "--workers", "0"], "give 1 to 256"),
        (["eval", "--keep", "some"], "give a number, 'all' or 'none'"),
        (["eval", "--interval", "photos"], "Did you mean 'photograph'"),
        (["eval", "--grid", "2", "--levels", "0", "99"], "Allowed: L0, L1, L2"),
        (["eval", "--option", "grid=3"], "use grids (--grid)"),
        (["eval", "--output", "results.jsonl"], "ends in .json"),
        (["eval", "--output", "."], "ends in .json"),
        (["eval", "--output", "/proc/nowhere/x.json"], "cannot be written"),
        (["eval", "--policy", ":x"], "cannot be loaded"),
        (["compare", "a.json", "b.json"], "a.json cannot be read"),
    ],
)
def test_mistakes_give_one_line_and_status_1(tmp_path, arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("agile-gym: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_finished_puzzles_are_never_thrown_away_by_accident(tmp_path):
    def files():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    arguments = ["eval", "--episodes", "2", "--grid", "1x2", "--option", "image_size=32"]
    assert run(*arguments, cwd=tmp_path).returncode == 0
    before = files()
    for again in (
        arguments,
        [*arguments, "--policy", "random"],
        [*arguments, "--policy", "random", "--resume"],
        [*arguments, "--images", "nowhere", "--overwrite"],
        [*arguments, "--policy-option", "heat=1", "--workers", "2", "--overwrite"],
    ):
        result = run(*again, cwd=tmp_path)
        assert result.returncode == 1
        assert files() == before
    assert "--resume" in run(*arguments, cwd=tmp_path).stderr
    assert run(*arguments, "--overwrite", "--policy", "random", cwd=tmp_path).returncode == 0
    assert (tmp_path / "agile-eval.jsonl").read_bytes() != before[tmp_path / "agile-eval.jsonl"]
