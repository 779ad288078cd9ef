"""vLLM beside transformers: the same ids, log-probabilities and episodes, before and after new weights."""

import json
import subprocess
import sys
from functools import cache
from importlib.util import find_spec

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

from tests.helpers import ROOT
from tests.helpers.processes import run_module
from tests.helpers.vllm_player import EPISODES, TURNS

pytestmark = pytest.mark.slow
NAMES = ["tiny", "qwen2_5_vl", "qwen3_vl"]
CLOSE = 1e-4
BLOCK = 32
"""Tokens of a block of vLLM's cache: so many are computed again at most."""
NEW = 32
"""At least as many tokens as a turn adds."""


@cache
def told(name):
    """Return the results of a model in a process of its own: engines are not made twice in one."""
    done = run_module("tests.helpers.vllm_player", name, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_log_probabilities_of_episodes_are_those_of_transformers(name):
    assert told(name)["same"] < CLOSE


@pytest.mark.parametrize("name", NAMES)
def test_they_are_still_after_new_weights(name):
    assert len(told(name)["sent"]) == 3
    assert max(told(name)["sent"]) < CLOSE


@pytest.mark.parametrize("name", NAMES)
def test_without_the_reset_of_caches_they_are_not(name):
    stale = told(name)["stale"]
    assert isinstance(stale, str) or stale > 100 * CLOSE


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_turns_again(name):
    assert len(told(name)["in_batch"]) == EPISODES * TURNS
    assert told(name)["in_batch"] == told(name)["again"]


@pytest.mark.parametrize("name", NAMES)
def test_a_turn_costs_its_new_tokens_but_for_a_block(name):
    assert max(max(turn) for turn in told(name)["computed"]) < BLOCK + NEW
    assert told(name)["forbidden"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_turns_end_at_the_same_stop_texts(name):
    stops = told(name)["stops"]
    assert stops
    assert all(ours == theirs for ours, theirs in stops)
    assert any(stopped for ours, _ in stops for _, stopped in ours)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_episodes_are_those_of_our_engine(name):
    assert told(name)["greedy"] >= 0.99


ENGINE = """
from agile_gym.models import ChatFormat
from agile_gym.models.vllm_engine import VLLMEngine
from tests.helpers.vllm_player import make_model, OPTIONS
vlm = make_model("tiny")
try:
    VLLMEngine(vlm, ChatFormat(vlm.processor), options={**OPTIONS, %s})
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (
            "'kv_cache_memory_bytes': 2_000, 'max_model_len': 1024",
            ["ModelError: vLLM cannot start", "memory for the cache"],
        ),
        ("'no_such_argument': 1", ["ModelError: vLLM cannot start", "no_such_argument", "engine_options"]),
    ],
)
def test_an_engine_that_does_not_start_gives_its_reason(options, parts):
    done = subprocess.run(
        [sys.executable, "-c", ENGINE % options], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert all(part in done.stdout for part in parts), done.stdout[-2000:] + done.stderr[-2000:]
