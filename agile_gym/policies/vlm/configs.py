# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Loads the configuration of a vision-language model, and says which models cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agile_gym.errors import ModelError, import_optional
from agile_gym.policies.vlm.sources import find_problem, first_line, locate, missing_package

__all__ = ["attention_reach", "check_config", "import_transformers", "load_config"]

_CHOOSE = "such as one of Qwen2.5-VL, Qwen3-VL, SmolVLM, Gemma3, LLaVA-OneVision or InternVL."
_KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""Kinds of layers whose memory is keys and values, one a token."""


def load_config(path: str | Path) -> Any:  # noqa: ANN401 -- transformers is untyped
    """Load the configuration of a model that takes images.

    Code that comes with a model is never run.

    Raises:
        ModelError: If there is none, it is damaged, or it is that of a model that cannot be used.
        MissingDependencyError: If transformers is not installed.
    """
    transformers = import_transformers()
    place = locate(path)
    try:
        config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
    except ImportError as error:
        raise missing_package(error, f"the configuration of {str(path)!r}") from error
    except Exception as error:  # a damaged file raises whatever its reader raises
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{str(path)!r} is a model with code of its own, which is not run. Choose a version that transformers "
                f"knows itself (their names often end in -hf), {_CHOOSE}"
            ) from error
        problem = find_problem(path, "config")
        raise ModelError(
            problem or f"The configuration in {str(path)!r} cannot be read: {first_line(error)}"
        ) from error
    check_config(config, str(path))
    return config


def check_config(config: Any, name: str) -> None:  # noqa: ANN401 -- transformers is untyped
    """Check that a model takes images, and that its memory is a cache of keys and values.

    Args:
        config: The model's configuration.
        name: What the model is called in an error.

    Raises:
        ModelError: If it cannot be used.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES

    if config.model_type not in NAMES:
        raise ModelError(
            f"{name!r} is a model of the type {config.model_type!r}, which takes no images. Choose one that does, "
            f"{_CHOOSE}"
        )
    text = config.get_text_config()
    other = sorted(set(getattr(text, "layer_types", None) or ()) - _KNOWN_LAYERS)
    if other:
        why = f"has layers of the kind {', '.join(map(repr, other))}, whose memory is no cache of keys and values"
    elif getattr(text, "is_encoder_decoder", False) or getattr(config, "is_encoder_decoder", False):
        why = "has an encoder and a decoder, so that a conversation cannot go on from its tokens"
    elif getattr(text, "cross_attention_layers", None):
        why = "looks at images through layers of their own, and not at their tokens in the conversation"
    else:
        return
    raise ModelError(f"{name!r} is a model of the type {config.model_type!r}, which {why}. Choose another, {_CHOOSE}")


def attention_reach(config: Any) -> int | None:  # noqa: ANN401 -- transformers is untyped
    """Return how many tokens back the attention of some layers reaches at most, or None if it always reaches all.

    Args:
        config: The configuration of a text model.
    """
    kinds = getattr(config, "layer_types", None)
    sliding: int | None = getattr(config, "sliding_window", None)
    chunk: int | None = getattr(config, "attention_chunk_size", None)
    reaches = [
        reach
        for reach, kind in ((sliding, "sliding_attention"), (chunk, "chunked_attention"))
        if reach is not None and (kinds is None or kind in kinds)
    ]
    return min(reaches, default=None)


def import_transformers() -> Any:  # noqa: ANN401 -- a module
    """Import transformers.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    return import_optional("transformers", extra="vlm", purpose="run a vision-language model")
