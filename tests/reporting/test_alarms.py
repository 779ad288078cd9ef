"""Alarms: each where it belongs, none on a run that goes well."""

import math
import random
import time

import pytest

from agile_gym.reporting.alarms import alarm_spans, alarms, find_alarms


def healthy(count, seed=0):
    """Make up a run that learns: Acc 20% to 85%, with the noise of 512 episodes an iteration."""
    rng = random.Random(seed)
    history = []
    for number in range(1, count + 1):
        progress = number / count
        acc = 0.2 + 0.65 * progress + rng.gauss(0, 0.02)
        record = {
            "stage": "grpo", "iteration": number, "seconds": 30.0 * number,
            "return": 0.8 * acc + 0.2 - 0.05 * 3, "acc": acc, "score": acc + 0.1, "turns": 3.0,
            "valid": min(1, 0.97 + rng.gauss(0, 0.01)), "reward_format": min(1, 0.96 + rng.gauss(0, 0.015)),
            "cut_short": abs(rng.gauss(0, 0.004)), "share_constant": 0.3 + 0.3 * progress + rng.gauss(0, 0.05),
            "groups_played": 64.0, "groups_constant": 20.0, "groups_lost": 0.0, "group_retries": 0.0,
            "learners_rebuilt": 0.0,
            "learner/entropy": 0.12 - 0.08 * progress + rng.gauss(0, 0.004),
            "learner/grad_norm": abs(rng.gauss(0.5, 0.2)), "learner/loss": rng.gauss(0, 0.01),
            "learner/skipped_steps": 0.0, "learner/not_finite": 0.0, "learner/approx_kl_first": 3e-5,
            "learner/mismatch_clipped": 0.02,
            "learner/clip_frac_low": 0.01, "learner/clip_frac_high": 0.02,
        }  # fmt: skip
        if number % 10 == 0:
            record |= {"eval/acc": acc, "eval/acc_low": acc - 0.06, "eval/acc_high": acc + 0.06}
        history.append(record)
    return history


def changed(history, last, **figures):
    """Change the last records: a figure is a number, or a function of the number of the record among them."""
    head, tail = history[:-last], history[-last:]
    values = [{name: value(n) if callable(value) else value for name, value in figures.items()} for n in range(last)]
    return [*head, *({**record, **new} for record, new in zip(tail, values, strict=True))]


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_raises_no_alarm(seed):
    assert alarm_spans(healthy(80, seed)) == []


def test_little_history_raises_no_alarm():
    assert alarms([]) == []
    assert alarms([{"stage": "grpo", "iteration": 1, "return": 0.1, "acc": 0.0, "share_constant": 1.0}]) == []
    assert alarms([{}, {"acc": 0.5}]) == []


