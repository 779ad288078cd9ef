# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""When a turn is over: the tokens that end it, and the texts after which it stops."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.tags import blank_thoughts
from agile_gym.policies.vlm.chat import ChatFormat

__all__ = ["StopTexts", "TurnWatch", "end_tokens"]

_LOOSE_BYTES = 8
"""Bytes that a tail of tokens may lose at its start, where it cuts a character, or hold behind the stop text."""
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""How SentencePiece's tokenizers name the tokens of single bytes."""
_THINK_TAGS = ("<think>", "</think>")


def end_tokens(model: Any, chat: ChatFormat) -> tuple[int, ...]:  # noqa: ANN401 -- transformers is untyped
    """Return the tokens that end a turn: those of the model, its tokenizer and its chat template."""
    settings = getattr(model, "generation_config", None)
    ids: set[int] = set()
    for number in (getattr(settings, "eos_token_id", None), chat.tokenizer.eos_token_id, chat.end_of_turn):
        ids.update(number if isinstance(number, list | tuple) else [] if number is None else [number])
    return tuple(sorted(ids))


class StopTexts:
    """Finds out at which token a turn holds a text after which it stops, wherever the tokens' borders are.

    Thoughts may hold such texts: only what stands outside of think tags ends a turn.
    """

    def __init__(self, chat: ChatFormat, stop: Sequence[str]) -> None:
        """Study a tokenizer.

        Args:
            chat: The model's chat format.
            stop: The texts.
        """
        self.stop = tuple(stop)
        self.opened = blank_thoughts(chat.prefill, opened=False)[1]
        self.decode = chat.decode_part
        texts = (*self.stop, *_THINK_TAGS)
        self.may_end = _may_end(chat.tokenizer, texts)
        self.tail = max(len(text.encode()) for text in texts) + _LOOSE_BYTES  # a token has a byte or more

    def begin(self) -> TurnWatch:
        """Begin a turn, in a thought if the chat template has opened one."""
        return TurnWatch(self)


class TurnWatch:
    """Follows the tokens of a turn while it is written.

    Attributes:
        thinking: Whether what was written last is part of a thought.
    """

    def __init__(self, texts: StopTexts) -> None:
        """Begin a turn.

        Args:
            texts: The texts that end it.
        """
        self.thinking = texts.opened
        self._texts = texts
        self._tail: deque[int] = deque(maxlen=texts.tail)

    def add(self, token: int) -> bool:
        """Take the next token, and tell whether it completes a text that ends the turn.

        What the chat template wrote before the turn does not count.

        Args:
            token: The token.
        """
        texts = self._texts
        self._tail.append(token)
        if not texts.stop or (token < len(texts.may_end) and not texts.may_end[token]):
            return False
        ids = list(self._tail)
        text = texts.decode(ids)
        if not any(entry in text for entry in (*texts.stop, *_THINK_TAGS)):
            return False
        place = _agreement(texts.decode(ids[:-1]), text)  # what ends there was seen at an earlier token
        while True:
            tag = "</think>" if self.thinking else "<think>"
            change = _end_after(text, tag, place)
            stops = [entry for entry in texts.stop if entry == tag or not self.thinking]
            end = min((_end_after(text, entry, place) for entry in stops), default=len(text) + 1)
            if end <= min(change, len(text)):
                return True
            if change > len(text):
                return False
            self.thinking, place = not self.thinking, change


def _agreement(first: str, second: str) -> int:
    """Return how many characters two texts have in common at their start."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _end_after(text: str, entry: str, place: int) -> int:
    """Return where the first occurrence of an entry ends that ends behind a place; beyond the text if there is none."""
    found = text.find(entry, max(0, place - len(entry) + 1))
    return found + len(entry) if found >= 0 else len(text) + 1


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
