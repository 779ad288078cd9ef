"""Statistics against scipy, enumeration and formulas of the literature."""

import itertools
import math
import time
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, permutation_test

from agile_gym.evaluation import bootstrap_difference, bootstrap_mean, mcnemar, pass_at_k, sign_flip, wilson
from agile_gym.evaluation import estimates as paired_module


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (1, 24), (37, 300), (299, 300), (5, 7)])
def test_wilson_solves_its_equation(successes, trials):
    """The ends are where the share is 97.5% quantiles of the standard normal distribution away (Wilson, 1927)."""
    estimate = wilson(successes, trials)
    share = successes / trials
    assert estimate.value == share
    ends = {"low": estimate.low, "high": estimate.high}
    for name, end in ends.items():
        if share == (0 if name == "low" else 1):
            assert end == share  # exactly
        else:
            away = abs(share - end) / math.sqrt(end * (1 - end) / trials)
            assert away == pytest.approx(NormalDist().inv_cdf(0.975), abs=1e-9)
    assert estimate.low <= share <= estimate.high


@pytest.mark.parametrize(("successes", "trials"), [(-1, 3), (4, 3), (0, 0)])
def test_wilson_refuses_nonsense(successes, trials):
    with pytest.raises(ValueError, match="make no sense"):
        wilson(successes, trials)


def test_the_bootstrap_is_scipys_of_the_sample_with_four_more_values():
    values = np.random.default_rng(0).integers(0, 10, 200) / 9
    ours = bootstrap_mean(values)
    sample = np.concatenate([values, [0, 0, 1, 1]])
    theirs = bootstrap((sample,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)
    assert bootstrap_mean(values) == ours
    with pytest.raises(ValueError, match="no values"):
        bootstrap_mean([])


@pytest.mark.parametrize("count", [10, 60, 300])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_scores_do_not_make_a_point_of_the_interval(count, value):
    """Agresti and Coull's interval for 2 more successes and 2 more failures, on the side where there is room."""
    ours = bootstrap_mean([value] * count)
    centre = (count + 2) / (count + 4)
    far = centre - 1.96 * math.sqrt(centre * (1 - centre) / (count + 4))
    assert ours == pytest.approx((1, far, 1) if value else (0, 0, 1 - far), abs=0.35 / count)
    room = wilson(round(value) * count, count)
    assert 0.9 < (ours.high - ours.low) / (room.high - room.low) < 1.4


def test_the_bootstrap_covers_a_score_near_its_limit():
    """95% intervals of 60 puzzles, one in thirty unsolved, hold the true mean about as often as they say."""
    rng = np.random.default_rng(1)
    truth = 1 - 5 / 9 / 30
    hits = plain = 0
    for _ in range(400):
        scores = np.where(rng.random(60) < 1 / 30, 4 / 9, 1.0)
        estimate = bootstrap_mean(scores, resamples=600)
        hits += estimate.low <= truth <= estimate.high
        means = rng.choice(scores, (600, 60)).mean(axis=1)
        plain += np.quantile(means, 0.025) <= truth <= np.quantile(means, 0.975)
    assert hits >= 0.93 * 400
    assert plain < 0.9 * 400, "the plain bootstrap would do, too"


def test_clusters_are_drawn_whole():
    rng = np.random.default_rng(2)
    names = [f"photo {number}" for number in rng.integers(0, 12, 150)]
    offsets = {name: rng.random() for name in names}
    values = np.array([0.7 * offsets[name] + 0.3 * rng.random() for name in names])
    ours = bootstrap_mean(values, names)
    groups = [values[[other == name for other in names]] for name in sorted(set(names))]
    groups += [np.array([0.0]), np.array([0.0]), np.array([1.0]), np.array([1.0])]
    means = []
    for _ in range(4000):
        drawn = [groups[index] for index in rng.integers(len(groups), size=len(groups))]
        means.append(np.concatenate(drawn).mean())
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=0.02)
    single = bootstrap_mean(values)
    assert ours.high - ours.low > 1.5 * (single.high - single.low)


