"""Answers at once: the loss of a first turn that is the right answer, and the answers that the model gives itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 -- the usual name

from agile_gym.actions import ActionError
from agile_gym.actions.tags import read_answer, read_tags
from agile_gym.policies.tiny.forward import image_features, last_hidden
from agile_gym.policies.tiny.puzzles import Lesson, PuzzleBatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["answer_loss", "answer_turns", "as_pixels", "as_tensor", "pieces_right"]

ENDING = 2
"""Ids of an answer's end that follow by themselves from what stands before: the closing of list and turn."""
_NOTHING = -100
"""Stands for a token that is not to be predicted."""


def as_tensor(array: NDArray[Any], device: Any) -> Tensor:  # noqa: ANN401 -- torch.device or its name
    """Return an array as a tensor on a device."""
    return torch.from_numpy(array).to(device)  # pyright: ignore[reportUnknownMemberType] -- torch is partly typed


def as_pixels(images: NDArray[np.uint8], device: Any) -> Tensor:  # noqa: ANN401 -- torch.device or its name
    """Return images (..., 32, 32, 3) as the processor makes them: (N, 3, 32, 32) float32 from -1 to 1."""
    flat = as_tensor(images.reshape(-1, *images.shape[-3:]), device)
    return flat.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def answer_loss(
    model: Any,  # noqa: ANN401 -- transformers is untyped
    lesson: Lesson,
    features: Tensor,
    batch: PuzzleBatch,
    *,
    whole: bool,
    thoughts: NDArray[np.int64] | None = None,
) -> Tensor:
    """Compute the mean cross-entropy of the right answers' tokens.

    Args:
        model: The tiny model.
        lesson: The conversation.
        features: (N, P, width), the image vectors of the pieces.
        batch: The puzzles.
        whole: Whether the end of the turn counts, too; without it the loss costs less.
        thoughts: (N, M), ids that stand in the thoughts before the answers. Nothing is learned about them, nor about
            where they end.

    Returns:
        Scalar float32.
    """
    answers = as_tensor(lesson.answers(batch.solution), features.device)
    targets = answers
    if thoughts is not None and thoughts.shape[1]:
        inside, after = as_tensor(thoughts, features.device), lesson.thought
        answers = torch.cat([answers[:, :after], inside, answers[:, after:]], 1)
        targets = answers.clone()
        targets[:, after : after + inside.shape[1] + 1] = _NOTHING
    if not whole:
        answers, targets = answers[:, :-ENDING], targets[:, :-ENDING]
    hidden = _hidden(model, lesson, features, answers[:, :-1])
    logits = model.lm_head(hidden[:, -answers.shape[1] :]).float()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_NOTHING)


def _hidden(model: Any, lesson: Lesson, features: Tensor, written: Tensor) -> Tensor:  # noqa: ANN401 -- likewise
    """Return the last hidden states (N, W + 1, width) from which the ``W`` ids written, and the next, are predicted."""
    embed = model.get_input_embeddings()
    prompt = embed(as_tensor(lesson.prompt, features.device))
    first = int(lesson.images[0])
    vectors = prompt[first:].expand(len(features), -1, -1).clone()
    vectors[:, as_tensor(lesson.images - first, features.device)] = features.to(vectors.dtype)
    vectors = torch.cat([vectors, embed(written)], 1)
    return last_hidden(model, prompt[:first], vectors, written.shape[1] + 1)


@torch.no_grad()
def answer_turns(
    model: Any,  # noqa: ANN401 -- likewise
    lesson: Lesson,
    batch: PuzzleBatch,
    choose: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Let the model write its first turn to some puzzles.

    Args:
        model: The tiny model.
        lesson: The conversation.
        batch: The puzzles.
        choose: Chooses ids (N,) from logits (N, vocabulary); by default the most likely.

    Returns:
        (N, A) int64, as many ids as an answer has, its end included.
    """
    features = image_features(model, as_pixels(batch.pieces, model.device)).view(*batch.home.shape, -1)
    count = lesson.answers(batch.solution[:1]).shape[1]
    written = torch.zeros(len(features), 0, dtype=torch.long, device=model.device)
    for _ in range(count):
        logits = model.lm_head(_hidden(model, lesson, features, written)[:, -1]).float()
        ids = logits.argmax(-1) if choose is None else choose(logits)
        written = torch.cat([written, ids[:, None]], 1)
    return written


def pieces_right(processor: Any, lesson: Lesson, turns: Tensor, batch: PuzzleBatch) -> list[int]:  # noqa: ANN401 -- transformers is untyped
    """Count the pieces in their place in the answers that turns give; a turn that gives none has none.

    Args:
        processor: The tiny model's processor.
        lesson: The conversation.
        turns: (N, A) int64, as `answer_turns` gives them.
        batch: The puzzles.

    Returns:
        A number for each puzzle.
    """
    right: list[int] = []
    texts: list[str] = processor.tokenizer.batch_decode(turns, skip_special_tokens=True)
    solutions: list[list[int]] = batch.solution.tolist()
    for text, solution in zip(texts, solutions, strict=True):
        try:
            order = read_answer(read_tags(text, "code").bodies[0], lesson.names).order
        except ActionError:
            order = ()
        same = [name == lesson.names[piece] for name, piece in zip(order, solution, strict=False)]
        right.append(sum(same) if len(order) == len(solution) else 0)
    return right
