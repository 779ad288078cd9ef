"""Golden rewards: whole episodes played in the environment, each reward computed by hand from the paper's table."""

import json
from dataclasses import replace

import pytest

from agile_gym.envs.jigsaw import JigsawVisionEnv, RewardConfig
from agile_gym.envs.reward import EpisodeRecord, balanced_format, cost_of_looking, get_reward, score_episode
from agile_gym.errors import ConfigurationError

THINK = "<think>t</think>"
OBSERVE = THINK + "<code>o = observation(state)</code>"
SWAP_ONLY = THINK + "<code>swap(0, 1)</code>"
BAD_CODE = THINK + "<code>foo()</code>"
NEITHER = THINK + "hm"
BOTH = THINK + "<code>observe()</code><answer>[]</answer>"
NO_THINK = "<code>observe()</code>"


def right(names):
    return THINK + f"<answer>{json.dumps(names)}</answer>"


def rotated_left(names):
    return right([*names[1:], names[0]])


def play(turns, reward, *, grid=2, max_turns=5, **settings):
    env = JigsawVisionEnv(
        grid=grid, level=None, image_size=48, reward={"preset": reward, **settings}, max_turns=max_turns, reveal=True
    )
    _, info = env.reset(seed=1)
    solution = info["solution"]
    total = 0.0
    ended = False
    for turn in turns:
        assert not ended, "the episode ended too early"
        text = turn(solution) if callable(turn) else turn
        _, step_reward, terminated, truncated, info = env.step(text)
        ended = terminated or truncated
        assert ended or (step_reward == 0.0 and info["reward"]["total"] == 0.0)
        total += step_reward
    assert ended
    assert info["reward"]["total"] == total
    parts = info["reward"]
    return {key: round(value, 10) for key, value in parts.items()}


def three_wrong_of_nine(names):
    return right([names[1], names[2], names[0], *names[3:]])


def five_wrong_of_nine(names):
    return right([*names[1:5], names[0], *names[5:]])


def six_wrong_of_nine(names):
    return right([*names[1:6], names[0], *names[6:]])


@pytest.mark.parametrize(
    ("turns", "paper", "official"),
    [
        # accuracy, format, step, score: total = 0.8 accuracy + 0.2 format + step
        ([right], (1, 1, 0, 1), (1, 1, 0, 1)),
        ([OBSERVE, right], (1, 1, -0.05, 1), (1, 1, -0.05, 1)),
        # Code without an image, and code with an error: steps in the paper, free in the released code.
        ([SWAP_ONLY, OBSERVE, right], (1, 1, -0.10, 1), (1, 1, -0.05, 1)),
        ([BAD_CODE, BAD_CODE, right], (1, 1, -0.10, 1), (1, 1, 0, 1)),
        # A wrong answer costs all turns in the paper, 0.25 in the released code.
        ([rotated_left], (0, 1, -0.25, 0), (0, 1, -0.25, 0)),
        # Missing think tags: against the format in the paper, balanced enough for the released code.
        ([NO_THINK, right], (1, 0, -0.05, 1), (1, 1, -0.05, 1)),
        # No answer at all.
        ([OBSERVE] * 5, (0, 0, -0.25, 0), (0, 0, -0.25, 0)),
        # An answer of the wrong length is wrong, but no format error.
        ([THINK + '<answer>["A"]</answer>'], (0, 1, -0.25, 0), (0, 1, -0.25, 0)),
    ],
)
def test_presets_on_whole_episodes(turns, paper, official):
    for preset, (accuracy, kept, step, score) in (("paper", paper), ("official_code", official)):
        parts = play(turns, preset)
        total = round(0.8 * accuracy + 0.2 * kept + step, 10)
        assert parts == {"accuracy": accuracy, "format": kept, "step": step, "score": score, "total": total}


@pytest.mark.parametrize("invalid", [NEITHER, BOTH, THINK + "<answer>no list</answer>", THINK + "<code>observe()"])
def test_an_invalid_turn_goes_on_in_the_paper_and_ends_the_episode_in_the_released_code(invalid):
    parts = play([invalid, right], "paper")
    steps = -0.05 if invalid in (BOTH, THINK + "<code>observe()") else 0  # only turns with code are steps
    kept = 1.0 if "no list" in invalid else 0.0  # its tags are in order
    assert parts["accuracy"] == 1
    assert (parts["step"], parts["format"]) == (steps, kept)
    parts = play([invalid], "official_code")
    assert (parts["accuracy"], parts["format"], parts["step"]) == (0, 0 if "<answer>[]" not in invalid else 1, -0.25)


def test_longer_episodes_cost_more_when_unsolved_in_the_paper_only():
    assert play([rotated_left], "paper", max_turns=8)["step"] == -0.4
    assert play([rotated_left], "official_code", max_turns=8)["step"] == -0.25


