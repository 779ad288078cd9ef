# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of transformers are incomplete.
"""The tokens of an episode that somebody else played, as if the model had written it: for supervised training."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import ConfigurationError
from agile_gym.policies.vlm.chat import ChatFormat, Chunk
from agile_gym.rollout.transcript import Segment, Transcript

__all__ = ["tokenise_transcript"]


def tokenise_transcript(
    chat: ChatFormat, transcript: Transcript, *, untrained: Collection[int] = (), max_tokens: int | None = None
) -> Segment | None:
    """Turn an episode into tokens, with the assistant's marked.

    What is read is tokenised as in a rollout. The end of each turn is marked too, so that the model learns to stop.

    Args:
        chat: The model's chat format; its system prompt is used, not the transcript's.
        transcript: The episode, with its images.
        untrained: Turns, from 0, that are not marked, such as those with a wrong move.
        max_tokens: Turns are left out at the end until the episode has no more tokens than this.

    Returns:
        The episode's tokens, log-probabilities 0; None if not even the first turn fits.

    Raises:
        ConfigurationError: If the transcript was stored without its images.
    """
    shown = [(transcript.prompt, transcript.prompt_images)]
    shown += [(turn.feedback, turn.images) for turn in transcript.turns[:-1]]
    if any(text.count("<image>") != len(images) for text, images in shown):
        raise ConfigurationError(
            f"The transcript {transcript.id!r} was stored without all its images. Record it with its images to "
            "train on it."
        )
    chunks = [(chat.opening(transcript.prompt, transcript.prompt_images), -1)]
    for number, turn in enumerate(transcript.turns):
        chunks.append((_written(chat, turn.text), -1 if number in untrained else number))
        if number + 1 < len(transcript.turns):
            after = int(chunks[-1][0].ids[-1]) if len(chunks[-1][0].ids) else None
            chunks.append((chat.follow_up(turn.feedback, turn.images, after=after), -1))
    while max_tokens is not None and len(chunks) > 1 and sum(len(chunk.ids) for chunk, _ in chunks) > max_tokens:
        chunks = chunks[:-2]
    if len(chunks) < 2:
        return None
    ids = np.concatenate([chunk.ids for chunk, _ in chunks])
    turns: NDArray[np.int16] = np.concatenate([np.full(len(chunk.ids), turn, np.int16) for chunk, turn in chunks])
    images = tuple(range(sum(chunk.images for chunk, _ in chunks)))
    return Segment(ids, turns >= 0, np.zeros(len(ids), np.float32), turns, images)


def _written(chat: ChatFormat, text: str) -> Chunk:
    """Return the tokens of a turn and of its end."""
    body = text.removeprefix(chat.prefill)
    ids = np.asarray(chat.tokenizer(body, add_special_tokens=False)["input_ids"], np.int32)
    if chat.end_of_turn is not None:
        ids = np.append(ids, np.int32(chat.end_of_turn))
    return Chunk(ids, np.zeros(len(ids), np.bool_))
