# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Loading of a vision-language model (weights, adapter), and running its processor over images of any size.

A model can cut any sliver out of an image. Processors refuse some (Qwen's, those with a side ratio above 200) and blow
up others (where the shorter side is scaled to a fixed length). The change made to an image depends on the image and
the processor alone, so that training makes the same pixels of it as a rollout.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import ModelError, import_optional
from agile_gym.models.processors import load_processor, quiet
from agile_gym.models.sources import find_problem, first_line, import_transformers, load_config, locate, missing_package
from agile_gym.transcripts.record import Image

__all__ = [
    "VLM",
    "ImageRefusedError",
    "fit_image",
    "input_device",
    "load_adapter",
    "load_config",
    "load_shapes",
    "load_vlm",
    "process",
]

_DTYPES = ("float32", "bfloat16", "float16")


def input_device(model: Any) -> Any:  # noqa: ANN401 -- transformers is untyped
    """Return the device of a model's inputs: that of its parameters, unless they are kept on another one."""
    return getattr(model, "compute_device", None) or model.device


@dataclass(frozen=True, eq=False)
class VLM:
    """A model that is ready to be used.

    Attributes:
        model: The Hugging Face model, in evaluation mode; a PEFT model if there is an adapter.
        processor: Its processor.
        name: Its path or name on the hub, for the record.
    """

    model: Any
    processor: Any
    name: str

    @property
    def device(self) -> Any:  # noqa: ANN401 -- a torch.device
        """Device of the model's inputs."""
        return input_device(self.model)

    @property
    def text_config(self) -> Any:  # noqa: ANN401 -- transformers is untyped
        """The configuration of the text model."""
        return self.model.config.get_text_config()


def load_vlm(
    path: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    attention: str | None = None,
    adapter: str | Path | None = None,
) -> VLM:
    """Load a model, its processor and perhaps an adapter.

    Args:
        path: A folder, or a name on the hub.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"`` to spread it over all GPUs (needs accelerate); by
            default a GPU if there is one.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; by default bfloat16 on a GPU and float32 on a CPU.
        attention: ``"sdpa"``, ``"eager"`` or ``"flash_attention_2"``; transformers' choice by default.
        adapter: A LoRA adapter that PEFT has written, or None.

    Raises:
        ModelError: If anything of it cannot be used; the message names it and what to do.
        MissingDependencyError: If torch, transformers or PEFT is not installed.
    """
    torch = import_optional("torch", extra="vlm", purpose="run a vision-language model")
    place = _device(torch, device)
    if dtype not in (None, *_DTYPES):
        raise ModelError(f"dtype={dtype!r} is not allowed; give one of {', '.join(map(repr, _DTYPES))}.")
    on_cpu = place.startswith("cpu") or (place == "auto" and not torch.cuda.is_available())
    processor = load_processor(path)
    quantised = getattr(load_config(path), "quantization_config", None) is not None
    options: dict[str, Any] = {"dtype": getattr(torch, dtype or ("float32" if on_cpu else "bfloat16"))}
    if attention is not None:
        options["attn_implementation"] = attention
    if place == "auto" or quantised:
        options["device_map"] = "auto" if place == "auto" else {"": place}
    model = _load_model(path, options, quantised=quantised)
    if adapter is not None:
        model = load_adapter(model, adapter)
    if place != "auto" and not quantised:
        try:
            model = model.to(place)
        except RuntimeError as error:
            raise ModelError(f"The model cannot be moved to device={place!r}: {first_line(error)}") from error
    return VLM(model.eval(), processor, str(path))


def load_shapes(path: str | Path, *, dtype: str) -> VLM:
    """Build a model of its configuration on torch's meta device: shapes and types without weights.

    Args:
        path: A folder with the configuration and the processor, or a name on the hub.
        dtype: Type of the weights, as for `load_vlm`.

    Raises:
        ModelError: If its configuration or its processor cannot be used.
        MissingDependencyError: If torch or transformers is not installed.
    """
    torch = import_optional("torch", extra="vlm", purpose="build a vision-language model")
    transformers = import_transformers()
    processor, config = load_processor(path), load_config(path)
    try:
        with torch.device("meta"):
            model = transformers.AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype))
    except Exception as error:  # models' code raises many kinds
        raise ModelError(f"No model can be built of the configuration of {str(path)!r}: {first_line(error)}") from error
    return VLM(model.eval(), processor, str(path))


