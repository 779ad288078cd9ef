"""Packed sequences beside padded ones, which are the truth, over families of models."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from agile_gym.errors import ConfigurationError
from agile_gym.learner.options import ModelOptions
from agile_gym.models import VLM, ChatFormat, load_vlm
from agile_gym.models import packing as module
from agile_gym.models.packing import FAMILIES, find_obstacle, packed_arguments, prepare_packing, resolve_packing
from agile_gym.models.scoring import Scorer
from agile_gym.policies.model import HFVLMPolicy
from agile_gym.rollout import EpisodeSpec
from agile_gym.transcripts import Segment
from tests.helpers import families
from tests.helpers.prompted_episodes import SMALL, longer, play

PACKED = [name for name in families.FAMILIES if not name.startswith("gemma3")]


def unequal(vlm):
    """Return segments of unequal lengths with their images: of one, four and two turns, and one without an image."""
    policy = HFVLMPolicy(vlm, max_new_tokens=10)
    given = []
    for turns in (1, 4, 2):
        spec = EpisodeSpec("env", turns, {"level": 0}, policy_seed=100 + turns, name=str(turns))
        for episode in play(policy, specs=[spec], make_env=longer(SMALL, turns)):
            given += [(segment, [episode.images[n] for n in segment.images]) for segment in episode.segments]
    opening = policy.chat.opening("Which is larger, 3 or 5?", []).ids
    ids = np.concatenate([opening, given[0][0].ids[given[0][0].loss_mask]])
    mask = np.arange(len(ids)) >= len(opening)
    turns = np.where(mask, 0, -1).astype(np.int16)
    text = Segment(ids, mask, np.zeros(len(ids), np.float32), turns, ())
    return [*given[:1], (text, []), *given[1:]]


def scored(vlm, given, *, packing):
    """Return scores of segments, and the gradients of a sum over all of them."""
    scorer = Scorer(vlm, ChatFormat(vlm.processor), temperature=0.7, packing=packing)
    rows = [scorer.prepare(segment, images) for segment, images in given]
    scores = scorer(rows, entropies="gradient")
    weights = torch.linspace(-1, 1, scores.logps.numel()).view_as(scores.logps)
    vlm.model.zero_grad()
    (scores.logps * weights + 0.1 * scores.entropies).sum().backward()
    return scores, {name: p.grad.clone() for name, p in vlm.model.named_parameters() if p.grad is not None}


def assert_equal_scores(first, second):
    (scores, gradients), (others, other_gradients) = first, second
    assert torch.equal(scores.loss_mask, others.loss_mask)
    assert float(scores.logps.detach().abs().max()) > 1
    assert torch.allclose(scores.logps, others.logps, rtol=0, atol=1e-5)
    assert torch.allclose(scores.entropies, others.entropies, rtol=0, atol=1e-5)
    assert gradients.keys() == other_gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    assert largest > 0
    for name, gradient in gradients.items():
        assert float((gradient - other_gradients[name]).abs().max()) <= 1e-5 * largest, name


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKED)
def test_packed_segments_are_scored_as_padded_ones(saved, name):
    vlm = load_vlm(saved(name), device="cpu", dtype="float32")
    assert resolve_packing("auto", vlm.model)
    given = unequal(vlm)
    assert len({len(segment.ids) for segment, _ in given}) == len(given)
    padded = scored(vlm, given, packing=False)
    assert_equal_scores(padded, scored(vlm, given, packing=True))
    assert_equal_scores(padded, scored(vlm, given, packing=False))  # its attention takes padded rows, too


def qwen2_vl():
    """Qwen2-VL, made of the parts of Qwen2.5-VL."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    model, processor = families.qwen2_5_vl()
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4}
    text, ids = model.config.text_config.to_dict(), families._qwen_ids(processor.tokenizer)
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids)), processor


@pytest.mark.slow
def test_packed_segments_of_the_remaining_type(monkeypatch, tmp_path):
    monkeypatch.setitem(families.FAMILIES, "qwen2_vl", qwen2_vl)
    vlm = load_vlm(families.save("qwen2_vl", tmp_path), device="cpu", dtype="float32")
    assert vlm.model.config.model_type == "qwen2_vl"
    tested = {families.built(name)[0].config.model_type for name in PACKED} | {"qwen2_vl"}
    assert tested == FAMILIES
    given = unequal(vlm)
    assert_equal_scores(scored(vlm, given, packing=False), scored(vlm, given, packing=True))


