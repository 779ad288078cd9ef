"""`TurnVectorEnv`: many episodes in one process, drawn straight into one batch of observations and infos."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from agile_gym.envs.spaces import CanvasPool
from agile_gym.envs.turn_env import TurnEnv, check_render_mode, last_observation, render_frame
from agile_gym.envs.turns import StepResult, check_action
from agile_gym.errors import ConfigurationError, check_seed, is_whole, plain

__all__ = ["TurnVectorEnv", "batch_infos"]

_SCALARS = frozenset((int, float, bool))


def batch_infos(infos: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Batch infos as `gymnasium.vector.VectorEnv` does one by one, which costs more than a turn.

    Args:
        infos: One an environment; None where there is none.

    Returns:
        For each key a (num_envs,) array of its values, of a numeric or bool type where the first value that is not None
        has one, else of objects; dictionaries are batched likewise, except under ``final_obs``. Under ``_key`` a
        (num_envs,) bool array marks the environments that have it.
    """
    batched: dict[str, Any] = {}
    first = infos[0]
    if first is not None and all(info is not None and info.keys() == first.keys() for info in infos):
        given = cast(Sequence[Mapping[str, Any]], infos)
        everywhere = np.ones(len(infos), np.bool_)
        for key in first:
            batched[key] = _batch(key, [info[key] for info in given])
            batched[f"_{key}"] = everywhere  # one array for all keys, as each costs as much as the values
        return batched
    for key in dict.fromkeys(key for info in infos if info is not None for key in info):
        present = np.array([info is not None and key in info for info in infos])
        values = [info[key] if info is not None and key in info else None for info in infos]
        batched[key] = _batch(key, values)
        batched[f"_{key}"] = present
    return batched


def _batch(key: str, values: list[Any]) -> Any:  # noqa: ANN401 -- an array, or a dictionary
    """Batch the values of one key; None stands where an environment has none."""
    first = values[0]
    if first is None:
        first = next((value for value in values if value is not None), None)
    kind = cast(type[Any], type(first))
    if kind in _SCALARS:
        return np.array([kind() if value is None else value for value in values] if None in values else values, kind)
    if kind is dict and key != "final_obs":
        return batch_infos(values)
    column = np.empty(len(values), object)  # filled one by one: numpy would unpack tuples
    for index, value in enumerate(values):
        column[index] = value
    return column


MAX_ENVS = 100_000


