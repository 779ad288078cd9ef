"""Losses against numbers worked out by hand."""

import math

import pytest

torch = pytest.importorskip("torch")

from agile_gym.learner.losses import LOSSES, dapo, dr_grpo, grpo, gspo, sft  # noqa: E402 -- after the skip
from agile_gym.learner.ratios import LossStats, TokenBatch, Totals, count, entropy, k3, log_ratios, mask_truncated  # noqa: E402 -- after the skip

NAN = math.nan
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])
RATIOS = torch.tensor([[1.5, 1.0, NAN], [0.5, 1.1, 2.0]])
REF_RATIOS = torch.tensor([[2.0, 1.0, NAN], [0.5, 1.0, 1.0]])  # p_ref / p
ENTROPIES = torch.tensor([[1.0, 2.0, NAN], [0.5, 0.5, 1.0]])
TOTALS = Totals(tokens=5, episodes=2)
# Surrogates, clipped at 0.8 and 1.2:  3 -> 2.4, 2   |   -0.5 -> -0.8, -1.1, -2 (not clipped: the lesser of -2, -1.2)
# k3 to the reference:                 1 - ln 2, 0   |   ln 2 - 1/2, 0, 0
LN2 = math.log(2)
KL_BY_EPISODE = ((1 - LN2) / 2 + (LN2 - 0.5) / 3) / 2


def make_batch(**changes):
    old = torch.tensor([[-1.0, -2.0, NAN], [-3.0, -0.5, -1.5]])
    logps = old + RATIOS.log()
    arrays = {
        "logps": logps,
        "old_logps": old,
        "loss_mask": MASK,
        "advantages": torch.tensor([2.0, -1.0]),
        "ref_logps": logps + REF_RATIOS.log(),
        "entropies": ENTROPIES,
    }
    return TokenBatch(**arrays | changes)


@pytest.mark.parametrize(
    ("loss", "options", "expected", "kl"),
    [
        (grpo, {}, -((2.4 + 2) / 2 + (-0.8 - 1.1 - 2) / 3) / 2, KL_BY_EPISODE),  # -0.45
        (grpo, {"clip_high": 0.6}, -((3 + 2) / 2 + (-0.8 - 1.1 - 2) / 3) / 2, KL_BY_EPISODE),
        (grpo, {"clip_low": 0.6}, -((2.4 + 2) / 2 + (-0.5 - 1.1 - 2) / 3) / 2, KL_BY_EPISODE),
        (dr_grpo, {"max_tokens": 10}, -(2.4 + 2 - 0.8 - 1.1 - 2) / (2 * 10), 0.5 / 20),  # -0.025
        (dapo, {}, -(2.56 + 2 - 0.8 - 1.1 - 2) / 5, 0.5 / 5),  # -0.132
        (dapo, {"clip_high": 0.2}, -(2.4 + 2 - 0.8 - 1.1 - 2) / 5, 0.5 / 5),
        # One ratio a row: sqrt(1.5) = 1.2247 and (0.5 * 1.1 * 2) ** (1 / 3) = 1.0323.
        (gspo, {"clip_low": 0.2, "clip_high": 0.2}, -(2 * 1.2 - 1.1 ** (1 / 3)) / 2, KL_BY_EPISODE),
        (gspo, {"clip_low": 0.2, "clip_high": 0.3}, -(2 * 1.5**0.5 - 1.1 ** (1 / 3)) / 2, KL_BY_EPISODE),
        (gspo, {}, -(2 * 1.0004 - 1.1 ** (1 / 3)) / 2, KL_BY_EPISODE),
    ],
)
def test_losses_with_kl_and_entropy(loss, options, expected, kl):
    def value(**terms):
        return loss(make_batch(), TOTALS, **options, **terms).loss.item()

    assert value() == pytest.approx(expected, rel=1e-5)
    assert value(kl_coef=0.1) == pytest.approx(expected + 0.1 * kl, rel=1e-5)
    # The entropy is the mean over the five tokens, 1, whatever the loss.
    assert value(entropy_coef=0.01) == pytest.approx(expected - 0.01, rel=1e-5)
    assert value(kl_coef=0.1, entropy_coef=0.01) == pytest.approx(expected + 0.1 * kl - 0.01, rel=1e-5)


