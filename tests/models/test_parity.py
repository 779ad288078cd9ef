"""Parity of sampling and training: tokens and log-probabilities, for every family of models."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from agile_gym.actions.prompt import HIDDEN_IMAGE, IMAGE_MARK
from agile_gym.models.chat import content_parts
from agile_gym.models.sampling import log_probs
from agile_gym.models.scoring import segment_logps
from agile_gym.policies.model import HFVLMPolicy
from tests.helpers import families
from tests.helpers.prompted_episodes import SMALL, longer, play

CLOSE = 1e-4


def make(vlm, **options):
    return HFVLMPolicy(vlm, **{"max_new_tokens": 12, **options})


def tokens(transcripts):
    return [[segment.ids.tolist() for segment in transcript.segments] for transcript in transcripts]


def marked_logps(transcripts):
    return np.concatenate([segment.logps[segment.loss_mask] for t in transcripts for segment in t.segments])


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"reuse_cache": False}, {"window": 1, "temperature": 0.7}])
def test_log_probs_of_one_full_pass_are_those_of_sampling(loaded, played, family, options):
    policy = make(loaded(family), **options)
    transcripts = play(policy, count=4) if options else played(family)
    compared = 0
    for transcript in transcripts:
        images = [transcript.images] * len(transcript.segments)
        scored = segment_logps(
            policy.vlm, policy.chat, transcript.segments, images, temperature=policy.options.temperature
        )
        for segment, logps in zip(transcript.segments, scored, strict=True):
            np.testing.assert_allclose(logps, segment.logps, atol=CLOSE)
            assert (segment.logps[~segment.loss_mask] == 0).all()
            compared += int(segment.loss_mask.sum())
    assert compared == sum(turn.usage.new_tokens for t in transcripts for turn in t.turns) > 100


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_5_vl", "idefics3"])
@pytest.mark.parametrize("reuse_cache", [True, False])
def test_images_behind_a_dropped_one_are_read_again(loaded, family, reuse_cache):
    policy = make(loaded(family), window=2, reuse_cache=reuse_cache, max_new_tokens=4)
    transcripts = play(policy, count=3, make_env=longer(SMALL, 7))
    for transcript in transcripts:
        scored = segment_logps(
            policy.vlm, policy.chat, transcript.segments, [transcript.images] * len(transcript.segments)
        )
        for segment, logps in zip(transcript.segments, scored, strict=True):
            np.testing.assert_allclose(logps, segment.logps, atol=CLOSE)
    first = len(transcripts[0].prompt_images)
    assert {len(s.images) - first for t in transcripts for s in t.segments[1:]} == {2}


@pytest.mark.slow
def test_scoring_computes_logits_for_written_tokens_only(loaded, played, monkeypatch):
    policy = make(loaded("idefics3"))
    segments = [t.segments[0] for t in played("idefics3")[:2]]
    images = [t.images for t in played("idefics3")[:2]]
    model = type(policy.vlm.model)
    forward, shapes = model.forward, []

    def watch(self, **arguments):
        output = forward(self, **arguments)
        shapes.append(output.logits.shape[:2])
        return output

    monkeypatch.setattr(model, "forward", watch)
    together = segment_logps(policy.vlm, policy.chat, segments, images)
    written = sum(int(segment.loss_mask.sum()) for segment in segments)
    assert shapes[0][0] == 2
    assert shapes[0][1] <= written < len(segments[0].ids) / 2
    for segment, shown, logps in zip(segments, images, together, strict=True):
        (alone,) = segment_logps(policy.vlm, policy.chat, [segment], [shown])
        np.testing.assert_allclose(alone, logps, atol=CLOSE)
    nothing = replace(segments[0], loss_mask=np.zeros_like(segments[0].loss_mask))
    assert not segment_logps(policy.vlm, policy.chat, [nothing], images[:1])[0].any()


@pytest.mark.slow
def test_images_and_earlier_turns_matter(loaded, played, family):
    # Else the comparison above would prove nothing.
    policy = make(loaded(family))
    transcript = played(family)[0]
    (segment,) = transcript.segments
    assert len(segment.images) > len(transcript.prompt_images) > 0
    (logps,) = segment_logps(policy.vlm, policy.chat, [segment], [transcript.images])
    for changed in (segment.images[0], segment.images[-1]):
        images = [255 - image if number == changed else image for number, image in enumerate(transcript.images)]
        (other,) = segment_logps(policy.vlm, policy.chat, [segment], [images])
        assert np.abs(other - logps).max() > 10 * CLOSE, changed


@pytest.mark.slow
def test_what_is_sampled_does_not_depend_on_cache_or_batch(loaded, played, family):
    transcripts = played(family)
    for other in (play(make(loaded(family), reuse_cache=False), batch=4), play(make(loaded(family)), batch=1)):
        assert tokens(other) == tokens(transcripts)
        np.testing.assert_allclose(marked_logps(other), marked_logps(transcripts), atol=CLOSE)
    computed = sum(turn.usage.computed_tokens for t in transcripts for turn in t.turns)
    again = sum(turn.usage.computed_tokens for t in other for turn in t.turns)
    assert computed == again  # a batch of one computes as much
    context = sum(turn.usage.context_tokens for t in transcripts for turn in t.turns)
    assert computed < 0.6 * context


@pytest.mark.slow
def test_first_turn_is_what_transformers_generates(loaded, family):
    policy = make(loaded(family), temperature=0)
    (transcript,) = play(policy, count=1)
    processor, model = policy.vlm.processor, policy.vlm.model
    from PIL import Image

    prompt = policy.chat.tokenizer.apply_chat_template(
        [{"role": "user", "content": content_parts(transcript.prompt)}],
        chat_template=processor.chat_template,
        tokenize=False,
        add_generation_prompt=True,
    )
    images = [Image.fromarray(image) for image in transcript.prompt_images]
    nested = [images] if family == "llava_onevision" else images
    inputs = processor(text=[prompt], images=nested, return_tensors="pt", add_special_tokens=False)
    forbidden = policy._generator.forbidden.nonzero()[:, 0].tolist()
    generated = model.generate(
        **inputs, do_sample=False, max_new_tokens=12, suppress_tokens=forbidden, eos_token_id=policy.chat.end_of_turn
    )
    (segment,) = transcript.segments
    first = segment.ids[segment.turns == 0].tolist()
    asked = inputs["input_ids"].shape[1]
    assert generated[0, asked:].tolist()[: len(first)] == first
    assert segment.ids[:asked].tolist() == inputs["input_ids"][0].tolist()
    # The model alone, with positions and kinds of tokens of its own and the processor's, gives the same numbers.
    ids = torch.tensor(segment.ids[None, : asked + len(first)].astype(np.int64))
    for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            more = torch.full((1, len(first)), int(name == "attention_mask"))
            inputs[name] = torch.cat([inputs[name], more], 1)
    with torch.inference_mode():
        logits = model(**{**inputs, "input_ids": ids}).logits[0, asked - 1 : -1]
    logps = log_probs(logits, policy._generator.forbidden, 0).gather(1, ids[0, asked:, None])[:, 0]
    np.testing.assert_allclose(logps, segment.logps[asked : asked + len(first)], atol=CLOSE)


def test_appended_tokens_are_those_of_the_whole_conversation(loaded, played, family):
    """Chunks put together are what the processor makes of the whole conversation, given as messages."""
    from PIL import Image

    policy = make(loaded(family))
    chat, processor = policy.chat, policy.vlm.processor
    transcript = played(family)[0]
    texts = [f"<think>turn {number}</think>" for number in range(len(transcript.turns))]
    ids = list(chat.opening(transcript.prompt, transcript.prompt_images).ids)
    messages = [{"role": "user", "content": content_parts(transcript.prompt)}]
    images = list(transcript.prompt_images)
    placeholders = []
    for text, turn in zip(texts, transcript.turns, strict=True):
        ids += chat.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += list(chat.follow_up(turn.feedback, turn.images, after=ids[-1]).ids)
        messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
        messages.append({"role": "user", "content": content_parts(turn.feedback)})
        images += turn.images
        placeholders.append(chat.follow_up(turn.feedback, turn.images).is_image.sum())
    rendered = chat.tokenizer.apply_chat_template(
        messages, chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
    )
    pictures = [Image.fromarray(image) for image in images]
    nested = [pictures] if family == "llava_onevision" else pictures
    whole = processor(text=[rendered], images=nested, return_tensors="pt", add_special_tokens=False)["input_ids"][0]
    assert ids == whole.tolist()
    assert int((whole == chat.image_token_id).sum()) > 0
    assert any(count > 0 for count in placeholders)


def test_end_of_turn_is_not_doubled(loaded, family):
    chat = make(loaded(family)).chat
    ended = chat.follow_up("go on", ())
    assert chat.end_of_turn is not None
    assert ended.ids[0] == chat.end_of_turn
    assert chat.follow_up("go on", (), after=chat.end_of_turn).ids.tolist() == ended.ids[1:].tolist()
    assert chat.follow_up("go on", (), after=int(ended.ids[0]) + 1).ids.tolist() == ended.ids.tolist()


@pytest.mark.slow
def test_window_keeps_the_newest_images_and_marks_every_token_once(loaded, family):
    policy = make(loaded(family), window=1)
    for transcript in play(policy, count=3):
        first = len(transcript.prompt_images)
        turns = [segment.turns[segment.loss_mask] for segment in transcript.segments]
        assert np.concatenate(turns).tolist() == sorted(np.concatenate(turns).tolist())
        assert set(np.concatenate(turns)) == set(range(len(transcript.turns)))
        assert len(transcript.segments) > 1
        for segment in transcript.segments:
            assert segment.images[:first] == tuple(range(first))
            assert len(segment.images) <= first + 1
        hidden = policy.chat.tokenizer.decode(transcript.segments[-1].ids)
        shown = sum(turn.feedback.count(IMAGE_MARK) for turn in transcript.turns[:-1])
        assert hidden.count(HIDDEN_IMAGE) == shown - 1


@pytest.mark.slow
def test_tokens_that_cannot_be_written_have_no_probability(loaded, family):
    policy = make(loaded(family), max_new_tokens=50, temperature=100.0, stop=["never written"])
    transcripts = play(policy, count=3, batch=3)
    forbidden = set(policy._generator.forbidden.nonzero()[:, 0].tolist())
    tokenizer = policy.chat.tokenizer
    assert policy.chat.image_token_id in forbidden
    ends = {policy.chat.end_of_turn, tokenizer.eos_token_id}
    assert set(tokenizer.all_special_ids) - ends <= forbidden
    assert not ends & forbidden
    written = np.concatenate([segment.ids[segment.loss_mask] for t in transcripts for segment in t.segments])
    assert len(written) > 300
    assert not set(written.tolist()) & forbidden
    assert len(set(written.tolist())) > 100  # nearly uniform, so forbidden ones would have come up
    vocabulary = len(policy._generator.forbidden)
    logps = log_probs(torch.zeros(1, vocabulary), policy._generator.forbidden, 1.0)[0]
    assert torch.isneginf(logps[sorted(forbidden)]).all()
    assert torch.isclose(logps.exp().sum(), torch.tensor(1.0))


def test_every_family_is_covered():
    assert {"qwen2_5_vl", "qwen3_vl", "idefics3", "smolvlm", "gemma3", "llava_onevision", "internvl"} <= set(
        families.FAMILIES
    )
