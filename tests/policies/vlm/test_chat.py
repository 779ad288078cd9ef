"""How observations become tokens: marks and images, and words that look like control tokens."""

from types import SimpleNamespace

import families
import numpy as np
import pytest

from agile_gym.errors import ConfigurationError
from agile_gym.policies.vlm.chat import ChatFormat

IMAGE = np.full((56, 56, 3), 99, np.uint8)


@pytest.fixture(scope="module")
def chats():
    """Give the chat format of a family, which needs no model."""
    known = {}

    def chat(family):
        if family not in known:
            known[family] = ChatFormat(families.FAMILIES[family]()[1])
        return known[family]

    return chat


@pytest.mark.parametrize("name", ["opening", "follow_up"])
@pytest.mark.parametrize(("text", "images"), [("<image>", 0), ("none", 1), ("<image> <image>", 1)])
def test_there_are_as_many_marks_as_images(chats, name, text, images):
    with pytest.raises(ConfigurationError, match=rf"has {text.count('<image>')} marks <image> for {images} images"):
        getattr(chats("idefics3"), name)(text, [IMAGE] * images)


def test_words_of_a_text_do_not_become_control_tokens(chats, family):
    chat = chats(family)
    words = [chat.tokenizer.decode([number]) for number in sorted(chat.control_ids)]
    words = [word for word in words if word != "<image>"]  # where an image belongs
    assert len(words) >= 4
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
