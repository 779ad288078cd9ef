"""Groups played ahead, by runners in processes of their own, while the learners train on those before."""

import os
import signal
import time
from functools import partial

import pytest
import ray

from agile_gym.errors import ConfigurationError
from tests.helpers.rllib_parts import (
    FaultyEnv,
    Watched,
    die_in_step,
    difference,
    is_even,
    os_pid,
    texts,
    train,
    weights,
)

GROUPS = 6
PAUSE = 0.05
"""Seconds that a step takes longer, so that groups are still played when the learner begins."""


def slow(config, folder, pause=PAUSE):
    config.algo_class = Watched
    folder.mkdir(exist_ok=True)
    return config.environment(FaultyEnv, env_config={**config.env_config, "folder": str(folder), "pause": pause})


@pytest.fixture(scope="module")
def started(make_config, tmp_path_factory):
    """Two runners that play an iteration ahead of a learner; their folder of faults, a checkpoint of the beginning."""
    folder = tmp_path_factory.mktemp("ahead")
    config = slow(make_config(runners=2, learners=1, lr=1e-3, max_lag=1), folder / "faults")
    config.env_runners(sample_timeout_s=8).evaluation(evaluation_config={"env_config": {"split": "test"}})
    algorithm = config.build_algo()
    yield algorithm, folder / "faults", algorithm.save_to_path(folder / "beginning")
    algorithm.stop()


@pytest.fixture
def begun(started):
    """Return the algorithm at its beginning, and the folder of faults."""
    algorithm, folder, path = started
    set_lag(algorithm, 1)
    algorithm.restore_from_path(path)
    algorithm.__dict__["seen"] = []
    algorithm.__dict__.pop("learn", None)
    return algorithm, folder


def set_lag(algorithm, lag):
    object.__setattr__(algorithm.config, "max_lag", lag)  # it is frozen; to start all processes anew takes longer


def numbers(algorithm):
    """Return the numbers of the groups that each iteration has played."""
    return [[group.spec.index for group in batch.played] for batch in algorithm.seen]


def lags(algorithm, iterations):
    """Train, and return mean and largest lag of each iteration."""
    told = []
    for _ in range(iterations):
        train(algorithm)
        told.append((float(algorithm.told["lag_mean"]), float(algorithm.told["lag_max"])))
    return told


def by_hand(algorithm, iterations, lag):
    """Train in this process alone, step by step, each iteration's groups played before the updates that they lag."""
    waiting, played = [], 0
    for number in range(iterations):
        while played <= number + (lag if number else 0):
            waiting.append(algorithm.collect())
            played += 1
        batch = waiting.pop(0)
        while played <= number + lag:
            waiting.append(algorithm.collect())
            played += 1
        algorithm._groups_begun = GROUPS * (number + 1)  # as minibatches are drawn from it
        algorithm.learn(algorithm.make_samples(batch))
        algorithm._groups_begun = GROUPS * played


@pytest.fixture(scope="module")
def expected(make_config, tmp_path_factory):
    """Return texts and weights of four iterations with a lag, in one process and step by step; kept."""
    kept = {}

    def make(lag):
        if lag not in kept:
            config = slow(make_config(lr=1e-3), tmp_path_factory.mktemp("none") / "faults", pause=0)
            algorithm = config.build_algo()
            by_hand(algorithm, 4, lag)
            kept[lag] = texts(algorithm), weights(algorithm)
            algorithm.stop()
        return kept[lag]

    return make


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_groups_are_trained_on_once_in_their_order_with_the_weights_of_their_lag(begun, expected, lag):
    algorithm, _ = begun
    set_lag(algorithm, lag)
    assert lags(algorithm, 4) == [(min(lag, number), min(lag, number)) for number in range(4)]
    assert numbers(algorithm) == [list(range(GROUPS * k, GROUPS * (k + 1))) for k in range(4)]
    played, trained = expected(lag)
    assert texts(algorithm) == played
    assert difference(weights(algorithm), trained) < 1e-4
    assert len(algorithm._ahead) == GROUPS * lag


