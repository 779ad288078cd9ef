"""The policy protocol, the register of policies by name, and two reference points: `random` and `oracle`."""

from __future__ import annotations

import difflib
import importlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.dialects import write_answer
from agile_gym.actions.primitives import Answer
from agile_gym.envs.jigsaw.episode import JigsawTask
from agile_gym.errors import AgileGymError, ConfigurationError, check_call, check_seed, did_you_mean, one_line
from agile_gym.policies.questions import guess, is_question, look_or_answer

if TYPE_CHECKING:
    from agile_gym.transcripts.record import PolicyRecord

__all__ = [
    "POLICIES",
    "FunctionPolicy",
    "GivenUp",
    "Observation",
    "OraclePolicy",
    "Policy",
    "RandomPolicy",
    "RecordingPolicy",
    "as_policy",
    "blank_look",
    "jigsaw_task",
    "make_policy",
    "register_policy",
    "slot_of",
]

Observation = dict[str, Any]


class GivenUp(str):
    """Text of a turn in which a policy cannot go on with one episode, though it can with others.

    It is an empty text. `agile_gym.rollout.play_episodes` ends the episode there, unsolved; a loop of one's own can do
    the same, or step on, and is given it again for each further turn of the episode.

    Attributes:
        kind: The kind of error, a short word to be counted: ``"image_refused"``, ``"content_filter"``,
            ``"context_length"``, ``"request_refused"`` or a policy's own.
        reason: The reason, in one line.
    """

    kind: str
    reason: str

    def __new__(cls, kind: str, reason: str) -> Self:
        """Make the text.

        Args:
            kind: The kind of error.
            reason: The reason.
        """
        text = super().__new__(cls, "")
        text.kind, text.reason = kind, one_line(reason)
        return text

    def __getnewargs__(self) -> tuple[str, str]:  # pyright: ignore[reportIncompatibleMethodOverride] -- str has one
        """Return the arguments that make an equal one, for copies and pickles."""
        return self.kind, self.reason


@runtime_checkable
class Policy(Protocol):
    """Player of episodes, from observations to the texts of turns.

    A policy is called with a batch of episodes that are independent of each other. ``info["turn"]`` is 0 for the first
    observation of an episode, and ``info["task"]`` (of a jigsaw: `agile_gym.envs.jigsaw.JigsawTask`) holds grid and
    names at every turn. A policy with a memory identifies episodes by `slot_of`, and one that draws takes the seed of
    an episode from ``info["policy_seed"]``, if there is one.
    """

    def reset(self, seed: int | None = None) -> None:
        """Drop all episodes, and seed the random numbers."""
        ...

    def act(self, observations: Sequence[Observation], infos: Sequence[dict[str, Any]]) -> list[str]:
        """Write the next turn of each episode.

        Args:
            observations: Observations, as `agile_gym.envs.contract` has them.
            infos: Their ``info``.

        Returns:
            One text an observation; a `GivenUp` where an episode cannot go on.
        """
        ...


@runtime_checkable
class RecordingPolicy(Policy, Protocol):
    """A policy that records its usage in an episode, and the tokens that it sampled."""

    def finish(self, slot: int) -> PolicyRecord:
        """Return the record of the episode that was played in a slot, which has ended, and drop the episode."""
        ...


def slot_of(info: dict[str, Any], position: int) -> int:
    """Return the slot of the batch that an ``info`` belongs to.

    Args:
        info: An observation's ``info``.
        position: Its position in the batch, which is the slot where ``info["slot"]`` does not name one: in a loop of
            one's own, or over a vector environment, positions do not change.
    """
    return int(info.get("slot", position))


_GREY = 128
"""Value of the pixels of a blanked look, in each channel."""


def blank_look(observation: Observation, info: Mapping[str, Any]) -> tuple[Observation, dict[str, Any]]:
    """Return an observation and its ``info`` whose images are uniform grey, of the same sizes; the rest is the same.

    A policy that is given each observation of an episode after the first one so plays without looks: boards, crops and
    zooms show it nothing. `agile_gym.rollout.EpisodeSpec` has this as an option.

    Args:
        observation: The observation; it is not changed.
        info: Its ``info``; likewise.
    """
    height, width = observation["image_size"]
    canvas = np.zeros_like(observation["image"])
    canvas[:height, :width] = _GREY
    images = tuple(np.full_like(image, _GREY) for image in info["images"])
    return {**observation, "image": canvas}, {**info, "images": images}


