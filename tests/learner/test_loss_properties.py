"""Properties that every loss has, for random batches."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers.loss.loss_utils import ForCausalLMLoss  # noqa: E402 -- after the skip

from agile_gym.learner.losses import sft  # noqa: E402 -- after the skip
from agile_gym.learner.ratios import TokenBatch, Totals, count, entropy, k3  # noqa: E402 -- after the skip
from tests.helpers.loss_samples import ARRAYS, LOSSES, TERMS, loss_and_gradients, random_arrays, take  # noqa: E402 -- after the skip

SEEDS = st.integers(0, 2**32)
SIZES = st.tuples(st.integers(1, 4), st.integers(1, 6))
every_loss = pytest.mark.parametrize("name", LOSSES)
QUICK = settings(max_examples=40, deadline=None)


@pytest.mark.parametrize(
    # With an advantage for each token, GSPO's gradient is not the one of its value; it is tested below.
    ("name", "per_token"),
    [(name, per_token) for name in LOSSES for per_token in (False, True) if (name, per_token) != ("gspo", True)],
)
@pytest.mark.parametrize("clip", [0.05, 0.5])
def test_gradients_are_those_of_finite_differences(name, per_token, clip):
    for seed in range(5):
        arrays = random_arrays(seed, 2, 4, spread=0.3, per_token=per_token)
        arrays["lengths"] = arrays["loss_mask"].sum(1) + 1

        def value(logps, entropies, arrays=arrays):
            batch = TokenBatch(**arrays | {"logps": logps, "entropies": entropies})
            return LOSSES[name](batch, Totals(9, 3), clip_low=clip, clip_high=clip, **TERMS).loss

        inputs = (arrays["logps"].requires_grad_(), arrays["entropies"].requires_grad_())
        assert torch.autograd.gradcheck(value, inputs, eps=1e-7, atol=1e-6)


def test_gradient_of_cross_entropy():
    arrays = random_arrays(0, 3, 4)
    assert torch.autograd.gradcheck(
        lambda logps: sft(logps, arrays["loss_mask"], Totals(9, 3)).loss, (arrays["logps"].requires_grad_(),)
    )


@every_loss
@given(seed=SEEDS, size=SIZES, per_token=st.booleans())
@QUICK
def test_where_nothing_has_changed_the_gradient_is_the_policy_gradient(name, seed, size, per_token):
    arrays = random_arrays(seed, *size, per_token=per_token)
    arrays["logps"] = arrays["old_logps"].clone()
    loss_mask, advantages = arrays["loss_mask"], arrays["advantages"]
    _, stats, gradients = loss_and_gradients(LOSSES[name], arrays)
    rows, tokens = len(loss_mask), int(loss_mask.sum())
    for row in range(rows):
        length = int(loss_mask[row].sum())
        weight = {"grpo": 1 / length / rows, "gspo": 1 / length / rows, "dapo": 1 / tokens, "dr_grpo": 1 / (7 * rows)}
        for column in range(loss_mask.shape[1]):
            advantage = (advantages[row, column] if per_token else advantages[row]).item()
            expected = -weight[name] * advantage if loss_mask[row, column] else 0.0
            assert gradients["logps"][row, column].item() == pytest.approx(expected, abs=1e-12)
    told = stats.metrics()
    assert (told["ratio"], told["approx_kl"], told["max_log_ratio"]) == (1, 0, 0)
    assert told["clip_frac_low"] == told["clip_frac_high"] == 0


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo"])
@given(seed=SEEDS, size=SIZES, per_token=st.booleans(), low=st.floats(0, 0.9), high=st.floats(0, 2))
@QUICK
def test_what_is_clipped_has_no_gradient_and_all_else_has(name, seed, size, per_token, low, high):
    arrays = random_arrays(seed, *size, per_token=per_token)
    _, stats, gradients = loss_and_gradients(LOSSES[name], arrays, clip_low=low, clip_high=high)
    ratios = (arrays["logps"] - arrays["old_logps"]).exp()
    advantages = arrays["advantages"] if per_token else arrays["advantages"][:, None].expand_as(ratios)
    above = (ratios > 1 + high) & (advantages > 0) & arrays["loss_mask"]
    below = (ratios < 1 - low) & (advantages < 0) & arrays["loss_mask"]
    assert torch.equal(gradients["logps"] == 0, above | below | ~arrays["loss_mask"])
    tokens = arrays["loss_mask"].sum().item()
    told = stats.metrics()
    assert told["clip_frac_low"] == pytest.approx(below.sum().item() / tokens)
    assert told["clip_frac_high"] == pytest.approx(above.sum().item() / tokens)


@given(seed=SEEDS, size=SIZES, per_token=st.booleans(), low=st.floats(0, 0.9), high=st.floats(0, 2))
@QUICK
def test_a_sequence_is_clipped_as_a_whole_and_credits_each_token(seed, size, per_token, low, high):
    arrays = random_arrays(seed, *size, per_token=per_token)
    _, _, gradients = loss_and_gradients(LOSSES["gspo"], arrays, clip_low=low, clip_high=high)
    for row, loss_mask in enumerate(arrays["loss_mask"]):
        length = int(loss_mask.sum())
        changes = (arrays["logps"][row] - arrays["old_logps"][row])[loss_mask]
        ratio = math.exp(changes.sum().item() / length)
        advantages = arrays["advantages"][row][loss_mask] if per_token else arrays["advantages"][row].expand(length)
        clipped = (advantages > 0) if ratio > 1 + high else (advantages < 0) & (ratio < 1 - low)
        expected = torch.where(clipped, 0.0, -advantages * ratio / length / len(arrays["loss_mask"]))
        assert torch.allclose(gradients["logps"][row][loss_mask], expected, atol=1e-12)
        assert not gradients["logps"][row][~loss_mask].any()


@pytest.mark.slow
@every_loss
@given(seed=SEEDS, size=SIZES, per_token=st.booleans(), bad=st.sampled_from([math.nan, math.inf, -math.inf, 1e30]))
@QUICK
def test_what_is_masked_has_no_influence(name, seed, size, per_token, bad):
    arrays = random_arrays(seed, *size, per_token=per_token)
    changed = dict(arrays)
    for array in ARRAYS:
        if arrays[array].ndim == 2:
            changed[array] = arrays[array].masked_fill(~arrays["loss_mask"], bad)
    expected = loss_and_gradients(LOSSES[name], arrays, **TERMS)
    told = loss_and_gradients(LOSSES[name], changed, **TERMS)
    assert told[0] == expected[0]
    assert told[1].metrics() == expected[1].metrics()
    for leaf, gradient in told[2].items():
        assert torch.equal(gradient, expected[2][leaf])
        assert not gradient[~arrays["loss_mask"]].any()


@given(seed=SEEDS, size=SIZES, bad=st.sampled_from([math.nan, math.inf, -math.inf]))
@QUICK
def test_what_is_masked_has_no_influence_on_cross_entropy(seed, size, bad):
    arrays = random_arrays(seed, *size)
    logps = arrays["logps"].masked_fill(~arrays["loss_mask"], bad).requires_grad_()
    loss, stats = sft(logps, arrays["loss_mask"], count(arrays["loss_mask"]))
    loss.backward()
    assert loss.item() == pytest.approx(-arrays["logps"][arrays["loss_mask"]].mean().item())
    assert stats.metrics()["nll"] == pytest.approx(loss.item())
    assert torch.allclose(logps.grad, -arrays["loss_mask"].double() / arrays["loss_mask"].sum())


@pytest.mark.slow
@every_loss
@given(seed=SEEDS, size=SIZES)
@QUICK
def test_padding_has_no_influence(name, seed, size):
    arrays = random_arrays(seed, *size)
    padded = {
        key: torch.nn.functional.pad(array, (0, 2, 0, 1) if array.ndim == 2 else (0, 1))
        for key, array in arrays.items()
    }
    loss, stats, gradients = loss_and_gradients(LOSSES[name], padded, **TERMS)
    expected_loss, expected_stats, expected = loss_and_gradients(LOSSES[name], arrays, **TERMS)
    assert loss.item() == pytest.approx(expected_loss.item())
    assert stats.metrics() == pytest.approx(expected_stats.metrics())
    rows, columns = size
    for leaf, gradient in gradients.items():
        assert torch.allclose(gradient[:rows, :columns], expected[leaf])


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(seed=SEEDS, scale=st.sampled_from([30.0, 1000.0, 1e30]))
@QUICK
def test_far_away_from_the_old_weights_everything_stays_finite(name, dtype, seed, scale):
    arrays = random_arrays(seed, 3, 4, dtype=dtype)
    arrays["logps"] = arrays["old_logps"] + scale * (arrays["logps"] - arrays["old_logps"])
    arrays["logps"][0, 0] = -torch.inf
    arrays["ref_logps"] = arrays["ref_logps"] * scale
    loss, stats, gradients = loss_and_gradients(LOSSES[name], arrays, **TERMS)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    told = stats.metrics()
    assert all(math.isfinite(value) for metric, value in told.items() if metric != "max_log_ratio")


@every_loss
def test_low_precision_is_raised_first(name):
    arrays = random_arrays(0, 3, 4, dtype=torch.bfloat16)
    raised = {key: array.float() if array.is_floating_point() else array for key, array in arrays.items()}
    loss, _, gradients = loss_and_gradients(LOSSES[name], arrays, **TERMS)
    expected, _, expected_gradients = loss_and_gradients(LOSSES[name], raised, **TERMS)
    assert loss.dtype == torch.float32
    assert loss == expected
    # The gradients of the ratio and of the divergence are each rounded to bfloat16.
    assert torch.allclose(gradients["logps"].float(), expected_gradients["logps"], rtol=0.01, atol=1e-4)


@every_loss
def test_a_nan_among_the_trained_tokens_is_not_hidden(name):
    arrays = random_arrays(0, 2, 3)
    arrays["logps"][0, arrays["loss_mask"][0].nonzero()[0]] = math.nan
    loss, stats, _ = loss_and_gradients(LOSSES[name], arrays)
    assert loss.isnan()
    assert math.isnan(stats.metrics()["ratio"])


@pytest.mark.slow
@every_loss
@given(seed=SEEDS)
@QUICK
def test_order_of_the_rows_has_no_influence(name, seed):
    arrays = random_arrays(seed, 4, 5)
    loss, _, gradients = loss_and_gradients(LOSSES[name], arrays, **TERMS)
    order = [2, 0, 3, 1]
    shuffled, _, shuffled_gradients = loss_and_gradients(LOSSES[name], take(arrays, order), **TERMS)
    assert shuffled.item() == pytest.approx(loss.item())
    assert torch.allclose(shuffled_gradients["logps"], gradients["logps"][order])


@given(seed=SEEDS)
@QUICK
def test_entropy_and_divergence_are_those_of_torch(seed):
    generator = torch.Generator().manual_seed(seed)
    logits, other = torch.randn(2, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    new, ref = logits.log_softmax(-1), other.log_softmax(-1)
    distribution = torch.distributions.Categorical(logits=logits)
    told = entropy(new)
    assert told.item() == pytest.approx(distribution.entropy().item())
    (gradient,) = torch.autograd.grad(told, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(distribution.entropy(), logits)
    assert torch.allclose(gradient, expected)
    # The mean of k3 over all tokens, weighted with their probabilities, is the divergence itself.
    estimates = k3(new[None], ref[None], torch.ones(1, 6).bool())[0]
    exact = torch.distributions.kl_divergence(distribution, torch.distributions.Categorical(logits=other))
    assert (new.exp() * estimates).sum().item() == pytest.approx(exact.item())
    assert estimates.min() >= 0


def test_cross_entropy_is_that_of_transformers():
    # With the number of tokens of the whole batch, as its Trainer does.
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 8, generator=generator, requires_grad=True)
    labels = torch.randint(8, (3, 6), generator=generator)
    loss_mask = torch.rand(3, 6, generator=generator) < 0.6
    loss_mask[:, 0] = False  # the first token has no context
    theirs = ForCausalLMLoss(logits, labels.masked_fill(~loss_mask, -100), 8, num_items_in_batch=torch.tensor(20))
    (their_gradient,) = torch.autograd.grad(theirs, logits)
    logps = logits[:, :-1].log_softmax(-1).gather(-1, labels[:, 1:, None])[..., 0]
    loss = sft(logps, loss_mask[:, 1:], Totals(20, 3)).loss
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert torch.allclose(gradient, their_gradient, atol=1e-7)