@pytest.mark.parametrize(("loss", "high"), [(grpo, 1 / 5), (dapo, 1 / 5)])
def test_metrics_of_token_ratios(loss, high):
    told = loss(make_batch(), TOTALS, entropy_coef=0.01, kl_coef=0.1)
    assert told.stats.metrics() == pytest.approx(
        {
            "loss": told.loss.item(),
            "tokens": 5,
            "episodes": 2,
            "clip_frac_low": 1 / 5,  # 0.5 with a negative advantage; 2.0 has one too and is not clipped
            "clip_frac_high": high,  # 1.5 with a positive one
            "ratio": (1.5 + 1 + 0.5 + 1.1 + 2) / 5,
            # r - 1 - ln r of 1.5, 0.5, 1.1 and 2
            "approx_kl": (0.5 - math.log(1.5) - 0.5 + LN2 + 0.1 - math.log(1.1) + 1 - LN2) / 5,
            "kl_ref": 0.5 / 5,
            "entropy": 1.0,
            "max_log_ratio": LN2,
        },
        rel=1e-5,
    )


def test_metrics_of_sequence_ratios():
    told = gspo(make_batch(), TOTALS, clip_low=0.2, clip_high=0.2).stats.metrics()
    assert told["ratio"] == pytest.approx((2 * 1.5**0.5 + 3 * 1.1 ** (1 / 3)) / 5)
    assert (told["clip_frac_low"], told["clip_frac_high"]) == pytest.approx((0, 2 / 5))
    told = gspo(make_batch(advantages=torch.tensor([-2.0, 1.0])), TOTALS, clip_low=0.2, clip_high=0.02).stats.metrics()
    assert (told["clip_frac_low"], told["clip_frac_high"]) == pytest.approx((0, 3 / 5))


def test_what_is_not_given_is_not_told():
    told = grpo(make_batch(ref_logps=None, entropies=None), TOTALS).stats.metrics()
    assert {"kl_ref", "entropy"}.isdisjoint(told)
    assert set(LOSSES) == {"grpo", "dr_grpo", "dapo", "gspo"}


def test_an_advantage_for_each_token():
    advantages = torch.tensor([[2.0, -1.0, NAN], [0.0, 1.0, -3.0]])
    # 2.4, -1 | 0, 1.1, -6
    batch = make_batch(advantages=advantages)
    assert grpo(batch, TOTALS).loss.item() == pytest.approx(-((2.4 - 1) / 2 + (1.1 - 6) / 3) / 2)
    assert dapo(batch, TOTALS, clip_high=0.2).loss.item() == pytest.approx(-(2.4 - 1 + 1.1 - 6) / 5)
    assert dr_grpo(batch, TOTALS, max_tokens=3).loss.item() == pytest.approx(-(2.4 - 1 + 1.1 - 6) / 6)
    # With the ratios 1.2247 (clipped to 1.2 where the advantage is positive) and 1.0323:
    sequence = -((2 * 1.2 - 1.5**0.5) / 2 + (1 - 3) * 1.1 ** (1 / 3) / 3) / 2
    assert gspo(batch, TOTALS, clip_low=0.2, clip_high=0.2).loss.item() == pytest.approx(sequence, rel=1e-5)


def test_a_row_that_is_half_of_an_episode():
    lengths = torch.tensor([2, 6])
    assert count(MASK, lengths) == Totals(5, 1.5)
    result = grpo(make_batch(lengths=lengths), TOTALS)
    assert result.loss.item() == pytest.approx(-((2.4 + 2) / 2 + (-0.8 - 1.1 - 2) / 6) / 2)
    assert result.stats.metrics()["episodes"] == pytest.approx(1.5)
    halved = gspo(make_batch(lengths=lengths), TOTALS, clip_low=0.2, clip_high=0.2).loss.item()
    assert halved == pytest.approx(-(2 * 1.2 - 1.1 ** (1 / 3) / 2) / 2)


