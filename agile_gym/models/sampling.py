# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Sampling of the next token: distributions, banned tokens, end tokens and stop texts."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agile_gym.actions.tags import STOP_TEXTS, blank_thoughts
from agile_gym.errors import ConfigurationError, is_number, is_whole
from agile_gym.models.chat import ChatFormat

__all__ = ["SamplingOptions", "StopTexts", "TurnWatch", "draw", "end_tokens", "forbidden_tokens", "log_probs"]

_LOOSE_BYTES = 8
"""Bytes that a tail of tokens may lose at its start, where it cuts a character, or hold behind the stop text."""
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""Names of the tokens of single bytes in SentencePiece's tokenizers."""
_THINK_TAGS = ("<think>", "</think>")


def end_tokens(model: Any, chat: ChatFormat) -> tuple[int, ...]:  # noqa: ANN401 -- transformers is untyped
    """Return the tokens that end a turn: those of the model, its tokenizer and its chat template."""
    settings = getattr(model, "generation_config", None)
    ids: set[int] = set()
    for number in (getattr(settings, "eos_token_id", None), chat.tokenizer.eos_token_id, chat.end_of_turn):
        ids.update(number if isinstance(number, list | tuple) else [] if number is None else [number])
    return tuple(sorted(ids))


class StopTexts:
    """Detector of stop texts in a turn, wherever the tokens' borders are.

    Thoughts may hold such texts: only those outside of think tags end a turn.
    """

    def __init__(self, chat: ChatFormat, stop: Sequence[str]) -> None:
        """Examine a tokenizer.

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
    """Tracker of the tokens of a turn while it is written.

    Attributes:
        thinking: True if the last token is part of a thought.
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
        """Take the next token, and return whether it completes a text that ends the turn.

        The chat template's prefill does not count.

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
        place = _agreement(texts.decode(ids[:-1]), text)  # an end there was found at an earlier token
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
    """Return the number of characters that two texts have in common at their start."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _end_after(text: str, entry: str, place: int) -> int:
    """Return the end of an entry's first occurrence that ends behind a place; beyond the text if there is none."""
    found = text.find(entry, max(0, place - len(entry) + 1))
    return found + len(entry) if found >= 0 else len(text) + 1


def _may_end(tokenizer: Any, stop: Sequence[str]) -> NDArray[np.bool_]:  # noqa: ANN401 -- transformers is untyped
    """Return the mask of tokens that hold the last character of a stop text: only after these is the text searched.

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


_MAX_NEW_TOKENS = 1_000_000
_OFTEN_ENOUGH = 1024
"""Likeliest tokens among which those of ``top_p`` are searched first."""
_BELOW_ONE = 1 - 1e-12
"""Factor that keeps a product with a number below 1 from being rounded up to the other factor."""


@dataclass(frozen=True)
class SamplingOptions:
    """Options of sampling.

    Attributes:
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Only the likeliest tokens that together have this probability are drawn; 1 for all.
        top_k: Only so many of the likeliest tokens are drawn; 0 for all.
        max_new_tokens: Largest number of tokens of a turn.
        stop: A turn ends as soon as it holds one of these outside of its thoughts.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 512
    stop: tuple[str, ...] = STOP_TEXTS

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ConfigurationError: If one is not allowed.
        """
        if not is_number(self.temperature, 0, 100):
            raise ConfigurationError(f"temperature={self.temperature!r} is not allowed; give a number from 0 to 100.")
        if not is_number(self.top_p, 0, 1) or self.top_p == 0:
            raise ConfigurationError(f"top_p={self.top_p!r} is not allowed; give a number above 0, up to 1.")
        if self.top_k != 0 and not is_whole(self.top_k, _MAX_NEW_TOKENS):
            raise ConfigurationError(f"top_k={self.top_k!r} is not allowed; give a whole number, 0 for all tokens.")
        if not is_whole(self.max_new_tokens, _MAX_NEW_TOKENS):
            raise ConfigurationError(f"max_new_tokens={self.max_new_tokens!r} is not allowed; give at least 1.")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise ConfigurationError(f"stop={self.stop!r} is not allowed; give a tuple of texts that are not empty.")


def forbidden_tokens(chat: ChatFormat, vocabulary: int, end_ids: Sequence[int]) -> torch.Tensor:
    """Return the mask of tokens a model must not write: image placeholders and control tokens, but not the end of turn.

    They would be read as images or as turns of another role when the conversation goes on.

    Args:
        chat: The model's chat format.
        vocabulary: Number of logits, which can be larger than the tokenizer's vocabulary.
        end_ids: Tokens that end a turn, which stay allowed.

    Returns:
        (V,) bool, True where forbidden.
    """
    tokenizer, processor = chat.tokenizer, chat.processor
    ids: set[int | None] = {chat.image_token_id, *chat.control_ids}
    for name in ("image_token", "video_token", "audio_token", "fake_image_token", "global_image_token", "boi_token"):
        for owner in (processor, tokenizer):
            token = getattr(owner, name, None)
            if isinstance(token, str):
                ids.add(tokenizer.convert_tokens_to_ids(token))
    ids -= set(end_ids)
    # Rows of the embedding that stand for no token fill it up to a round number, or fill gaps between added tokens.
    written: dict[str, int] = tokenizer.get_vocab()
    allowed = [number for number in set(written.values()) - ids if number < vocabulary]
    forbidden = torch.ones(vocabulary, dtype=torch.bool)
    forbidden[allowed] = False
    return forbidden


def log_probs(logits: torch.Tensor, forbidden: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the log-probabilities of tokens, the same in sampling and in training.

    Args:
        logits: (..., V) of any floating type.
        forbidden: (V,) bool, tokens that have probability 0.
        temperature: Divisor of the logits; 0 counts as 1.

    Returns:
        (..., V) float32; -inf where forbidden.
    """
    scaled = logits.float()
    if temperature not in (0, 1):
        scaled = scaled / temperature
    return scaled.masked_fill(forbidden, -torch.inf).log_softmax(-1)


