from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers")

from agile_gym.learner.data import Sample, assign_minibatches, make_samples, micro_batches, shard_samples
from agile_gym.transcripts import Segment
from tests.helpers.tiny_learning import episodes, made_sample

LENGTHS = st.lists(st.integers(1, 60), max_size=25)


def segment(turns, images=()):
    """Return a segment with these turns, -1 where nothing was written."""
    array = np.array(turns, np.int16)
    ids = np.arange(len(turns), dtype=np.int32)
    return Segment(ids, array >= 0, np.full(len(turns), -0.5, np.float32), array, images)


@pytest.fixture(scope="module")
def cut():
    """Return an episode of three turns in two stretches, and one stretch that nothing was written in."""
    parts = (segment([-1, -1, 0, 0], (0, 1)), segment([-1, 1, -1, 2, 2], (1, 2)), segment([-1, -1]))
    return replace(episodes()[0], segments=parts)


def test_episode_is_cut_into_its_segments(cut):
    first, second = make_samples(cut, 0.5, minibatches=[1, 0])
    assert first.segment.advantages.tolist() == [0, 0, 0.5, 0.5]
    assert second.segment.advantages.tolist() == [0, 0.5, 0, 0.5, 0.5]
    assert (first.length, second.length) == (5, 5)  # of the episode, not of the stretch
    assert (first.trained, second.trained) == (2, 3)
    assert first.minibatches == second.minibatches == (1, 0)
    assert (len(first), len(second)) == (4, 5)
    assert all(np.array_equal(a, b) for a, b in zip(first.images, cut.images[:2], strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(second.images, cut.images[1:3], strict=True))
    assert (first.env_steps(), second.env_steps(), second.agent_steps()) == (1, 2, 2)


def test_advantage_of_each_turn(cut):
    first, second = make_samples(cut, [1.0, -2.0, 3.0])
    assert first.segment.advantages.tolist() == [0, 0, 1, 1]
    assert second.segment.advantages.tolist() == [0, -2, 0, 3, 3]
    with pytest.raises(ValueError, match="advantages"):
        make_samples(cut, [1.0, 2.0])


def test_supervised_samples_have_no_advantages_and_may_bring_their_own_tokens(cut):
    only = segment([-1, 0, -1])
    (sample,) = make_samples(cut, None, segments=[only])
    assert sample.segment.advantages is None
    assert (sample.length, sample.images) == (1, ())


def test_played_episode_becomes_one_sample():
    episode = episodes()[1]
    (sample,) = make_samples(episode, 1.0)
    assert sample.trained == sample.length == sum(turn.usage.new_tokens for turn in episode.turns)
    assert len(sample.images) == len(episode.images) > 0
    assert sample.env_steps() == len(episode.turns)


def test_nothing_is_in_no_minibatch():
    empty = Sample.nothing()
    assert (len(empty), empty.trained, empty.length, empty.minibatches, empty.env_steps()) == (0, 0, 0, (), 0)


@given(st.integers(0, 40), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_each_epoch_has_every_episode_once_in_minibatches_of_like_size(count, minibatches, epochs, seed):
    chosen = assign_minibatches(count, minibatches, epochs, np.random.default_rng(seed))
    assert chosen.shape == (count, epochs)
    assert np.array_equal(chosen, assign_minibatches(count, minibatches, epochs, np.random.default_rng(seed)))
    for epoch in chosen.T:
        sizes = np.bincount(epoch, minlength=minibatches)
        assert len(sizes) == minibatches
        assert sizes.max() - sizes.min() <= 1


def test_epochs_are_drawn_anew():
    chosen = assign_minibatches(40, 4, 2, np.random.default_rng(0))
    assert not np.array_equal(chosen[:, 0], chosen[:, 1])


@pytest.mark.slow
@given(LENGTHS, st.integers(1, 5), st.randoms())
def test_every_sample_goes_to_one_learner_and_loads_are_like(lengths, learners, random):
    samples = [made_sample(length, minibatches=(random.randrange(3), 0)) for length in lengths]
    shards = shard_samples(samples, learners)
    assert len(shards) == learners
    assert Counter(id(sample) for shard in shards for sample in shard) == Counter(map(id, samples))
    for number in range(3):
        mine = [[len(sample) for sample in shard if sample.minibatches[0] == number] for shard in shards]
        longest = max((length for part in mine for length in part), default=0)
        loads = [sum(part) for part in mine]
        assert max(loads) - min(loads) <= longest


@pytest.mark.slow
@given(LENGTHS, st.integers(1, 200))
def test_micro_batches_hold_every_sample_once_within_their_limit(lengths, limit):
    samples = [made_sample(length) for length in lengths]
    batches = micro_batches(samples, limit)
    assert Counter(id(sample) for batch in batches for sample in batch) == Counter(map(id, samples))
    assert all(len(batch) == 1 or len(batch) * max(map(len, batch)) <= limit for batch in batches)
    # No two neighbours would have fitted into one.
    for first, second in pairwise(batches):
        assert (len(first) + 1) * max(map(len, first)) > limit
        assert min(map(len, first)) >= max(map(len, second))


@pytest.mark.slow
@given(LENGTHS, st.integers(1, 200))
def test_packed_micro_batches_hold_every_sample_once_within_their_limit(lengths, limit):
    samples = [made_sample(length) for length in lengths]
    batches = micro_batches(samples, limit, packing=True)
    assert Counter(id(sample) for batch in batches for sample in batch) == Counter(map(id, samples))
    loads = [sum(map(len, batch)) for batch in batches]
    assert sum(loads) == sum(lengths)
    assert all(load <= limit or len(batch) == 1 for load, batch in zip(loads, batches, strict=True))
    assert all(one + other > limit for one, other in combinations(loads, 2))  # no two would fit into one


def test_packed_micro_batches_literally():
    samples = [made_sample(length) for length in (3, 9, 5, 2, 4, 1, 12)]
    batches = micro_batches(samples, 10, packing=True)
    assert [[len(sample) for sample in batch] for batch in batches] == [[12], [9, 1], [5, 4], [3, 2]]


def test_micro_batches_literally():
    samples = [made_sample(length) for length in (3, 10, 5, 4, 20)]
    assert [[len(sample) for sample in batch] for batch in micro_batches(samples, 20)] == [[20], [10, 5], [4, 3]]
    assert micro_batches([], 20) == []
