"""Searches for what makes an episode fit a model's context: smaller images, fewer of them, fewer or shorter turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import lcm
from typing import Any, cast

from agile_gym.envs.config import DEFAULT_IMAGE_SIZE, JigsawConfig, JigsawRules, resolve
from agile_gym.errors import ConfigurationError
from agile_gym.policies.vlm.chat import ChatFormat
from agile_gym.puzzle.layout import BoardLayout
from agile_gym.rollout.token_plan import ImageCosts, Size, TokenPlan, board_size, plan_tokens

__all__ = ["Advice", "advise"]

_SIZES = 32
"""How many image sizes are tried, about."""
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


def advise(chat: ChatFormat, options: Mapping[str, Any], plan: TokenPlan) -> Advice:
    """Search for changes that make an episode fit, whatever feedback its turns get.

    Args:
        chat: The model's chat format.
        options: The options that the plan was made with.
        plan: A plan that does not fit.

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
        image_size=next(_fitting_sizes(costs, options, plan, count), None),
        window=next(windows, None),
        turns=next(turns, None),
        new_tokens=spare if enough else None,
    )
    if advice.image_size is not None or advice.window is not None or images < 2:
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
    that promises to fit.
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
