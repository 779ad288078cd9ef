"""Mistakes of a user are errors before anything long begins."""

import logging
import subprocess
import sys
import time

import numpy as np
import pytest

from agile_gym.errors import ConfigurationError, ImageError, ModelError
from agile_gym.learner import GRPOConfig
from agile_gym.learner.resources import ActorNeeds, actor_needs, check_fits
from tests.helpers.rllib_parts import letters, train


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gruop_size": 4}, r"no setting 'gruop_size'. Did you mean 'group_size'"),
        ({"learning_rate": 4}, r"no setting 'learning_rate'"),
    ],
)
def test_setting_that_does_not_exist(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        GRPOConfig().training(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_size": 1}, "group_size=1.*at least 2"),
        ({"group_size": 2.5}, "group_size=2.5"),
        ({"groups_per_iteration": 0}, "groups_per_iteration=0"),
        ({"loss": "grop"}, "Did you mean 'grpo'"),
        ({"lr": 0}, "lr=0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr_schedule": "cosine"}, "needs lr_total_steps"),
        ({"lr_schedule": "cosin", "lr_total_steps": 3}, "Did you mean 'cosine'"),
        ({"temperature": 0}, "temperature=0"),
        ({"clip_low": -0.1}, "clip_low=-0.1"),
        ({"advantage_scale": "std"}, "advantage_scale='std'"),
        ({"tasks": [{"grid": "2x2", "wight": 1}]}, "Did you mean 'weight'"),
        ({"resample_rounds": -1}, "resample_rounds=-1"),
        ({"num_minibatches": 0}, "num_minibatches=0"),
        ({"packing": "atuo"}, "packing='atuo' is not allowed. Did you mean 'auto'"),
    ],
)
def test_value_that_is_not_allowed(make_config, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        make_config(**settings).validate()


def test_model_option_that_does_not_exist():
    with pytest.raises(ConfigurationError, match="Did you mean 'lora_rank'"):
        GRPOConfig().vlm(lora_rnk=3)


def test_no_environment(small_model):
    with pytest.raises(ConfigurationError, match="No environment is set"):
        GRPOConfig().vlm(path=str(small_model)).env_runners(num_env_runners=0).build_algo()


def test_environment_that_does_not_exist(make_config):
    with pytest.raises(ConfigurationError, match=r"no environment 'JigsawVisoin-v0'. Did you mean 'JigsawVision-v0'"):
        make_config().environment("JigsawVisoin-v0").build_algo()


def test_environment_that_is_told_nonsense(make_config):
    with pytest.raises(ConfigurationError, match="gird"):
        make_config(env={"gird": 2}).build_algo()


def test_evaluation_environment_that_is_told_nonsense(make_config):
    config = make_config().evaluation(evaluation_config={"env_config": {"split": "tset"}})
    with pytest.raises(ConfigurationError, match="tset"):
        config.build_algo()


def test_task_that_is_told_nonsense(make_config):
    with pytest.raises(ConfigurationError, match="0x9"):
        make_config(tasks=[{"grid": "2x2"}, {"grid": "0x9"}]).build_algo()


def test_evaluation_setting_that_would_not_be_heeded(make_config):
    config = make_config().evaluation(evaluation_config={"max_new_tokens": 3})
    with pytest.raises(ConfigurationError, match=r"'max_new_tokens' cannot differ.*evaluation_num_env_runners=1"):
        config.build_algo()


def test_model_that_takes_no_images(make_config, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(
        LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32)
    ).save_pretrained(tmp_path)
    start = time.perf_counter()
    with pytest.raises(ModelError, match="image"):
        make_config(model=tmp_path, runners=2, learners=2).build_algo()
    assert time.perf_counter() - start < 5  # before a process was started


def test_model_that_is_not_there(make_config, tmp_path):
    with pytest.raises(ModelError, match="There is no model"):
        make_config(model=tmp_path / "nothing", runners=2).build_algo()


def test_folder_without_photographs(make_config, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ImageError):
        make_config(env={"images": str(tmp_path), "split": None}).build_algo()


def test_runner_tells_the_driver_what_is_wrong(make_config, tmp_path):
    with pytest.raises(ConfigurationError, match=r"notes|image"):
        make_config(env={"images": str(tmp_path), "split": None}, runners=1).build_algo()


def test_learner_class_of_another_kind(make_config):
    from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner

    config = make_config()
    config.learners(learner_class=PPOTorchLearner)
    with pytest.raises(ConfigurationError, match="subclass of"):
        config.build_algo()


def test_too_few_cpus(make_config):
    config = make_config(runners=6, learners=2)
    config.env_runners(num_cpus_per_env_runner=1).learners(num_cpus_per_learner=1)
    with pytest.raises(
        ConfigurationError, match=r"needs 8 CPUs \(6 runners with 1, 2 learners with 1\), and Ray has 4.*0\.5"
    ):
        config.build_algo()


def test_too_few_gpus(make_config):
    config = make_config(learners=2).learners(num_gpus_per_learner=1)
    with pytest.raises(ConfigurationError, match=r"needs 2 GPUs \(2 learners with 1\), and Ray has 0"):
        config.build_algo()


def test_gpu_for_a_learner_in_a_process_without(make_config):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigurationError, match=r"torch finds no GPU. Set num_gpus_per_learner=0"):
        make_config().learners(num_gpus_per_learner=1).build_algo()


