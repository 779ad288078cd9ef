from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agile_gym.learner.updating import ProcessGroup  # noqa: E402 -- after the skip
from tests.helpers.gloo_ranks import STEPS, make_updater, train  # noqa: E402 -- needs torch
from tests.helpers.sharded_ranks import text_only  # noqa: E402 -- likewise
from tests.helpers.tiny_learning import made_sample, samples, small_vlm  # noqa: E402 -- after the skip

ALONE = ProcessGroup(torch.device("cpu"), distributed=False)
LOSSES = {
    "grpo": {},
    "dr_grpo": {"max_tokens": 30},
    "dapo": {"entropy_coef": 0.1},
    "gspo": {},
    "sft": {},
}


def gradients(chosen, **options):
    """Return the gradient of a step, before the weights change, and its metrics."""
    vlm = small_vlm()
    updater = make_updater(vlm, ALONE, grad_clip=None, **options)
    metrics = updater.step(chosen)
    return {name: p.grad.clone() for name, p in vlm.model.named_parameters() if p.grad is not None}, metrics


def assert_close(first, second, tolerance):
    assert first.keys() == second.keys()
    scale = max(float(tensor.abs().max()) for tensor in first.values())
    assert scale > 0
    for name, tensor in first.items():
        assert float((tensor - second[name]).abs().max()) <= tolerance * scale, name


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("tokens", [1, 150])
def test_gradient_of_micro_batches_is_that_of_one_batch(loss, tokens):
    options = {"loss": loss, "loss_options": LOSSES[loss]}
    chosen = samples(supervised=loss == "sft")
    whole, expected = gradients(chosen, micro_batch_tokens=10**9, **options)
    parts, metrics = gradients(chosen, micro_batch_tokens=tokens, **options)
    assert_close(whole, parts, 1e-5)
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-5)


def unequal():
    """Return samples of many lengths, some of them without an image."""
    cut = []
    for number, sample in enumerate(samples()):
        segment, part = sample.segment, slice(None, len(sample) - number)
        names = ("ids", "loss_mask", "logps", "turns", "advantages")
        cut.append(replace(sample, segment=replace(segment, **{name: getattr(segment, name)[part] for name in names})))
    return [*cut, *text_only(2)]


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_packed_episodes_have_the_gradient_and_metrics_of_padded_ones(loss):
    options = {"loss": loss, "loss_options": LOSSES[loss]}
    chosen = unequal()
    lengths = [len(sample) for sample in chosen]
    assert len(set(lengths)) > 5
    padded, expected = gradients(chosen, micro_batch_tokens=10**9, **options)
    for tokens in (10**9, max(lengths) + min(lengths)):
        packed, metrics = gradients(chosen, micro_batch_tokens=tokens, packing=True, **options)
        assert_close(padded, packed, 1e-5)
        assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_packed_episodes_compare_with_the_sampler_as_padded_ones():
    """The weights of a correction, and the reference, belong to the same tokens."""
    told = []
    for packing in (False, True):
        vlm = small_vlm()
        with torch.no_grad():
            for parameter in vlm.model.parameters():
                parameter.mul_(1.02)  # no longer the model that played
        frozen = make_updater(small_vlm(), ALONE, packing=packing)._scorer

        def reference(rows, frozen=frozen):
            with torch.no_grad():
                return frozen(rows).logps

        options = {"correction": "token_truncate", "correction_cap": 1.01, "loss_options": {"kl_coef": 0.1}}
        updater = make_updater(vlm, ALONE, reference=reference, packing=packing, **options)
        chosen = samples()
        updater.compare(chosen)
        told.append({**updater.mismatch, **updater.step(chosen)})
    assert told[0]["max_mismatch"] > 1e-3
    assert told[0]["kl_ref"] > 1e-6
    assert told[1] == pytest.approx(told[0], rel=1e-4, abs=1e-6)


