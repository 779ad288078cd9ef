"""Detection of a mismatch between sampling and training."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agile_gym.learner.data import make_samples  # noqa: E402 -- after the skip
from agile_gym.learner.options import make_optimizer  # noqa: E402 -- after the skip
from agile_gym.learner.updating import (  # noqa: E402 -- after the skip
    ProcessGroup,
    StepOptions,
    Updater,
)
from agile_gym.models import ChatFormat  # noqa: E402 -- after the skip
from agile_gym.models.scoring import Scorer  # noqa: E402 -- after the skip
from agile_gym.policies.model import HFVLMPolicy  # noqa: E402 -- after the skip
from agile_gym.reporting.alarms import MISMATCH, find_alarms  # noqa: E402 -- after the skip
from agile_gym.rollout import EpisodeSpec, play_episodes  # noqa: E402 -- after the skip
from tests.helpers.tiny_learning import SMALL, small_vlm  # noqa: E402 -- needs torch

SHARPNESS = (8, 20)
"""Factors of the logits: entropies of about 2.3 and 0.15 nats a token, the second as in a trained model."""


def sharp_vlm(sharpness):
    """Return a small model that is sure of what it writes, as a trained one is."""
    vlm = small_vlm()
    with torch.no_grad():
        vlm.model.model.language_model.norm.weight.mul_(sharpness)
    return vlm


@pytest.fixture(scope="module", params=SHARPNESS)
def played(request):
    """Samples of episodes that a model has played in float32, and its sharpness."""
    policy = HFVLMPolicy(sharp_vlm(request.param), max_new_tokens=16)
    policy.reset(0)
    specs = [EpisodeSpec("env", seed, {"level": 0}, policy_seed=seed, name=str(seed)) for seed in range(12)]
    episodes = [transcript for _, transcript in play_episodes(policy, specs, {"env": SMALL}, batch=12)]
    return request.param, [sample for episode in episodes for sample in make_samples(episode, 0.5, minibatches=(0,))]


def make_updater(sharpness, *, temperature=1.0, autocast=None, lr=1e-3):
    vlm = sharp_vlm(sharpness)
    optimizer = make_optimizer(vlm.model.named_parameters(), lr=lr, betas=(0.9, 0.999), weight_decay=0.0)
    scorer = Scorer(vlm, ChatFormat(vlm.processor), temperature=temperature)
    return Updater(
        scorer, optimizer, StepOptions("grpo", autocast=autocast), ProcessGroup(vlm.device, distributed=False)
    )


def alarms_of(metrics):
    return [alarm.kind for alarm in find_alarms([{"learner/approx_kl_first": metrics["approx_kl"]}])]


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [None, "bfloat16"])
def test_rounding_is_no_alarm(played, autocast):
    sharpness, samples = played
    metrics = make_updater(sharpness, autocast=autocast).step(samples)
    assert alarms_of(metrics) == []
    assert metrics["approx_kl"] < MISMATCH / 20
    assert (metrics["max_log_ratio"] > 0.02) == (autocast is not None)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.7, 0.8, 1.25])
def test_another_temperature_is_an_alarm(played, temperature):
    sharpness, samples = played
    assert alarms_of(make_updater(sharpness, temperature=temperature).step(samples)) == ["mismatch"]


@pytest.mark.slow
def test_stale_weights_are_an_alarm(played):
    sharpness, samples = played
    updater = make_updater(sharpness, lr=3e-3)
    assert alarms_of(updater.step(samples)) == []
    assert alarms_of(updater.step(samples)) == ["mismatch"]