@pytest.mark.parametrize(
    ("kind", "words", "last", "figures"),
    [
        ("entropy", ["fallen from 0.12", "to 0.004", "entropy_coef"], 4, {"learner/entropy": 0.004}),
        ("constant", ["100% of the groups", "temperature"], 3, {"share_constant": 1.0}),
        ("constant", ["Nearly none is solved"], 3, {"share_constant": 0.98, "acc": 0.0}),
        ("constant", ["larger grid"], 3, {"share_constant": 0.98, "acc": 0.97}),
        ("format", ["right format", "from 9", "to 70%"], 3, {"reward_format": 0.7}),
        ("valid", ["valid turns", "to 80%"], 3, {"valid": 0.8}),
        ("few_valid", ["Only 30%", "cold start"], 3, {"valid": 0.3}),
        ("return", ["return has fallen", "to 0.200"], 5, {"return": 0.2}),
        ("not_finite", ["2 steps were skipped"], 2, {"learner/skipped_steps": 1.0, "learner/not_finite": 1.0}),
        ("not_finite", ["not a finite number"], 1, {"learner/grad_norm": math.inf}),
        ("not_finite", ["not a finite number"], 1, {"learner/not_finite": 1.0}),
        ("mismatch", ["diverges by 0.3", "do not agree"], 1, {"learner/approx_kl_first": 0.3}),
        ("above_cap", ["20% of the tokens", "token_truncate"], 3, {"learner/mismatch_clipped": 0.2}),
        ("mismatch", ["diverges by 0.3", "up to 2 updates ago", "Lower max_lag"], 1,
         {"learner/approx_kl_first": 0.3, "lag_max": 2.0}),
        ("above_cap", ["20% of the tokens", "Lower max_lag"], 3, {"learner/mismatch_clipped": 0.2, "lag_max": 1.0}),
        ("clipped", ["40% of the tokens"], 3, {"learner/clip_frac_low": 0.3, "learner/clip_frac_high": 0.1}),
        ("cut_short", ["25% of the turns", "max_new_tokens"], 3, {"cut_short": 0.25}),
        ("retries", ["120 groups had to be played again"], 3, {"group_retries": 40.0}),
        ("retries", ["and 1 were given up"], 1, {"groups_lost": 1.0}),
        ("learner_died", ["Learners died"], 2, {"learners_rebuilt": 1.0}),
        ("held_out", ["fallen from", "in iteration 50", "to 20%"], 1,
         {"eval/acc": 0.2, "eval/acc_low": 0.15, "eval/acc_high": 0.25}),
    ],
)  # fmt: skip
def test_each_alarm(kind, words, last, figures):
    history = healthy(58)
    assert find_alarms(history) == []
    found = {alarm.kind: alarm.text for alarm in find_alarms(changed(history, last, **figures))}
    assert kind in found
    for word in words:
        assert word in found[kind]
    assert set(found) <= {kind, "valid"}  # what is hardly ever valid has fallen, too


def test_a_step_with_nothing_to_train_on_is_no_alarm():
    assert alarms(changed(healthy(20), 2, **{"learner/empty_steps": 1.0})) == []
    (found,) = find_alarms(changed(healthy(20), 2, **{"learner/skipped_steps": 1.0}))
    assert found.kind == "not_finite"


def test_a_long_run_takes_little_time():
    begun = time.process_time()
    assert alarm_spans(healthy(2000)) == []
    assert time.process_time() - begun < 20


def test_one_odd_iteration_is_no_alarm():
    history = healthy(60)
    for figures in (
        {"share_constant": 1.0}, {"valid": 0.8}, {"reward_format": 0.8}, {"return": 0.3}, {"cut_short": 0.25},
        {"learner/entropy": 0.004}, {"group_retries": 10.0},
    ):  # fmt: skip
        assert alarms(changed(history, 1, **figures)) == []


def test_entropy_may_end_where_all_is_solved():
    history = changed(healthy(60), 5, **{"learner/entropy": 0.002, "acc": 0.97, "return": 0.9})
    assert alarms(history) == []


def test_a_noisy_return_is_no_alarm_but_a_fall_out_of_its_noise_is():
    rng = random.Random(1)
    noisy = [{"stage": "grpo", "iteration": n, "return": rng.gauss(0, 0.3)} for n in range(1, 60)]
    assert alarms(noisy) == []
    fallen = changed(noisy, 5, **{"return": lambda _: rng.gauss(-2, 0.3)})
    assert [alarm.kind for alarm in find_alarms(fallen)] == ["return"]


def test_an_old_death_of_a_learner_is_forgotten():
    history = changed(healthy(60), 20, learners_rebuilt=2.0)
    assert alarms(history) == []
    (span,) = alarm_spans(history)
    assert (span.alarm.kind, span.first, span.last, span.times) == ("learner_died", 41, 43, 3)


def test_spans_tell_when_and_stages_are_apart():
    vision = [
        {"stage": "vision", "iteration": n, "learner/loss": 1.0, "learner/skipped_steps": n == 2} for n in range(1, 9)
    ]
    spans = alarm_spans([*vision, *changed(healthy(40), 6, valid=0.3)])
    assert [(span.stage, span.alarm.kind, span.first, span.last) for span in spans] == [
        ("vision", "not_finite", 2, 4),
        ("grpo", "valid", 35, 40),  # one of three that are averaged is enough for so large a fall
        ("grpo", "few_valid", 37, 40),
    ]
