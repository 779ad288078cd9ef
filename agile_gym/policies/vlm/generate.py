# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Writes the next turn of many episodes at once, each from its own cache.

`Generator` is the whole interface, so that another engine can take the place of `HFGenerator`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from agile_gym.errors import ModelError
from agile_gym.policies.vlm.batch import Batch
from agile_gym.policies.vlm.chat import ChatFormat
from agile_gym.policies.vlm.configs import attention_reach
from agile_gym.policies.vlm.context import Context
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
        self._filler = int(self.forbidden.logical_not().nonzero()[0])  # one that stands for no image
        self._reach = attention_reach(vlm.text_config)

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
