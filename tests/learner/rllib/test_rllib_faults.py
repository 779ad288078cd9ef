"""Several runners and learners: the same training as one of each, and as one that is disturbed."""

import os
import signal
import time
from functools import partial

import pytest
import ray

from agile_gym.errors import ModelError
from tests.helpers.rllib_parts import FaultyEnv, Watched, die_in_step, difference, os_pid, texts, train, weights

ITERATIONS = 3


def faulty(config, folder):
    config.algo_class = Watched
    folder.mkdir(exist_ok=True)
    return config.environment(FaultyEnv, env_config={**config.env_config, "folder": str(folder)})


@pytest.fixture(scope="module")
def alone():
    """Keeps the undisturbed training of one process."""
    return {}


@pytest.fixture
def expected(make_config, build, tmp_path, alone):
    """Return groups, weights and what was told of three undisturbed iterations with one runner and one learner."""
    if not alone:
        algorithm = build(faulty(make_config(lr=1e-4), tmp_path / "none"))
        alone["told"] = train(algorithm, ITERATIONS)
        alone["texts"] = texts(algorithm)
        alone["weights"] = weights(algorithm)
    return alone


def assert_same(told, algorithm, expected, tolerance=1e-4):
    assert texts(algorithm) == expected["texts"]
    assert difference(weights(algorithm), expected["weights"]) <= tolerance
    for mine, other in zip(told, expected["told"], strict=True):
        assert mine == pytest.approx(other, rel=1e-3, abs=1e-4)


def pids(algorithm, group):
    """Return the processes of runners or learners."""
    if group == "runners":
        return algorithm.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    found = algorithm.learner_group.foreach_learner(lambda learner: os.getpid())
    return [result.get() for result in found.result_or_errors]


@pytest.fixture(scope="module")
def spread(make_config, tmp_path_factory):
    """Two runners and two learners, started once; their folder of faults, and a checkpoint of the beginning."""
    folder = tmp_path_factory.mktemp("spread")
    config = faulty(make_config(runners=2, learners=2, lr=1e-4), folder / "faults")
    config.env_runners(sample_timeout_s=10)
    algorithm = config.build_algo()
    yield algorithm, folder / "faults", algorithm.save_to_path(folder / "beginning")
    algorithm.stop()


@pytest.fixture
def begun(spread):
    """Return the algorithm at its beginning, and the folder of faults."""
    algorithm, folder, path = spread
    algorithm.restore_from_path(path)
    algorithm.__dict__["seen"] = []
    return algorithm, folder


def test_two_runners_and_two_learners_train_as_one_of_each(begun, expected):
    algorithm, _ = begun
    assert_same(train(algorithm, ITERATIONS), algorithm, expected)


def test_runners_that_die_or_hang_in_their_groups_change_nothing(begun, expected):
    algorithm, folder = begun
    told = train(algorithm)
    (folder / "kill").touch()  # a runner dies in the middle of its groups
    told += train(algorithm)
    assert not (folder / "kill").exists()
    (folder / "hang").touch()
    start = time.perf_counter()
    told += train(algorithm)
    assert not (folder / "hang").exists()
    assert time.perf_counter() - start > 10
    assert_same(told, algorithm, expected)


def test_an_environment_that_raises_once_is_tried_again(begun, expected):
    algorithm, folder = begun
    told = []
    for number in range(ITERATIONS):
        (folder / f"raise-{number}").touch()
        told += train(algorithm)
        assert algorithm.told["group_retries"] == 1
    assert_same(told, algorithm, expected)


def test_runners_and_learners_that_die_between_iterations_change_nothing(begun, expected):
    algorithm, _ = begun
    told = train(algorithm)
    rebuilt = algorithm.told["learners_rebuilt"]
    for pid in pids(algorithm, "runners"):
        os.kill(pid, signal.SIGKILL)
    told += train(algorithm)
    os.kill(pids(algorithm, "learners")[0], signal.SIGKILL)
    told += train(algorithm)
    assert_same(told, algorithm, expected)
    assert algorithm.told["learners_rebuilt"] == rebuilt + 1


