# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Loads a vision-language model and its processor, and says what is wrong with one that cannot be used."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agile_gym.errors import ModelError, import_optional

__all__ = ["VLM", "check_processor", "load_config", "load_processor", "load_vlm"]

_NEED_TEMPLATE = (
    "Save one with the processor (chat_template.jinja beside the tokenizer), or choose the instruction-tuned version "
    "of the model."
)
_ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "kernels-community/flash-attn2")


@dataclass(frozen=True, eq=False)
class VLM:
    """A model that is ready to be used.

    Attributes:
        model: The Hugging Face model, in evaluation mode; a PEFT model if there is an adapter.
        processor: Its processor.
        name: Where it came from, for the record.
    """

    model: Any
    processor: Any
    name: str

    @property
    def device(self) -> Any:  # noqa: ANN401 -- a torch.device
        """Where the model's inputs belong."""
        return self.model.device

    @property
    def text_config(self) -> Any:  # noqa: ANN401 -- transformers is untyped
        """The configuration of the text model."""
        return self.model.config.get_text_config()


def load_config(path: str | Path) -> Any:  # noqa: ANN401 -- transformers is untyped
    """Load the configuration of a model that takes images.

    Raises:
        ModelError: If there is none, or it is that of a text-only model.
        MissingDependencyError: If transformers is not installed.
    """
    transformers = _transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"There is no model at {str(path)!r}, neither as a folder nor on the hub: {_first_line(error)} Give a "
            "folder that save_pretrained has written, or the name of a model on the hub."
        ) from error
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES

    if config.model_type not in NAMES:
        raise ModelError(
            f"{str(path)!r} is a model of the type {config.model_type!r}, which takes no images. Choose one that does, "
            "such as one of Qwen2.5-VL, Qwen3-VL, SmolVLM, Gemma3, LLaVA-OneVision or InternVL."
        )
    return config


def load_processor(path: str | Path) -> Any:  # noqa: ANN401 -- transformers is untyped
    """Load a processor and check that it can be used in a conversation with images.

    Without torchvision, some processors cannot be loaded for the sake of videos; then they are loaded without them.

    Args:
        path: A folder, or a name on the hub.

    Raises:
        ModelError: If it cannot be loaded, takes no images or has no chat template.
        MissingDependencyError: If transformers, or a package that the processor needs, is not installed.
    """
    config = load_config(path)
    transformers = _transformers()
    try:
        processor = transformers.AutoProcessor.from_pretrained(str(path))
    except (ImportError, OSError, ValueError, KeyError, TypeError) as error:
        if "torchvision" not in str(error) and "video" not in str(error):
            raise ModelError(f"The processor of {str(path)!r} cannot be loaded: {_first_line(error)}") from error
        processor = _load_without_video(path, config)
    check_processor(processor, str(path))
    return processor


def check_processor(processor: Any, name: str) -> None:  # noqa: ANN401 -- transformers is untyped
    """Check that a processor can be used in a conversation with images.

    Raises:
        ModelError: If it takes no images or has no chat template.
    """
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ModelError(
            f"The processor of {name!r} is a {type(processor).__name__}, which takes no images. Save the model's whole "
            "processor, with its image processor, in the same folder."
        )
    if not getattr(processor, "chat_template", None) and not getattr(processor.tokenizer, "chat_template", None):
        raise ModelError(f"The model {name!r} has no chat template. {_NEED_TEMPLATE}")


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
        ModelError: If anything of it cannot be used; the message says what and what to do.
        MissingDependencyError: If torch, transformers or PEFT is not installed.
    """
    torch = import_optional("torch", extra="vlm", purpose="run a vision-language model")
    processor = load_processor(path)
    transformers = _transformers()
    cuda = torch.cuda.is_available()
    device = device or ("cuda" if cuda else "cpu")
    if device.startswith("cuda") and not cuda:
        raise ModelError(
            f"device={device!r} is not there: torch finds no GPU. Give device='cpu', or install torch with CUDA."
        )
    dtype = dtype or ("bfloat16" if device != "cpu" else "float32")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ModelError(f"dtype={dtype!r} is not allowed; give 'float32', 'bfloat16' or 'float16'.")
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if attention is not None:
        options["attn_implementation"] = attention
    if device == "auto":
        options["device_map"] = "auto"
    try:
        model = transformers.AutoModelForImageTextToText.from_pretrained(str(path), **options)
    except ImportError as error:
        raise ModelError(f"The model {str(path)!r} needs a package that is missing: {error}") from error
    except Exception as error:  # damaged files raise whatever the reader of their format raises
        raise ModelError(f"The model {str(path)!r} cannot be loaded: {_first_line(error)}") from error
    if adapter is not None:
        model = load_adapter(model, adapter)
    if device != "auto":
        try:
            model = model.to(device)
        except RuntimeError as error:
            raise ModelError(f"The model cannot be moved to device={device!r}: {_first_line(error)}") from error
    return VLM(model.eval(), processor, str(path))


def load_adapter(model: Any, adapter: str | Path) -> Any:  # noqa: ANN401 -- transformers and PEFT are untyped
    """Put an adapter on a model.

    Raises:
        ModelError: If there is none, or it belongs to another model.
        MissingDependencyError: If PEFT is not installed.
    """
    peft = import_optional("peft", extra="vlm", purpose="load an adapter")
    try:
        adapted = peft.PeftModel.from_pretrained(model, str(adapter))
    except Exception as error:  # as above
        raise ModelError(
            f"The adapter {str(adapter)!r} does not fit the model, or is not one: {_first_line(error)} Give the folder "
            "that PEFT's save_pretrained has written, and the base model that it was trained on."
        ) from error
    return adapted


def _load_without_video(path: str | Path, config: Any) -> Any:  # noqa: ANN401 -- transformers is untyped
    """Load a processor whose video part needs torchvision, without that part."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        whole: Any = PROCESSOR_MAPPING[type(config)]
    except KeyError as error:
        raise ModelError(
            f"The processor of {str(path)!r} needs torchvision. Install it with: pip install torchvision"
        ) from error
    try:
        return without_video(whole).from_pretrained(str(path))
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(
            f"The processor of {str(path)!r} cannot be loaded without torchvision: {_first_line(error)} Install it "
            "with: pip install torchvision"
        ) from error


def without_video(whole: Any) -> Any:  # noqa: ANN401 -- transformers is untyped
    """Return a processor class like the given one, but without the part for videos."""

    class WithoutVideo(whole):
        """A processor without the attributes that need torchvision."""

        @classmethod
        def get_attributes(cls) -> list[str]:
            """Return the names of the processor's parts."""
            return [name for name in whole.get_attributes() if "video" not in name]

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **options: Any) -> list[Any]:  # noqa: ANN401 -- untyped
            parts: list[Any] = super()._get_arguments_from_pretrained(*args, **options)
            video = inspect.signature(whole.__init__).parameters["video_processor"]
            return [*parts, None] if video.default is inspect.Parameter.empty else parts

    WithoutVideo.__name__ = WithoutVideo.__qualname__ = whole.__name__  # what save_pretrained writes down
    return WithoutVideo


def _transformers() -> Any:  # noqa: ANN401 -- a module
    return import_optional("transformers", extra="vlm", purpose="run a vision-language model")


def _first_line(error: BaseException) -> str:
    line = str(error).strip().partition("\n")[0]
    return line if line.endswith((".", "!", "?")) else f"{line}."
