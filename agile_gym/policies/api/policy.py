"""`ChatAPIPolicy`: a policy of a model behind any OpenAI-compatible endpoint, one conversation an episode."""

from __future__ import annotations

import base64
import io
import os
import re
import time
import weakref
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.prompt import HIDDEN_IMAGE, IMAGE_MARK
from agile_gym.errors import ConfigurationError, check_seed
from agile_gym.policies.api.asking import Asker, Question, import_client
from agile_gym.policies.api.limits import BackgroundLoop, Prices, Usage, estimate_tokens
from agile_gym.policies.api.options import ChatAPIOptions
from agile_gym.policies.api.replies import Reply
from agile_gym.policies.base import GivenUp, Observation, slot_of
from agile_gym.transcripts.record import PolicyRecord, TurnUsage

__all__ = ["ChatAPIPolicy", "Conversation", "UserTurn", "encode_image", "plain_words", "read_user_turn"]

_NOTHING = "[nothing was written]"
"""Text that replaces an empty turn of the model's, which many servers refuse."""
# Words that a server may read as its own tokens: placeholders of images and the like, marks of a conversation's turns.
_CONTROL = re.compile(
    r"<(?=\|[\w .:/-]{1,40}\|>"
    r"|/?[\w-]{0,24}(?:image|img|vision|video|audio)[\w-]{0,24}/?>"
    r"|(?:start|end)_of_\w{1,24}>|/?s>|(?:bos|eos|pad|unk)>)"
    r"|\[(?=/?(?:INST|IMG)[A-Z_]{0,24}\])",
    re.IGNORECASE,
)


def plain_words(text: str) -> str:
    """Set apart words that a server's tokenizer may take for an image placeholder or a control token.

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
        texts: Texts before, between and after the images; one more than there are images.
        urls: The images, as data URLs.
        pixels: Pixels of all images together.
    """

    texts: tuple[str, ...]
    urls: tuple[str, ...] = ()
    pixels: int = 0

    def content(self, hidden: int, detail: str | None) -> str | list[dict[str, Any]]:
        """Return the content of a message.

        Args:
            hidden: Number of images, from the first, that are sent as words only.
            detail: OpenAI's option for the tokens of an image, or None.
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
        seed: Seed of the server's sampling in this episode, or None.
        users: The observations that were answered.
        replies: The model's turns, one for each of them.
        usage: Usage of each of them.
        delivered: Number of them that the caller has been given. Where a batch failed, the turns that had come in
            already are kept, and given when the call is repeated.
        given_up: Reason why the server does not go on with it, or None.
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
            window: Number of images of later turns that are sent as images, the last ones; None sends all. Those of the
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
    """Return the number of hidden images of each observation."""
    counts = [len(user.urls) for user in users]
    too_many = 0 if window is None else max(0, sum(counts[1:]) - window)
    hidden = [0]
    for count in counts[1:]:
        hidden.append(min(count, too_many))
        too_many -= hidden[-1]
    return hidden


class ChatAPIPolicy:
    """Policy of a model behind an OpenAI-compatible endpoint: OpenAI, Gemini, vLLM, SGLang, ``transformers serve``.

    Each episode is one conversation: the task with its images, the model's turn, the feedback with its image, and so
    on. It is sent whole at each turn. The episodes of a batch are requested concurrently. The model's text is taken as
    it is, be it empty, cut short or a refusal; an episode whose conversation the endpoint refuses (HTTP 400, 413, 422:
    content filters, too many tokens, images) is given up; only an endpoint that cannot be used raises an error. Then
    the turns of the same batch that had come in already are kept: a call that is repeated with the same observations
    requests the missing ones only.

    The key is read from the environment when the first request is sent. It is in no message, record or pickle.

    Attributes:
        model: Name of the model.
        options: The options.
        usage: Usage so far, over all episodes of this policy.
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
        """Drop all episodes, and seed the server's sampling in those whose ``info`` has no ``policy_seed``."""
        self._seed = check_seed(seed)
        self._conversations.clear()

    def act(self, observations: Sequence[Observation], infos: Sequence[dict[str, Any]]) -> list[str]:
        """Request the next turn of each episode.

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
        """Return the usage of an episode, and drop it.

        Args:
            slot: The episode's slot.

        Returns:
            Tokens and seconds a turn; in the details the model, the options of sampling, tokens and cost of the episode
            (None if unknown), and the reason why each turn ended.

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
        """Return the state to pickle: everything but the connections and the key."""
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
                f"{known} there. It needs all observations of an episode, from the first; reset() drops them."
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
    """Parts that cannot be pickled: the event loop with its connections, and the key."""

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
