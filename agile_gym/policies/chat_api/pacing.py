"""When a request may be sent: limits a minute, pauses that a server asks for, and pauses between attempts."""

from __future__ import annotations

import random
from email.utils import parsedate_to_datetime

__all__ = ["Pacer", "backoff_seconds", "estimate_tokens", "read_retry_after"]

_CHARACTERS_A_TOKEN = 4
_PIXELS_A_TOKEN = 28 * 28
_TOKENS_A_TURN = 300
_DEFAULT_NEW = 512
_LONGEST = 7 * 86_400.0


class Pacer:
    """Spreads requests evenly over time, so that no minute holds more of them, or of their tokens, than is allowed.

    Every method takes the time as an argument, in seconds of a clock that never goes back.
    """

    def __init__(self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None) -> None:
        """Set the limits.

        Args:
            requests_per_minute: Requests a minute, above 0; None sets no limit.
            tokens_per_minute: Tokens a minute, above 0; None sets no limit.
        """
        self._a_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._a_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._requests_free = self._tokens_free = self._paused = float("-inf")

    def reserve(self, now: float, tokens: int) -> float:
        """Take the next place in the line.

        Args:
            now: The time.
            tokens: How many tokens the request will take, as far as is known.

        Returns:
            The time at which the request may be sent.
        """
        start = max(now, self._requests_free, self._tokens_free, self._paused)
        self._requests_free = start + self._a_request
        self._tokens_free = start + self._a_token * tokens
        return start

    def correct(self, tokens: int) -> None:
        """Take more tokens, or give some back: what a request took, less what was reserved for it."""
        self._tokens_free += self._a_token * tokens

    def pause(self, until: float) -> None:
        """Send nothing until a time."""
        self._paused = max(self._paused, until)

    @property
    def paused_until(self) -> float:
        """Until when nothing is sent."""
        return self._paused


def backoff_seconds(attempt: int, base: float, longest: float, rng: random.Random) -> float:
    """Return the pause before a new attempt: exponential, shortened by up to a half by chance.

    Args:
        attempt: How many attempts failed, from 1.
        base: The first pause, in seconds.
        longest: The longest pause, in seconds.
        rng: Draws the chance.
    """
    return min(longest, base * 2.0 ** min(attempt - 1, 60)) * (1 - rng.random() / 2)


def read_retry_after(value: str | None, milliseconds: str | None, wall_clock: float) -> float | None:
    """Read how long a server asks to wait.

    Args:
        value: The header ``Retry-After``: seconds, or a date.
        milliseconds: The header ``retry-after-ms``, which some servers send.
        wall_clock: The time, in seconds since 1970.

    Returns:
        Seconds, from 0 to those of a week; None if there is nothing that can be read.
    """
    for text, unit in ((milliseconds, 1000.0), (value, 1.0)):
        try:
            seconds = float(text or "") / unit
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return min(seconds, _LONGEST)
    try:
        return min(max(0.0, parsedate_to_datetime(value or "").timestamp() - wall_clock), _LONGEST)
    except (ValueError, OverflowError):
        return None


def estimate_tokens(characters: int, pixels: int, max_tokens: int | None) -> int:
    """Guess how many tokens a request will take, before the server tells.

    Args:
        characters: Characters of the conversation.
        pixels: Pixels of its images.
        max_tokens: Largest number of new tokens, or None.
    """
    new = min(_DEFAULT_NEW, max_tokens or _DEFAULT_NEW)
    return characters // _CHARACTERS_A_TOKEN + pixels // _PIXELS_A_TOKEN + _TOKENS_A_TURN + new
