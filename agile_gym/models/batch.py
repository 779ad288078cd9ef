# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Generation of the next turn of many episodes at once, each from its own cache.

A context is a row of a cache, and all rows end at the same column. There are empty places before its tokens, and
perhaps between those that were cached and those it reads now; a mask hides them, and positions are given explicitly, so
that they have no effect::

    row 0   . . . . r r r r r r r r r r r | w w w      begins: reads much
    row 1   . . c c c c c c . . . r r r r | w w w      goes on: reads a little
    row 2   c c c c c c c c c c c c c r r | w w w      another pass of reading, as it reads far less

`Generator` is the whole interface, so that another engine can take the place of `HFGenerator`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from agile_gym.errors import ModelError
from agile_gym.models.cache import BatchCache, Context
from agile_gym.models.chat import ChatFormat
from agile_gym.models.inputs import cache_name, collate_pixels, type_arguments
from agile_gym.models.loading import VLM
from agile_gym.models.sampling import SamplingOptions, StopTexts, draw, end_tokens, forbidden_tokens, log_probs
from agile_gym.models.sources import attention_reach

__all__ = ["Batch", "Generated", "Generator", "HFGenerator", "stretches"]

_PASS_COST = 128
"""Cost of a forward pass in addition to its tokens, in tokens: an empty place costs as much as a token."""
_MOST_TOKENS = 16384
"""Tokens of one forward pass, so that memory for activations stays small; a single row can have more."""
_FIRST_ROOM = 64
"""Tokens to write that a cache has room for at first."""


def stretches(widths: Sequence[int], fixed: Sequence[bool]) -> list[tuple[int, int]]:
    """Cut rows into stretches that are read in one forward pass each, so that little is computed for empty places.

    Args:
        widths: Tokens that each row has to read, the largest first.
        fixed: True if a row must not have empty places, and so cannot be read together with wider ones.

    Returns:
        First and last (excluded) row of each stretch.
    """
    borders = [0]
    for row, width in enumerate(widths):
        first = borders[-1]
        widest = widths[first]
        spared = (widest - width) * (len(widths) - row) if width < widths[row - 1] else 0
        full = (row - first + 1) * widest > _MOST_TOKENS
        if row > first and (full or spared > _PASS_COST or (fixed[row] and width < widest)):
            borders.append(row)
    return list(pairwise([*borders, len(widths)]))


