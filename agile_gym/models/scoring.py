# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Log-probabilities of tokens that were written, computed anew in one forward pass, for a learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.checkpoint import checkpoint

from agile_gym.models.chat import ChatFormat, Chunk
from agile_gym.models.inputs import image_arguments, relative_positions, type_arguments
from agile_gym.models.loading import VLM, process
from agile_gym.models.packing import packed_arguments, prepare_packing
from agile_gym.models.sampling import end_tokens, forbidden_tokens, log_probs
from agile_gym.transcripts.record import Image, Segment

__all__ = ["SCORED_NUMBERS", "PreparedSegment", "Scorer", "TokenScores", "segment_logps"]

SCORED_NUMBERS = 2**27
"""Logits that are scored at a time: their copies in float32 are larger than all activations of a large model."""
_CACHE_BYTES = 256 * 2**20
"""Memory for pixels of images that may come again."""
_GRIDS = ("image_grid_thw",)
"""Tensors that positions depend on."""


@dataclass(frozen=True, eq=False, slots=True)
class PreparedSegment:
    """A segment as a model takes it.

    Attributes:
        ids: (T,) int32, token ids.
        is_image: (T,) bool, True on image placeholders.
        positions: (1 or 3, T) int64, positions of the tokens.
        loss_mask: (T,) bool, True on the tokens that the model wrote.
        pixels: The processor's tensors for each image.
    """

    ids: NDArray[np.int32]
    is_image: NDArray[np.bool_]
    positions: NDArray[np.int64]
    loss_mask: NDArray[np.bool_]
    pixels: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        """Return the number of tokens, T."""
        return len(self.loss_mask)


@dataclass(frozen=True, eq=False, slots=True)
class TokenScores:
    """Scores of tokens under a model. Column ``t`` is token ``t`` of a segment; rows are filled up at their end.

    Attributes:
        logps: (B, T) float32, the log-probability of each marked token given those before it, 0 elsewhere.
        loss_mask: (B, T) bool, True on marked tokens.
        entropies: (B, T) float32, the entropy in nats of the distribution of each marked token, no gradient unless
            requested; None if not requested.
    """

    logps: torch.Tensor
    loss_mask: torch.Tensor
    entropies: torch.Tensor | None = None


