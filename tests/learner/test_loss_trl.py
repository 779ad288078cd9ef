"""Losses against those of TRL, where it has the same one: its own code is called, on the same numbers."""

from collections import defaultdict
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from agile_gym.learner.ratios import Totals, count  # noqa: E402 -- after the skip
from tests.helpers.loss_samples import LOSSES, loss_and_gradients, random_arrays, take  # noqa: E402 -- after the skip

trl_trainer = pytest.importorskip("trl.trainer.grpo_trainer", reason="TRL is not installed")

MAX_TOKENS = 7  # as in loss_samples
CLIPS = {"clip_low": 0.15, "clip_high": 0.3}


class OneProcess:
    """The trainer's accelerator, as far as it is used with one process."""

    num_processes = 1
    sync_gradients = True

    @staticmethod
    def gather(tensor):
        return tensor.reshape(-1)

    @staticmethod
    def reduce(tensor, reduction):
        assert reduction == "sum"
        return tensor


def trl_loss(loss_type, arrays, tokens, *, level="token", kl_coef=0.0, entropy_coef=0.0, steps=1):
    """Return the loss, metrics and gradients of GRPOTrainer for a micro-batch, one of ``steps`` of a batch."""
    leaves = {name: arrays[name].clone().requires_grad_() for name in ("logps", "entropies")}
    trainer = SimpleNamespace(
        accelerator=OneProcess(),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=steps),
        aux_loss_enabled=False,
        beta=kl_coef,
        current_gradient_accumulation_steps=steps,
        entropy_coef=entropy_coef,
        epsilon_high=CLIPS["clip_high"],
        epsilon_low=CLIPS["clip_low"],
        importance_sampling_level=level,
        loss_type=loss_type,
        max_completion_length=MAX_TOKENS,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_adaptive_entropy=False,
        use_vllm=False,
        _entropy_bonus_enabled=entropy_coef > 0,
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaves["logps"], leaves["entropies"], None),
        _metrics={"train": defaultdict(list)},
    )
    rows, columns = arrays["loss_mask"].shape
    inputs = {
        "prompt_ids": torch.zeros(rows, 1, dtype=torch.int64),
        "prompt_mask": torch.ones(rows, 1, dtype=torch.int64),
        "completion_ids": torch.zeros(rows, columns, dtype=torch.int64),
        "completion_mask": torch.ones(rows, columns, dtype=torch.int64),
        "tool_mask": arrays["loss_mask"].long(),  # TRL's mask of what the model did not write
        "advantages": arrays["advantages"],
        "old_per_token_logps": arrays["old_logps"],
        "ref_per_token_logps": arrays["ref_logps"],
        "num_items_in_batch": torch.tensor(float(tokens)),
    }
    loss = trl_trainer.GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    gradients = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    return loss.item(), metrics, gradients


CASES = [
    ("grpo", "grpo", "token", False),
    ("grpo", "grpo", "token", True),
    ("dr_grpo", "dr_grpo", "token", False),
    ("dr_grpo", "dr_grpo", "token", True),
    ("dapo", "dapo", "token", False),
    ("dapo", "dapo", "token", True),
    ("dapo", "bnpo", "token", False),  # the same where a batch is not split
    ("gspo", "grpo", "sequence", False),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "loss_type", "level", "per_token"), CASES)
@pytest.mark.parametrize("terms", [{}, {"kl_coef": 0.3}, {"entropy_coef": 0.2}])
def test_losses_metrics_and_gradients_are_trls(name, loss_type, level, per_token, terms):
    below = above = 0
    for seed in range(20):
        arrays = random_arrays(seed, 4, 6, spread=0.4, per_token=per_token)
        totals = count(arrays["loss_mask"])
        loss, stats, gradients = loss_and_gradients(LOSSES[name], arrays, totals, **CLIPS, **terms)
        theirs, their_metrics, their_gradients = trl_loss(loss_type, arrays, totals.tokens, level=level, **terms)
        assert loss.item() == pytest.approx(theirs, rel=1e-6)
        for leaf, gradient in gradients.items():
            assert torch.allclose(gradient, their_gradients[leaf], rtol=1e-6, atol=1e-12)
        told = stats.metrics()
        assert told["entropy"] == pytest.approx(their_metrics["entropy"], rel=1e-6)
        if "kl_coef" in terms:
            assert told["kl_ref"] == pytest.approx(their_metrics["kl"], rel=1e-6)
        if level == "token":  # TRL's shares are those of sequences, else
            assert told["clip_frac_low"] == pytest.approx(their_metrics["clip_ratio/low_mean"], rel=1e-6)
            assert told["clip_frac_high"] == pytest.approx(their_metrics["clip_ratio/high_mean"], rel=1e-6)
        below += told["clip_frac_low"] > 0
        above += told["clip_frac_high"] > 0
    assert min(below, above) > 3  # else nothing was compared where it matters


@pytest.mark.parametrize(("name", "loss_type", "level"), [case[:3] for case in CASES if case[1] != "bnpo"])
def test_micro_batches_of_equal_numbers_of_rows_add_up_as_trls(name, loss_type, level):
    arrays = random_arrays(3, 4, 6)
    totals = count(arrays["loss_mask"])
    for part in ([0, 1], [2, 3]):
        micro = take(arrays, part)
        loss, _, gradients = loss_and_gradients(LOSSES[name], micro, totals, **CLIPS, kl_coef=0.3)
        theirs, _, their_gradients = trl_loss(loss_type, micro, totals.tokens, level=level, kl_coef=0.3, steps=2)
        assert loss.item() == pytest.approx(theirs, rel=1e-6)
        assert torch.allclose(gradients["logps"], their_gradients["logps"], rtol=1e-6, atol=1e-12)


def test_rows_without_tokens_count_as_trls_if_they_are_counted():
    # TRL keeps the rows of truncated episodes in the mean; here that is a matter of the totals.
    arrays = random_arrays(4, 4, 6)
    arrays["loss_mask"][1] = False
    theirs, _, _ = trl_loss("grpo", arrays, int(arrays["loss_mask"].sum()))
    kept, _, _ = loss_and_gradients(LOSSES["grpo"], arrays, Totals(count(arrays["loss_mask"]).tokens, 4), **CLIPS)
    left_out, _, _ = loss_and_gradients(LOSSES["grpo"], arrays, **CLIPS)
    assert kept.item() == pytest.approx(theirs, rel=1e-6)
    assert left_out.item() == pytest.approx(theirs * 4 / 3, rel=1e-6)