def test_cross_entropy():
    logps = torch.tensor([[-1.0, -2.0, NAN], [-0.5, -0.5, -2.0]])
    result = sft(logps, MASK, TOTALS, entropies=ENTROPIES)
    assert result.loss.item() == pytest.approx(6 / 5)
    assert result.stats.metrics() == pytest.approx(
        {"loss": 6 / 5, "tokens": 5, "nll": 6 / 5, "entropy": 1.0, "max_nll": 2.0}
    )
    # As a part of a batch of 20 tokens, its share of the loss; its metrics are its own.
    part = sft(logps, MASK, Totals(20, 9)).stats.metrics()
    assert part == pytest.approx({"loss": 6 / 20, "tokens": 5, "nll": 6 / 5, "max_nll": 2.0})


def test_counts():
    assert count(MASK) == Totals(5, 2)
    assert count(MASK.bool()) == Totals(5, 2)
    assert count(torch.zeros(2, 3, dtype=torch.bool)) == Totals(0, 0)
    assert count(torch.zeros(0, 3, dtype=torch.bool), torch.zeros(0)) == Totals(0, 0)
    assert Totals(5, 2) + Totals(1, 0.5) == Totals(6, 2.5)


def test_truncated_episodes_are_neither_trained_on_nor_counted():
    loss_mask = mask_truncated(MASK, torch.tensor([True, False]))
    assert loss_mask.tolist() == [[False] * 3, [True] * 3]
    assert count(loss_mask) == Totals(3, 1)
    assert grpo(make_batch(loss_mask=loss_mask), count(loss_mask)).loss.item() == pytest.approx((0.8 + 1.1 + 2) / 3)
    none = mask_truncated(MASK, torch.tensor([True, True]))
    batch = make_batch(loss_mask=none, logps=make_batch().logps.requires_grad_())
    loss = dapo(batch, TOTALS, entropy_coef=0.1, kl_coef=0.1).loss  # the whole batch has others
    loss.backward()  # and DistributedDataParallel needs this rank's backward pass
    assert loss.item() == 0
    assert torch.equal(batch.logps.grad, torch.zeros(2, 3))


def test_statistics_add_up():
    first, second = (grpo(make_batch(advantages=torch.tensor(values)), TOTALS) for values in ([2.0, -1.0], [-1.0, 2.0]))
    both = (first.stats + second.stats).metrics()
    assert both["tokens"] == 10
    assert both["loss"] == pytest.approx((first.loss + second.loss).item())
    # Of the second, 2.0 is clipped above.
    assert (both["clip_frac_low"], both["clip_frac_high"]) == pytest.approx((1 / 10, 2 / 10))
    assert both["max_log_ratio"] == pytest.approx(LN2)
    with pytest.raises(ValueError, match="do not add up"):
        first.stats + sft(torch.zeros(2, 3), MASK, TOTALS).stats
    nothing = LossStats.make({"tokens": torch.tensor(0.0), "x": torch.tensor(0.0)}, {"m": torch.tensor(1.0)})
    assert nothing.metrics() == {"tokens": 0, "x": 0, "m": 1}


def test_ratios_and_divergences():
    batch = make_batch()
    assert torch.allclose(log_ratios(batch.logps, batch.old_logps, MASK).exp(), RATIOS.nan_to_num(1))
    expected = torch.tensor([[1 - LN2, 0, 0], [LN2 - 0.5, 0, 0]])
    assert torch.allclose(k3(batch.logps, batch.ref_logps, MASK), expected, atol=1e-6)
    far = torch.tensor([[-1000.0, 1000.0, -torch.inf]])
    assert log_ratios(far, torch.zeros(1, 3), torch.ones(1, 3).bool()).tolist() == [[-20, 20, -20]]


def test_entropy_where_tokens_cannot_be_drawn():
    logits = torch.tensor([[0.0, 0.0, -torch.inf, 0.0], [5.0, -torch.inf, -torch.inf, -torch.inf]], requires_grad=True)
    told = entropy(logits.log_softmax(-1))
    assert told.tolist() == pytest.approx([math.log(3), 0])
    told.sum().backward()
    assert torch.isfinite(logits.grad).all()


