"""Intervals and sentences on made-up numbers whose truth is known."""

import numpy as np
import pytest

from agile_gym.evaluation.metrics import Estimate
from agile_gym.studies.findings import Played, describe_difference, describe_trend, difference, mean, trend


def made(rng, accs, *, seeds=3, puzzles=300, spread=0.0, photographs=60, easy=None):
    """Return arms that solve puzzles with given probabilities; `spread` is the deviation between seeds."""
    easy = rng.normal(0, 0.1, puzzles) if easy is None else easy
    arms = []
    for acc in accs:
        chance = acc + easy[None] + rng.normal(0, spread, (seeds, 1))
        solved = (rng.random((seeds, puzzles)) < chance).astype(float)
        arms.append(Played(tuple(range(seeds)), solved, tuple(str(place % photographs) for place in range(puzzles))))
    return arms


def test_a_large_difference_is_seen_and_named_with_its_direction():
    base, worse = made(np.random.default_rng(0), (0.6, 0.4))
    found = difference(worse, base)
    assert found.high < 0
    finding = describe_difference("2x2", "no step", "base", found, "the paper has 0.8 less")
    assert finding.kind == "loss"
    assert finding.text.startswith("2x2: Acc of no step is below that of base by ")
    assert finding.text.endswith("; the paper has 0.8 less).")
    assert describe_difference("2x2", "a", "b", Estimate(0.1234, 0.05, 0.2)).text == (
        "2x2: Acc of a is above that of b by 12.3 points (5.0 to 20.0)."
    )
    assert describe_difference("2x2", "a", "b", Estimate(-0.1234, -0.2, -0.05)).text == (
        "2x2: Acc of a is below that of b by 12.3 points (5.0 to 20.0)."
    )


def test_where_there_is_none_a_difference_is_seen_about_once_in_twenty_times():
    rng = np.random.default_rng(1)
    seen = 0
    for _ in range(300):
        first, second = made(rng, (0.5, 0.5), spread=0.03)
        found = difference(first, second)
        seen += not found.low <= 0 <= found.high
    assert seen <= 24  # 8%: 95% intervals of 300 draws stay below it with probability 0.99


def test_differences_between_seeds_are_no_finding_however_many_puzzles_are_played():
    rng = np.random.default_rng(2)
    seen = 0
    for _ in range(100):
        first, second = made(rng, (0.5, 0.5), spread=0.1, puzzles=2000, photographs=2000)
        found = difference(first, second)
        seen += not found.low <= 0 <= found.high
    assert seen <= 12


def test_equal_arms_have_no_difference_and_an_interval_that_is_no_point():
    zeros = Played((0, 1), np.zeros((2, 12)), tuple("abcdefghijkl"))
    found = difference(zeros, zeros)
    assert found.value == 0
    assert found.low < 0 < found.high
    finding = describe_difference("2x2", "a", "b", found)
    assert finding.kind == "none"
    assert finding.text.startswith("2x2: no difference seen between a and b (+0.0 points, -")


def test_more_comparisons_make_intervals_wider():
    first, second = made(np.random.default_rng(3), (0.5, 0.45))
    alone, many = difference(first, second), difference(first, second, comparisons=10)
    assert many.low < alone.low < alone.high < many.high
    assert many.value == alone.value == pytest.approx(first.values.mean() - second.values.mean())


def test_only_seeds_that_both_have_are_compared():
    first, second = made(np.random.default_rng(4), (0.5, 0.5), seeds=3)
    part = Played((2, 0), second.values[[2, 0]], second.clusters)
    expected = first.values[[0, 2]].mean() - second.values[[0, 2]].mean()
    assert difference(first, part).value == pytest.approx(expected)
    assert difference(first, Played((7,), second.values[:1], second.clusters)) is None


def test_the_mean_covers_the_truth_and_stays_a_fraction():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        easy = rng.normal(0, 0.1, 300)
        (arm,) = made(rng, (0.5,), spread=0.05, easy=easy)
        found = mean(arm)
        covered += found.low <= 0.5 <= found.high
    assert covered >= 184
    ones = mean(Played((0,), np.ones((1, 5)), tuple("abcde")))
    assert ones.value == ones.high == 1
    assert 0 < ones.low < 1


def test_a_rise_is_told_and_a_level_line_is_not():
    rng = np.random.default_rng(6)
    rises = [trend(made(rng, (0.3, 0.4, 0.5, 0.6))) for _ in range(100)]
    assert sum(rise.low < 0.3 < rise.high for rise in rises) >= 88  # from the first to the last
    assert all(rise.low > 0.1 for rise in rises)
    assert describe_trend("2x2", "photographs", ("0", "140"), (0.2, 0.8), Estimate(0.6, 0.55, 0.65)).text == (
        "2x2: Acc rises over photographs: it is 20.0% at 0 and 80.0% at 140 "
        "(along the line +60.0 points, +55.0 to +65.0)."
    )
    level = describe_trend("2x2", "photographs", ("0", "140"), (0.5, 0.51), trend(made(rng, (0.5, 0.5, 0.5, 0.5))))
    assert level.kind == "none"
    assert "no difference seen over photographs" in level.text
    falling = describe_trend("2x2", "photographs", ("0", "9"), (0.5, 0.2), Estimate(-0.3, -0.4, -0.2))
    assert falling.kind == "loss"
    assert "Acc falls" in falling.text


def test_puzzles_of_one_photograph_count_as_one_draw():
    values = np.repeat(np.random.default_rng(7).integers(0, 2, 10), 30)[None].astype(float)
    apart = mean(Played((0,), values, tuple(map(str, range(300)))))
    alike = mean(Played((0,), values, tuple(str(place // 30) for place in range(300))))
    assert alike.high - alike.low > 3 * (apart.high - apart.low)
