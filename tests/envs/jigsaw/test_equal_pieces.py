"""Pieces that look alike: a board that shows the right picture is right, whoever judges it."""

import json
import warnings

import gymnasium
import numpy as np
import pytest
from PIL import Image

import agile_gym  # noqa: F401 -- registers the environments
from agile_gym.actions.primitives import Observe, Swap
from agile_gym.envs.jigsaw import EqualPiecesWarning, JigsawVisionEnv, JigsawVisionVectorEnv
from agile_gym.envs.jigsaw import start as starting
from agile_gym.envs.jigsaw.wrappers import JigsawVisionDiscreteEnv
from agile_gym.envs.reward import REWARDS
from agile_gym.errors import ConfigurationError
from agile_gym.evaluation import EvaluationPlan, SuiteEntry, evaluate
from agile_gym.rollout import EpisodeSpec, play_episodes
from tests.helpers.comparing import same

SKY = (90, 140, 220)
SMALL = {"image_size": 64, "gap": 0}


def noise(seed=0, height=64, width=64):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def landscape(seed=0):
    """Return a picture whose upper half is sky."""
    picture = noise(seed)
    picture[:32] = SKY
    return picture


def answer(names):
    return f"<think>t</think><answer>{json.dumps(names)}</answer>"


def exchanged(env, solution):
    """Return a solution in which two pieces that look alike have changed places."""
    pieces, names = env.episode.pieces[:, -8:], list(env.episode.workspace.names)  # below the labels
    order = [names.index(entry) for entry in solution]
    first, second = next(
        (a, b) for a in range(len(order)) for b in range(a) if np.array_equal(pieces[order[a]], pieces[order[b]])
    )
    order[first], order[second] = order[second], order[first]
    return [names[piece] for piece in order]


@pytest.fixture(autouse=True)
def unwarned(monkeypatch):
    monkeypatch.setattr(starting, "_WARNED", set())


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EqualPiecesWarning)
        yield


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("options", [{}, {"labels": True}, {"grid": 4}, {"max_pixels": 4096, "image_size": None}])
def test_a_right_picture_is_right(reward, options):
    env = JigsawVisionEnv(images=[landscape()], level=None, reveal=True, reward=reward, **{**SMALL, **options})
    for seed in range(10):
        _, info = env.reset(seed=seed)
        solution = info["solution"]
        other = exchanged(env, solution)
        assert other != solution
        for names in (solution, other):
            env.reset(seed=seed)
            env.step(f"<think>t</think><code>state = {json.dumps(names)}\nobserve()</code>")
            *_, info = env.step(answer(names))
            assert info["solved"] is True
            assert (info["score"], info["pieces_in_place"], info["reward"]["accuracy"]) == (1.0, len(names), 1.0)


@pytest.mark.usefixtures("quiet")
def test_names_alone_count_where_that_is_asked_for():
    options = {"images": [landscape()], "level": 0, "reveal": True, **SMALL}
    env = JigsawVisionEnv(equal_pieces="names", **options)
    _, info = env.reset(seed=0)
    solution = info["solution"]
    *_, info = env.step(answer(exchanged(env, solution)))
    assert (info["solved"], info["score"]) == (False, 0.5)
    *_, info = (env.reset(seed=0), env.step(answer(solution)))[1]
    assert info["solved"]
    with pytest.raises(ConfigurationError, match=r"equal_pieces='pixels' is not allowed; give one of \('picture'"):
        JigsawVisionEnv(equal_pieces="pixels")


@pytest.mark.usefixtures("quiet")
def test_vectors_and_numbers_judge_alike():
    options = {"images": [landscape()], "level": 0, "reveal": True, **SMALL}
    single = JigsawVisionEnv(**options)
    vector = JigsawVisionVectorEnv(3, **options)
    discrete = JigsawVisionDiscreteEnv(**options)
    for seed in range(0, 12, 3):
        vector.reset(seed=seed)
        texts = []
        for index in range(3):
            _, info = single.reset(seed=seed + index)
            texts.append(answer(exchanged(single, info["solution"])))
        _, rewards, terminated, _, infos = vector.step(texts)
        assert terminated.all()
        assert infos["solved"].all()
        assert (rewards == 1.0).all()
        _, info = discrete.reset(seed=seed)
        target = exchanged(discrete.jigsaw, info["solution"])
        for place, name in enumerate(target):  # swap after swap, as numbers
            state = discrete.jigsaw.episode.workspace.state_list()
            if state[place] != name:
                pair = sorted((place, state.index(name)))
                pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
                *_, info = discrete.step(np.int64(pairs.index(tuple(pair))))
        assert info["pieces_in_place"] == 4
        *_, info = discrete.step(np.int64(7))
        assert info["solved"]