def draw(logps: torch.Tensor, options: SamplingOptions, rngs: Sequence[np.random.Generator]) -> torch.Tensor:
    """Draw a token for each row.

    Args:
        logps: (B, V) float32, log-probabilities.
        options: Temperature (only whether it is 0), top_p and top_k.
        rngs: One a row, so that a row's draws do not depend on the batch it is in.

    Returns:
        (B,) int64.
    """
    if options.temperature == 0:
        return logps.argmax(-1)
    probs = logps.exp()
    ids = None
    if options.top_k or options.top_p < 1:
        probs, ids = _likeliest(probs, options)
    sums = probs.double().cumsum(-1)
    drawn = torch.tensor([rng.random() for rng in rngs], dtype=torch.float64, device=logps.device)
    # The first token whose cumulated probability is above the number drawn: one of probability 0 never is.
    found = torch.searchsorted(sums, (drawn * sums[:, -1] * _BELOW_ONE)[:, None], right=True)
    found.clamp_(max=sums.shape[-1] - 1)  # where probabilities are NaN, none is above
    return (found if ids is None else ids.gather(-1, found))[:, 0]


def _likeliest(probs: torch.Tensor, options: SamplingOptions) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the tokens that ``top_k`` and ``top_p`` leave.

    Returns:
        Probabilities (B, K), 0 for those that are left out, and ids (B, K), which ascend, so that a draw does not
        depend on how nearly equal probabilities are ranked.
    """
    vocabulary = probs.shape[-1]
    # Sorting a large vocabulary costs more than all else; nearly always, few tokens hold the probability required.
    count = options.top_k or _OFTEN_ENOUGH
    ranked, ids = probs.topk(min(count, vocabulary), dim=-1)
    ranked = ranked.double()
    whole = ranked if options.top_k else probs.double()
    wanted = options.top_p * whole.sum(-1, keepdim=True)
    if not options.top_k and bool((ranked.sum(-1, keepdim=True) < wanted).any()):
        ranked, ids = whole.sort(dim=-1, descending=True)
    if options.top_p < 1:
        before = ranked.cumsum(-1) - ranked
        ranked = ranked.masked_fill(before >= wanted, 0)
    ids, places = ids.sort(-1)
    return ranked.gather(-1, places), ids
