"""The text of the task in the environments: what each prompt says, and that its worked example can be played."""

import json
import pickle
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import agile_gym
from agile_gym.actions.dialects import DIALECTS, CodeDialect, ToolDialect
from agile_gym.envs.jigsaw import JigsawVisionEnv, JigsawVisionVectorEnv
from agile_gym.envs.jigsaw.env import MAX_OBSERVATION_TEXT
from agile_gym.errors import ConfigurationError
from tests.helpers.comparing import same

PHOTO = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
GRIDS = [(rows, cols) for rows in range(1, 11) for cols in range(1, 11) if rows * cols > 1]
SMALL = {"images": [PHOTO], "image_size": 64}
TURN = re.compile(r"<think>(?!\.\.\.).*?</think>\n<.*?(?=\n\(|\nHere is)", re.DOTALL)
FULL = Path(agile_gym.__file__).parent / "actions" / "prompt_full.txt"


def first_text(**options):
    return JigsawVisionEnv(**{**SMALL, **options}).reset(seed=0)[0]["text"]


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("rotations", [False, True])
@pytest.mark.parametrize("reference", [False, True])
def test_the_worked_example_can_be_played_in_every_grid(dialect, rotations, reference):
    for rows, cols in GRIDS:
        env = JigsawVisionEnv(
            grid=(rows, cols),
            dialect=dialect,
            rotations=rotations,
            reference_image=reference,
            level=None,
            images=[PHOTO],
            image_size=(4 * rows, 4 * cols),
        )
        observation, _ = env.reset(seed=rows * cols)
        assert observation in env.observation_space
        turns = TURN.findall(observation["text"])
        assert len(turns) == 3
        kinds = []
        for turn in turns:
            assert env.episode.rules.dialect.parse(turn, env.episode.workspace).well_formed
            state = env.episode.workspace.state_list()
            _, _, terminated, _, info = env.step(turn)
            assert info["error"] is None, (rows, cols, turn)
            kinds.append([type(primitive).__name__ for primitive in info["primitives"]])
        assert terminated
        assert kinds == [["Swap", *(["RotatePiece"] if rotations else []), "Observe"], ["Crop"], ["Answer"]]
        # The answer of the example is the board as its turns have left it.
        assert json.loads(re.search(r"<answer>(.*)</answer>", turns[-1])[1]) == state
        names = [entry[0] if rotations else entry for entry in state]
        assert names != sorted(names, key=lambda name: (len(name), name))


