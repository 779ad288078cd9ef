# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Writes the next turn of many episodes at once, each from its own cache.

`Generator` is the whole interface, so that another engine can take the place of `HFGenerator`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from agile_gym.errors import ModelError
from agile_gym.policies.vlm.cache import batch_caches, split_caches
from agile_gym.policies.vlm.chat import ChatFormat
from agile_gym.policies.vlm.configs import attention_reach
from agile_gym.policies.vlm.context import Context
from agile_gym.policies.vlm.inputs import collate_pixels, type_arguments
from agile_gym.policies.vlm.loading import VLM
from agile_gym.policies.vlm.sampling import SamplingOptions, draw, forbidden_tokens, log_probs
from agile_gym.policies.vlm.stopping import StopTexts, end_tokens

__all__ = ["Generated", "Generator", "HFGenerator"]


@dataclass(frozen=True)
class Generated:
    """A turn that was written.

    Attributes:
        ids: Its tokens, the end of the turn included if the model wrote one.
        logps: The log-probability of each.
        computed_tokens: Tokens that had to be computed before the first could be written.
        stopped: Whether it ended by itself, not because of its length.
    """

    ids: tuple[int, ...]
    logps: tuple[float, ...]
    computed_tokens: int
    stopped: bool


class Generator(Protocol):
    """What writes turns."""

    def generate(self, contexts: Sequence[Context], rngs: Sequence[np.random.Generator]) -> list[Generated]:
        """Write the next turn of each context, and add it to the context.

        Args:
            contexts: What each episode's model has read and written.
            rngs: Source of what is drawn, one a context.

        Raises:
            ModelError: If the model gives logits that are not numbers.
        """
        ...


