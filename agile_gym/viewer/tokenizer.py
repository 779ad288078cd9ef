# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of transformers are incomplete.
"""Loads what turns token ids into texts, for the token strip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from agile_gym.errors import ModelError, import_optional

__all__ = ["TokenTexts", "load_token_texts"]

_WORD_START = "\u2581"  # how SentencePiece writes the space before a word, which decoding one token alone drops


class TokenTexts(NamedTuple):
    """What is known of a model's tokens.

    Attributes:
        decode: Returns the text of a token.
        image_tokens: Ids of the tokens that stand for images.
    """

    decode: Callable[[int], str]
    image_tokens: frozenset[int]


def load_token_texts(path: str | Path) -> TokenTexts:
    """Load a tokenizer; no code that may be beside it is run.

    Args:
        path: A model's folder, or its name on the hub.

    Raises:
        ModelError: If there is no tokenizer.
        MissingDependencyError: If transformers is not installed.
    """
    transformers = import_optional("transformers", extra="vlm", purpose="read a tokenizer")
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"There is no tokenizer at {str(path)!r}: {reason} Give the folder of the model that was played, or its "
            "name on the hub; or leave it out to see tokens as numbers."
        ) from error

    def decode(token: int) -> str:
        if not 0 <= token < len(tokenizer):
            return f"({token})"
        text = str(tokenizer.decode([token]))
        piece = tokenizer.convert_ids_to_tokens(token)
        dropped = isinstance(piece, str) and piece.startswith(_WORD_START) and not text.startswith(" ")
        return f" {text}" if dropped else text

    return TokenTexts(decode, _image_tokens(path, tokenizer, transformers))


def _image_tokens(path: str | Path, tokenizer: Any, transformers: Any) -> frozenset[int]:  # noqa: ANN401 -- untyped
    """Look for the id of the image token in the tokenizer, then in the model's configuration."""
    found = getattr(tokenizer, "image_token_id", None)
    if not isinstance(found, int):
        try:
            config = transformers.AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        except (OSError, ValueError, KeyError):  # a tokenizer alone, without a model
            return frozenset()
        found = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    return frozenset([found]) if isinstance(found, int) else frozenset()
