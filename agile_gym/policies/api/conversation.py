"""Observations as messages of OpenAI's chat format, with images as data URLs where their marks stand."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.prompt import HIDDEN_IMAGE, IMAGE_MARK
from agile_gym.errors import ConfigurationError
from agile_gym.policies.api.replies import Reply
from agile_gym.policies.base import GivenUp
from agile_gym.transcripts.record import TurnUsage

__all__ = ["Conversation", "UserTurn", "encode_image", "plain_words", "read_user_turn"]

_NOTHING = "[nothing was written]"
"""What stands for an empty turn of the model's, which many servers refuse."""
# What a server may read as its own tokens: placeholders of images and the like, marks of a conversation's turns.
_CONTROL = re.compile(
    r"<(?=\|[\w .:/-]{1,40}\|>"
    r"|/?[\w-]{0,24}(?:image|img|vision|video|audio)[\w-]{0,24}/?>"
    r"|(?:start|end)_of_\w{1,24}>|/?s>|(?:bos|eos|pad|unk)>)"
    r"|\[(?=/?(?:INST|IMG)[A-Z_]{0,24}\])",
    re.IGNORECASE,
)


def plain_words(text: str) -> str:
    """Set apart whatever a server's tokenizer may take for an image placeholder or a control token.

    A model can write such words in plain letters. Sent back, they would be read as images that are not there, and the
    request refused, or as the beginning of another turn.

    Args:
        text: Anything.

    Returns:
        The text, with a blank after the bracket that opens such a word.
    """
    return _CONTROL.sub(lambda match: f"{match[0]} ", text)


def encode_image(image: NDArray[np.uint8], image_format: str = "png", quality: int = 90) -> str:
    """Return an image as a data URL.

    Args:
        image: (h, w, 3) uint8, RGB.
        image_format: ``"png"``, which keeps every pixel, or ``"jpeg"``.
        quality: JPEG's quality, 1 to 100.
    """
    from PIL import Image

    buffer = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(image))
    if image_format == "png":
        picture.save(buffer, "PNG", compress_level=3)
    else:
        picture.save(buffer, "JPEG", quality=quality)
    return f"data:image/{image_format};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


@dataclass(frozen=True, slots=True)
class UserTurn:
    """An observation, ready to be sent.

    Attributes:
        texts: What stands before, between and after the images; one more than there are images.
        urls: The images, as data URLs.
        pixels: Pixels of all images together.
    """

    texts: tuple[str, ...]
    urls: tuple[str, ...] = ()
    pixels: int = 0

    def content(self, hidden: int, detail: str | None) -> str | list[dict[str, Any]]:
        """Return the content of a message.

        Args:
            hidden: How many of the images, from the first, are sent as words only.
            detail: OpenAI's option of what an image costs, or None.
        """
        parts: list[dict[str, Any]] = []
        words = self.texts[0]
        for number, url in enumerate(self.urls):
            if number < hidden:
                words += HIDDEN_IMAGE
            else:
                if words:
                    parts.append({"type": "text", "text": words})
                words = ""
                image = {"url": url} if detail is None else {"url": url, "detail": detail}
                parts.append({"type": "image_url", "image_url": image})
            words += self.texts[number + 1]
        if not parts:
            return words
        return [*parts, {"type": "text", "text": words}] if words else parts


def read_user_turn(text: str, images: Sequence[NDArray[np.uint8]], image_format: str, quality: int) -> UserTurn:
    """Cut an observation's text at its marks and encode its images.

    Args:
        text: The text, with a mark for each image.
        images: The images, (h, w, 3) uint8, in the marks' order.
        image_format: See `encode_image`.
        quality: See `encode_image`.

    Raises:
        ConfigurationError: If there are not as many marks as images.
    """
    texts = tuple(plain_words(piece) for piece in text.split(IMAGE_MARK))
    if len(texts) != len(images) + 1:
        raise ConfigurationError(
            f"The observation's text has {len(texts) - 1} marks {IMAGE_MARK} for {len(images)} images. ChatAPIPolicy "
            "plays environments whose info['images'] holds the images of the marks, such as JigsawVision-v0."
        )
    urls = tuple(encode_image(image, image_format, quality) for image in images)
    return UserTurn(texts, urls, sum(image.shape[0] * image.shape[1] for image in images))


@dataclass(eq=False, slots=True)
class Conversation:
    """An episode as a conversation.

    Attributes:
        seed: Seed of what the server draws in this episode, or None.
        users: The observations that were answered.
        replies: The model's turns, one for each of them.
        usage: What each of them took.
        delivered: How many of them the caller has been given. Where a batch failed, the turns that had come in already
            are kept, and given when the call is repeated.
        given_up: Why the server does not go on with it, or None.
    """

    seed: int | None = None
    users: list[UserTurn] = field(default_factory=list[UserTurn])
    replies: list[Reply] = field(default_factory=list[Reply])
    usage: list[TurnUsage] = field(default_factory=list[TurnUsage])
    delivered: int = 0
    given_up: GivenUp | None = None

    def waiting(self, user: UserTurn) -> str | None:
        """Return the turn that has come in for an observation but was not given to the caller yet, or None."""
        if self.delivered < len(self.replies) and self.users[-1] == user:
            return self.replies[-1].text
        return None

    def add(self, user: UserTurn, reply: Reply, usage: TurnUsage) -> None:
        """Add an observation and its answer; an answer that was not given to the caller is replaced."""
        for entries in (self.users, self.replies, self.usage):
            del entries[self.delivered :]
        self.users.append(user)
        self.replies.append(reply)
        self.usage.append(usage)

    def messages(
        self, user: UserTurn, *, system: str | None, window: int | None, detail: str | None
    ) -> list[dict[str, Any]]:
        """Return the whole conversation, up to an observation that is to be answered.

        Args:
            user: The observation.
            system: The system prompt, or None.
            window: How many images of later turns are sent as images, the last ones; None sends all. Those of the
                first observation are always sent.
            detail: See `UserTurn.content`.
        """
        users = [*self.users[: self.delivered], user]
        messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        replies: Iterator[Reply] = iter(self.replies)
        for turn, (entry, hidden) in enumerate(zip(users, _hidden(users, window), strict=True)):
            if turn:
                text = plain_words(next(replies).text)
                messages.append({"role": "assistant", "content": text if text.strip() else _NOTHING})
            messages.append({"role": "user", "content": entry.content(hidden, detail)})
        return messages


def _hidden(users: Sequence[UserTurn], window: int | None) -> list[int]:
    """Return how many images of each observation are hidden."""
    counts = [len(user.urls) for user in users]
    too_many = 0 if window is None else max(0, sum(counts[1:]) - window)
    hidden = [0]
    for count in counts[1:]:
        hidden.append(min(count, too_many))
        too_many -= hidden[-1]
    return hidden
