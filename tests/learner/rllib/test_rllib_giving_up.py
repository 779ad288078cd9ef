"""Episodes that their policy gives up are trained on as others that are not solved."""

import pytest

from tests.helpers.rllib_parts import GivingUp, GivingUpAll, Watched, train


def test_given_up_episodes_cost_no_group(make_config, build):
    config = make_config(lr=1e-4, policy_class=GivingUp)
    config.algo_class = Watched
    algorithm = build(config)
    (told,) = train(algorithm)
    assert (told["groups_played"], told["groups_lost"], told["episodes"]) == (6, 0, 18)
    episodes = [episode for batch in algorithm.seen for group in batch.played for episode in group.episodes]
    ended = [episode for episode in episodes if "given_up" in episode.details]
    assert algorithm.told["given_up"] == len(ended) / 18
    assert 0 < len(ended) < 18
    for episode in ended:
        assert [turn.error for turn in episode.turns][-1] == "image_refused"
        assert episode.turns[-1].usage.new_tokens is None or episode.turns[-1].text == ""
        assert episode.reward["total"] == pytest.approx(-0.1)
    assert told["optimizer_steps"] > 0


def test_a_policy_that_gives_up_everything_ends_the_training(make_config, build):
    algorithm = build(make_config(policy_class=GivingUpAll, group_retries=1))
    with pytest.raises(RuntimeError, match=r"None of 6 groups could be played.*image_refused: too thin"):
        algorithm.training_step()
