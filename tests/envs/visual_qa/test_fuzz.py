"""Any turn of a question is answered: nothing that a model writes raises, and an error changes nothing."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agile_gym.actions.primitives import ERROR_KINDS, Answer
from agile_gym.envs.visual_qa import VisualQAEnv
from tests.helpers.hostile import TEXTS

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
ROWS = [
    {"question": "Which?", "choices": ["red", "blue", "A"], "answer": "B", "image": PICTURE},
    {"question": "How many?", "answer": 12, "tolerance": 0.5, "image": [PICTURE, PICTURE]},
    {"question": "Is it?", "answer": "no", "image": PICTURE},
    {"question": "What?", "answer": "A cat", "image": PICTURE},
]
PLAYED = settings(
    derandomize=True, database=None, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck)
)
ENVS = {
    dialect: VisualQAEnv(questions=ROWS, canvas_size=64, max_turns=1000, dialect=dialect)
    for dialect in ("code", "tools")
}
IMAGES = st.sampled_from(["image_1", "image_2", "image_9", "crop_image_1", "x", "A", "", "state", "image_list"])
NUMBERS = st.one_of(st.floats(), st.integers(-9, 99), st.floats(-0.2, 1.2))
WORDS = st.sampled_from(["B", "blue", "12", "12.4", "no", "cat", "A", "1/0", "9" * 99, "1e99", "\ud800", "<image>", ""])
CALLS = st.builds(
    lambda tool, image, numbers: {
        "name": tool,
        "arguments": {"image": image, **({"box": numbers} if tool == "crop" else {"factor": numbers[0]})},
    },
    st.sampled_from(["crop", "zoom", "rotate", "swap", "observe", "turn", "arrange", "x"]),
    IMAGES,
    st.lists(NUMBERS, min_size=1, max_size=5),
)
LINES = st.builds(
    lambda name, tool, image, numbers: f"{name} = {tool}({image}, {numbers if tool == 'crop' else numbers[0]})",
    IMAGES,
    st.sampled_from(["crop", "zoom", "rotate", "swap", "observation", "list"]),
    IMAGES,
    st.lists(NUMBERS, min_size=1, max_size=5),
)
BODIES = st.one_of(
    st.text(max_size=60),
    st.lists(LINES, min_size=1, max_size=4).map("\n".join),
    CALLS.map(json.dumps),
)
TURNS = st.one_of(
    st.text(max_size=80),
    st.builds("<think>a</think><answer>{}</answer>".format, st.one_of(WORDS, st.text(max_size=30))),
    st.builds("<think>a</think><{0}>{1}</{0}>".format, st.sampled_from(["code", "tool_call", "answer"]), BODIES),
    st.sampled_from(TEXTS),
)


def play(env, text, number):
    """Play a turn and check all that must hold after any."""
    if env.episode.done or env.episode.workspace.made > 40 or env.episode.turn > 500:
        env.reset(seed=number, options={"question": number % len(ROWS)})
    workspace, key = env.episode.workspace, env.episode.asked.key
    before = workspace.made, dict(workspace.images), workspace.variables
    observation, reward, terminated, truncated, info = env.step(text)
    assert np.isfinite(reward)
    assert not truncated
    assert observation["text"].count("<image>") == len(info["images"])
    assert info["error"] is None or info["error"] in ERROR_KINDS
    if info["error"]:
        assert not terminated
        assert (workspace.made, workspace.images) == before[:2]
        assert workspace.variables is before[2]
    if terminated:
        (answer,) = info["primitives"]
        assert isinstance(answer, Answer)
        assert info["solved"] == key.judge(answer.text)
    for image in info["images"]:
        assert max(image.shape[:2]) <= 64


@PLAYED
@given(turns=st.lists(TURNS, min_size=1, max_size=8), dialect=st.sampled_from(list(ENVS)), number=st.integers(0, 99))
def test_any_turns(turns, dialect, number):
    for text in turns:
        play(ENVS[dialect], text, number)


@pytest.mark.parametrize("dialect", ENVS)
def test_hostile_turns(dialect):
    for number, text in enumerate(TEXTS):
        play(ENVS[dialect], text, number)