def test_deaths_that_are_known_before_the_iteration_change_nothing(begun, expected):
    algorithm, _ = begun
    told = train(algorithm, 2)
    rebuilt = algorithm.told["learners_rebuilt"]
    for pid in [*pids(algorithm, "runners"), pids(algorithm, "learners")[0]]:
        os.kill(pid, signal.SIGKILL)
    for _ in range(2):
        algorithm.env_runner_group.foreach_env_runner(os_pid, local_env_runner=False)
        algorithm.learner_group.foreach_learner(os_pid)
    told += train(algorithm)
    assert_same(told, algorithm, expected)
    assert algorithm.told["learners_rebuilt"] == rebuilt + 1


def test_a_runner_that_ray_restarts_unnoticed_plays_with_the_current_weights(begun, expected):
    algorithm, _ = begun
    told = train(algorithm)
    dead, _ = pids(algorithm, "runners")
    os.kill(dead, signal.SIGKILL)
    wait_for_restart(algorithm.env_runner_group._worker_manager.actors()[1], dead)  # RLlib takes it for healthy
    assert algorithm.env_runner_group.num_healthy_remote_workers() == 2
    told += train(algorithm, 2)
    assert_same(told, algorithm, expected)


def test_runners_that_are_busy_when_a_checkpoint_is_restored_play_with_its_weights(begun, spread, expected):
    algorithm, _ = begun
    runners = algorithm.env_runner_group._worker_manager.actors().values()
    learn = algorithm.learn

    def learn_while_runners_are_busy(samples):
        learn(samples)
        algorithm.busy = [runner.apply.remote(lambda _: time.sleep(3)) for runner in runners]

    algorithm.learn = learn_while_runners_are_busy
    train(algorithm)
    del algorithm.learn
    assert not ray.wait(algorithm.busy, timeout=0)[0]
    algorithm.restore_from_path(spread[2])
    algorithm.seen.clear()
    assert_same(train(algorithm, ITERATIONS), algorithm, expected)


def test_a_learner_that_dies_in_an_update_changes_nothing(begun, expected):
    algorithm, _ = begun
    told = train(algorithm, 2)
    rebuilt = algorithm.told["learners_rebuilt"]
    algorithm.learner_group.foreach_learner(partial(die_in_step, 2), remote_actor_ids=[1])
    told += train(algorithm)
    assert_same(told, algorithm, expected)
    assert algorithm.told["learners_rebuilt"] == rebuilt + 1


def test_a_learner_with_nothing_to_do_takes_the_same_step(begun):
    algorithm, _ = begun
    train(algorithm)
    before = weights(algorithm)
    algorithm.learn(algorithm.make_samples(algorithm.seen[-1])[:1])
    first, second = (result.get() for result in algorithm.learner_group.foreach_learner(own_weights).result_or_errors)
    assert difference(first, second) == 0 < difference(first, before)