class Scorer:
    """Scorer of segments: log-probabilities, with gradients where they are enabled.

    They are those of sampling: of the logits divided by the temperature, without the tokens that cannot be sampled.

    Attributes:
        vlm: The model.
        chat: Its chat format.
        temperature: Divisor of the logits.
        packing: True if the segments are packed in one row, instead of padded.
    """

    def __init__(self, vlm: VLM, chat: ChatFormat, *, temperature: float = 1.0, packing: bool = False) -> None:
        """Make a scorer.

        Args:
            vlm: The model.
            chat: Its chat format.
            temperature: Temperature of sampling; 0 counts as 1.
            packing: True to pack segments; see `agile_gym.models.packing.resolve_packing`.
        """
        self.packing = packing
        if packing:
            prepare_packing(vlm.model)
        self.vlm = vlm
        self.chat = chat
        self.temperature = temperature
        self._ends = end_tokens(vlm.model, chat)
        self._forbidden: torch.Tensor | None = None
        self._known: dict[tuple[tuple[int, ...], bytes], Mapping[str, Any]] = {}
        self._room = _CACHE_BYTES

    def prepare(self, segment: Segment, images: Sequence[Image]) -> PreparedSegment:
        """Run the processor over the images of a segment.

        Args:
            segment: The segment.
            images: Its images, in order: those that `Segment.images` names.
        """
        pixels = tuple(map(self._pixels, images))
        is_image = segment.ids == self.chat.image_token_id
        grids = {name: torch.cat([entry[name] for entry in pixels]) for name in _GRIDS if pixels and name in pixels[0]}
        positions = relative_positions(self.vlm.model, Chunk(segment.ids, is_image, grids, len(images)))
        return PreparedSegment(segment.ids, is_image, positions, segment.loss_mask, pixels)

    def forget(self) -> None:
        """Drop the images that were prepared, when others follow."""
        self._known, self._room = {}, _CACHE_BYTES

    def _pixels(self, image: Image) -> Mapping[str, Any]:
        """Return the processor's tensors for an image, which episodes of one puzzle share."""
        key = (image.shape, image.tobytes())
        pixels = self._known.get(key)
        if pixels is None:
            pixels = _process(self.chat, image)
            size = sum(tensor.nbytes for tensor in pixels.values()) + image.nbytes
            if size > self._room:
                self.forget()
            self._known[key] = pixels
            self._room -= size
        return pixels

    def __call__(self, rows: Sequence[PreparedSegment], *, entropies: bool | str = False) -> TokenScores:
        """Score segments, one a row of the scores.

        The model gets them as rows of one length, or, packed, one behind the other in a single row.

        Args:
            rows: The segments, at least one.
            entropies: True to compute entropies; ``"gradient"`` if they are to be trained.

        Returns:
            Log-probabilities and entropies (B, T), where T is the length of the longest segment.
        """
        width = max(map(len, rows))
        shape = (len(rows), width)
        ids = np.full(shape, self.chat.end_of_turn or 0, np.int64)  # padding must not be read as an image
        used, is_image, mask = (np.zeros(shape, np.bool_) for _ in range(3))
        places = np.zeros((rows[0].positions.shape[0], *shape), np.int64)
        for number, row in enumerate(rows):
            count = len(row)
            ids[number, :count], used[number, :count], mask[number, :count] = row.ids, True, row.loss_mask
            is_image[number, :count] = row.is_image
            places[:, number, :count] = row.positions
        mask[:, 0] = False  # nothing stands before the first token that could predict it
        device, model = self.vlm.device, self.vlm.model
        arguments = image_arguments(model, [pixels for row in rows for pixels in row.pixels])
        tokens, marked = (torch.from_numpy(array).to(device) for array in (ids, mask))
        if self.packing:
            ids, is_image, mask = (array[used][None] for array in (ids, is_image, mask))  # (1, tokens of all)
            places = places[:, used][:, None]
        before: NDArray[np.bool_] = np.any(mask[:, 1:], axis=0)  # columns after which a model wrote
        before[0] |= not before.any()
        arguments |= type_arguments(model, torch.from_numpy(is_image).to(device))
        where = torch.from_numpy(places).to(device)
        if self.packing:
            arguments |= packed_arguments(model, list(map(len, rows)), where)
        else:
            arguments["attention_mask"] = torch.from_numpy(used).long().to(device)
            arguments["position_ids"] = where if len(where) > 1 else where[0]
        logits = model(
            input_ids=torch.from_numpy(ids).to(device) if self.packing else tokens,
            use_cache=False,
            logits_to_keep=torch.from_numpy(np.flatnonzero(before)).to(device),  # the others would fill the memory
            **arguments,
        ).logits
        if self._forbidden is None or self._forbidden.device != logits.device:
            self._forbidden = forbidden_tokens(self.chat, logits.shape[-1], self._ends).to(logits.device)
        row_of, column_of = np.nonzero(mask)
        kept = (np.cumsum(before) - 1)[column_of - 1]
        chosen = logits[torch.from_numpy(row_of).to(device), torch.from_numpy(kept).to(device)]
        del logits
        parts = max(1, SCORED_NUMBERS // chosen.shape[-1])
        scored = [
            self._score(some, written, entropies, again=len(chosen) > parts)
            for some, written in zip(chosen.split(parts), tokens[marked].split(parts), strict=True)
        ]
        empty = torch.zeros(shape, dtype=torch.float32, device=device)
        logps = empty.masked_scatter(marked, torch.cat([logp for logp, _ in scored]))
        if not entropies:
            return TokenScores(logps, marked)
        return TokenScores(logps, marked, empty.masked_scatter(marked, torch.cat([spread for _, spread in scored])))

    def _score(
        self, logits: torch.Tensor, written: torch.Tensor, entropies: bool | str, *, again: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Score (M, V) logits: log-probabilities (M,) of written tokens, and entropies (M,), empty if not requested.

        With `again`, what is between them is not kept but computed again in the backward pass.
        """

        def score(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            forbidden = cast("torch.Tensor", self._forbidden)
            scores = log_probs(logits, forbidden, self.temperature)  # (M, V)
            logps = scores.gather(1, written[:, None])[:, 0]
            if not entropies:
                return logps, logps.new_zeros(0)
            with torch.set_grad_enabled(entropies == "gradient" and torch.is_grad_enabled()):
                return logps, -(scores.exp() * scores.masked_fill(forbidden, 0)).sum(-1)

        if again and torch.is_grad_enabled():
            return cast("tuple[torch.Tensor, torch.Tensor]", checkpoint(score, logits, use_reentrant=False))
        return score(logits)


def segment_logps(
    vlm: VLM,
    chat: ChatFormat,
    segments: Sequence[Segment],
    images: Sequence[Sequence[Image]],
    *,
    temperature: float = 1.0,
) -> list[NDArray[np.float32]]:
    """Compute the log-probability of each token of some segments, given those before it.

    Args:
        vlm: The model.
        chat: Its chat format.
        segments: The segments.
        images: For each segment, the images of its transcript (`Transcript.images`).
        temperature: Temperature that they were sampled with; 0 counts as 1.

    Returns:
        For each segment (T,) float32: the log-probability of each marked token, 0 elsewhere.
    """
    scorer = Scorer(vlm, chat, temperature=temperature)
    rows = [
        scorer.prepare(segment, [shown[number] for number in segment.images])
        for segment, shown in zip(segments, images, strict=True)
    ]
    with torch.inference_mode():
        logps = scorer(rows).logps.cpu().numpy()
    return [logps[number, : len(row)] for number, row in enumerate(rows)]


def _process(chat: ChatFormat, image: Image) -> Mapping[str, Any]:
    """Return the processor's tensors for an image."""
    pixels = dict(process(chat.processor, chat.processor.image_token, [image], add_special_tokens=False))
    for name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
        pixels.pop(name, None)
    return pixels
