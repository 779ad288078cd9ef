"""Weights that runners get by a process group or by shared memory: the same training as through the object store."""

import os
import signal

import pytest

from agile_gym.errors import ConfigurationError
from agile_gym.learner.transfer import WeightsTransfer
from tests.helpers.rllib_parts import Watched, difference, texts, train, weights

ITERATIONS = 2


def begin_anew(algorithm, beginning, kind):
    """Go back to the beginning, with another way of the weights."""
    algorithm.restore_from_path(beginning)
    algorithm.drop_weights()
    algorithm.seen.clear()
    algorithm._transfer = None if kind == "object_store" else WeightsTransfer(kind)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("vlm", [{}, {"train": "lora", "lora_rank": 4}], ids=["full", "lora"])
def test_a_training_is_the_same_whichever_way_weights_go(vlm, make_config, build, tmp_path, caplog):
    config = make_config(runners=2, vlm=vlm, weights_transfer="gloo")
    config.algo_class = Watched
    algorithm = build(config)
    train(algorithm)
    beginning = algorithm.save_to_path(tmp_path / "beginning")
    begin_anew(algorithm, beginning, "object_store")
    train(algorithm, ITERATIONS)
    assert algorithm._weights.state is not None
    played, trained = texts(algorithm), weights(algorithm)
    for kind in ("gloo", "ipc"):
        begin_anew(algorithm, beginning, kind)
        train(algorithm, ITERATIONS)
        assert algorithm._weights.state is None, caplog.text
        assert texts(algorithm) == played
        assert difference(weights(algorithm), trained) < 1e-6
    begin_anew(algorithm, beginning, "gloo")
    train(algorithm)
    processes = algorithm.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    os.kill(processes[0], signal.SIGKILL)
    train(algorithm)
    assert texts(algorithm) == played
    assert difference(weights(algorithm), trained) < 1e-6
    train(algorithm)
    assert algorithm._weights.state is None  # all runners are in the group again
    begin_anew(algorithm, beginning, "nccl")
    caplog.clear()
    train(algorithm, ITERATIONS)
    assert "weights_transfer='nccl' failed" in caplog.text
    assert "no GPU" in caplog.text
    assert texts(algorithm) == played


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_learners_that_hold_parts_send_whole_weights(make_config, build):
    algorithm = build(make_config(runners=1, learners=2, sharding="full", weights_transfer="gloo", num_epochs=1))
    for kind in ("gloo", "ipc"):
        algorithm._transfer = WeightsTransfer(kind)
        for _ in range(2):
            learner = algorithm.train()["learners"]["default_policy"]
        assert algorithm._weights.state is None
        assert float(learner["grad_norm"]) > 0
        assert float(learner["max_log_ratio_first"]) < 1e-4  # the runner played with the weights of the learners


@pytest.mark.parametrize(
    ("kind", "runners", "gpus", "message"),
    [
        ("ncll", 1, (1, 1), "Did you mean 'nccl'"),
        ("gloo", 0, (0, 0), "is for runners in processes of their own"),
        ("nccl", 1, (0, 0), r"needs a whole GPU for each runner and each learner; they have 0 and 0.*'gloo' on CPUs"),
        ("nccl", 1, (0.4, 0.6), r"they have 0.4 and 0.6.*Set 'ipc' where a runner and a learner share a GPU"),
        ("ipc", 1, (0, 1), r"share GPUs, or none on any; they have 0 and 1"),
    ],
)
def test_what_a_transfer_needs_is_named(kind, runners, gpus, message, make_config):
    config = make_config(runners=runners, learners=1, weights_transfer=kind)
    config.env_runners(num_gpus_per_env_runner=gpus[0]).learners(num_gpus_per_learner=gpus[1])
    with pytest.raises(ConfigurationError, match=message):
        config.validate()
