"""What one episode's model has read and written so far, as tokens, with the cache that belongs to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agile_gym.policies.vlm.chat import Chunk
from agile_gym.policies.vlm.inputs import text_positions
from agile_gym.rollout.transcript import Segment

if TYPE_CHECKING:
    from agile_gym.policies.vlm.cache import KeyValues

__all__ = ["MAX_WINDOW", "Context", "Part"]

MAX_WINDOW = 1000
"""Largest number of images of feedback that a window keeps."""


@dataclass(eq=False)
class Part:
    """Tokens that came into a context at once: something that was read, or a turn that was written.

    Attributes:
        chunk: The tokens and, for what was read, images.
        positions: (rows, n) int64, positions from 0; see `relative_positions`.
        turn: The turn that was written, or -1.
        logps: (n,) float32, log-probabilities of what was written.
        images: Numbers of the images, in order of the episode.
        hidden: The same with images replaced by words, or None if they are never dropped.
        hidden_positions: Positions of those tokens.
    """

    chunk: Chunk
    positions: NDArray[np.int64]
    turn: int = -1
    logps: NDArray[np.float32] | None = None
    images: tuple[int, ...] = ()
    hidden: Chunk | None = None
    hidden_positions: NDArray[np.int64] | None = None


class Context:
    """The tokens of an episode, which grow turn by turn.

    Attributes:
        parts: What was read and written, in order.
        cache: Keys and values of the first ``cached`` tokens, or None.
        cached: Number of tokens that are in the cache.
        segments: Stretches of tokens that are finished; see `agile_gym.rollout.Segment`.
    """

    def __init__(self, *, window: int | None = None) -> None:
        """Make an empty context.

        Args:
            window: How many images of feedback are kept; older ones become words. None keeps all. Images of the
                first observation, the puzzle itself, are always kept.
        """
        self.parts: list[Part] = []
        self.cache: KeyValues | None = None
        self.cached = 0
        self.segments: list[Segment] = []
        self._window = window
        self._images = 0
        self._turns = 0
        self._closed = 0  # turns that are in finished segments

    def __len__(self) -> int:
        """Return the number of tokens."""
        return sum(len(part.chunk.ids) for part in self.parts)

    @property
    def last_token(self) -> int | None:
        """The last token, or None if there is none."""
        return int(self.parts[-1].chunk.ids[-1]) if self.parts and len(self.parts[-1].chunk.ids) else None

    def read(self, chunk: Chunk, positions: Callable[[Chunk], NDArray[np.int64]], hidden: Chunk | None = None) -> None:
        """Add what the model reads next, and drop the oldest images that are too many.

        Args:
            chunk: The tokens.
            positions: Gives the positions of a chunk; see `relative_positions`.
            hidden: The tokens with words instead of images; needed if there is a window.
        """
        images = tuple(range(self._images, self._images + chunk.images))
        self._images += chunk.images
        part = Part(chunk, positions(chunk), images=images)
        if self._window is not None and self.parts and images and hidden is not None:
            part.hidden, part.hidden_positions = hidden, positions(hidden)
        self.parts.append(part)
        self._drop_old_images()

    def write(self, ids: Sequence[int], logps: Sequence[float]) -> None:
        """Add a turn that the model has written."""
        rows = self.parts[0].positions.shape[0]
        array = np.asarray(ids, np.int32)
        chunk = Chunk(array, np.zeros(len(array), np.bool_))
        self.parts.append(
            Part(chunk, text_positions(len(array), rows=rows), turn=self._turns, logps=np.asarray(logps, np.float32))
        )
        self._turns += 1

    def _drop_old_images(self) -> None:
        if self._window is None:
            return
        shown = [i for i, part in enumerate(self.parts) if part.hidden is not None]
        dropped = shown[: max(0, len(shown) - self._window)]
        if not dropped:
            return
        if self._closed < self._turns:
            self.segments.append(self._segment(len(self.parts) - 1))
            self._closed = self._turns
        start = sum(len(part.chunk.ids) for part in self.parts[: dropped[0]])
        if self.cached > start:
            self.cached = start
            self.cache = None if self.cache is None else [(k[:, :start], v[:, :start]) for k, v in self.cache]
        for i in dropped:
            part = self.parts[i]
            if part.hidden is not None and part.hidden_positions is not None:
                self.parts[i] = Part(part.hidden, part.hidden_positions)

    def _segment(self, parts: int) -> Segment:
        """Return the tokens of the first parts, marked where the model wrote them in this context."""
        ids: list[NDArray[np.int32]] = []
        masks: list[NDArray[np.bool_]] = []
        logps: list[NDArray[np.float32]] = []
        turns: list[NDArray[np.int16]] = []
        images: list[int] = []
        for part in self.parts[:parts]:
            count = len(part.chunk.ids)
            marked = part.logps is not None and part.turn >= self._closed
            ids.append(part.chunk.ids)
            masks.append(np.full(count, marked))
            logps.append(part.logps if marked and part.logps is not None else np.zeros(count, np.float32))
            turns.append(np.full(count, part.turn if marked else -1, np.int16))
            images += part.images
        return Segment(
            np.concatenate(ids), np.concatenate(masks), np.concatenate(logps), np.concatenate(turns), tuple(images)
        )

    def finished_segments(self) -> tuple[Segment, ...]:
        """Return all segments, the last one as it is now; what was read after the last turn is left out."""
        count = len(self.parts)
        while count and self.parts[count - 1].turn < 0:
            count -= 1
        last = [self._segment(count)] if self._closed < self._turns else []
        return (*self.segments, *last)

    def pending(self) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64], list[Chunk]]:
        """Return what has to be computed before the model can write: the tokens that are not in the cache.

        Returns:
            Their ids (n,), whether they are image placeholders (n,), their positions (rows, n), and the chunks whose
            images are among them. Images are in the cache wholly or not at all.
        """
        ids: list[NDArray[np.int32]] = []
        is_image: list[NDArray[np.bool_]] = []
        positions: list[NDArray[np.int64]] = []
        with_images: list[Chunk] = []
        offset = seen = 0
        for part in self.parts:
            count = len(part.chunk.ids)
            skip = min(max(self.cached - seen, 0), count)
            if skip < count:
                ids.append(part.chunk.ids[skip:])
                is_image.append(part.chunk.is_image[skip:])
                positions.append(part.positions[:, skip:] + offset)
                if part.chunk.images:
                    with_images.append(part.chunk)
            seen += count
            offset += int(part.positions.max()) + 1 if count else 0
        return np.concatenate(ids), np.concatenate(is_image), np.concatenate(positions, axis=1), with_images

    def next_position(self) -> int:
        """Return the position of the next token of text."""
        return sum(int(part.positions.max()) + 1 for part in self.parts if len(part.chunk.ids))

    def forget_pixels(self) -> None:
        """Forget the pixels that are in the cache, unless a window can throw them out of it."""
        if self._window is not None:
            return
        for part in self.parts:
            if part.chunk.pixels:
                part.chunk = Chunk(part.chunk.ids, part.chunk.is_image, {}, part.chunk.images)
