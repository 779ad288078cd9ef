"""Sleep of the engine: memory that is lost, weights that are loaded again, and the order of calls in a training."""

import json
from functools import cache
from importlib.util import find_spec

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

from tests.helpers.processes import run_module

pytestmark = [pytest.mark.slow, pytest.mark.timeout(700)]
CLOSE = 1e-4
LOADED_AWAKE = ["wake weights", "load", "wake kv_cache"]


@cache
def told(which):
    done = run_module("tests.helpers.vllm_sleeper", which)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_platform_without_sleep_is_named():
    assert "vLLM cannot sleep on 'cpu'" in told("alone")["refused"]


def test_an_engine_loads_the_models_weights_before_it_plays_again():
    loads, close = told("alone")["begin"]
    assert loads == "load"
    assert close < CLOSE
    assert told("alone")["lost"]
    close, calls = told("alone")["woken"]
    assert close < CLOSE
    assert calls == ["sleep 2", *LOADED_AWAKE, "play"]


def test_new_weights_wake_it():
    asleep, close, calls = told("alone")["new"]
    assert not asleep
    assert close < CLOSE
    assert calls == ["sleep 2", *LOADED_AWAKE, "play"]


def test_weights_that_the_model_does_not_have_are_kept():
    far, calls, same = told("alone")["received"]
    assert far > 100 * CLOSE  # of a model with other weights
    assert calls == ["sleep 1", "wake weights", "wake kv_cache", "play"]
    assert same


def test_in_a_training_it_sleeps_while_the_learner_computes():
    pytest.importorskip("ray")
    assert told("training")["built"] == ["load", "sleep 2"]
    first, second = told("training")["iterations"]
    assert first[1] == [*LOADED_AWAKE, "play", "sleep 2", "learn", "sync", *LOADED_AWAKE]
    assert second[1] == ["play", "sleep 2", "learn", "sync", *LOADED_AWAKE]
    assert max(first[0], second[0]) < CLOSE
