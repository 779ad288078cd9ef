"""Images on their way from runners to learners, each once in Ray's object store; free memory that is handed back."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from agile_gym.learner.memory import fetch_images, hand_back, put_shards
from tests.helpers.rllib_parts import Watched, train
from tests.helpers.tiny_learning import made_sample

SIZE = 200 * 200 * 3


def picture(value):
    return np.full((200, 200, 3), value, np.uint8)


def stored(value):
    """Return the bytes that Ray stores of a value."""
    return ray._private.worker.global_worker.get_serialization_context().serialize(value).total_bytes


@pytest.fixture
def puts(monkeypatch):
    """Collect the bytes of all that is put into the store."""
    sizes, put = [], ray.put

    def watched(value, **kwargs):
        sizes.append(stored(value))
        return put(value, **kwargs)

    monkeypatch.setattr(ray, "put", watched)
    return sizes


def test_samples_arrive_as_they_were_and_each_image_is_stored_once(puts):
    first, second, third = picture(1), picture(2), picture(3)
    shards = [
        [made_sample(5, images=(first, second)), made_sample(4, images=(first, second, second))],
        [made_sample(6, images=(first,)), made_sample(7, images=(third, first)), made_sample(3)],
    ]
    references = put_shards(shards)
    assert sum(puts) < 3 * SIZE + 20_000
    for samples, reference in zip(shards, references, strict=True):
        arrived = fetch_images(ray.get(reference))
        assert [len(sample) for sample in arrived] == [len(sample) for sample in samples]
        for mine, other in zip(arrived, samples, strict=True):
            assert len(mine.images) == len(other.images)
            assert all(map(np.array_equal, mine.images, other.images))
        images = {image[0, 0, 0]: image for sample in arrived for image in sample.images}
        assert all(image is images[image[0, 0, 0]] for sample in arrived for image in sample.images)


def test_a_single_learner_gets_its_samples_in_one_piece(puts):
    shared = picture(1)
    samples = [made_sample(5, images=(shared,)) for _ in range(4)]
    (reference,) = put_shards([samples])
    assert len(puts) == 1
    assert puts[0] < SIZE + 10_000
    assert [len(sample.images) for sample in fetch_images(ray.get(reference))] == [1] * 4


@pytest.mark.parametrize("runners", [0, 1])
def test_episodes_of_a_group_share_their_images(make_config, build, runners):
    config = make_config(runners=runners)
    config.algo_class = Watched
    algorithm = build(config)
    train(algorithm)
    (batch,) = algorithm.seen
    assert len(batch.played) == 6
    for group in batch.played:
        shown = [image for episode in group.episodes for image in episode.prompt_images]
        assert len(shown) == 3 * len(group.episodes[0].prompt_images)
        assert len({id(image) for image in shown}) == len({image.tobytes() for image in shown}) < len(shown)
    copies = [
        replace(group, episodes=tuple(
            replace(episode, prompt_images=tuple(map(np.array, episode.prompt_images))) for episode in group.episodes
        ))
        for group in batch.played
    ]  # fmt: skip
    least = sum(image.nbytes for group in batch.played for image in group.episodes[0].prompt_images)
    assert stored(batch.played) < stored(copies) - 1.9 * least


def resident():
    """Return the resident memory of this process in MiB."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells the resident memory this way")
def test_free_memory_is_handed_back():
    blocks = [bytes(4000) for _ in range(50_000)]  # each too small for a mapping of its own
    last = blocks[-1]  # keeps the allocator from giving back what lies below it
    held = resident()
    del blocks
    hand_back()
    assert resident() < held - 100
    assert len(last) == 4000