class Exchanging:
    """Answers with the right picture, but not with the names of the solution."""

    def reset(self, seed=None):
        pass

    def act(self, observations, infos):
        texts = []
        for info in infos:
            pieces = dict(zip(info["task"].names, info["images"], strict=True))
            order = list(info["solution"])
            alike = [
                (a, b)
                for a in range(len(order))
                for b in range(a)
                if np.array_equal(pieces[order[a]], pieces[order[b]])
            ]
            for a, b in alike[:1]:
                order[a], order[b] = order[b], order[a]
            texts.append(answer(order))
        return texts


@pytest.mark.usefixtures("quiet")
def test_evaluation_and_transcripts_judge_alike(tmp_path):
    for seed in range(2):
        Image.fromarray(landscape(seed)).save(tmp_path / f"{seed}.png")
    options = {"reveal": True, "crop": "center", **SMALL}
    plan = EvaluationPlan("exchanging", [SuiteEntry("2x2", (0,), 6)], images=str(tmp_path), options=options)
    results = evaluate(Exchanging(), plan)
    assert [(result.solved, result.score) for result in results] == [(True, 1.0)] * 6
    makers = {"env": lambda: JigsawVisionEnv(images=[landscape()], level=0, reveal=True, **SMALL)}
    played = play_episodes(Exchanging(), [EpisodeSpec("env", seed=seed) for seed in range(4)], makers)
    for _, transcript in played:
        assert transcript.solved
        assert transcript.reward["total"] == 1.0


@pytest.mark.usefixtures("quiet")
def test_turned_pieces_are_right_by_what_they_show():
    """A plain piece has no upright side, and one that looks like another turned one may take its place."""
    picture = noise()
    picture[:32, :32] = SKY
    picture[32:, 32:] = np.rot90(picture[32:, :32])
    env = JigsawVisionEnv(images=[picture], level=None, rotations=True, reveal=True, **SMALL)
    for seed in range(20):
        _, info = env.reset(seed=seed)
        solution = info["solution"]
        for quarter in range(4):
            env.reset(seed=seed)
            turned = [[solution[0][0], 90 * quarter], *solution[1:]]
            turned[2] = [solution[3][0], (solution[3][1] + 90) % 360]
            turned[3] = [solution[2][0], (solution[2][1] - 90) % 360]
            observation = env.step(f"<think>t</think><code>state = {json.dumps(turned)}\nobserve()</code>")[0]
            np.testing.assert_array_equal(observation["image"], picture)
            *_, info = env.step(answer(turned))
            assert info["solved"]
        env.reset(seed=seed)
        wrong = [*solution[:2], [solution[2][0], (solution[2][1] + 90) % 360], solution[3]]
        assert not env.step(answer(wrong))[4]["solved"]


def test_equality_is_that_of_what_is_shown():
    """Pieces that differ at their borders alone are the same when these are cut off."""
    picture = np.full((80, 80, 3), 200, np.uint8)
    picture[:2] = noise(1, 2, 80)
    picture[38:42], picture[:, 38:42] = noise(2, 4, 80), noise(3, 80, 4)
    options = {"images": [picture], "image_size": 80, "reveal": True}
    _, info = JigsawVisionEnv(**options).reset(seed=0)
    assert info["level"] == 0
    with pytest.warns(EqualPiecesWarning, match=r"'image 0' makes no good 2x2 puzzle: it has pieces that look alike"):
        JigsawVisionEnv(erode=0.2, **options).reset(seed=0)
    picture[40:44, 40:44] = 0  # and pieces that differ by a pixel that is lost when the picture is made small
    speck = np.full((640, 640, 3), 200, np.uint8)
    speck[100, 100] = 201
    with pytest.warns(EqualPiecesWarning):
        JigsawVisionEnv(images=[speck], image_size=32).reset(seed=0)


def alike(env):
    """Return whether any two pieces of the episode are the same."""
    return len({piece.tobytes() for piece in env.episode.pieces}) < len(env.episode.pieces)


