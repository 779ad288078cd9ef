"""Contract of the environments that can be recorded, evaluated and trained on: a `gymnasium.Env` of texts and images.

The action is a text: anything that a model writes in a turn. ``reset`` and ``step`` return

- an observation, a dictionary of ``text`` (with ``<image>`` wherever an image belongs), ``image`` ((H, W, 3) uint8, the
  canvas, always of one size) and ``image_size`` (height and width of the image at its top left; (0, 0) for none);
- ``info`` with ``images``: the arrays (h, w, 3) uint8 that the marks of the text stand for, in order. They must not
  change later. All else has a default: ``task`` (public facts of the episode, see `EpisodeDescription`), ``turn``
  (turns taken), ``error`` (kind of the error of a turn that could not be carried out, or None), ``primitives`` (names
  of the primitives carried out), and, when the episode has ended, ``solved``, ``score`` (0 to 1) and ``reward``
  (`RewardParts` of the whole episode). `make_info` fills them in.

A text never makes ``step`` raise. An environment may also describe its episodes for the record, see `DescribedEnv`, and
its turns for the token plan, see `PlannedEnv`, and pay a reward for an episode that its policy gives up, see
`EndableEnv`. `agile_gym.testing.check_env` checks all of it.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypedDict, cast, runtime_checkable

import gymnasium
import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.prompt import IMAGE_MARK
from agile_gym.errors import AgileGymError, ConfigurationError, check_call, did_you_mean
from agile_gym.registration import load_catalogue

__all__ = [
    "JIGSAW",
    "REWARD_PARTS",
    "DescribedEnv",
    "EndableEnv",
    "EpisodeDescription",
    "PlannedEnv",
    "RewardParts",
    "check_start",
    "complete_reward",
    "describe_episode",
    "described",
    "env_name",
    "find_env",
    "give_up",
    "label_of",
    "make_env",
    "make_info",
    "no_reward",
    "observation_problem",
    "probe_env",
]

JIGSAW = "JigsawVision-v0"
"""Id of the default environment."""
Environment = gymnasium.Env[Any, Any]


class RewardParts(TypedDict):
    """The parts of a reward, before weighting, and their weighted sum.

    Keys:
        accuracy: R_acc, 0 or 1.
        format: R_format, 0 or 1.
        step: R_step, 0 or negative.
        score: The score, 0 to 1; of a jigsaw, the fraction of pieces right.
        total: The weighted sum, which is the reward.
    """

    accuracy: float
    format: float
    step: float
    score: float
    total: float


REWARD_PARTS = RewardParts.__annotations__.keys()
"""The names of the parts."""
_PIXEL = np.dtype(np.uint8)


def no_reward() -> RewardParts:
    """Return the parts of a step that is not the last: all 0."""
    return {"accuracy": 0.0, "format": 0.0, "step": 0.0, "score": 0.0, "total": 0.0}


def complete_reward(info: Mapping[str, Any], total: float, *, over: bool) -> RewardParts:
    """Return the parts of a reward, with defaults for those that an environment does not give.

    Args:
        info: The ``info`` of a step.
        total: Reward earned: the step's, or, at the end, the sum of the episode's.
        over: True if the episode has ended. Its accuracy is then 1 if it was solved, and its format is taken to be
            kept.
    """
    reward: Any = info.get("reward")
    if reward is not None and reward.keys() >= REWARD_PARTS:
        return reward
    given = cast("Mapping[str, float]", reward or {})
    parts: Any = no_reward() | {"total": float(total)}
    if over:
        solved = bool(info.get("solved", False))
        parts |= {"accuracy": float(solved), "format": 1.0, "score": float(info.get("score", solved))}
    return parts | {name: float(value) for name, value in given.items()}


def give_up(env: Environment, earned: float) -> tuple[RewardParts, RewardParts]:
    """End an episode without its policy.

    Args:
        env: The environment, perhaps wrapped.
        earned: The sum of the rewards of its steps.

    Returns:
        The rewards of the last turn and of the episode: those of the environment (`EndableEnv`), or else 0 and
        the sum earned before.
    """
    inner: object = env.unwrapped
    paid = inner.give_up() if isinstance(inner, EndableEnv) else None
    given: Mapping[str, float] = {"total": earned} if paid is None else paid
    whole: Any = no_reward() | {name: float(value) for name, value in given.items()}
    return no_reward() if paid is None else whole, whole


def make_info(
    images: Sequence[Any],
    *,
    turn: int,
    task: Mapping[str, Any] | None = None,
    error: str | None = None,
    primitives: Sequence[str] = (),
    solved: bool = False,
    score: float | None = None,
    reward: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return an ``info`` as the contract has it; every argument is one of its keys.

    Args:
        images: The arrays of the text's marks.
        turn: Turns taken.
        task: Public facts of the episode, in JSON's types.
        error: Kind of the error, or None.
        primitives: Names of the primitives carried out.
        solved: True if the episode was solved.
        score: 0 to 1; 1 for a solved episode and 0 for others by default.
        reward: Parts of the reward; those that are missing are filled in when the episode is recorded.
    """
    info = {"images": tuple(images), "task": dict(task or {}), "turn": turn, "error": error}
    outcome = {"primitives": tuple(primitives), "solved": solved, "score": float(solved) if score is None else score}
    return info | outcome | ({} if reward is None else {"reward": dict(reward)})


