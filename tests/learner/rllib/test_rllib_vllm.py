"""Iterations of GRPO whose runners, in processes of their own, play with vLLM."""

import os
from importlib.util import find_spec

import pytest

if any(find_spec(name) is None for name in ("ray", "vllm")):
    pytest.skip("Ray or vLLM is not installed", allow_module_level=True)

from agile_gym.errors import ConfigurationError
from agile_gym.learner.grpo import GRPOConfig
from tests.helpers.rllib_parts import FaultyEnv, Watched, difference, letters, texts, train, weights

OPTIONS = {"max_model_len": 1024, "max_num_seqs": 32, "kv_cache_memory_bytes": 100_000_000}


def config(**training):
    rules = {"grid": 2, "level": "all", "image_size": 64, "max_turns": 2, "prompt": "short"}
    return (
        GRPOConfig()
        .environment("JigsawVision-v0", env_config=rules)
        .vlm(path="tiny")
        .env_runners(num_env_runners=1)
        .learners(num_learners=0)
        .training(
            engine="vllm",
            engine_options=OPTIONS,
            group_size=4,
            groups_per_iteration=4,
            max_new_tokens=16,
            lr=1e-3,
            num_minibatches=2,
            filter_zero_variance_groups=False,
            reward_fn=letters,
            **training,
        )
    )


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize("train", ["full", "lora"])
def test_runners_play_with_the_weights_of_every_update(train):
    algorithm = config().vlm(train=train).build_algo()
    try:
        for _ in range(3):
            learner = algorithm.train()["learners"]["default_policy"]
            assert float(learner["max_mismatch"]) < 1e-4
            assert float(learner["mismatch_clipped"]) == 0
            assert float(learner["grad_norm"]) > 0
    finally:
        algorithm.stop()


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize("kind", ["gloo", "ipc"])
def test_the_engine_takes_weights_that_are_sent_past_the_object_store(kind):
    algorithm = config(weights_transfer=kind).build_algo()
    try:
        for _ in range(3):
            learner = algorithm.train()["learners"]["default_policy"]
            assert float(learner["max_mismatch"]) < 1e-4
            assert float(learner["grad_norm"]) > 0
            assert algorithm._weights.state is None
    finally:
        algorithm.stop()


def test_sleep_is_for_vllm_only():
    with pytest.raises(ConfigurationError, match=r"engine_sleep=True is not allowed.*engine='vllm'"):
        config(engine_sleep=True).training(engine="hf", engine_options=None).validate()


@pytest.mark.slow
def test_an_engine_that_cannot_sleep_is_refused_by_the_runner():
    with pytest.raises(ConfigurationError, match="vLLM cannot sleep on 'cpu'"):
        config(engine_sleep=True).build_algo()


def test_masks_by_sequence_are_the_default_with_vllm_only():
    assert config().correction == "sequence_mask"
    assert config().training(engine="hf", engine_options=None).correction == "none"
    assert config(mismatch_correction="none").correction == "none"


def process(algorithm):
    """Return the runner's process."""
    return algorithm.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_runner_that_is_killed_while_it_plays_changes_nothing(tmp_path):
    given = config()
    given.algo_class = Watched
    given.environment(FaultyEnv, env_config={**given.env_config, "folder": str(tmp_path)})
    algorithm = given.build_algo()
    try:
        beginning = algorithm.save_to_path(tmp_path / "beginning")
        expected = train(algorithm, 2)
        played, trained = texts(algorithm), weights(algorithm)
        algorithm.restore_from_path(beginning)
        algorithm.seen.clear()
        assert difference(trained, weights(algorithm)) > 0
        told, (before,) = train(algorithm), process(algorithm)
        (tmp_path / "kill").touch()  # in the middle of its groups
        told += train(algorithm)
        assert algorithm.told["group_retries"] > 0
        assert not (tmp_path / "kill").exists()
        assert process(algorithm) not in ([], [before])
        assert texts(algorithm) == played
        assert all(len(batch) == 4 for batch in texts(algorithm))
        assert difference(weights(algorithm), trained) < 1e-4
        for mine, other in zip(told, expected, strict=True):
            assert mine == pytest.approx(other, rel=1e-3, abs=1e-4)
    finally:
        algorithm.stop()


@pytest.mark.slow
def test_the_reason_of_an_engine_that_does_not_start_comes_from_the_runner():
    with pytest.raises(ConfigurationError, match=r"vLLM cannot start with the model .*no_such_argument"):
        config().training(engine_options={"no_such_argument": 1}).build_algo()
