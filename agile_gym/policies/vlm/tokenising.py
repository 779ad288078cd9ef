# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of transformers are incomplete.
"""The tokens of an episode that somebody else played, as if the model had written it: for supervised training."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.tags import answer_span
from agile_gym.errors import ConfigurationError
from agile_gym.policies.vlm.chat import ChatFormat, Chunk
from agile_gym.rollout.transcript import Segment, Transcript

__all__ = ["tokenise_transcript"]


def tokenise_transcript(
    chat: ChatFormat,
    transcript: Transcript,
    *,
    untrained: Collection[int] = (),
    only_answers: bool = False,
    max_tokens: int | None = None,
) -> Segment | None:
    """Turn an episode into tokens, with the assistant's marked.

    What is read is tokenised as in a rollout. The end of each turn is marked too, so that the model learns to stop.

    Args:
        chat: The model's chat format; its system prompt is used, not the transcript's.
        transcript: The episode, with its images.
        untrained: Turns, from 0, that are not marked, such as those with a wrong move.
        only_answers: Mark only what stands inside answer tags: not that an answer is given, but what it says.
        max_tokens: Turns are left out at the end until the episode has no more tokens than this.

    Returns:
        The episode's tokens, log-probabilities 0; None if not even the first turn fits.

    Raises:
        ConfigurationError: If the transcript was stored without its images, or if only answers are to be marked and
            the tokenizer does not tell where in a text its tokens begin.
    """
    shown = [(transcript.prompt, transcript.prompt_images)]
    shown += [(turn.feedback, turn.images) for turn in transcript.turns[:-1]]
    if any(text.count("<image>") != len(images) for text, images in shown):
        raise ConfigurationError(
            f"The transcript {transcript.id!r} was stored without all its images. Record it with its images to "
            "train on it."
        )
    chunks = [_read(chat.opening(transcript.prompt, transcript.prompt_images))]
    for number, turn in enumerate(transcript.turns):
        chunk, answers = _written(chat, turn.text, spans=only_answers)
        marked = answers if only_answers else np.ones_like(answers)
        chunks.append((chunk, np.where(marked & (number not in untrained), np.int16(number), np.int16(-1))))
        if number + 1 < len(transcript.turns):
            after = int(chunks[-1][0].ids[-1]) if len(chunks[-1][0].ids) else None
            chunks.append(_read(chat.follow_up(turn.feedback, turn.images, after=after)))
    while max_tokens is not None and len(chunks) > 1 and sum(len(chunk.ids) for chunk, _ in chunks) > max_tokens:
        chunks = chunks[:-2]
    if len(chunks) < 2:
        return None
    ids = np.concatenate([chunk.ids for chunk, _ in chunks])
    turns = np.concatenate([marked for _, marked in chunks])
    images = tuple(range(sum(chunk.images for chunk, _ in chunks)))
    return Segment(ids, turns >= 0, np.zeros(len(ids), np.float32), turns, images)


def _read(chunk: Chunk) -> tuple[Chunk, NDArray[np.int16]]:
    """Return a chunk that is only read, with the turn of each of its tokens: none."""
    return chunk, np.full(len(chunk.ids), -1, np.int16)


def _written(chat: ChatFormat, text: str, *, spans: bool) -> tuple[Chunk, NDArray[np.bool_]]:
    """Return the tokens of a turn and of its end, and, if it is asked for, which of them begin inside its answer."""
    body = text.removeprefix(chat.prefill)
    if spans and not chat.tokenizer.is_fast:
        raise ConfigurationError(
            f"The tokenizer {type(chat.tokenizer).__name__} does not tell where its tokens begin, which is needed to "
            "learn answers alone. Use a model with a fast tokenizer, or no replay (replay_size=0)."
        )
    made = chat.tokenizer(body, add_special_tokens=False, return_offsets_mapping=spans)
    ids = np.asarray(made["input_ids"], np.int32)
    inside = np.zeros(len(ids), np.bool_)
    span = answer_span(text) if spans else None  # of the whole text, whose thought the template may have opened
    if span is not None:
        begins = np.asarray(made["offset_mapping"]).reshape(-1, 2)[:, 0] + len(text) - len(body)
        inside = (begins >= span[0]) & (begins < span[1])
    if chat.end_of_turn is not None:
        ids, inside = np.append(ids, np.int32(chat.end_of_turn)), np.append(inside, False)
    return Chunk(ids, np.zeros(len(ids), np.bool_)), inside
