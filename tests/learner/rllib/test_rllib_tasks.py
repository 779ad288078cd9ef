"""GRPO over several environments at once: what is played, by which runner, and figures by task."""

from itertools import chain
from statistics import fmean

import pytest

from agile_gym.errors import ConfigurationError
from tests.helpers.rllib_parts import Watched, difference, is_even, texts, train, weights

QUARTER = "examples.custom_env:QuarterEnv"
TASKS = [
    {"name": "jigsaw", "weight": 2},
    {"name": "small", "env": QUARTER, "options": {"size": 32}},
    {"name": "large", "env": QUARTER, "options": {"size": 64, "max_turns": 1}},
]


@pytest.fixture(scope="module")
def mixed(make_config):
    def make(**changes):
        config = make_config(
            **{"tasks": TASKS, "groups_per_iteration": 8, "curriculum": True, "reward_fn": is_even, **changes}
        )
        config.evaluation(evaluation_config={"env_config": {"split": "test"}}, evaluation_duration=12)
        config.algo_class = Watched
        return config

    return make


@pytest.fixture(scope="module")
def trained(mixed, tmp_path_factory):
    """Return an algorithm after three iterations, its results, and its checkpoint after the first."""
    algorithm = mixed().build_algo()
    results = [algorithm.train()]
    assert algorithm._curriculum.shares() != [0.5, 0.25, 0.25]  # some groups were all alike
    path = algorithm.save_to_path(tmp_path_factory.mktemp("mixed") / "checkpoint")
    results += [algorithm.train() for _ in range(2)]
    yield algorithm, results, path
    algorithm.stop()


def test_each_group_is_of_its_task_and_compared_with_itself(trained):
    seen = {0: 0, 1: 0, 2: 0}
    for batch in trained[0].seen:
        assert len(batch.played) == 8
        for group in batch.played:
            seen[group.spec.task] += 1
            tasks = [episode.task for episode in group.episodes]
            assert len({(task["seed"], task["image_id"]) for task in tasks}) == 1  # one puzzle
            side = group.episodes[0].prompt_images[0].shape[0]
            kind = ("grid" in tasks[0], tasks[0].get("env"), side, tasks[0]["max_turns"])
            assert kind[1:] == {
                0: (None, side, 2), 1: ("QuarterEnv", 32, 2), 2: ("QuarterEnv", 64, 1)
            }[group.spec.task]  # fmt: skip
            assert kind[0] == (group.spec.task == 0)
        advantages, size = iter(batch.advantages), 3
        for group in batch.groups:
            mine = [float(next(advantages)) for _ in range(size)]
            returns = [is_even(episode) for episode in group.episodes]
            assert sum(mine) == pytest.approx(0, abs=1e-4)
            order = sorted(range(size), key=lambda number: returns[number])
            assert [mine[number] for number in order] == sorted(mine)
    assert min(seen.values()) >= 2


def test_figures_of_each_task_are_those_of_its_episodes(trained):
    algorithm, results, _ = trained
    for batch, result in zip(algorithm.seen, results, strict=True):
        for number, name in enumerate(("jigsaw", "small", "large")):
            mine = [episode for group in batch.played if group.spec.task == number for episode in group.episodes]
            told = {key: float(result["grpo"][f"{key}/{name}"]) for key in ("episodes", "acc", "return", "turns")}
            if not mine:
                assert told["episodes"] == 0
                assert told["return"] != told["return"]  # NaN, which the log leaves out
                continue
            assert told == {
                "episodes": len(mine),
                "acc": pytest.approx(fmean(episode.solved for episode in mine)),
                "return": pytest.approx(fmean(is_even(episode) for episode in mine)),
                "turns": pytest.approx(fmean(len(episode.turns) for episode in mine)),
            }


def test_it_goes_on_bit_for_bit_from_a_checkpoint(trained):
    algorithm, results, path = trained
    second = Watched.from_checkpoint(path)
    again = [second.train()["grpo"] for _ in range(2)]
    assert texts(second) == texts(algorithm)[1:]
    assert difference(weights(second), weights(algorithm)) == 0
    assert [entry["return/small"] for entry in again] == [result["grpo"]["return/small"] for result in results[1:]]
    assert second._curriculum.shares() == algorithm._curriculum.shares()
    second.stop()


def test_runners_of_their_own_play_the_same(trained, mixed, build):
    algorithm = build(mixed(runners=2))
    train(algorithm, 2)
    assert texts(algorithm) == texts(trained[0])[:2]


def test_evaluation_by_task_plays_each_on_its_own_options(trained, monkeypatch):
    from agile_gym.learner import grpo as module

    seen = []
    real = module.evaluation_metrics
    monkeypatch.setattr(
        module, "evaluation_metrics", lambda episodes, tasks: seen.append((episodes, tasks)) or real(episodes, tasks)
    )
    figures = trained[0].evaluate()
    ((episodes, tasks),) = seen
    assert set(tasks) == {"jigsaw", "small", "large"}
    for name in set(tasks):
        mine = [episode for episode, task in zip(episodes, tasks, strict=True) if task == name]
        assert figures[f"episodes/{name}"] == len(mine)
        assert figures[f"turns/{name}"] == pytest.approx(fmean(len(episode.turns) for episode in mine))
        assert figures[f"return/{name}"] == pytest.approx(fmean(episode.reward["total"] for episode in mine))
    train_ids = {e.task["image_id"] for e in chain.from_iterable(g.episodes for b in trained[0].seen for g in b.played)}
    assert not train_ids & {episode.task["image_id"] for episode in episodes}


def test_a_task_without_weight_is_not_played(mixed, build):
    algorithm = build(mixed(tasks=[{"weight": 0}, {"name": "small", "env": QUARTER, "options": {"size": 32}}]))
    train(algorithm, 1)
    assert {group.spec.task for group in algorithm.seen[0].played} == {1}


def test_the_largest_number_of_turns_of_all_tasks_is_the_divisor(mixed):
    tasks = [{}, {"env": QUARTER, "options": {"max_turns": 7}}]
    assert mixed(loss="dr_grpo", tasks=tasks).loss_arguments()["max_tokens"] == 7 * 8
    assert mixed(loss="dr_grpo", tasks=tasks[:1]).loss_arguments()["max_tokens"] == 2 * 8


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"env": "Nothing-v0"}, r"no environment 'Nothing-v0'"),
        ({"env": "examples.custom_env:Nothing"}, r"no class 'Nothing'"),
        ({"env": QUARTER, "options": {"sizes": 3}}, r"sizes.*Did you mean 'size'"),
    ],
)
def test_a_task_that_cannot_be_made_is_refused_before_training(mixed, task, message):
    with pytest.raises(ConfigurationError, match=message):
        mixed(tasks=[{}, task]).build_algo()
