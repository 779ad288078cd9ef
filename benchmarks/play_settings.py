"""Setup of the episodes that benchmarks of speed play."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PlaySetting"]


@dataclass(frozen=True)
class PlaySetting:
    """Setup of the episodes.

    Attributes:
        model: Folder of the model.
        groups: Puzzles of a round or an iteration.
        group_size: Episodes of each.
        turns: Turns of an episode. With more than one, each but the last brings an image of the board.
        new_tokens: Tokens of each turn, exactly.
        image_size: Side of the photographs in pixels.
    """

    model: str
    groups: int = 16
    group_size: int = 8
    turns: int = 1
    new_tokens: int = 32
    image_size: int = 64