@dataclass(frozen=True, slots=True)
class EpisodeDescription:
    """An episode for the record, in JSON's types.

    Attributes:
        task: Settings and facts of the episode, such as ``max_turns``.
        label: Name of the kind of episode, by which results are grouped, such as ``"2x2-L0"``; empty for one kind only.
        solution: The right answer, as a model would write it, in parts; empty if it is not given.
    """

    task: Mapping[str, Any] = field(default_factory=dict[str, Any])
    label: str = ""
    solution: Sequence[Any] = ()


@runtime_checkable
class DescribedEnv(Protocol):
    """An environment that describes its episodes for the record.

    Of others, the task is ``info["task"]``, if that is a mapping, and the label its ``label``.
    """

    def describe_episode(self) -> EpisodeDescription:
        """Describe the episode that was just begun."""
        ...

    def describe_state(self) -> Sequence[Any]:
        """Describe the state after a turn, in JSON's types: a list, such as of the pieces of a board."""
        ...


@runtime_checkable
class PlannedEnv(Protocol):
    """An environment that writes turns for the token plan; of others, the action space is sampled.

    Attributes:
        max_turns: Turns of an episode, at most.
    """

    max_turns: int

    def usual_turn(self) -> str:
        """Write a turn that does not end the episode and is answered by an image."""
        ...

    def mistakes(self) -> Sequence[str]:
        """Write turns that are answered by the longest errors."""
        ...


@runtime_checkable
class EndableEnv(Protocol):
    """An environment that pays a reward for an episode that its policy gives up (`agile_gym.policies.GivenUp`).

    Others pay none, so that the reward is the sum of the turns before.
    """

    def give_up(self) -> Mapping[str, float]:
        """End the episode unsolved, and return its reward (`RewardParts`); parts that are missing are 0."""
        ...


def env_name(env: Environment | str) -> str:
    """Return the short name of an environment, or of an argument of `find_env`: its id, or the name of its class.

    It has letters, digits, ``-``, ``_`` and ``.`` only, as the ids of transcripts.
    """
    if not isinstance(env, str):
        env = type(env.unwrapped).__name__ if env.spec is None else env.spec.id
    return re.sub(r"[^A-Za-z0-9._-]", "-", env.rpartition(":")[2])[:100]


def described(env: Environment) -> DescribedEnv | None:
    """Return the unwrapped environment if it describes its episodes; the check takes longer than many a step."""
    inner: object = env.unwrapped
    return inner if isinstance(inner, DescribedEnv) else None


def describe_episode(env: Environment, inner: DescribedEnv | None, info: Mapping[str, Any]) -> EpisodeDescription:
    """Describe the episode that an environment has begun.

    Args:
        env: The environment, perhaps wrapped.
        inner: Result of `described` for it.
        info: The ``info`` of its ``reset``.

    Returns:
        The description. Its task has the keys ``env`` and ``label``, unless it has a ``grid``: that of a jigsaw.
    """
    if inner is not None:
        given = inner.describe_episode()
    else:
        task: Any = info.get("task")
        facts = dict(cast("Mapping[str, Any]", task)) if isinstance(task, Mapping) else {}
        given = EpisodeDescription(facts, str(facts.get("label", "")))
    if "grid" in given.task:
        return given
    return EpisodeDescription({"env": env_name(env), "label": given.label, **given.task}, given.label, given.solution)


def label_of(task: Mapping[str, Any]) -> str:
    """Return the label of a recorded episode; empty if it has none."""
    if "grid" in task:
        return f"{task['grid']}-L{task.get('level')}"
    return str(task.get("label", ""))


def check_start(env: Environment, observation: object, info: object) -> None:
    """Check the first observation of an episode.

    Raises:
        ConfigurationError: If it does not keep the contract; the message names both.
    """
    problem = observation_problem(observation, info, "reset()")
    if problem:
        raise ConfigurationError(f"The environment {env_name(env)} does not keep the contract: {problem}.")


