"""Correction of a mismatch, on literal numbers, in TRL's formulas, and in an update."""

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agile_gym.learner.correction import (  # noqa: E402 -- after the skip
    CORRECTIONS,
    MismatchMeter,
    mismatch,
    mismatch_weights,
)
from agile_gym.learner.losses import grpo  # noqa: E402 -- after the skip
from agile_gym.learner.options import make_optimizer  # noqa: E402 -- after the skip
from agile_gym.learner.ratios import TokenBatch, count  # noqa: E402 -- after the skip
from agile_gym.learner.updating import ProcessGroup, StepOptions, Updater  # noqa: E402 -- after the skip
from agile_gym.models import ChatFormat  # noqa: E402 -- after the skip
from agile_gym.models.scoring import Scorer  # noqa: E402 -- after the skip
from tests.helpers.tiny_learning import samples, small_vlm  # noqa: E402 -- after the skip

LEARNER = torch.log(torch.tensor([[0.4, 0.3, 0.9], [0.8, 0.2, 0.5]], dtype=torch.float64))
SAMPLER = torch.log(torch.tensor([[0.1, 0.6, 0.1], [0.2, 0.2, 0.25]], dtype=torch.float64))
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])
LN4 = math.log(4)


def weights(correction, cap=3.0):
    return mismatch_weights(LEARNER, SAMPLER, MASK, correction=correction, cap=cap)


def same(tensor, numbers):
    return torch.allclose(tensor, torch.tensor(numbers, dtype=tensor.dtype), atol=1e-12)


def test_tokens_are_weighted_by_their_ratio_up_to_the_cap():
    assert same(weights("token_truncate"), [[3.0, 0.5, 1.0], [3.0, 1.0, 2.0]])


