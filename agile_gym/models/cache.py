# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Batched key-value cache of many episodes, and the context of each: its tokens and its place in the cache.

All rows lie in one buffer a layer. A forward pass works on some neighbouring rows, up to some column; so episodes can
be read in several passes, written together, and dropped one by one, without copying the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import Cache, DynamicLayer

from agile_gym.models.chat import Chunk
from agile_gym.models.inputs import text_positions
from agile_gym.transcripts.record import Segment

__all__ = ["MAX_WINDOW", "BatchCache", "Context", "KeyValues", "Part"]

KeyValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of one episode, for each layer (heads, tokens, head_dim)."""


class BatchLayer(DynamicLayer):
    """One layer of a batch: keys and values (rows, heads, columns, head_dim)."""

    def __init__(self, cache: BatchCache) -> None:
        """Make an empty layer.

        Args:
            cache: The cache that it belongs to, which holds the selection of a forward pass.
        """
        super().__init__()
        self._cache = cache
        self.length = cache.length

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take memory for states like the given ones (..., heads, tokens, head_dim)."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.all_keys, self.all_values = (
            self._empty(states, self._cache.room) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def _empty(self, like: torch.Tensor, room: int) -> torch.Tensor:
        # Zeros, as values hidden by a mask must still be numbers.
        return like.new_zeros((self._cache.rows, like.shape[-3], room, like.shape[-1]))

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,  # noqa: ANN401 -- as transformers
        **kwargs: Any,  # noqa: ANN401 -- as transformers
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of new tokens, (rows, heads, tokens, head_dim), and return those of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, start, end = self._cache.selected, self.length, self.length + key_states.shape[-2]
        if end > self.all_keys.shape[-2]:
            self._grow(start, max(end, self.all_keys.shape[-2] * 3 // 2))
        self.all_keys[rows, :, start:end] = key_states
        self.all_values[rows, :, start:end] = value_states
        self.length = end
        self.keys, self.values = self.all_keys[rows, :, :end], self.all_values[rows, :, :end]
        return self.keys, self.values

    def _grow(self, kept: int, room: int) -> None:
        for name in ("all_keys", "all_values"):
            old: torch.Tensor = getattr(self, name)
            new = self._empty(old, room)
            new[:, :, :kept] = old[:, :, :kept]
            setattr(self, name, new)

    def get_seq_length(self) -> int:
        """Return the number of columns that are in use."""
        return self.length


class BatchCache(Cache):
    """Batched key-value cache of episodes.

    Attributes:
        rows: Number of rows.
        room: Columns that there is room for at first; more are taken when they are needed.
        selected: The rows that a forward pass works on.
        length: Columns that were in use when they were selected.
    """

    def __init__(self, rows: int, room: int) -> None:
        """Make an empty cache.

        Args:
            rows: Number of rows.
            room: Columns that there shall be room for at first.
        """
        super().__init__(layer_class_to_replicate=cast(Any, lambda: BatchLayer(self)))
        self.rows = rows
        self.room = room
        self.select(0, rows, 0)

    def select(self, first: int, last: int, length: int) -> None:
        """Let forward passes work on the rows ``first`` to ``last`` (excluded), and write from a column on."""
        self.selected = slice(first, last)
        self.length = length
        for layer in self._layers:
            layer.length = length

    def fill(self, episodes: Sequence[KeyValues], ends: Sequence[int]) -> None:
        """Put episodes into the first rows. They are emptied layer by layer, so that memory is not needed twice.

        Args:
            episodes: Keys and values of each; an empty list for one that has none.
            ends: The column behind the last token of each.
        """
        layers = max(map(len, episodes), default=0)
        while len(self._layers) < layers:
            self.layers.append(BatchLayer(self))
        for layer in reversed(self._layers[:layers]):
            for row, (episode, end) in enumerate(zip(episodes, ends, strict=True)):
                if episode:
                    keys, values = episode.pop()
                    if not layer.is_initialized:
                        layer.lazy_initialization(keys, values)
                    layer.all_keys[row, :, end - keys.shape[-2] : end] = keys
                    layer.all_values[row, :, end - values.shape[-2] : end] = values

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy a row onto another one, up to a column."""
        for layer in self._layers:
            for states in (layer.all_keys, layer.all_values):
                states[target, :, :length] = states[source, :, :length]

    def take(self, row: int, used: torch.Tensor) -> KeyValues:
        """Take an episode out.

        Args:
            row: Its row.
            used: (columns,) bool, True where the row holds a token of the episode's.

        Returns:
            Its keys and values, copied.
        """
        places = used.nonzero()[:, 0]
        return [
            (
                layer.all_keys[row].index_select(1, places.to(layer.all_keys.device)),
                layer.all_values[row].index_select(1, places.to(layer.all_values.device)),
            )
            for layer in self._layers
        ]

    @property
    def _layers(self) -> list[BatchLayer]:
        return cast("list[BatchLayer]", self.layers)


MAX_WINDOW = 1000
"""Largest number of images of feedback that a window keeps."""


@dataclass(eq=False)
class Part:
    """Tokens that came into a context at once: an observation, or a turn that was written.

    Attributes:
        chunk: The tokens and, for an observation, images.
        positions: (rows, n) int64, positions from 0; see `relative_positions`.
        turn: The turn that was written, or -1.
        logps: (n,) float32, log-probabilities of the tokens of the turn.
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
        parts: Observations and turns, in order.
        cache: Keys and values of the first ``cached`` tokens, or None.
        cached: Number of tokens that are in the cache.
        segments: Stretches of tokens that are finished; see `agile_gym.transcripts.Segment`.
    """

    def __init__(self, *, window: int | None = None) -> None:
        """Make an empty context.

        Args:
            window: Number of images of feedback that are kept; older ones become words. None keeps all. Images of the
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
        """Add an observation, and drop the oldest images beyond the window.

        Args:
            chunk: The tokens.
            positions: Function that returns the positions of a chunk; see `relative_positions`.
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
        """Return all segments, the last one as it is now; tokens read after the last turn are left out."""
        count = len(self.parts)
        while count and self.parts[count - 1].turn < 0:
            count -= 1
        last = [self._segment(count)] if self._closed < self._turns else []
        return (*self.segments, *last)

    def pending(self) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64], list[Chunk]]:
        """Return the tokens that are not in the cache, which have to be computed before the model can write.

        Returns:
            Their ids (n,), a mask of image placeholders (n,), their positions (rows, n), and the chunks whose
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
        """Drop the pixels that are in the cache, unless a window can remove them from it."""
        if self._window is not None:
            return
        for part in self.parts:
            if part.chunk.pixels:
                part.chunk = Chunk(part.chunk.ids, part.chunk.is_image, {}, part.chunk.images)
