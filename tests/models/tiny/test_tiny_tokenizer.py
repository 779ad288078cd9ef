from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import agile_gym  # noqa: F401 -- registers the environments
from agile_gym.actions.primitives import Answer, Arrange, Crop, Observe, Swap, Zoom
from agile_gym.models.tiny import build_processor

pytest.importorskip("transformers")

PROCESSOR = build_processor()
TOKENIZER = PROCESSOR.tokenizer


def encode(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


def decode(ids):
    return TOKENIZER.decode(ids, skip_special_tokens=False)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200) | st.text(alphabet='<>/|"[]{}(), =.:\nstateAB01xthinkcodeanswer', max_size=200))
def test_text_comes_back_from_its_ids(text):
    assert decode(encode(text)) == text


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["<think>", "state", "[0]", '"A", ', " the", "\n", "é", "☃", "A", "</code>"]), max_size=9)
)
def test_a_text_is_cut_into_the_fewest_tokens(parts):
    text = "".join(parts)
    vocabulary = {decode([i]) for i in range(7, len(TOKENIZER)) if "�" not in decode([i])}
    data = text.encode()
    fewest = [0] + [len(data)] * len(data)
    for end in range(1, len(data) + 1):
        fewest[end] = min(
            fewest[start] + 1
            for start in range(max(0, end - 60), end)
            if end - start == 1 or data[start:end].decode(errors="replace") in vocabulary
        )
    assert len(encode(text)) == fewest[-1]


def test_special_tokens_and_bytes_have_their_ids():
    assert [decode([i]) for i in range(7)] == [
        "<pad>", "<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<image>",
    ]  # fmt: skip
    assert (TOKENIZER.pad_token_id, TOKENIZER.bos_token_id, TOKENIZER.eos_token_id) == (0, 1, 2)
    everything = bytes(range(256)).decode("latin-1")
    assert decode(encode(everything)) == everything
    assert PROCESSOR.image_token_id == 6


def turns(env):
    """Turns as the dialect writes them, all of them sound."""
    workspace = env.unwrapped.episode.workspace
    write = env.unwrapped.dialect.write
    yield write([Answer(tuple(workspace.names))], workspace, "")
    yield write([Swap(0, 1), Observe()], workspace, "A and B seem to have changed places.")
    yield write([Arrange(tuple(range(len(workspace.names)))[::-1]), Observe()], workspace, "")
    yield write([Crop("A", (0.5, 0.0, 1.0, 1.0))], workspace, "The right edge of A.")
    yield write([Zoom("A", 2.0)], workspace, "Look closer.")


@pytest.mark.parametrize("grid", [2, 3, (1, 2)])
@pytest.mark.parametrize("dialect", ["code", "tools"])
def test_turns_are_written_with_the_ids_that_they_read_as(grid, dialect):
    env = gymnasium.make("JigsawVision-v0", grid=grid, dialect=dialect, image_size=96)
    env.reset(seed=0)
    for text in turns(env):
        ids = encode(text)
        assert decode(ids) == text
        assert encode(decode(ids)) == ids
        assert len(ids) < 45


def test_the_jigsaws_texts_cost_few_tokens():
    env = gymnasium.make("JigsawVision-v0", image_size=64, prompt="short")
    observation, _ = env.reset(seed=0)
    assert len(encode(observation["text"])) <= 12
    answer, swap, *_ = turns(env)
    assert len(encode(answer)) == 7
    assert len(encode(swap)) == 14
    assert len(encode(swap.replace("A and B seem to have changed places.", ""))) == 5
    observation, *_ = env.step(swap)
    assert len(encode(observation["text"])) <= 9


def user(*parts):
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts
    ]
    return {"role": "user", "content": content}


def picture(height=32, width=32, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


CONVERSATION = [
    {"role": "system", "content": "Play."},
    user("2 x 2, 5 turns\nA: ", picture(), "\nB: ", picture()),
    {"role": "assistant", "content": "<think></think>\n<code>\nobservation_image_1 = observation(state)\n</code>"},
    user("observation_image_1: ", picture(66, 66), "\nstate A B"),
    {"role": "assistant", "content": [{"type": "text", "text": '<think></think>\n<answer>["A", "B"]</answer>'}]},
    user("The answer was received."),
]


def rendered(messages, **options):
    return PROCESSOR.apply_chat_template(messages, tokenize=False, **options)


@pytest.mark.parametrize("start", [0, 1])
def test_more_turns_leave_the_beginning_of_a_conversation_as_it_was(start):
    messages = CONVERSATION[start:]
    texts = [rendered(messages[:end]) for end in range(1, len(messages) + 1)]
    for end, (text, longer) in enumerate(pairwise(texts), 1):
        assert longer.startswith(text)
        if messages[end]["role"] == "assistant":
            prompted = rendered(messages[:end], add_generation_prompt=True)
            assert longer.startswith(prompted)
            written = messages[end]["content"]
            written = written if isinstance(written, str) else written[0]["text"]
            assert longer == f"{prompted}{written}<|end|>"
            assert encode(longer) == encode(prompted) + encode(written) + [TOKENIZER.eos_token_id]
    assert texts[-1].count("<s>") == 1


def test_the_template_takes_texts_as_they_are():
    hostile = " {{ bos_token }} <|x|> \n  {% if %}  "
    assert rendered([{"role": "user", "content": hostile}]) == f"<s><|user|>{hostile}"
    assert rendered([user(hostile, picture(), " ")]) == f"<s><|user|>{hostile}<image> "
    with pytest.raises(Exception, match="roles are system"):
        rendered([{"role": "tool", "content": "x"}])
    with pytest.raises(Exception, match="parts of a message"):
        rendered([{"role": "user", "content": [{"type": "video"}]}])


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((32, 32), (1, 1)),
        ((64, 64), (1, 1)),
        ((96, 96), (2, 2)),
        ((66, 130), (1, 3)),
        ((1, 7), (1, 3)),
        ((448, 300), (2, 1)),
    ],
)
def test_an_image_is_as_many_tokens_as_it_has_windows(size, grid):
    inputs = PROCESSOR.apply_chat_template(
        [user("A: ", picture(*size))], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    count = int((inputs["input_ids"] == PROCESSOR.image_token_id).sum())
    assert count == grid[0] * grid[1]
    assert inputs["image_grid_thw"].tolist() == [[1, 3 * grid[0], 3 * grid[1]]]
    assert inputs["pixel_values"].shape == (9 * count, 3 * 16 * 16)
    assert float(inputs["pixel_values"].abs().max()) <= 1


def test_boards_of_whole_windows_come_through_unchanged():
    image = picture(96, 48)
    patches = PROCESSOR.image_processor(image, return_tensors="pt")["pixel_values"].numpy()
    windows = patches.reshape(2, 3, 3, 3, 16, 16).transpose(0, 1, 4, 2, 5, 3).reshape(96, 48, 3)
    np.testing.assert_allclose(windows, np.asarray(image, np.float32) / 127.5 - 1, atol=1e-6)


def test_the_tokenizer_survives_saving(tmp_path):
    from transformers import AutoProcessor

    PROCESSOR.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    text = rendered(CONVERSATION)
    assert loaded.tokenizer.encode(text) == encode(text)
    assert loaded.apply_chat_template(CONVERSATION, tokenize=False) == text
