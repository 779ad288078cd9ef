"""Token plan of an episode: its fit into a model's context, and changes that make it fit.

Nothing is estimated: an episode is played in the environment, and its texts and images go through the model's own chat
template and processor, as `agile_gym.models.ChatFormat` does in a rollout. The model itself is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import lcm
from typing import Any, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.prompt import HIDDEN_IMAGE, IMAGE_MARK
from agile_gym.envs.contract import PlannedEnv, check_start, make_env
from agile_gym.envs.jigsaw.config import DEFAULT_IMAGE_SIZE, JigsawConfig, JigsawRules, resolve
from agile_gym.envs.jigsaw.env import JigsawVisionEnv
from agile_gym.errors import ConfigurationError, is_whole
from agile_gym.models.chat import ChatFormat
from agile_gym.puzzle.pixels import BoardLayout

__all__ = ["Advice", "Feedback", "ImageCosts", "Size", "TokenPlan", "advise", "board_size", "plan_tokens"]

Size = tuple[int, int]
"""Height and width, in pixels."""
MAX_COUNT = 10**9
_UNPLANNED_TURNS = 20
"""Turns of an episode of an environment without ``max_turns``; it may end before."""
_SHARES = (1.0, 0.75, 0.5)
"""Sides of the images tried for the costliest one, as fractions of the canvas."""


@dataclass(frozen=True)
class Feedback:
    """The tokens that are added between two turns of the model.

    Attributes:
        board: Tokens if the whole board is shown.
        image: Tokens if the image is shown that costs most.
        hidden: Tokens once the image was dropped from the context.
        error: Tokens if the turn could not be carried out: many words and no image.
    """

    board: int
    image: int
    hidden: int
    error: int


@dataclass(frozen=True)
class TokenPlan:
    """The tokens of an episode in which each turn but the last requests an image.

    Attributes:
        opening: Tokens of the first prompt, images included.
        feedback: Feedback after each turn but the last.
        new_tokens: Tokens that the model writes in a turn.
        window: Number of images of earlier turns that stay in the context; None keeps all.
        context: The model's context, in tokens.
        costliest_size: Height and width of the costliest image, in pixels.
        shortest_turn: Tokens of a turn that swaps two pieces and shows the board, without any reasoning.
    """

    opening: int
    feedback: tuple[Feedback, ...]
    new_tokens: int
    window: int | None
    context: int
    costliest_size: Size
    shortest_turn: int

    @property
    def turns(self) -> int:
        """Number of turns, the answer included."""
        return len(self.feedback) + 1

    def added(self, *, costliest: bool = False) -> list[int]:
        """Return the tokens that are added before each turn is written: the opening, then the feedback.

        Args:
            costliest: True if each turn gets the feedback that costs most, rather than the board.
        """
        rest = [max(entry.image, entry.error) if costliest else entry.board for entry in self.feedback]
        return [self.opening, *rest]

    def contexts(self, *, costliest: bool = False) -> list[int]:
        """Return the tokens that the model reads at each turn, with only the last images kept if there is a window.

        Args:
            costliest: True if each turn gets the feedback that costs most, rather than the board.
        """
        opening, *added = self.added(costliest=costliest)
        dropped = [max(entry.hidden, entry.error) if costliest else entry.hidden for entry in self.feedback]
        contexts: list[int] = []
        for turn in range(self.turns):
            old = 0 if self.window is None else max(0, turn - self.window)
            contexts.append(opening + sum(dropped[:old]) + sum(added[old:turn]) + turn * self.new_tokens)
        return contexts

    def needed(self, *, costliest: bool = False) -> int:
        """Return the largest number of tokens that are in the context at once, generated ones included."""
        return max(self.contexts(costliest=costliest)) + self.new_tokens

    def fits(self, *, costliest: bool = False) -> bool:
        """Return whether the episode fits the model's context."""
        return self.needed(costliest=costliest) <= self.context


class ImageCosts:
    """The tokens of images, by size; each size is counted once."""

    def __init__(self, chat: ChatFormat) -> None:
        """Start with no sizes counted.

        Args:
            chat: The model's chat format.
        """
        self._chat = chat
        self._known: dict[Size, int] = {}

    def __getitem__(self, size: Size) -> int:
        """Return the tokens of a message that holds one image of a size; only differences are meaningful."""
        if size not in self._known:
            self._known[size] = len(self._chat.follow_up(IMAGE_MARK, [_blank(size)]).ids)
        return self._known[size]

    def costliest(self, board: Size, canvas: Size) -> Size:
        """Return the size, among many up to the canvas, of the image with the most tokens; the largest of these.

        A processor's tokens for an image depend on its sides: some cut it into tiles, some use only their ratio.

        Args:
            board: Size of the board.
            canvas: Size of the canvas.
        """
        high, wide = canvas
        sizes = {(max(1, int(high * y)), max(1, int(wide * x))) for y in _SHARES for x in _SHARES}
        sizes |= {board, (min(canvas), min(canvas))}
        return max(sizes, key=lambda size: (self[size], size[0] * size[1], size))


