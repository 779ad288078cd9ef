from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agile_gym.errors import ConfigurationError
from agile_gym.learner.groups import Curriculum, TaskMix, make_group

MIX = TaskMix.from_mappings([{"grid": "2x2", "level": 0}, {"grid": "3x3", "weight": 3}, {"weight": 0}])


def test_tasks_of_mappings():
    assert MIX[0] == TaskMix("2x2", 0, 1.0)
    assert [task.name for task in MIX] == ["2x2-L0", "3x3", "default"]
    assert [task.env_options() for task in MIX] == [{"grid": "2x2", "level": 0}, {"grid": "3x3"}, {}]
    assert TaskMix.from_mappings(MIX) == MIX
    (other,) = TaskMix.from_mappings([{"options": {"size": 32}}])
    assert (other.name, other.env_options()) == ("default-size=32", {"size": 32})


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"gird": "2x2"}], r"no key 'gird'.*Did you mean 'grid'"),
        ([{"weight": -1}], r"weight=-1"),
        ([{"weight": float("nan")}], r"weight=nan"),
        ([{"weight": "much"}], r"weight='much'"),
        ([{"weight": 0}], r"at least one task"),
        ([], r"at least one task"),
        ([{"options": 3}], r"options=3 must be a mapping"),
        (["2x2"], r"'2x2'.*mapping"),
        ("2x2", r"'2x2'"),
        ([{}, {}], r"two tasks have the name 'default'"),
        ([{"name": "a"}, {"env": "b:B", "name": "a"}], r"two tasks have the name 'a'; give each a name of its own"),
        ([{"name": "2x2"}], r"name='2x2' is not allowed.*no grid"),
        ([{"name": "a/b"}], r"name='a/b' is not allowed"),
        ([{"name": 3}], r"name=3 is not allowed"),
        ([{"env": 3}], r"env=3 must be a text"),
        ([{"env": ""}], r"env='' must be a text"),
    ],
)
def test_bad_tasks(entries, message):
    with pytest.raises(ConfigurationError, match=message):
        TaskMix.from_mappings(entries)


QUARTER = "custom_env:QuarterEnv"


def test_names_of_tasks_of_other_environments():
    names = [
        task.name
        for task in TaskMix.from_mappings(
            [{"env": QUARTER}, {"env": QUARTER, "options": {"path": "a/b:c"}}, {"env": QUARTER, "name": "mine"}]
        )
    ]
    assert names == ["QuarterEnv", "QuarterEnv-path-a-b-c", "mine"]


def test_environment_and_options_of_a_task():
    jigsaw, base = "JigsawVision-v0", {"grid": 2, "images": "train", "split": None, "max_turns": 4}

    def resolve(env=jigsaw, test=False, **entry):
        (task,) = TaskMix.from_mappings([entry])
        return task.resolve(env, base, test=test)

    assert resolve(grid="3x3", options={"max_turns": 9}) == (jigsaw, base | {"grid": "3x3", "max_turns": 9})
    assert resolve(env=QUARTER, options={"size": 32}) == (QUARTER, base | {"size": 32})
    (other,) = TaskMix.from_mappings([{"env": QUARTER, "options": {"size": 32}, "images": "a", "test_images": "b"}])
    assert other.resolve(jigsaw, base, test=False) == (QUARTER, {"images": "a", "size": 32})
    assert other.resolve(jigsaw, base, test=True) == (QUARTER, {"images": "b", "size": 32})
    (same,) = TaskMix.from_mappings([{"env": QUARTER}])
    assert same.resolve(QUARTER, base, test=True) == (QUARTER, base)  # it is the training's
    (own,) = TaskMix.from_mappings([{"images": "a"}])
    assert own.resolve(jigsaw, base, test=False)[1] == base | {"images": "a", "split": "train"}
    assert own.resolve(jigsaw, base, test=True)[1] == base | {"images": "a", "split": "test"}
    (far,) = TaskMix.from_mappings([{"env": jigsaw, "grid": "3x3"}])
    assert far.resolve(QUARTER, base, test=True) == (jigsaw, {"grid": "3x3", "images": None, "split": "test"})
    assert [task.is_separate(jigsaw) for task in (other, own, far)] == [True, True, False]
    assert far.is_separate(QUARTER)


