"""Vocabulary and tokenizer of the tiny model: bytes, and the words of the jigsaw's texts.

A word is one token. Long words make short texts: a line such as ``state[0], state[1] = state[1], state[0]`` is one
token, and so is a piece's name with its quotation marks. The list is written here and not counted from any text, so
that ids do not move when a prompt does; only the kinds of error are those of `agile_gym.actions`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING, cast

from agile_gym.actions.primitives import ERROR_KINDS
from agile_gym.errors import import_optional

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "ASSISTANT",
    "BOS",
    "CHAT_TEMPLATE",
    "END",
    "IMAGE",
    "PAD",
    "SPECIAL_TOKENS",
    "SYSTEM",
    "USER",
    "build_tokenizer",
    "words",
]

PAD = "<pad>"
BOS = "<s>"
END = "<|end|>"
SYSTEM = "<|system|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
IMAGE = "<image>"
SPECIAL_TOKENS = (PAD, BOS, END, SYSTEM, USER, ASSISTANT, IMAGE)
"""The control tokens, with the ids 0 to 6."""

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PLACES = 16
_WHOLE_SWAPS = 9
_NUMBERED = 8
_TURNS = 12

_TAGS = (
    "<think>",
    "</think>",
    "</think>\n<answer>[",
    "</think>\n<answer>",
    "</think>\n<code>\n",
    "</think>\n<code>",
    "</think>\n<tool_call>",
    "<answer>[",
    "<answer>",
    "]</answer>",
    "</answer>",
    "<code>\n",
    "<code>",
    "\n</code>",
    "</code>",
    "<tool_call>",
    "</tool_call>",
    "<think>...</think>",
    "<code>...</code>",
    "<answer>...</answer>",
    "<tool_call>...</tool_call>",
)
_CODE = (
    "state",
    "state = [",
    "\nstate = [",
    "\nstate",
    "state[",
    "[0]",
    "observation",
    " = observation(state)",
    "observation(state)",
    "crop",
    "zoom",
    "rotate",
    "image_list",
    "image_list[",
    'swap("',
    "swap(",
    'turn("',
    "turn(",
    "image",
    '["',
    '", "',
    '"]',
    "[[",
    "]]",
    "], [",
    "])",
    ", [",
    '"), ',
    '")',
    "), ",
    ")\n",
    " = ",
    ", ",
    ". ",
    ": ",
    "; ",
    "\n\n",
    '{"name": "',
    '", "arguments": {',
    '"}}',
    "}}",
    '"first": ',
    '"second": ',
    '"order": ',
    '"image": ',
    '"box": ',
    '"factor": ',
    '"angle": ',
    '"piece": ',
    "...",
)
_FEEDBACK = (
    "No image was asked for.",
    "Error (",
    "):",
    "): ",
    "\nNothing was changed: state = [",
    " (it shows another order than the state)",
    "\nBegin each turn with one <think>...</think> block.",
    "The answer was received.",
    "The task is over, without an answer.",
    "no image",
    "error ",
    " other order",
    "\nthink first",
    " left",
    *ERROR_KINDS,
    "reference: ",
    "board: ",
    "Image ",
    "Board",
    "Reference",
)
_SHARES = ("0.0", "0.1", "0.2", "0.25", "0.3", "0.33", "0.4", "0.5", "0.6", "0.67", "0.7", "0.75", "0.8", "0.9", "1.0")
_FACTORS = ("1.5", "2.0", "2", "3.0", "4.0")
_ANGLES = ("0", "90", "180", "270")
# Words of prompts, feedback and reasoning: the first with a blank before each, the second with and without.
_ENGLISH = (
    "a about above again against all also an and angle another answer any are as ask asked at be begin belong belongs "
    "below better between block blue board border borders both bottom box bright brown but by can cannot changed "
    "check clockwise closed closer code col colour colours column columns continues corner cost counter-clockwise "
    "crop cut dark different do does down each edge edges ends equal error every everywhere exactly exchange fact "
    "factor find first fit fits for form found four from function give given gives go goes good grass green grey "
    "ground half has have help here holds horizon house image images in inside into is it its join joins know lay "
    "least left less light like line lines list look looks lower made make match matches may me middle more most "
    "moved must my name named names need needs new next no not now number numbers observe of off on one only opened "
    "operation operations or order other out over pair pairs part parts perhaps picture piece pieces pink place "
    "places please position problem put puzzle question quite read reason red restores result right rotate row rows "
    "same say scale seam seams second see seem seems shall should show shown shows shuffled side sides sky smooth so "
    "some still straight such sure swap swapped task tell text than that the their them then there these they think "
    "third this those three through tile tiles to together too tool top tree try turn turned turns two under up upper "
    "use used very wall was water way well were what when where which while white with without word would write wrong "
    "yellow yes yet you your "
)
_OPENING = (
    "A All An And Answer As At Board Both But Code Crop Each Error Find First For Four Here I If In It Let Line Look "
    "No Not Now Observe One Only Order Piece Pieces Place Put Row Rows So Swap Task That The Then There They This To "
    "Turn Two We What Where Which Write Yes You Zoom "
)
_ENDINGS = ("ing", "ed", "er", "ly", "es", "tion", "ment", "able", "ness", "'s", "n't", "'t")


def words() -> list[str]:
    """Return all words of the vocabulary but the control tokens and the single bytes.

    Returns:
        The words, each once, in an order that does not change.
    """
    return [word for word in dict.fromkeys(_all_words()) if len(word.encode()) > 1]


def _all_words() -> Iterator[str]:
    yield from _TAGS
    yield from _names()
    yield from _code_lines()
    yield from _CODE
    yield from _feedback()
    yield from _FEEDBACK
    yield from (f" {word}" for word in _ENGLISH.split())
    yield from _OPENING.split()
    yield from (f" {word}" for word in _OPENING.split())
    yield from _ENDINGS


def _names() -> Iterator[str]:
    """Names of pieces, as they stand in lists, in captions and in sentences."""
    for form in ('"{}", ', '"{}"', "\n{}: ", "{}: ", " {}", "\nImage {}: "):
        yield from (form.format(letter) for letter in _LETTERS)


def _code_lines() -> Iterator[str]:
    """The lines of the code dialect, whole where they are frequent, else in parts."""
    for first, second in combinations(range(_WHOLE_SWAPS), 2):
        yield f"state[{first}], state[{second}] = state[{second}], state[{first}]\n"
    for form in ("state[{}], ", "state[{}] = ", "state[{}]"):
        yield from (form.format(place) for place in range(_PLACES))
    for number in range(1, _NUMBERED + 1):
        yield f"observation_image_{number} = observation(state)"
        yield f"observation_image_{number} = observation("
        yield from (f"{kind}_image_{number} = {kind}(" for kind in ("crop", "zoom", "rotate"))
        yield from (f"{kind}_image_{number}" for kind in ("observation", "crop", "zoom", "rotate"))
    yield from (f"image_list[{place}]" for place in range(_PLACES))
    yield from (f"{share}, " for share in _SHARES)
    yield from (f"{share}])" for share in _SHARES)
    yield from _SHARES
    yield from (f", {factor})" for factor in _FACTORS)
    yield from (f", {angle})" for angle in _ANGLES)
    yield from _ANGLES


def _feedback() -> Iterator[str]:
    """The numbered parts of feedback: names of results, turns left, sizes of grids."""
    for number in range(1, _NUMBERED + 1):
        yield from (f"{kind}_image_{number}: " for kind in ("observation", "crop", "zoom", "rotate"))
    for number in range(1, _TURNS + 1):
        turns = "1 turn" if number == 1 else f"{number} turns"
        yield from (f", {turns}", f"\n{turns} left", f"]\n{turns} left")
    yield from (f"{rows}x{cols}" for rows in range(1, 6) for cols in range(1, 6))
    yield from (f"{rows} x {cols}" for rows in range(1, 6) for cols in range(1, 6))


CONTEXT = 4096
"""Longest context of the tiny model, in tokens."""

# A turn is its role's token and its text; only a model's turn is closed, since what follows the others is known. So the
# text of a conversation is the beginning of its text with more turns.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{%- if message.role not in ['system', 'user', 'assistant'] -%}"
    "{{ raise_exception('The roles are system, user and assistant, not ' ~ message.role ~ '.') }}"
    "{%- endif -%}"
    f"{{{{ {{'system': '{SYSTEM}', 'user': '{USER}', 'assistant': '{ASSISTANT}'}}[message.role] }}}}"
    "{%- if message.content is string -%}{{ message.content }}"
    "{%- else -%}"
    "{%- for part in message.content -%}"
    f"{{%- if part.type in ['image', 'image_url'] -%}}{IMAGE}"
    "{%- elif part.type == 'text' -%}{{ part.text }}"
    "{%- else -%}{{ raise_exception('The parts of a message are text and image, not ' ~ part.type ~ '.') }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    f"{{%- if message.role == 'assistant' -%}}{END}{{%- endif -%}}"
    "{%- endfor -%}"
    f"{{%- if add_generation_prompt -%}}{ASSISTANT}{{%- endif -%}}"
)
"""Jinja template of a conversation; messages hold a text, or a list of text and image parts."""


RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": ASSISTANT,
    "fields": {"content": {"close": END, "content": "text"}},
}
"""Template by which ``transformers serve`` reads a turn: all is content. The default drops a Qwen model's thoughts."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer.

    It is lossless: any text comes back from its ids. A text is cut into the fewest tokens of the vocabulary.

    Returns:
        A fast tokenizer with the control tokens, the 256 bytes and the words, in this order, and the chat template.

    Raises:
        MissingDependencyError: If tokenizers or transformers is not installed.
    """
    tokenizers = import_optional("tokenizers", extra="vlm", purpose="build the tiny model's tokenizer")
    transformers = import_optional("transformers", extra="vlm", purpose="build the tiny model's tokenizer")
    from tokenizers.decoders import ByteLevel as ByteLevelDecoder
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import ByteLevel

    to_bytes = ByteLevel(add_prefix_space=False, use_regex=False)

    def spelled(text: str) -> str:
        return to_bytes.pre_tokenize_str(text)[0][0]

    alphabet = sorted(ByteLevel.alphabet())
    entries = [*SPECIAL_TOKENS, *alphabet, *(spelled(word) for word in words())]
    # Every token costs the same, so that the most likely cut is the one with the fewest.
    model = Unigram([(entry, -1.0) for entry in dict.fromkeys(entries)], unk_id=0, byte_fallback=False)
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = to_bytes
    backend.decoder = ByteLevelDecoder()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT, IMAGE],
        extra_special_tokens={"image_token": IMAGE, "video_token": PAD},  # vLLM asks for one; there are no videos
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        response_template=RESPONSE_TEMPLATE,
    )
    return cast("PreTrainedTokenizerFast", tokenizer)
