"""The options of `VisualQAEnv`, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from agile_gym.actions.dialects import Dialect, get_dialect
from agile_gym.envs.reward import RewardConfig, get_reward
from agile_gym.envs.turns import TurnConfig, TurnRules
from agile_gym.errors import ConfigurationError, is_number, plain, require
from agile_gym.images.formats import DEFAULT_MAX_PIXELS, check_max_pixels
from agile_gym.images.opening import ImagesLike, open_images
from agile_gym.images.sources import check_fraction, check_split
from agile_gym.puzzle.pixels import parse_size
from agile_gym.questions.answers import RULES, Rule
from agile_gym.questions.generated import GeneratedQuestions, parse_difficulty, parse_kinds
from agile_gym.questions.rows import RowOptions
from agile_gym.questions.sources import QuestionsLike, open_rows
from agile_gym.questions.visual import QuestionSource

__all__ = ["GENERATED", "PROMPTS", "VisualQAConfig", "open_source", "resolve"]

GENERATED = "generated"
PROMPTS = ("full", "short")
BOX_FORMATS = ("xyxy", "xywh")
LEAST_PICTURE = 64
_MAX_TOLERANCE = 1_000_000


@dataclass(frozen=True)
class VisualQAConfig(TurnConfig):
    """The options of `VisualQAEnv`.

    Attributes:
        questions: Source of questions: ``"generated"`` (made from ``images``); a file of JSON lines, JSON, Parquet or
            VLMEvalKit's TSV, or a folder of such files; ``"hf:NAME[:SPLIT[:COLUMN]]"``; a ``datasets.Dataset``; or a
            list of dictionaries (see `agile_gym.questions.sources.open_rows`).
        columns: Of a table, the column of some parts of a question, such as ``{"question": "query"}``; the parts and
            the names that are looked for are `agile_gym.questions.rows.ALIASES`.
        answer_rule: Rule that compares answers: ``"choice"``, ``"yes_no"``, ``"number"``, ``"text"`` or ``"exact"``;
            None takes that of the row, or one that fits it. Of generated questions it follows from the kind.
        tolerance: Largest distance of a number from the right one, where a row has none of its own.
        relative_tolerance: The same as a fraction of the right one; the larger of the two counts.
        box_format: Form of a table's boxes: ``"xyxy"`` (x1, y1, x2, y2) or ``"xywh"`` (x1, y1, width, height).
        kinds: Kinds of generated questions: a name, a list of names, or None for all
            (`agile_gym.questions.generated.KINDS`).
        difficulty: Difficulties of generated questions, 1 to 5: a number, a list, ``"1-3"`` or ``"all"``.
        images: Source of the photographs of generated questions; see `agile_gym.images.open_images`.
        split: ``"train"``, ``"test"`` or None for all. Membership follows from the content of the pictures; no picture
            is in both.
        test_fraction: Fraction of pictures that belong to the test split, above 0 and below 1.
        picture_size: Side of generated pictures, in pixels, at least 64; None takes the shorter side of the canvas. A
            larger one is shown scaled down, so that crops show more.
        canvas_size: Side, or (height, width), in pixels, of the observation. Larger images are shown scaled down; crops
            are cut from them at their full size.
        max_pixels: Most pixels (width times height) of a picture; a row with a larger one is skipped.
        max_turns: Turns of an episode, the answer included.
        dialect: Dialect of actions: ``"code"``, ``"tools"``, or an object with the methods of `Dialect`.
        prompt: The text of the task: ``"full"`` (rules, functions and a worked example) or ``"short"``, with which
            feedback is short, too.
        reward: ``"paper"``, ``"official_code"``, a mapping of settings, or a `RewardConfig`, as for the jigsaw.
        reveal: True if ``info`` includes the solution, the box that holds the answer, and measures of difficulty.
    """

    title = "VisualQA"
    questions: QuestionsLike = GENERATED
    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])
    answer_rule: Rule | None = None
    tolerance: float = 0.0
    relative_tolerance: float = 0.0
    box_format: Literal["xyxy", "xywh"] = "xyxy"
    kinds: str | Sequence[str] | None = None
    difficulty: int | str | Sequence[int] = "1-3"
    images: ImagesLike = None
    split: Literal["train", "test"] | None = None
    test_fraction: float = 0.2
    picture_size: int | None = None
    canvas_size: int | Sequence[int] = 448
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_turns: int = 5
    dialect: str | Dialect = "code"
    prompt: str = "full"
    reward: str | Mapping[str, Any] | RewardConfig = "paper"
    reveal: bool = False


def resolve(config: VisualQAConfig) -> TurnRules[VisualQAConfig]:
    """Check a configuration, but for its sources, which `open_source` opens.

    Raises:
        ConfigurationError: If an option has a value that is not allowed.
    """
    config.check()
    for name, allowed in (("prompt", PROMPTS), ("box_format", BOX_FORMATS)):
        value = getattr(config, name)
        require(isinstance(value, str) and value in allowed, name, value, f"one of {allowed}")
    rule = config.answer_rule
    require(rule is None or (isinstance(rule, str) and rule in RULES), "answer_rule", rule, f"one of {RULES}, or None")
    for name in ("tolerance", "relative_tolerance"):
        value = getattr(config, name)
        require(is_number(value, 0, _MAX_TOLERANCE), name, value, f"a number from 0 to {_MAX_TOLERANCE:,}")
    require(isinstance(config.columns, Mapping), "columns", config.columns, "a mapping from parts to columns")
    canvas = parse_size("canvas_size", cast("int | Sequence[int]", plain(config.canvas_size)))
    side = config.picture_size
    if side is not None:
        side = parse_size("picture_size", side)[0] if isinstance(side, int) else -1
        require(side >= LEAST_PICTURE, "picture_size", config.picture_size, f"a side of at least {LEAST_PICTURE}")
    check_max_pixels(config.max_pixels)
    check_split(config.split)
    check_fraction(config.test_fraction)
    brief = config.prompt == "short"
    return TurnRules(config, canvas, get_dialect(config.dialect), get_reward(config.reward), brief)


def open_source(rules: TurnRules[VisualQAConfig]) -> QuestionSource:
    """Open the questions that a configuration names.

    Raises:
        ConfigurationError: If they cannot be read, or none can be asked; or options of the other kind of source are
            given, which would have no effect.
        ImageError: If no photographs are found.
    """
    config = rules.config
    generated = isinstance(config.questions, str) and config.questions == GENERATED
    defaults = VisualQAConfig()
    idle = (
        ("columns", "answer_rule", "tolerance", "relative_tolerance", "box_format")
        if generated
        else ("kinds", "images", "picture_size")
    )
    for name in idle:
        if getattr(config, name) != getattr(defaults, name):
            which = "a table of questions" if generated else "generated questions"
            raise ConfigurationError(f"{name} is an option of {which} only; leave it out with these questions.")
    kinds, difficulties = parse_kinds(config.kinds), parse_difficulty(config.difficulty)
    if generated:
        side = min(rules.canvas) if config.picture_size is None else config.picture_size
        require(
            side >= LEAST_PICTURE, "canvas_size", config.canvas_size, f"at least {LEAST_PICTURE}, or a picture_size"
        )
        source = open_images(
            config.images, split=config.split, test_fraction=config.test_fraction, max_pixels=config.max_pixels
        )
        return GeneratedQuestions(source, side, kinds, difficulties)
    options = RowOptions(
        config.answer_rule, config.tolerance, config.relative_tolerance, config.box_format, config.max_pixels
    )
    opened = open_rows(config.questions, columns=config.columns, options=options)
    return opened.of_split(config.split, config.test_fraction)
