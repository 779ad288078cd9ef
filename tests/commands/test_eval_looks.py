"""``agile-gym eval --blank-looks``: both evaluations, compared, interrupted and resumed."""

import json
import re
import subprocess
import sys

import pytest
from scipy.stats import binomtest

from agile_gym.cli import main
from agile_gym.transcripts import read_transcripts
from tests.commands.test_eval_command import lasting, run, start, tables, wait_for_lines

COMMAND = [sys.executable, "-m", "agile_gym"]


LOOKS = ["eval", "--policy", "tests.helpers.evaluation_policies:Reader", "--policy-option", "careless=true",
         "--grid", "2", "--option", "reveal=true", "--option", "image_size=32"]  # fmt: skip


@pytest.mark.slow
def test_looks_are_blanked_and_compared_in_one_command(tmp_path):
    arguments = [*LOOKS, "--episodes", "15", "--levels", "0", "1", "--output", "r.json", "--keep", "3"]
    assert run(*arguments, cwd=tmp_path).returncode == 0
    alone = lasting(tmp_path / "r.json")
    journal = (tmp_path / "r.jsonl").read_bytes()
    assert alone["blank_looks"] is None
    refused = run(*arguments, "--blank-looks", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    result = run(*arguments, "--blank-looks", "--resume", cwd=tmp_path)  # what was played is not played again
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "r.jsonl").read_bytes() == journal
    both, blanked = lasting(tmp_path / "r.json"), lasting(tmp_path / "r-blanked.json")
    assert {**both, "blank_looks": None} == alone
    assert blanked["plan"] == {**both["plan"], "blank_looks": True}
    assert [row[:6] for row in blanked["rows"]] == [row[:6] for row in both["rows"]]
    for level in (0, 1):
        pairs = [(a[6], b[6]) for a, b in zip(blanked["rows"], both["rows"], strict=True) if a[1] == level]
        column = both["blank_looks"]["2x2"][f"L{level}"]
        assert (column["only_first"], column["only_second"]) == (pairs.count((True, False)), pairs.count((False, True)))
        assert column["acc"]["first"] == sum(a for a, _ in pairs) / 15
        assert column["acc"]["difference"] == pytest.approx(sum(b - a for a, b in pairs) / 15)
        differing = sum(a != b for a, b in pairs)
        assert column["acc"]["p"] == pytest.approx(binomtest(column["only_first"], differing).pvalue)
        assert column["blanked"]["acc"] == blanked["summary"]["2x2"][f"L{level}"]["acc"]
    assert both["blank_looks"]["2x2"]["avg"]["acc"]["p"] < 0.001
    assert run("compare", "r-blanked.json", "r.json", "--output", "c.json", cwd=tmp_path).returncode == 0
    compared = json.loads((tmp_path / "c.json").read_text())
    assert compared["2x2"]["L0"]["acc"] == both["blank_looks"]["2x2"]["L0"]["acc"]
    table = result.stdout[result.stdout.index("2x2 Looks (%)") :]
    assert re.search(r"Acc, looks blanked +0\.0 +0\.0 +11\.4 +30\n  difference, p <?[\de.-]+ +\+", table)
    assert "its p by McNemar's exact test" in table
    episodes = [*read_transcripts(tmp_path / "r-blanked-transcripts")]
    assert len(episodes) == 6
    assert all((image == 128).all() for one in episodes for turn in one.turns for image in turn.images)


@pytest.mark.slow
def test_blanked_looks_with_workers_are_killed_and_resumed(tmp_path):
    arguments = [*LOOKS, "--episodes", "30", "--blank-looks", "--batch", "3", "--keep", "2"]
    whole = run(*arguments, "--output", "whole.json", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    several = [*arguments, "--output", "part.json", "--workers", "2"]
    for name in ("part.jsonl", "part-blanked.jsonl"):  # once while looks are played, and once while they are blanked
        process = start(*several, "--resume", cwd=tmp_path, stderr=subprocess.DEVNULL)
        wait_for_lines(tmp_path / name, 20, process)
        process.kill()
        process.wait()
        assert (tmp_path / name).read_bytes().count(b"\n") < 91
        assert not (tmp_path / "part.json").exists()
    resumed = run(*several, "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert tables(resumed.stdout) == tables(whole.stdout)
    for name in ("", "-blanked"):
        assert lasting(tmp_path / f"part{name}.json") == lasting(tmp_path / f"whole{name}.json")


@pytest.mark.slow
def test_blanked_results_replace_no_file_of_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r-blanked.json").write_text("mine")
    command = ["eval", "--policy", "random", "--episodes", "1", "--grid", "2", "--output", "r.json", "--blank-looks"]
    for flags in ([], ["--overwrite"], ["--resume"]):
        assert main([*command, *flags]) == 1
        error = capsys.readouterr().err
        assert "r-blanked.json" in error
        assert error.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["r-blanked.json"]
