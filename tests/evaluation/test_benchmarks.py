"""Benchmarks played end to end from small files of both layouts, with scores that are known."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from agile_gym.cli import main
from agile_gym.envs.questions import QuestionEnv
from agile_gym.errors import ConfigurationError, ImageError
from agile_gym.evaluation.benchmarks import (
    paper_rows,
    plan_benchmark,
    read_benchmarks,
    score_benchmark,
    write_benchmarks,
)
from agile_gym.evaluation.run import evaluate
from agile_gym.policies.base import as_policy
from agile_gym.questions.opening import BENCHMARKS
from agile_gym.reporting.outcome import benchmark_table
from agile_gym.testing import check_env
from tests.helpers import ROOT
from tests.helpers.benchmark_files import ANSWERS, png, text64, tsv_rows, write_parquet, write_tsv
from tests.helpers.faulty_server import FaultyServer, say

FIRST = {  # the figure for one who writes "A" to choices, "Yes" to the rest: counted by hand from ANSWERS
    "mme-realworld-lite": 2 / 4,
    "realworldqa": 2 / 3,
    "hrbench4k": 2 / 8,
    "hrbench8k": 2 / 8,
    "vstar": 1 / 3,
    "mmvp": 2 / 4,
    "blink": 1 / 3,
    "hallusionbench": (2 / 4 + 1 / 3 + 1 / 3) / 3,  # questions 0 and 3; one of 3 figures; one of 3 question pairs
    "mmmu": 2 / 3,  # "A" is right for an open question, too, by VLMEvalKit's rule
}
POLICY = '''"""Policies for the tests."""
import time

def first(observation):
    return "Yes" if observation["text"].endswith("?") else "A"

def slow(observation):
    time.sleep(0.4)
    return first(observation)
'''


def first(observation):
    return "Yes" if observation["text"].endswith("?") else "A"


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "first_policy.py").write_text(POLICY, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("write", [write_tsv, write_parquet])
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_policy_whose_score_is_known(benchmark, write, tmp_path):
    plan = plan_benchmark(benchmark, write(tmp_path, benchmark), "first")
    results = evaluate(as_policy(first), plan)
    found = score_benchmark(plan, results, "any")
    assert found.figure == pytest.approx(FIRST[benchmark])
    assert found.asked == len(ANSWERS[benchmark])
    assert found.skipped == ()


@pytest.mark.parametrize("write", [write_tsv, write_parquet])
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_right_answers_in_the_order_of_the_file_score_100(benchmark, write, tmp_path):
    replies = iter(ANSWERS[benchmark])
    plan = plan_benchmark(benchmark, write(tmp_path, benchmark), "right")
    results = evaluate(as_policy(lambda _: next(replies)), plan, batch=1)
    assert score_benchmark(plan, results, "any").figure == 1.0


def test_tables_of_pairs_cycles_and_figures(tmp_path):
    tables = {}
    for benchmark in ("mmvp", "hrbench4k", "hallusionbench"):
        plan = plan_benchmark(benchmark, write_tsv(tmp_path, benchmark), "first")
        tables[benchmark] = score_benchmark(plan, evaluate(as_policy(first), plan), "any").table
    assert tables["mmvp"] == {"Average": 0.5, "Overall": 0.0}
    assert tables["hrbench4k"]["1"] == {"all": 0.5, "cross": 0.0, "single": 1.0}
    assert tables["hallusionbench"]["Overall"] == pytest.approx({"aAcc": 50.0, "fAcc": 100 / 3, "qAcc": 100 / 3})


@pytest.mark.parametrize("benchmark", ["mmvp", "blink", "mmmu"])
def test_the_environment_keeps_the_contract(benchmark, tmp_path):
    path = write_tsv(tmp_path, benchmark)
    check_env(QuestionEnv(benchmark, str(path)))


def test_episodes_have_numbers(tmp_path):
    env = QuestionEnv("vstar", str(write_tsv(tmp_path, "vstar")))
    _, info = env.reset(seed=0, options={"episode": 2})
    assert info["task"]["question"] == "2"
    with pytest.raises(ConfigurationError, match="from 0 to 2"):
        env.reset(options={"episode": 3})
    with pytest.raises(ConfigurationError, match="other questions"):
        QuestionEnv("vstar", str(tmp_path / "VStarBench.tsv"), questions="0")


def test_tags_are_judged_only_on_request(tmp_path):
    path = str(write_tsv(tmp_path, "vstar"))
    for unwrap, solved in ((False, False), (True, True)):
        env = QuestionEnv("vstar", path, unwrap=unwrap)
        env.reset(options={"episode": 0})
        info = env.step("<think>It is A, B or D.</think><answer>C</answer>")[4]
        assert info["solved"] is solved


def test_a_rule_of_another_benchmark_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"lmms_mmvp.*is none of vstar"):
        QuestionEnv("vstar", str(write_tsv(tmp_path, "vstar")), rule="lmms_mmvp")


def test_rows_of_the_paper():
    assert list(paper_rows()) == [f"Qwen2.5-VL-7B {stage}" for stage in ("base", "cold start", "RL")]
    for row in paper_rows().values():
        assert {one.title for one in BENCHMARKS.values()} == row.keys() - {"mean"}
        values = [value for name, value in row.items() if name != "mean"]
        assert sum(values) / 9 == pytest.approx(row["mean"], abs=0.06)


def test_the_command_plays_all_and_shows_the_paper(here, capsys):
    for benchmark in BENCHMARKS:
        write_tsv(here, benchmark)
    arguments = ["eval", "--policy", "first_policy:first", "--benchmarks", ".", "--keep", "1"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("first_policy:first"))
    figures = [100 * FIRST[benchmark] for benchmark in BENCHMARKS]
    assert row.split()[1:] == [f"{value:.1f}" for value in [*figures, sum(figures) / 9]]
    assert re.search(
        r"paper: Qwen2\.5-VL-7B RL +48\.4 +70\.2 +73\.0 +70\.5 +80\.6 +78\.0 +58\.0 +51\.9 +55\.8 +65\.2", printed
    )
    assert "4 of 300 questions of the benchmark: not its full figure." in printed
    scores = json.loads((here / "agile-eval.json").read_text("utf-8"))
    assert [one["key"] for one in scores["benchmarks"]] == list(BENCHMARKS)
    assert main(["compare", "agile-eval-mmvp.json", "agile-eval-mmvp.json"]) == 0
    assert main(["view", "agile-eval-mmvp.json", "--output", "page.html"]) == 0
    assert "Invented question 0?" in (here / "page.html").read_text("utf-8")


def test_skipped_questions_are_shown(here, capsys):
    rows = list(tsv_rows("vstar"))
    rows[0]["answer"] = "E"
    write_tsv(here, "vstar", rows)
    assert main(["eval", "--policy", "first_policy:first", "--benchmark", "vstar=VStarBench.tsv"]) == 0
    printed = capsys.readouterr().out
    assert "skipped: 0: the answer 'E' is none of the choices A, B, C, D" in printed
    assert re.search(r"^  skipped +1$", printed, re.MULTILINE)


@pytest.mark.parametrize("samples", [1, 2])
def test_a_question_whose_pixels_are_broken_is_skipped_and_counted(samples, here, capsys):
    rows = list(tsv_rows("mmvp"))
    rows[2]["image"] = base64.b64encode(png(2)[:-900]).decode()  # the header is whole
    write_tsv(here, "mmvp", rows)
    words = ["eval", "--policy", "first_policy:first", "--benchmark", "mmvp=MMVP.tsv", "--samples", str(samples)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^  questions +3$", printed, re.MULTILINE)
    assert re.search(r"^  skipped +1$", printed, re.MULTILINE)
    assert re.search(r"skipped: 3: .*row 3.* cannot be decoded", printed)
    (scores,) = json.loads((here / "agile-eval.json").read_text("utf-8"))["benchmarks"]
    assert scores["table"] == {"Average": 1 / 3, "Overall": 0.0}  # questions 1, 2 and 4; the pair of 1 and 2
    assert [skip["id"] for skip in scores["skipped"]] == ["3"]
    report = json.loads((here / "agile-eval-mmvp.json").read_text("utf-8"))
    assert len(report["rows"]) == report["episodes"] == 3 * samples
    assert main([*words, "--resume"]) == 0
    assert re.search(r"^  questions +3$", capsys.readouterr().out, re.MULTILINE)


def test_broken_pixels_raise_unless_they_are_to_be_skipped(tmp_path):
    rows = list(tsv_rows("vstar"))
    rows[1]["image"] = base64.b64encode(png(1)[:-900]).decode()
    path = str(write_tsv(tmp_path, "vstar", rows))
    with pytest.raises(ImageError, match="row 1"):
        QuestionEnv("vstar", path).reset(options={"episode": 1})
    env = QuestionEnv("vstar", path, skip_unreadable=True)
    check_env(env)
    _, info = env.reset(options={"episode": 1})
    assert info["images"] == ()
    *_, info = env.step(ANSWERS["vstar"][1])  # the right answer does not count either
    assert (info["solved"], info["error"]) == (False, "unreadable_picture")
    rows = [{**row, "image": rows[1]["image"]} for row in rows]
    plan = plan_benchmark("vstar", write_tsv(tmp_path, "vstar", rows), "first")
    with pytest.raises(ConfigurationError, match=r"No question of V\* was answered.*cannot be decoded"):
        score_benchmark(plan, evaluate(as_policy(first), plan), "any")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmark", "mmvp"], "NAME=FILE"),
        (["--benchmark", "mmpv=x.tsv"], "mmvp"),
        (["--benchmark", "mmvp=x.tsv"], "does not exist"),
        (["--benchmark", "mmvp=x.tsv", "--grid", "2"], "--grid does not go with benchmarks"),
        (["--benchmarks", "nowhere"], "no folder"),
    ],
)
def test_wrong_arguments(arguments, message, here, capsys):
    assert main(["eval", "--policy", "random", *arguments]) != 0
    assert message in capsys.readouterr().err


def test_an_endpoint_plays(here, capsys):
    write_tsv(here, "mmmu")
    asked = []

    def answer(_, body):
        parts = body["messages"][-1]["content"]
        asked.append([part["type"] for part in parts])
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        return say("42" if "Options" not in text else "A" if " beside " in text else "B")

    with FaultyServer(answer, models=["m"]) as server:
        options = [f"base_url={server.url}", "api_key_env=null"]
        given = [word for option in options for word in ("--policy-option", option)]
        assert main(["eval", "--policy", "api:m", *given, "--benchmark", "mmmu=MMMU_DEV_VAL.tsv"]) == 0
    assert "api:m" in capsys.readouterr().out
    scores = json.loads((here / "agile-eval.json").read_text("utf-8"))
    assert scores["benchmarks"][0]["figure"] == 1.0
    assert sorted(types.count("image_url") for types in asked) == [1, 1, 2]


@pytest.mark.slow
def test_a_model_plays(here, capsys):
    from agile_gym.models.tiny import save_tiny

    for benchmark in ("mmvp", "mmmu"):  # one picture a question; pictures within the text, and an open question
        write_tsv(here, benchmark)
    model = save_tiny(here / "tiny", seed=0)
    words = ["eval", "--policy", f"hf:{model}", "--policy-option", "max_new_tokens=8", "--benchmarks", "."]
    assert main([*words, "--batch", "2"]) == 0
    assert re.search(r"MMVP +MMMU +mean\n-+", capsys.readouterr().out)
    scores = json.loads((here / "agile-eval.json").read_text("utf-8"))["benchmarks"]
    assert [(one["key"], one["asked"], one["skipped"]) for one in scores] == [("mmvp", 4, []), ("mmmu", 3, [])]
    for key, count in (("mmvp", 4), ("mmmu", 3)):
        lines = (here / f"agile-eval-{key}.jsonl").read_text("utf-8").splitlines()[1:]
        played = [json.loads(line) for line in lines]
        assert len(played) == count
        assert all(one["given_up"] is None and 1 <= one["tokens"]["new"] <= 8 for one in played)
    assert main(["view", "agile-eval-mmmu.json", "--output", "page.html"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_an_evaluation_that_was_killed_goes_on(workers, here, capsys):
    write_tsv(here, "hrbench4k")
    write_tsv(here, "mmvp")
    words = ["eval", "--policy", "first_policy:slow", "--batch", "1", "--workers", str(workers)]
    words += ["--benchmark", "hrbench4k=HRBench4K.tsv", "mmvp=MMVP.tsv"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(here)])}
    process = subprocess.Popen([sys.executable, "-m", "agile_gym", *words], env=environment, stderr=subprocess.DEVNULL)
    journal = here / "agile-eval-hrbench4k.jsonl"
    until = time.monotonic() + 60
    while time.monotonic() < until and (not journal.exists() or journal.read_bytes().count(b"\n") < 4):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = journal.read_bytes().splitlines()
    assert 4 <= len(before) < 9
    assert main([*words, "--resume"]) == 0
    assert journal.read_bytes().splitlines()[: len(before) - 1] == before[:-1]
    scores = json.loads((here / "agile-eval.json").read_text("utf-8"))["benchmarks"]
    assert [one["figure"] for one in scores] == [FIRST["hrbench4k"], FIRST["mmvp"]]
    assert [one["asked"] for one in scores] == [8, 4]


@pytest.mark.parametrize(
    ("old", "new"), [("question 1?", "question 7?"), (text64(2), text64(8))], ids=["questions", "pictures"]
)
def test_it_does_not_go_on_with_others(old, new, here, capsys):
    path = write_tsv(here, "mmvp")
    words = ["eval", "--policy", "first_policy:first", "--benchmark", "mmvp=MMVP.tsv"]
    assert main(words) == 0
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    assert main([*words, "--resume"]) != 0
    assert "questions" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-40],
        lambda text: text.replace("agile_gym.benchmarks", "agile_gym.evaluation"),
        lambda text: text.replace('"figure": 0.5', '"figure": 50'),
        lambda text: text.replace('"asked": 4', '"asked": "4"'),
        lambda text: text.replace('"key": "mmvp"', '"key": "mmpv"'),
        lambda text: text.replace('"low"', '"lower"'),
    ],
)
def test_a_file_of_scores_is_read_back_and_a_damaged_one_refused(damage, tmp_path):
    plan = plan_benchmark("mmvp", write_tsv(tmp_path, "mmvp"), "first")
    path = tmp_path / "scores.json"
    write_benchmarks(path, [score_benchmark(plan, evaluate(as_policy(first), plan), "any")], "first")
    (mmvp,) = read_benchmarks(path).values()
    assert (mmvp.figure, mmvp.asked, mmvp.expected) == (0.5, 4, 300)
    assert mmvp.accuracy.low < mmvp.accuracy.value == 0.5 < mmvp.accuracy.high
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    with pytest.raises(ConfigurationError, match=r"scores\.json is no file of benchmarks' scores, or damaged"):
        read_benchmarks(path)


def test_the_table_of_a_report_has_each_stage_beside_the_paper(tmp_path):
    folder = tmp_path / "scores"
    assert benchmark_table(folder) is None
    plans = {key: plan_benchmark(key, write_tsv(tmp_path, key), "first") for key in ("vstar", "mmvp")}
    scores = [score_benchmark(plan, evaluate(as_policy(first), plan), "any") for plan in plans.values()]
    write_benchmarks(folder / "untrained.json", scores[1:], "first")
    write_benchmarks(folder / "grpo.json", scores, "first")
    table = benchmark_table(folder)
    assert table is not None
    assert table.header == ["V*", "MMVP", "mean"]
    assert [(row.label, [text for text, _ in row.cells]) for row in table.rows] == [
        ("untrained", ["\u2013", "50.0", "\u2013"]),
        ("GRPO", ["33.3", "50.0", "41.7"]),
    ]
    assert table.rows[1].cells[1][1].endswith(", 4 of 300 questions")
    assert [(row.label, [text for text, _ in row.cells]) for row in table.paper] == [
        ("Qwen2.5-VL-7B base", ["76.4", "74.3", "75.3"]),
        ("Qwen2.5-VL-7B cold start", ["77.5", "76.7", "77.1"]),
        ("Qwen2.5-VL-7B RL", ["80.6", "78.0", "79.3"]),
    ]
