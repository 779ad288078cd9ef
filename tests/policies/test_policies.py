import json
import math

import numpy as np
import pytest
import skimage.data

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ConfigurationError
from agile_gym.evaluation import EvaluationPlan, SuiteEntry, evaluate
from agile_gym.policies import (
    POLICIES,
    EdgePolicy,
    FunctionPolicy,
    OraclePolicy,
    Policy,
    RandomPolicy,
    as_policy,
    make_policy,
    register_policy,
)

SMALL = {"image_size": 96}


def rollout(policy, env, seed):
    observation, info = env.reset(seed=seed)
    policy.reset(seed)
    while True:
        observation, reward, terminated, truncated, info = env.step(policy.act([observation], [info])[0])
        if terminated or truncated:
            return reward, info


@pytest.mark.parametrize("options", [{}, {"grid": (2, 3)}, {"rotations": True}, {"dialect": "tools"}])
def test_the_oracle_is_always_right_in_one_turn(options):
    env = JigsawVisionEnv(reveal=True, level=None, **SMALL, **options)
    for seed in range(5):
        reward, info = rollout(OraclePolicy(), env, seed)
        assert (reward, info["solved"], info["turn"]) == (1.0, True, 1)


def test_the_oracle_says_what_it_needs():
    with pytest.raises(ConfigurationError, match="reveal=True"):
        rollout(OraclePolicy(), JigsawVisionEnv(**SMALL), 0)


@pytest.mark.slow
@pytest.mark.parametrize(("grid", "exact"), [("1x2", 1 / 2), ("1x3", 1 / 6), ("2x2", 1 / 24)])
def test_random_answers_are_right_as_often_as_chance_has_it(grid, exact):
    plan = EvaluationPlan("random", [SuiteEntry(grid, (0,), 2000)], options={"image_size": 32})
    results = evaluate(RandomPolicy(), plan, batch=64)
    share = sum(result.solved for result in results) / len(results)
    assert abs(share - exact) < 3.3 * math.sqrt(exact * (1 - exact) / len(results))  # missed by chance: 0.1%


def test_random_answers_depend_on_seed_and_puzzle_only():
    env = JigsawVisionEnv(grid=3, **SMALL)
    starts = [env.reset(seed=seed) for seed in range(6)]
    observations, infos = [list(side) for side in zip(*starts, strict=True)]
    policy = RandomPolicy(3)
    together = policy.act(observations, infos)
    assert together == [policy.act([o], [i])[0] for o, i in zip(observations, infos, strict=True)]
    assert RandomPolicy(3).act(observations, infos) == together
    assert RandomPolicy(4).act(observations, infos) != together
    assert len(set(together)) > 3
    for info in infos:  # an episode's own seed goes before the policy's
        info["policy_seed"] = 3
    again = policy.act(observations, infos)
    assert again != together
    assert RandomPolicy(4).act(observations, infos) == again
    infos[0]["policy_seed"] = 4
    assert [a == b for a, b in zip(policy.act(observations, infos), again, strict=True)] == [False] + [True] * 5


@pytest.mark.parametrize("view", ["pieces", "board", "both"])
@pytest.mark.parametrize("grid", ["2x2", "3x3", "2x4"])
def test_edges_solve_real_photographs_in_every_view(grid, view):
    pictures = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    env = JigsawVisionEnv(grid=grid, level=None, images=pictures, initial_view=view, image_size=240)
    for seed in range(6):
        assert rollout(EdgePolicy(), env, seed)[1]["solved"]


def test_edges_use_nothing_but_what_is_seen():
    """Noise has no matching borders: the policy can only guess there, however often it is asked."""
    noise = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8) for seed in range(40)]
    env = JigsawVisionEnv(level=None, images=noise, image_size=64)
    solved = sum(rollout(EdgePolicy(), env, seed)[1]["solved"] for seed in range(40))
    assert solved < 12  # 1/23 each by chance


def test_edges_say_what_they_cannot_do():
    with pytest.raises(ConfigurationError, match="without rotations"):
        rollout(EdgePolicy(), JigsawVisionEnv(rotations=True, **SMALL), 0)
    env = JigsawVisionEnv(**SMALL)
    env.reset(seed=0)
    observation, _, _, _, info = env.step("<code>observe()</code>")
    with pytest.raises(ConfigurationError, match="first observation"):
        EdgePolicy().act([observation], [info])


def answer_alphabetically(observation):
    assert "text" in observation
    return '<think>x</think><answer>["A", "B", "C", "D"]</answer>'


def test_a_plain_function_is_a_policy():
    policy = as_policy(answer_alphabetically)
    assert isinstance(policy, FunctionPolicy)
    assert isinstance(policy, Policy)
    env = JigsawVisionEnv(level=0, **SMALL)
    _, info = rollout(policy, env, 0)
    assert info["score"] == 0  # L0: no piece is in its place
    assert as_policy(policy) is policy


@pytest.mark.parametrize("bad", [3, None, "edge", RandomPolicy])
def test_what_is_no_policy_is_refused(bad):
    with pytest.raises(ConfigurationError, match="is not a policy"):
        as_policy(bad)


def test_policies_by_name_and_by_module():
    assert isinstance(make_policy("edge"), EdgePolicy)
    assert isinstance(make_policy("random", seed=3), RandomPolicy)
    assert isinstance(make_policy("agile_gym.policies:OraclePolicy"), OraclePolicy)
    register_policy("alphabet", lambda start="A": answer_alphabetically)
    try:
        assert isinstance(make_policy("alphabet"), FunctionPolicy)
        assert isinstance(make_policy("alphabet:B"), FunctionPolicy)
        assert isinstance(make_policy("alphabet", start="C"), FunctionPolicy)
        with pytest.raises(ConfigurationError, match="Did you mean 'start'"):
            make_policy("alphabet", strat="C")
        with pytest.raises(ConfigurationError, match="already"):
            register_policy("alphabet", RandomPolicy)
    finally:
        del POLICIES["alphabet"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("egde", "Did you mean 'edge'"),
        ("nowhere:policy", r"cannot be loaded: No module named 'nowhere'\.$"),
        ("hff:some/model", r"cannot be loaded: No module named 'hff'\. Did you mean 'hf:some/model'\?$"),
        ("agile_gym.policies:Nothing", "cannot be loaded"),
        ("math:pi", "is not a policy"),
        ("hf", "missing a required argument.* Write 'hf:MODEL'"),
        ("edge:fast", "too many positional"),
    ],
)
def test_unknown_policies_are_refused(name, message):
    with pytest.raises(ConfigurationError, match=message):
        make_policy(name)


@pytest.mark.parametrize("seed", [-1, "abc", 1.5, True, [1]])
def test_seeds_that_are_none_are_refused(seed):
    with pytest.raises(ConfigurationError, match="is not a seed; give a whole number of at least 0, or None"):
        make_policy("random", seed=seed)


def test_names_with_strange_characters_are_refused():
    with pytest.raises(ConfigurationError, match="letters, digits"):
        register_policy("a:b", RandomPolicy)


def test_the_answer_is_json():
    env = JigsawVisionEnv(rotations=True, **SMALL)
    observation, info = env.reset(seed=0)
    text = RandomPolicy(0).act([observation], [info])[0]
    entries = json.loads(text.partition("<answer>")[2].partition("</answer>")[0])
    assert sorted(name for name, _ in entries) == list("ABCD")
    assert math.isclose(sum(angle % 90 for _, angle in entries), 0)
