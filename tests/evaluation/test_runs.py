"""Playing: the same results in every batch and on every number of workers, and nothing lost when something fails."""

from dataclasses import replace

import pytest

from agile_gym.errors import AgileGymError, ConfigurationError
from agile_gym.evaluation import (
    EvaluationPlan,
    SuiteEntry,
    choose_entries,
    evaluate,
    play_in_workers,
    play_tasks,
    prepare_plan,
    summarize,
)
from agile_gym.policies import EdgePolicy, OraclePolicy, RandomPolicy
from tests.helpers.evaluation_policies import Failing, Wanderer

FAST = {"image_size": 32}


def plan_of(policy, entries, **settings):
    return EvaluationPlan(f"tests.helpers.evaluation_policies:{policy}", entries, **{"options": FAST, **settings})


def untimed(results):
    """Results in the order of the plan, without what differs from run to run."""
    return [replace(result, seconds={}) for result in sorted(results, key=lambda result: result.key)]


def in_workers(plan, **options):
    prepared = prepare_plan(plan)
    return [played.result for played in play_in_workers(prepared, plan.tasks(), **options)]


@pytest.mark.slow
@pytest.mark.parametrize("policy", [RandomPolicy, Wanderer])
def test_results_do_not_depend_on_the_batch(policy):
    plan = EvaluationPlan("x", choose_entries(["2x2", "1x3"], episodes=7), samples=2, options=FAST)
    one = evaluate(policy(), plan, batch=1)
    assert len(one) == len(plan) == 5 * 7 * 2
    for batch in (3, 16):
        assert untimed(evaluate(policy(), plan, batch=batch)) == untimed(one)
    assert {(result.grid, result.level) for result in one} == {
        ("2x2", 0),
        ("2x2", 1),
        ("2x2", 2),
        ("1x3", 0),
        ("1x3", 1),
    }


@pytest.mark.slow
def test_results_do_not_depend_on_the_workers():
    plan = plan_of("Wanderer", choose_entries([2], episodes=6), samples=2)
    here = untimed(evaluate(Wanderer(), plan))
    assert untimed(in_workers(plan, workers=2, batch=3)) == here
    assert untimed(in_workers(plan, workers=1, batch=1)) == here


def test_samples_of_a_puzzle_are_drawn_apart():
    plan = EvaluationPlan("random", [SuiteEntry("3x3", (0,), 4)], samples=6, options=FAST)
    answers = {}
    for result in evaluate(RandomPolicy(), plan):
        answers.setdefault(result.episode, set()).add(tuple(result.answer))
    assert min(len(different) for different in answers.values()) > 4


class Script:
    """Plays the same turns in every episode."""

    def __init__(self, *turns):
        self.turns = turns

    def reset(self, seed=None):
        pass

    def act(self, observations, infos):
        return [self.turns[info["turn"]] for info in infos]


def test_a_result_tells_what_happened():
    script = Script(
        "<think>.</think><code>state[0], state[1] = state[1], state[0]\nobserve()</code>",
        "<think>.</think><code>crop(image_list[0], [0, 0, 0.5, 0.5])</code>",
        "<think>.</think><code>import os</code>",
        '<answer> is what I write</think><answer>["d", "Image C", "B ", "piece a"]</answer>',
    )
    plan = EvaluationPlan("script", [SuiteEntry("2x2", (0,), 1)], options=FAST)
    (result,) = evaluate(script, plan)
    assert result.key == ("2x2", 0, 0, 0)
    assert result.seed == next(plan.tasks()).seed
    assert len(result.image_id) == 64
    assert (result.turns, dict(result.errors)) == (4, {"not_allowed": 1})
    assert result.primitives == {"Swap": 1, "Observe": 1, "Crop": 1, "Answer": 1}
    assert result.answer == ["D", "C", "B", "A"]
    assert result.score in (0, 0.25, 0.5, 1)
    assert result.solved == (result.score == 1)
    assert result.reward["total"] == pytest.approx(
        0.8 * result.reward["accuracy"] + 0.2 * result.reward["format"] + result.reward["step"]
    )
    assert set(result.seconds) == {"policy", "env"}
    assert result.seconds["env"] > 0
    assert result.tokens == {"context": None, "computed": None, "new": None}


def test_answers_are_told_in_every_form():
    options = {**FAST, "rotations": True, "dialect": "tools", "reveal": True}
    plan = EvaluationPlan("oracle", [SuiteEntry("2x2", (1,), 2)], options=options)
    for result in evaluate(OraclePolicy(), plan):
        assert result.solved
        assert sorted(name for name, _ in result.answer) == list("ABCD")
        assert {angle % 90 for _, angle in result.answer} == {0}
    (silent,) = evaluate(Script(*["<code>observe()</code>"] * 5), EvaluationPlan("x", [SuiteEntry("2x2", (0,), 1)]))
    assert (silent.answer, silent.turns, silent.solved) == (None, 5, False)


