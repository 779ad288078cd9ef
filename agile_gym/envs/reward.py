"""The reward of an episode: R = alpha R_acc + beta R_format + gamma R_step (AGILE, arXiv 2510.01304, section 3).

Two presets, because the paper and its released code differ: `PAPER` and `OFFICIAL_CODE`. Everything is paid on the last
step of the episode.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, cast

from agile_gym.envs.contract import RewardParts
from agile_gym.errors import ConfigurationError, did_you_mean, is_number, plain

__all__ = ["REWARDS", "EpisodeRecord", "RewardConfig", "cost_of_looking", "get_reward", "score_episode"]

_MAX_OFFICIAL_ANSWER = 1000
_MAX_WEIGHT = 1_000_000


@dataclass(frozen=True, slots=True)
class RewardConfig:
    """Settings of the reward; the defaults are the paper's.

    In puzzles with turned pieces, which AGILE does not have, a piece is right only with its angle, under every setting.
    The rule for pieces that look alike is set by `agile_gym.JigsawConfig.equal_pieces`.

    Attributes:
        accuracy_weight: Alpha, the weight of R_acc: 1 if the puzzle is solved, else 0.
        format_weight: Beta, the weight of R_format: 1 if the format was kept, else 0.
        step_weight: Gamma, the weight of R_step, which is 0 or negative.
        score_weight: Weight of the fraction of right pieces in the answer, 0 to 1: optional shaping, not in the paper.
        step_penalty: Cost of a step in R_step, at least 0.
        unsolved_penalty: Cost of an unsolved episode in R_step; None means ``step_penalty`` times the largest number
            of turns.
        step_count: Unit of a step: every turn with code, or every image that is returned to the model.
        solved_above: R_acc is 1 where more pieces than this are right (or all of a smaller puzzle); None requires all.
        format_rule: ``"strict"``: every turn is one think block and one action, all tags present, paired and in order,
            and an answer is given. ``"balanced"``: over the whole episode as many opening as closing think tags, and,
            after the last of them, an answer that is JSON and shorter than 1,000 characters.
        invalid_turn: Effect of a turn with neither or both of action and answer, or with an answer that cannot be read:
            ``"feedback"`` returns the error to the model and goes on, ``"end"`` ends the episode.
    """

    accuracy_weight: float = 0.8
    format_weight: float = 0.2
    step_weight: float = 1.0
    score_weight: float = 0.0
    step_penalty: float = 0.05
    unsolved_penalty: float | None = None
    step_count: Literal["code_turns", "images"] = "code_turns"
    solved_above: float | None = None
    format_rule: Literal["strict", "balanced"] = "strict"
    invalid_turn: Literal["feedback", "end"] = "feedback"


REWARDS: dict[str, RewardConfig] = {
    "paper": RewardConfig(),
    "official_code": RewardConfig(
        unsolved_penalty=0.25, step_count="images", solved_above=3.5, format_rule="balanced", invalid_turn="end"
    ),
}
"""The presets, by name."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "step_count": ("code_turns", "images"),
    "format_rule": ("strict", "balanced"),
    "invalid_turn": ("feedback", "end"),
}