class HFGenerator:
    """Writes turns with a Hugging Face model in this process.

    Attributes:
        vlm: The model.
        forbidden: (V,) bool, tokens that are never written.
    """

    def __init__(self, vlm: VLM, chat: ChatFormat, options: SamplingOptions, *, reuse_cache: bool = True) -> None:
        """Make a generator.

        Args:
            vlm: The model.
            chat: Its chat format.
            options: How turns are sampled.
            reuse_cache: Whether a turn goes on from the cache of the one before; else all is computed again.
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
        self._filler: int = chat.tokenizer.pad_token_id or 0
        self._reach = attention_reach(vlm.text_config)

    @torch.inference_mode()
    def generate(self, contexts: Sequence[Context], rngs: Sequence[np.random.Generator]) -> list[Generated]:
        """Write the next turn of each context, and add it to the context; see `Generator`."""
        results: dict[int, Generated] = {}
        with_room = [i for i, context in enumerate(contexts) if self._room(context) > 0]
        for i in set(range(len(contexts))) - set(with_room):
            contexts[i].write((), ())
            results[i] = Generated((), (), 0, False)
        for group in self._groups(contexts, with_room):
            written = self._generate([contexts[i] for i in group], [rngs[i] for i in group])
            results.update(zip(group, written, strict=True))
        return [results[i] for i in range(len(contexts))]

    def _groups(self, contexts: Sequence[Context], numbers: Sequence[int]) -> list[list[int]]:
        """Return which contexts are computed together.

        Empty places in a cache lengthen distances, which matters only to attention with a window that is shorter than
        what is cached: then contexts are computed one by one.
        """
        longest = max((len(contexts[i]) for i in numbers), default=0) + self.options.max_new_tokens
        if self._reach is not None and longest > self._reach:
            return [[i] for i in numbers]
        return [list(numbers)] if numbers else []

    def _generate(self, contexts: Sequence[Context], rngs: Sequence[np.random.Generator]) -> list[Generated]:
        batch = _Batch(self.vlm, contexts, self._filler, self.options.max_new_tokens, reuse=self.reuse_cache)
        room = [self._room(context) for context in contexts]
        logits = batch.prefill()
        ids: list[list[int]] = [[] for _ in contexts]
        logps: list[list[float]] = [[] for _ in contexts]
        stopped = [False] * len(contexts)
        active = list(range(len(contexts)))
        rows = list(active)
        while active:
            places = [rows.index(i) for i in active]
            scores = log_probs(logits[places], self.forbidden, self.options.temperature)
            drawn = draw(scores, self.options, [rngs[i] for i in active])
            chosen: list[float] = scores.gather(1, drawn[:, None])[:, 0].tolist()
            tokens: list[int] = drawn.tolist()
            if any(map(math.isnan, chosen)):
                raise ModelError(
                    f"The logits of {self.vlm.name!r} are not numbers (NaN). float16 can overflow: load it with "
                    "dtype='bfloat16' or 'float32'; else its weights are damaged."
                )
            going: list[int] = []
            for i, token, logp in zip(active, tokens, chosen, strict=True):
                ids[i].append(token)
                logps[i].append(logp)
                stopped[i] = token in self._ends or self._stop.complete(ids[i])
                if stopped[i] or len(ids[i]) >= room[i]:
                    batch.release(i)
                else:
                    going.append(i)
            active = going
            if active:
                rows = batch.shrink(active)
                last = [ids[i][-1] if i in set(active) else self._filler for i in rows]
                logits = batch.step(last)
        results: list[Generated] = []
        for i, context in enumerate(contexts):
            if not self.reuse_cache:
                context.cache, context.cached = None, 0
            context.write(ids[i], logps[i])
            results.append(Generated(tuple(ids[i]), tuple(logps[i]), batch.computed[i], stopped[i]))
        return results

    def _room(self, context: Context) -> int:
        if self.max_context is None:
            return self.options.max_new_tokens
        return max(0, min(self.options.max_new_tokens, self.max_context - len(context)))


class _Batch:
    """Contexts that are computed together: a cache with a row each, and the mask of the places that are in use."""

    def __init__(self, vlm: VLM, contexts: Sequence[Context], filler: int, max_new_tokens: int, *, reuse: bool) -> None:
        self._vlm = vlm
        self._contexts = contexts
        self._filler = filler
        if not reuse:
            for context in contexts:
                context.cache, context.cached = None, 0
        self._pending = [context.pending() for context in contexts]
        self.computed = [len(ids) for ids, *_ in self._pending]
        self._width = max(self.computed)
        self._cache, self._cached = batch_caches([context.cache for context in contexts], self._width + max_new_tokens)
        self._rows = list(range(len(contexts)))
        self._released: set[int] = set()
        self._positions = [context.next_position() for context in contexts]

    def prefill(self) -> torch.Tensor:
        """Compute what the contexts have read since they last wrote, and return the logits (B, V) after it."""
        device, count, width = self._vlm.device, len(self._contexts), self._width
        past = max(self._cached)
        ids = np.full((count, width), self._filler, np.int64)
        is_image = np.zeros((count, past + width), np.bool_)
        used = np.zeros((count, past + width), np.bool_)
        positions = np.zeros((self._pending[0][2].shape[0], count, width), np.int64)
        pixels: list[Any] = []
        for row, (new, images, places, chunks) in enumerate(self._pending):
            start = width - len(new)
            ids[row, start:] = new
            is_image[row, past + start :] = images
            used[row, past + start :] = True
            used[row, past - self._cached[row] : past] = True
            positions[:, row, start:] = places
            pixels += [chunk.pixels for chunk in chunks]
        arguments = collate_pixels(self._vlm.model, pixels)
        if pixels:
            arguments |= type_arguments(self._vlm.model, torch.from_numpy(is_image).to(device))
        self._mask = torch.from_numpy(used).to(device)
        return self._forward(torch.from_numpy(ids).to(device), torch.from_numpy(positions).to(device), **arguments)

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Add a token to each row, and return the logits (B, V) after it."""
        device = self._vlm.device
        ids = torch.tensor(tokens, device=device)[:, None]
        going = torch.tensor([row not in self._released for row in self._rows], device=device)
        self._mask = torch.cat([self._mask, going[:, None]], 1)
        dimensions = self._pending[0][2].shape[0]
        positions = torch.tensor([self._positions[row] for row in self._rows], device=device)
        for row in self._rows:
            self._positions[row] += 1
        return self._forward(ids, positions[None, :, None].expand(dimensions, -1, -1))

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, **arguments: Any) -> torch.Tensor:  # noqa: ANN401
        output = self._vlm.model(
            input_ids=ids,
            attention_mask=self._mask.long(),
            position_ids=positions if len(positions) > 1 else positions[0],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **arguments,
        )
        return output.logits[:, -1]

    def release(self, number: int) -> None:
        """Give a context its part of the cache back; its row is not needed any more."""
        row, context = self._rows.index(number), self._contexts[number]
        context.cache = split_caches(self._cache, row, self._mask[row])
        context.cached = int(self._mask[row].sum())
        context.forget_pixels()
        self._released.add(number)

    def shrink(self, active: Sequence[int]) -> list[int]:
        """Drop rows that are not needed any more, if they are many, and return which contexts the rows are of."""
        if 2 * len(active) <= len(self._rows):
            kept = torch.tensor([self._rows.index(number) for number in active], device=self._vlm.device)
            layers: list[Any] = self._cache.layers
            for layer in layers:
                layer.batch_select_indices(kept)
            self._mask = self._mask[kept]
            self._rows = list(active)
        return self._rows