class TurnVectorEnv(VectorEnv[dict[str, Any], Sequence[str], NDArray[Any]]):
    """Base of environments that step ``num_envs`` episodes together, as that many of ``single`` play them.

    Attributes:
        single: The environment, whose spaces and options are these, batched.
        episodes: The episodes.
    """

    metadata: dict[str, Any] = {**TurnEnv.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 -- as in Gymnasium
    single: ClassVar[type[TurnEnv[Any, Any]]]

    def __init__(
        self,
        num_envs: int = 1,
        *,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **options: Any,  # noqa: ANN401 -- see the class
    ) -> None:
        """Make the environment.

        Args:
            num_envs: Number of episodes, at least 1.
            render_mode: ``"rgb_array"``, ``"ansi"`` or None; `render` then returns one entry an environment.
            autoreset_mode: Time at which an episode that has ended is reset.
            max_episode_steps: Turns after which episodes end, if these are fewer than ``max_turns``;
                `gymnasium.make_vec` gives it instead of a `TimeLimit` around each environment.
            **options: Those of ``single``.

        Raises:
            ConfigurationError: If an option is unknown or has a value that is not allowed.
            ImageError: If no images are found.
        """
        num_envs = plain(num_envs)
        if not is_whole(num_envs, MAX_ENVS):
            raise ConfigurationError(f"num_envs={num_envs!r} is not allowed; give a whole number, 1 to {MAX_ENVS}.")
        check_render_mode(render_mode, ("rgb_array", "ansi"))
        max_episode_steps = plain(max_episode_steps)
        if max_episode_steps is not None and not is_whole(max_episode_steps, sys.maxsize):
            raise ConfigurationError(
                f"max_episode_steps={max_episode_steps!r} is not allowed; give a whole number of at least 1, or None."
            )
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError:
            modes = [mode.value for mode in AutoresetMode]
            raise ConfigurationError(
                f"autoreset_mode={autoreset_mode!r} is not allowed; give one of {modes}."
            ) from None
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.num_envs = num_envs
        self._max_steps = max_episode_steps
        self.render_mode = render_mode
        self.episodes = self.single.make_episodes(options, num_envs)
        self.single_observation_space, self.single_action_space = self.single.make_spaces(self.episodes[0])
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._no_options = self.episodes[0].check_options(None)
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._over = np.zeros(num_envs, np.bool_)
        self._begun = False
        self._canvases = CanvasPool((num_envs, *self.episodes[0].rules.canvas, 3))
        self._last: dict[str, Any] | None = None

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: Environment ``i`` gets ``seed + i``, or entry ``i`` of a sequence.
            options: As for ``single``; with ``reset_mask``, a (num_envs,) bool array, only some are reset.

        Returns:
            The first observations, and ``infos``.

        Raises:
            ConfigurationError: For a wrong number of seeds, or an unsuitable mask or option.
        """
        rest = dict(options) if isinstance(options, Mapping) else options
        mask = self._mask(rest.pop("reset_mask", None) if isinstance(rest, dict) else None)
        given = self.episodes[0].check_options(rest)
        seeds = self._seeds(seed)
        canvases = self._canvases.take()
        if not mask.all():
            canvases[~mask] = self._last["image"][~mask] if self._last else 0
        results: list[StepResult | None] = [None] * self.num_envs
        for i in np.flatnonzero(mask).tolist():
            results[i] = self._reset_one(i, canvases[i], seeds[i], given)
        self._over &= ~mask
        self._begun = all(episode.begun for episode in self.episodes)
        observation = self._observe(canvases, results)
        return observation, batch_infos([result and result.info for result in results])

    def step(
        self, actions: Sequence[str]
    ) -> tuple[dict[str, Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Play a turn in each environment.

        Args:
            actions: One string an environment.

        Returns:
            Observations, rewards, terminations, truncations and ``infos``.

        Raises:
            ConfigurationError: If there is not one action an environment, or one is not a string.
            gymnasium.error.ResetNeeded: If an episode has not begun, or has ended, autoreset is disabled and it was not
                reset.
        """
        if not isinstance(actions, list | tuple | np.ndarray):
            raise ConfigurationError(f"The actions are a {type(actions).__name__}; give a list or tuple of texts.")
        if len(actions) != self.num_envs:
            raise ConfigurationError(
                f"{len(actions)} actions were given for {self.num_envs} environments; give one each."
            )
        over: list[bool] = self._over.tolist()
        # Everything is checked before anything is done.
        for action in actions:
            check_action(action)
        if not self._begun:
            raise ResetNeeded("Some episodes have not begun: call reset() before step().")
        if self.autoreset_mode is not AutoresetMode.NEXT_STEP and any(over):
            raise ResetNeeded(
                f"The episode of environment {over.index(True)} has ended: call reset(options={{'reset_mask': ...}})."
            )
        canvases = self._canvases.take()
        results: list[StepResult] = []
        rewards: list[float] = []
        terminated: list[bool] = []
        truncated: list[bool] = []
        for i, (episode, canvas) in enumerate(zip(self.episodes, canvases, strict=True)):
            result = self._reset_one(i, canvas, None, self._no_options) if over[i] else episode.step(actions[i], canvas)
            rewards.append(result.reward)
            terminated.append(result.terminated)
            truncated.append(result.truncated)
            if episode.done and self.autoreset_mode is AutoresetMode.SAME_STEP:
                result = self._reset_in_the_same_step(i, canvas, result)
            results.append(result)
        self._over = np.array([episode.done for episode in self.episodes])
        observation = self._observe(canvases, results)
        infos = batch_infos([result.info for result in results])
        return observation, np.array(rewards), np.array(terminated), np.array(truncated), infos

    def _reset_in_the_same_step(self, slot: int, canvas: NDArray[np.uint8], last: StepResult) -> StepResult:
        """Reset an episode that has just ended, and keep its last observation and info in the new info."""
        observation = {
            "image": canvas.copy(),
            "image_size": np.array(last.image_size, np.int64),
            "text": last.text,
        }
        last.info["images"] = tuple(image.copy() for image in last.info["images"])
        result = self._reset_one(slot, canvas, None, self._no_options)
        result.info.update(final_obs=observation, final_info=last.info)
        return result

    def render(self) -> tuple[Any, ...] | None:
        """Return each environment's last observation, as `TurnEnv.render` does.

        Raises:
            gymnasium.error.ResetNeeded: If there is nothing to render yet.
        """
        last = last_observation(self.render_mode, self._last, "make_vec")
        if last is None:
            return None
        parts = zip(last["image"], last["image_size"], last["text"], strict=True)
        return tuple(render_frame(self.render_mode, image, size, text) for image, size, text in parts)

    def _reset_one(self, i: int, canvas: NDArray[np.uint8], seed: int | None, options: object) -> StepResult:
        rng = self._rngs[i]
        if rng is None or seed is not None:
            rng, _ = seeding.np_random(seed)
            self._rngs[i] = rng
        return self.episodes[i].reset(rng, options, canvas, self._max_steps)

    def _seeds(self, seed: Any) -> list[int | None]:  # noqa: ANN401 -- one seed, or one each
        if seed is None or not hasattr(seed, "__len__"):
            first = check_seed(seed)
            return [None if first is None else first + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs or isinstance(seed, str):
            raise ConfigurationError(f"{len(seed)} seeds were given for {self.num_envs} environments; give one each.")
        return [check_seed(entry) for entry in seed]

    def _mask(self, mask: object) -> NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        array: NDArray[Any] = cast(Any, mask) if isinstance(mask, np.ndarray) else np.zeros(0)
        if array.dtype != np.bool_ or array.shape != (self.num_envs,) or not array.any():
            raise ConfigurationError(
                f"reset_mask={mask!r} is not allowed; give a bool array of shape ({self.num_envs},) with a True in it."
            )
        return array

    def _observe(self, canvases: NDArray[np.uint8], results: Sequence[StepResult | None]) -> dict[str, Any]:
        sizes = np.zeros((self.num_envs, 2), np.int64)
        texts: list[str] = []
        for i, result in enumerate(results):
            if result is None:
                sizes[i] = self._last["image_size"][i] if self._last else 0
                texts.append(self._last["text"][i] if self._last else "")
            else:
                sizes[i] = result.image_size
                texts.append(result.text)
        observation = {"image": canvases, "image_size": sizes, "text": tuple(texts)}
        if self.render_mode is not None or self.autoreset_mode is AutoresetMode.DISABLED:
            self._last = observation
        return observation
