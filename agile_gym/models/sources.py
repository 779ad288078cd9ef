# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of transformers and huggingface_hub are incomplete.
# The types of torch and transformers are incomplete.
"""Files of a model in a folder, in Hugging Face's cache or on its hub; its configuration, and faults of a folder."""

from __future__ import annotations

import importlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from agile_gym.errors import MissingDependencyError, ModelError, import_optional, one_line

__all__ = [
    "attention_reach",
    "check_config",
    "find_problem",
    "first_line",
    "import_transformers",
    "load_config",
    "locate",
    "missing_package",
]

_HUB_TIMEOUT = 4.0
"""Seconds that the hub has to answer, once, before it counts as out of reach."""
_GIVE = "Give a folder that save_pretrained has written, or the name of a model on the hub."
_AGAIN = "Download or save the model again."
_LFS = b"version https://git-lfs"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json", "vocab.txt")
_INSTALL = re.compile(r"pip install (?:-U |--upgrade )?['\"]?([A-Za-z0-9_.\-]+)")
_REQUIRES = re.compile(r"(?:requires|needs?) (?:the )?([A-Za-z0-9_.\-]+)(?: library)?")


def locate(path: str | Path) -> str:
    """Return the place of a model's files, without waiting for a hub that does not answer.

    Args:
        path: A folder, or a name on the hub.

    Returns:
        The argument for ``from_pretrained``: the folder, the name, or the folder in the cache where the hub is not to
        be used.

    Raises:
        ModelError: If it is neither a folder, nor in the cache, nor on a hub that can be reached.
    """
    if Path(path).is_dir():
        return str(path)
    if Path(path).exists():
        raise ModelError(f"{str(path)!r} is a file. Give the folder that it is in.")
    return _locate_name(str(path))


@lru_cache(maxsize=64)
def _locate_name(name: str) -> str:
    import huggingface_hub as hub
    from huggingface_hub import constants, errors

    try:
        cached = hub.try_to_load_from_cache(name, "config.json")
    except errors.HFValidationError:
        raise ModelError(f"There is no model at {name!r}: there is no such folder. {_GIVE}") from None
    if constants.HF_HUB_OFFLINE:
        if isinstance(cached, str):
            return str(Path(cached).parent)
        raise ModelError(
            f"There is no model at {name!r}: it is no folder, it is not in Hugging Face's cache, and HF_HUB_OFFLINE is "
            f"set. {_advice(name)}"
        )
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(name, "config.json"), timeout=_HUB_TIMEOUT)
    except errors.RepositoryNotFoundError:
        why = f"{constants.ENDPOINT} has none of this name, or shows it to others only (hf auth login)"
        raise ModelError(f"There is no model at {name!r}: it is no folder, and {why}. {_GIVE}") from None
    except errors.EntryNotFoundError:
        raise ModelError(f"{name!r} on {constants.ENDPOINT} has no config.json, so it is no model. {_GIVE}") from None
    except Exception as error:  # of the line, or of a hub that fails
        if isinstance(cached, str):
            return str(Path(cached).parent)
        raise ModelError(
            f"There is no model at {name!r}: it is no folder, it is not in Hugging Face's cache, and "
            f"{constants.ENDPOINT} cannot be reached ({one_line(first_line(error), 200).rstrip('.')}). {_advice(name)}"
        ) from None
    return name


def _advice(name: str) -> str:
    return (
        f"{_GIVE} Where there is a network, `hf download {name}` fills the cache, and with --local-dir a folder; "
        "HF_ENDPOINT names a mirror."
    )


def find_problem(path: str | Path, part: Literal["config", "tokenizer", "image processor", "weights"]) -> str | None:
    """Look for a fault of a part of a model in a folder.

    Args:
        path: The folder, or a name, whose files in the cache are examined where the hub is out of reach.
        part: The part.

    Returns:
        The fault and what to try, or None if none is found.
    """
    folder = Path(locate(path))
    if not folder.is_dir():
        return None
    look = {"config": _config, "tokenizer": _tokenizer, "image processor": _images, "weights": _weights}
    return look[part](folder)