def test_sequences_above_the_cap_are_left_out():
    assert same(weights("sequence_mask"), [[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    assert same(weights("sequence_mask", cap=8.5), [[2.0, 2.0, 2.0], [8.0, 8.0, 8.0]])


def test_no_correction_weighs_all_alike():
    assert same(weights("none"), [[1.0] * 3] * 2)


@pytest.mark.parametrize(
    ("correction", "clipped"), [("none", 2 / 5), ("token_truncate", 2 / 5), ("sequence_mask", 3 / 5)]
)
def test_a_mismatch_is_described(correction, clipped):
    told = mismatch(LEARNER, SAMPLER, MASK, correction=correction, cap=3.0)
    changes = [math.log(4), math.log(0.5), math.log(4), 0.0, math.log(2)]
    assert told["tokens"] == 5
    assert float(told["mismatch_mean"]) == pytest.approx(sum(map(abs, changes)))
    assert float(told["max_mismatch"]) == pytest.approx(math.log(4))
    assert float(told["mismatch_kl"]) == pytest.approx(sum(math.exp(x) - 1 - x for x in changes))
    assert float(told["mismatch_clipped"]) / 5 == pytest.approx(clipped)


@pytest.mark.parametrize("mode", ["token_truncate", "sequence_mask"])
def test_the_weights_are_trls(mode):
    torch.manual_seed(0)
    old, sampling = -3 * torch.rand(2, 64, 9, dtype=torch.float64)
    mask = torch.rand(64, 9) < 0.7
    # As in trl.trainer.grpo_trainer, with its default vllm_importance_sampling_clip_max and no clip_min.
    difference = (old - sampling) * mask
    if mode == "sequence_mask":
        difference = difference.sum(dim=-1, keepdim=True)
    ratio = torch.exp(difference)
    ratio = torch.clamp(ratio, max=3.0) if mode == "token_truncate" else ratio.masked_fill(ratio > 3.0, value=0.0)
    ours = mismatch_weights(old, sampling, mask, correction=mode, cap=3.0)
    assert torch.allclose(ours, ratio.expand_as(ours))
    assert 0 < (ours == (0 if mode == "sequence_mask" else 3)).sum() < ours.numel()


@pytest.mark.parametrize("wrong", [{"correction": "mask"}, {"cap": 0.0}])
def test_other_corrections_are_refused(wrong):
    with pytest.raises(ValueError, match=r"not allowed|above 0"):
        mismatch_weights(LEARNER, SAMPLER, MASK, **{"correction": CORRECTIONS[1], "cap": 3.0, **wrong})


def test_weights_multiply_the_loss_of_a_token():
    logps = LEARNER.clone().requires_grad_()
    advantages = torch.tensor([1.0, -1.0], dtype=torch.float64)
    batch = TokenBatch(logps, LEARNER, MASK, advantages, weights=weights("token_truncate"))
    grpo(batch, count(MASK)).loss.backward()
    # The mean over 2 episodes of the mean over their tokens: weight * advantage / tokens of the episode / 2.
    assert same(logps.grad, [[-3 / 4, -0.5 / 4, 0.0], [3 / 6, 1 / 6, 2 / 6]])


def updater(correction, *, cap=3.0):
    vlm = small_vlm()
    optimizer = make_optimizer(vlm.model.named_parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    options = StepOptions("grpo", correction=correction, correction_cap=cap)
    scorer = Scorer(vlm, ChatFormat(vlm.processor))
    return Updater(scorer, optimizer, options, ProcessGroup(vlm.device, distributed=False))


@pytest.mark.slow
@pytest.mark.parametrize("correction", CORRECTIONS)
def test_an_update_without_a_mismatch_is_the_same_with_a_correction(correction):
    plain, corrected = updater("none"), updater(correction)
    given = samples()
    corrected.compare(given)
    told = corrected.mismatch
    assert told["max_mismatch"] < 1e-4
    assert told["mismatch_clipped"] == 0
    one, other = plain.step(given), corrected.step(given)
    assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)


@pytest.mark.slow
def test_sequences_that_are_far_off_are_not_trained_on():
    corrected = updater("sequence_mask", cap=1e-3)  # all are above
    given = samples()
    corrected.compare(given)
    assert corrected.mismatch["mismatch_clipped"] == 1
    assert corrected.step(given)["grad_norm"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("correction", ["none", "token_truncate"])
def test_a_mismatch_is_measured_before_the_first_step_of_an_update(correction):
    given = [replace(sample, segment=replace(sample.segment, logps=sample.segment.logps - LN4)) for sample in samples()]
    learner = updater(correction)
    learner.step([])
    assert learner.mismatch == {}  # there was nothing to compare
    if correction != "none":
        learner.compare(given)
    learner.step(given)
    told = dict(learner.mismatch)
    assert told["mismatch_mean"] == pytest.approx(LN4, abs=1e-4)
    assert told["max_mismatch"] == pytest.approx(LN4, abs=1e-4)
    assert told["mismatch_kl"] == pytest.approx(3 - LN4, abs=1e-3)  # the ratio is 4
    assert told["mismatch_clipped"] == 1
    learner.step(given)
    assert learner.mismatch == told  # other weights by now
    learner.forget()
    learner.step(given)
    assert learner.mismatch["max_mismatch"] != told["max_mismatch"]


def test_a_mismatch_is_that_of_all_learners():
    meters = [MismatchMeter(correction="none", cap=3.0) for _ in range(3)]
    meters[0].add(LEARNER[:1], SAMPLER[:1], MASK[:1])
    meters[2].add(LEARNER[1:], SAMPLER[1:], MASK[1:])
    sent = []
    for meter in meters:
        meter.mean(lambda sums, maxima: sent.append((sums, maxima)) or (sums, maxima))
    both = torch.stack([sums for sums, _ in sent]).sum(0), torch.stack([maxima for _, maxima in sent]).amax(0)
    told = meters[1].mean(lambda sums, maxima: both)
    assert told["mismatch_mean"] == pytest.approx(6 * math.log(2) / 5)
    assert told["max_mismatch"] == pytest.approx(math.log(4))
    assert told["mismatch_clipped"] == pytest.approx(2 / 5)
    assert meters[1].mean(lambda sums, maxima: (sums, maxima)) == {}