BAD = [
    ({"loss_mask": torch.ones(3, dtype=torch.bool)}, r"loss_mask \(3,\) must have shape \(B, T\)"),
    ({"loss_mask": torch.ones(2, 3)}, "loss_mask must be bool or integer, not torch.float32"),
    ({"logps": torch.zeros(2, 4)}, r"logps \(2, 4\) must have the shape \(B, T\) of loss_mask, \(2, 3\)"),
    ({"logps": torch.zeros(2, 3, dtype=torch.int64)}, "logps must be floating, not torch.int64"),
    ({"old_logps": torch.zeros(1, 3)}, r"old_logps \(1, 3\) must have"),
    ({"ref_logps": torch.zeros(2)}, r"ref_logps \(2,\) must have"),
    ({"entropies": torch.zeros(2, 3, 1)}, r"entropies \(2, 3, 1\) must have"),
    ({"advantages": torch.zeros(3)}, r"advantages \(3,\) must have shape \(B,\) or \(B, T\); \(B, T\) is \(2, 3\)"),
    ({"advantages": torch.zeros(2, 1)}, r"advantages \(2, 1\) must have"),
    ({"advantages": torch.zeros(2, dtype=torch.int64)}, "advantages must be floating"),
    ({"lengths": torch.ones(3)}, r"lengths \(3,\) must have shape \(B,\)"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_wrong_shapes_and_types(changes, message):
    with pytest.raises(ValueError, match=message):
        make_batch(**changes)


@pytest.mark.parametrize(
    ("loss", "totals", "options", "message"),
    [
        (grpo, Totals(5, 0), {}, r"totals\.episodes=0 must be above 0"),
        (gspo, Totals(5, 0), {}, r"totals\.episodes=0 must be above 0"),
        (dapo, Totals(0, 2), {}, r"totals\.tokens=0 must be above 0"),
        (grpo, Totals(NAN, 2), {"entropy_coef": 0.1}, r"totals\.tokens=nan must be above 0"),
        (dr_grpo, TOTALS, {"max_tokens": 0}, "max_tokens=0 must be above 0"),
        (grpo, TOTALS, {"clip_low": 1.5}, r"clip_low=1\.5 must be from 0 to 1"),
        (grpo, TOTALS, {"clip_high": -0.1}, r"clip_high=-0\.1 at least 0"),
        (grpo, TOTALS, {"kl_coef": -1}, "kl_coef=-1 is not allowed"),
        (grpo, TOTALS, {"entropy_coef": NAN}, "entropy_coef=nan is not allowed"),
    ],
)
def test_wrong_counts_and_options(loss, totals, options, message):
    with pytest.raises(ValueError, match=message):
        loss(make_batch(), totals, **options)


def test_a_term_without_its_array():
    with pytest.raises(ValueError, match=r"kl_coef=0\.1 needs ref_logps"):
        grpo(make_batch(ref_logps=None), TOTALS, kl_coef=0.1)
    with pytest.raises(ValueError, match=r"entropy_coef=0\.1 needs entropies"):
        grpo(make_batch(entropies=None), TOTALS, entropy_coef=0.1)


def test_wrong_shapes_of_functions():
    flat = torch.zeros(6)
    with pytest.raises(ValueError, match=r"logps \(6,\) must have"):
        sft(flat, MASK, TOTALS)
    with pytest.raises(ValueError, match=r"old_logps \(6,\) must have"):
        log_ratios(torch.zeros(2, 3), flat, MASK)
    with pytest.raises(ValueError, match=r"ref_logps \(6,\) must have"):
        k3(torch.zeros(2, 3), flat, MASK)
    with pytest.raises(ValueError, match=r"lengths \(6,\) must have shape \(B,\)"):
        count(MASK, flat)
    with pytest.raises(ValueError, match=r"truncated \(6,\) of torch\.bool must have shape \(B,\)"):
        mask_truncated(MASK, flat.bool())
    with pytest.raises(ValueError, match=r"truncated \(2,\) of torch\.float32"):
        mask_truncated(MASK, torch.zeros(2))