class FunctionPolicy:
    """A policy made of a plain function from an observation to a text."""

    def __init__(self, function: Callable[[Observation], str]) -> None:
        """Wrap a function.

        Args:
            function: Takes an observation and returns the text of a turn.
        """
        self._function = function

    def reset(self, seed: int | None = None) -> None:
        """Do nothing: a function has no memory."""

    def act(self, observations: Sequence[Observation], infos: Sequence[dict[str, Any]]) -> list[str]:
        """Call the function for each observation."""
        return [self._function(observation) for observation in observations]


PolicyLike = Policy | type[Policy] | Callable[[Observation], str]
POLICIES: dict[str, str | Callable[..., PolicyLike]] = {
    "api": "agile_gym.policies.api:ChatAPIPolicy",
    "edge": "agile_gym.policies:EdgePolicy",
    "hf": "agile_gym.policies.model:HFVLMPolicy",
    "oracle": "agile_gym.policies:OraclePolicy",
    "random": "agile_gym.policies:RandomPolicy",
    "vllm": "agile_gym.policies.model:VLLMPolicy",
}
"""Makers of policies by name, or ``"module:attribute"`` of one. ``"NAME:TEXT"`` hands the text to the maker."""


def register_policy(name: str, maker: str | Callable[..., PolicyLike]) -> None:
    """Register a policy under a name, for `make_policy` and the command line.

    Args:
        name: The name; letters, digits, ``-`` and ``_``.
        maker: A class or function that makes the policy, or ``"module:attribute"`` of one.

    Raises:
        ConfigurationError: If the name is taken or not allowed.
    """
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigurationError(f"{name!r} cannot name a policy; use letters, digits, '-' and '_'.")
    if name in POLICIES and POLICIES[name] != maker:
        raise ConfigurationError(f"There is a policy {name!r} already; choose another name.")
    POLICIES[name] = maker


def as_policy(policy: object) -> Policy:
    """Return a policy as it is, or a function ``observation -> str`` as a policy.

    Raises:
        ConfigurationError: If it is neither.
    """
    if isinstance(policy, Policy) and not isinstance(policy, type):
        return policy
    if callable(policy) and not isinstance(policy, type):
        return FunctionPolicy(cast(Callable[[Observation], str], policy))
    raise ConfigurationError(
        f"{policy!r} is not a policy: give an object with reset(seed) and act(observations, infos), or a function that "
        "takes an observation and returns a text."
    )


def make_policy(name: str, **options: Any) -> Policy:  # noqa: ANN401 -- the policy's own options
    """Make a policy by its name or by ``"module:attribute"``.

    Args:
        name: A registered name, such as ``"edge"``; a registered name with its maker's first argument, such as
            ``"hf:PATH"``, ``"vllm:PATH"`` or ``"api:MODEL"``; or ``"module:attribute"``, where to find a class that
            makes a policy, a policy, or a function ``observation -> str``.
        **options: Passed on to the class.

    Returns:
        The policy.

    Raises:
        ConfigurationError: If there is no such policy, or it does not take these options.
        MissingDependencyError: If it needs a package that is not installed.
    """
    maker, given = _find(name, options)
    return as_policy(maker if given is None else cast(Callable[..., Any], maker)(*given, **options))


def check_policy(name: str, **options: Any) -> None:  # noqa: ANN401 -- the policy's own options
    """Check that there is a policy of a name, and that it takes some options, without making it.

    Args:
        name: As for `make_policy`.
        **options: Likewise.

    Raises:
        ConfigurationError: If there is no such policy, or it does not take these options.
        MissingDependencyError: If it needs a package that is not installed.
    """
    maker, given = _find(name, options)
    if given is None:
        as_policy(maker)


def _find(name: str, options: dict[str, Any]) -> tuple[object, tuple[str, ...] | None]:
    """Return a policy's maker and its positional arguments, or a policy and None."""
    kind, colon, text = name.partition(":")
    registered = name in POLICIES or (bool(colon) and kind in POLICIES)
    given = (text,) if registered and colon else ()
    maker = _load(POLICIES[kind], name) if registered else _load(name, name)
    if isinstance(maker, type) or (registered and callable(maker)):
        fill = name if registered and not colon else None
        check_call(cast(Callable[..., Any], maker), options, f"policy {name!r}", given, fill=fill)
        return maker, given
    if options or given:
        raise ConfigurationError(f"The policy {name!r} is not a class; it takes no options.")
    return maker, None


