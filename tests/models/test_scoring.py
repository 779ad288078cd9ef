"""Log-probabilities with gradients, and entropies, against plain arithmetic on the model's own logits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from agile_gym.learner.options import PARTS, part_of
from agile_gym.models import ChatFormat, load_vlm
from agile_gym.models.inputs import collate_pixels, type_arguments
from agile_gym.models.scoring import Scorer
from agile_gym.policies.model import HFVLMPolicy
from agile_gym.rollout import EpisodeSpec
from tests.helpers.prompted_episodes import play

TEMPERATURE = 0.7


def prepare(scorer, transcripts):
    return [
        scorer.prepare(segment, [transcript.images[number] for number in segment.images])
        for transcript in transcripts
        for segment in transcript.segments
    ]


def distributions(vlm, scorer, row):
    """Return (T, V) float64, the log-probabilities of all tokens at each place of a segment that is scored alone."""
    model = vlm.model
    is_image = torch.from_numpy(row.is_image)[None]
    arguments = collate_pixels(model, list(row.pixels)) | type_arguments(model, is_image)
    if "qwen" in model.config.model_type:
        arguments["mm_token_type_ids"] = is_image.long()  # its own positions
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(row.ids).long()[None], **arguments).logits[0].double().numpy()
    scaled = logits / TEMPERATURE
    allowed = ~scorer._forbidden.numpy()
    scaled = np.where(allowed, scaled - scaled[:, allowed].max(1, keepdims=True), -np.inf)
    return scaled - np.log(np.exp(scaled).sum(1, keepdims=True))


@pytest.mark.slow
def test_log_probabilities_and_entropies_are_those_of_the_logits(loaded, played, family):
    vlm = loaded(family)
    scorer = Scorer(vlm, ChatFormat(vlm.processor), temperature=TEMPERATURE)
    rows = prepare(scorer, played(family)[:3])
    with torch.no_grad():
        scores = scorer(rows, entropies=True)
    assert scores.logps.shape == scores.entropies.shape == (len(rows), max(map(len, rows)))
    for number, row in enumerate(rows):
        whole = distributions(vlm, scorer, row)
        places = np.flatnonzero(row.loss_mask)
        assert np.array_equal(np.flatnonzero(scores.loss_mask[number].numpy()), places)
        expected = whole[places - 1, row.ids[places]]
        assert scores.logps[number, places].numpy() == pytest.approx(expected, abs=2e-3)
        spread = [-(np.exp(line) * line).sum() for line in (line[np.isfinite(line)] for line in whole[places - 1])]
        assert scores.entropies[number, places].numpy() == pytest.approx(np.array(spread), abs=2e-3)
        others = np.setdiff1d(np.arange(scores.logps.shape[1]), places)
        assert not scores.logps[number, others].any()
        assert not scores.entropies[number, others].any()


STEPS = {"llava": 3e-4, "tiny": 2e-3}
"""Sizes of steps, relative to a parameter's; those of families whose vision bends more than others'."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "tiny", "idefics3"])
@pytest.mark.parametrize("what", ["logps", "entropies"])
def test_gradients_are_finite_differences(saved, played, name, what):
    vlm = load_vlm(saved(name), device="cpu", dtype="float32")
    scorer = Scorer(vlm, ChatFormat(vlm.processor), temperature=TEMPERATURE)
    rows = prepare(scorer, played(name)[:2])
    weights = torch.linspace(-1, 1, sum(map(len, rows)) * 2)

    def value():
        scores = getattr(scorer(rows, entropies="gradient"), what)
        return (scores.double().flatten() * weights[: scores.numel()].double()).sum()

    value().backward()
    chosen = [(key, p) for key, p in vlm.model.named_parameters() if p.grad is not None and float(p.grad.abs().max())]
    with torch.no_grad():
        for part in PARTS:
            mine = [p for key, p in chosen if part_of(key) == part]
            parameter = max(mine, key=lambda p: float(p.grad.abs().max()))
            direction = parameter.grad / parameter.grad.norm()
            step = STEPS.get(name, 1e-2) * float(parameter.norm()) / float(parameter.numel()) ** 0.25
            parameter += step * direction
            above = float(value())
            parameter -= 2 * step * direction
            below = float(value())
            parameter += step * direction
            assert (above - below) / (2 * step) == pytest.approx(float(parameter.grad.norm()), rel=0.05), part


@pytest.mark.slow
def test_entropies_have_no_gradient_unless_asked_for(saved, played):
    vlm = load_vlm(saved("tiny"), device="cpu", dtype="float32")
    scorer = Scorer(vlm, ChatFormat(vlm.processor))
    rows = prepare(scorer, played("tiny")[:1])
    assert not scorer(rows, entropies=True).entropies.requires_grad
    assert scorer(rows, entropies=True).logps.requires_grad
    assert scorer(rows, entropies="gradient").entropies.requires_grad
    assert scorer(rows).entropies is None
    with torch.no_grad():
        assert not scorer(rows, entropies="gradient").entropies.requires_grad