def wait_for_restart(runner, dead):
    """Wait until Ray has started a runner's process anew."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if ray.get(runner.apply.remote(os_pid)) != dead:
                return
        except ray.exceptions.RayError:
            time.sleep(0.1)
    raise AssertionError("Ray did not start the runner anew")


def own_weights(learner):
    return learner.module["default_policy"].get_state(inference_only=True)


def test_other_numbers_of_runners_and_learners_go_on_from_a_checkpoint(make_config, build, tmp_path, expected):
    first = build(faulty(make_config(lr=1e-4), tmp_path / "none"))
    told = train(first)
    path = first.save_to_path(tmp_path / "checkpoint")
    second = build(faulty(make_config(runners=1, learners=1, lr=1e-4), tmp_path / "none"))
    second.restore_from_path(path)
    second.seen = list(first.seen)
    told += train(second)
    path = second.save_to_path(tmp_path / "checkpoint")
    first.restore_from_path(path)
    first.seen = list(second.seen)
    told += train(first)
    assert_same(told, first, expected, tolerance=2e-5)


def test_puzzles_that_are_always_broken_are_given_up_and_counted(make_config, build, tmp_path, expected):
    folder = tmp_path / "broken"
    algorithm = build(faulty(make_config(lr=1e-4, group_retries=2), folder))
    (folder / "always").touch()
    told = train(algorithm, ITERATIONS)
    whole = {index: episodes for entry in expected["texts"] for index, episodes in entry.items()}
    played = [group.spec for batch in algorithm.seen for group in batch.played]
    assert len({spec.index for spec in played}) == len(played)
    assert all(spec.seed % 3 for spec in played)
    lost = sum(entry["groups_lost"] for entry in told)
    assert 0 < lost == 6 * ITERATIONS - len(played)
    assert sum(entry["groups_played"] for entry in told) == len(played)
    assert texts(algorithm)[0] == {
        index: episodes for index, episodes in expected["texts"][0].items() if index in texts(algorithm)[0]
    }
    assert set(texts(algorithm)[0]) <= set(whole)


def test_environment_in_which_nothing_can_be_played(make_config, build, tmp_path):
    folder = tmp_path / "broken"
    config = faulty(make_config(group_retries=1), folder)
    config.environment(BrokenEnv, env_config=config.env_config)
    with pytest.raises(RuntimeError, match=r"None of 6 groups could be played.*this puzzle is broken"):
        build(config).training_step()


class BrokenEnv(FaultyEnv):
    def step(self, action):
        raise ZeroDivisionError("this puzzle is broken")


LORA = {"train": "lora", "lora_rank": 4}
HELD_OUT = {"env_config": {"split": "test"}}


def with_adapter(make_config, **where):
    config = make_config(vlm=LORA, lr=0.01, **where)
    config.algo_class = Watched
    return config


@pytest.fixture(scope="module")
def adapter(make_config, tmp_path_factory):
    """A runner, a learner and a runner of the evaluation that train an adapter, and a checkpoint of the beginning."""
    changes = {**HELD_OUT, "max_new_tokens": 5}
    config = with_adapter(make_config, runners=1, learners=1)
    algorithm = config.evaluation(evaluation_num_env_runners=1, evaluation_config=changes).build_algo()
    yield algorithm, algorithm.save_to_path(tmp_path_factory.mktemp("adapter") / "beginning")
    algorithm.stop()


@pytest.fixture
def adapted(adapter):
    """Return that algorithm at its beginning."""
    algorithm, path = adapter
    algorithm.restore_from_path(path)
    algorithm.__dict__["seen"] = []
    return algorithm


def test_adapters_and_evaluation_in_processes_of_their_own(adapted, make_config, build, tmp_path):
    spread = adapted
    whole = build(with_adapter(make_config).evaluation(evaluation_config=HELD_OUT))
    assert train(spread, 2) == [pytest.approx(entry, rel=1e-3, abs=1e-4) for entry in train(whole, 2)]
    assert texts(spread) == texts(whole)
    assert difference(weights(spread), weights(whole)) < 1e-4
    assert all("lora_" in name for name in weights(spread))

    short, long = spread.evaluate(), whole.evaluate()
    assert 0 < short["tokens"] <= 10  # two turns of five tokens at most
    assert short["tokens"] < long["tokens"] <= 16  # and of eight
    assert short["acc"] == long["acc"]
    other = build(with_adapter(make_config, max_new_tokens=5).evaluation(evaluation_config=HELD_OUT))
    other.restore_from_path(spread.save_to_path(tmp_path / "checkpoint"))
    assert other.evaluate() == short


def test_a_full_disk_of_a_learner_is_told_and_the_checkpoint_kept(adapted, make_config, build, tmp_path):
    """RLlib would not tell."""
    spread, path = adapted, tmp_path / "checkpoint"
    train(spread, 2)
    spread.save_to_path(path)
    kept, kept_weights = path.joinpath("manifest.json").read_bytes(), weights(spread)
    train(spread)
    spread.learner_group.foreach_learner(partial(limit_files, 2000))
    with pytest.raises(OSError, match="could not write"):
        spread.save_to_path(path)
    with pytest.raises(OSError, match=r"File too large: .*adapter"):
        spread.save_pretrained(tmp_path / "adapter")
    assert {entry.name for entry in tmp_path.iterdir()} <= {"checkpoint", "adapter"}
    assert path.joinpath("manifest.json").read_bytes() == kept
    whole = build(with_adapter(make_config))
    whole.restore_from_path(path)
    assert difference(weights(whole), kept_weights) == 0
    spread.learner_group.foreach_learner(partial(limit_files, -1))
    told = train(spread)  # it goes on
    assert told[0]["groups_played"] == 6
    spread.save_to_path(path)
    assert spread.told["learners_rebuilt"] == 0


def test_a_learner_in_a_process_of_its_own_refuses_a_checkpoint_of_another_model(adapted, make_config, build, tmp_path):
    """RLlib would not tell."""
    stranger = build(make_config()).save_to_path(tmp_path / "stranger")
    with pytest.raises(ModelError, match="belong to another model"):
        adapted.restore_from_path(stranger)


def limit_files(size, learner):
    """Let a learner write no file of more bytes, or of any number again."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
