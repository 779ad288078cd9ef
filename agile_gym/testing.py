"""Checks that an environment, a policy or a dialect of one's own keeps its contract; for its tests.

Each plays a few episodes and raises a `ConfigurationError` of one line at the first violation, with the expected
and the actual value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, cast

import gymnasium
import numpy as np

from agile_gym.actions.dialects import Dialect, ParsedTurn, get_dialect
from agile_gym.actions.primitives import ActionError, Answer, Arrange, Crop, Observe, Primitive, Swap, Zoom
from agile_gym.actions.prompt import IMAGE_MARK
from agile_gym.actions.tags import MAX_TEXT
from agile_gym.actions.workspace import Workspace
from agile_gym.envs.contract import (
    REWARD_PARTS,
    DescribedEnv,
    EndableEnv,
    EpisodeDescription,
    PlannedEnv,
    complete_reward,
    describe_episode,
    described,
    env_name,
    observation_problem,
)
from agile_gym.envs.jigsaw.env import JigsawVisionEnv
from agile_gym.errors import AgileGymError, ConfigurationError, is_number, is_whole, one_line
from agile_gym.policies.base import GivenUp, Policy, RecordingPolicy, as_policy
from agile_gym.puzzle.pixels import fixed_layout
from agile_gym.rollout.play import EpisodeRecorder
from agile_gym.transcripts.record import PolicyRecord

__all__ = ["check_dialect", "check_env", "check_policy"]

Environment = gymnasium.Env[Any, Any]
MAX_TURNS = 1000
"""Turns after which an episode should have ended."""
TEXTS = (
    "",
    "no tags at all",
    "<answer>",
    "</answer><answer>",
    "<think>t</think><answer>[]</answer>",
    '<think>t</think><tool_call>{"name": "nothing", "arguments": []}</tool_call>',
    "<think>t</think><code>import os</code>",
    f"{IMAGE_MARK} \x00 \ud800 \u202e",
    "x" * (MAX_TEXT + 1),
)
"""Turns that a model may write."""
_CLOSE = 1e-6


def check_env(env: Environment, *, seed: int = 0, texts: Sequence[str] = TEXTS) -> None:
    """Check that an environment keeps the contract of `agile_gym.envs.contract`.

    Args:
        env: The environment, perhaps wrapped. It is played, and stays open.
        seed: Seed of its first episode.
        texts: Turns that are tried, in addition to samples of its action space.

    Raises:
        ConfigurationError: If it does not.
    """
    if not isinstance(cast("object", env), gymnasium.Env):
        raise ConfigurationError(f"check_env: an instance of gymnasium.Env is expected, and {env!r:.80} was given.")
    checked = _CheckedEnv(env)
    checked.begin(seed)
    first = checked.seen
    checked.begin(seed)
    for name, before, now in zip(("text", "image", "images"), first, checked.seen, strict=True):
        if before != now:
            checked.fail(f"the same seed must begin the same episode; reset(seed={seed}) gave another {name}")
    if isinstance(cast("object", env.unwrapped), PlannedEnv):
        checked.check_plan(cast("PlannedEnv", env.unwrapped))
    env.action_space.seed(seed)
    samples = [cast("object", env.action_space.sample()) for _ in range(3)]
    for sample in samples:
        if not isinstance(sample, str):
            checked.fail(f"action_space must sample texts, and sampled a {type(sample).__name__}")
    for text in (*texts, *map(str, samples)):
        checked.step(text)
        if checked.over:
            seed += 1
            checked.begin(seed)
    for _ in range(MAX_TURNS):
        if checked.over:
            break
        checked.step("")
    if not checked.over:
        checked.fail(f"an episode must end, and {MAX_TURNS:,} empty turns did not end it; limit its turns")
    if isinstance(cast("object", env.unwrapped), EndableEnv):
        checked.check_end(cast("EndableEnv", env.unwrapped), seed + 1)


class _CheckedEnv:
    """An environment whose every return value is checked."""

    over = False
    seen: tuple[str, bytes, tuple[bytes, ...]]

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._kept: list[tuple[Any, bytes]] = []
        self._turn = 0
        self._earned = 0.0

    def fail(self, problem: str) -> NoReturn:
        raise ConfigurationError(
            one_line(f"The environment {env_name(self._env)} does not keep the contract: {problem}.")
        )

    def begin(self, seed: int) -> None:
        """Begin an episode."""
        call = f"reset(seed={seed}, options={{}})"
        self._turn, self._earned, self.over, self._kept = 0, 0.0, False, []
        returned = self._call(call, lambda: self._env.reset(seed=seed, options={}))
        if not isinstance(returned, tuple) or len(cast("tuple[Any, ...]", returned)) != 2:
            self.fail(f"{call} must return an observation and info, and returned {returned!r:.80}")
        observation, info = cast("tuple[Any, Any]", returned)
        self._check_observation(observation, info, call)
        if info.get("error") is not None:
            self.fail(f"info['error'] of {call} must be None, and is {info['error']!r:.80}")
        self._check_description(info)
        images = tuple(np.ascontiguousarray(image).tobytes() for image in info["images"])
        self.seen = observation["text"], np.ascontiguousarray(observation["image"]).tobytes(), images

    def step(self, text: str) -> None:
        """Play a turn."""
        self._turn += 1
        call = f"step({text[:20]!r})"
        returned = self._call(call, lambda: self._env.step(text))
        if not isinstance(returned, tuple) or len(cast("tuple[Any, ...]", returned)) != 5:
            self.fail(
                f"{call} must return observation, reward, terminated, truncated and info, and returned {returned!r:.80}"
            )
        observation, reward, terminated, truncated, info = cast("tuple[Any, Any, Any, Any, Any]", returned)
        if not _is_finite(reward):
            self.fail(f"the reward of {call} must be a finite number, and is {reward!r:.80}")
        for name, value in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(value, bool | np.bool_):
                self.fail(f"{name} of {call} must be True or False, and is {value!r:.80}")
        self._earned += float(reward)
        self.over = bool(terminated or truncated)
        self._check_observation(observation, info, call)
        self._check_turn(info, call)

    def check_plan(self, env: PlannedEnv) -> None:
        """Check its turn limit and its written turns."""
        if not is_whole(cast("object", env.max_turns), MAX_TURNS):
            self.fail(f"max_turns must be a whole number from 1 to {MAX_TURNS:,}, and is {env.max_turns!r:.80}")
        for name, written in (("usual_turn", [env.usual_turn()]), ("mistakes", env.mistakes())):
            if not all(isinstance(cast("object", text), str) for text in written):
                self.fail(f"{name}() must write texts, and wrote {written!r:.80}")

    def check_end(self, env: EndableEnv, seed: int) -> None:
        """Check an episode that is given up, and that another one can begin then."""
        self.begin(seed)
        self._check_reward(self._call("give_up()", env.give_up), "the reward of give_up()")
        self.begin(seed)

    def _call(self, call: str, function: Callable[[], object]) -> object:
        try:
            return function()
        except Exception as error:
            why = "a text must never make step raise; " if call.startswith("step") else ""
            self.fail(f"{why}{call} raised {type(error).__name__}: {error!s:.200}")

    def _check_observation(self, observation: Any, info: Any, call: str) -> None:  # noqa: ANN401 -- of any type
        problem = observation_problem(observation, info, call)
        if problem is not None:
            self.fail(problem)
        image = observation["image"]
        size: list[object] = np.asarray(observation["image_size"]).tolist()
        limits = image.shape[:2]
        if len(size) != 2 or not all(
            isinstance(side, int) and 0 <= side <= limit for side, limit in zip(size, limits, strict=True)
        ):
            self.fail(f"image_size of {call} must be height and width within the image's {limits}, and is {size!r:.80}")
        if not self._env.observation_space.contains(observation):
            self.fail(f"the observation of {call} must lie in observation_space, {self._env.observation_space!r:.200}")
        for array, before in self._kept:
            if np.ascontiguousarray(array).tobytes() != before:
                self.fail(f"images that were returned must not change later, and {call} changed one")
        arrays: list[Any] = [image, *info["images"]]
        self._kept += [(array, np.ascontiguousarray(array).tobytes()) for array in arrays]
        if info.get("turn", self._turn) != self._turn:
            self.fail(f"info['turn'] of {call} must be the turns taken, {self._turn}, and is {info['turn']!r:.80}")

    def _check_turn(self, info: Mapping[str, Any], call: str) -> None:
        error, solved = info.get("error"), info.get("solved", False)
        if not isinstance(error, str | None):
            self.fail(f"info['error'] of {call} must be a text or None, and is {error!r:.80}")
        if not isinstance(info.get("primitives", ()), list | tuple):
            self.fail(f"info['primitives'] of {call} must be a tuple, and is {info['primitives']!r:.80}")
        if not isinstance(solved, bool | np.bool_):
            self.fail(f"info['solved'] of {call} must be True or False, and is {solved!r:.80}")
        if not is_number(info.get("score", 0.0), 0, 1):
            self.fail(f"info['score'] of {call} must be a number from 0 to 1, and is {info['score']!r:.80}")
        if info.get("reward") is not None:
            self._check_reward(info["reward"], f"info['reward'] of {call}")
        if self.over:
            total = complete_reward(info, self._earned, over=True)["total"]
            if abs(total - self._earned) > _CLOSE:
                self.fail(
                    f"info['reward']['total'] of the last step must be the sum of all rewards, {self._earned:g}, and "
                    f"is {total:g}"
                )
        inner: object = self._env.unwrapped
        if isinstance(inner, DescribedEnv):
            self._check_json("describe_state()", list(inner.describe_state()))

    def _check_reward(self, reward: Any, what: str) -> None:  # noqa: ANN401 -- of any type
        known = isinstance(reward, Mapping) and all(name in REWARD_PARTS for name in cast("Mapping[str, Any]", reward))
        if not known or not all(_is_finite(cast("Any", reward)[name]) for name in cast("Any", reward)):
            self.fail(f"{what} must hold numbers for some of {tuple(REWARD_PARTS)}, and is {reward!r:.200}")

    def _check_description(self, info: Mapping[str, Any]) -> None:
        inner: object = self._env.unwrapped
        if isinstance(inner, DescribedEnv):
            given: object = inner.describe_episode()
            if not isinstance(given, EpisodeDescription):
                self.fail(f"describe_episode() must return an EpisodeDescription, and returned {given!r:.80}")
        about = describe_episode(self._env, described(self._env), info)
        self._check_json("the task", dict(about.task))
        self._check_json("the solution", list(about.solution))
        if not isinstance(cast("object", about.label), str):
            self.fail(f"the label must be a text, and is {about.label!r:.80}")

    def _check_json(self, what: str, value: object) -> None:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            self.fail(f"{what} must be of JSON's types, and {error}: {value!r:.200}")


def _is_finite(value: object) -> bool:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number and math.isfinite(float(cast("Any", value)))


def _default_env() -> Environment:
    return JigsawVisionEnv(image_size=64, prompt="short", reveal=True)


def check_policy(
    policy: Policy | Callable[[dict[str, Any]], str],
    make_env: Callable[[], Environment] | None = None,
    *,
    seed: int = 0,
    repeatable: bool = True,
) -> None:
    """Check that a policy keeps the contract of `agile_gym.policies.Policy`.

    Two episodes are played in one batch, and then each alone.

    Args:
        policy: The policy, or a function from an observation to a text.
        make_env: Makes an environment that it can play; a jigsaw by default, with the solution in info.
        seed: Seed of the first episode.
        repeatable: True if it must write the same again for the same seeds, whatever the rest of the batch; a model on
            a server may not.

    Raises:
        ConfigurationError: If it does not.
    """
    checked = as_policy(policy)
    make_env = make_env or _default_env
    together = _play(checked, make_env, {0: seed, 1: seed + 1})
    if not repeatable:
        return
    for slot, texts in together.items():
        alone = _play(checked, make_env, {slot: seed + slot})[slot]
        if alone != texts:
            turn = next((n for n, pair in enumerate(zip(texts, alone, strict=False)) if pair[0] != pair[1]), 0)
            _refuse(
                checked,
                "its texts in an episode must follow from info['policy_seed'] and not from the batch; with the "
                f"same seed, turn {turn + 1} was {texts[turn]!r:.80} in a batch of two and {alone[turn]!r:.80} "
                "alone",
            )


def _refuse(checked: object, problem: str) -> NoReturn:
    what = f"{'dialect' if hasattr(checked, 'parse') else 'policy'} {type(checked).__name__}"
    raise ConfigurationError(one_line(f"The {what} does not keep the contract: {problem}."))


def _play(policy: Policy, make_env: Callable[[], Environment], seeds: Mapping[int, int]) -> dict[int, list[str]]:
    """Play an episode of each slot in one batch, and return the turns written."""
    _guard(policy, "reset(0)", lambda: policy.reset(0))
    recorders = {slot: EpisodeRecorder(make_env()) for slot in seeds}
    texts: dict[int, list[str]] = {slot: [] for slot in seeds}
    for slot, seed in seeds.items():
        recorders[slot].reset(seed=seed, policy_seed=seed)
    try:
        while playing := {slot: recorder for slot, recorder in recorders.items() if not recorder.done}:
            for slot, recorder in playing.items():
                recorder.info["slot"] = slot
            observations = [recorder.observation for recorder in playing.values()]
            infos = [recorder.info for recorder in playing.values()]
            written = _guard(policy, f"act() on {len(infos)} observations", lambda: policy.act(observations, infos))  # noqa: B023 -- called at once
            if (
                not isinstance(written, list)
                or len(cast("list[Any]", written)) != len(infos)
                or not all(isinstance(text, str) for text in cast("list[object]", written))
            ):
                _refuse(
                    policy, f"act() must return a list of {len(infos)} texts, one an observation, not {written!r:.80}"
                )
            for (slot, recorder), text in zip(playing.items(), cast("list[str]", written), strict=True):
                texts[slot].append(text)
                if isinstance(text, GivenUp):
                    recorder.give_up(text)
                else:
                    recorder.step(text)
                if recorder.done:
                    _check_record(policy, slot, recorder)
            if any(len(turns) > MAX_TURNS for turns in texts.values()):
                break
    finally:
        for recorder in recorders.values():
            recorder.env.close()
    return texts


def _check_record(policy: Policy, slot: int, recorder: EpisodeRecorder) -> None:
    record: Any = None
    if isinstance(policy, RecordingPolicy):
        record = _guard(policy, f"finish({slot})", lambda: policy.finish(slot))
        if not isinstance(record, PolicyRecord):
            _refuse(policy, f"finish({slot}) must return a PolicyRecord, and returned {record!r:.80}")
        try:
            json.dumps(dict(record.details))
        except (TypeError, ValueError) as error:
            _refuse(policy, f"the details of finish({slot}) must be of JSON's types, and {error}")
    recorder.finish("checked", record)


def _guard(policy: object, call: str, function: Callable[[], object]) -> object:
    try:
        return function()
    except AgileGymError:
        raise
    except Exception as error:  # a custom policy may raise anything
        _refuse(policy, f"{call} raised {type(error).__name__}: {error!s:.200}")


_TURNS: tuple[tuple[Primitive, ...], ...] = (
    (Swap(0, 3), Observe()),
    (Answer(("B", "A", "D", "C")),),
    (Observe(),),
    (Arrange((3, 1, 0, 2)), Observe()),
    (Crop("B", (0.25, 0.0, 0.75, 0.5)),),
    (Zoom("C", 1.25),),
    (Swap(0, 1), Swap(1, 2), Swap(0, 3)),
)
_TURNED: tuple[tuple[Primitive, ...], ...] = (
    (Answer(("B", "A", "D", "C"), (0, 90, 180, 270)),),
    (Arrange((3, 1, 0, 2), (0, 90, 180, 270)), Observe()),
)
_NEEDED = 2
"""The first turns are those that every dialect must have words for."""


def check_dialect(dialect: Dialect, *, texts: Sequence[str] = TEXTS) -> None:
    """Check that a dialect keeps the contract of `agile_gym.actions.dialects.Dialect`.

    It must read back every turn that it writes, write at least a swap that shows the board, and an answer, and read
    any text without raising.

    Args:
        dialect: The dialect.
        texts: Texts that are read.

    Raises:
        ConfigurationError: If it does not.
    """
    checked = get_dialect(dialect)
    for name in ("name", "action_tag"):
        value: object = getattr(checked, name)
        if not isinstance(value, str) or not value:
            _refuse(checked, f"{name} must be a word, and is {value!r:.80}")
    for rotations, turns in ((False, _TURNS), (True, _TURNED)):
        workspace = _workspace(rotations=rotations)
        instructions: object = checked.instructions(workspace)
        if not isinstance(instructions, str) or IMAGE_MARK in instructions:
            _refuse(checked, f"instructions() must be a text without {IMAGE_MARK}, and is {instructions!r:.80}")
        for number, turn in enumerate(turns):
            _check_round_trip(checked, turn, needed=number < _NEEDED and not rotations, rotations=rotations)
        for text in texts:
            parsed = _read(checked, text, workspace)
            if parsed.error is not None and parsed.primitives:
                _refuse(checked, f"parse({text[:20]!r}) has an error and primitives; an error must come alone")


def _workspace(*, rotations: bool) -> Workspace:
    layout = fixed_layout(2, 2, 64)
    return Workspace(layout, (layout.height, layout.width), rotations=rotations)


def _read(dialect: Dialect, text: str, workspace: Workspace) -> ParsedTurn:
    try:
        parsed: object = dialect.parse(text, workspace)
    except Exception as error:
        _refuse(
            dialect, f"a text must never make parse raise; parse({text[:20]!r}) raised {type(error).__name__}: {error}"
        )
    if not isinstance(parsed, ParsedTurn):
        _refuse(dialect, f"parse({text[:20]!r}) must return a ParsedTurn, and returned {parsed!r:.80}")
    if not isinstance(cast("object", parsed.error), ActionError | None):
        _refuse(
            dialect, f"the error of parse({text[:20]!r}) must be an ActionError or None, and is {parsed.error!r:.80}"
        )
    return parsed


def _check_round_trip(dialect: Dialect, turn: Sequence[Primitive], *, needed: bool, rotations: bool) -> None:
    """Check that a dialect reads the turn that it writes: the same answer, or one with the same board and images."""
    workspace, expected = _workspace(rotations=rotations), _workspace(rotations=rotations)
    try:
        text: object = dialect.write(turn, workspace, "Why.")
    except ValueError:
        if needed:
            _refuse(dialect, f"write() must have words for {list(turn)}, and raised ValueError")
        return
    if not isinstance(text, str):
        _refuse(dialect, f"write() must return a text, and returned {text!r:.80}")
    parsed = _read(dialect, text, workspace)
    if parsed.error is not None or not parsed.well_formed:
        what = "an error" if parsed.error is not None else "not well formed"
        _refuse(dialect, f"parse() must read what write() wrote of {list(turn)}, and calls {text!r:.200} {what}")
    is_answer = isinstance(turn[0], Answer)
    same = parsed.primitives == tuple(turn)
    if not is_answer and not same:  # other primitives may do the same
        try:
            expected.execute(turn)
            workspace.execute(parsed.primitives)
        except ActionError as error:
            _refuse(dialect, f"parse() must read what write() wrote of {list(turn)}, and its reading fails: {error}")
        same = _outcome(workspace) == _outcome(expected)
    if not same:
        _refuse(dialect, f"parse() must read what write() wrote, {list(turn)}, and reads {list(parsed.primitives)}")
    if parsed.has_code == is_answer:
        _refuse(dialect, f"has_code of {text!r:.80} must be {not is_answer}, and is {parsed.has_code}")


def _outcome(workspace: Workspace) -> tuple[Any, ...]:
    sizes = {key: (image.height, image.width) for key, image in workspace.images.items()}
    return workspace.order, workspace.turns, sizes
