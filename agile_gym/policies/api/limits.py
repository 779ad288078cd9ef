"""Rate limits, pauses, token and cost budgets of an endpoint, and the event loop that requests run in."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine, Iterable
from concurrent.futures import CancelledError
from concurrent.futures import wait as wait_for_futures
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from agile_gym.errors import BudgetError
from agile_gym.policies.api.replies import Reply

__all__ = ["BackgroundLoop", "Prices", "RateLimiter", "Usage", "backoff_seconds", "estimate_tokens", "read_retry_after"]

_CHARACTERS_A_TOKEN = 4
_PIXELS_A_TOKEN = 28 * 28
_TOKENS_A_TURN = 300
_DEFAULT_NEW = 512
_LONGEST = 7 * 86_400.0


class RateLimiter:
    """Rate limiter that spaces requests evenly, so that no minute has more of them, or of their tokens, than allowed.

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
            tokens: Estimated number of tokens of the request.

        Returns:
            The time at which the request may be sent.
        """
        start = max(now, self._requests_free, self._tokens_free, self._paused)
        self._requests_free = start + self._a_request
        self._tokens_free = start + self._a_token * tokens
        return start

    def correct(self, tokens: int) -> None:
        """Correct the count by a request's tokens less those reserved for it."""
        self._tokens_free += self._a_token * tokens

    def pause(self, until: float) -> None:
        """Send nothing until a time."""
        self._paused = max(self._paused, until)

    @property
    def paused_until(self) -> float:
        """Time until which nothing is sent."""
        return self._paused


def backoff_seconds(attempt: int, base: float, longest: float, rng: random.Random) -> float:
    """Return the pause before a new attempt: exponential, shortened by up to a half by chance.

    Args:
        attempt: Number of attempts that failed, from 1.
        base: The first pause, in seconds.
        longest: The longest pause, in seconds.
        rng: Source of randomness.
    """
    return min(longest, base * 2.0 ** min(attempt - 1, 60)) * (1 - rng.random() / 2)


def read_retry_after(value: str | None, milliseconds: str | None, wall_clock: float) -> float | None:
    """Read the pause that a server requires.

    Args:
        value: The header ``Retry-After``: seconds, or a date.
        milliseconds: The header ``retry-after-ms``, which some servers send.
        wall_clock: The time, in seconds since 1970.

    Returns:
        Seconds, from 0 to those of a week; None if nothing can be read.
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
    """Estimate the number of tokens of a request, before the server reports it.

    Args:
        characters: Characters of the conversation.
        pixels: Pixels of its images.
        max_tokens: Largest number of new tokens, or None.
    """
    new = min(_DEFAULT_NEW, max_tokens or _DEFAULT_NEW)
    return characters // _CHARACTERS_A_TOKEN + pixels // _PIXELS_A_TOKEN + _TOKENS_A_TURN + new


_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of a million tokens; None where unknown.

    Attributes:
        tokens_in: Of tokens read.
        cached: Of tokens read that the server took from its cache; None means as much as the others.
        tokens_out: Of tokens written.
    """

    tokens_in: float | None = None
    cached: float | None = None
    tokens_out: float | None = None

    def cost(self, reply: Reply) -> float | None:
        """Return the cost of an answer, or None if prices or tokens are unknown."""
        if self.tokens_in is None or self.tokens_out is None:
            return None
        if reply.prompt_tokens is None or reply.new_tokens is None:
            return None
        cached = min(reply.cached_tokens or 0, reply.prompt_tokens)
        price = self.tokens_in if self.cached is None else self.cached
        read = (reply.prompt_tokens - cached) * self.tokens_in + cached * price
        return (read + reply.new_tokens * self.tokens_out) / _MILLION

    def total(self, replies: Iterable[Reply]) -> float | None:
        """Return the cost of several answers, or None if that of one is unknown."""
        costs = [self.cost(reply) for reply in replies]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None


@dataclass(slots=True)
class Usage:
    """Usage so far, over all episodes.

    Attributes:
        requests: Requests sent, failed ones included.
        answers: Answers that came.
        prompt_tokens: Tokens read.
        cached_tokens: Those of them that servers took from their cache.
        new_tokens: Tokens written.
        cost: In the prices' currency; 0 without prices. Failed requests are not in it, even if the server charges them.
        uncounted: Answers whose tokens the server did not report; they are not in the sums.
        cut: Answers that ended at the limit of tokens.
        withheld: Answers that the server's content filter, or the model itself, refused.
        refused: Conversations that the server refused, so that their episodes were given up.
    """

    requests: int = 0
    answers: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    cost: float = 0.0
    uncounted: int = 0
    cut: int = 0
    withheld: int = 0
    refused: int = 0

    def add(self, reply: Reply, cost: float | None) -> None:
        """Count an answer.

        Args:
            reply: The answer.
            cost: Its cost, or None if unknown.
        """
        self.answers += 1
        self.prompt_tokens += reply.prompt_tokens or 0
        self.cached_tokens += reply.cached_tokens or 0
        self.new_tokens += reply.new_tokens or 0
        self.cost += cost or 0.0
        self.uncounted += reply.prompt_tokens is None or reply.new_tokens is None
        self.cut += reply.finish == "length"
        self.withheld += reply.finish in ("content_filter", "no_choices") or reply.refusal is not None

    def check(self, max_cost: float | None) -> None:
        """Check that more may be spent.

        Raises:
            BudgetError: If the budget is spent, or if it cannot be kept because the server does not report its tokens.
        """
        if max_cost is None:
            return
        if self.uncounted:
            raise BudgetError(
                f"The endpoint did not report the tokens of {self.uncounted} answers, so that max_cost={max_cost:g} "
                "cannot be kept. Run it without max_cost, or with an endpoint that reports its usage."
            )
        if self.cost >= max_cost:
            raise BudgetError(
                f"The budget is spent: {self.cost:.6g} of max_cost={max_cost:g}, for {self.answers} answers with "
                f"{self.prompt_tokens} tokens read and {self.new_tokens} written. Finished episodes are not affected; "
                "go on with a larger max_cost."
            )


_Result = TypeVar("_Result")
_LOOK_UP = 0.5
_GOODBYE = 2.0


class BackgroundLoop:
    """Event loop in a daemon thread."""

    def __init__(self) -> None:
        """Start the thread."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agile-gym-api", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine and wait for it.

        An interruption of the waiting thread (Ctrl-C) cancels the coroutine and is raised at once.

        Returns:
            The result of the coroutine.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            while not future.done():  # waiting without an end cannot be interrupted on every system
                wait_for_futures([future], timeout=_LOOK_UP)
        except BaseException:
            future.cancel()
            raise
        return future.result()

    def close(self, last: Coroutine[Any, Any, object] | None = None) -> None:
        """Cancel the running coroutines and stop the thread.

        Args:
            last: Run before it stops, for a short time at most.
        """
        if self._loop.is_closed():
            if last is not None:
                last.close()
            return
        future = asyncio.run_coroutine_threadsafe(_finish(last), self._loop)
        with suppress(TimeoutError, CancelledError):
            future.result(timeout=_GOODBYE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=_GOODBYE)
        if not self._thread.is_alive():
            self._loop.close()


async def _finish(last: Coroutine[Any, Any, object] | None) -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if last is not None:
        await last
