# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of transformers are incomplete.
"""Observations, and whole episodes, as tokens in the format of a model's chat template.

The model's own tokens stay as they were sampled. The text added after them (the end of the model's turn, the feedback,
the opening of the next turn) is cut out of the chat template once it is rendered around a mark, so that no text of the
model is ever tokenised again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agile_gym.actions.prompt import IMAGE_MARK
from agile_gym.actions.tags import answer_span
from agile_gym.errors import ConfigurationError, ModelError
from agile_gym.models.loading import process
from agile_gym.transcripts.record import Image, Segment, Transcript

__all__ = ["ChatFormat", "Chunk", "content_parts", "tokenise_transcript"]

_TAGS = frozenset(
    f"<{slash}{name}>" for slash in ("", "/") for name in ("think", "code", "answer", "tool_call", "tool_response")
)
_CONTROL_FORM = re.compile(
    r"<\|[^<>]*\|>|</?(?:img|image|video|audio|vision)[^<>]*>|<(?:row_\d+_col_\d+|global-img|unused\d+)>"
    r"|<(?:start|end)_of_\w+>",
    re.IGNORECASE,
)
_PREFILL = re.compile(r"<think>\s*(?:</think>\s*)?\Z")
_MARK = "Zq7Xk2"
"""Placeholder of the model's turn while a template is rendered; a word that no template holds."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Tokens that are added to a conversation at once, and the pixels of their images.

    Attributes:
        ids: (n,) int32, token ids, with the image placeholders of the model's processor.
        is_image: (n,) bool, True on image placeholders.
        pixels: The processor's tensors for the images, such as ``pixel_values``; empty without images.
        images: Number of images.
    """

    ids: NDArray[np.int32]
    is_image: NDArray[np.bool_]
    pixels: Mapping[str, Any] = field(default_factory=dict[str, Any])
    images: int = 0


def content_parts(text: str) -> list[dict[str, str]]:
    """Cut a text at its image marks into the content parts of a chat message, of which there is at least one."""
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(text.split(IMAGE_MARK)):
        if number:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts or [{"type": "text", "text": ""}]


class ChatFormat:
    """A model's chat template and processor, applied turn by turn.

    Attributes:
        processor: The Hugging Face processor.
        tokenizer: Its tokenizer.
        image_token_id: Id of the image placeholder.
        control_ids: Ids of the tokens that are no text, such as those that begin and end turns.
        end_of_turn: Id of the token that ends the model's turn in the template, or None if it has none.
        prefill: Text that the template writes at the start of the model's turn: ``"<think>"``, perhaps a whole think
            block that is empty, or ``""``.
    """

    def __init__(self, processor: Any, *, system: str | None = None) -> None:  # noqa: ANN401 -- transformers is untyped
        """Examine a processor.

        Args:
            processor: A processor with a tokenizer, an image processor and a chat template.
            system: A system prompt, or None.

        Raises:
            ModelError: If the template cannot be used.
        """
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_token_id = _image_token_id(processor)
        template: Any = getattr(processor, "chat_template", None) or self.tokenizer.chat_template
        self._template: str = template["default"] if isinstance(template, dict) else template
        self._system = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
        self.control_ids = _control_ids(self.tokenizer)
        self._control_words = _pattern_of(self.tokenizer.convert_ids_to_tokens(sorted(self.control_ids)))
        probe = self._probe()
        first = self._tokenize(probe, [])[0]
        self.end_of_turn: int | None = int(first[0]) if len(first) and int(first[0]) in self.control_ids else None
        prefilled = _PREFILL.search(probe)
        self.prefill: str = "" if prefilled is None else prefilled[0]

    def opening(self, text: str, images: Sequence[Image]) -> Chunk:
        """Return the start of a conversation: the first observation, up to where the model begins to write.

        Args:
            text: The observation's text, with image marks.
            images: The images of the marks, in order, (h, w, 3) uint8.

        Raises:
            ConfigurationError: If there are not as many marks as images.
        """
        messages = [*self._system, {"role": "user", "content": self._content(text, images)}]
        prompt = self._render(messages)
        bos = self.tokenizer.bos_token
        return self._chunk(prompt, images, add_special_tokens=bos is None or not prompt.startswith(bos))

    def follow_up(self, text: str, images: Sequence[Image], *, after: int | None = None) -> Chunk:
        """Return the tokens to add after the model's turn: its end, the feedback, and the opening of the next turn.

        Args:
            text: The feedback, with image marks.
            images: The images of the marks.
            after: The last token that the model wrote; if it is the end of the turn itself, it is not added again.

        Raises:
            ConfigurationError: If there are not as many marks as images.
        """
        chunk = self._chunk(self._after_turn(self._content(text, images)), images, add_special_tokens=False)
        if after is not None and after == self.end_of_turn and chunk.ids[0] == after:
            return Chunk(chunk.ids[1:], chunk.is_image[1:], chunk.pixels, chunk.images)
        return chunk

    def decode(self, ids: Sequence[int] | NDArray[np.int32]) -> str:
        """Return the text of a turn that was sampled: the template's prefill, and the text of its tokens."""
        return self.prefill + self.decode_part(ids)

    def decode_part(self, ids: Sequence[int] | NDArray[np.int32]) -> str:
        """Return the text of some of a turn's tokens, without control tokens."""
        shown = [int(number) for number in ids if int(number) not in self.control_ids]
        return self.tokenizer.decode(shown, clean_up_tokenization_spaces=False)

    def _content(self, text: str, images: Sequence[Image]) -> list[dict[str, str]]:
        """Return an observation as content parts.

        Words that the tokenizer would take for control tokens or images are set apart by a blank after their first
        character: a text that repeats a model's words must not begin another turn.
        """
        parts = content_parts(text)
        marks = text.count(IMAGE_MARK)
        if marks != len(images):
            raise ConfigurationError(
                f"The observation's text has {marks} marks {IMAGE_MARK} for {len(images)} images. HFVLMPolicy plays "
                "environments whose info['images'] holds the images of the marks, such as JigsawVision-v0."
            )
        for part in parts:
            if "text" in part:
                part["text"] = self._control_words.sub(lambda match: f"{match[0][0]} {match[0][1:]}", part["text"])
        return parts

    def _after_turn(self, content: list[dict[str, str]]) -> str:
        rendered = self._render_around_mark(content)
        return rendered.partition(_MARK)[2]  # behind the first one: feedback may repeat a model's words

    def _render_around_mark(self, content: list[dict[str, str]]) -> str:
        messages = [
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "content": [{"type": "text", "text": _MARK}]},
            {"role": "user", "content": content},
        ]
        return self._render(messages)

    def _probe(self) -> str:
        """Return the text after the assistant's turn in a plain conversation, which must show that turn once.

        Raises:
            ModelError: If it does not.
        """
        rendered = self._render_around_mark([{"type": "text", "text": "x"}])
        if rendered.count(_MARK) != 1:
            raise ModelError(
                "The model's chat template does not show the assistant's turn once, as it was given, so that turns "
                f"cannot be appended. It gave: {rendered[-200:]!r}. Give the processor another template."
            )
        return rendered.partition(_MARK)[2]

    def _render(self, messages: list[dict[str, Any]]) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:
            raise ModelError(
                f"The model's chat template cannot render a conversation with images in several turns: {error!r:.300}. "
                "It must take messages whose content is a list of text and image parts."
            ) from error

    def _tokenize(self, text: str, images: Sequence[Image], **options: Any) -> tuple[NDArray[np.int32], dict[str, Any]]:  # noqa: ANN401 -- the tokenizer's
        options = {"add_special_tokens": False, **options}
        if not images:
            # The tokenizer itself: some processors require images with every text.
            return np.asarray(self.tokenizer(text, **options)["input_ids"], np.int32), {}
        encoded = dict(process(self.processor, text, images, **options))
        ids = np.asarray(encoded.pop("input_ids")[0], np.int32)
        for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
            encoded.pop(name, None)
        return ids, encoded

    def _chunk(self, text: str, images: Sequence[Image], *, add_special_tokens: bool) -> Chunk:
        ids, pixels = self._tokenize(text, images, add_special_tokens=add_special_tokens)
        return Chunk(ids, ids == self.image_token_id, pixels, len(images))


