"""`ChatAPIPolicy`: plays with a model behind any OpenAI-compatible endpoint."""

from __future__ import annotations

import os
import time
import weakref
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from agile_gym.arguments import check_seed
from agile_gym.errors import ConfigurationError
from agile_gym.policies.api.asking import Asker, Question, import_client
from agile_gym.policies.api.conversation import Conversation, UserTurn, read_user_turn
from agile_gym.policies.api.limits import BackgroundLoop, Prices, Usage, estimate_tokens
from agile_gym.policies.api.options import ChatAPIOptions
from agile_gym.policies.api.replies import Reply
from agile_gym.policies.base import GivenUp, Observation, slot_of
from agile_gym.transcripts.record import PolicyRecord, TurnUsage

__all__ = ["ChatAPIPolicy"]


class ChatAPIPolicy:
    """Plays with a model behind an OpenAI-compatible endpoint: OpenAI, Gemini, vLLM, SGLang, ``transformers serve``.

    Each episode is one conversation: the task with its images, the model's turn, the feedback with its image, and so
    on. It is sent whole at each turn. The episodes of a batch are asked side by side. What the model writes is taken as
    it is, be it empty, cut short or a refusal; an episode whose conversation the endpoint refuses (HTTP 400, 413, 422:
    content filters, too many tokens, images) is given up; only an endpoint that cannot be used raises an error. Then
    the turns of the same batch that had come in already are kept: a call that is repeated with the same observations
    asks for the missing ones only.

    The key is read from the environment when the first request is sent. It is in no message, record or pickle.

    Attributes:
        model: Name of the model.
        options: The options.
        usage: What was spent so far, over all episodes of this policy.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key_env: str | None = "OPENAI_API_KEY",
        **options: Any,  # noqa: ANN401 -- see ChatAPIOptions
    ) -> None:
        """Make the policy; nothing is sent yet.

        Args:
            model: Name of the model, as the endpoint has it.
            base_url: The endpoint, such as ``"http://localhost:8000/v1"``. None means the environment variable
                ``OPENAI_BASE_URL``, or OpenAI's own.
            api_key_env: Name of the environment variable that holds the key; None sends no key.
            **options: The options of `agile_gym.policies.api.options.ChatAPIOptions`: sampling, images, limits of
                time, rate and cost.

        Raises:
            ConfigurationError: If an option is unknown or has a value that is not allowed.
            MissingDependencyError: If the extra ``api`` is not installed.
        """
        if not isinstance(model, str) or not model.strip():
            raise ConfigurationError(
                f"model={model!r} is not the name of a model, such as 'Qwen/Qwen2.5-VL-7B-Instruct'."
            )
        self.model = model
        self.options = ChatAPIOptions.from_options({"base_url": base_url, "api_key_env": api_key_env, **options})
        self.usage = Usage()
        self._conversations: dict[int, Conversation] = {}
        self._seed: int | None = None
        self._engine: _Engine | None = None
        import_client()

    def reset(self, seed: int | None = None) -> None:
        """Forget all episodes, and seed what the server draws in those whose ``info`` has no ``policy_seed``."""
        self._seed = check_seed(seed)
        self._conversations.clear()

    def act(self, observations: Sequence[Observation], infos: Sequence[dict[str, Any]]) -> list[str]:
        """Ask for the next turn of each episode.

        Args:
            observations: Observations, as `agile_gym.envs.contract` has them.
            infos: Their ``info``.

        Returns:
            One text an observation; a `GivenUp` where the endpoint refuses the conversation of an episode.

        Raises:
            EndpointError: If the endpoint cannot be used, or fails for longer than the options allow.
            BudgetError: If ``max_cost`` is spent.
            ConfigurationError: If an observation does not follow from the turns before, or has not as many images as
                marks.
        """
        start = time.perf_counter()
        entries: list[tuple[Conversation, UserTurn]] = []
        slots: set[int] = set()
        for position, (observation, info) in enumerate(zip(observations, infos, strict=True)):
            slot = slot_of(info, position)
            if slot in slots:
                raise ConfigurationError(f"Slot {slot} is in the batch twice; each episode needs a slot of its own.")
            slots.add(slot)
            user = self._read(observation, info)
            entries.append((self._conversation(slot, info, user), user))
        missing = [
            place
            for place, (conversation, user) in enumerate(entries)
            if conversation.given_up is None and conversation.waiting(user) is None
        ]
        questions = [self._question(*entries[place]) for place in missing]
        answers: list[tuple[int, Reply | GivenUp, float]] = []

        def on_reply(number: int, reply: Reply | GivenUp) -> None:
            answers.append((missing[number], reply, time.perf_counter() - start))

        try:
            if questions:
                engine = self._started()
                engine.loop.run(engine.asker.ask_all(questions, on_reply))
        finally:
            for place, reply, seconds in answers:
                conversation, user = entries[place]
                if isinstance(reply, GivenUp):
                    conversation.given_up = reply
                else:
                    conversation.add(user, reply, _usage(reply, seconds))
        for conversation, _ in entries:
            conversation.delivered = len(conversation.replies)
        return [
            conversation.replies[-1].text if conversation.given_up is None else conversation.given_up
            for conversation, _ in entries
        ]

    def finish(self, slot: int) -> PolicyRecord:
        """Return what an episode took, and forget it.

        Args:
            slot: The episode's slot.

        Returns:
            Tokens and seconds a turn; in the details the model, the options of sampling, tokens and cost of the episode
            (None if not known), and why each turn ended.

        Raises:
            ConfigurationError: If no episode was played in this slot.
        """
        conversation = self._conversations.pop(slot, None)
        if conversation is None:
            raise ConfigurationError(f"No episode was played in slot {slot}; there are {sorted(self._conversations)}.")
        options, replies = self.options, conversation.replies[: conversation.delivered]
        details: dict[str, Any] = {
            "model": self.model,
            "base_url": options.url,
            "sampling": options.sampling(),
            "tokens": {
                "read": sum(reply.prompt_tokens or 0 for reply in replies),
                "cached": sum(reply.cached_tokens or 0 for reply in replies),
                "written": sum(reply.new_tokens or 0 for reply in replies),
            },
            "cost": Prices(options.price_in, options.price_cached, options.price_out).total(replies),
            "turns": [reply.details() for reply in replies],
        }
        if conversation.seed is not None and options.tells_seed:
            details["sampling"]["seed"] = conversation.seed
        if options.system is not None:
            details["system"] = options.system
        return PolicyRecord(usage=tuple(conversation.usage[: len(replies)]), details=details)

    def close(self) -> None:
        """Close all connections; the policy can still be used, and opens new ones."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> ChatAPIPolicy:
        """Return the policy."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections."""
        self.close()

    def __repr__(self) -> str:
        """Return a text without secrets."""
        return f"ChatAPIPolicy({self.model!r}, base_url={self.options.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: everything but the connections and the key."""
        return {**self.__dict__, "_engine": None}

    def _started(self) -> _Engine:
        engine = self._engine
        if engine is None or engine.process != os.getpid():  # threads do not live on in a forked process
            engine = self._engine = _Engine(self.model, self.options, self.usage)
            weakref.finalize(self, engine.close)
        return engine

    def _read(self, observation: Observation, info: dict[str, Any]) -> UserTurn:
        options = self.options
        return read_user_turn(observation["text"], info["images"], options.image_format, options.jpeg_quality)

    def _conversation(self, slot: int, info: dict[str, Any], user: UserTurn) -> Conversation:
        turn = int(info["turn"])
        conversation = self._conversations.get(slot)
        if turn == 0 and (conversation is None or conversation.delivered or conversation.waiting(user) is None):
            conversation = self._conversations[slot] = Conversation(self._episode_seed(info, user))
        if conversation is not None and conversation.given_up is not None:
            return conversation
        if conversation is None or conversation.delivered != turn:
            known = 0 if conversation is None else conversation.delivered
            raise ConfigurationError(
                f"The observation in slot {slot} is that after turn {turn} of its episode, but ChatAPIPolicy played "
                f"{known} there. It needs all observations of an episode, from the first; reset() forgets them."
            )
        return conversation

    def _episode_seed(self, info: dict[str, Any], user: UserTurn) -> int | None:
        if info.get("policy_seed") is not None:
            return int(info["policy_seed"])
        if self._seed is None:
            return None
        content = zlib.crc32("\0".join((*user.texts, *user.urls)).encode())
        return int(np.random.SeedSequence([self._seed, content]).generate_state(1)[0])

    def _question(self, conversation: Conversation, user: UserTurn) -> Question:
        options, turn = self.options, conversation.delivered
        messages = conversation.messages(
            user, system=options.system, window=options.window, detail=options.image_detail
        )
        known = conversation.usage[turn - 1] if turn else TurnUsage(0.0)
        images = characters = pixels = 0
        for entry in (*conversation.users[:turn], user):
            images += len(entry.urls)
            characters += sum(map(len, entry.texts))
            pixels += entry.pixels
        tokens = estimate_tokens(characters, pixels, options.max_tokens)
        if known.context_tokens is not None:
            tokens = known.context_tokens + (known.new_tokens or 0)
            tokens += estimate_tokens(sum(map(len, user.texts)), user.pixels, options.max_tokens)
        seed = None
        if conversation.seed is not None:  # another one for each turn, which every server can read
            seed = int(np.random.SeedSequence([conversation.seed, turn]).generate_state(1)[0] >> 1)
        return Question(messages, images, tokens, seed, f"{conversation.seed} {turn}")


class _Engine:
    """What cannot be pickled: the event loop with its connections, and the key."""

    def __init__(self, model: str, options: ChatAPIOptions, usage: Usage) -> None:
        self.process = os.getpid()
        self.asker = Asker(model, options, usage)
        self.loop = BackgroundLoop()

    def close(self) -> None:
        if self.process == os.getpid():
            self.loop.close(self.asker.close())


def _usage(reply: Reply, seconds: float) -> TurnUsage:
    computed = None
    if reply.prompt_tokens is not None and reply.cached_tokens is not None:
        computed = max(0, reply.prompt_tokens - reply.cached_tokens)
    return TurnUsage(seconds, reply.prompt_tokens, computed, reply.new_tokens)
