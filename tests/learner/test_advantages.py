"""Advantages against the statistics module, and their tokens against counting."""

import json
import statistics
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.learner import (
    count_trained,
    group_advantages,
    returns_to_go,
    spread_advantages,
    turn_advantages,
    turn_rewards,
)
from agile_gym.policies import OraclePolicy
from agile_gym.rollout import EpisodeSpec, play_episodes
from agile_gym.transcripts import Segment

# What an episode can earn, in AGILE's rewards.
RETURNS = st.sampled_from([-0.25, -0.05, 0.75, 0.8, 0.95, 1.0])
EPISODES = st.lists(st.tuples(RETURNS, st.integers(0, 4)), min_size=1, max_size=24)


def test_group_by_hand():
    # Two groups, mixed: 1, 0, 0, 0 (mean 1/4, standard deviation 1/2) and 1, 1.
    told = group_advantages([1, 1, 0, 0, 1, 0], ["a", "b", "a", "a", "b", "a"], epsilon=0)
    assert told.advantages.tolist() == [1.5, 0, -0.5, -0.5, 0, -0.5]
    assert told.advantages.dtype == np.float32
    assert told.constant.tolist() == [False, True, False, False, True, False]
    assert (told.groups, told.constant_groups) == (2, 1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"epsilon": 0}, [1.5, -0.5, -0.5, -0.5]),
        ({"scale": "none"}, [0.75, -0.25, -0.25, -0.25]),
        ({"scale": "none", "leave_one_out": True}, [1, -1 / 3, -1 / 3, -1 / 3]),
        ({"epsilon": 0, "leave_one_out": True}, [2, -2 / 3, -2 / 3, -2 / 3]),
        ({"epsilon": 0.5}, [0.75, -0.25, -0.25, -0.25]),
        # 1, 0, 0, 0, 3, 3: mean 7/6, sum of squares 19 - 49/6
        ({"scale": "batch", "epsilon": 0}, np.array([0.75, -0.25, -0.25, -0.25]) / ((19 - 49 / 6) / 5) ** 0.5),
    ],
)
def test_options_by_hand(options, expected):
    told = group_advantages([1, 0, 0, 0, 3, 3], [7, 7, 7, 7, 2, 2], **options)
    assert told.advantages == pytest.approx([*expected, 0, 0])
    assert (told.groups, told.constant_groups) == (2, 1)


@pytest.mark.slow
@given(episodes=EPISODES, scale=st.sampled_from(["group", "batch", "none"]), leave_one_out=st.booleans())
@settings(deadline=None)
def test_advantages_are_those_of_the_statistics_module(episodes, scale, leave_one_out):
    returns, groups = zip(*episodes, strict=True)
    members = defaultdict(list)
    for value, group in episodes:
        members[group].append(value)
    told = group_advantages(returns, groups, scale=scale, leave_one_out=leave_one_out)
    varied = {group for group, values in members.items() if len(set(values)) > 1}
    assert told.groups == len(members)
    assert told.constant_groups == len(members) - len(varied)
    for index, (value, group) in enumerate(episodes):
        assert told.constant[index] == (group not in varied)
        if group not in varied:
            assert told.advantages[index] == 0
            continue
        others = list(members[group])
        if leave_one_out:
            others.remove(value)
        expected = value - statistics.fmean(others)
        if scale != "none":
            expected /= statistics.stdev(members[group] if scale == "group" else returns) + 1e-4
        assert told.advantages[index] == pytest.approx(expected, rel=1e-5)


@given(episodes=EPISODES)
@settings(deadline=None)
def test_advantages_of_a_group_sum_to_zero_and_order_is_of_no_matter(episodes):
    returns, groups = (np.array(part) for part in zip(*episodes, strict=True))
    told = group_advantages(returns, groups)
    for group in np.unique(groups):
        assert told.advantages[groups == group].sum() == pytest.approx(0, abs=1e-4)
    order = np.random.default_rng(len(episodes)).permutation(len(episodes))
    assert group_advantages(returns[order], groups[order]).advantages == pytest.approx(told.advantages[order])