@pytest.mark.slow
def test_packed_segments_with_an_adapter_and_activations_computed_twice(saved):
    from tests.helpers.sharded_ranks import prepared

    loaded = load_vlm(saved("qwen2_5_vl"), device="cpu", dtype="float32")
    given = unequal(loaded)
    options = ModelOptions(train="lora", lora_rank=4, gradient_checkpointing=True)
    vlm = VLM(prepared(loaded.model, options), loaded.processor, "adapted")
    with torch.no_grad():
        for name, parameter in vlm.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    vlm.model.train()
    assert_equal_scores(scored(vlm, given, packing=False), scored(vlm, given, packing=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava"])
def test_positions_alone_keep_segments_apart_as_flash_attention_requires(saved, name, monkeypatch):
    """transformers makes a block-diagonal mask of the positions that FlashAttention reads its lengths from."""
    vlm = load_vlm(saved(name), device="cpu", dtype="float32")
    given = unequal(vlm)
    padded = scored(vlm, given, packing=False)
    monkeypatch.setattr("agile_gym.models.scoring.prepare_packing", lambda model: None)
    assert_equal_scores(padded, scored(vlm, given, packing=True))
    assert vlm.text_config._attn_implementation == "sdpa"


def test_flash_attention_finds_the_lengths():
    from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

    model, _ = families.built("qwen2_5_vl")
    positions = torch.arange(3 * 9).view(3, 1, 9)
    arguments = packed_arguments(model, [4, 2, 3], positions)
    assert arguments["attention_mask"] is None
    assert torch.equal(arguments["position_ids"][1:], positions)
    (bounds, _), (longest, _) = prepare_fa_kwargs_from_position_ids(arguments["position_ids"][0])
    assert (bounds.tolist(), int(longest)) == ([0, 4, 6, 9], 4)


@pytest.mark.slow
def test_a_model_that_packs_plays_bit_for_bit_as_before(saved):
    vlm = load_vlm(saved("qwen2_5_vl"), device="cpu", dtype="float32")
    before = play(HFVLMPolicy(vlm, max_new_tokens=10), count=3)
    prepare_packing(vlm.model)
    assert vlm.text_config._attn_implementation == module._ATTENTION
    after = play(HFVLMPolicy(vlm, max_new_tokens=10), count=3)
    for first, second in zip(before, after, strict=True):
        for one, other in zip(first.segments, second.segments, strict=True):
            assert np.array_equal(one.ids, other.ids)
            assert np.array_equal(one.logps, other.logps)


def stand_in(kind="qwen2_5_vl", **text):
    """Return what is read of a model."""
    config = SimpleNamespace(**{"_attn_implementation": "sdpa", "layer_types": ["full_attention"], **text})
    decoder = SimpleNamespace(config=config)
    return SimpleNamespace(config=SimpleNamespace(model_type=kind), get_decoder=lambda: decoder)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (stand_in("gemma3"), r"type 'gemma3' are not tested .* qwen2_5_vl"),
        (stand_in(_attn_implementation="eager"), r"attention='eager'.*'sdpa'"),
        (stand_in(layer_types=["full_attention", "sliding_attention"]), r"\(sliding_attention\)"),
        (stand_in(layer_types=None, sliding_window=4096), "sliding_window=4096"),
    ],
)
def test_models_that_cannot_pack_are_refused_or_padded(model, told, caplog, monkeypatch):
    monkeypatch.setattr(module, "_told", set())
    with pytest.raises(ConfigurationError, match=f"packing='on' is not possible: .*{told}.*'auto'"):
        resolve_packing("on", model)
    with caplog.at_level(logging.WARNING):
        assert [resolve_packing(kind, model) for kind in ("auto", "auto", "off")] == [False] * 3
    assert len(caplog.records) == 1
    assert "padded" in caplog.text


@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_models_that_can_pack(kind, attention):
    model = stand_in(kind, _attn_implementation=attention)
    assert find_obstacle(model) is None
    assert [resolve_packing(packing, model) for packing in ("off", "on", "auto")] == [False, True, True]
    with pytest.raises(ConfigurationError, match=r"packing='of' is not allowed.*'off'"):
        resolve_packing("of", model)
