# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""A key-value cache of many episodes side by side, which single episodes are put into and taken out of again.

All rows lie in one buffer a layer. A forward pass works on some neighbouring rows, up to some column; so episodes can
be read in several passes, written together, and dropped one by one, without copying the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers.cache_utils import Cache, DynamicLayer

__all__ = ["BatchCache", "KeyValues"]

KeyValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of one episode, for each layer (heads, tokens, head_dim)."""


class BatchLayer(DynamicLayer):
    """One layer of a batch: keys and values (rows, heads, columns, head_dim)."""

    def __init__(self, cache: BatchCache) -> None:
        """Make an empty layer.

        Args:
            cache: The cache that it belongs to, which says what a forward pass works on.
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
        # Zeros, as what is hidden by a mask must still be a number.
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
    """A key-value cache of episodes side by side.

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