def test_first_step_is_on_policy():
    _, metrics = gradients(samples(), micro_batch_tokens=10**9)
    assert metrics["max_log_ratio"] == pytest.approx(0, abs=1e-4)
    assert metrics["tokens"] == sum(sample.trained for sample in samples())
    assert metrics["episodes"] == pytest.approx(len(samples()))


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(two_ranks):
    alone = train([samples()], ALONE)
    for name, weights in alone["weights"].items():
        first, second = (found["weights"][name] for found in two_ranks)
        assert np.array_equal(first, second)
        assert np.abs(first - weights).max() < 1e-4  # Adam makes much of tiny differences
    start = dict(small_vlm().model.named_parameters())
    changes = [np.abs(alone["weights"][name] - p.detach().numpy()).max() for name, p in start.items()]
    assert max(changes) > 1e-3  # they were steps
    for step in range(STEPS):
        first, second = (found["metrics"][step] for found in two_ranks)
        assert first == second
        assert first == pytest.approx(alone["metrics"][step], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("advantage", [np.nan, np.inf])
def test_step_with_a_gradient_that_is_not_finite_is_skipped(advantage):
    vlm = small_vlm()
    updater = make_updater(vlm, ALONE)
    before = [parameter.detach().clone() for parameter in vlm.model.parameters()]
    bad = samples()
    segment = bad[2].segment
    poisoned = np.where(segment.loss_mask, np.float32(advantage), np.float32(0))
    bad[2] = replace(bad[2], segment=replace(segment, advantages=poisoned))
    metrics = updater.step(bad)
    assert not np.isfinite(metrics["grad_norm"])
    assert updater.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(before, vlm.model.parameters(), strict=True))
    updater.step(samples())
    assert (updater.skipped, updater.empty) == (1, 0)
    assert all(torch.isfinite(parameter).all() for parameter in vlm.model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, vlm.model.parameters(), strict=True))


@pytest.mark.parametrize("chosen", [[], [made_sample(5, marked=0)]])
def test_nothing_to_train_on_changes_nothing(chosen):
    vlm = small_vlm()
    updater = make_updater(vlm, ALONE)
    before = [parameter.detach().clone() for parameter in vlm.model.parameters()]
    metrics = updater.step(chosen)
    assert metrics["grad_norm"] == 0
    assert (updater.skipped, updater.empty) == (0, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, vlm.model.parameters(), strict=True))


def test_gradient_is_clipped():
    vlm = small_vlm()
    updater = make_updater(vlm, ALONE, grad_clip=1e-3)
    metrics = updater.step(samples())
    clipped = torch.cat([p.grad.flatten() for p in vlm.model.parameters() if p.grad is not None]).norm()
    assert metrics["grad_norm"] > 1e-3
    assert float(clipped) == pytest.approx(1e-3, rel=1e-3)


def test_kl_with_the_model_itself_is_nothing_and_grows_with_the_steps():
    vlm, frozen = small_vlm(), make_updater(small_vlm(), ALONE)._scorer

    def reference(rows):
        with torch.no_grad():
            return frozen(rows).logps

    updater = make_updater(vlm, ALONE, reference=reference, lr=1e-3, loss_options={"kl_coef": 0.1})
    values = [updater.step(samples())["kl_ref"] for _ in range(3)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[2] > 1e-5


def test_learns_what_is_better():
    vlm = small_vlm()
    updater = make_updater(vlm, ALONE, lr=3e-4, loss="grpo", loss_options={})
    chosen = samples()
    scorer = updater._scorer

    def logps():
        rows = [scorer.prepare(sample.segment, sample.images) for sample in chosen]
        with torch.no_grad():
            return scorer(rows).logps.sum(1).numpy()

    before = logps()
    for _ in range(5):
        updater.step(chosen)
    advantages = np.array([sample.segment.advantages[sample.segment.loss_mask][0] for sample in chosen])
    assert np.corrcoef(logps() - before, advantages)[0, 1] > 0.5


def test_matrix_products_in_bfloat16():
    exact, _ = gradients(samples(), micro_batch_tokens=10**9)
    rough, metrics = gradients(samples(), micro_batch_tokens=10**9, autocast="bfloat16")
    assert np.isfinite(metrics["grad_norm"])
    flat = [torch.cat([tensor.flatten() for tensor in part.values()]) for part in (exact, rough)]
    assert not torch.equal(*flat)
    assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.98
    assert flat[1].dtype == torch.float32