def _control_ids(tokenizer: Any) -> frozenset[int]:  # noqa: ANN401 -- transformers is untyped
    """Return the ids of tokens that are no text, but for the tags that a turn is made of.

    These are a tokenizer's special tokens, and others that were added in the form of such, since not every tokenizer
    marks all of its own: ``<|fim_prefix|>`` of Qwen, ``<unused7>`` of Gemma, ``<row_1_col_1>`` of Idefics3.
    """
    special: dict[int, str] = {
        number: str(token)
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or _CONTROL_FORM.fullmatch(str(token))
    }
    special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=False))
    return frozenset(number for number, token in special.items() if token not in _TAGS)


def _pattern_of(words: Sequence[str]) -> re.Pattern[str]:
    """Return the pattern of any of some words, the longest first."""
    kept = sorted((word for word in words if len(word) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, kept)) or r"(?!)")


def _image_token_id(processor: Any) -> int:  # noqa: ANN401 -- transformers is untyped
    """Return the id that stands for an image in the model's input; Gemma3's processor names another one."""
    for owner in (processor.tokenizer, processor):
        number = getattr(owner, "image_token_id", None)
        if isinstance(number, int):
            return number
    token = getattr(processor, "image_token", None)
    number = processor.tokenizer.convert_tokens_to_ids(token) if isinstance(token, str) else None
    if not isinstance(number, int):
        raise ModelError(
            f"{type(processor).__name__} names no image token, so that the place of images is unknown. Choose a "
            "model that takes images, such as Qwen2.5-VL, Qwen3-VL, SmolVLM, Gemma3, LLaVA-OneVision or InternVL."
        )
    return number


