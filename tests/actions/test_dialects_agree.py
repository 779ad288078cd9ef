"""One engine behind three dialects: the same moves, written in each, lead to the same episode, pixel for pixel."""

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agile_gym  # noqa: F401 -- registers the environments
from agile_gym.actions.dialects import get_dialect
from agile_gym.actions.primitives import Answer, Observe, RotatePiece, Swap
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.envs.jigsaw.wrappers import DiscreteActions
from agile_gym.errors import ConfigurationError
from agile_gym.testing import check_dialect

OPTIONS = {"image_size": 48, "max_turns": 50, "reveal": True}


def moves(pieces):
    swap = st.tuples(st.integers(0, pieces - 1), st.integers(0, pieces - 1)).filter(lambda pair: pair[0] != pair[1])
    return st.lists(st.one_of(swap, st.none()), max_size=12)


def play(env, texts):
    seen = []
    for text in texts:
        observation, reward, terminated, truncated, info = env.step(text)
        assert info["error"] is None
        seen.append((observation["image"].copy(), tuple(observation["image_size"]), reward, terminated, truncated))
        seen[-1] += (info["pieces_in_place"], info["score"])
    return seen


@settings(max_examples=40, deadline=None)
@given(grid=st.sampled_from([(1, 2), (2, 2), (2, 3), (3, 3)]), seed=st.integers(0, 2**31), data=st.data())
def test_code_tools_and_discrete_actions_mean_the_same(grid, seed, data):
    pieces = grid[0] * grid[1]
    chosen = data.draw(moves(pieces))
    runs = []
    for dialect in ("code", "tools"):
        env = JigsawVisionEnv(grid=grid, dialect=dialect, **OPTIONS)
        env.reset(seed=seed)
        writer = get_dialect(dialect)
        texts = []
        for move in chosen:
            primitives = [Observe()] if move is None else [Swap(*sorted(move)), Observe()]
            texts.append(primitives)
        seen = []
        for primitives in texts:
            seen += play(env, [writer.write(primitives, env.episode.workspace, "x")])
        state = [env.episode.workspace.names[piece] for piece in env.episode.workspace.order]
        seen += play(env, [writer.write([Answer(tuple(state))], env.episode.workspace, "x")])
        runs.append(seen)
    env = DiscreteActions(JigsawVisionEnv(grid=grid, **OPTIONS))
    env.reset(seed=seed)
    pairs = [(a, b) for a in range(pieces) for b in range(a + 1, pieces)]
    actions = [len(pairs) if move is None else pairs.index(tuple(sorted(move))) for move in chosen]
    runs.append(play(env, [np.int64(action) for action in [*actions, len(pairs) + 1]]))
    for other in runs[1:]:
        assert len(other) == len(runs[0])
        for mine, theirs in zip(runs[0], other, strict=True):
            np.testing.assert_array_equal(mine[0], theirs[0])
            assert mine[1:] == theirs[1:]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), swaps=moves(9))
def test_any_swaps_from_any_start_keep_a_permutation(seed, swaps):
    env = JigsawVisionEnv(grid=3, level=None, **OPTIONS)
    env.reset(seed=seed)
    expected = list(range(9))
    for move in swaps:
        if move is None:
            continue
        expected[move[0]], expected[move[1]] = expected[move[1]], expected[move[0]]
        env.step(f"<code>state[{move[0]}], state[{move[1]}] = state[{move[1]}], state[{move[0]}]</code>")
        assert list(env.episode.workspace.order) == expected


@pytest.mark.parametrize("dialect", ["code", "tools"])
def test_what_a_dialect_writes_it_reads_back(dialect):
    check_dialect(get_dialect(dialect))


def test_turned_pieces_in_every_dialect():
    for dialect in ("code", "tools"):
        env = JigsawVisionEnv(dialect=dialect, rotations=True, **OPTIONS)
        env.reset(seed=0)
        env.step(env.dialect.write([RotatePiece(1, 270), Observe()], env.episode.workspace))
        assert env.episode.workspace.turns == (0, 270, 0, 0)
    discrete = DiscreteActions(JigsawVisionEnv(rotations=True, **OPTIONS))
    assert discrete.action_space.n == 6 + 4 + 2
    discrete.reset(seed=0)
    for _ in range(3):
        discrete.step(np.int64(7))
    assert discrete.unwrapped.episode.workspace.turns == (0, 270, 0, 0)


def test_the_discrete_environment_can_be_solved_and_rewards_it():
    env = gymnasium.make("JigsawVisionDiscrete-v0", reveal=True)
    observation, info = env.reset(seed=4)
    assert observation.shape == env.observation_space.shape
    target = info["solution"]
    state = ["A", "B", "C", "D"]
    pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
    for place in range(4):
        other = state.index(target[place])
        if other != place:
            state[place], state[other] = state[other], state[place]
            observation, reward, *_ = env.step(pairs.index((place, other)))
            assert reward == 0
    _, reward, terminated, _, info = env.step(7)
    assert terminated
    assert info["solved"]
    assert reward == pytest.approx(1 - 0.05 * (info["turn"] - 1))


@pytest.mark.parametrize("action", [8, -1, "swap"])
def test_discrete_actions_that_do_not_exist_are_refused(action):
    env = gymnasium.make("JigsawVisionDiscrete-v0", disable_env_checker=True)
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match="0 to 7"):
        env.step(action)


def test_unknown_dialects_are_refused_with_a_suggestion():
    with pytest.raises(ConfigurationError, match="Did you mean 'tools'"):
        JigsawVisionEnv(dialect="tool")
