"""Which piece continues which: tasks on image vectors alone, which teach the eyes at a tenth of the cost.

Joined pieces show what was one place of the photograph. The loss asks each piece for its neighbours among the other
pieces of its puzzle, by dot products of small maps of the image vectors, and for its own place; and it asks of a whole
board, which is one image, which of its seams are sound. The language model has no part in it, and the maps are thrown
away afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 -- the usual name
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Matching"]


class Matching(nn.Module):
    """The maps from image vectors to what the sides of a piece look like, where it belongs, and what seams are sound.

    Joints are numbered: first those of two places side by side, row by row, then those of two places one above the
    other.
    """

    def __init__(self, width: int, grid: tuple[int, int], size: int = 64) -> None:
        """Make the maps.

        Args:
            width: Size of an image's vector.
            grid: Rows and columns.
            size: Size of a side's vector.
        """
        super().__init__()
        rows, cols = grid
        places = torch.arange(rows * cols).view(rows, cols)
        self._across = torch.stack([places[:, :-1].flatten(), places[:, 1:].flatten()])
        self._down = torch.stack([places[:-1].flatten(), places[1:].flatten()])
        self._cols = cols
        self._scale = size**-0.5
        self.sides = nn.Linear(width, 4 * size, bias=False)  # right, left, lower, upper
        self.place = nn.Linear(width, rows * cols)
        self.sound = nn.Linear(width, self._across.shape[1] + self._down.shape[1])

    def piece_loss(self, features: Tensor, home: Tensor) -> Tensor:
        """Compute the loss of the pieces of some puzzles.

        Args:
            features: (N, P, width) float32, the image vectors of the pieces in the order of their names.
            home: (N, P) int64, the place where each piece belongs.

        Returns:
            Scalar: the mean cross-entropies of a piece's neighbours and of its place, added.
        """
        solution = home.argsort(1)
        right, left, lower, upper = self.sides(features).chunk(4, dim=-1)
        itself = torch.full((home.shape[1],) * 2, 0.0, device=home.device).fill_diagonal_(-1e4)
        losses = [F.cross_entropy(self.place(features).flatten(0, 1), home.flatten())]
        for one, other, (first, second) in ((right, left, self._across), (lower, upper, self._down)):
            if not len(first):
                continue
            scores = one @ other.transpose(1, 2) * self._scale + itself  # (N, P, P): piece i has piece j beside it
            before, after = solution[:, first], solution[:, second]  # (N, joints)
            count = scores.shape[1]
            of_before = scores.gather(1, before[..., None].expand(-1, -1, count))
            of_after = scores.transpose(1, 2).gather(1, after[..., None].expand(-1, -1, count))
            losses.append(F.cross_entropy(of_before.flatten(0, 1), after.flatten()) / 2)
            losses.append(F.cross_entropy(of_after.flatten(0, 1), before.flatten()) / 2)
        return torch.stack(losses).sum()

    def board_loss(self, features: Tensor, arranged: Tensor) -> Tensor:
        """Compute the loss of some boards.

        Args:
            features: (N, width) float32, the image vectors of the boards.
            arranged: (N, P) int64, for each place of the board the place where its piece belongs.

        Returns:
            Scalar: the mean binary cross-entropy of whether a seam is sound.
        """
        first, second = torch.cat([self._across, self._down], 1)
        before, after = arranged[:, first], arranged[:, second]
        beside = (after == before + 1) & (before % self._cols != self._cols - 1)
        below = after == before + self._cols
        joints = self._across.shape[1]
        sound = torch.cat([beside[:, :joints], below[:, joints:]], 1)
        return F.binary_cross_entropy_with_logits(self.sound(features), sound.float())
