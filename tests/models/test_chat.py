"""From observations to tokens: marks and images, words that look like control tokens, and where turns end."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agile_gym.actions.tags import STOP_TEXTS, blank_thoughts
from agile_gym.errors import ConfigurationError
from agile_gym.models import ChatFormat
from agile_gym.models.sampling import StopTexts, end_tokens, forbidden_tokens
from agile_gym.policies.model import HFVLMPolicy
from tests.helpers import families
from tests.helpers.prompted_episodes import play

IMAGE = np.full((56, 56, 3), 99, np.uint8)


@pytest.fixture(scope="module")
def chats():
    """Give the chat format of a family."""
    return cache(lambda family: ChatFormat(families.built(family)[1]))


@pytest.mark.parametrize("name", ["opening", "follow_up"])
@pytest.mark.parametrize(("text", "images"), [("<image>", 0), ("none", 1), ("<image> <image>", 1)])
def test_there_are_as_many_marks_as_images(chats, name, text, images):
    with pytest.raises(ConfigurationError, match=rf"has {text.count('<image>')} marks <image> for {images} images"):
        getattr(chats("idefics3"), name)(text, [IMAGE] * images)


def test_words_of_a_text_do_not_become_control_tokens(chats, family):
    chat = chats(family)
    words = [chat.tokenizer.decode([number]) for number in sorted(chat.control_ids)]
    words = [word for word in words if word != "<image>"]  # where an image belongs
    assert len(words) >= 3
    for add, images in ((chat.opening, [IMAGE]), (chat.follow_up, [IMAGE]), (chat.follow_up, [])):
        mark = "<image>" * len(images)
        plain, hostile = add(f"-{mark}-", images), add(f"-{''.join(words)}{mark}-", images)
        controls = [[number for number in chunk.ids if number in chat.control_ids] for chunk in (plain, hostile)]
        assert controls[0] == controls[1]
        assert plain.is_image.sum() == hostile.is_image.sum()
        assert len(hostile.ids) > len(plain.ids)
        for word in words:  # the words can still be read
            assert f"{word[0]} {word[1:]}" in chat.tokenizer.decode(hostile.ids)


def test_an_observation_without_a_text_is_an_empty_message(chats):
    chat = chats("idefics3")
    # Like SmolVLM's template, this one looks at the first part of each message.
    chat = ChatFormat(SimpleNamespace(tokenizer=chat.tokenizer, image_token="<image>", chat_template=(
        "{% for m in messages %}{{ m['role'] }}{{ ':' if m['content'][0]['type'] == 'image' else ': ' }}"
        "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}<end_of_utterance>{% endfor %}"
    )))  # fmt: skip
    assert chat.tokenizer.decode(chat.follow_up("", []).ids) == "<end_of_utterance>user: <end_of_utterance>"


def test_a_conversation_begins_once(chats):
    """Some templates write the first token, and some leave it to the tokenizer."""
    from tokenizers.processors import TemplateProcessing

    for begins in ("", "{{ bos_token }}"):
        tokenizer = families.make_tokenizer(["<s>", "<|im_start|>", "<|im_end|>"], bos_token="<s>")
        bos = tokenizer.bos_token_id
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
        template = begins + families.CHATML
        chat = ChatFormat(SimpleNamespace(tokenizer=tokenizer, image_token="<|im_end|>", chat_template=template))
        assert chat.opening("hello", []).ids.tolist().count(bos) == 1
        assert chat.opening("hello", []).ids[0] == bos
        assert bos not in chat.follow_up("hello", []).ids


def test_a_template_without_an_end_of_turn(chats):
    tokenizer = chats("idefics3").tokenizer
    template = (
        "{% for m in messages %}{{ m['role'] }}:{% for p in m['content'] %}{{ p['text'] }}{% endfor %}#{% endfor %}"
    )
    chat = ChatFormat(SimpleNamespace(tokenizer=tokenizer, image_token="<image>", chat_template=template))
    assert chat.end_of_turn is None
    (mark,) = tokenizer("#", add_special_tokens=False)["input_ids"]
    text = tokenizer.decode(chat.follow_up("go on", [], after=mark).ids)  # the model wrote this character itself
    assert text == "#user:go on#"


# --- what ends a turn


def watched(stops, ids):
    """Return for each token whether it completes a stop text."""
    watch = stops.begin()
    return [watch.add(token) for token in ids]


def spoken(text, opened):
    """Return what stands outside of thoughts, character by character; a plain reader of tags."""
    said, place = "", 0
    while place < len(text):
        tag = "</think>" if opened else "<think>"
        if text.startswith(tag, place):
            said, place, opened = f"{said}{tag}", place + len(tag), not opened
        else:
            said, place = said + ("\0" if opened else text[place]), place + 1
    return said


WORDS = (
    "<think>",
    "</think>",
    "<code>",
    "</code>",
    "</answer>",
    "</",
    "think>",
    "code>",
    "<",
    ">",
    "é",
    "日",
    " ",
    "a",
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=20), st.booleans(), st.data())
def test_stop_texts_in_thoughts_end_no_turn(chats, words, opened, data):
    text, stop = "".join(words), ("</code>", "</answer>", "a>")
    assert blank_thoughts(text, opened=opened)[0] == spoken(text, opened)
    for family in ("idefics3", "tiny"):
        chat = SimpleNamespace(**{name: getattr(chats(family), name) for name in ("tokenizer", "decode_part")})
        chat.prefill = "<think>\n" if opened else ""
        ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
        found = watched(StopTexts(chat, stop), ids)
        said = [spoken(chat.decode_part(ids[: count + 1]), opened) for count in range(len(ids))]
        expected = [any(entry in part for entry in stop) for part in said]
        first = expected.index(True) if True in expected else len(ids)
        assert found[: first + 1] == expected[: first + 1]


def test_following_a_long_thought_costs_as_much_for_each_token(chats):
    """Only few tokens can end a tag, and only those before it are looked at."""
    chat = chats("tiny")
    ids = chat.tokenizer("a thought of many words > " * 4000, add_special_tokens=False)["input_ids"]
    looked = []
    watched_chat = SimpleNamespace(tokenizer=chat.tokenizer, prefill="<think>")
    watched_chat.decode_part = lambda part: looked.append(len(part)) or chat.decode_part(part)
    assert not any(watched(StopTexts(watched_chat, STOP_TEXTS), ids))
    assert 0 < len(looked) <= len(ids) / 4
    assert max(looked) < 40


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text("ab</>é日😀", min_size=1, max_size=6), min_size=1, max_size=3),
    st.text("ab</>é日😀", max_size=40),
    st.integers(0, 40),
)
def test_stop_texts_are_found_where_a_search_through_all_finds_them(chats, stop, text, place):
    place = min(place, len(text))
    text = text[:place] + stop[0] + text[place:]
    for family in ("idefics3", "tiny"):  # a token a byte, and long words
        chat = chats(family)
        stops = StopTexts(chat, stop)
        ids = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
        found = watched(stops, ids)
        first = next(count for count in range(len(ids)) if any(s in chat.decode(ids[: count + 1]) for s in stop))
        assert found.index(True) == first


def test_a_long_stop_text_of_many_bytes_is_found(chats):
    chat = chats("idefics3")
    (stop,) = ["停" * 20]
    ids = chat.tokenizer(f"a{stop}b", add_special_tokens=False)["input_ids"]
    assert watched(StopTexts(chat, [stop]), ids[:61]) == [False] * 60 + [True]


def test_a_stop_text_is_found_in_tokens_of_single_bytes(chats):
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocab = {"<unk>": 0, "a": 1, **{f"<0x{byte:02X}>": 2 + byte for byte in range(256)}}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    chat = SimpleNamespace(tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"))
    chat.decode_part, chat.prefill = chat.tokenizer.decode, ""
    stops = StopTexts(chat, ["ad"])
    found = [watched(stops, ids)[-1] for ids in ([1, 1], [1, 2 + ord("d")], [1, 2 + ord("e")])]
    assert found == [False, True, False]
    thought = [2 + byte for byte in b"<think>ad</think>a"]
    assert watched(stops, [*thought, 2 + ord("d")]) == [False] * len(thought) + [True]


def test_what_the_template_begins_with_stops_no_turn(chats):
    chat = chats("idefics3")
    template = chat.processor.chat_template.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    thinking = ChatFormat(SimpleNamespace(tokenizer=chat.tokenizer, image_token="<image>", chat_template=template))
    assert thinking.prefill == "<think>\n"
    stops = StopTexts(thinking, ["\n"])
    ids = chat.tokenizer("ab\n</think>\n", add_special_tokens=False)["input_ids"]
    assert watched(stops, ids) == [False] * (len(ids) - 1) + [True]  # the first is in the thought that is open already
    assert watched(StopTexts(chat, ["\n"]), ids).index(True) == 2
    assert thinking.decode(ids) == "<think>\nab\n</think>\n"


@pytest.mark.parametrize("start", ["<think>", "<think>\n", "<think>\n\n</think>\n\n", "<think></think>"])
def test_what_the_template_begins_with_is_part_of_the_turn(chats, start):
    chat = chats("idefics3")
    template = chat.processor.chat_template.replace("assistant\n{% endif %}", f"assistant\n{start}{{% endif %}}")
    thinking = ChatFormat(SimpleNamespace(tokenizer=chat.tokenizer, image_token="<image>", chat_template=template))
    assert thinking.prefill == start
    assert thinking.decode(chat.tokenizer("<code>", add_special_tokens=False)["input_ids"]) == f"{start}<code>"
    assert chat.prefill == ""


@pytest.mark.parametrize(("settings", "ends"), [([0, 5], {0, 5}), (0, {0}), (None, set())])
def test_every_token_that_ends_a_turn_counts(chats, settings, ends):
    chat = chats("gemma3")
    ids = chat.tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"])
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=settings))
    assert set(end_tokens(model, chat)) == {*ids, *ends}
    assert set(end_tokens(SimpleNamespace(), chat)) == set(ids)


def test_any_of_the_tokens_that_end_a_turn_ends_it(loaded):
    policy = HFVLMPolicy(loaded("gemma3"), max_new_tokens=40, temperature=100.0)
    tokenizer = policy.chat.tokenizer
    ends = tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"])
    letter = tokenizer.convert_tokens_to_ids("a")
    policy._generator.forbidden[:] = True
    policy._generator.forbidden[[letter, *ends]] = False
    last = []
    for transcript in play(policy, count=3):
        (segment,) = transcript.segments
        for turn in range(len(transcript.turns)):
            *written, end = segment.ids[segment.turns == turn].tolist()
            assert set(written) <= {letter}
            last.append(end)
    assert set(last) == set(ends)
    assert policy.options.max_new_tokens > len(segment.ids[segment.loss_mask])


# --- what cannot be written


@pytest.mark.parametrize("word", [
    *("<|fim_prefix|>", "<|file_sep|>", "<unused7>", "<row_1_col_2>", "<global-img>", "<IMG_CONTEXT>", "</img>"),
    *("<image_soft_token>", "<start_of_image>", "<|vision_pad|>", "<video>"),
])  # fmt: skip
def test_added_tokens_in_the_form_of_control_tokens_are_such(word):
    tokenizer = families.make_tokenizer(["<end>"], eos_token="<end>")
    size = len(tokenizer)
    tokenizer.add_tokens([word])
    chat = ChatFormat(SimpleNamespace(tokenizer=tokenizer, image_token="<end>", chat_template=families.CHATML))
    assert size in chat.control_ids
    assert forbidden_tokens(chat, size + 1, ())[size]


def test_every_token_by_which_a_processor_shows_images_is_forbidden():
    tokenizer = families.make_tokenizer(["<end>"], eos_token="<end>")
    size = len(tokenizer)
    names = ["image_token", "video_token", "audio_token", "fake_image_token", "global_image_token", "boi_token"]
    words = [f"@{name}" for name in names]
    tokenizer.add_tokens(words)
    tokenizer.boi_token = "@boi_token"
    shows = {name: word for name, word in zip(names, words, strict=True) if name != "boi_token"}
    chat = ChatFormat(SimpleNamespace(tokenizer=tokenizer, chat_template=families.CHATML, **shows))
    assert chat.image_token_id == size
    assert forbidden_tokens(chat, size + 6, ())[size:].all()


@pytest.mark.parametrize(("word", "special"), [
    *(("<think>", True), ("</code>", True), ("<tool_call>", True), ("</answer>", True)),
    *(("<think>", False), ("</tool_call>", False), ("\n\n", False), ("<h1>", False), ("[image]", False), ("<|", False)),
])  # fmt: skip
def test_tags_and_other_added_words_can_be_written(word, special):
    tokenizer = families.make_tokenizer(["<end>"], eos_token="<end>")
    size = len(tokenizer)
    tokenizer.add_tokens([word], special_tokens=special)
    chat = ChatFormat(SimpleNamespace(tokenizer=tokenizer, image_token="<end>", chat_template=families.CHATML))
    assert not forbidden_tokens(chat, size + 1, ())[size]
    assert chat.decode([size]) == word


def test_rows_of_the_embedding_without_a_token_are_forbidden(chats):
    chat = chats("idefics3")
    known = set(chat.tokenizer.get_vocab().values())
    gap = chat.tokenizer.convert_tokens_to_ids("a")

    class Gappy:
        """The tokenizer without one of its tokens, as where added tokens leave a gap."""

        def __getattr__(self, name):
            return getattr(chat.tokenizer, name)

        def get_vocab(self):
            return {token: number for token, number in chat.tokenizer.get_vocab().items() if number != gap}

    view = SimpleNamespace(
        tokenizer=Gappy(), processor=chat.processor, control_ids=chat.control_ids, image_token_id=chat.image_token_id
    )
    size = max(known) + 20
    forbidden = forbidden_tokens(view, size, [chat.end_of_turn])
    assert set(forbidden.nonzero()[:, 0].tolist()) == (
        set(range(size)) - known | {gap} | (chat.control_ids - {chat.end_of_turn})
    )