def test_pairs_that_are_all_alike_leave_room_for_a_difference():
    """Bonett and Price's interval for paired shares, whose added pairs the bootstrap borrows."""
    count, worse, better = 300, 20, 45
    estimate = bootstrap_difference([-1] * worse + [1] * better + [0] * (count - worse - better))
    p12, p21 = (better + 1) / (count + 2), (worse + 1) / (count + 2)
    half = 1.959964 * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / (count + 2))
    assert estimate.value == pytest.approx(25 / 300)
    assert (estimate.low, estimate.high) == pytest.approx((p12 - p21 - half, p12 - p21 + half), abs=0.006)
    nothing = bootstrap_difference([0.0] * 100)
    assert nothing.value == 0
    assert -0.05 < nothing.low < 0 < nothing.high < 0.05


@pytest.mark.parametrize("samples", [1, 4, 7])
def test_pass_at_k_equals_the_share_of_all_choices(samples):
    for solved in range(samples + 1):
        outcomes = [True] * solved + [False] * (samples - solved)
        for k in range(1, samples + 1):
            choices = list(itertools.combinations(outcomes, k))
            share = sum(any(choice) for choice in choices) / len(choices)
            assert pass_at_k(samples, solved, k) == pytest.approx(share)
    for bad in ((samples, samples + 1, 1), (samples, 0, samples + 1), (samples, 0, 0)):
        with pytest.raises(ValueError, match="makes no sense"):
            pass_at_k(*bad)


@pytest.mark.parametrize(
    ("first", "second"), [(0, 0), (1, 9), (9, 1), (5, 5), (0, 40), (300, 260), (3, 0), (9000, 9040), (700, 1600)]
)
def test_mcnemar_equals_the_sum_in_whole_numbers(first, second):
    count = first + second
    term = tail = 1
    for successes in range(min(first, second)):
        term = term * (count - successes) // (successes + 1)
        tail += term
    exact = min(Fraction(1), Fraction(2 * tail, 2**count))
    assert mcnemar(first, second) == pytest.approx(float(exact), rel=1e-11)


def test_mcnemar_of_many_pairs_is_quick():
    start = time.process_time()
    for first, second in ((1_000_000, 1_003_000), (9_999, 10_001), (3_000_000, 0)):
        away = (abs(first - second) - 1) / math.sqrt(first + second)  # in standard deviations, nearly normal
        assert mcnemar(first, second) == pytest.approx(2 * NormalDist().cdf(-away), rel=1e-4)
    assert time.process_time() - start < 5


def test_mcnemar_by_hand():
    assert mcnemar(1, 9) == 2 * (1 + 10) / 1024
    assert mcnemar(0, 6) == 2 / 64


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=10), st.sampled_from([1, 4, 9, 36]))
def test_sign_flips_equal_enumeration(numbers, unit):
    total = abs(sum(numbers))
    sums = [
        sum(s * n for s, n in zip(signs, numbers, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(numbers))
    ]
    expected = sum(abs(value) >= total for value in sums) / len(sums)
    assert sign_flip([Fraction(number, unit) for number in numbers]) == pytest.approx(expected, abs=1e-12)


def test_sign_flips_equal_scipy_and_mcnemar(monkeypatch):
    rng = np.random.default_rng(3)
    numbers = (rng.integers(-3, 6, 200) * (rng.random(200) < 0.3)).tolist()
    ours = sign_flip([Fraction(number, 9) for number in numbers])
    theirs = permutation_test(
        (np.array(numbers, float),), np.sum, permutation_type="samples", n_resamples=9_999, vectorized=False, rng=4
    ).pvalue
    assert ours == pytest.approx(theirs, abs=0.01)
    assert 0.001 < ours < 0.5
    monkeypatch.setattr(paired_module, "MAX_LATTICE", 0)  # then signs are drawn
    assert sign_flip([Fraction(number, 9) for number in numbers]) == pytest.approx(ours, abs=0.012)
    monkeypatch.undo()
    assert sign_flip([Fraction(-1)] * 12 + [Fraction(1)] * 30 + [Fraction(0)] * 9) == pytest.approx(mcnemar(12, 30))
    assert sign_flip([Fraction(1, 3)] * 3000) < 1e-9
    assert sign_flip([]) == sign_flip([Fraction(0)] * 5) == 1.0