@pytest.mark.parametrize(("turns", "shown"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_the_example_has_no_more_turns_than_the_episode(turns, shown):
    env = JigsawVisionEnv(max_turns=turns, **SMALL)
    observation, _ = env.reset(seed=0)
    example = TURN.findall(observation["text"])
    assert len(example) == shown
    results = [env.step(turn) for turn in example]
    assert results[-1][2]
    assert all(info["error"] is None for *_, info in results)


@pytest.mark.parametrize("prompt", ["full", "short"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_text_does_not_depend_on_the_puzzle(prompt, dialect):
    env = JigsawVisionEnv(prompt=prompt, dialect=dialect, level=None, rotations=True, image_size=64)
    texts = {env.reset(seed=seed)[0]["text"] for seed in range(20)}
    texts |= {env.reset(options={"permutation": [3, 1, 2, 0], "turns": [0, 90, 180, 270]})[0]["text"]}
    assert len(texts) == 1


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("rotations", [False, True])
def test_the_full_prompt_tells_the_rules_and_the_limits(dialect, rotations):
    text = first_text(grid="2x3", dialect=dialect, rotations=rotations, max_turns=7, image_size=66)
    for part in (
        "2 x 3",
        "A to F",
        "7 turns",
        "<think>...</think>",
        "<answer>...</answer>",
        "one image operation a",
    ):
        assert part in text
    assert f"<{DIALECTS[dialect].action_tag}>...</{DIALECTS[dialect].action_tag}>" in text
    names = [[name, 0] for name in "ABCDEF"] if rotations else list("ABCDEF")
    assert f"state = {json.dumps(names)}" in text
    assert ("clockwise, angle" in text or "[piece, angle]" in text) == rotations
    for function in ("swap(", "crop(", "zoom(", "rotate("):
        assert function in text
    assert ("turn(" in text) == rotations
    other = "code" if dialect == "tools" else "tool_call"
    assert f"<{other}>" not in text
    assert "1 turn," in first_text(max_turns=1)


def words(text):
    """Tokens of a compact tokenizer: words, numbers, marks and ends of lines, the images left out."""
    return re.findall(r"\w+|[^\w\s]|\n", text.replace("<image>", ""))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_short_prompt_is_short(dialect):
    text = first_text(prompt="short", dialect=dialect)
    assert text == "2 x 2, 5 turns\nA: <image>\nB: <image>\nC: <image>\nD: <image>"
    assert len(words(text)) <= 20
    text = first_text(prompt="short", rotations=True, initial_view="both", reference_image=True, max_turns=1)
    assert text.splitlines() == [
        "2 x 2, 1 turn",
        "turned",
        *(f"{name}: <image>" for name in "ABCD"),
        "board: <image>",
        "reference: <image>",
    ]


@pytest.mark.parametrize("rotations", [False, True])
def test_the_feedback_of_the_short_prompt_is_short(rotations):
    env = JigsawVisionEnv(prompt="short", rotations=rotations, max_turns=9, **SMALL)
    env.reset(seed=0)
    turns = [
        ("<think>a</think><code>swap(0, 1)\nobservation(state)</code>", "observation_image_1: <image>"),
        ("<think>a</think><code>o = observe()\nswap(0, 1)</code>", "o: <image> other order"),
        ("<think>a</think><code>c = crop(o, [0, 0, 1, 0.5])</code>", "c: <image>"),
        ("<think>a</think><code>swap(0, 3)</code>", "no image"),
        ("nonsense <image>", "error no_action"),
        ("<think>a</think><code>crop(nothing, 3)</code>", "error unknown_name"),
        ("<code>observe()</code>", "observation_image_2: <image>"),
    ]
    orders = ["BACD", "ABCD", "ABCD", "DBCA", "DBCA", "DBCA", "DBCA"]
    for left, ((turn, first), order) in enumerate(zip(turns, orders, strict=True)):
        text = env.step(turn)[0]["text"]
        state = " ".join(f"{name} 0" if rotations else name for name in order)
        expected = [first, f"state {state}", f"{8 - left} turns left"]
        if not turn.startswith("<think>") and "error" not in first:
            expected.append("think first")
        assert text.splitlines() == expected
        assert len(words(text)) <= (20 if rotations else 16)
    if rotations:
        text = env.step("<think>a</think><code>turn('A', 90)\nobserve()</code>")[0]["text"]
        assert "state D 0 B 0 C 0 A 90\n1 turn left" in text


def test_a_template_of_ones_own_in_single_and_vector_environments(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("{{{pieces}}} {rows}/{cols} {names}|{answer}|{turns}|{rotations}|{action}\n{images}\nGo.")
    options = {"prompt": str(path), "grid": (1, 3), "max_turns": 4, **SMALL}
    env = gymnasium.make("JigsawVision-v0", **options)
    many = gymnasium.make_vec("JigsawVision-v0", num_envs=2, **options)
    observation, _ = env.reset(seed=3)
    assert observation["text"].splitlines() == [
        '{3} 1/3 A to C|["C", "B", "A"]|4 turns||<code>...</code>',
        "Image A: <image>",
        "Image B: <image>",
        "Image C: <image>",
        "Go.",
    ]
    assert many.reset(seed=3)[0]["text"] == (observation["text"],) * 2
    path.unlink()  # it is read once, when the environment is made
    copied = pickle.loads(pickle.dumps(env.unwrapped))
    assert same(copied.reset(seed=3)[0], observation)
    feedback = env.step("<think>a</think><code>observe()</code>")[0]["text"]
    assert feedback.endswith("3 turns left.")  # the words of the full prompt


@pytest.mark.parametrize("prompt", ["full", "short", FULL])
def test_a_vector_of_environments_says_the_same_as_single_ones(prompt):
    options = {"prompt": prompt, "grid": 3, "level": "0-2", "image_size": 66}
    many, single = JigsawVisionVectorEnv(3, **options), [JigsawVisionEnv(**options) for _ in range(3)]
    texts = [many.reset(seed=5)[0]["text"]]
    alone = [tuple(env.reset(seed=5 + i)[0]["text"] for i, env in enumerate(single))]
    for turn in ("<think>a</think><code>swap(0, 1)\nobserve()</code>", "no action", "<code>swap(1, 2)</code>"):
        texts.append(many.step([turn] * 3)[0]["text"])
        alone.append(tuple(env.step(turn)[0]["text"] for env in single))
    assert texts == alone


def test_our_full_prompt_given_as_a_file_is_the_full_prompt():
    for options in ({}, {"grid": (10, 10), "rotations": True}, {"dialect": "tools"}):
        assert first_text(prompt=FULL, **options) == first_text(**options)


@pytest.mark.parametrize("make", [JigsawVisionEnv, JigsawVisionVectorEnv])
def test_what_cannot_be_shown_is_refused_when_the_environment_is_made(make, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("x" * MAX_OBSERVATION_TEXT + "{images}")
    with pytest.raises(ConfigurationError, match=f"at most {MAX_OBSERVATION_TEXT} fit"):
        make(prompt=path, **SMALL)
    path.write_text("{state}" * 9 + "{images}")
    make(prompt=path, **SMALL)
    with pytest.raises(ConfigurationError, match="10x10 grid"):
        make(prompt=path, grid=10, rotations=True, **SMALL)
    path.write_text("{img}")
    with pytest.raises(ConfigurationError, match="Did you mean 'images'"):
        make(prompt=path, **SMALL)
    with pytest.raises(ConfigurationError, match="neither 'full' nor 'short'"):
        make(prompt="long", **SMALL)


class Act(CodeDialect):
    name = "act"
    action_tag = "act"

    def instructions(self, workspace):
        return "Look at <image>."


class Mute(ToolDialect):
    name = "mute"

    def write(self, primitives, workspace, think=""):
        raise NotImplementedError


def test_dialects_of_ones_own_have_an_example_too():
    text = first_text(dialect=Mute())
    assert len(TURN.findall(text)) == 1  # the answer, which is the same in every dialect
    with pytest.raises(ConfigurationError, match="nor the instructions of a dialect"):
        JigsawVisionEnv(dialect=Act(), **SMALL)
    env = JigsawVisionEnv(dialect=Act(), prompt="short", **SMALL)  # whose text has no instructions
    env.reset(seed=0)
    env.action_space.seed(0)
    texts = [env.action_space.sample() for _ in range(20)]
    assert any("<act>" in text for text in texts)
    assert not any("<code>" in text for text in texts)


def test_every_first_text_fits_into_the_observation():
    for dialect in DIALECTS:
        for rotations in (False, True):
            env = JigsawVisionEnv(
                grid=10,
                dialect=dialect,
                rotations=rotations,
                initial_view="both",
                reference_image=True,
                max_turns=1000,
                **SMALL,
            )
            assert env.reset(seed=0)[0] in env.observation_space
