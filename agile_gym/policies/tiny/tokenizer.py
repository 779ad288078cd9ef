"""The tiny model's tokenizer, made in code: the fewest words of the vocabulary that spell a text, bytes elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from agile_gym.errors import import_optional
from agile_gym.policies.tiny.words import ASSISTANT, BOS, END, IMAGE, PAD, SPECIAL_TOKENS, SYSTEM, USER, words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["CHAT_TEMPLATE", "build_tokenizer"]

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
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )
    return cast("PreTrainedTokenizerFast", tokenizer)
