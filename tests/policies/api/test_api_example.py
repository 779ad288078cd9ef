"""The example, run against a server that answers at once; with a real server it is run in test_api_serve.py."""

import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from tests.helpers.faulty_server import refuse, say

SCRIPT = ROOT / "examples" / "evaluate_api.py"
SOLVE = '<think>x</think><answer>["B", "A", "D", "C"]</answer>'

pytest.importorskip("openai")


def run(*arguments):
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_it_prints_the_table_and_what_was_spent(serve):
    server = serve(lambda *_: say(SOLVE, usage=(1000, 20)))
    result = run(server.url, "a-model", "3", "env.image_size=64", "price_in=2", "price_out=10", "temperature=0.5")
    assert result.returncode == 0, result.stderr
    assert "a-model" in result.stdout
    assert "6 turns from 6 requests; 6,000 tokens read (0 of them cached), 120 written" in result.stdout
    assert "cost: 0.0132" in result.stdout
    assert all(request.body["temperature"] == 0.5 for request in server.seen)
    assert len(SCRIPT.read_text().splitlines()) < 150


@pytest.mark.slow
def test_what_is_finished_is_shown_when_the_endpoint_fails(serve):
    server = serve(lambda number, _: say(SOLVE) if number < 16 else refuse(500, "out of memory"))
    result = run(server.url, "a-model", "10", "env.image_size=64", "max_retries=0", "max_concurrency=1")
    assert result.returncode == 1
    assert "a-model stopped after 16 of 20 puzzles: HTTP 500: out of memory" in result.stderr
    assert "16 turns from 17 requests" in result.stdout


@pytest.mark.slow
def test_mistakes_are_said_without_a_traceback():
    result = run("http://me:hunter22@localhost:8000/v1", "a-model")
    assert result.returncode == 1
    assert "environment" in result.stderr
    assert "hunter22" not in result.stderr
    assert "Traceback" not in result.stderr
    assert "Usage" in run().stderr
