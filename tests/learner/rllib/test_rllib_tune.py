"""Ray Tune: by class and by name, with checkpoints, schedulers and restore."""

import logging

import pytest
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from agile_gym.learner import GRPO
from tests.helpers.rllib_parts import Failing, FaultyEnv

METRIC = "grpo/return"


@pytest.fixture
def tuner(make_config, tmp_path):
    logging.getLogger("ray.tune").setLevel(logging.ERROR)

    def make(trainable, *, lr=1e-3, iterations=2, name="run", num_samples=1, scheduler=None, every=1, env=None):
        config = make_config(lr=lr, env=env)
        if env:
            config.environment(FaultyEnv)
        return tune.Tuner(
            trainable,
            param_space=config,
            tune_config=tune.TuneConfig(
                metric=METRIC, mode="max", num_samples=num_samples, scheduler=scheduler, max_concurrent_trials=2
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(tmp_path),
                stop={"training_iteration": iterations},
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=every, checkpoint_at_end=True),
                verbose=0,
            ),
        )

    return make


def test_trains_by_class_and_stores_what_goes_on(tuner, build, make_config):
    (result,) = tuner(GRPO).fit()
    assert result.error is None
    assert result.metrics["training_iteration"] == 2
    with result.checkpoint.as_directory() as folder:
        algorithm = GRPO.from_checkpoint(folder)
        assert algorithm.iteration == 2
        assert algorithm.get_state()["grpo"]["groups_begun"] == 12
        own = build(make_config())
        own.train()
        own.train()
        assert algorithm.train()["grpo"]["return"] == own.train()["grpo"]["return"]
        algorithm.stop()


def test_sweep_by_name_with_asha(tuner):
    scheduler = ASHAScheduler(time_attr="training_iteration", max_t=3, grace_period=1, reduction_factor=2)
    results = tuner("AgileGRPO", lr=tune.grid_search([1e-4, 1e-2]), iterations=3, scheduler=scheduler, every=0).fit()
    assert len(results) == 2
    assert not results.errors
    assert sorted(result.config["lr"] for result in results) == [1e-4, 1e-2]
    assert max(result.metrics["training_iteration"] for result in results) == 3
    assert results.get_best_result().metrics["grpo"]["return"] >= 0


def test_run_that_failed_is_restored(tuner, tmp_path):
    (tmp_path / "fail").touch()
    (result,) = tuner(Failing, env={"folder": str(tmp_path)}, iterations=3).fit()
    assert isinstance(result.error, Exception)
    assert result.metrics["training_iteration"] == 1
    again = tune.Tuner.restore(str(tmp_path / "run"), trainable=Failing, resume_errored=True)
    (result,) = again.fit()
    assert result.error is None
    assert result.metrics["training_iteration"] == 3
    assert result.metrics["env_runners"]["num_episodes_lifetime"] == 3 * 6 * 3