def test_parts_whose_pieces_differ_are_drawn_where_there_are_any():
    picture = noise(0, 128, 128)
    picture[:72] = SKY
    env = JigsawVisionEnv(images=[picture], crop=(0.5, 0.6), **SMALL)
    old = JigsawVisionEnv(images=[picture], crop=(0.5, 0.6), equal_pieces="names", **SMALL)
    again = 0
    for seed in range(40):
        env.reset(seed=seed)
        old.reset(seed=seed)
        assert not alike(env)
        again += alike(old)
        if not alike(old):  # what a seed has drawn before it draws still
            np.testing.assert_array_equal(env.episode.pieces, old.episode.pieces)
            assert env.episode.puzzle.home == old.episode.puzzle.home
    assert 5 < again < 35


def test_photographs_whose_pieces_differ_are_drawn_where_there_are_any():
    pictures = [landscape(), noise(1), np.full((64, 64, 3), 255, np.uint8), noise(2)]
    env = JigsawVisionEnv(images=pictures, **SMALL)
    old = JigsawVisionEnv(images=pictures, equal_pieces="names", **SMALL)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in range(60):
            env.reset(seed=seed)
            assert not alike(env)
            start = old.reset(seed=seed)
            if not alike(old):
                assert same(env.reset(seed=seed), start)
    assert len(caught) == 2  # once of each that is no good
    assert sorted(str(entry.message).split("'")[1] for entry in caught) == ["image 0", "image 2"]


@pytest.mark.usefixtures("quiet")
def test_levels_count_what_the_board_shows():
    """A third of the places looks alike."""
    picture = noise(5, 96, 96)
    picture[:32] = SKY
    env = JigsawVisionEnv(images=[picture], grid=3, level="all", reveal=True, image_size=96, gap=0)
    for level in range(8):
        for seed in range(6):
            observation, info = env.reset(seed=seed, options={"level": level})
            cells = [
                (slice(32 * (k // 3), 32 * (k // 3) + 32), slice(32 * (k % 3), 32 * (k % 3) + 32)) for k in range(9)
            ]
            right = sum(np.array_equal(observation["image"][cell], picture[cell]) for cell in cells)
            assert right == info["level"] == info["pieces_in_place"] == level


@pytest.mark.usefixtures("quiet")
def test_pictures_without_any_difference_are_solved_from_the_start():
    env = JigsawVisionEnv(images=[np.full((64, 64, 3), 255, np.uint8)], reveal=True, **SMALL)
    _, info = env.reset(seed=0)
    assert (info["level"], info["pieces_in_place"]) == (4, 4)
    assert env.step(answer(["B", "A", "D", "C"]))[4]["solved"]
    env.reset(seed=0)
    assert not env.step(answer(["A", "A", "B", "C"]))[4]["solved"]  # this is no board
    env.reset(seed=0)
    assert not env.step(answer(["A", "B", "C"]))[4]["solved"]


def test_a_given_image_is_warned_of_once():
    env = JigsawVisionEnv(crop="center", **SMALL)
    with pytest.warns(EqualPiecesWarning, match="The image given makes no good 2x2 puzzle"):
        env.reset(seed=0, options={"image": landscape()})
    env.reset(seed=1, options={"image": landscape()})
    permutation = [1, 0, 3, 2]
    env.reset(seed=1, options={"image": landscape(), "permutation": permutation})
    assert list(env.episode.puzzle.home) == permutation
    vector = gymnasium.make_vec("JigsawVision-v0", num_envs=2, crop="center", **SMALL)
    vector.reset(seed=0, options={"image": landscape()})


@pytest.mark.usefixtures("quiet")
def test_the_words_of_a_turn_do_not_change_the_judgement():
    """Swapping pieces that look alike leaves the count of pieces in place as it is."""
    env = JigsawVisionEnv(images=[landscape()], level=1, reveal=True, max_turns=50, **SMALL)
    _, info = env.reset(seed=3)
    places = range(4)
    for first in places:
        for second in range(first):
            before, order = info["pieces_in_place"], env.episode.workspace.order
            twins = np.array_equal(env.episode.pieces[order[first]], env.episode.pieces[order[second]])
            text = env.dialect.write([Swap(second, first), Observe()], env.episode.workspace)
            info = env.step(text)[4]
            if twins:
                assert info["pieces_in_place"] == before
            env.step(text)
            info = env.step(env.dialect.write([Observe()], env.episode.workspace))[4]
            assert info["pieces_in_place"] == before
