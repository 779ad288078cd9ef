"""Iterations of GRPO whose runners, in processes of their own, play with vLLM."""

from importlib.util import find_spec

import pytest

if any(find_spec(name) is None for name in ("ray", "vllm")):
    pytest.skip("Ray or vLLM is not installed", allow_module_level=True)

from agile_gym.learner.grpo import GRPOConfig
from tests.helpers.rllib_parts import letters

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
@pytest.mark.timeout(240)
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


def test_masks_by_sequence_are_the_default_with_vllm_only():
    assert config().correction == "sequence_mask"
    assert config().training(engine="hf", engine_options=None).correction == "none"
    assert config(mismatch_correction="none").correction == "none"