def test_needs_of_a_configuration(make_config):
    config = make_config(runners=3, learners=2).evaluation(evaluation_num_env_runners=1)
    kinds = [(need.kind, need.count, need.cpus, need.gpus) for need in actor_needs(config)]
    assert kinds == [("runner", 3, 0.5, 0), ("evaluation runner", 1, 0.5, 0), ("learner", 2, 0.5, 0)]
    automatic = make_config(learners=2).learners(num_cpus_per_learner="auto", num_gpus_per_learner=1)
    assert [(need.cpus, need.gpus) for need in actor_needs(automatic)] == [(0, 1)]
    assert actor_needs(make_config()) == []


def test_what_fits():
    runners = ActorNeeds("runner", 4, 0.25, 0, "x(")
    check_fits([runners], [{"CPU": 1.0}])
    check_fits([ActorNeeds("learner", 2, 0, 1, "x(")], [{"CPU": 1.0, "GPU": 1.0}] * 2)
    with pytest.raises(ConfigurationError, match="no machine has more than 4"):
        check_fits([ActorNeeds("learner", 1, 6, 0, "x(")], [{"CPU": 4.0}] * 2)
    with pytest.raises(ConfigurationError, match=r"needs 1 CPUs.*Ray has 0.5"):
        check_fits([runners], [{"CPU": 0.5}])


def test_cluster_that_grows_is_not_checked(make_config):
    config = make_config(check_resources=False)
    config.learners(num_learners=0, num_gpus_per_learner=0)
    assert not config.check_resources


@pytest.mark.parametrize("value", [np.nan, np.inf, "much"])
def test_reward_that_is_no_number(make_config, build, value):
    algorithm = build(make_config(reward_fn=lambda episode: value))
    with pytest.raises(ConfigurationError, match="reward_fn"):
        algorithm.training_step()


def test_notices_that_nobody_can_act_on_are_not_shown(make_config, build, caplog):
    from ray.util.debug import _logged

    _logged.clear()
    with caplog.at_level(logging.WARNING):
        train(build(make_config(reward_fn=letters)))
    assert [record.getMessage() for record in caplog.records] == []


def test_import_is_light():
    code = (
        "import sys; import agile_gym.learner as learner\n"
        "heavy = {'ray', 'torch', 'transformers'} & set(sys.modules); assert not heavy, heavy\n"
        "from agile_gym.learner import GRPO, GRPOConfig\n"
        "from ray.tune.registry import get_trainable_cls\n"
        "assert get_trainable_cls('AgileGRPO') is GRPO; assert learner.GRPOConfig is GRPOConfig\n"
        "try: learner.GRPOO\nexcept AttributeError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "no attribute 'GRPOO'" in run.stdout


def test_dr_grpo_divides_by_the_tokens_that_an_episode_can_have():
    from agile_gym.learner import GRPOConfig

    config = GRPOConfig().environment("JigsawVision-v0", env_config={"max_turns": 3})
    config.training(loss="dr_grpo", max_new_tokens=100)
    assert config.loss_arguments()["max_tokens"] == 300
    assert config.training(max_loss_tokens=77).loss_arguments()["max_tokens"] == 77


def test_a_reward_that_makes_looking_never_pay_is_warned_of_once(make_config, caplog):
    with caplog.at_level(logging.WARNING, "agile_gym"):
        make_config().validate()
        assert caplog.records == []
        dear = make_config().environment(env_config={"max_turns": 6, "reward": {"step_penalty": 0.16}})
        dear.validate()
        dear.validate()
    (record,) = caplog.records
    assert "5 turns before the answer cost 0.8 (step_weight 1 x step_penalty 0.16 each)" in record.getMessage()