def test_puzzles_do_not_depend_on_the_lag_but_what_is_written_does(expected):
    first, second = expected(0)[0], expected(1)[0]
    assert [entry.keys() for entry in first] == [entry.keys() for entry in second]
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_without_a_lag_an_iteration_is_play_and_update_in_turn_to_the_bit(begun, started):
    algorithm, _ = begun
    set_lag(algorithm, 0)
    train(algorithm, 2)
    seen, trained = texts(algorithm), weights(algorithm)
    algorithm.restore_from_path(started[2])
    algorithm.seen.clear()
    for _ in range(2):
        algorithm.learn(algorithm.make_samples(algorithm.collect()))
        assert not len(algorithm._ahead)
    assert texts(algorithm) == seen
    assert difference(weights(algorithm), trained) == 0


def test_groups_are_played_while_the_learner_trains(begun):
    algorithm, _ = begun
    train(algorithm)
    learn, answers = algorithm.learn, []

    def learn_and_look(samples):
        (shipment,) = algorithm._ahead._shipments
        assert len(algorithm._ahead) == GROUPS
        answers.append(len(ray.wait(list(shipment.requests), num_returns=2, timeout=0)[0]))
        learn(samples)
        answers.append(len(ray.wait(list(shipment.requests), num_returns=2, timeout=200)[0]))

    algorithm.learn = learn_and_look
    train(algorithm)
    assert answers == [0, 2]  # all groups were played within the update
    assert numbers(algorithm) == [list(range(GROUPS)), list(range(GROUPS, 2 * GROUPS))]


def test_the_learner_compares_with_the_probabilities_that_were_played_with(begun):
    algorithm, _ = begun
    divergences = []
    for _ in range(2):
        algorithm.train()
        divergences.append(float(algorithm.train()["learners"]["default_policy"]["approx_kl_first"]))
        set_lag(algorithm, 0)
        algorithm._ahead.drop()
    assert divergences[0] > 1e-5 > divergences[1]


def disturb(algorithm, fault):
    """Have the runners disturbed while they play ahead, in the next update."""
    learn = algorithm.learn

    def learn_meanwhile(samples):
        (shipment,) = algorithm._ahead._shipments
        assert not ray.wait(list(shipment.requests), timeout=0)[0]
        fault()
        del algorithm.learn
        learn(samples)

    algorithm.learn = learn_meanwhile


def test_a_runner_that_is_killed_while_it_plays_ahead_loses_nothing(begun, expected):
    algorithm, _ = begun
    told = lags(algorithm, 1)
    pid = algorithm.env_runner_group.foreach_env_runner(os_pid, local_env_runner=False)[0]
    disturb(algorithm, lambda: os.kill(pid, signal.SIGKILL))
    told += lags(algorithm, 2)
    assert algorithm.told["group_retries"] == GROUPS // 2
    told += lags(algorithm, 1)
    assert told == [(0, 0), (1, 1), (1, 1), (1, 1)]
    assert texts(algorithm) == expected(1)[0]
    assert difference(weights(algorithm), expected(1)[1]) < 1e-4


def test_runners_that_hang_and_environments_that_raise_while_playing_ahead_lose_nothing(begun, expected):
    algorithm, folder = begun
    told = lags(algorithm, 1)
    disturb(algorithm, (folder / "hang").touch)
    told += lags(algorithm, 2)
    assert not (folder / "hang").exists()
    disturb(algorithm, (folder / "raise-0").touch)
    told += lags(algorithm, 1)
    assert not (folder / "raise-0").exists()
    assert told == [(0, 0), (1, 1), (1, 1), (1, 1)]
    assert texts(algorithm) == expected(1)[0]
    assert difference(weights(algorithm), expected(1)[1]) < 1e-4


def test_a_learner_that_dies_while_groups_are_played_ahead_loses_nothing(begun, expected):
    algorithm, _ = begun
    train(algorithm, 2)
    rebuilt = algorithm.told["learners_rebuilt"]
    algorithm.learner_group.foreach_learner(partial(die_in_step, 2))
    train(algorithm, 2)
    assert algorithm.told["learners_rebuilt"] == rebuilt + 1
    assert texts(algorithm) == expected(1)[0]
    assert difference(weights(algorithm), expected(1)[1]) < 1e-4