@pytest.mark.parametrize(
    ("answer", "score", "paper", "official"),
    [
        (right, 1, 1, 1),
        (three_wrong_of_nine, 6 / 9, 0, 1),
        (five_wrong_of_nine, 4 / 9, 0, 1),  # the released code's bug: four of nine count as solved
        (six_wrong_of_nine, 3 / 9, 0, 0),
    ],
)
def test_the_released_code_takes_four_of_nine_for_solved(answer, score, paper, official):
    for preset, accuracy in (("paper", paper), ("official_code", official)):
        parts = play([answer], preset, grid=3)
        assert (parts["accuracy"], parts["score"]) == (accuracy, round(score, 10))
        assert parts["step"] == (0 if accuracy else -0.25)


def test_a_small_puzzle_can_be_solved_under_both_presets():
    for preset in ("paper", "official_code"):
        assert play([right], preset, grid=(1, 2))["accuracy"] == 1
        assert play([rotated_left], preset, grid=(1, 2))["accuracy"] == 0


def test_every_coefficient_can_be_set():
    settings = {"accuracy_weight": 2, "format_weight": 3, "step_weight": 0.5, "score_weight": 7, "step_penalty": 0.1}
    parts = play([OBSERVE, BAD_CODE, three_wrong_of_nine], "paper", grid=3, unsolved_penalty=0.7, **settings)
    assert parts["total"] == round(0 * 2 + 1 * 3 - 0.7 * 0.5 + 7 * 6 / 9, 10)
    parts = play([OBSERVE, BAD_CODE, right], "paper", grid=3, **settings)
    assert parts["total"] == round(2 + 3 - 0.2 * 0.5 + 7, 10)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<think>a</think><answer>[]</answer>", True),
        ("<answer>[]</answer>", True),
        ("<think>a<answer>[]</answer>", False),
        ("<think>a</think></think><answer>[]</answer>", False),
        ("<answer>[]</answer><think>a</think>", False),
        ("<think>a</think><answer>[", False),
        ("<think>a</think><answer>A, B</answer>", False),
        ("<think>a</think><answer>A, B</answer> <answer>[1]</answer>", True),
        ("<think>a</think><answer>[1]</answer> <answer>A, B</answer>", False),
        (f"<think>a</think><answer>{json.dumps('x' * 997)}</answer>", True),
        (f"<think>a</think><answer>{json.dumps('x' * 998)}</answer>", False),
        ("<think>a</think><answer>" + "[" * 999 + "</answer>", False),
    ],
)
def test_the_released_codes_format_check(text, kept):
    assert balanced_format(text) is kept


def test_the_weights_of_the_paper():
    record = EpisodeRecord((), 2, 1, well_formed=True, answered=True, pieces_right=4, pieces=4, max_turns=5)
    assert score_episode(record, RewardConfig())["total"] == pytest.approx(0.8 + 0.2 - 0.1)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("papre", "Did you mean 'paper'"),
        ({"preset": "x"}, "no reward preset 'x'"),
        ({"step_wieght": 1}, "Did you mean 'step_weight'"),
        ({"step_weight": -1}, "from 0 to"),
        ({"accuracy_weight": "1"}, "from 0 to"),
        ({"step_penalty": None}, "from 0 to"),
        ({"format_rule": "loose"}, "format_rule='loose'"),
        ({"score_weight": float("nan")}, "from 0 to"),
        (RewardConfig(step_count="turns"), "step_count='turns'"),
    ],
)
def test_bad_rewards_are_refused(reward, message):
    with pytest.raises(ConfigurationError, match=message):
        get_reward(reward)


@pytest.mark.parametrize(
    ("settings", "max_turns", "warned"),
    [
        ({}, 5, False),  # 4 x 0.05 of 0.8
        ({}, 16, False),  # 15 x 0.05 = 0.75
        ({}, 17, True),  # 16 x 0.05 = 0.8
        ({"score_weight": 0.5}, 17, False),
        ({"step_weight": 4}, 5, True),
        ({"step_weight": 0, "accuracy_weight": 0}, 5, False),
        ({"step_penalty": 0.8}, 2, True),
        ({"step_penalty": 0.8}, 1, False),
    ],
)
def test_a_reward_of_which_looking_cannot_pay(settings, max_turns, warned):
    config = get_reward(settings)
    warning = cost_of_looking(config, max_turns)
    assert (warning is not None) == warned
    # Against the reward itself: solved with a look in every turn, beside a wrong answer at once at the same cost.
    pieces = {"pieces": 4, "images": 0, "texts": (), "well_formed": True, "answered": True, "max_turns": max_turns}
    looked = EpisodeRecord(code_turns=max_turns - 1, pieces_right=4, **pieces)
    free = replace(config, step_penalty=0.0)
    cost = score_episode(looked, free)["total"] - score_episode(looked, config)["total"]
    wrong = EpisodeRecord(code_turns=0, pieces_right=0, **pieces)
    earned = score_episode(looked, free)["total"] - score_episode(wrong, free)["total"]
    assert warned == (cost > 0 and cost >= earned - 1e-9)
