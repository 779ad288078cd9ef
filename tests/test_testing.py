"""The public checks: each violation of a contract is found, and all that is ours passes."""

import importlib

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from agile_gym.actions.dialects import DIALECTS, CodeDialect, ParsedTurn
from agile_gym.actions.primitives import Answer, Crop
from agile_gym.coldstart.expert import ExpertPolicy
from agile_gym.envs.contract import EpisodeDescription, make_info
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.envs.spaces import UnicodeText
from agile_gym.errors import ConfigurationError
from agile_gym.policies import EdgePolicy, FunctionPolicy, GivenUp, OraclePolicy, RandomPolicy
from agile_gym.testing import check_dialect, check_env, check_policy
from tests.helpers import ROOT

EXAMPLES = ROOT / "examples"
SMALL = {"image_size": 48, "max_turns": 3}


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("custom_env")


class Right(gymnasium.Env):
    """Keeps the contract; the broken ones below change one thing each."""

    limit = 3

    def __init__(self):
        image = Box(0, 255, (8, 8, 3), np.uint8)
        self.observation_space = Dict(
            {"image": image, "image_size": Box(0, 8, (2,), np.int64), "text": UnicodeText(99)}
        )
        self.action_space = UnicodeText(99)

    def observation(self, text):
        return {"image": self.picture, "image_size": np.array([8, 8]), "text": text}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.picture, self.turn = self.np_random.integers(0, 256, (8, 8, 3), np.uint8), 0
        return self.observation("Look: <image>"), self.info((self.picture,))

    def info(self, images=(), **more):
        return make_info(images, turn=self.turn, **more)

    def step(self, action):
        self.turn += 1
        solved = action == "yes"
        over = self.turn >= self.limit
        return self.observation("No."), float(solved), solved, over and not solved, self.info(solved=solved)


def test_what_is_ours_keeps_its_contract(example):
    check_env(Right())
    check_env(example.QuarterEnv())
    check_env(gymnasium.wrappers.TimeLimit(example.QuarterEnv(max_turns=9), 4))
    for dialect in DIALECTS.values():
        check_dialect(dialect)
    for policy in (RandomPolicy(), EdgePolicy(), OraclePolicy(), ExpertPolicy(), ExpertPolicy(style="short")):
        check_policy(policy)
    check_policy(example.Teacher(), example.QuarterEnv)
    check_policy(example.guess, example.QuarterEnv)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"grid": 3, "rotations": True, "level": None},
        {"dialect": "tools", "reward": "official_code"},
        {"initial_view": "both", "reference_image": True, "prompt": "short"},
        {"image_size": None, "max_pixels": 5000, "reveal": True},
    ],
)
def test_the_jigsaw_keeps_the_contract(options):
    check_env(JigsawVisionEnv(**SMALL | options))


def broken(**methods):
    return type("Broken", (Right,), methods)()


def resetting(change):
    """Return an environment whose first observation and info are changed."""

    def reset(self, *, seed=None, options=None):
        return change(self, *Right.reset(self, seed=seed, options=options))

    return broken(reset=reset)


def stepping(change):
    """Return an environment whose steps are changed."""

    def step(self, action):
        return change(self, action, list(Right.step(self, action)))

    return broken(step=step)


def put(place, value):
    def change(self, action, returned):
        returned[place] = value
        return tuple(returned)

    return change


def put_info(**values):
    def change(self, action, returned):
        returned[4] |= values
        return tuple(returned)

    return change


def numbered():
    env = Right()
    env.action_space = Discrete(2)
    return env


def raising(self, action, returned):
    if action == "<answer>":
        raise ValueError("cannot read this")
    return tuple(returned)


def overwriting(self, action, returned):
    self.picture[:] = self.turn
    return tuple(returned)


def without(key):
    def change(self, observation, info):
        (observation if key in observation else info).pop(key)
        return observation, info

    return change