def _load(maker: object, name: str) -> object:
    """Return a maker, which may be given as ``"module:attribute"``."""
    if not isinstance(maker, str):
        return maker
    module, colon, attribute = maker.partition(":")
    if not colon:
        raise ConfigurationError(
            f"There is no policy {name!r}. {did_you_mean(name, POLICIES)} 'module:attribute' names one of your own."
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except AgileGymError:
        raise
    except (ImportError, AttributeError, ValueError) as error:
        near = [kind for kind in difflib.get_close_matches(module, POLICIES, n=1) if maker == name]
        hint = f" Did you mean '{near[0]}:{attribute}'?" if near else ""
        raise ConfigurationError(f"The policy {name!r} cannot be loaded: {error}.{hint}") from error


_ALSO: dict[str, str] = dict.fromkeys(("RandomPolicy", "OraclePolicy"), " and VisualQA")


def jigsaw_task(info: dict[str, Any], policy: str) -> JigsawTask:
    """Return the task of a jigsaw, for a policy that plays nothing else.

    Raises:
        ConfigurationError: If it is the ``info`` of another environment.
    """
    task = info.get("task")
    if not isinstance(task, JigsawTask):
        raise ConfigurationError(
            f"{policy} plays the jigsaw{_ALSO.get(policy, '')} only; give another environment a policy of its own, "
            "such as 'hf:PATH', 'api:MODEL' or 'module:Class'."
        )
    return task


class RandomPolicy:
    """Policy of uniform random answers: right with probability 1/n! (times 1/4^n for turned pieces).

    To a question about pictures it answers with a random option, yes or no, or a number. The answer depends on the
    image and on the seed only: that of the episode, ``info["policy_seed"]``, if there is one, else that of the policy.
    So it is the same in every batch, on every worker and after an interruption.
    """

    def __init__(self, seed: int | None = None) -> None:
        """Make the policy.

        Args:
            seed: Seed of the answers, at least 0; None draws one.
        """
        self.reset(seed)

    def reset(self, seed: int | None = None) -> None:
        """Seed the answers.

        Raises:
            ConfigurationError: If the seed is not a whole number of at least 0, or None.
        """
        self._seed = int(np.random.SeedSequence(check_seed(seed)).generate_state(1)[0])

    def act(self, observations: Sequence[Observation], infos: Sequence[dict[str, Any]]) -> list[str]:
        """Write an answer for each episode."""
        texts: list[str] = []
        for observation, info in zip(observations, infos, strict=True):
            image: NDArray[np.uint8] = observation["image"]
            seed: int = info.get("policy_seed", self._seed)
            rng = np.random.default_rng([seed, zlib.crc32(np.ascontiguousarray(image).data)])
            if is_question(info):
                texts.append(guess(info, rng))
                continue
            task = jigsaw_task(info, "RandomPolicy")
            names = task.names
            places: list[int] = rng.permutation(len(names)).tolist()
            order = tuple(names[place] for place in places)
            turns = tuple((rng.integers(4, size=len(names)) * 90).tolist()) if task.rotations else None
            texts.append(write_answer(Answer(order, turns), "I guess."))
        return texts


class OraclePolicy:
    """Policy of right answers, from an environment with ``reveal=True``."""

    def __init__(self, *, think: str | None = None, look: bool = False) -> None:
        """Set the thought that it writes.

        Args:
            think: The thought of the answer, perhaps empty; None chooses one.
            look: True to look at the part of a picture that holds the answer, before a question about it is answered.
        """
        self._think, self._look = think, look

    def reset(self, seed: int | None = None) -> None:
        """Do nothing: the solution comes with every step."""

    def act(self, observations: Sequence[Observation], infos: Sequence[dict[str, Any]]) -> list[str]:
        """Write the right answer for each episode.

        Raises:
            ConfigurationError: If the environment does not give the solution.
        """
        texts: list[str] = []
        for observation, info in zip(observations, infos, strict=True):
            if is_question(info):
                texts.append(look_or_answer(observation, info, self._think, look=self._look))
                continue
            jigsaw_task(info, "OraclePolicy")
            if "solution" not in info:
                raise ConfigurationError("OraclePolicy needs the solution: make the environment with reveal=True.")
            solution: list[Any] = info["solution"]
            rotated = not isinstance(solution[0], str)
            names = tuple(entry[0] for entry in solution) if rotated else tuple(solution)
            answer = Answer(names, tuple(entry[1] for entry in solution) if rotated else None)
            texts.append(write_answer(answer, "I know the solution." if self._think is None else self._think))
        return texts
