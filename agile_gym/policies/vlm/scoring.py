# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Log-probabilities of a transcript's tokens, computed anew in one forward pass: what a learner trains on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from agile_gym.policies.vlm.chat import ChatFormat, Chunk, process
from agile_gym.policies.vlm.inputs import collate_pixels, relative_positions, type_arguments
from agile_gym.policies.vlm.loading import VLM
from agile_gym.policies.vlm.sampling import forbidden_tokens, log_probs
from agile_gym.policies.vlm.stopping import end_tokens
from agile_gym.rollout.transcript import Image, Segment

__all__ = ["segment_logps"]


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
        temperature: What they were sampled with; 0 counts as 1.

    Returns:
        For each segment (T,) float32: the log-probability of each marked token, 0 elsewhere.
    """
    chunks = [_chunk(chat, segment, shown) for segment, shown in zip(segments, images, strict=True)]
    width = max(len(chunk.ids) for chunk in chunks)
    positions = [relative_positions(vlm.model, chunk) for chunk in chunks]
    shape = (len(chunks), width)
    ids = np.full(shape, chat.end_of_turn or 0, np.int64)  # what fills up must not be read as an image
    used, is_image = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    places = np.zeros((positions[0].shape[0], *shape), np.int64)
    before = np.zeros(width, np.bool_)  # tokens after which a model wrote one
    for row, (chunk, position, segment) in enumerate(zip(chunks, positions, segments, strict=True)):
        count = len(chunk.ids)
        ids[row, :count], used[row, :count], is_image[row, :count] = chunk.ids, True, chunk.is_image
        places[:, row, :count] = position
        before[: count - 1] |= segment.mask[1:]
    device = vlm.device
    arguments = collate_pixels(vlm.model, [chunk.pixels for chunk in chunks if chunk.images])
    arguments |= type_arguments(vlm.model, torch.from_numpy(is_image).to(device))
    where = torch.from_numpy(places).to(device)
    tokens = torch.from_numpy(ids).to(device)
    with torch.inference_mode():
        logits = vlm.model(
            input_ids=tokens,
            attention_mask=torch.from_numpy(used).long().to(device),
            position_ids=where if len(where) > 1 else where[0],
            use_cache=False,
            logits_to_keep=torch.from_numpy(np.flatnonzero(before)).to(device),  # the others would fill the memory
            **arguments,
        ).logits
        forbidden = forbidden_tokens(chat, logits.shape[-1], end_tokens(vlm.model, chat)).to(device)
        column = np.cumsum(before) - 1
        results: list[NDArray[np.float32]] = []
        for row, segment in enumerate(segments):
            told = np.zeros(len(segment.ids), np.float32)
            marked = np.flatnonzero(segment.mask)
            scores = log_probs(logits[row, column[marked - 1]], forbidden, temperature)
            told[marked] = scores.gather(1, tokens[row, marked][:, None])[:, 0].float().cpu().numpy()
            results.append(told)
    return results


def _chunk(chat: ChatFormat, segment: Segment, images: Sequence[Image]) -> Chunk:
    """Return a segment's tokens with the pixels of its images."""
    from PIL import Image as PillowImage

    pixels = {}
    if segment.images:
        pictures = [PillowImage.fromarray(np.ascontiguousarray(images[number])) for number in segment.images]
        mark = chat.processor.image_token
        pixels = dict(process(chat.processor, mark * len(pictures), pictures, add_special_tokens=False))
        for name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
            pixels.pop(name, None)
    return Chunk(segment.ids, segment.ids == chat.image_token_id, pixels, len(segment.images))
