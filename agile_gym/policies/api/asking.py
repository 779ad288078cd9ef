"""Concurrent requests to an endpoint, each with all its attempts."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from agile_gym.errors import import_optional
from agile_gym.policies.api.failures import (
    Failure,
    Sent,
    classify,
    endpoint_error,
    make_http_client,
    refusal_kind,
    wants_stream,
    without_retry,
)
from agile_gym.policies.api.limits import Prices, RateLimiter, Usage, backoff_seconds
from agile_gym.policies.api.options import ChatAPIOptions, read_key, scrub
from agile_gym.policies.api.replies import Reply, read_reply
from agile_gym.policies.base import GivenUp

__all__ = ["Asker", "Question", "import_client"]

_log = logging.getLogger("agile_gym.policies.api.policy")
_CONNECT_TIMEOUT = 20.0
_LIST_TIMEOUT = 5.0


def import_client() -> Any:  # noqa: ANN401 -- a module
    """Import the ``openai`` package.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    return import_optional("openai", extra="api", purpose="play with a model behind an OpenAI-compatible endpoint")


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation that waits for its next turn.

    Attributes:
        messages: The conversation.
        images: Number of images in it.
        tokens: Estimated number of tokens that it will take.
        seed: Seed of the server's sampling, or None.
        jitter: Seed of the pauses between attempts.
    """

    messages: list[dict[str, Any]]
    images: int
    tokens: int
    seed: int | None = None
    jitter: str = ""


class Asker:
    """Client of one endpoint, within limits of rate, time, concurrency and cost. All methods run in one event loop."""

    def __init__(self, model: str, options: ChatAPIOptions, usage: Usage) -> None:
        """Make the client.

        Args:
            model: Name of the model.
            options: The options.
            usage: Usage to which each answer is added.
        """
        self._openai = import_client()
        self._model, self._options, self._usage = model, options, usage
        self._sends_stop = options.send_stop and bool(options.stop)
        self._thought_opened = options.thought_opened
        self._streams = bool(options.stream)
        self._prices = Prices(options.price_in, options.price_cached, options.price_out)
        self._rate_limiter = RateLimiter(options.requests_per_minute, options.tokens_per_minute)
        self._key = read_key(options.api_key_env)
        timeout = options.request_timeout
        self._client = self._openai.AsyncOpenAI(
            api_key=self._key,
            base_url=options.url,
            max_retries=0,
            timeout=self._openai.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
            default_headers={"Accept-Encoding": "gzip"},
            http_client=make_http_client(self._openai),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def ask_all(self, questions: Sequence[Question], on_reply: Callable[[int, Reply | GivenUp], None]) -> None:
        """Send all questions, a limited number at a time, until all are answered or one cannot be.

        Args:
            questions: The questions.
            on_reply: Called with the number of a question and its answer, as soon as it is there; or with the reason
                why the endpoint refuses that question, though it may answer others.

        Raises:
            EndpointError: If a question cannot be answered; the others are given up.
            BudgetError: If the budget is spent.
        """
        gate, failed = asyncio.Semaphore(self._options.max_concurrency), asyncio.Event()

        async def ask(number: int, question: Question) -> None:
            async with gate:
                if failed.is_set():
                    return
                try:
                    await self._ask(question, partial(on_reply, number))
                except BaseException:
                    failed.set()
                    raise

        tasks = [asyncio.create_task(ask(number, question)) for number, question in enumerate(questions)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                raise error

    async def _ask(self, question: Question, on_reply: Callable[[Reply | GivenUp], None]) -> None:
        reply = await self._ask_until_answered(question)
        if isinstance(reply, GivenUp):
            self._usage.refused += 1
            _log.warning("An episode is given up. %s", reply.reason)
            on_reply(reply)
            return
        self._count(reply, question)
        on_reply(reply)

    def _count(self, reply: Reply, question: Question) -> None:
        self._usage.add(reply, self._prices.cost(reply))
        if reply.prompt_tokens is not None and reply.new_tokens is not None:
            self._rate_limiter.correct(reply.prompt_tokens + reply.new_tokens - question.tokens)

    async def _ask_until_answered(self, question: Question) -> Reply | GivenUp:
        options, clock = self._options, asyncio.get_running_loop().time
        rng = random.Random(question.jitter)
        problems: list[str] = []
        failed = 0
        await self._wait_for_turn(question)
        start = clock()
        while True:
            self._usage.check(options.max_cost)
            self._usage.requests += 1
            left = start + options.turn_timeout - clock()
            sent_stop, streams = self._sends_stop, self._streams
            fields = options.fields_of_request(question.seed, send_stop=sent_stop, stream=streams)
            result = await self._attempt(question, min(options.request_timeout, left), fields)
            attempts = len(problems) + 1
            if isinstance(result, Reply):
                if self._thought_opened is None and result.opens_thought:
                    self._thought_opened = True
                if not (sent_stop and result.cut_in_thought):
                    return replace(result, attempts=attempts, problems=tuple(problems))
                self._sends_stop = False
                self._count(result, question)
                problems.append("a stop text ended the turn in the middle of a thought")
                _log.info("A stop text ended a turn in the middle of a thought; no more stop texts are sent.")
                await self._wait_for_turn(question)
                start = clock()
                continue
            problems.append(result.message)
            if wants_stream(result) and not streams and options.stream is None:
                self._streams = True
                await self._wait_for_turn(question)
                continue
            failed += 1
            wait = max(backoff_seconds(failed, options.backoff, options.max_backoff, rng), result.retry_after or 0.0)
            failure = self._give_up(result, failed, wait, start + options.turn_timeout - clock())
            if failure is not None:
                if failure.fallback is not None:
                    return replace(failure.fallback, attempts=attempts, problems=tuple(problems))
                models = await self._models() if failure.status == 404 else []
                sent = self._sent(question)
                error = endpoint_error(failure, sent, attempts=attempts, seconds=clock() - start, models=models)
                kind = refusal_kind(failure, proven=self._usage.answers > 0)
                if kind is None:
                    raise error
                return GivenUp(kind, str(error))
            _log.warning("Attempt %d failed: %s. The next one is in %.1f s.", attempts, result.message, wait)
            if result.retry_after is not None:
                self._rate_limiter.pause(clock() + wait)
            await asyncio.sleep(wait)
            await self._wait_for_turn(question)

    def _give_up(self, failure: Failure, failed: int, wait: float, left: float) -> Failure | None:
        """Return the failure that ends the attempts, or None if there is to be another."""
        if not failure.retry:
            return failure
        if failed > self._options.max_retries:
            return failure
        if wait >= left:
            limit = self._options.turn_timeout
            return without_retry(failure, f"the next attempt, in {wait:.1f} s, would be beyond turn_timeout={limit:g}")
        return None

    async def _wait_for_turn(self, question: Question) -> None:
        clock = asyncio.get_running_loop().time
        start = self._rate_limiter.reserve(clock(), question.tokens)
        while (wait := max(start, self._rate_limiter.paused_until) - clock()) > 0:
            await asyncio.sleep(wait)

    async def _attempt(self, question: Question, limit: float, fields: dict[str, Any]) -> Reply | Failure:
        """Send a request once. Failures are returned: the client's exceptions hold the request and its key."""
        options = self._options
        try:
            body = await asyncio.wait_for(self._send(question, fields), max(limit, 1e-3))
            return read_reply(
                body,
                stop=options.stop,
                opened=self._thought_opened,
                reasoning_as_think=options.reasoning_as_think,
            )
        except Exception as error:
            failure = classify(error, self._openai, self._key)
            if failure is None:
                raise
            return failure

    async def _send(self, question: Question, fields: dict[str, Any]) -> bytes:
        # The client does not get the option of streams: it would read them itself, event by event.
        answer = await self._client.chat.completions.with_raw_response.create(
            model=self._model, messages=question.messages, extra_body={**fields, **(self._options.extra_body or {})}
        )
        return answer.http_response.content

    async def _models(self) -> list[str]:
        """Return the names of the endpoint's models, as far as it lists them."""
        try:
            answer = await asyncio.wait_for(self._client.models.with_raw_response.list(), _LIST_TIMEOUT)
            entries: list[Any] = json.loads(answer.http_response.content)["data"]
            return [scrub(str(entry["id"]), self._key, 100) for entry in entries]
        except Exception as error:
            _log.debug("The endpoint does not list its models: %s", type(error).__name__)
            return []

    def _sent(self, question: Question) -> Sent:
        has_key = self._key != read_key(None)
        name = self._options.api_key_env if has_key else None
        return Sent(self._options.url, self._model, len(question.messages), question.images, name)