BROKEN_ENVS = {
    "no reset of two": (resetting(lambda self, observation, info: observation), "must return an observation and info"),
    "no text": (resetting(without("text")), "must have 'text', and has 'image', 'image_size'"),
    "no image": (resetting(without("image")), "must have 'image', and has"),
    "no size": (resetting(without("image_size")), "must have 'image_size', and has"),
    "no images": (resetting(without("images")), "info of reset.* must have 'images', and has 'task', 'turn'"),
    "no dictionary": (resetting(lambda self, o, i: (o["image"], i)), "must be a dictionary, and is of type ndarray"),
    "bytes": (resetting(lambda self, o, i: (o | {"text": b"x"}, i)), "'text' .* must be a text, and is of type bytes"),
    "one mark too many": (
        resetting(lambda self, o, i: (o | {"text": "<image> <image>"}, i)),
        "a mark <image> for each image .* has 2 for 1",
    ),
    "float pixels": (
        resetting(lambda self, o, i: (o, i | {"images": (np.zeros((8, 8, 3)),)})),
        r"an array \(h, w, 3\) of uint8, and is float64 of shape \(8, 8, 3\)",
    ),
    "grey": (
        resetting(lambda self, o, i: (o | {"image": np.zeros((8, 8), np.uint8)}, i)),
        r"'image' .* and is uint8 of shape \(8, 8\)",
    ),
    "a generator of images": (resetting(lambda self, o, i: (o, i | {"images": iter(())})), "a tuple of arrays"),
    "a size that is too large": (
        resetting(lambda self, o, i: (o | {"image_size": np.array([9, 8])}, i)),
        r"within the image's \(8, 8\), and is \[9, 8\]",
    ),
    "outside of its space": (
        resetting(lambda self, o, i: (o | {"text": "<image>" + "x" * 99}, i)),
        "must lie in observation_space",
    ),
    "no seed": (
        resetting(lambda self, o, i: (o | {"text": f"{np.random.default_rng().random()} <image>"}, i)),
        "same seed .* gave another text",
    ),
    "an error at the start": (resetting(lambda self, o, i: (o, i | {"error": "bad"})), "must be None, and is 'bad'"),
    "a wrong turn": (resetting(lambda self, o, i: (o, i | {"turn": 1})), "the turns taken, 0, and is 1"),
    "a task that is not JSON": (
        resetting(lambda self, o, i: (o, i | {"task": {"when": {1, 2}}})),
        "the task must be of JSON's types, and Object of type set",
    ),
    "a reset that raises": (broken(reset=lambda self, **_: 1 / 0), "raised ZeroDivisionError"),
    "no options": (broken(reset=lambda self, seed=None: Right.reset(self, seed=seed)), "raised TypeError"),
    "a step that raises": (stepping(raising), r"never make step raise; step\('<answer>'\) raised ValueError: cannot"),
    "four values": (stepping(lambda self, action, returned: tuple(returned[:4])), "must return observation, reward"),
    "no reward": (stepping(put(1, None)), "must be a finite number, and is None"),
    "an infinite reward": (stepping(put(1, float("nan"))), "must be a finite number, and is nan"),
    "terminated by a word": (stepping(put(2, "yes")), "terminated of .* must be True or False, and is 'yes'"),
    "truncated by a number": (stepping(put(3, 1)), "truncated of .* must be True or False, and is 1"),
    "turns that stand still": (stepping(put_info(turn=0)), "the turns taken, 1, and is 0"),
    "an error of another type": (stepping(put_info(error=ValueError())), "must be a text or None"),
    "primitives that are a text": (stepping(put_info(primitives="Answer")), "must be a tuple, and is 'Answer'"),
    "half solved": (stepping(put_info(solved=0.5)), r"'solved'\] .* must be True or False, and is 0.5"),
    "a score in percent": (stepping(put_info(score=50)), "a number from 0 to 1, and is 50"),
    "a reward that is a number": (stepping(put_info(reward=1.0)), "must hold numbers for some of .* and is 1.0"),
    "an unknown part": (stepping(put_info(reward={"speed": 1.0})), "must hold numbers for some of"),
    "another total": (stepping(put_info(reward={"total": 0.25})), "must be the sum of all rewards, 0, and is 0.25"),
    "an image that changes": (stepping(overwriting), "must not change later, and step.* changed one"),
    "no end": (broken(limit=10**9), "an episode must end, and 1,000 empty turns did not end it"),
    "numbers as actions": (
        numbered(),
        "must sample texts, and sampled a int64",
    ),
    "a description that is none": (
        broken(describe_episode=lambda self: {}, describe_state=lambda self: []),
        "must return an EpisodeDescription, and returned {}",
    ),
    "a solution that is not JSON": (
        broken(describe_episode=lambda self: EpisodeDescription(solution=[1j]), describe_state=lambda self: []),
        "the solution must be of JSON's types",
    ),
    "a label that is a number": (
        broken(describe_episode=lambda self: EpisodeDescription(label=3), describe_state=lambda self: []),
        "the label must be a text, and is 3",
    ),
    "a state that is not JSON": (
        broken(describe_episode=lambda self: EpisodeDescription(), describe_state=lambda self: [np.zeros(1)]),
        r"describe_state\(\) must be of JSON's types",
    ),
    "no number of turns": (
        broken(max_turns=0, usual_turn=lambda self: "", mistakes=lambda self: []),
        "max_turns must be a whole number from 1 to 1,000, and is 0",
    ),
    "a turn that is no text": (
        broken(max_turns=3, usual_turn=lambda self: None, mistakes=lambda self: []),
        r"usual_turn\(\) must write texts, and wrote \[None\]",
    ),
    "an end that is a number": (broken(give_up=lambda self: -1.0), r"of give_up\(\) must hold numbers .* and is -1.0"),
    "an end that raises": (broken(give_up=lambda self: {}["score"]), r"give_up\(\) raised KeyError"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_ENVS)
def test_broken_environments_are_found(name):
    env, message = BROKEN_ENVS[name]
    with pytest.raises(ConfigurationError, match=message) as caught:
        check_env(env)
    assert "\n" not in str(caught.value)
    assert type(env).__name__ in str(caught.value)


def test_what_is_no_environment_is_refused():
    with pytest.raises(ConfigurationError, match=r"an instance of gymnasium\.Env is expected"):
        check_env(Right)


class Acting:
    """A policy that writes what a function makes of position, observation and info."""

    def __init__(self, write):
        self.write = write

    def reset(self, seed=None):
        self.count = 0

    def act(self, observations, infos):
        self.count += 1
        return self.write(self, observations, infos)


class Telling(Acting):
    def __init__(self, record):
        super().__init__(lambda self, observations, infos: [""] * len(infos))
        self.record = record

    def finish(self, slot):
        return self.record


BROKEN_POLICIES = {
    "one text": (Acting(lambda self, observations, infos: "text"), "a list of 2 texts"),
    "too few": (Acting(lambda self, observations, infos: [""]), r"a list of 2 texts.* not \[''\]"),
    "no texts": (Acting(lambda self, observations, infos: [None] * len(infos)), "a list of 2 texts"),
    "it raises": (Acting(lambda self, observations, infos: infos[9]), "raised IndexError"),
    "it depends on the batch": (
        Acting(lambda self, observations, infos: [f"{len(infos)}"] * len(infos)),
        "must follow from info.* turn 1 was '2' in a batch of two and '1' alone",
    ),
    "it draws without the seed": (
        Acting(lambda self, observations, infos: [f"{np.random.default_rng().random()}" for _ in infos]),
        "must follow from",
    ),
    "a record that is none": (Telling({}), r"finish\(0\) must return a PolicyRecord, and returned {}"),
}


@pytest.mark.parametrize("name", BROKEN_POLICIES)
def test_broken_policies_are_found(name):
    policy, message = BROKEN_POLICIES[name]
    with pytest.raises(ConfigurationError, match=message) as caught:
        check_policy(policy)
    assert "\n" not in str(caught.value)


def test_a_policy_may_give_up():
    check_policy(lambda observation: GivenUp("refused", "no pictures"))


def test_a_policy_on_a_server_need_not_repeat_itself():
    drawing = Acting(lambda self, observations, infos: [f"{np.random.default_rng().random()}" for _ in infos])
    check_policy(drawing, repeatable=False)
    with pytest.raises(ConfigurationError, match="is not a policy"):
        check_policy("edge")
    with pytest.raises(ConfigurationError, match="plays the jigsaw only"):
        check_policy(EdgePolicy(), Right)
    check_policy(FunctionPolicy(lambda observation: observation["text"]))


def dialect(**methods):
    return type("Broken", (CodeDialect,), methods)()


def shouting(self, text, workspace):
    parsed = CodeDialect.parse(self, text, workspace)
    return ParsedTurn((Answer(()),), parsed.well_formed, parsed.has_code, parsed.error) if parsed.error else parsed


def swapping(self, text, workspace):
    parsed = CodeDialect.parse(self, text, workspace)
    return parsed._replace(primitives=tuple(reversed(parsed.primitives)))


BROKEN_DIALECTS = {
    "no name": (dialect(name=""), "name must be a word, and is ''"),
    "a tag that is none": (dialect(action_tag=None), "action_tag must be a word, and is None"),
    "instructions with an image": (
        dialect(instructions=lambda self, workspace: "<image>"),
        "must be a text without <image>",
    ),
    "it raises": (dialect(parse=lambda self, text, workspace: 1 / 0), "never make parse raise.* ZeroDivisionError"),
    "it raises at strange texts alone": (
        dialect(parse=lambda self, text, w: CodeDialect.parse(self, text.encode().decode(), w)),
        "never make parse raise.* UnicodeEncodeError",
    ),
    "it returns a tuple": (dialect(parse=lambda self, text, workspace: ((), True, True)), "must return a ParsedTurn"),
    "an error with primitives": (dialect(parse=shouting), "has an error and primitives"),
    "another meaning": (dialect(parse=swapping), "must read what write.. wrote"),
    "no words for a swap": (
        dialect(write=lambda self, primitives, workspace, think="": (_ for _ in ()).throw(ValueError())),
        "must have words for .*Swap",
    ),
    "it writes bytes": (dialect(write=lambda self, primitives, workspace, think="": b""), "must return a text"),
    "it writes what it cannot read": (
        dialect(write=lambda self, primitives, workspace, think="": "<code>swap(</code>"),
        "must read what write.. wrote .* an error",
    ),
    "code that is none": (
        dialect(parse=lambda self, text, w: CodeDialect.parse(self, text, w)._replace(has_code=False)),
        "has_code of .* must be True, and is False",
    ),
}


@pytest.mark.parametrize("name", BROKEN_DIALECTS)
def test_broken_dialects_are_found(name):
    broken_one, message = BROKEN_DIALECTS[name]
    with pytest.raises(ConfigurationError, match=message) as caught:
        check_dialect(broken_one)
    assert "\n" not in str(caught.value)


def test_a_dialect_need_not_have_words_for_everything():
    def write(self, primitives, workspace, think=""):
        if isinstance(primitives[0], Crop):
            raise ValueError("no word for it")
        return CodeDialect.write(self, primitives, workspace, think)

    check_dialect(dialect(write=write))
    with pytest.raises(ConfigurationError, match="neither the name of a dialect"):
        check_dialect(object())