def plan_tokens(
    chat: ChatFormat,
    options: Mapping[str, Any],
    *,
    context: int,
    new_tokens: int,
    window: int | None = None,
    costs: ImageCosts | None = None,
    env: str | None = None,
) -> TokenPlan:
    """Count the tokens of an episode.

    It is played in the environment: each turn but the last swaps two pieces and shows the board, or is another
    environment's usual turn (`agile_gym.envs.contract.PlannedEnv`). The costliest feedback is found among images of
    many sizes and some mistakes with long explanations. The names of results, which a model chooses, are taken to be
    the usual ones.

    Args:
        chat: The model's chat format.
        options: The options of the environment; of the jigsaw, those of `JigsawConfig`, ``max_turns`` among them.
            Photographs are only opened if sizes depend on them.
        context: The model's context, in tokens.
        new_tokens: Tokens that the model writes in a turn, at most.
        window: Number of images of earlier turns that stay in the context; None keeps all. Those of the first prompt
            always stay.
        costs: Token counts of images, to share them with other plans.
        env: Another environment than the jigsaw, as `agile_gym.envs.contract.find_env` reads it.

    Returns:
        The plan.

    Raises:
        ConfigurationError: If an option is not allowed.
    """
    for name, value in (("context", context), ("new_tokens", new_tokens)):
        if not is_whole(value, MAX_COUNT):
            raise ConfigurationError(f"{name}={value!r} is not allowed; give a number of tokens, at least 1.")
    if window is not None and not is_whole(window, MAX_COUNT):
        raise ConfigurationError(f"window={window!r} is not allowed; give a number of images, at least 1, or None.")
    costs = ImageCosts(chat) if costs is None else costs
    if env is None and options.get("max_pixels") is None:  # sizes do not depend on the photograph, so that any will do
        options = {**options, "images": [_blank((64, 64))], "split": None, "equal_pieces": "names"}
    made: gymnasium.Env[Any, Any] = JigsawVisionEnv(**options) if env is None else make_env(env, options)
    observation, info = made.reset(seed=0)
    check_start(made, observation, info)
    opening = len(chat.opening(observation["text"], info["images"]).ids)
    high, wide = (int(side) for side in observation["image_size"])
    largest = costs.costliest((max(1, high), max(1, wide)), observation["image"].shape[:2])
    inner: object = made.unwrapped
    shortest = 1
    if isinstance(inner, PlannedEnv):
        shortest = len(chat.tokenizer(inner.usual_turn(), add_special_tokens=False)["input_ids"])
    error = _longest_error(chat, options, env)
    feedback: list[Feedback] = []
    made.action_space.seed(0)
    for _ in range((inner.max_turns if isinstance(inner, PlannedEnv) else _UNPLANNED_TURNS) - 1):
        observation, _, terminated, truncated, info = made.step(_usual_turn(made))
        if terminated or truncated:
            break
        text: str = observation["text"]
        board = len(chat.follow_up(text, info["images"]).ids)
        image = len(chat.follow_up(text, [_blank(largest)] * text.count(IMAGE_MARK)).ids)
        hidden = len(chat.follow_up(text.replace(IMAGE_MARK, HIDDEN_IMAGE), []).ids)
        feedback.append(Feedback(board, image, hidden, error))
    return TokenPlan(opening, tuple(feedback), new_tokens, window, context, largest, shortest)


def _usual_turn(env: gymnasium.Env[Any, Any]) -> str:
    inner: object = env.unwrapped
    return inner.usual_turn() if isinstance(inner, PlannedEnv) else str(env.action_space.sample())


def _longest_error(chat: ChatFormat, options: Mapping[str, Any], name: str | None) -> int:
    """Return the tokens of the longest feedback to some mistakes, made in the first turns of an episode."""
    long: dict[str, Any] = {**options, "max_turns": 20, "reward": "paper"}
    env: gymnasium.Env[Any, Any] = JigsawVisionEnv(**long) if name is None else make_env(name, options)
    env.reset(seed=0)
    inner: object = env.unwrapped
    texts: list[str] = []
    for mistake in inner.mistakes() if isinstance(inner, PlannedEnv) else ("",):
        observation, _, terminated, truncated, info = env.step(mistake)
        if info.get("error") is not None and not info["images"]:
            texts.append(observation["text"])
        if terminated or truncated:
            env.reset(seed=0)
    return max((len(chat.follow_up(text, []).ids) for text in texts), default=0)


def board_size(layout: BoardLayout | None) -> Size:
    """Return the size of a board."""
    board = cast(BoardLayout, layout)  # there is one wherever an image size is given
    return board.height, board.width


def _blank(size: Size) -> NDArray[np.uint8]:
    return np.zeros((*size, 3), np.uint8)