class Batch:
    """Contexts that are computed together.

    Attributes:
        order: The contexts that still write, in the order of their rows.
        computed: Tokens that have to be computed for each context before it can write.
    """

    def __init__(
        self, vlm: VLM, contexts: Sequence[Context], filler: int, *, max_new_tokens: int, reach: int | None
    ) -> None:
        """Put contexts together; their caches are taken from them, and given back by `release`.

        Args:
            vlm: The model.
            contexts: The contexts, at least one.
            filler: Token that stands at empty places.
            max_new_tokens: Most tokens that one can write.
            reach: Largest number of tokens back that attention reaches, or None; see `attention_reach`.
        """
        self._vlm = vlm
        self._contexts = contexts
        self._filler = filler
        self._pending = [context.pending() for context in contexts]
        self._positions = [context.next_position() for context in contexts]
        twins = _twins(contexts)
        widths = [len(ids) for ids, *_ in self._pending]
        self.computed = [0 if i in twins else width for i, width in enumerate(widths)]
        read = sorted((i for i in range(len(contexts)) if i not in twins), key=lambda i: -widths[i])
        self.order = [*read, *twins]
        self._copies = [(read.index(twins[i]), len(read) + number) for number, i in enumerate(twins)]
        # Empty places between tokens lengthen distances, which only matters to attention that does not reach all.
        near = reach is not None and max(map(len, contexts)) + max_new_tokens > reach
        self._stretches = stretches([widths[i] for i in read], [near and contexts[i].cached > 0 for i in read])
        ends = [widths[read[first]] for first, last in self._stretches for _ in range(first, last)]
        self._width = max(contexts[i].cached + end for i, end in zip(read, ends, strict=True))
        room = self._width + min(max_new_tokens, _FIRST_ROOM)
        self._used = torch.zeros((len(contexts), self._width + max_new_tokens), dtype=torch.bool, device=vlm.device)
        self._cache = BatchCache(len(contexts), room)
        self._given = {cache_name(vlm.model): self._cache}
        self._fill(read, [self._width - end for end in ends])

    def _fill(self, read: Sequence[int], ends: Sequence[int]) -> None:
        episodes = [self._contexts[i].cache or [] for i in read]
        for row, (i, end) in enumerate(zip(read, ends, strict=True)):
            context = self._contexts[i]
            self._used[row, end - context.cached : end] = True
            context.cache, context.cached = None, 0
        self._cache.fill(episodes, ends)

    def read(self) -> torch.Tensor:
        """Compute the tokens read since the contexts last wrote, and return the logits (rows, V) after them."""
        logits = [self._read(first, last) for first, last in self._stretches]
        rows = list(range(sum(len(part) for part in logits)))
        for source, target in self._copies:
            self._cache.copy(source, target, self._width)
            self._used[target] = self._used[source]
            rows.append(source)
        return torch.cat(logits)[rows] if self._copies else torch.cat(logits)

    def _read(self, first: int, last: int) -> torch.Tensor:
        device, rows = self._vlm.device, range(first, last)
        pending = [self._pending[self.order[row]] for row in rows]
        width = len(pending[0][0])
        start = self._width - width
        ids = np.full((len(rows), width), self._filler, np.int64)
        is_image = np.zeros((len(rows), self._width), np.bool_)
        used = np.zeros((len(rows), width), np.bool_)
        positions = np.zeros((pending[0][2].shape[0], len(rows), width), np.int64)
        pixels: list[Any] = []
        for row, (new, images, places, chunks) in enumerate(pending):
            ids[row, width - len(new) :] = new
            is_image[row, self._width - len(new) :] = images
            used[row, width - len(new) :] = True
            positions[:, row, width - len(new) :] = places
            pixels += [chunk.pixels for chunk in chunks]
        arguments = collate_pixels(self._vlm.model, pixels)
        if pixels:
            arguments |= type_arguments(self._vlm.model, torch.from_numpy(is_image).to(device))
        self._used[first:last, start : self._width] = torch.from_numpy(used).to(device)
        self._cache.select(first, last, start)
        return self._forward(ids, positions, first, last, arguments)

    def write(self, tokens: Sequence[int]) -> torch.Tensor:
        """Add a token to each row that still writes, in their order, and return the logits (rows, V) after it."""
        count = len(self.order)
        places = np.tile(np.array([self._positions[i] for i in self.order]), (len(self._pending[0][2]), 1))[..., None]
        for i in self.order:
            self._positions[i] += 1
        self._used[:count, self._width] = True
        self._cache.select(0, count, self._width)
        self._width += 1
        return self._forward(np.array(tokens)[:, None], places, 0, count, {})

    def _forward(
        self,
        ids: NDArray[np.int64],
        positions: NDArray[np.int64],
        first: int,
        last: int,
        arguments: Mapping[str, Any],
    ) -> torch.Tensor:
        """Compute new tokens (rows, n) at positions (1 or 3, rows, n), and return the logits (rows, V) after them."""
        device = self._vlm.device
        where = torch.from_numpy(positions).to(device)
        output = self._vlm.model(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=self._used[first:last, : self._width].long(),
            position_ids=where if len(where) > 1 else where[0],
            use_cache=True,
            logits_to_keep=1,
            **self._given,
            **arguments,
        )
        return output.logits[:, -1]

    def release(self, number: int, *, keep: bool) -> None:
        """Take a context out, as it has written; the last row takes the place of its row.

        Args:
            number: The context.
            keep: True to give it its part of the cache back.
        """
        row, last = self.order.index(number), len(self.order) - 1
        if keep:
            context, used = self._contexts[number], self._used[row, : self._width]
            context.cache, context.cached = self._cache.take(row, used), int(used.sum())
            context.forget_pixels()
        if row < last:
            self._cache.copy(last, row, self._width)
            self._used[row] = self._used[last]
            self.order[row] = self.order[last]
        self.order.pop()


def _twins(contexts: Sequence[Context]) -> dict[int, int]:
    """Return the contexts that have read the same as an earlier one and nothing else, with that one.

    The episodes of one puzzle begin alike: they are read once.
    """
    known: dict[tuple[int, ...], int] = {}
    twins: dict[int, int] = {}
    for i, context in enumerate(contexts):
        same = known.setdefault(tuple(id(part.chunk) for part in context.parts), i)
        if same != i:
            twins[i] = same
    return twins


@dataclass(frozen=True)
class Generated:
    """A turn that was written.

    Attributes:
        ids: Its tokens, the end of the turn included if the model wrote one.
        logps: The log-probability of each.
        computed_tokens: Tokens that had to be computed before the first could be written.
        stopped: True if it ended by itself, not because of its length.
    """

    ids: tuple[int, ...]
    logps: tuple[float, ...]
    computed_tokens: int
    stopped: bool


