"""Parts that compute episodes together: the cache of a batch, and how rows are read in few and full passes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agile_gym.models import VLM
from agile_gym.models import batch as batching
from agile_gym.models.batch import stretches
from agile_gym.models.cache import BatchCache
from agile_gym.models.inputs import cache_name
from agile_gym.models.scoring import segment_logps
from agile_gym.policies.model import HFVLMPolicy
from agile_gym.rollout import EpisodeSpec
from tests.helpers import families
from tests.helpers.prompted_episodes import SMALL, play

WIDTHS = st.lists(st.integers(1, 900), min_size=1, max_size=40).map(lambda widths: sorted(widths, reverse=True))


def cost(widths, parts):
    return sum((last - first) * widths[first] + batching._PASS_COST for first, last in parts)


@given(WIDTHS, st.data())
def test_rows_are_read_once_and_fixed_ones_without_empty_places(widths, data):
    fixed = data.draw(st.lists(st.booleans(), min_size=len(widths), max_size=len(widths)))
    parts = stretches(widths, fixed)
    assert [row for first, last in parts for row in range(first, last)] == list(range(len(widths)))
    for first, last in parts:
        assert all(widths[row] == widths[first] for row in range(first, last) if fixed[row])
        assert last - first == 1 or (last - first) * widths[first] <= batching._MOST_TOKENS


@given(WIDTHS)
def test_passes_cost_no_more_than_one_for_all(widths):
    parts = stretches(widths, [False] * len(widths))
    if len(widths) * widths[0] <= batching._MOST_TOKENS:
        assert cost(widths, parts) <= cost(widths, [(0, len(widths))])


def test_rows_that_read_far_less_get_a_pass_of_their_own():
    assert stretches([300] * 3 + [40] * 9, [False] * 12) == [(0, 3), (3, 12)]
    assert stretches([300, 290, 280], [False] * 3) == [(0, 3)]
    assert stretches([300, 290, 280], [False, True, True]) == [(0, 1), (1, 2), (2, 3)]
    assert stretches([300, 290, 290], [True, False, False]) == [(0, 3)]
    assert stretches([9000, 9000, 9000], [False] * 3) == [(0, 1), (1, 2), (2, 3)]
    assert stretches([5], [True]) == [(0, 1)]


def states(numbers):
    """Return keys or values (rows, 1 head, tokens, 2) that hold the numbers (rows, tokens)."""
    return torch.tensor(numbers, dtype=torch.float32)[:, None, :, None].expand(-1, 1, -1, 2)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_cache_holds_what_was_put_into_it(data):
    layers, rows, width = 2, data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9))
    new = data.draw(st.integers(1, width))
    lengths = data.draw(st.lists(st.integers(0, width - new), min_size=rows, max_size=rows))
    if not any(lengths):
        width = new
    cache = BatchCache(rows, data.draw(st.integers(width, width + 3)))
    want = [[[(0, 0)] * width for _ in range(rows)] for _ in range(layers)]  # (key, value) by layer, row and column
    counter = iter(range(1, 10**6))

    def numbers(layer, first, last, start, count):
        """Make new keys and values for some rows and columns, and note them."""
        keys = [[next(counter) for _ in range(count)] for _ in range(first, last)]
        for row in range(first, last):
            for column in range(start, start + count):
                while len(want[layer][row]) <= column:
                    want[layer][row].append((0, 0))
                key = keys[row - first][column - start]
                want[layer][row][column] = (key, -key)
        return torch.tensor(keys, dtype=torch.float32)

    def check(keys, values, layer, first, last, length):
        assert keys.shape == values.shape == (last - first, 1, length, 2)
        got = [list(zip(*pair, strict=True)) for pair in zip(keys[:, 0, :, 0].tolist(), values[:, 0, :, 0].tolist(),
                                                             strict=True)]  # fmt: skip
        assert got == [want[layer][row][:length] for row in range(first, last)]

    episodes = [[] for _ in range(rows)]
    for row, length in enumerate(lengths):
        for layer in range(layers):
            made = numbers(layer, row, row + 1, width - new - length, length)
            pair = states(made.tolist() if length else [[]])[0], states((-made).tolist() if length else [[]])[0]
            episodes[row].append(pair)
    given_episodes = [episode if length else [] for episode, length in zip(episodes, lengths, strict=True)]
    cache.fill(given_episodes, [width - new] * rows)
    assert given_episodes == [[]] * rows  # taken, so that memory is not held twice
    passes = [(0, rows, new)] if rows == 1 or not any(lengths) else [(0, 1, new), (1, rows, new)]
    for first, last, count in passes:
        cache.select(first, last, width - count)
        assert cache.get_seq_length() == width - count
        for layer in range(layers):
            made = numbers(layer, first, last, width - count, count)
            keys, values = cache.update(states(made.tolist()), states((-made).tolist()), layer)
            check(keys, values, layer, first, last, width)
    going = rows
    for step in range(data.draw(st.integers(0, 12))):
        if going > 1 and data.draw(st.booleans()):  # the last row takes the place of another
            row = data.draw(st.integers(0, going - 1))
            cache.copy(going - 1, row, width)
            for layer in range(layers):
                want[layer][row] = list(want[layer][going - 1])
            going -= 1
        cache.select(0, going, width)
        for layer in range(layers):
            made = numbers(layer, 0, going, width, 1)
            keys, values = cache.update(states(made.tolist()), states((-made).tolist()), layer)
            check(keys, values, layer, 0, going, width + 1)
        width += 1
        assert cache.get_seq_length() == width, step
    row = data.draw(st.integers(0, going - 1))
    used = data.draw(st.lists(st.booleans(), min_size=width, max_size=width))
    taken = cache.take(row, torch.tensor(used))
    for layer, (keys, values) in enumerate(taken):
        kept = [pair for pair, use in zip(want[layer][row], used, strict=True) if use]
        assert keys.shape == (1, sum(used), 2)
        assert list(zip(keys[0, :, 0].tolist(), values[0, :, 0].tolist(), strict=True)) == kept


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3_sliding", "llava", "tiny"])
def test_the_same_puzzle_is_read_once_and_played_as_alone(loaded, family):
    policy = HFVLMPolicy(loaded(family), max_new_tokens=12)
    # Two puzzles, three episodes each, in turns; all begin together.
    specs = [EpisodeSpec("env", i % 2, {"level": 0}, policy_seed=i, name=str(i)) for i in range(6)]
    together, alone = (play(policy, specs=specs, batch=batch) for batch in (6, 1))
    assert [t.segments[0].ids.tolist() for t in together] == [t.segments[0].ids.tolist() for t in alone]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.segments[0].logps, other.segments[0].logps, atol=1e-4)
    first = [t.turns[0].usage for t in together]
    assert [usage.computed_tokens for usage in first[:2]] == [usage.context_tokens for usage in first[:2]]
    assert [usage.computed_tokens for usage in first[2:]] == [0] * 4
    assert all(turn.usage.computed_tokens > 0 for t in together for turn in t.turns[1:])


@pytest.fixture
def short_sighted():
    """Make a LLaVA whose layers, which name no kind, all reach back so many tokens only."""

    def make(reach):
        from transformers import LlavaConfig, LlavaForConditionalGeneration, MistralConfig

        llava, processor = families.built("llava")
        config = LlavaConfig(
            vision_config=llava.config.vision_config,
            text_config=MistralConfig(
                **families.TEXT, vocab_size=llava.config.text_config.vocab_size, sliding_window=reach
            ),
            image_token_index=llava.config.image_token_index,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(4 if parameter.ndim > 1 else 1)
        return HFVLMPolicy(VLM(model, processor, "short"), max_new_tokens=30, stop=["never written"])

    return make


@pytest.mark.slow
def test_attention_that_does_not_reach_all_is_the_same_in_a_batch(short_sighted):
    policy = short_sighted(20)  # shorter than any context
    together, alone = play(policy, count=4, batch=4), play(policy, count=4, batch=1)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.segments[0].logps, other.segments[0].logps, atol=1e-4)
        (scored,) = segment_logps(policy.vlm, policy.chat, one.segments, [one.images])
        np.testing.assert_allclose(scored, one.segments[0].logps, atol=1e-4)


@pytest.mark.slow
def test_contexts_that_grow_out_of_reach_while_they_write(short_sighted):
    """A short row must not be filled up to the width of a long one: it would be out of reach of its start too early."""

    def second_turns(policy, batches):
        policy._generator.forbidden[sorted(policy._generator._ends)] = True  # so that all turns are as long
        texts = [["x"] * 3, ["x", "x " * 20, "x"]]  # of the first and the second turn
        for turn in (0, 1):
            for batch in batches:
                infos = [{"turn": turn, "slot": i, "policy_seed": i, "images": []} for i in batch]
                policy.act([{"text": texts[turn][i]} for i in batch], infos)
        return [policy.finish(i) for i in range(3)]

    records = second_turns(short_sighted(9999), [[0], [1], [2]])
    longest = max(record.usage[1].context_tokens for record in records)
    assert longest > min(record.usage[1].context_tokens for record in records) + 30
    policy = short_sighted(longest + 3)
    for one, other in zip(second_turns(policy, [[0, 1, 2]]), second_turns(policy, [[0], [1], [2]]), strict=True):
        assert len(one.segments[0].ids) == one.usage[1].context_tokens + policy.options.max_new_tokens
        np.testing.assert_allclose(one.segments[0].logps, other.segments[0].logps, atol=1e-4)


def test_few_passes_read_a_batch_of_mixed_turns(loaded, monkeypatch):
    """Rows that begin and rows that go on are read apart, and then written together."""
    policy = HFVLMPolicy(loaded("idefics3"), max_new_tokens=4, stop=["never written"])
    passes = []
    model = type(policy.vlm.model)
    forward = model.forward
    monkeypatch.setattr(batching, "_PASS_COST", 32)

    def watch(self, input_ids, **arguments):
        passes.append(tuple(input_ids.shape))
        return forward(self, input_ids=input_ids, **arguments)

    monkeypatch.setattr(model, "forward", watch)
    envs = [SMALL() for _ in range(4)]
    old = [env.reset(seed=i) for i, env in enumerate(envs)]
    policy.act([o for o, _ in old[:3]], [info | {"slot": i} for i, (_, info) in enumerate(old[:3])])
    passes.clear()
    went = [env.step("<think></think><code>swap('A', 'B')</code>") for env in envs[:3]]
    observations = [*(step[0] for step in went), old[3][0]]
    infos = [{**info, "slot": i} for i, info in enumerate([*(step[4] for step in went), old[3][1]])]
    policy.act(observations, infos)
    long = len(policy._episodes[3].context.parts[0].chunk.ids)
    (begin, goes_on), written = passes[:2], passes[2:]
    assert begin == (1, long)
    assert goes_on[0] == 3
    assert goes_on[1] < long / 2
    assert [shape[1] for shape in written] == [1] * 3
    assert written[0] == (4, 1)


def old_forward(input_ids, past_key_values=None):
    """As up to transformers 5.23."""


def new_forward(input_ids, cache=None, **kwargs):
    """As since 5.24, which still takes the former name, and warns."""


@pytest.mark.parametrize(("forward", "name"), [(old_forward, "past_key_values"), (new_forward, "cache")])
@pytest.mark.parametrize("adapted", [False, True])
def test_the_cache_goes_by_the_name_that_the_model_gives_it(forward, name, adapted):
    model = SimpleNamespace(model=SimpleNamespace(forward=forward))
    assert cache_name(SimpleNamespace(get_base_model=lambda: model) if adapted else model) == name