def tokenise_transcript(
    chat: ChatFormat,
    transcript: Transcript,
    *,
    untrained: Collection[int] = (),
    only_answers: bool = False,
    max_tokens: int | None = None,
) -> Segment | None:
    """Turn an episode into tokens, with the assistant's marked.

    Observations are tokenised as in a rollout. The end of each turn is marked too, so that stopping is trained.

    Args:
        chat: The model's chat format; its system prompt is used, not the transcript's.
        transcript: The episode, with its images.
        untrained: Turns, from 0, that are not marked, such as those with a wrong move.
        only_answers: Mark only the text inside answer tags: its content, not that an answer is given.
        max_tokens: Turns are left out at the end until the episode has no more tokens than this.

    Returns:
        The episode's tokens, log-probabilities 0; None if not even the first turn fits.

    Raises:
        ConfigurationError: If the transcript was stored without its images, or if only answers are to be marked and
            the tokenizer does not give the offsets of its tokens.
    """
    shown = [(transcript.prompt, transcript.prompt_images)]
    shown += [(turn.feedback, turn.images) for turn in transcript.turns[:-1]]
    if any(text.count("<image>") != len(images) for text, images in shown):
        raise ConfigurationError(
            f"The transcript {transcript.id!r} was stored without all its images. Record it with its images to "
            "train on it."
        )
    chunks = [_read(chat.opening(transcript.prompt, transcript.prompt_images))]
    for number, turn in enumerate(transcript.turns):
        chunk, answers = _written(chat, turn.text, spans=only_answers)
        marked = answers if only_answers else np.ones_like(answers)
        chunks.append((chunk, np.where(marked & (number not in untrained), np.int16(number), np.int16(-1))))
        if number + 1 < len(transcript.turns):
            after = int(chunks[-1][0].ids[-1]) if len(chunks[-1][0].ids) else None
            chunks.append(_read(chat.follow_up(turn.feedback, turn.images, after=after)))
    while max_tokens is not None and len(chunks) > 1 and sum(len(chunk.ids) for chunk, _ in chunks) > max_tokens:
        chunks = chunks[:-2]
    if len(chunks) < 2:
        return None
    ids = np.concatenate([chunk.ids for chunk, _ in chunks])
    turns = np.concatenate([marked for _, marked in chunks])
    images = tuple(range(sum(chunk.images for chunk, _ in chunks)))
    return Segment(ids, turns >= 0, np.zeros(len(ids), np.float32), turns, images)


def _read(chunk: Chunk) -> tuple[Chunk, NDArray[np.int16]]:
    """Return a chunk that is only read, with the turn of each of its tokens: none."""
    return chunk, np.full(len(chunk.ids), -1, np.int16)


def _written(chat: ChatFormat, text: str, *, spans: bool) -> tuple[Chunk, NDArray[np.bool_]]:
    """Return the tokens of a turn and of its end, and, with ``spans``, which of them begin inside its answer."""
    body = text.removeprefix(chat.prefill)
    if spans and not chat.tokenizer.is_fast:
        raise ConfigurationError(
            f"The tokenizer {type(chat.tokenizer).__name__} does not give the offsets of its tokens, which are "
            "needed to learn answers alone. Use a model with a fast tokenizer, or no replay (replay_size=0)."
        )
    made = chat.tokenizer(body, add_special_tokens=False, return_offsets_mapping=spans)
    ids = np.asarray(made["input_ids"], np.int32)
    inside = np.zeros(len(ids), np.bool_)
    span = answer_span(text) if spans else None  # of the whole text, whose thought the template may have opened
    if span is not None:
        begins = np.asarray(made["offset_mapping"]).reshape(-1, 2)[:, 0] + len(text) - len(body)
        inside = (begins >= span[0]) & (begins < span[1])
    if chat.end_of_turn is not None:
        ids, inside = np.append(ids, np.int32(chat.end_of_turn)), np.append(inside, False)
    return Chunk(ids, np.zeros(len(ids), np.bool_)), inside
