"""Episodes of somebody else as tokens: those of the model's own chat template, with its turns marked."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Pictures

from agile_gym.errors import ConfigurationError
from agile_gym.models import ChatFormat
from agile_gym.models.chat import tokenise_transcript
from agile_gym.models.scoring import Scorer
from agile_gym.rollout import EpisodeSpec, play_episodes
from tests.helpers.prompted_episodes import CROP, LOOK, SMALL

SCRIPT = [LOOK, CROP, "<think>right</think><code>nothing()</code>", "<answer>['A', 'B', 'C', 'D']</answer>"]


class Scripted:
    """Writes what a script says."""

    def reset(self, seed=None):
        pass

    def act(self, observations, infos):
        return [SCRIPT[info["turn"]] for info in infos]


@pytest.fixture(scope="module")
def transcript():
    ((_, played),) = play_episodes(Scripted(), [EpisodeSpec("env", 3, name="x")], {"env": SMALL}, batch=1)
    assert len(played.turns) == 4
    assert len(played.images) > len(played.prompt_images) > 0
    return played


def templated(vlm, transcript):
    """Return the ids that the processor makes of the whole conversation."""
    messages = []
    for message in transcript.messages():
        pieces = message.text.split("<image>")
        parts = [{"type": "text", "text": pieces[0]}]
        for image, text in zip(message.images, pieces[1:], strict=True):
            parts += [{"type": "image", "image": Pictures.fromarray(image)}, {"type": "text", "text": text}]
        parts = [part for part in parts if part.get("text") != ""]
        messages.append({"role": message.role, "content": parts})
    made = vlm.processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="np")
    return np.asarray(made["input_ids"])[0]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava", "tiny", "idefics3"])
def test_ids_are_those_of_the_chat_template(loaded, transcript, family):
    vlm = loaded(family)
    segment = tokenise_transcript(ChatFormat(vlm.processor), transcript)
    ids = templated(vlm, transcript)
    assert len(ids) - len(segment.ids) in (0, 1)  # a line may end behind the last turn
    assert np.array_equal(segment.ids, ids[: len(segment.ids)])


def test_turns_are_marked_with_their_ends(loaded, transcript, family):
    vlm = loaded(family)
    chat = ChatFormat(vlm.processor)
    segment = tokenise_transcript(chat, transcript)
    assert set(segment.turns[segment.loss_mask]) == {0, 1, 2, 3}
    assert np.array_equal(segment.loss_mask, segment.turns >= 0)
    assert not segment.logps.any()
    assert segment.images == tuple(range(len(transcript.images)))
    for number, text in enumerate(SCRIPT):
        ids = segment.ids[segment.turns == number]
        if chat.end_of_turn is not None:
            assert ids[-1] == chat.end_of_turn
            ids = ids[:-1]
        assert chat.tokenizer.decode(ids) == text.removeprefix(chat.prefill)
    # It can be scored as it is.
    scorer = Scorer(vlm, chat)
    row = scorer.prepare(segment, transcript.images)
    assert row.is_image.any()
    import torch

    with torch.no_grad():
        assert torch.isfinite(scorer([row]).logps).all()


def test_untrained_turns_are_read_but_not_marked(loaded, transcript):
    chat = ChatFormat(loaded("tiny").processor)
    whole, some = tokenise_transcript(chat, transcript), tokenise_transcript(chat, transcript, untrained={0, 2})
    assert np.array_equal(whole.ids, some.ids)
    assert set(some.turns[some.loss_mask]) == {1, 3}
    assert np.array_equal(some.loss_mask, np.isin(whole.turns, [1, 3]))


def test_only_what_the_answer_says_is_marked(loaded, transcript, family):
    chat = ChatFormat(loaded(family).processor)
    speaking = "<think>an <answer>[1]</answer> may come</think><code>nothing()</code>"
    turns = tuple(replace(turn, text=speaking) if number == 2 else turn for number, turn in enumerate(transcript.turns))
    changed = replace(transcript, turns=turns)
    whole, some = tokenise_transcript(chat, changed), tokenise_transcript(chat, changed, only_answers=True)
    assert np.array_equal(whole.ids, some.ids)
    assert set(some.turns[some.loss_mask]) == {3}
    marked = chat.tokenizer.decode(some.ids[some.loss_mask])
    assert all(name in marked for name in "ABCD")
    before = chat.tokenizer.decode(whole.ids[(whole.turns == 3) & ~some.loss_mask])
    assert "<answer>" in before
    assert not any(name in before for name in "ABCD")
    assert "</answer>" not in marked.replace("]</answer>", "")  # a token may hold the end of the list and the tag
    assert chat.end_of_turn not in some.ids[some.loss_mask]
    assert not tokenise_transcript(chat, changed, untrained={3}, only_answers=True).loss_mask.any()


def test_answers_are_found_behind_a_thought_that_the_template_opened(loaded, transcript):
    chat = ChatFormat(loaded("tiny").processor)
    chat.prefill = "<think>"
    text = "<think>not <answer>[1]</answer></think><answer>['D', 'C', 'B', 'A']</answer>"
    turns = (replace(transcript.turns[-1], text=text),)
    segment = tokenise_transcript(chat, replace(transcript, turns=turns), only_answers=True)
    marked = chat.tokenizer.decode(segment.ids[segment.loss_mask])
    assert "1" not in marked
    assert [letter for letter in marked if letter.isupper()] == ["D", "C", "B", "A"]


def test_answers_need_a_tokenizer_that_tells_where_its_tokens_begin(loaded, transcript, monkeypatch):
    chat = ChatFormat(loaded("tiny").processor)
    monkeypatch.setattr(type(chat.tokenizer), "is_fast", False)
    assert tokenise_transcript(chat, transcript) is not None
    with pytest.raises(ConfigurationError, match=r"fast tokenizer.*replay_size=0"):
        tokenise_transcript(chat, transcript, only_answers=True)


@pytest.mark.slow
def test_turns_that_do_not_fit_are_left_out(loaded, transcript):
    chat = ChatFormat(loaded("tiny").processor)
    whole = tokenise_transcript(chat, transcript)
    ends = [int(np.flatnonzero(whole.turns == number)[-1]) + 1 for number in range(4)]
    for limit in range(1, len(whole.ids) + 2):
        segment = tokenise_transcript(chat, transcript, max_tokens=limit)
        fitting = [end for end in ends if end <= limit]
        if not fitting:
            assert segment is None
            continue
        assert len(segment.ids) == fitting[-1]
        assert np.array_equal(segment.ids, whole.ids[: len(segment.ids)])
        assert np.array_equal(segment.turns, whole.turns[: len(segment.ids)])
        shown = [image for turn in transcript.turns[: fitting.index(fitting[-1])] for image in turn.images]
        assert len(segment.images) == len(transcript.prompt_images) + len(shown)


def test_transcript_without_its_images(loaded, transcript):
    chat = ChatFormat(loaded("tiny").processor)
    with pytest.raises(ConfigurationError, match=r"without all its images.*Record"):
        tokenise_transcript(chat, replace(transcript, prompt_images=()))
    turns = tuple(replace(turn, images=()) for turn in transcript.turns)
    with pytest.raises(ConfigurationError, match=r"without all its images.*Record"):
        tokenise_transcript(chat, replace(transcript, turns=turns))


def test_episode_without_turns(loaded, transcript):
    assert tokenise_transcript(ChatFormat(loaded("tiny").processor), replace(transcript, turns=())) is None