def test_equal_returns_have_no_variance_whatever_the_rounding():
    # 0.8 + 0.2 - 0.05 * 3 in several orders of adding up, and as float32
    returns = [0.8 + 0.2 - 0.15, 0.8 - 0.05 - 0.05 - 0.05 + 0.2, float(np.float32(0.85)), 0.85]
    assert len(set(returns)) > 1
    told = group_advantages(returns, [0, 0, 0, 0])
    assert told.advantages.tolist() == [0, 0, 0, 0]
    assert told.constant_groups == 1
    assert group_advantages(returns, [0, 0, 0, 0], tolerance=0).constant_groups == 0
    assert group_advantages([0.85, 0.85], [0, 0], tolerance=0, epsilon=0).constant_groups == 1


def test_no_episodes_and_single_ones():
    told = group_advantages([], [])
    assert (told.advantages.shape, told.groups, told.constant_groups) == ((0,), 0, 0)
    for scale in ("group", "batch", "none"):
        for leave_one_out in (False, True):
            told = group_advantages([3.0], [9], scale=scale, leave_one_out=leave_one_out)
            assert (told.advantages.tolist(), told.constant.tolist()) == ([0], [True])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1, 2], [1]), {}, r"returns \(2,\) and groups \(1,\) must both have shape \(N,\)"),
        (([[1, 2]], [[1, 2]]), {}, r"returns \(1, 2\)"),
        (([1, float("nan")], [1, 1]), {}, r"returns\[1\] is nan"),
        (([1, 2], [1, 1]), {"scale": "std"}, "scale='std' is not allowed; give 'group', 'batch' or 'none'"),
        (([1, 2], [1, 1]), {"epsilon": -1}, "epsilon=-1 and"),
        (([1, 2], [1, 1]), {"tolerance": float("nan")}, "tolerance=nan must be at least 0"),
    ],
)
def test_nonsense_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(*arguments, **options)


def test_returns_to_go():
    assert returns_to_go([0, 0, 1]).tolist() == [1, 1, 1]
    assert returns_to_go([1, 2, 4], 0.5).tolist() == [3, 4, 4]
    assert returns_to_go([1, 2, 4], 0).tolist() == [1, 2, 4]
    assert returns_to_go([]).shape == (0,)
    with pytest.raises(ValueError, match=r"rewards \(1, 2\) must have shape \(turns,\)"):
        returns_to_go([[1, 2]])
    with pytest.raises(ValueError, match=r"discount=1\.5 is not allowed"):
        returns_to_go([1], 1.5)


def test_advantages_of_turns_by_hand():
    # Two groups; the second episode of the first has a turn that no other one reaches.
    rewards = [[0, 1], [0, 0, -1], [0, 0], [1]]
    told = turn_advantages(rewards, [7, 7, 7, 2], scale="none")
    assert [turns.tolist() for turns in told] == [[1, 1], [-1, -1, 0], [0, 0], [0]]
    assert all(turns.dtype == np.float32 for turns in told)
    late = turn_advantages(rewards, [7, 7, 7, 2], scale="none", discount=0.5)
    assert late[0] == pytest.approx([0.5 - (0.5 - 0.25 + 0) / 3, 1 - (1 - 0.5 + 0) / 3])
    assert late[1] == pytest.approx([-0.25 - 0.25 / 3, -0.5 - 0.5 / 3, 0])
    assert turn_advantages([], []) == []
    assert [turns.tolist() for turns in turn_advantages([[], [1.0]], [0, 0])] == [[], [0]]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.floats(-2, 2), max_size=5)), max_size=12),
    st.sampled_from(["group", "batch", "none"]),
    st.booleans(),
)
def test_an_advantage_of_a_turn_is_that_of_episodes_that_end_there(episodes, scale, leave_one_out):
    """At each turn, the returns-to-go of a group are compared as returns of episodes are."""
    groups, rewards = [group for group, _ in episodes], [list(turns) for _, turns in episodes]
    told = turn_advantages(rewards, groups, scale=scale, leave_one_out=leave_one_out, discount=0.9)
    assert [len(turns) for turns in told] == [len(turns) for turns in rewards]
    places = [(number, turn) for number, turns in enumerate(rewards) for turn in range(len(turns))]
    values = [returns_to_go(rewards[number], 0.9)[turn] for number, turn in places]
    names = [f"{groups[number]} at {turn}" for number, turn in places]
    expected = group_advantages(values, names, scale=scale, leave_one_out=leave_one_out).advantages
    assert [told[number][turn] for number, turn in places] == pytest.approx(expected.tolist())


def test_turns_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"groups \(1,\) must have one entry for each of 2 episodes"):
        turn_advantages([[1], [2]], [0])