def _device(torch: Any, device: str | None) -> str:  # noqa: ANN401 -- a module
    """Return the device of a model.

    Raises:
        ModelError: If there is no such device.
    """
    cuda: bool = torch.cuda.is_available()
    place = device or ("cuda" if cuda else "cpu")
    if place.startswith("cuda") and not cuda:
        raise ModelError(
            f"device={place!r} is not there: torch finds no GPU. Give device='cpu', or install torch with CUDA."
        )
    if place == "auto":
        return place
    try:
        number: int = torch.device(place).index or 0
    except RuntimeError as error:
        raise ModelError(f"device={place!r} is not allowed; give 'cpu', 'cuda', 'cuda:1' or 'auto'.") from error
    if place.startswith("cuda") and number >= torch.cuda.device_count():
        raise ModelError(f"device={place!r} is not there: torch finds {torch.cuda.device_count()} GPUs, from cuda:0.")
    return place


def _load_model(path: str | Path, options: dict[str, Any], *, quantised: bool) -> Any:  # noqa: ANN401 -- untyped
    """Load a model's weights, which must be complete; pickles are not read, as they can hold code."""
    transformers = import_transformers()
    try:
        with quiet(transformers.utils.logging):
            model, report = transformers.AutoModelForImageTextToText.from_pretrained(
                locate(path),
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=not quantised,  # they are reported, and refused here
                **options,
            )
    except ImportError as error:
        raise missing_package(error, f"the model {str(path)!r}") from error
    except Exception as error:  # damaged files may raise anything
        problem = find_problem(path, "weights")
        hint = " Weights are read as safetensors only; save them as such." if "safetensors" in str(error) else ""
        told = problem or f"The model {str(path)!r} cannot be loaded: {first_line(error)}{hint}"
        raise ModelError(told) from error
    wrong = sorted(report["mismatched_keys"])
    if wrong:
        name, there, wanted = wrong[0]
        raise ModelError(
            f"The weights of {str(path)!r} do not fit its config.json: {len(wrong)} have other sizes, such as "
            f"{name!r}, {tuple(there)} in the weights and {tuple(wanted)} by the configuration. They are of two "
            "models, or one of them was changed; download or save both again."
        )
    missing: list[str] = sorted(report["missing_keys"])
    if missing and not quantised:
        raise ModelError(
            f"The weights of {str(path)!r} are not complete: {len(missing)} are missing, such as {missing[0]!r}, and "
            "would be random. Download or save the model again."
        )
    return model


def load_adapter(model: Any, adapter: str | Path) -> Any:  # noqa: ANN401 -- transformers and PEFT are untyped
    """Put an adapter on a model.

    Raises:
        ModelError: If there is none, it belongs to another model, or it is of a kind that adds tokens.
        MissingDependencyError: If PEFT is not installed.
    """
    peft = import_optional("peft", extra="vlm", purpose="load an adapter")
    if (Path(adapter) / "adapter_model.bin").exists() and not (Path(adapter) / "adapter_model.safetensors").exists():
        raise ModelError(
            f"The adapter {str(adapter)!r} is a pickle (adapter_model.bin), which is not read, as it can hold code. "
            "Save it as safetensors: save_pretrained(..., safe_serialization=True)."
        )
    try:
        with warnings.catch_warnings():
            # Else weights that do not belong to this model would be passed over, and the adapter do nothing.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            adapted = peft.PeftModel.from_pretrained(model, str(adapter), torch_device=str(model.device))
    except Exception as error:  # as above
        raise ModelError(
            f"The adapter {str(adapter)!r} does not fit the model, or is not one: {first_line(error)} Give the folder "
            "that PEFT's save_pretrained has written, and the base model that it was trained on."
        ) from error
    if adapted.active_peft_config.is_prompt_learning:
        raise ModelError(
            f"The adapter {str(adapter)!r} adds tokens to each conversation ({adapted.active_peft_config.peft_type}), "
            "which HFVLMPolicy does not count. Use a LoRA adapter."
        )
    return adapted


