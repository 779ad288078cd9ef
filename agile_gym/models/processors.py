# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Loading, check and saving of a model's processor, with and without torchvision."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agile_gym.errors import MissingDependencyError, ModelError
from agile_gym.models.sources import find_problem, first_line, import_transformers, load_config, locate, missing_package

__all__ = ["check_processor", "load_processor", "quiet", "save_processor", "without_video"]

_NEED_TEMPLATE = (
    "Save one with the processor (chat_template.jinja next to the tokenizer), or choose the instruction-tuned version "
    "of the model."
)


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
    transformers = import_transformers()
    try:
        with quiet(transformers.utils.logging):  # it warns of its own classes
            processor = transformers.AutoProcessor.from_pretrained(locate(path), trust_remote_code=False)
    except Exception as error:  # a damaged file may raise anything
        reason = str(error).replace(locate(path), "")
        problem = find_problem(path, "tokenizer") or find_problem(path, "image processor")
        if problem is not None:
            raise ModelError(problem) from error
        if not re.search("torchvision|video", reason, re.IGNORECASE):
            if isinstance(error, ImportError):
                raise missing_package(error, f"the processor of {str(path)!r}") from error
            raise ModelError(f"The processor of {str(path)!r} cannot be loaded: {first_line(error)}") from error
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


def _load_without_video(path: str | Path, config: Any) -> Any:  # noqa: ANN401 -- transformers is untyped
    """Load a processor whose video part needs torchvision, without that part."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        whole: Any = PROCESSOR_MAPPING[type(config)]
    except KeyError as error:
        raise MissingDependencyError(
            f"The package 'torchvision' is needed for the processor of {str(path)!r}. Install it with: pip install "
            "torchvision"
        ) from error
    try:
        return without_video(whole).from_pretrained(locate(path))
    except Exception as error:  # as above
        if isinstance(error, ImportError) and "torchvision" not in str(error).lower():
            raise missing_package(error, f"the processor of {str(path)!r}") from error
        raise ModelError(
            f"The processor of {str(path)!r} cannot be loaded without torchvision: {first_line(error)} Install it "
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

    WithoutVideo.__name__ = WithoutVideo.__qualname__ = whole.__name__  # which save_pretrained stores
    return WithoutVideo


def save_processor(processor: Any, path: str | Path) -> None:  # noqa: ANN401 -- transformers is untyped
    """Save a processor as ``save_pretrained`` does, with all that Qwen-VL's own processor needs.

    That one reads ``video_preprocessor_config.json`` too, where torchvision is installed, and vLLM always makes it. Our
    processors have no part for videos; the file then gets the patches of images.

    Args:
        processor: The processor.
        path: Folder to write to.
    """
    processor.save_pretrained(path)
    images = getattr(processor, "image_processor", None)
    patches = {name: getattr(images, name, None) for name in ("patch_size", "merge_size", "temporal_patch_size")}
    if getattr(processor, "video_processor", None) is None and None not in patches.values():
        size = dict(getattr(images, "size", None) or {})
        values = {"video_processor_type": "Qwen2VLVideoProcessor", **patches, "size": size}
        (Path(path) / "video_preprocessor_config.json").write_text(json.dumps(values, indent=2) + "\n")


@contextmanager
def quiet(logging: Any) -> Generator[None]:  # noqa: ANN401 -- transformers is untyped
    """Silence transformers' load report, given in one line here, and its progress bars."""
    verbosity, progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress:
            logging.enable_progress_bar()
