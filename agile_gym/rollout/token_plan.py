"""Predicts the tokens of an episode: whether it fits a model's context, and what to change if it does not.

Nothing is estimated: an episode is played in the environment, and its texts and images go through the model's own chat
template and processor, as `agile_gym.policies.vlm.chat.ChatFormat` does in a rollout. The model itself is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.primitives import Observe, Primitive, Swap
from agile_gym.actions.prompt import HIDDEN_IMAGE, IMAGE_MARK
from agile_gym.arguments import is_whole
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ConfigurationError
from agile_gym.policies.vlm.chat import ChatFormat
from agile_gym.puzzle.layout import BoardLayout

__all__ = ["Feedback", "ImageCosts", "Size", "TokenPlan", "board_size", "plan_tokens"]

Size = tuple[int, int]
"""Height and width, in pixels."""
MAX_COUNT = 10**9
_SHARES = (1.0, 0.75, 0.5)
"""Sides of the images tried for the costliest one, as shares of the canvas."""


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
    """The tokens of an episode in which each turn but the last asks for an image.

    Attributes:
        opening: Tokens of the first prompt, images included.
        feedback: What follows each turn but the last.
        new_tokens: Tokens that the model writes in a turn.
        window: How many of the images of earlier turns stay in the context; None keeps all.
        context: The model's context, in tokens.
        costliest_size: Height and width of the costliest image, in pixels.
        shortest_turn: Tokens of a turn that swaps two pieces and looks at the board, without any reasoning.
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
            costliest: Whether each turn gets the feedback that costs most, rather than the board.
        """
        rest = [max(entry.image, entry.error) if costliest else entry.board for entry in self.feedback]
        return [self.opening, *rest]

    def contexts(self, *, costliest: bool = False) -> list[int]:
        """Return the tokens that the model reads at each turn, with only the last images kept if there is a window.

        Args:
            costliest: Whether each turn gets the feedback that costs most, rather than the board.
        """
        opening, *added = self.added(costliest=costliest)
        dropped = [max(entry.hidden, entry.error) if costliest else entry.hidden for entry in self.feedback]
        contexts: list[int] = []
        for turn in range(self.turns):
            old = 0 if self.window is None else max(0, turn - self.window)
            contexts.append(opening + sum(dropped[:old]) + sum(added[old:turn]) + turn * self.new_tokens)
        return contexts

    def needed(self, *, costliest: bool = False) -> int:
        """Return the largest number of tokens that are in the context at once, what the model writes included."""
        return max(self.contexts(costliest=costliest)) + self.new_tokens

    def fits(self, *, costliest: bool = False) -> bool:
        """Tell whether the episode fits the model's context."""
        return self.needed(costliest=costliest) <= self.context


class ImageCosts:
    """The tokens of images, by size; each size is counted once."""

    def __init__(self, chat: ChatFormat) -> None:
        """Begin to count.

        Args:
            chat: The model's chat format.
        """
        self._chat = chat
        self._known: dict[Size, int] = {}

    def __getitem__(self, size: Size) -> int:
        """Return the tokens of a message that holds one image of a size; only differences mean something."""
        if size not in self._known:
            self._known[size] = len(self._chat.follow_up(IMAGE_MARK, [_blank(size)]).ids)
        return self._known[size]

    def costliest(self, board: Size, canvas: Size) -> Size:
        """Return the size, among many up to the canvas, of the image with the most tokens; the largest of these.

        What a processor makes of an image depends on its sides: some cut it into tiles, some only look at their ratio.

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
) -> TokenPlan:
    """Count the tokens of an episode.

    It is played in the environment: each turn but the last swaps two pieces and looks at the board. The costliest
    feedback is found among images of many sizes and some mistakes with long explanations. The names of results, which a
    model chooses, are taken to be the usual ones.

    Args:
        chat: The model's chat format.
        options: The options of `JigsawConfig`, ``max_turns`` among them. Photographs are only opened if sizes depend
            on them.
        context: The model's context, in tokens.
        new_tokens: Tokens that the model writes in a turn, at most.
        window: How many of the images of earlier turns stay in the context; None keeps all. Those of the first prompt
            always stay.
        costs: What images cost, if it is to be remembered for other plans.

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
    if options.get("max_pixels") is None:  # sizes do not depend on the photograph, so that any will do
        options = {**options, "images": [_blank((64, 64))], "split": None, "equal_pieces": "names"}
    env = JigsawVisionEnv(**options)
    observation, info = env.reset(seed=0)
    opening = len(chat.opening(observation["text"], info["images"]).ids)
    largest = costs.costliest(board_size(env.episode.layout), env.rules.canvas)
    moves: list[Primitive] = [Swap(0, env.rules.rows * env.rules.cols - 1), Observe()]
    turn = env.dialect.write(moves, env.episode.workspace, "")
    shortest = len(chat.tokenizer(turn, add_special_tokens=False)["input_ids"])
    error = _longest_error(chat, options)
    feedback: list[Feedback] = []
    for _ in range(env.rules.config.max_turns - 1):
        observation, _, _, _, info = env.step(env.dialect.write(moves, env.episode.workspace, ""))
        text: str = observation["text"]
        board = len(chat.follow_up(text, info["images"]).ids)
        image = len(chat.follow_up(text, [_blank(largest)]).ids)
        hidden = len(chat.follow_up(text.replace(IMAGE_MARK, HIDDEN_IMAGE), []).ids)
        feedback.append(Feedback(board, image, hidden, error))
    return TokenPlan(opening, tuple(feedback), new_tokens, window, context, largest, shortest)


def _longest_error(chat: ChatFormat, options: Mapping[str, Any]) -> int:
    """Return the tokens of the longest feedback to some mistakes, made in the first turns of an episode."""
    long: dict[str, Any] = {**options, "max_turns": 20, "reward": "paper"}
    env = JigsawVisionEnv(**long)
    env.reset(seed=0)
    tag = env.dialect.action_tag
    bodies = (
        *(json.dumps({"name": "crop", "arguments": {"image": "A", "box": box}}) for box in ([1, 1, 1, 1], "")),
        "crop(image_list[0], [1, 1, 1, 1])",
        "crop(image_list[0], [0, 0, 1, 1])\ncrop(nothing, [1, 1, 1, 1])",
        f'state = ["{"x" * 50}", "A", "a"]',
        json.dumps({"name": "arrange", "arguments": {"order": ["x" * 50, "A", "a"]}}),
        "import os",
        "{",
    )
    mistakes = ["", "<answer>A</answer>", "<code>", *(f"<think></think>\n<{tag}>{body}</{tag}>" for body in bodies)]
    texts: list[str] = []
    for mistake in mistakes:
        observation, _, terminated, _, info = env.step(mistake)
        if info["error"] is not None:
            texts.append(observation["text"])
        if terminated:
            env.reset(seed=0)
    return max(len(chat.follow_up(text, []).ids) for text in texts)


def board_size(layout: BoardLayout | None) -> Size:
    """Return the size of a board."""
    board = cast(BoardLayout, layout)  # there is one wherever an image size is given
    return board.height, board.width


def _blank(size: Size) -> NDArray[np.uint8]:
    return np.zeros((*size, 3), np.uint8)