@pytest.mark.slow
def test_pixels_are_prepared_once_for_episodes_that_share_them(loaded, played, monkeypatch):
    from agile_gym.models import scoring

    vlm = loaded("tiny")
    scorer = Scorer(vlm, ChatFormat(vlm.processor))
    count = []
    real = scoring._process
    monkeypatch.setattr(scoring, "_process", lambda *given: count.append(1) or real(*given))
    first = prepare(scorer, played("tiny")[:1])
    once = len(count)
    assert once == len({image.tobytes() for image in played("tiny")[0].images})
    second = prepare(scorer, played("tiny")[:1])
    assert len(count) == once
    scorer.forget()
    prepare(scorer, played("tiny")[:1])
    assert len(count) == 2 * once
    monkeypatch.setattr(scoring, "_CACHE_BYTES", 1)
    small = Scorer(vlm, ChatFormat(vlm.processor))
    third = prepare(small, played("tiny")[:1])  # no room: it is made anew, and the same
    with torch.no_grad():
        told = [scorer(rows).logps for rows in (first, second)] + [small(third).logps]
    assert torch.equal(told[0], told[1])
    assert torch.equal(told[0], told[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava", "tiny", "gemma3"])
def test_images_that_are_shown_several_times_are_looked_at_once(saved, played, name):
    vlm = load_vlm(saved(name), device="cpu", dtype="float32")
    scorer = Scorer(vlm, ChatFormat(vlm.processor), temperature=TEMPERATURE)
    rows = [row for row in prepare(scorer, played(name)[:2]) for _ in range(3)]
    assert len({id(pixels) for row in rows for pixels in row.pixels}) < sum(len(row.pixels) for row in rows)
    apart = [replace(row, pixels=tuple(map(dict, row.pixels))) for row in rows]
    parameters = [p for p in vlm.model.parameters() if p.requires_grad]
    looked, told = [], []
    for part in (rows, apart):
        hook = vlm.model.model.get_encoder("image").register_forward_pre_hook(
            lambda module, given, named: looked.append(len(given[0] if given else named["pixel_values"])),
            with_kwargs=True,
        )
        scores = scorer(part)
        hook.remove()
        weights = torch.linspace(-1, 1, scores.logps.numel()).view_as(scores.logps)
        gradients = torch.autograd.grad((scores.logps * weights).sum(), parameters, allow_unused=True)
        told.append((scores.logps.detach(), [g for g in gradients if g is not None]))
    assert looked[0] * (3 if name != "gemma3" else 1) <= looked[1]  # Gemma3 looks at each place
    assert torch.allclose(told[0][0], told[1][0], atol=1e-5)
    assert len(told[0][1]) == len(told[1][1])
    largest = max(float(gradient.abs().max()) for gradient in told[1][1])
    for shared, alone in zip(told[0][1], told[1][1], strict=True):
        assert torch.allclose(shared, alone, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("window", [None, 1])
def test_blanked_looks_are_scored_as_they_were_played(loaded, name, window):
    policy = HFVLMPolicy(loaded(name), max_new_tokens=12, window=window)
    specs = [EpisodeSpec("env", seed, {"level": 0}, 100 + seed, str(seed), blank_looks=True) for seed in range(3)]
    episodes = play(policy, specs=specs)
    scorer = Scorer(policy.vlm, policy.chat, temperature=policy.options.temperature)

    def error(transcripts):
        """Return how far the log-probabilities are from those that were recorded, at the worst token."""
        rows = prepare(scorer, transcripts)
        with torch.no_grad():
            logps = scorer(rows).logps.numpy()
        segments = [segment for transcript in transcripts for segment in transcript.segments]
        places = [np.flatnonzero(segment.loss_mask) for segment in segments]
        return max(
            np.abs(mine[at] - segment.logps[at]).max() if at.size else 0.0
            for mine, segment, at in zip(logps, segments, places, strict=True)
        )

    looks = [image for episode in episodes for turn in episode.turns for image in turn.images]
    assert len(looks) > 3
    assert all((image == 128).all() for image in looks)
    assert error(episodes) < 2e-3
    rng = np.random.default_rng(0)

    def restored(turn):
        """Return a turn with images that show something."""
        return replace(turn, images=tuple(rng.integers(0, 256, image.shape, np.uint8) for image in turn.images))

    others = [replace(episode, turns=tuple(map(restored, episode.turns))) for episode in episodes]
    assert error(others) > 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 7])
def test_logits_scored_in_parts_give_the_same(saved, played, monkeypatch, count):
    vlm = load_vlm(saved("qwen2_5_vl"), device="cpu", dtype="float32")
    scorer = Scorer(vlm, ChatFormat(vlm.processor), temperature=TEMPERATURE)
    rows = prepare(scorer, played("qwen2_5_vl")[:2])
    kept = []

    def gradients():
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda part: part):
            scores = scorer(rows, entropies="gradient")
        vlm.model.zero_grad()
        (scores.logps.square().sum() + scores.entropies.square().sum()).backward()
        grads = {name: p.grad.clone() for name, p in vlm.model.named_parameters() if p.grad is not None}
        wide = [tensor for tensor in kept if tensor.ndim == 2 and tensor.shape[1] == vlm.text_config.vocab_size]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in wide}
        return scores, grads, sum(storages.values())

    whole, expected, many = gradients()
    monkeypatch.setattr("agile_gym.models.scoring.SCORED_NUMBERS", count * vlm.text_config.vocab_size)
    parts, found, few = gradients()
    assert torch.equal(whole.logps, parts.logps)
    assert torch.equal(whole.entropies, parts.entropies)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)
    assert few < many  # nothing as wide as the vocabulary is kept but the logits