def observation_problem(observation: object, info: object, call: str) -> str | None:
    """Return the problem with an observation and its ``info``, as the end of a sentence, or None.

    Args:
        observation: The observation.
        info: Its ``info``.
        call: The call that returned them, for the sentence.
    """
    for name, value, keys in (
        ("the observation", observation, ("text", "image", "image_size")),
        ("the info", info, ("images",)),
    ):
        if not isinstance(value, dict):
            return f"{name} of {call} must be a dictionary, and is of type {type(value).__name__}"
        missing = [key for key in keys if key not in value]
        if missing:
            there = ", ".join(repr(key) for key in cast("dict[object, object]", value))
            return f"{name} of {call} must have {missing[0]!r}, and has {there or 'nothing'}"
    seen, told = cast("dict[str, Any]", observation), cast("dict[str, Any]", info)
    text, images = seen["text"], told["images"]
    if not isinstance(text, str):
        return f"the 'text' of {call} must be a text, and is of type {type(text).__name__}"
    if not isinstance(images, list | tuple):
        return f"info['images'] of {call} must be a tuple of arrays, and is of type {type(images).__name__}"
    shown = cast("Sequence[object]", images)
    for name, array in [("the 'image'", cast("object", seen["image"])), *(("an image of info", one) for one in shown)]:
        kind = _unfit(array)
        if kind is not None:
            return f"{name} of {call} must be an array (h, w, 3) of uint8, and is {kind}"
    marks = text.count(IMAGE_MARK)
    if marks != len(shown):
        return (
            f"the text of {call} must have a mark {IMAGE_MARK} for each image of info['images'], and has {marks} for "
            f"{len(shown)}"
        )
    return None


def _unfit(image: object) -> str | None:
    """Return the description of a value that is no image, or None."""
    if not isinstance(image, np.ndarray):
        return f"of type {type(image).__name__}"
    array = cast("NDArray[Any]", image)
    fits = array.dtype == _PIXEL and array.ndim == 3 and array.shape[2] == 3 and array.size
    return None if fits else f"{array.dtype} of shape {array.shape}"


def find_env(env: str) -> Callable[..., Environment]:
    """Return the function or class that makes an environment.

    Args:
        env: An id that is registered with Gymnasium, or ``"module:Class"``; ``"module:id"`` imports the module first.

    Raises:
        ConfigurationError: If there is none, or the module cannot be imported.
    """
    module, colon, attribute = env.partition(":")
    if colon:
        try:
            found = importlib.import_module(module)
        except AgileGymError:
            raise
        except Exception as error:  # a user's module may raise anything
            raise ConfigurationError(
                f"The environment {env!r} cannot be loaded: the module {module!r} raised {type(error).__name__}: "
                f"{error}. Give 'module:Class' of a module that can be imported from here."
            ) from error
        maker: object = getattr(found, attribute, None)
        if callable(maker):
            return cast("Callable[..., Environment]", maker)
        if attribute not in gymnasium.registry:
            classes = [
                name
                for name, value in vars(found).items()
                if isinstance(value, type) and issubclass(value, gymnasium.Env)
            ]
            hint = did_you_mean(attribute, classes) if classes else "It has no subclass of gymnasium.Env."
            raise ConfigurationError(f"The module {module!r} has no class {attribute!r}. {hint}")
        env = attribute
    if env not in gymnasium.registry:
        near = difflib.get_close_matches(env, gymnasium.registry, n=1) or load_catalogue()
        raise ConfigurationError(
            f"There is no environment {env!r}. {did_you_mean(env, near)} 'module:Class' names one of your own."
        )
    make: Any = gymnasium.make
    return partial(make, env, disable_env_checker=True)


def make_env(env: str, options: Mapping[str, Any]) -> Environment:
    """Make an environment.

    Args:
        env: As for `find_env`.
        options: Its options, by name.

    Raises:
        ConfigurationError: If there is none, it does not take the options, or it is no `gymnasium.Env`.
    """
    maker = find_env(env)
    check_call(maker, options, f"environment {env!r}")
    try:
        made: Any = maker(**options)
    except AgileGymError:
        raise
    except Exception as error:  # a user's environment may raise anything
        raise ConfigurationError(
            f"The environment {env!r} cannot be made with {dict(options)!r:.200}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, gymnasium.Env):
        raise ConfigurationError(
            f"The environment {env!r} makes a {type(made).__name__}, which is no gymnasium.Env. Give a subclass of it."
        )
    return cast("Any", made)


def probe_env(env: str, options: Mapping[str, Any]) -> None:
    """Make an environment and begin an episode, so that mistakes show before anything is played.

    Raises:
        ConfigurationError: As for `make_env`, or if the first observation does not keep the contract.
    """
    made = make_env(env, options)
    try:
        try:
            observation, info = made.reset(seed=0)
        except AgileGymError:
            raise
        except Exception as error:  # likewise
            raise ConfigurationError(
                f"The environment {env!r} cannot begin an episode with reset(seed=0), which must return an observation "
                f"and info: {type(error).__name__}: {error}"
            ) from error
        check_start(made, observation, info)
    finally:
        made.close()