def get_reward(reward: str | Mapping[str, Any] | RewardConfig) -> RewardConfig:
    """Return a reward by name, from settings, or as it is.

    Args:
        reward: Name of a preset; or a mapping of settings over a preset, such as
            ``{"preset": "paper", "step_weight": 0.5}``; or a `RewardConfig`.

    Returns:
        The reward's settings.

    Raises:
        ConfigurationError: For an unknown preset or setting, or a value that is not allowed.
    """
    if isinstance(reward, RewardConfig):
        config = reward
    elif not isinstance(reward, str | Mapping):
        raise ConfigurationError(f"reward={reward!r} is not a reward; give 'paper', 'official_code', or settings.")
    else:
        given = {"preset": reward} if isinstance(reward, str) else reward
        settings: dict[str, Any] = {key: plain(value) for key, value in given.items()}
        preset = settings.pop("preset", "paper")
        if not isinstance(preset, str) or preset not in REWARDS:
            raise ConfigurationError(f"There is no reward preset {preset!r}. {did_you_mean(preset, REWARDS)}")
        names = [field.name for field in fields(RewardConfig)]
        for key in settings:
            if key not in names:
                raise ConfigurationError(f"There is no reward setting {key!r}. {did_you_mean(key, names)}")
        config = replace(REWARDS[preset], **settings)
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in _CHOICES:
            if not isinstance(value, str) or value not in _CHOICES[field.name]:
                raise ConfigurationError(f"reward {field.name}={value!r}; {did_you_mean(value, _CHOICES[field.name])}")
        elif value is None and field.name in ("unsolved_penalty", "solved_above"):
            continue
        elif not is_number(value, 0, _MAX_WEIGHT):
            raise ConfigurationError(f"reward {field.name}={value!r} must be a number from 0 to {_MAX_WEIGHT}.")
    return config


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """Data of a finished episode from which the reward is computed.

    Attributes:
        texts: Texts of the model, turn by turn.
        code_turns: Turns that held a code block or a tool call, sound or not.
        images: Images that were returned to the model after a turn.
        well_formed: True if every turn kept to the tags.
        answered: True if the last turn gave an answer that could be read.
        pieces_right: Pieces right in the answer, 0 if there is none or it has the wrong length.
        pieces: Number of pieces.
        max_turns: Largest number of turns.
        json_answer: True if the answer must be JSON for the format rule ``"balanced"``; that to a question is a text.
    """

    texts: Sequence[str]
    code_turns: int
    images: int
    well_formed: bool
    answered: bool
    pieces_right: int
    pieces: int
    max_turns: int
    json_answer: bool = True


def score_episode(record: EpisodeRecord, config: RewardConfig) -> RewardParts:
    """Compute the reward of a finished episode.

    Args:
        record: Data of the episode.
        config: The reward's settings.

    Returns:
        The parts and the total.
    """
    if config.format_rule == "strict":
        format_kept = record.well_formed and record.answered
    else:
        format_kept = balanced_format("".join(record.texts), json_answer=record.json_answer)
    threshold = record.pieces - 0.5
    if config.solved_above is not None:
        threshold = min(threshold, config.solved_above)
    solved = record.answered and record.pieces_right > threshold
    if solved:
        steps = record.code_turns if config.step_count == "code_turns" else record.images
        step = -config.step_penalty * steps
    elif config.unsolved_penalty is None:
        step = -config.step_penalty * record.max_turns
    else:
        step = -config.unsolved_penalty
    accuracy, kept, score = float(solved), float(format_kept), record.pieces_right / record.pieces
    total = (
        config.accuracy_weight * accuracy
        + config.format_weight * kept
        + config.step_weight * step
        + config.score_weight * score
    )
    return {"accuracy": accuracy, "format": kept, "step": step, "score": score, "total": total}


def cost_of_looking(config: RewardConfig, max_turns: int) -> str | None:
    """Return a warning if all turns before the answer cost as much as solving earns.

    A policy that is trained on such a reward learns to answer at once, long before its looks help it to solve.

    Args:
        config: The reward's settings.
        max_turns: Turns of an episode, the answer included.

    Returns:
        The warning with both figures, or None.
    """
    cost = config.step_weight * config.step_penalty * (max_turns - 1)
    earned = config.accuracy_weight + config.score_weight
    if cost < earned or not cost:
        return None
    return (
        f"The reward leaves nothing for looking: {max_turns - 1} turns before the answer cost {cost:g} (step_weight "
        f"{config.step_weight:g} x step_penalty {config.step_penalty:g} each), and solving earns {earned:g}. Lower "
        "step_penalty or step_weight, or raise accuracy_weight."
    )


def balanced_format(text: str, *, json_answer: bool = True) -> bool:
    """Return whether a whole episode's text passes the released code's format check.

    Args:
        text: Texts of the model, turn after turn.
        json_answer: True if the answer must be JSON.

    Returns:
        True if there are as many opening as closing think tags and, after the last closing one, an answer whose last
        occurrence is JSON and shorter than 1,000 characters.
    """
    if text.count("<think>") != text.count("</think>"):
        return False
    rest = text.rpartition("</think>")[2]
    before, closing, _ = rest.rpartition("</answer>")
    _, opening, answer = before.rpartition("<answer>")
    if not closing or not opening or len(answer) >= _MAX_OFFICIAL_ANSWER:
        return False
    if not json_answer:
        return True
    try:
        cast(object, json.loads(answer))
    except (ValueError, RecursionError):
        return False
    return True