class LookingOracle(OraclePolicy):
    """Looks at the board twice, and then answers."""

    looks = 2

    def act(self, observations, infos):
        if not self.looks:
            return super().act(observations, infos)
        self.looks -= 1
        return ["<think>t</think><code>observation_image_1 = observation(state)</code>"]


def make_segment(marks):
    """Make a segment of the turns of its tokens, -1 where the model did not write."""
    turns = np.array(marks, np.int16)
    count = len(marks)
    return Segment(np.arange(count, dtype=np.int32), turns >= 0, np.zeros(count, np.float32), turns, ())


def test_an_advantage_for_the_episode_or_for_each_turn():
    # The second segment begins anew with what was read and written before, which it does not mark.
    segments = (make_segment([-1, 0, 0, -1, 1]), make_segment([-1, -1, -1, 2, 2, -1, 3]))
    assert count_trained(segments) == 6
    whole = spread_advantages(segments, -0.5)
    assert [segment.advantages.tolist() for segment in whole] == [
        [0, -0.5, -0.5, 0, -0.5],
        [0, 0, 0, -0.5, -0.5, 0, -0.5],
    ]
    turns = spread_advantages(segments, [1, 2, 3, 4])
    assert [segment.advantages.tolist() for segment in turns] == [[0, 1, 1, 0, 2], [0, 0, 0, 3, 3, 0, 4]]
    assert all(segment.advantages.dtype == np.float32 for segment in turns)
    assert all(segment.advantages is None for segment in segments)
    assert turns[0].ids is segments[0].ids
    assert spread_advantages((), 1.0) == ()


@pytest.mark.parametrize(
    ("segments", "advantages", "message"),
    [
        (([-1, 0, 1],), [1.0], r"advantages \(1,\) has none for turn 1, which segment 0 holds"),
        (([-1, 0], [-1, 0, 1]), 1.0, "tokens of turn 0 are marked in the segments 0 and 1"),
        (([-1, 0],), [[1.0]], r"advantages \(1, 1\) must have shape \(\) or \(turns,\)"),
    ],
)
def test_tokens_without_an_advantage_or_with_two(segments, advantages, message):
    with pytest.raises(ValueError, match=message):
        spread_advantages([make_segment(marks) for marks in segments], advantages)


def test_a_marked_token_of_no_turn():
    good = make_segment([-1, 0])
    bad = Segment(good.ids, np.array([True, True]), good.logps, good.turns, ())
    with pytest.raises(ValueError, match="Segment 0 marks a token that belongs to no turn"):
        spread_advantages([bad], 1.0)


@given(
    turns=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    cuts=st.sets(st.integers(1, 5)),
    per_turn=st.booleans(),
)
@settings(deadline=None)
def test_every_token_has_its_advantage_once_however_an_episode_is_cut(turns, cuts, per_turn):
    segments, marks = [], [-1]
    for number, written in enumerate(turns):
        if number in cuts:
            segments.append(make_segment(marks))
            marks = [-1] * 3
        marks += [number] * written + [-1]
    segments.append(make_segment(marks))
    advantages = np.arange(1, len(turns) + 1) / 8 if per_turn else 0.5
    told = spread_advantages(segments, advantages)
    expected = np.repeat(advantages if per_turn else [advantages] * len(turns), turns)
    assert np.concatenate([segment.advantages[segment.loss_mask] for segment in told]).tolist() == expected.tolist()
    assert sum(segment.advantages.sum() for segment in told) == expected.sum()
    assert count_trained(told) == sum(turns)


def test_rewards_of_the_turns_of_real_episodes():
    def make():
        return JigsawVisionEnv(image_size=48, reveal=True)

    ((_, transcript),) = play_episodes(LookingOracle(), [EpisodeSpec("2x2", 1)], {"2x2": make}, batch=1)
    rewards = turn_rewards(transcript)
    assert rewards == pytest.approx([0, 0, 0.9])  # 1 - 2 turns with code
    assert rewards.sum() == pytest.approx(transcript.reward["total"])
    # Everything is paid on the last turn, so each turn earns the whole.
    assert returns_to_go(rewards) == pytest.approx([transcript.reward["total"]] * len(rewards))


def test_importing_the_package_does_not_import_torch():
    code = "import agile_gym.learner, json, sys; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(result.stdout)}
    assert loaded.isdisjoint({"torch", "transformers", "ray", "trl", "cv2", "PIL", "pyarrow"})
