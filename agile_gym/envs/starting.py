"""How an episode begins: the options and limits of a reset, checked, and the puzzle that is drawn from a seed."""

from __future__ import annotations

import operator
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from agile_gym.arguments import plain
from agile_gym.envs.config import JigsawRules
from agile_gym.errors import ConfigurationError, ImageError, did_you_mean
from agile_gym.images import ImageSource, decode_image
from agile_gym.puzzle.board import JigsawPuzzle, parse_level, sample_puzzle
from agile_gym.puzzle.layout import BoardLayout
from agile_gym.puzzle.photo import Window, choose_window, cut_pieces, draw_labels, resize

__all__ = ["ResetOptions", "Start", "check_reset_options", "draw_start", "enclosing_limit"]

_NAMES = ("image", "level", "permutation", "turns")
_MAX_REDRAWS = 100


@dataclass(frozen=True)
class ResetOptions:
    """What a reset fixes instead of drawing it.

    Attributes:
        photo: The photograph and its content hash ("" for an array), or None.
        levels: Levels to draw from, or None for any unsolved permutation.
        home: The permutation, or None.
        turns: The degrees by which pieces must be turned, or None.
    """

    photo: tuple[NDArray[np.uint8], str] | None
    levels: tuple[int, ...] | None
    home: tuple[int, ...] | None
    turns: tuple[int, ...] | None


@dataclass(frozen=True)
class Start:
    """What an episode begins with.

    Attributes:
        layout: Sizes of the board.
        puzzle: The permutation to be undone.
        pieces: (pieces, piece_height, piece_width, 3) uint8, read-only.
        reference: (H, W, 3) uint8, the whole picture, read-only; None if it is not shown.
        image_id: SHA-256 of the photograph; "" for an array given to the reset.
    """

    layout: BoardLayout
    puzzle: JigsawPuzzle
    pieces: NDArray[np.uint8]
    reference: NDArray[np.uint8] | None
    image_id: str


def check_reset_options(rules: JigsawRules, source: ImageSource, options: Mapping[str, Any] | None) -> ResetOptions:
    """Check the options of a reset before anything is drawn or changed.

    Args:
        rules: The checked options of the environment.
        source: Its photographs.
        options: ``image`` (an index or an array), ``level``, ``permutation`` (the place where each piece belongs) and
            ``turns`` (degrees for each piece).

    Returns:
        What they fix.

    Raises:
        ConfigurationError: For an unknown or unsuitable option.
    """
    if options is not None and not isinstance(options, Mapping):
        raise ConfigurationError(f"options={options!r} is not a dictionary; its keys can be {', '.join(_NAMES)}.")
    given = dict(options or {})
    for key in given:
        if key not in _NAMES:
            raise ConfigurationError(f"reset has no option {key!r}. {did_you_mean(key, _NAMES)}")
    count = rules.rows * rules.cols
    home = _whole_numbers("permutation", given["permutation"]) if "permutation" in given else None
    turns = _whole_numbers("turns", given["turns"]) if "turns" in given else None
    if turns is not None and any(turns) and not rules.config.rotations:
        raise ConfigurationError("turns can be given only to an environment made with rotations=True.")
    JigsawPuzzle(rules.rows, rules.cols, home or tuple(range(count)), turns or (0,) * count)
    levels = parse_level(plain(given["level"]), count) if "level" in given else rules.levels
    photo = _given_photo(source, given["image"]) if given.get("image") is not None else None
    return ResetOptions(photo, levels, home, turns)


def draw_start(rules: JigsawRules, source: ImageSource, rng: np.random.Generator, given: ResetOptions) -> Start:
    """Draw a puzzle: photograph, crop and permutation, all from one stream of random numbers.

    Args:
        rules: The checked options of the environment.
        source: Its photographs.
        rng: Source of all randomness.
        given: What is fixed.

    Returns:
        The puzzle.

    Raises:
        ImageError: If no photograph can be read.
    """
    config = rules.config
    photo, image_id = given.photo or _drawn_photo(source, rng)
    size = (photo.shape[0], photo.shape[1])
    layout = rules.layout_for(size)
    aspect = (layout.piece_width * rules.cols) / (layout.piece_height * rules.rows)
    window = choose_window(rng, size, aspect, rules.crop_scale)
    drawn = sample_puzzle(rng, rules.rows, rules.cols, given.levels, rotations=config.rotations)
    puzzle = JigsawPuzzle(rules.rows, rules.cols, given.home or drawn.home, given.turns or drawn.turns)
    pieces = cut_pieces(photo, window, layout, puzzle, erode=config.erode)
    if config.labels:
        draw_labels(pieces)
    pieces.setflags(write=False)
    reference = _reference(photo, window, layout) if config.reference_image else None
    return Start(layout, puzzle, pieces, reference, image_id)


def enclosing_limit(env: gymnasium.Env[Any, Any]) -> int | None:
    """Return after how many steps a `TimeLimit` ends the episode that is being reset; call it within ``reset``.

    `TimeLimit` truncates from outside, where it cannot pay what an episode without an answer costs, so the environment
    has to end the episode itself. Gymnasium shows a wrapper to nothing below it: `gymnasium.make` leaves
    ``max_episode_steps`` out of the spec that it gives to the environment. But a wrapper that resets the environment is
    among the callers.

    Args:
        env: The environment that is being reset.

    Returns:
        The limit, the lowest of several, or None.
    """
    limits: list[int] = []
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage] -- its documented name
    while frame is not None:
        if frame.f_code.co_name == "reset":
            caller: Any = frame.f_locals.get("self")
            if isinstance(caller, TimeLimit) and cast(Any, caller).unwrapped is env:
                limits.append(cast(Any, caller)._max_episode_steps)
        frame = frame.f_back
    return min(limits, default=None)


def _given_photo(source: ImageSource, image: object) -> tuple[NDArray[np.uint8], str]:
    if isinstance(image, int | np.integer) and not isinstance(image, bool):
        index = int(cast(int, image))
        if not 0 <= index < len(source):
            raise ConfigurationError(f"image={index} does not exist; there are images 0 to {len(source) - 1}.")
        return source.load(index), source.content_hash(index)
    return decode_image(image), ""  # pyright: ignore[reportArgumentType] -- it says itself what it takes


def _drawn_photo(source: ImageSource, rng: np.random.Generator) -> tuple[NDArray[np.uint8], str]:
    problem: ImageError | None = None
    for _ in range(_MAX_REDRAWS):
        index = int(rng.integers(len(source)))
        try:
            return source.load(index), source.content_hash(index)
        except ImageError as error:
            problem = error
    raise ImageError(f"None of {_MAX_REDRAWS} images drawn could be read. The last: {problem}")


def _reference(photo: NDArray[np.uint8], window: Window, layout: BoardLayout) -> NDArray[np.uint8]:
    top, left, rows, cols = window
    part = photo[top : top + rows, left : left + cols]
    reference = resize(part, layout.rows * layout.piece_height, layout.cols * layout.piece_width)
    reference.setflags(write=False)
    return reference


def _whole_numbers(name: str, values: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(operator.index(value) for value in values)
    except TypeError:
        raise ConfigurationError(f"{name}={values!r} is not a list of whole numbers, one a piece.") from None
