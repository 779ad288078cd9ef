"""The reference policies on questions: the oracle looks and answers, and the random one guesses."""

from collections import Counter
from functools import partial

import numpy as np
import pytest

from agile_gym.coldstart import ColdStartConfig, make_cold_start
from agile_gym.envs.visual_qa import VisualQAEnv
from agile_gym.errors import ConfigurationError
from agile_gym.policies import make_policy
from agile_gym.rollout import EpisodeSpec, play_episodes
from agile_gym.testing import check_policy
from agile_gym.transcripts import read_transcripts

SMALL = {"canvas_size": 64, "difficulty": 1}


def played(policy, count=30, **options):
    maker = partial(VisualQAEnv, **(SMALL | options))
    specs = [EpisodeSpec("qa", seed, policy_seed=seed) for seed in range(count)]
    return [episode for _, episode in play_episodes(policy, specs, {"qa": maker})]


@pytest.mark.parametrize(("dialect", "size", "turns"), [("code", 64, {1, 2, 3}), ("tools", 200, {1, 2})])
def test_the_oracle_looks_at_the_box_and_is_always_right(dialect, size, turns):
    options = {"reveal": True, "dialect": dialect, "picture_size": size, "difficulty": "all"}
    episodes = played(make_policy("oracle", look=True), **options)
    for episode in episodes:
        assert episode.solved
        assert not any(turn.error for turn in episode.turns)
        names = [turn.primitives for turn in episode.turns]
        assert (names[0] == ("Crop",)) == (episode.task["box"] is not None)
        assert names[-1] == ("Answer",)
        if episode.task["box"] is not None:
            x1, y1, x2, y2 = (round(size * side) for side in episode.task["box"])
            shown = episode.turns[0].images[0]
            wide, high = min(64, x2 - x1), min(64, y2 - y1)
            assert shown.shape[0] >= high or shown.shape[1] >= wide  # all of the box, perhaps scaled down
    kinds = Counter(len(episode.turns) for episode in episodes)
    assert set(kinds) == turns
    assert all(len(episode.turns) == 1 for episode in played(make_policy("oracle"), 8, **options))


def test_an_oracle_without_turns_to_spare_answers_at_once():
    for episode in played(make_policy("oracle", look=True), 8, reveal=True, max_turns=1):
        assert episode.solved
        assert len(episode.turns) == 1


def test_the_oracle_needs_the_solution():
    with pytest.raises(ConfigurationError, match="make the environment with reveal=True"):
        played(make_policy("oracle"), 1)


def test_guesses_are_right_by_chance():
    episodes = played(make_policy("random"), 60, kinds=["half", "turned"])
    rates = {
        kind: np.mean([one.solved for one in episodes if one.task["label"] == kind]) for kind in ("half", "turned")
    }
    assert 0.25 < rates["half"] < 0.75
    assert rates["turned"] < 0.5
    texts = Counter(one.turns[0].text for one in episodes)
    assert set(texts) == {f"<think>I guess.</think>\n<answer>{letter}</answer>" for letter in "ABCD"}


@pytest.mark.parametrize("name", ["random", "oracle"])
def test_they_keep_the_contract(name):
    check_policy(make_policy(name), partial(VisualQAEnv, reveal=True, **SMALL))


def test_a_cold_start_of_questions(tmp_path):
    config = ColdStartConfig(
        count=12,
        env="VisualQA-v0",
        teacher="oracle",
        teacher_options={"look": True},
        options={"reveal": True, "split": "train", "kinds": ["word", "half", "where"], **SMALL},
    )
    report = make_cold_start(tmp_path / "cold-start", config)
    assert report.complete
    episodes = list(read_transcripts(tmp_path / "cold-start"))
    assert len(episodes) == 12
    assert {episode.task["label"] for episode in episodes} == {"word", "half", "where"}
    assert len({len(episode.turns) for episode in episodes}) >= 2