class Generator(Protocol):
    """Generator of turns."""

    def generate(self, contexts: Sequence[Context], rngs: Sequence[np.random.Generator]) -> list[Generated]:
        """Write the next turn of each context, and add it to the context.

        Args:
            contexts: The context of each episode.
            rngs: Source of randomness, one a context.

        Raises:
            ModelError: If the model gives logits that are not numbers.
        """
        ...

    def take_weights(self) -> None:
        """Take over the model's weights, after they have changed."""
        ...

    def reset(self) -> None:
        """Drop what was kept for contexts that do not go on."""
        ...


class HFGenerator:
    """Generator of turns with a Hugging Face model in this process.

    Attributes:
        vlm: The model.
        forbidden: (V,) bool, tokens that are never written.
    """

    def __init__(self, vlm: VLM, chat: ChatFormat, options: SamplingOptions, *, reuse_cache: bool = True) -> None:
        """Make a generator.

        Args:
            vlm: The model.
            chat: Its chat format.
            options: Sampling options.
            reuse_cache: True to go on from the cache of the turn before; else all is computed again.
        """
        self.vlm = vlm
        self.options = options
        self.reuse_cache = reuse_cache
        self.max_context: int | None = getattr(vlm.text_config, "max_position_embeddings", None)
        self._ends = set(end_tokens(vlm.model, chat))
        head = vlm.model.get_output_embeddings()
        vocabulary: int = getattr(head, "out_features", None) or head.weight.shape[0]  # packed, if it is quantised
        self.forbidden = forbidden_tokens(chat, vocabulary, sorted(self._ends)).to(vlm.device)
        self._stop = StopTexts(chat, options.stop)
        self._filler = int(self.forbidden.logical_not().nonzero()[0])  # one that stands for no image
        self._reach = attention_reach(vlm.text_config)

    def take_weights(self) -> None:
        """Do nothing: the weights are the model's own."""

    def reset(self) -> None:
        """Do nothing: contexts hold their caches."""

    @torch.inference_mode()
    def generate(self, contexts: Sequence[Context], rngs: Sequence[np.random.Generator]) -> list[Generated]:
        """Write the next turn of each context, and add it to the context; see `Generator`."""
        rooms = [self._room(context) for context in contexts]
        results: dict[int, Generated] = {}
        for i, context in enumerate(contexts):
            if not rooms[i]:
                context.write((), ())
                results[i] = Generated((), (), 0, stopped=False)
        going = [i for i, room in enumerate(rooms) if room]
        if going:
            chosen = ([contexts[i] for i in going], [rooms[i] for i in going], [rngs[i] for i in going])
            results.update(zip(going, self._generate(*chosen), strict=True))
        return [results[i] for i in range(len(contexts))]

    def _generate(
        self, contexts: Sequence[Context], rooms: Sequence[int], rngs: Sequence[np.random.Generator]
    ) -> list[Generated]:
        if not self.reuse_cache:
            for context in contexts:
                context.cache, context.cached = None, 0
        batch = Batch(self.vlm, contexts, self._filler, max_new_tokens=max(rooms), reach=self._reach)
        ids: list[list[int]] = [[] for _ in contexts]
        logps: list[list[float]] = [[] for _ in contexts]
        stopped = [False] * len(contexts)
        watches = [self._stop.begin() for _ in contexts]
        logits = batch.read()
        while True:
            drawn = self._draw(logits, [rngs[i] for i in batch.order])
            for i, token, logp in zip(list(batch.order), *drawn, strict=True):
                ids[i].append(token)
                logps[i].append(logp)
                stopped[i] = token in self._ends or watches[i].add(token)
                if stopped[i] or len(ids[i]) >= rooms[i]:
                    batch.release(i, keep=self.reuse_cache)
            if not batch.order:
                break
            logits = batch.write([ids[i][-1] for i in batch.order])
        results: list[Generated] = []
        for i, context in enumerate(contexts):
            context.write(ids[i], logps[i])
            results.append(Generated(tuple(ids[i]), tuple(logps[i]), batch.computed[i], stopped[i]))
        return results

    def _draw(self, logits: torch.Tensor, rngs: Sequence[np.random.Generator]) -> tuple[list[int], list[float]]:
        """Return the next token of each row, and its log-probability."""
        scores = log_probs(logits, self.forbidden, self.options.temperature)
        drawn = draw(scores, self.options, rngs)
        logps: list[float] = scores.gather(1, drawn[:, None])[:, 0].tolist()
        if any(map(math.isnan, logps)):
            raise ModelError(
                f"The logits of {self.vlm.name!r} are not numbers (NaN). float16 can overflow: load it with "
                "dtype='bfloat16' or 'float32'; else its weights are damaged."
            )
        return drawn.tolist(), logps

    def _room(self, context: Context) -> int:
        if self.max_context is None:
            return self.options.max_new_tokens
        return max(0, min(self.options.max_new_tokens, self.max_context - len(context)))
