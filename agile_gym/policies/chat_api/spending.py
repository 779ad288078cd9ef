"""Tokens and cost, summed over a run and told for each episode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agile_gym.errors import BudgetError
from agile_gym.policies.chat_api.replies import Reply

__all__ = ["Prices", "Spending"]

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of a million tokens; None where not known.

    Attributes:
        tokens_in: Of tokens read.
        cached: Of tokens read that the server took from its cache; None means as much as the others.
        tokens_out: Of tokens written.
    """

    tokens_in: float | None = None
    cached: float | None = None
    tokens_out: float | None = None

    def cost(self, reply: Reply) -> float | None:
        """Return what an answer cost, or None if prices or tokens are not known."""
        if self.tokens_in is None or self.tokens_out is None:
            return None
        if reply.prompt_tokens is None or reply.new_tokens is None:
            return None
        cached = min(reply.cached_tokens or 0, reply.prompt_tokens)
        price = self.tokens_in if self.cached is None else self.cached
        read = (reply.prompt_tokens - cached) * self.tokens_in + cached * price
        return (read + reply.new_tokens * self.tokens_out) / _MILLION

    def total(self, replies: Iterable[Reply]) -> float | None:
        """Return what several answers cost, or None if that of one is not known."""
        costs = [self.cost(reply) for reply in replies]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None


@dataclass(slots=True)
class Spending:
    """What was spent so far, over all episodes.

    Attributes:
        requests: Requests sent, failed ones included.
        answers: Answers that came.
        prompt_tokens: Tokens read.
        cached_tokens: Those of them that servers took from their cache.
        new_tokens: Tokens written.
        cost: In the prices' currency; 0 without prices. Failed requests are not in it, even if the server charges them.
        uncounted: Answers whose tokens the server did not tell; they are not in the sums.
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
            cost: What it cost, or None if not known.
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
            BudgetError: If the budget is spent, or if it cannot be kept because the server does not tell its tokens.
        """
        if max_cost is None:
            return
        if self.uncounted:
            raise BudgetError(
                f"The endpoint did not tell the tokens of {self.uncounted} answers, so that max_cost={max_cost:g} "
                "cannot be kept. Run it without max_cost, or with an endpoint that reports its usage."
            )
        if self.cost >= max_cost:
            raise BudgetError(
                f"The budget is spent: {self.cost:.6g} of max_cost={max_cost:g}, for {self.answers} answers with "
                f"{self.prompt_tokens} tokens read and {self.new_tokens} written. Finished episodes are not affected; "
                "go on with a larger max_cost."
            )
