"""Episodes of questions about pictures: looks, answers, rewards, options, seeds and vectors."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest

import agile_gym.testing
from agile_gym.envs.visual_qa import VisualQAEnv
from agile_gym.errors import ConfigurationError, ImageError
from agile_gym.questions.visual import UnreadableQuestionWarning

RNG = np.random.default_rng(1)
LARGE = RNG.integers(0, 256, (300, 200, 3), np.uint8)
SMALL = RNG.integers(0, 256, (20, 30, 3), np.uint8)
ROWS = [
    {"id": "c", "question": "Which?", "choices": ["red", "blue"], "answer": "blue", "image": LARGE, "category": "one",
     "box": [0.1, 0.2, 0.3, 0.4]},
    {"id": "n", "question": "How many?", "answer": 12, "tolerance": 1, "image": [SMALL, LARGE], "category": "two"},
    {"id": "y", "question": "Is it?", "answer": "yes", "image": SMALL},
    {"id": "t", "question": "What?", "answer": ["a cat", "dog"], "image": SMALL},
]  # fmt: skip


def make(**options):
    return VisualQAEnv(**{"questions": ROWS, "canvas_size": 100, **options})


def begun(number, **options):
    env = make(**options)
    return env, *env.reset(seed=0, options={"question": number})


def say(body, tag="code"):
    return f"<think>a</think>\n<{tag}>{body}</{tag}>"


def test_the_first_observation_shows_pictures_and_options():
    env, observation, info = begun(0)
    assert observation["text"].endswith("Here is the question:\nimage_1: <image>\nWhich?\nA. red\nB. blue")
    assert observation["image_size"].tolist() == [100, 66]
    assert [image.shape for image in info["images"]] == [(100, 66, 3)]
    np.testing.assert_array_equal(observation["image"][:100, :66], info["images"][0])
    assert not observation["image"][:, 66:].any()
    assert info["task"] == {
        "question": "c", "label": "one", "rule": "choice", "choices": ["A", "B"], "pictures": ["image_1"],
        "dialect": "code", "max_turns": 5,
    }  # fmt: skip
    assert not any(word in repr(info["task"]) for word in ("blue", "solution", "box"))
    about = env.describe_episode()
    assert (about.label, about.solution, about.task["box"]) == ("one", ["B"], [0.1, 0.2, 0.3, 0.4])
    _, observation, info = begun(1, prompt="short")
    assert observation["text"] == "5 turns left\nimage_1: <image>\nimage_2: <image>\nHow many?"
    assert [image.shape for image in info["images"]] == [(20, 30, 3), (100, 66, 3)]


def test_crops_are_cut_from_the_full_picture():
    env, _, _ = begun(0)
    observation, reward, terminated, truncated, info = env.step(say("crop(image_1, [0, 0.1, 0.4, 0.4])"))
    assert (reward, terminated, truncated, info["error"]) == (0.0, False, False, None)
    np.testing.assert_array_equal(info["images"][0], LARGE[30:120, 0:80])
    np.testing.assert_array_equal(observation["image"][:90, :80], LARGE[30:120, 0:80])
    assert observation["image_size"].tolist() == [90, 80]
    assert observation["text"] == "crop_image_1: <image>\n4 turns left."
    observation, *_, info = env.step(say("crop(image_1, [0, 0, 1, 0.9])"))
    assert info["images"][0].shape == (100, 73, 3)  # 270 x 199, scaled down to the canvas
    observation, *_, info = env.step(say("zoom(image_1, 1.0)"))
    assert info["error"] == "image_too_large"
    assert "zoom up to a factor of 0.33" in observation["text"]
    assert not observation["image"].any()


@pytest.mark.parametrize(
    ("turns", "total", "parts"),
    [
        ([say("B", "answer")], 1.0, (1, 1, 0)),
        ([say("blue", "answer")], 1.0, (1, 1, 0)),
        ([say("crop(image_1, [0, 0, 0.5, 0.5])"), say("B", "answer")], 0.95, (1, 1, -0.05)),
        (["<answer>B</answer>"], 0.8, (1, 0, 0)),
        ([say("A", "answer")], -0.05, (0, 1, -0.25)),
        ([say("C", "answer")] * 5, -0.25, (0, 0, -0.25)),
        ([""] * 5, -0.25, (0, 0, -0.25)),
        ([say("C", "answer"), say("B", "answer")], 1.0, (1, 1, 0)),
        ([say("swap('A', 'B')"), say("B", "answer")], 0.95, (1, 1, -0.05)),
    ],
)
def test_rewards_are_the_papers(turns, total, parts):
    env, _, _ = begun(0)
    for text in turns[:-1]:
        _, reward, terminated, truncated, info = env.step(text)
        assert (reward, terminated, truncated, info["solved"]) == (0.0, False, False, False)
    _, reward, terminated, truncated, info = env.step(turns[-1])
    assert reward == pytest.approx(total)
    assert tuple(info["reward"][name] for name in ("accuracy", "format", "step")) == pytest.approx(parts)
    assert (info["solved"], info["score"]) == (parts[0] == 1, parts[0])
    assert (terminated, truncated) == (len(turns) < 5, len(turns) == 5)
    assert env.describe_state() == (
        [turns[-1].partition("answer>")[2].partition("<")[0]] if terminated else ["image_1"]
    )


def test_other_rewards():
    env, _, _ = begun(3, reward="official_code")
    _, reward, terminated, _, info = env.step(say("Cat", "answer"))
    assert (reward, terminated, info["reward"]["format"]) == (1.0, True, 1.0)
    env, _, _ = begun(1, reward="official_code")
    *_, info = env.step(say("no number", "answer"))  # "end": a form that cannot be read ends the episode
    assert (info["error"], info["reward"]["total"]) == ("bad_answer", pytest.approx(0.2 - 0.25))
    env, _, _ = begun(0, reward={"step_weight": 0, "format_weight": 0})
    assert env.give_up()["total"] == 0
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.give_up()


@pytest.mark.parametrize(
    ("number", "right", "wrong", "unread"),
    [
        (0, ["B", "(b)", "blue"], ["A", "red"], ["C", "A or B", "green", ""]),
        (1, ["11", "13.0", "twelve", "about 12"], ["10.9", "14"], ["12 or 13", "many"]),
        (2, ["Yes", "yes, it is"], ["no"], ["maybe", "yes it is"]),
        (3, ["cat", "A Cat.", "dog"], ["dogs", "cat dog"], ["", "x" * 1001]),
    ],
)
def test_answers_by_rule(number, right, wrong, unread):
    env = make()
    for texts, solved in ((right, True), (wrong, False)):
        for text in texts:
            env.reset(seed=0, options={"question": number})
            observation, _, terminated, _, info = env.step(say(text, "answer"))
            assert (info["solved"], terminated, info["error"], len(info["primitives"])) == (solved, True, None, 1)
            assert observation["text"] == "The answer was received."
    for text in unread:
        env.reset(seed=0, options={"question": number})
        observation, _, terminated, _, info = env.step(say(text, "answer"))
        assert (terminated, info["error"], info["primitives"]) == (False, "bad_answer", ())
        assert observation["text"].startswith("Error (bad_answer): The answer must be")


def test_what_is_revealed():
    _, _, info = begun(0)
    assert not {"solution", "box", "facts"} & info.keys()
    _, _, info = begun(0, reveal=True)
    assert (info["solution"], info["box"], info["facts"]) == (["B"], [0.1, 0.2, 0.3, 0.4], {})
    generated = VisualQAEnv(reveal=True, canvas_size=64, kinds="count", difficulty=2)
    _, info = generated.reset(seed=0)
    assert info["facts"]["difficulty"] == 2
    assert info["solution"] == [str(info["facts"]["shapes"])]
    assert "shapes" not in info["task"]


def frames(env, seed):
    observation, info = env.reset(seed=seed)
    seen = [observation["text"], observation["image"].tobytes(), *(image.tobytes() for image in info["images"])]
    observation, *_ = env.step(say("crop(image_1, [0, 0, 0.5, 0.5])"))
    return [*seen, observation["image"].tobytes()]


@pytest.mark.parametrize("options", [{}, {"questions": "generated", "difficulty": "all"}])
def test_a_seed_gives_one_episode_everywhere(options):
    env = make(**options)
    expected = [frames(env, seed) for seed in range(6)]
    assert len({seen[0] + str(seen[1:]) for seen in expected}) >= 3
    other = pickle.loads(pickle.dumps(env))
    assert [frames(other, seed) for seed in range(6)] == expected
    assert [frames(copy.deepcopy(other), seed) for seed in (5, 3)] == [expected[5], expected[3]]
    again = make(**options)
    again.reset(seed=77)
    assert [frames(again, seed) for seed in range(6)] == expected


@pytest.mark.parametrize("mode", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_vectors_play_the_same_episodes(mode):
    options = {"questions": ROWS, "canvas_size": 100}
    env = make()
    alone = [env.reset(seed=seed)[0]["text"] for seed in (4, 5, 6)]
    vector = gymnasium.make_vec("agile_gym:VisualQA-v0", num_envs=3, vectorization_mode=mode, **options)
    observations, _ = vector.reset(seed=4)
    assert list(observations["text"]) == alone
    observations, rewards, *_ = vector.step([say("B", "answer"), "", say("zoom(image_1, 0.5)")])
    assert observations in vector.observation_space
    assert rewards.shape == (3,)
    vector.close()


@pytest.mark.parametrize(
    "options",
    [{}, {"dialect": "tools", "prompt": "short"}, {"reward": "official_code", "max_turns": 1},
     {"questions": "generated", "picture_size": 200, "max_turns": 2}],
)  # fmt: skip
def test_the_contract_is_kept(options):
    agile_gym.testing.check_env(make(**options))
    agile_gym.testing.check_env(make(**options), texts=[say("x" * 1001, "answer"), say("B", "answer")], seed=3)


def test_a_time_limit_is_counted():
    env = gymnasium.make("VisualQA-v0", questions=ROWS, max_episode_steps=2)
    observation, info = env.reset(seed=0)
    assert info["task"]["max_turns"] == 2
    assert "You have 2 turns" in observation["text"]
    env.step("")
    *_, truncated, info = env.step("")
    assert truncated
    assert info["reward"]["total"] == pytest.approx(-0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"question": 1}, "VisualQA has no option 'question'. Did you mean 'questions'"),
        ({"questions": "no.jsonl"}, "does not exist"),
        ({"questions": []}, "has no rows"),
        ({"questions": 3}, "of type int cannot be opened"),
        ({"columns": 3}, "columns=3"),
        ({"answer_rule": "fuzzy"}, "answer_rule='fuzzy'"),
        ({"tolerance": -1}, "tolerance=-1"),
        ({"relative_tolerance": "x"}, "relative_tolerance='x'"),
        ({"box_format": "cxcywh"}, "box_format='cxcywh'"),
        ({"kinds": "half"}, "kinds is an option of generated questions only"),
        ({"images": "builtin"}, "images is an option of generated questions only"),
        ({"questions": "generated", "columns": {"a": "b"}}, "columns is an option of a table of questions only"),
        ({"questions": "generated", "kinds": "halves"}, "There is no kind of question 'halves'"),
        ({"questions": "generated", "difficulty": 6}, "difficulty=6"),
        ({"questions": "generated", "canvas_size": 32}, "canvas_size=32"),
        ({"questions": "generated", "picture_size": 32}, "picture_size=32"),
        ({"questions": "generated", "picture_size": "x"}, "picture_size='x'"),
        ({"canvas_size": 0}, "canvas_size=0"),
        ({"max_turns": 0}, "max_turns=0"),
        ({"prompt": "long"}, "prompt='long'"),
        ({"dialect": "lisp"}, "There is no dialect 'lisp'"),
        ({"reward": "more"}, "There is no reward preset 'more'"),
        ({"reveal": 1}, "reveal=1"),
        ({"split": "val"}, "split='val'"),
        ({"test_fraction": 2}, "test_fraction=2"),
        ({"max_pixels": 0}, "max_pixels"),
        ({"render_mode": "vr"}, "render_mode='vr'"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ConfigurationError, match=message):
        make(**options)


def test_options_of_a_reset_are_checked():
    env = make()
    env.reset(seed=0, options={"question": 1})
    for options, message in (
        ({"question": 4}, "question=4 does not exist; give a number from 0 to 3"),
        ({"question": True}, "question=True"),
        ({"kind": "half"}, "reset has no option 'kind'"),
        ("x", "is not a dictionary"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            env.reset(options=options)
    assert env.episode.asked.id == "n"
    with pytest.raises(ConfigurationError, match="is not a seed"):
        env.reset(seed=-1)
    with pytest.raises(ConfigurationError, match="give the text of a turn"):
        env.step(3)
    generated = VisualQAEnv(canvas_size=64)
    _, info = generated.reset(seed=0, options={"kind": "word", "difficulty": 5})
    assert info["task"]["question"] == "word-5"
    with pytest.raises(ConfigurationError, match="There is no kind of question 'words'"):
        generated.reset(options={"kind": "words"})


def test_a_picture_that_is_damaged_further_inside_is_passed_over(tmp_path):
    import cv2

    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", LARGE)[1].tobytes()[:9000])
    rows = [ROWS[2] | {"id": f"{number}"} for number in range(2)]
    env = make(questions=[*rows, ROWS[2] | {"id": "cut", "image": str(path)}])
    with pytest.warns(UnreadableQuestionWarning, match="The question 'cut' was left out"):
        asked = {env.reset(seed=seed)[1]["task"]["question"] for seed in range(8)}
    assert asked == {"0", "1"}
    alone = make(questions=[ROWS[2] | {"image": str(path)}])
    with pytest.warns(UnreadableQuestionWarning), pytest.raises(ImageError, match="None of 16 questions"):
        alone.reset(seed=0)


def test_frames_are_rendered():
    env = make(render_mode="rgb_array")
    env.reset(seed=0, options={"question": 0})
    np.testing.assert_array_equal(env.render(), env._last["image"])
    assert make(render_mode="ansi").metadata["render_modes"] == ["rgb_array", "ansi", "human"]
    ansi = make(render_mode="ansi")
    ansi.reset(seed=0, options={"question": 0})
    assert ansi.render().endswith("B. blue\n")
