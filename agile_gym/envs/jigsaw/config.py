"""The options of the jigsaw environments, checked once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from agile_gym.actions.dialects import Dialect, get_dialect
from agile_gym.actions.prompt import PromptTemplate, read_prompt
from agile_gym.envs.reward import RewardConfig, get_reward
from agile_gym.envs.turns import TurnConfig, TurnRules
from agile_gym.errors import ConfigurationError, is_number, is_whole, require
from agile_gym.images.opening import ImagesLike
from agile_gym.puzzle.board import parse_grid, parse_level
from agile_gym.puzzle.pixels import (
    MAX_ASPECT,
    BoardLayout,
    fixed_layout,
    parse_size,
    scaled_layout,
    scaled_layout_bound,
)

__all__ = ["INITIAL_VIEWS", "JigsawConfig", "JigsawRules", "default_crop", "resolve", "smallest_photo"]

INITIAL_VIEWS = ("pieces", "board", "both")
EQUAL_PIECES = ("picture", "names")
DEFAULT_IMAGE_SIZE = 448
RANDOM_CROP = (0.25, 1.0)
MAX_PIXELS = 8192 * 4096
MAX_ERODE = 0.4
MAX_GAP = 1.0
LEAST_SCALE = 0.01


@dataclass(frozen=True)
class JigsawConfig(TurnConfig):
    """The options of `JigsawVisionEnv` and `JigsawVisionVectorEnv`.

    Attributes:
        grid: ``2`` (2 x 2), ``(2, 3)`` (rows, columns) or ``"2x3"``; from 1x2 to 10x10.
        level: Number of pieces that start in their place: a number, a list or range to draw from, ``"0-2"``, ``"all"``,
            or None for any unsolved permutation. A grid of n pieces has the levels 0 to n-2.
        images: Source of photographs: None or ``"builtin"``, a folder, a file, a list of files, arrays or PIL
            images, a Parquet file, ``"hf:NAME"`` or a Hugging Face dataset (see `agile_gym.images.open_images`). Those
            that have not a pixel for each piece are left out.
        split: ``"train"``, ``"test"`` or None for all images. Membership follows from each image's content; of two or
            more images, each split has one at least.
        test_fraction: Fraction of images that belong to the test split, above 0 and below 1.
        crop: The part of a photograph that becomes the puzzle: ``"center"`` (the largest part, centred), ``"random"``,
            or a range such as ``(0.25, 1.0)`` of the part's side as a fraction of the largest. None means ``"random"``
            for the built-in photographs, which are few, and ``"center"`` for others.
        image_size: Side, or (height, width), in pixels, of the part that is cut; rounded down to whole pieces. 448
            unless ``max_pixels`` is given.
        max_pixels: Keeps the photograph's aspect ratio (between 1:2 and 2:1) and scales it down to at most this many
            pixels, instead of ``image_size``. The canvas is then as large as the largest board can be.
        canvas_size: Side, or (height, width), in pixels, of the observation, if it shall be larger than the board, so
            that larger zooms fit.
        gap: White space between pieces as a fraction of a piece's side, 0 to 1 (AGILE: 0.02).
        labels: True if each piece's name is drawn on it.
        erode: Fraction of a piece that is cut away at each of its sides, 0 to 0.4, so that borders do not match any
            more.
        reference_image: True if the whole picture is shown at the start, as the image ``reference``.
        rotations: True if pieces are also turned by multiples of 90 degrees. Pieces are then square.
        equal_pieces: Rule for pieces that look alike, pixel for pixel as they are shown, but for labels:
            ``"picture"``: they may stand for each other, so that a board is right if it shows the right picture, and a
            level counts the places that look right; parts of photographs in which all pieces differ are drawn where
            there are any. ``"names"``: each piece has its own place, as in AGILE.
        initial_view: Images of the first text: each piece (AGILE), the board, or both.
        board_scale: Scale of boards as they are shown, at the start and when they are observed, above 0 to 1. Below 1
            they are thumbnails; crops and zooms of them, and pieces, are cut from the full board and show details.
        max_turns: Turns of an episode, the answer included (AGILE: 5).
        dialect: Dialect of actions: ``"code"``, ``"tools"``, or an object with the methods of `Dialect`.
        prompt: The text of the task: ``"full"`` (rules, functions and a worked example), ``"short"`` (a few words, for
            a model that is trained on it; feedback is then as short), or the path of a text file of your own in UTF-8,
            with fields in braces such as ``{rows}``, ``{turns}`` and, exactly once, ``{images}``. They are listed in
            `agile_gym.actions.prompt.FIELDS`; write ``{{`` and ``}}`` for braces themselves. The file is read once,
            when the environment is made. ``agile_gym/actions/prompt_full.txt`` is a good start.
        reward: ``"paper"``, ``"official_code"``, a mapping of settings, or a `RewardConfig`.
        reveal: True if ``info`` includes the solution, the level and the number of pieces in place.
    """

    title = "JigsawVision"
    grid: int | str | Sequence[int] = 2
    level: int | str | Sequence[int] | None = 0
    images: ImagesLike = None
    split: Literal["train", "test"] | None = None
    test_fraction: float = 0.2
    crop: Literal["center", "random"] | Sequence[float] | None = None
    image_size: int | Sequence[int] | None = None
    max_pixels: int | None = None
    canvas_size: int | Sequence[int] | None = None
    gap: float = 0.02
    labels: bool = False
    erode: float = 0.0
    reference_image: bool = False
    rotations: bool = False
    equal_pieces: Literal["picture", "names"] = "picture"
    initial_view: Literal["pieces", "board", "both"] = "pieces"
    board_scale: float = 1.0
    max_turns: int = 5
    dialect: str | Dialect = "code"
    prompt: str | Path = "full"
    reward: str | Mapping[str, Any] | RewardConfig = "paper"
    reveal: bool = False


@dataclass(frozen=True)
class JigsawRules(TurnRules[JigsawConfig]):
    """A configuration after checking, in the form that an episode uses.

    Attributes:
        rows: Number of rows.
        cols: Number of columns.
        levels: Levels to draw from, or None for any unsolved permutation.
        layout: Sizes of the board, or None where they depend on the photograph.
        smallest_photo: Height and width that a photograph must have, in pixels.
        crop_scale: Range of the cropped part's side, or None for the largest part, centred.
        prompt: The template of the task's text.
    """

    rows: int
    cols: int
    levels: tuple[int, ...] | None
    layout: BoardLayout | None
    smallest_photo: tuple[int, int]
    crop_scale: tuple[float, float] | None
    prompt: PromptTemplate

    def layout_for(self, photo_size: tuple[int, int]) -> BoardLayout:
        """Return the sizes of the board for a photograph of the given height and width."""
        if self.layout is not None:
            return self.layout
        config = self.config
        return scaled_layout(
            self.rows, self.cols, photo_size, config.max_pixels or 0, gap=config.gap, square=config.rotations
        )


def resolve(config: JigsawConfig) -> JigsawRules:
    """Check a configuration.

    Args:
        config: The options.

    Returns:
        The rules that follow from them.

    Raises:
        ConfigurationError: If an option has a value that is not allowed; the message names those that are.
    """
    rows, cols = parse_grid(config.grid)
    config.check()
    for name in ("labels", "reference_image"):
        require(isinstance(getattr(config, name), bool), name, getattr(config, name), "True or False")
    require(is_number(config.erode, 0, MAX_ERODE), "erode", config.erode, f"a fraction from 0 to {MAX_ERODE}")
    for name, allowed in (("initial_view", INITIAL_VIEWS), ("equal_pieces", EQUAL_PIECES)):
        value = getattr(config, name)
        require(isinstance(value, str) and value in allowed, name, value, f"one of {allowed}")
    require(is_number(config.board_scale, LEAST_SCALE, 1), "board_scale", config.board_scale, f"{LEAST_SCALE} to 1")
    layout, canvas = _sizes(config, rows, cols)
    prompt = read_prompt(config.prompt)
    return JigsawRules(
        config=config,
        rows=rows,
        cols=cols,
        levels=parse_level(config.level, rows * cols),
        layout=layout,
        canvas=canvas,
        smallest_photo=smallest_photo(config),
        crop_scale=_crop_scale(config),
        dialect=get_dialect(config.dialect),
        prompt=prompt,
        reward=get_reward(config.reward),
        brief=prompt.brief,
    )


def smallest_photo(config: JigsawConfig) -> tuple[int, int]:
    """Return the smallest height and width, in pixels, of a photograph with a pixel for each piece, and for its sides.

    Raises:
        ConfigurationError: If the grid or a size is not allowed.
    """
    rows, cols = parse_grid(config.grid)
    layout, _ = _sizes(config, rows, cols)
    if layout is not None:
        aspects = [Fraction(layout.piece_width * cols, layout.piece_height * rows)]
    elif config.rotations:
        aspects = [Fraction(cols, rows)]
    else:  # that of the photograph, within these limits
        aspects = [Fraction(MAX_ASPECT), 1 / Fraction(MAX_ASPECT)]
    # The largest part of the photograph with this aspect ratio has at least so many rows and columns.
    height = max(rows, min(math.ceil(cols / aspect) for aspect in aspects))
    width = max(cols, min(math.ceil(rows * aspect) for aspect in aspects))
    return height, width


def _sizes(config: JigsawConfig, rows: int, cols: int) -> tuple[BoardLayout | None, tuple[int, int]]:
    require(isinstance(config.rotations, bool), "rotations", config.rotations, "True or False")
    require(is_number(config.gap, 0, MAX_GAP), "gap", config.gap, f"a fraction from 0 to {MAX_GAP}")
    if config.max_pixels is None:
        size = DEFAULT_IMAGE_SIZE if config.image_size is None else config.image_size
        layout = fixed_layout(rows, cols, size, gap=config.gap, square=config.rotations)
        board = (layout.height, layout.width)
    else:
        if config.image_size is not None:
            raise ConfigurationError(
                f"image_size={config.image_size!r} and max_pixels={config.max_pixels!r} exclude each other: give "
                "image_size for one size of all puzzles, or max_pixels to keep each photograph's aspect ratio."
            )
        pixels = config.max_pixels
        require(is_whole(pixels, MAX_PIXELS), "max_pixels", pixels, f"a whole number of pixels, up to {MAX_PIXELS}")
        layout = None
        board = scaled_layout_bound(rows, cols, config.max_pixels, config.gap)
    if config.canvas_size is None:
        return layout, board
    canvas = parse_size("canvas_size", config.canvas_size)
    if canvas[0] < board[0] or canvas[1] < board[1]:
        raise ConfigurationError(
            f"canvas_size={config.canvas_size!r} cannot hold the board, which is {board[0]} pixels high and "
            f"{board[1]} wide. Give at least that, or leave it out."
        )
    return layout, canvas


def default_crop(images: ImagesLike) -> Literal["center", "random"]:
    """Return the default crop of photographs: at random for the built-in ones, which are few."""
    return "random" if images is None or (isinstance(images, str) and images == "builtin") else "center"


def _crop_scale(config: JigsawConfig) -> tuple[float, float] | None:
    crop = config.crop
    if crop is None:
        crop = default_crop(config.images)
    if isinstance(crop, str):
        require(crop in ("center", "random"), "crop", crop, "'center', 'random' or a range such as (0.25, 1.0)")
        return RANDOM_CROP if crop == "random" else None
    sides = tuple(crop) if isinstance(crop, Sequence) else ()
    if len(sides) != 2 or not all(is_number(side, 0.01, 1) for side in sides) or sides[0] > sides[1]:
        raise ConfigurationError(
            f"crop={crop!r} must be 'center', 'random', or a range (low, high) with 0.01 <= low <= high <= 1."
        )
    return float(sides[0]), float(sides[1])