def test_resumes_without_losing_a_group_or_counting_one_twice(begun, make_config, build, tmp_path):
    algorithm, _ = begun
    train(algorithm, 2)
    assert len(algorithm._ahead) == GROUPS  # in flight
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    assert algorithm.get_state()["grpo"]["groups_begun"] == 2 * GROUPS
    before = weights(algorithm)
    train(algorithm)
    algorithm.restore_from_path(path)
    algorithm.seen.pop()
    assert difference(weights(algorithm), before) == 0
    assert lags(algorithm, 2) == [(0, 0), (1, 1)]
    assert numbers(algorithm) == [list(range(GROUPS * k, GROUPS * (k + 1))) for k in range(4)]
    steps = algorithm.metrics.peek(("env_runners", "num_env_steps_sampled_lifetime"))
    assert steps == sum(len(e.turns) for batch in algorithm.seen for group in batch.played for e in group.episodes)

    whole = build(slow(make_config(lr=1e-3), tmp_path / "none", pause=0))  # another number of processes, no lag
    whole.restore_from_path(path)
    train(whole)
    assert texts(whole) == texts(algorithm)[2:3]


def test_groups_without_variance_are_replaced_by_those_played_ahead(begun, make_config):
    algorithm, _ = begun
    config = algorithm.config
    for name, value in (("reward_fn", is_even), ("resample_rounds", 20)):
        object.__setattr__(config, name, value)
    try:
        told = [float(entry["groups_trained"]) for entry in train(algorithm, 3)]
        largest = float(algorithm.told["lag_max"])
    finally:
        for name in ("reward_fn", "resample_rounds"):
            object.__setattr__(config, name, getattr(make_config(), name))
    assert told == [GROUPS] * 3
    played = [index for entry in numbers(algorithm) for index in entry]
    assert played == list(range(len(played)))
    assert len(played) > 3 * GROUPS
    assert largest == 1


def test_groups_that_are_missing_ahead_are_played_at_once(begun):
    algorithm, _ = begun
    train(algorithm)
    outcome = algorithm._play_next(GROUPS + 2)
    assert [group.spec.index for group in outcome.groups] == list(range(GROUPS, 2 * GROUPS + 2))
    assert outcome.lags == [1] * GROUPS + [0, 0]
    assert [group.spec.index for group in algorithm._play_next(1).groups] == [2 * GROUPS + 2]


def test_an_evaluation_waits_for_groups_played_ahead(begun):
    algorithm, _ = begun
    train(algorithm, 2)
    ahead = algorithm.evaluate()
    assert len(algorithm._ahead) == GROUPS
    algorithm._ahead.drop()
    assert algorithm.evaluate() == ahead
    train(algorithm)
    assert numbers(algorithm) == [list(range(GROUPS * k, GROUPS * (k + 1))) for k in range(3)]


def test_it_stops_while_runners_play_ahead(make_config, tmp_path):
    config = slow(make_config(runners=1, learners=1, max_lag=3, groups_per_iteration=1), tmp_path / "faults", pause=8)
    config.env_runners(sample_timeout_s=600)
    algorithm = config.build_algo()
    runner = algorithm.env_runner_group._worker_manager.actors()[1]
    algorithm._play_ahead()
    time.sleep(1)
    start = time.monotonic()
    algorithm.stop()
    assert time.monotonic() - start < 120  # three groups of three episodes of two turns take 144 s
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(runner.apply.remote(os_pid), timeout=30)


def test_a_lag_without_runners_is_refused(make_config):
    with pytest.raises(
        ConfigurationError, match=r"max_lag=1 with num_env_runners=0: .* env_runners\(num_env_runners=1"
    ):
        make_config(max_lag=1).validate()
    make_config(runners=1, max_lag=1).validate()


def test_runners_that_play_ahead_do_not_wait_for_learners(make_config):
    with pytest.raises(ConfigurationError, match=r"max_lag=1 with weights_transfer='gloo': .* Set max_lag=0"):
        make_config(runners=1, max_lag=1, weights_transfer="gloo").validate()
    make_config(runners=1, weights_transfer="gloo").validate()


@pytest.mark.parametrize("lag", [-1, 1.5, True, "1", None])
def test_lags_that_do_not_exist(make_config, lag):
    with pytest.raises(ConfigurationError, match="max_lag"):
        make_config(runners=1, max_lag=lag).validate()