def test_transcripts_are_kept_as_asked():
    plan = EvaluationPlan("edge", choose_entries([2], episodes=12), options=FAST)
    prepared = prepare_plan(plan)
    for keep, expected in ((None, 10), (0, 0), (3, 3), (1000, 12)):
        played = list(play_tasks(EdgePolicy(), prepared, plan.tasks(), keep=keep))
        kept = [result.key for result, transcript in played if transcript is not None]
        assert sorted(kept) == [("2x2", level, episode, 0) for level in range(3) for episode in range(expected)]
    transcript = played[0].transcript
    assert transcript.id == "2x2-L0-0"
    assert len(transcript.prompt_images) == 4
    assert transcript.task["policy_seed"] == next(plan.tasks()).policy_seed


def test_a_policy_that_records_keeps_all():
    from agile_gym.transcripts import PolicyRecord, TurnUsage

    class Recording(EdgePolicy):
        def finish(self, slot):
            return PolicyRecord(usage=(TurnUsage(0.5, 100, 60, 7),), details={"slot": slot})

    plan = EvaluationPlan("x", [SuiteEntry("2x2", (0,), 12)], options=FAST)
    played = list(play_tasks(Recording(), prepare_plan(plan), plan.tasks()))
    assert all(transcript is not None for _, transcript in played)
    assert {tuple(result.tokens.values()) for result, _ in played} == {(100, 60, 7)}
    assert {result.seconds["policy"] for result, _ in played} == {0.5}


def test_a_policy_that_returns_nonsense_is_named():
    class Forgetful:
        def reset(self, seed=None):
            pass

        def act(self, observations, infos):
            return ["one"] if len(observations) > 1 else [None]

    for batch in (1, 3):
        with pytest.raises(ConfigurationError, match="a text for each"):
            evaluate(Forgetful(), EvaluationPlan("x", [SuiteEntry("2x2", (0,), 3)], options=FAST), batch=batch)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(tmp_path):
    entries = choose_entries([2], episodes=8)
    options = {"how": "once", "calls": 4, "marker": str(tmp_path / "killed")}
    plan = plan_of("Failing", entries, policy_options=options)
    lost = []
    results = in_workers(plan, workers=2, batch=3, on_lost=lost.append)
    assert untimed(results) == untimed(evaluate(Wanderer(), plan_of("Wanderer", entries)))
    assert len(lost) == 1
    assert "was killed by signal 9; its 3 unfinished puzzles are played again" in lost[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("foreseen", "The server at 127.0.0.1 is down"),
        ("mistake", "ZeroDivisionError"),
        ("always", "were lost in a row, or with the same puzzle"),
    ],
)
def test_workers_that_fail_again_and_again_end_the_evaluation(how, message):
    plan = plan_of("Failing", [SuiteEntry("2x2", (0,), 30)], policy_options={"how": how, "calls": 0})
    with pytest.raises(AgileGymError, match=message):
        in_workers(plan, workers=1, batch=2)


@pytest.mark.slow
def test_a_puzzle_that_kills_every_worker_ends_the_evaluation_and_the_others_are_kept():
    plan = plan_of("Failing", [SuiteEntry("2x2", (0,), 12)])
    tasks = list(plan.tasks())
    plan = replace(plan, policy_options={"how": "always", "puzzle": tasks[7].policy_seed})
    episodes, results = play_in_workers(prepare_plan(plan), tasks, workers=1, batch=1), []
    with pytest.raises(AgileGymError, match="with the same puzzle"):
        results.extend(played.result for played in episodes)
    assert [result.key for result in results] == [task.key for task in tasks[:7]]
    assert untimed(results) == untimed(evaluate(Wanderer(), plan))[:7]


def test_failing_in_this_process_keeps_what_is_over():
    plan = plan_of("Failing", [SuiteEntry("2x2", (0,), 30)])
    seen = []
    with pytest.raises(AgileGymError, match="is down"):
        evaluate(Failing("foreseen", 6), plan, on_result=seen.append)
    assert 0 < len(seen) < 30
    rest = evaluate(Wanderer(), plan, done=[result.key for result in seen])
    assert untimed([*seen, *rest]) == untimed(evaluate(Wanderer(), plan))


def test_what_differs_is_time_alone():
    plan = plan_of("Wanderer", choose_entries([2], episodes=5))
    first, second = (summarize(evaluate(Wanderer(), plan, batch=batch)) for batch in (2, 5))
    assert first == second
