"""The observations of one batch as tokens, each different one computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agile_gym.policies.vlm.chat import ChatFormat, Chunk
from agile_gym.policies.vlm.inputs import relative_positions
from agile_gym.rollout.transcript import Image

__all__ = ["Reader"]


class Reader:
    """Turns the observations of a batch into tokens and positions.

    Several episodes of one puzzle show the same images and texts, at the start and often later. Equal observations
    share one chunk, which also tells whoever computes it that they are equal.
    """

    def __init__(self, chat: ChatFormat, model: Any) -> None:  # noqa: ANN401 -- transformers is untyped
        """Begin a batch.

        Args:
            chat: The model's chat format.
            model: The model, which says how positions are counted.
        """
        self._chat = chat
        self._model = model
        self._chunks: dict[tuple[Any, ...], Chunk] = {}
        self._positions: dict[int, NDArray[np.int64]] = {}

    def opening(self, text: str, images: Sequence[Image]) -> Chunk:
        """Return the start of a conversation; see `ChatFormat.opening`."""
        return self._once(lambda: self._chat.opening(text, images), text, images)

    def follow_up(self, text: str, images: Sequence[Image], *, after: int | None) -> Chunk:
        """Return what is added after the model's turn; see `ChatFormat.follow_up`."""
        ended = after is not None and after == self._chat.end_of_turn
        return self._once(lambda: self._chat.follow_up(text, images, after=after), text, images, ended)

    def positions(self, chunk: Chunk) -> NDArray[np.int64]:
        """Return the positions of a chunk that this reader has made; see `relative_positions`."""
        known = self._positions.get(id(chunk))  # the reader keeps its chunks, so that no other gets the same id
        if known is None:
            known = self._positions[id(chunk)] = relative_positions(self._model, chunk)
        return known

    def _once(self, make: Callable[[], Chunk], text: str, images: Sequence[Image], *kind: bool) -> Chunk:
        key = (kind, text, *((image.shape, image.tobytes()) for image in images))
        chunk = self._chunks.get(key)
        if chunk is None:
            chunk = self._chunks[key] = make()
        return chunk