@settings(max_examples=30, deadline=None)
@given(
    shares=st.lists(st.integers(0, 1000), min_size=1, max_size=5).filter(any),
    seed=st.integers(0, 2**31 - 1),
    stream=st.integers(0, 2),
)
def test_tasks_are_drawn_by_weight_from_seed_and_number_alone(shares, seed, stream):
    count = 300
    drawn = [make_group(index, seed=seed, size=1, shares=shares, stream=stream).task for index in range(count)]
    assert [make_group(index, seed=seed, size=4, shares=shares, stream=stream).task for index in range(count)] == drawn
    words = [int(np.random.SeedSequence([seed, stream, index]).generate_state(1)[0]) for index in range(count)]
    edges = list(accumulate(shares))  # in whole numbers, so that nothing is rounded
    for task, word in zip(drawn, words, strict=True):
        assert edges[task] - shares[task] <= word * edges[-1] / 2**32 < edges[task]
    for task, share in enumerate(shares):
        part = share / edges[-1]
        assert abs(drawn.count(task) / count - part) <= 6 * (part * (1 - part) / count) ** 0.5 + 1e-9


def test_group_follows_from_its_arguments_alone():
    first = make_group(7, seed=1, size=4, shares=[1, 3])
    assert first == make_group(7, seed=1, size=4, shares=[1, 3])
    assert first.index == 7
    assert len(set(first.policy_seeds)) == 4
    others = [make_group(8, seed=1, size=4, shares=[1, 3]), make_group(7, seed=2, size=4, shares=[1, 3])]
    others += [make_group(7, seed=1, size=4, shares=[1, 3], stream=1)]
    assert len({first.seed, *(other.seed for other in others)}) == 4
    # A group that is larger begins like one that is smaller.
    assert make_group(7, seed=1, size=6, shares=[1, 3]).policy_seeds[:4] == first.policy_seeds


def test_groups_are_of_different_puzzles_and_tasks_come_by_their_shares():
    groups = [make_group(index, seed=0, size=2, shares=[2.0, 0.0, 6.0]) for index in range(4000)]
    assert len({group.seed for group in groups}) > 3990
    counts = np.bincount([group.task for group in groups], minlength=3)
    assert counts[1] == 0
    assert counts[0] / 4000 == pytest.approx(0.25, abs=0.03)


def test_last_task_without_weight_is_never_played():
    assert {make_group(index, seed=0, size=1, shares=[1.0, 0.0]).task for index in range(500)} == {0}


def test_curriculum_follows_variance():
    curriculum = Curriculum(MIX, adaptive=True)
    assert curriculum.shares() == [0.25, 0.75, 0.0]
    curriculum.learn([0, 0, 1, 1], [True, False, False, False])
    assert curriculum.informative.tolist() == pytest.approx([0.95, 0.9, 1.0])
    assert curriculum.shares() == pytest.approx([0.95 / 3.65, 2.7 / 3.65, 0])
    for _ in range(200):
        curriculum.learn([1], [False])
    assert curriculum.shares() == pytest.approx([0.95 / 1.25, 0.3 / 1.25, 0])  # a tenth of its weight stays


def test_curriculum_that_is_off_keeps_the_weights():
    curriculum = Curriculum(MIX, adaptive=False)
    curriculum.learn([1], [False])
    assert curriculum.shares() == [0.25, 0.75, 0.0]


def test_curriculum_is_stored_and_taken_over():
    first, second = Curriculum(MIX, adaptive=True), Curriculum(MIX, adaptive=True)
    first.learn([0, 1], [True, False])
    second.set_state(first.get_state())
    assert second.shares() == first.shares()
    with pytest.raises(ConfigurationError, match="2 tasks does not fit 3"):
        second.set_state([1.0, 1.0])
