"""Conversations that an endpoint refuses, in whole evaluations and cold starts: they end, and the others go on."""

import json
import re
import zlib

import pytest

from agile_gym.cli import main
from agile_gym.evaluation import read_journal
from agile_gym.transcripts import TranscriptWriter, read_transcripts
from tests.helpers.faulty_server import Answer, refuse, say

TEXT = '<think>x</think><answer>["A", "B", "C", "D"]</answer>'
LOOK = "<think>x</think><code>observation(state)</code>"
FILTER = refuse(400, "The response was filtered", code="content_filter")
TOO_LONG = refuse(400, "This model's maximum context length is 4096 tokens")


def puzzle_of(body):
    """Return a number that depends on the puzzle alone."""
    content = body["messages"][0]["content"]
    return zlib.crc32("".join(part["image_url"]["url"] for part in content if part["type"] == "image_url").encode())


def some_are_refused(_, body):
    """Refuse one puzzle of three at once, and another after its first turn."""
    turn = sum(message["role"] == "assistant" for message in body["messages"])
    kind = puzzle_of(body) % 3
    if kind == 0:
        return FILTER
    if turn == 0:
        return say(LOOK)
    return TOO_LONG if kind == 1 else say(TEXT)


@pytest.fixture
def evaluate(tmp_path, monkeypatch, capsys):
    pytest.importorskip("openai")
    monkeypatch.chdir(tmp_path)

    def run(server, *arguments, episodes=12, concurrency=2):
        options = {"base_url": server.url, "api_key_env": "TEST_API_KEY", "backoff": 0.01, "max_retries": 1}
        options["max_concurrency"] = concurrency
        flags = [part for key, value in options.items() for part in ("--policy-option", f"{key}={value}")]
        command = ["eval", "--policy", "api:some-model", *flags, "--grid", "2", "--levels", "0"]
        command += ["--episodes", str(episodes), "--option", "image_size=32", "--option", "prompt=short"]
        status = main([*command, "--output", "r.json", *arguments])
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


def check(folder, episodes):
    _, results = read_journal(folder / "r.jsonl")
    assert len(results) == episodes
    kinds = [result.given_up for result in results]
    assert {"content_filter", "context_length", None} == set(kinds)
    transcripts = {transcript.id: transcript for transcript in read_transcripts(folder / "r-transcripts")}
    assert len(transcripts) == episodes
    for result in results:
        transcript = transcripts["{}-L{}-{}".format(*result.key[:3])]
        turns = {"content_filter": 1, "context_length": 2, None: 2}[result.given_up]
        assert result.turns == len(transcript.turns) == turns
        if result.given_up is None:
            assert "given_up" not in transcript.details
            assert result.errors == {}
            assert result.reason is None
        else:
            assert not result.solved
            assert result.errors == {result.given_up: 1}
            assert "HTTP 400" in result.reason
            assert transcript.details["given_up"] == {"kind": result.given_up, "reason": result.reason}
            assert transcript.turns[-1].error == result.given_up
            assert transcript.turns[-1].feedback == result.reason
    summary = json.loads((folder / "r.json").read_text())["summary"]["2x2"]["avg"]
    assert summary["given_up"] == {kind: kinds.count(kind) for kind in ("content_filter", "context_length")}
    assert summary["errors"] == summary["given_up"]
    return results


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--batch", "1"), ("--batch", "5"), ("--workers", "2")])
def test_an_evaluation_goes_on_and_counts_what_was_refused(serve, evaluate, tmp_path, arguments):
    status, out, err = evaluate(serve(some_are_refused), *arguments)
    assert status == 0, err
    results = check(tmp_path, 12)
    share = 100 * sum(result.given_up == "content_filter" for result in results) / 12
    assert re.search(rf"^given up: content_filter \(%\) +{share:.1f} +{share:.1f}$", out, re.MULTILINE)


def test_an_evaluation_is_resumed_where_the_next_puzzle_is_refused(serve, evaluate, tmp_path):
    down = [False]

    def script(number, body):
        return Answer(401, b"{}") if down[0] or number > 12 else some_are_refused(number, body)

    server = serve(script)
    status, _, err = evaluate(server, "--batch", "1")
    assert status == 1
    assert err.splitlines()[-1].startswith("agile-gym: HTTP 401")
    done = len(read_journal(tmp_path / "r.jsonl")[1])
    assert 0 < done < 12
    server.script = some_are_refused
    status, _, err = evaluate(server, "--batch", "1", "--resume")
    assert status == 0, err
    check(tmp_path, 12)


def test_an_evaluation_is_resumed_where_only_refused_puzzles_are_left(serve, evaluate, tmp_path):
    server = serve(some_are_refused)
    assert evaluate(server, "--batch", "1")[0] == 0
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    kept = [line for line in lines if '"given_up":"content_filter"' not in line]
    (tmp_path / "r.jsonl").write_text("\n".join(kept) + "\n")
    names = {"{}-L{}-{}".format(*result.key[:3]) for result in read_journal(tmp_path / "r.jsonl")[1]}
    with TranscriptWriter(tmp_path / "r-transcripts", resume=True) as writer:  # as if they had not been played
        writer.keep(names)
    status, _, err = evaluate(server, "--batch", "3", "--resume")
    assert status == 0, err
    check(tmp_path, 12)


@pytest.mark.slow
@pytest.mark.parametrize("episodes", [3, 40])
@pytest.mark.parametrize("answer", [FILTER, TOO_LONG, refuse(422, "no"), refuse(400, "temperature")])
def test_a_request_that_is_always_refused_ends_the_run_in_one_line(serve, evaluate, tmp_path, episodes, answer):
    server = serve(lambda *_: answer)
    status, out, err = evaluate(server, episodes=episodes)
    assert (status, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith("agile-gym: ")
    assert f"HTTP {answer.status}" in last
    assert len(server.seen) <= 24
    assert read_journal(tmp_path / "r.jsonl")[1] == []
    server.script = some_are_refused  # what was wrong is put right
    status, _, err = evaluate(server, "--resume", episodes=episodes)
    assert status == 0, err
    assert len(read_journal(tmp_path / "r.jsonl")[1]) == episodes


@pytest.mark.parametrize("status", [401, 403, 404])
def test_an_endpoint_that_lets_nobody_in_ends_the_run_at_any_time(serve, evaluate, tmp_path, status):
    server = serve(lambda number, body: refuse(status, "no") if number > 5 else some_are_refused(number, body))
    code, _, err = evaluate(server, "--batch", "1")
    assert code == 1
    assert err.splitlines()[-1].startswith(f"agile-gym: HTTP {status}")
    assert read_journal(tmp_path / "r.jsonl")[1]


@pytest.mark.slow
def test_a_cold_start_goes_on_with_other_attempts(serve, tmp_path):
    pytest.importorskip("openai")
    from agile_gym.coldstart import ColdStartConfig, make_cold_start
    from agile_gym.policies.api import ChatAPIPolicy

    def script(number, body):
        return FILTER if puzzle_of(body) % 2 else say(TEXT)

    options = {"image_size": 32, "prompt": "short"}
    config = ColdStartConfig(
        count=2, teacher="mine", turns=[1, 2], balance="none", level="all", options=options, max_attempts=60
    )
    policy = ChatAPIPolicy("some-model", base_url=serve(script).url, api_key_env="TEST_API_KEY")
    with policy:
        report = make_cold_start(tmp_path / "cold", config, teacher=policy, batch=2)
        assert policy.usage.refused
    assert report.rejected["unsolved"] >= policy.usage.refused
    assert report.kept + sum(report.rejected.values()) == report.attempts