_SIZES = 32
"""Approximate number of image sizes that are tried."""
_SHORT_EPISODE = 3
"""Turns of the prompt's worked example, which is cut in shorter episodes."""


@dataclass(frozen=True)
class Advice:
    """Changes any of which makes an episode fit, whatever its feedback; None where a change is not enough.

    Attributes:
        image_size: The largest image size (among multiples of a step) that fits.
        window: The largest number of kept images that fits.
        turns: The largest number of turns that fits.
        new_tokens: The largest number of new tokens a turn that fits, if a turn can be written with them at all.
        image_size_and_window: If neither is enough alone: the largest image size that fits if one image is kept.
    """

    image_size: int | None = None
    window: int | None = None
    turns: int | None = None
    new_tokens: int | None = None
    image_size_and_window: int | None = None


def advise(chat: ChatFormat, options: Mapping[str, Any], plan: TokenPlan, *, env: str | None = None) -> Advice:
    """Search for changes that make an episode fit, whatever feedback its turns get.

    Args:
        chat: The model's chat format.
        options: The options that the plan was made with.
        plan: A plan that does not fit.
        env: The environment that it was made for, if it is another one than the jigsaw: then no other image size or
            number of turns is tried.

    Returns:
        The changes; each was counted anew, as `plan_tokens` counts.
    """
    costs = ImageCosts(chat)

    def count(changes: Mapping[str, Any], window: int | None) -> TokenPlan:
        changed = {**options, **changes}
        return plan_tokens(chat, changed, context=plan.context, new_tokens=plan.new_tokens, window=window, costs=costs)

    images = plan.turns - 1
    largest = images if plan.window is None else min(plan.window, images)
    windows = (window for window in range(largest - 1, 0, -1) if replace(plan, window=window).fits(costliest=True))
    turns = (
        turns
        for turns in range(plan.turns - 1, 0, -1)
        if (turns <= _SHORT_EPISODE or replace(plan, feedback=plan.feedback[: turns - 1]).fits(costliest=True))
        and count({"max_turns": turns}, plan.window).fits(costliest=True)
    )
    spare = (plan.context - plan.needed(costliest=True)) // plan.turns + plan.new_tokens
    enough = spare >= plan.shortest_turn and replace(plan, new_tokens=spare).fits(costliest=True)
    advice = Advice(
        image_size=next(_fitting_sizes(costs, options, plan, count), None) if env is None else None,
        window=next(windows, None),
        turns=next(turns, None) if env is None else None,
        new_tokens=spare if enough else None,
    )
    if advice.image_size is not None or advice.window is not None or images < 2 or env is not None:
        return advice
    both = _fitting_sizes(costs, options, replace(plan, window=1), count)
    return replace(advice, image_size_and_window=next(both, None))


def _fitting_sizes(
    costs: ImageCosts,
    options: Mapping[str, Any],
    plan: TokenPlan,
    count: Callable[[Mapping[str, Any], int | None], TokenPlan],
) -> Iterator[int]:
    """Yield the image sizes below the present one that make an episode fit, the largest first.

    Only the tokens of images change with their size, so that these are counted first, and all the rest only for a size
    that may fit.
    """
    config = JigsawConfig.from_options(options)
    size = DEFAULT_IMAGE_SIZE if config.image_size is None else config.image_size
    if not isinstance(size, int) or config.max_pixels is not None:
        return
    before = resolve(config)
    step = lcm(before.rows, before.cols)
    step *= max(1, size // (_SIZES * step))
    for smaller in range((size - 1) // step * step, 0, -step):
        try:
            after = resolve(replace(config, image_size=smaller))
        except ConfigurationError:  # pieces would be too small
            return
        pairs = zip(_first_sizes(after), _first_sizes(before), strict=True)
        opening = sum(costs[new] - costs[old] for new, old in pairs)
        board = costs[board_size(after.layout)] - costs[board_size(before.layout)]
        worst = costs[costs.costliest(board_size(after.layout), after.canvas)] - costs[plan.costliest_size]
        feedback = tuple(
            replace(entry, board=entry.board + board, image=entry.image + worst) for entry in plan.feedback
        )
        guess = replace(plan, opening=plan.opening + opening, feedback=feedback)
        if guess.fits(costliest=True) and count({"image_size": smaller}, plan.window).fits(costliest=True):
            yield smaller


def _first_sizes(rules: JigsawRules) -> list[Size]:
    """Return the sizes of the images of the first observation."""
    config, layout = rules.config, cast(BoardLayout, rules.layout)
    sizes: list[Size] = []
    if config.initial_view != "board":
        sizes += [(layout.piece_height, layout.piece_width)] * (rules.rows * rules.cols)
    if config.initial_view != "pieces":
        sizes.append(board_size(layout))
    if config.reference_image:
        sizes.append((layout.rows * layout.piece_height, layout.cols * layout.piece_width))
    return sizes
