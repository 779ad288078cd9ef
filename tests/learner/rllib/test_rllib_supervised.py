"""Supervised training on a cold start, with episodes that are replayed beside it."""

from collections import Counter

import pytest

from agile_gym.coldstart import ColdStartConfig, make_cold_start
from agile_gym.errors import ConfigurationError
from agile_gym.learner.sft import SFT, SFTConfig
from agile_gym.models import ChatFormat
from agile_gym.models.tiny import build_processor
from tests.helpers.rllib_parts import difference, weights

OPTIONS = {"image_size": 64, "prompt": "short"}


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    """Return the folders of 8 episodes of several turns, and of 6 of a single one."""
    folder = tmp_path_factory.mktemp("episodes")
    make_cold_start(folder / "cold", ColdStartConfig(count=8, turns=(2, 3), options=OPTIONS))
    single = ColdStartConfig(count=6, turns=1, teacher="oracle", balance="none", options=OPTIONS, seed=7)
    make_cold_start(folder / "replay", single)
    return folder / "cold", folder / "replay"


@pytest.fixture
def config(episodes, small_model):
    return (
        SFTConfig()
        .environment("JigsawVision-v0", env_config={**OPTIONS, "split": "train"})
        .vlm(path=str(small_model))
        .env_runners(num_env_runners=0)
        .learners(num_learners=0)
        .training(lr=1e-3, num_minibatches=2)
        .supervise(transcripts=episodes[0], batch_size=4, replay=episodes[1], replay_size=3)
    )


def number_of(sample, among):
    return next(number for number, other in enumerate(among) if other.segment is sample.segment)


def test_every_step_has_its_episodes_and_all_come_before_one_comes_again(config, build):
    algorithm = build(config)
    assert (len(algorithm._samples), len(algorithm._replay)) == (8, 6)
    orders = []
    for _ in range(3):
        drawn = algorithm._next_samples()
        cold, replayed = drawn[:8], drawn[8:]
        for part, size in ((cold, 4), (replayed, 3)):
            assert Counter(sample.minibatches for sample in part) == {(0,): size, (1,): size}
        orders.append([number_of(sample, algorithm._samples) for sample in cold])
        assert sorted(orders[-1]) == list(range(8))  # an iteration is an epoch
        assert sorted(number_of(sample, algorithm._replay) for sample in replayed) == list(range(6))
    assert len({tuple(order) for order in orders}) > 1


def test_of_what_is_replayed_only_the_answers_are_learned(config, build):
    algorithm = build(config)
    chat = ChatFormat(build_processor())
    for sample in algorithm._replay:
        learned = chat.tokenizer.decode(sample.segment.ids[sample.segment.loss_mask])
        assert sorted(letter for letter in learned if letter.isupper()) == ["A", "B", "C", "D"]
    whole = chat.tokenizer.decode(algorithm._samples[0].segment.ids[algorithm._samples[0].segment.loss_mask])
    assert "<think>" in whole
    assert "<answer>" in whole


def test_goes_on_bit_for_bit_and_depends_on_what_is_replayed(config, build, tmp_path):
    first = build(config.copy(copy_frozen=False))
    first.train()
    path = first.save_to_path(tmp_path / "checkpoint")
    first.train()
    second = SFT.from_checkpoint(path)
    second.train()
    assert difference(weights(first), weights(second)) == 0
    second.stop()
    alone = build(config.copy(copy_frozen=False).supervise(replay_size=0))
    alone.train()
    alone.train()
    assert difference(weights(first), weights(alone)) > 1e-4


def test_refuses_to_replay_nothing(config):
    with pytest.raises(ConfigurationError, match="give replay"):
        config.supervise(replay="", replay_size=3).validate()
    with pytest.raises(ConfigurationError, match="replay_size"):
        config.supervise(replay_size=-1).validate()
