"""Invariants that hold after any text, for the tests of safety."""

import math
import re

import numpy as np

from agile_gym.actions.primitives import ERROR_KINDS, Answer
from agile_gym.actions.prompt import IMAGE_MARK
from agile_gym.envs.jigsaw import JigsawVisionEnv

# The only tags of its own that the library shows after a turn.
_NOTE = "Begin each turn with one <think>...</think> block."
_TAG = re.compile(r"<(?! )|[|\\]|\[/?[A-Za-z_]+\]|&")

SOUND = {
    "code": "<think>a</think>\n<code>observation(state)</code>",
    "tools": '<think>a</think>\n<tool_call>{"name": "observe"}</tool_call>',
}
ORDER = {
    "code": "<think>a</think>\n<code>swap(0, 1)\nobservation(state)</code>",
    "tools": '<think>a</think>\n<tool_call>{"name": "swap", "arguments": {"first": "A", "second": "B"}}</tool_call>\n'
    '<tool_call>{"name": "observe"}</tool_call>',
}
DIALECTS = tuple(SOUND)


def check_text(text, images):
    rest = text.removesuffix(_NOTE)
    assert rest.count(IMAGE_MARK) == images, text
    rest = rest.replace(IMAGE_MARK, "")
    assert rest.isascii(), ascii(text)
    assert rest.replace("\n", "").isprintable(), ascii(text)
    assert not _TAG.search(rest), text


def check_error(kind, text, *, brief):
    """The text names the kind and, unless it is to be brief, tells in a sentence or more what was wrong."""
    if brief:
        assert f"error {kind}" in text.split("\n"), text
        return
    (line,) = (line for line in text.split("\n") if line.startswith("Error ("))
    reason = line.removeprefix(f"Error ({kind}): ")
    assert reason != line, text
    assert len(reason.split()) >= 4, text
    assert reason.endswith("."), text
    assert not reason.endswith(".."), text


def snapshot(workspace):
    """State that an error must leave as it was, aliases of lists included."""
    variables = workspace.variables
    names = {}
    for name, value in variables.items():
        if isinstance(value, list):
            names.setdefault(id(value), []).append(name)
    contents = {name: tuple(value) if isinstance(value, list) else value for name, value in variables.items()}
    return (
        workspace.order,
        workspace.turns,
        workspace.made,
        dict(workspace.images),
        contents,
        sorted(names.values()),
    )


class Player:
    """Plays any texts in one environment and checks each turn."""

    def __init__(self, dialect, **options):
        self.env = JigsawVisionEnv(dialect=dialect, max_turns=1000, **options)
        self.dialect = dialect
        self.env.reset(seed=0)
        self.env.step(ORDER[dialect])

    def fresh(self):
        """Make sure that the next turn can make images."""
        if self.env.episode.done or self.env.episode.workspace.made > 40 or self.env.episode.turn > 900:
            self.env.reset(seed=0)
            self.env.step(ORDER[self.dialect])

    def play(self, text):
        self.fresh()
        episode = self.env.episode
        workspace = episode.workspace
        before = snapshot(workspace)
        observation, reward, terminated, truncated, info = self.env.step(text)
        assert isinstance(reward, float)
        assert math.isfinite(reward)
        assert not truncated
        assert observation in self.env.observation_space
        check_text(observation["text"], len(info["images"]))
        assert len(info["images"]) <= 1
        assert tuple(observation["image_size"]) == (info["images"][0].shape[:2] if info["images"] else (0, 0))
        count = len(workspace.names)
        assert sorted(workspace.order) == list(range(count))
        assert len(workspace.turns) == count
        assert all(angle in (0, 90, 180, 270) for angle in workspace.turns)
        if not self.env.rules.config.rotations:
            assert not any(workspace.turns)
        if info["error"] is not None:
            assert info["error"] in ERROR_KINDS
            answered = [type(primitive) for primitive in info["primitives"]] == [Answer]
            assert terminated if answered else info["primitives"] == ()
            check_error(info["error"], observation["text"], brief=self.env.rules.prompt.brief)
            assert not info["images"]
            assert snapshot(workspace) == before
        if terminated:
            assert episode.done
        else:
            assert reward == 0.0
        return info["error"]

    def play_on(self):
        """Check that a sound turn works, or that a new episode does."""
        self.fresh()
        observation, _, terminated, truncated, info = self.env.step(SOUND[self.dialect])
        assert info["error"] is None
        assert not terminated
        assert not truncated
        assert len(info["images"]) == 1
        assert np.array_equal(observation["image_size"], info["images"][0].shape[:2])
