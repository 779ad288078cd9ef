# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Key-value caches of single episodes, put together to a batch and taken apart again.

A batch needs one length. Shorter rows get empty places, which the attention mask hides; positions are given explicitly,
so that empty places change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers.cache_utils import Cache, DynamicLayer

__all__ = ["KeyValues", "batch_caches", "split_caches"]

KeyValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of one episode, for each layer (heads, tokens, head_dim)."""


class RoomyLayer(DynamicLayer):
    """A cache layer that grows in place: nothing is copied when a token is added, while there is room."""

    def __init__(self, room: int) -> None:
        """Make an empty layer.

        Args:
            room: Tokens that it has room for at first.
        """
        super().__init__()
        self._room = room
        self._length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take the memory for the first states that come."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._reserve(key_states, value_states, max(self._room, key_states.shape[-2]))
        self.is_initialized = True

    def _reserve(self, key_states: torch.Tensor, value_states: torch.Tensor, room: int) -> None:
        def empty(like: torch.Tensor) -> torch.Tensor:
            return like.new_empty((*like.shape[:-2], room, like.shape[-1]))

        self._all_keys, self._all_values = empty(key_states), empty(value_states)
        self.keys, self.values = self._all_keys[..., :0, :], self._all_values[..., :0, :]

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,  # noqa: ANN401 -- as transformers
        **kwargs: Any,  # noqa: ANN401 -- as transformers
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of new tokens, (B, heads, tokens, head_dim), and return those of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self._length, self._length + key_states.shape[-2]
        if end > self._all_keys.shape[-2]:
            keys, values = self._all_keys[..., :start, :], self._all_values[..., :start, :]
            self._reserve(key_states, value_states, max(end, 2 * start))
            self._all_keys[..., :start, :] = keys
            self._all_values[..., :start, :] = values
        self._all_keys[..., start:end, :] = key_states
        self._all_values[..., start:end, :] = value_states
        self._length = end
        self.keys, self.values = self._all_keys[..., :end, :], self._all_values[..., :end, :]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return the number of tokens."""
        return self._length

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows of the batch only."""
        if self.is_initialized:
            self._all_keys, self._all_values = self._all_keys[indices], self._all_values[indices]
            end = self._length
            self.keys, self.values = self._all_keys[..., :end, :], self._all_values[..., :end, :]


def batch_caches(rows: Sequence[KeyValues | None], room: int) -> tuple[Cache, list[int]]:
    """Put the caches of episodes together.

    Args:
        rows: Their caches; None for an episode that begins.
        room: Tokens that the result shall have room for, beside the longest cache.

    Returns:
        A cache whose rows lie at its right end, and the number of tokens of each row.
    """
    lengths = [0 if row is None else row[0][0].shape[-2] for row in rows]
    width = max(lengths)
    cache = Cache(layer_class_to_replicate=cast(Any, lambda: RoomyLayer(width + room)))
    sample = next((row for row in rows if row is not None), None)
    if sample is None or width == 0:
        return cache, lengths
    for number, (key, value) in enumerate(sample):
        keys = key.new_zeros((len(rows), key.shape[0], width, key.shape[-1]))
        values = value.new_zeros((len(rows), value.shape[0], width, value.shape[-1]))
        for i, row in enumerate(rows):
            if row is not None and lengths[i]:
                keys[i, :, width - lengths[i] :], values[i, :, width - lengths[i] :] = row[number]
        cache.update(keys, values, number)
    return cache, lengths


def split_caches(cache: Cache, row: int, kept: torch.Tensor) -> KeyValues:
    """Take one episode's cache out of a batch.

    Args:
        cache: The batch.
        row: Which row.
        kept: (T,) bool, True on the tokens that are the episode's.

    Returns:
        Its keys and values, copied.
    """
    layers: list[Any] = cache.layers
    places = kept.nonzero()[:, 0]
    return [(layer.keys[row].index_select(1, places), layer.values[row].index_select(1, places)) for layer in layers]
