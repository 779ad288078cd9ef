# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""When a turn is over: the tokens that end it, and the texts after which it stops."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agile_gym.policies.vlm.chat import ChatFormat

__all__ = ["StopTexts", "end_tokens"]

_LOOSE_BYTES = 8
"""Bytes that a tail of tokens may lose at its start, where it cuts a character, or hold behind the stop text."""
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""How SentencePiece's tokenizers name the tokens of single bytes."""


def end_tokens(model: Any, chat: ChatFormat) -> tuple[int, ...]:  # noqa: ANN401 -- transformers is untyped
    """Return the tokens that end a turn: those of the model, its tokenizer and its chat template."""
    settings = getattr(model, "generation_config", None)
    ids: set[int] = set()
    for number in (getattr(settings, "eos_token_id", None), chat.tokenizer.eos_token_id, chat.end_of_turn):
        ids.update(number if isinstance(number, list | tuple) else [] if number is None else [number])
    return tuple(sorted(ids))


class StopTexts:
    """Finds out at which token a turn holds a text after which it stops, wherever the tokens' borders are."""

    def __init__(self, chat: ChatFormat, stop: Sequence[str]) -> None:
        """Study a tokenizer.

        Args:
            chat: The model's chat format.
            stop: The texts.
        """
        self._chat = chat
        self._stop = tuple(stop)
        self._may_end = _may_end(chat.tokenizer, stop)
        self._tail = max((len(text.encode()) for text in stop), default=0) + _LOOSE_BYTES  # a token has a byte or more

    def complete(self, ids: Sequence[int]) -> bool:
        """Tell whether the last of the tokens that a model has written completes one of the texts.

        What the chat template wrote before them does not count.

        Args:
            ids: The tokens, at least one.
        """
        last = ids[-1]
        if last < len(self._may_end) and not self._may_end[last]:
            return False
        text = self._chat.decode_part(ids[-self._tail :])
        return any(stop in text for stop in self._stop)


def _may_end(tokenizer: Any, stop: Sequence[str]) -> NDArray[np.bool_]:  # noqa: ANN401 -- transformers is untyped
    """Return which tokens hold the last character of a stop text, so that only after these the text is looked at.

    Returns:
        (V,) bool.
    """
    ends = {text[-1] for text in stop}
    tokens: list[str | None] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    if not all(end.isascii() and end.isprintable() and not end.isspace() for end in ends):
        return np.ones(len(tokens), np.bool_)
    return np.array(
        [
            token is not None and (any(end in token for end in ends) or _BYTE_TOKEN.fullmatch(token) is not None)
            for token in tokens
        ],
        np.bool_,
    )