def _config(folder: Path) -> str | None:
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            return f"The folder {str(folder)!r} holds an adapter. Give its base model, and the folder as adapter=."
        return f"There is no model at {str(folder)!r}: the folder has no config.json. {_GIVE}"
    if _is_pointer(path):
        return _pointer(path)
    try:
        kind = json.loads(path.read_bytes()).get("model_type")
    except (ValueError, AttributeError, RecursionError):
        return None  # the reader's error has the reason
    if not isinstance(kind, str):
        return f"The configuration in {str(folder)!r} names no model_type, so it is not that of a model. {_GIVE}"
    transformers = importlib.import_module("transformers")
    if kind not in transformers.CONFIG_MAPPING:
        return (
            f"{str(folder)!r} is a model of the type {kind!r:.80}, which transformers {transformers.__version__} does "
            "not have. Install a newer transformers, or choose another model."
        )
    return None


def _tokenizer(folder: Path) -> str | None:
    there = [folder / name for name in _TOKENIZERS if (folder / name).is_file()]
    if not there:
        return (
            f"The folder {str(folder)!r} has no tokenizer (tokenizer.json). Save it with the model: "
            "processor.save_pretrained(folder)."
        )
    for path in there:
        if _is_pointer(path):
            return _pointer(path)
        try:
            if path.suffix == ".json":
                json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            return f"The tokenizer's file {str(path)!r} is damaged ({first_line(error).rstrip('.')}). {_AGAIN}"
    return None


def _images(folder: Path) -> str | None:
    if not any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")):
        return (
            f"The folder {str(folder)!r} has no image processor (processor_config.json or preprocessor_config.json). "
            "Save the model's whole processor in it: processor.save_pretrained(folder)."
        )
    return None


def _weights(folder: Path) -> str | None:
    index = folder / "model.safetensors.index.json"
    names = {path.name for path in folder.glob("*.safetensors")}
    if index.is_file():
        try:
            wanted = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return f"The index of the weights, {str(index)!r}, is damaged. {_AGAIN}"
        missing = sorted(wanted - names)
        if missing:
            return f"The folder {str(folder)!r} lacks {len(missing)} files of weights, such as {missing[0]!r}. {_AGAIN}"
    elif "model.safetensors" not in names:
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        if pickles:
            return (
                f"The weights in {str(folder)!r} are pickles ({pickles[0]}), which are not read, as they can hold "
                "code. Weights are read as safetensors only; save them as such."
            )
        return f"The folder {str(folder)!r} has no weights (model.safetensors). {_AGAIN}"
    from safetensors import SafetensorError, safe_open

    for name in sorted(names):
        path = folder / name
        if _is_pointer(path):
            return _pointer(path)
        try:
            with safe_open(str(path), "np"):
                pass
        except (SafetensorError, OSError) as error:
            return f"The weights in {str(path)!r} are damaged ({first_line(error).rstrip('.')}). {_AGAIN}"
    return None


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_LFS)) == _LFS


def _pointer(path: Path) -> str:
    return f"{str(path)!r} is only a pointer of Git LFS. Fetch the file itself: git lfs pull."


def missing_package(error: ImportError, what: str) -> MissingDependencyError:
    """Return the error for a package that transformers lacks, in one line.

    Args:
        error: The error that it raised.
        what: The part that needs the package, such as ``"the processor of 'folder'"``.
    """
    while isinstance(error.__cause__, ImportError):  # transformers imports its parts late and hides the reason
        error = error.__cause__
    text = " ".join(str(error).split())
    found = _INSTALL.search(text) or _REQUIRES.search(text)
    name = found[1].rstrip(".-").lower() if found else (error.name or "").partition(".")[0]
    if not name:
        return MissingDependencyError(f"A package is missing for {what}: {one_line(text, 300)}")
    return MissingDependencyError(f"The package {name!r} is needed for {what}. Install it with: pip install {name}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, as a sentence."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return line if line.endswith((".", "!", "?")) else f"{line}."


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
                f"has itself (their names often end in -hf), {_CHOOSE}"
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
        name: Name of the model in an error.

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
        why = "reads images through layers of their own, and not as tokens in the conversation"
    else:
        return
    raise ModelError(f"{name!r} is a model of the type {config.model_type!r}, which {why}. Choose another, {_CHOOSE}")


def attention_reach(config: Any) -> int | None:  # noqa: ANN401 -- transformers is untyped
    """Return the largest number of tokens back that the attention of some layers reaches, or None if it reaches all.

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