_LIMITS = ((1, 200), (32, 50), (64, 4))
"""Shortest side in pixels, and largest ratio of the other to it. All images keep to the first; where a processor
refuses one, the next is tried."""


class ImageRefusedError(Exception):
    """A processor takes an image in no form."""


def fit_image(image: Image, shortest: int, ratio: int) -> Image:
    """Return an image whose sides keep to limits, made by repeating rows or columns.

    Args:
        image: (h, w, 3) uint8.
        shortest: Pixels that the shorter side has at least.
        ratio: Maximum ratio of the longer side to the shorter one.

    Returns:
        The image itself if it keeps to them, else one with more rows, columns or both.
    """
    for axis in (0, 1):
        have = image.shape[axis]
        want = max(have, shortest, -(-image.shape[1 - axis] // ratio))
        if want > have:
            places: NDArray[np.intp] = np.arange(want) * have // want
            image = image.take(places, axis)
    return image


def process(processor: Any, text: str, images: Sequence[Image], **options: Any) -> Mapping[str, Any]:  # noqa: ANN401 -- transformers is untyped
    """Call a processor with a text and its images, made to fit.

    Args:
        processor: The processor.
        text: A text with as many image tokens as there are images.
        images: The images, (h, w, 3) uint8.
        **options: The tokenizer's.

    Returns:
        The processor's tensors.

    Raises:
        ImageRefusedError: If the processor takes one of the images in no form.
    """
    try:
        return _call(processor, text, [fit_image(image, *_LIMITS[0]) for image in images], **options)
    except Exception:  # processors may raise anything
        fitted = [_first_that_is_taken(processor, image) for image in images]
    return _call(processor, text, fitted, **options)


def _first_that_is_taken(processor: Any, image: Image) -> Image:  # noqa: ANN401 -- transformers is untyped
    """Return an image in the first form that a processor takes."""
    reason = ""
    for limits in _LIMITS:
        fitted = fit_image(image, *limits)
        try:
            _call(processor, processor.image_token, [fitted])
        except ImportError:
            raise
        except Exception as error:  # as above
            reason = f"{type(error).__name__}: {error}"
        else:
            return fitted
    height, width = image.shape[:2]
    raise ImageRefusedError(f"The image processor refuses an image of {width} x {height} pixels: {reason}")


def _call(processor: Any, text: str, images: Sequence[Image], **options: Any) -> Mapping[str, Any]:  # noqa: ANN401 -- transformers is untyped
    """Call a processor with a text and its images.

    LLaVA-OneVision cuts the image of a conversation with a single one into tiles, but not those of a longer one. Here
    all images are treated as in a conversation of several, however many a single turn brings.
    """
    from PIL import Image as PillowImage

    pictures = [PillowImage.fromarray(np.ascontiguousarray(image)) for image in images]
    if not type(processor).__name__.startswith("LlavaOnevision"):
        return processor(text=[text], images=pictures, return_tensors="pt", **options)
    single = len(pictures) == 1
    marks, shown = (processor.image_token, [*pictures, *pictures]) if single else ("", pictures)
    encoded = dict(processor(text=[text + marks], images=[shown], return_tensors="pt", **options))
    encoded.pop("batch_num_images")
    if single:
        ids = encoded["input_ids"][0]
        added = int((ids == processor.image_token_id).sum()) // 2
        encoded = {name: encoded[name][:1] for name in ("pixel_values", "image_sizes")}
        encoded["input_ids"] = ids[None, : len(ids) - added]
    return encoded
