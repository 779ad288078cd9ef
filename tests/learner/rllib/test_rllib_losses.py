"""Every loss trains through the real configuration, and clips as it does unless told."""

from functools import wraps

import numpy as np
import pytest
import ray

from agile_gym.errors import ConfigurationError
from agile_gym.learner import GRPOConfig
from agile_gym.learner.losses import LOSSES
from tests.helpers.rllib_parts import difference, train, weights

CLIPS = {"grpo": (0.2, 0.2), "dr_grpo": (0.2, 0.2), "dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4)}
"""As in the papers."""


@pytest.mark.parametrize("loss", CLIPS)
@pytest.mark.parametrize("told", [{}, {"clip_high": 0.5}])
def test_losses_train_and_clip(make_config, build, monkeypatch, loss, told):
    used, plain = set(), LOSSES[loss]

    @wraps(plain)
    def spy(batch, totals, **options):
        used.add((options["clip_low"], options["clip_high"]))
        return plain(batch, totals, **options)

    monkeypatch.setitem(LOSSES, loss, spy)
    algorithm = build(make_config(loss=loss, lr=1e-2, num_minibatches=2, num_epochs=2, **told))
    before = weights(algorithm)
    (metrics,) = train(algorithm)
    low, high = CLIPS[loss]
    assert used == {(low, told.get("clip_high", high))}
    assert np.isfinite(metrics["loss"])
    assert any((weights(algorithm)[name] != before[name]).any() for name in before)


def test_packed_episodes_train_as_padded_ones(make_config, build):
    padded, packed = (build(make_config(packing=packing, lr=1e-4, kl_coef=0.1)) for packing in ("off", "on"))
    before = weights(padded)
    told = [train(algorithm)[0] for algorithm in (padded, packed)]
    assert told[1] == pytest.approx(told[0], rel=1e-3, abs=1e-4)
    assert difference(weights(padded), weights(packed)) < 1e-5  # Adam makes much of tiny differences
    assert difference(before, weights(padded)) > 1e-4
    assert packed.learner_group._learner._updater._scorer.packing


def test_a_model_that_cannot_pack_is_refused(make_config, build):
    config = make_config(vlm={"attention": "eager"}, packing="on")
    with pytest.raises(ConfigurationError, match=r"packing='on' is not possible: attention='eager'.*'sdpa'"):
        build(config)


def test_every_loss_is_tried():
    assert CLIPS.keys() == LOSSES.keys()


@pytest.mark.parametrize("loss", CLIPS)
def test_small_changes_are_clipped_by_gspo_alone(make_config, build, loss):
    """With small steps ratios leave the range of GSPO, which is narrow, and not that of the others."""
    algorithm = build(
        make_config(loss=loss, lr=1e-4, num_minibatches=1, num_epochs=4, filter_zero_variance_groups=False)
    )
    learner = algorithm.train()["learners"]["default_policy"]
    clipped = float(learner["clip_frac_low"]) + float(learner["clip_frac_high"])
    assert (clipped > 0.01) == (loss == "gspo")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_low": 1.5}, r"clip_low=1\.5 is not allowed; give a number from 0 to 1"),
        ({"loss": "sft"}, "loss='sft' is not allowed"),
        ({"adam_betas": (0.9, 1.0)}, "adam_betas="),
        ({"adam_betas": 0.9}, "adam_betas=0.9 is not allowed; give a list of 2: a number, a number"),
        ({"lr": "1e-4"}, "lr='1e-4' is not allowed; give a number"),
        ({"lr": [[0, 1e-4], [10, 1e-5]]}, "lr="),
        ({"num_epochs": None}, "num_epochs=None is not allowed; give a whole number"),
        ({"tasks": 3}, "tasks=3 is not allowed; give a list"),
        ({"window": 0}, "window=0"),
        ({"curriculum": "yes"}, "curriculum='yes' is not allowed; give True or False"),
        ({"reward_fn": "letters"}, "give a function"),
        ({"grad_clip": float("nan")}, "grad_clip=nan"),
    ],
)
def test_values_are_checked_by_type_and_range(make_config, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        make_config(**settings).validate()


def test_what_rllib_refuses_is_said_in_one_line(make_config):
    config = make_config().evaluation(evaluation_duration=-1)
    with pytest.raises(ConfigurationError, match="evaluation_duration") as caught:
        config.validate()
    assert "\n" not in str(caught.value)


def test_a_cluster_is_asked_for_what_it_has(monkeypatch):
    from agile_gym.training.checking import check_settings
    from agile_gym.training.settings import read_settings

    address = ray.get_runtime_context().gcs_address
    monkeypatch.setenv("RAY_ADDRESS", address)  # as good as the setting

    def check(**resources):
        resources = {"runners": 0, "learners": 0, "cpus_per_runner": 1, "cpus_per_learner": 1} | resources
        check_settings(read_settings("tiny", {f"resources.{key}": value for key, value in resources.items()}))

    check(runners=2, learners=2)  # there are 4
    with pytest.raises(ConfigurationError, match=r"^\[resources\] This needs 6 CPUs .6 runners with 1., and Ray has 4"):
        check(runners=6, address=address)
    with pytest.raises(ConfigurationError, match=r"needs 5 CPUs .1 learner with 5.*cpus_per_learner = 4"):
        check(learners=1, cpus_per_learner=5)
    with pytest.raises(ConfigurationError, match=r"needs 1 GPUs .1 runner with 1., and Ray has 0"):
        check(runners=1, gpus_per_runner=1)
    check_settings(read_settings("tiny", {"resources.runners": 60, "grpo.check_resources": False}))


def test_defaults_are_those_of_a_fresh_configuration():
    config = GRPOConfig()
    config.check_values()
    assert config.clip_range == CLIPS["grpo"]
    assert config.training(loss="gspo", clip_low=None).clip_range == CLIPS["gspo"]
