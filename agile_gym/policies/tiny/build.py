"""Builds the tiny model: a LLaVA (SigLIP vision tower, MLP projector, Llama) of some three million parameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agile_gym.arguments import require_seed
from agile_gym.errors import ConfigurationError, import_optional
from agile_gym.interruption import hold
from agile_gym.policies.tiny.tokenizer import CONTEXT, build_tokenizer
from agile_gym.policies.tiny.words import BOS, END, IMAGE, PAD
from agile_gym.rollout.files import filling

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

__all__ = ["PIECE", "TinySizes", "build_processor", "build_tiny", "save_tiny"]

PIECE = 32
"""Side of an image as the model sees it, in pixels; every image is resized to it and is one token."""


@dataclass(frozen=True)
class TinySizes:
    """The sizes of the model.

    Attributes:
        width: Size of a token's vector in the language model, a multiple of ``2 * heads``.
        layers: Layers of the language model.
        heads: Attention heads of the language model.
        inner: Size of the language model's MLP.
        vision_width: Size of an image's vector in the vision tower, a multiple of 4.
        vision_inner: Size of the vision tower's MLP.
    """

    width: int = 192
    layers: int = 4
    heads: int = 6
    inner: int = 512
    vision_width: int = 256
    vision_inner: int = 512

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ConfigurationError: If one is not positive, or the heads do not divide the width.
        """
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"{name}={value!r} must be a whole number, 1 or more.")
        if self.width % (2 * self.heads):
            raise ConfigurationError(
                f"width={self.width} must be a multiple of 2 * heads = {2 * self.heads}; try {2 * self.heads * 16}."
            )
        if self.vision_width % 4:
            raise ConfigurationError(f"vision_width={self.vision_width} must be a multiple of 4.")


def build_processor() -> LlavaProcessor:
    """Build the processor: tokenizer, chat template, and images resized to 32 x 32 with pixels from -1 to 1.

    Works with and without torchvision.

    Raises:
        MissingDependencyError: If transformers is not installed.
    """
    transformers: Any = import_optional("transformers", extra="vlm", purpose="build the tiny model")
    side = {"height": PIECE, "width": PIECE}
    # The one that needs no torchvision; before it had a name of its own it was the ordinary one.
    make_images = getattr(transformers, "SiglipImageProcessorPil", None) or transformers.SiglipImageProcessor
    images = make_images(
        size=side,
        crop_size=side,  # nothing is cropped, but LlavaProcessor counts an image's tokens by it
        do_center_crop=False,
        do_resize=True,
        resample=3,  # bicubic
        do_rescale=True,
        do_normalize=True,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        do_convert_rgb=True,
    )
    tokenizer: Any = build_tokenizer()
    return transformers.LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PIECE,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
        image_token=IMAGE,
    )


def build_tiny(
    seed: int = 0, *, sizes: TinySizes | None = None
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Build the model, untrained, with its processor.

    An image of any size becomes one token: 32 x 32 pixels, through a linear map and two small MLPs. What the model
    needs at one turn of a 2x2 jigsaw is then some twenty tokens.

    Args:
        seed: Seed of the weights, 0 to `agile_gym.arguments.MAX_SEED`.
        sizes: The sizes; by default some three million parameters.

    Returns:
        The model in float32, in evaluation mode, and its processor.

    Raises:
        ConfigurationError: If a size or the seed is not allowed.
        MissingDependencyError: If torch or transformers is not installed.
    """
    seed = require_seed(seed)
    torch: Any = import_optional("torch", extra="vlm", purpose="build the tiny model")
    transformers: Any = import_optional("transformers", extra="vlm", purpose="build the tiny model")
    sizes = sizes or TinySizes()
    processor = build_processor()
    tokenizer: Any = processor.tokenizer
    ids: dict[str, int] = {token: tokenizer.convert_tokens_to_ids(token) for token in (BOS, END, PAD, IMAGE)}
    ends = {"bos_token_id": ids[BOS], "eos_token_id": ids[END], "pad_token_id": ids[PAD]}
    config = transformers.LlavaConfig(
        vision_config=transformers.SiglipVisionConfig(
            hidden_size=sizes.vision_width,
            intermediate_size=sizes.vision_inner,
            num_hidden_layers=1,
            num_attention_heads=4,
            image_size=PIECE,
            patch_size=PIECE,
            vision_use_head=False,
        ),
        text_config=transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=sizes.width,
            intermediate_size=sizes.inner,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            **ends,
        ),
        image_token_index=ids[IMAGE],
        image_seq_length=1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
        **ends,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.LlavaForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(**ends)
    return model.eval(), processor


def save_tiny(path: str | Path, seed: int = 0, *, sizes: TinySizes | None = None) -> Path:
    """Build the model and write it as an ordinary Hugging Face model directory.

    Args:
        path: Where to write; made if it does not exist.
        seed: Seed of the weights, 0 to `agile_gym.arguments.MAX_SEED`.
        sizes: The sizes.

    Returns:
        The path, for ``AutoModelForImageTextToText.from_pretrained`` and ``AutoProcessor.from_pretrained``.

    Raises:
        ConfigurationError: If a size or the seed is not allowed.
        MissingDependencyError: If torch or transformers is not installed.
    """
    target = Path(path)
    parts: tuple[Any, Any] = build_tiny(seed, sizes=sizes)
    with hold(), filling(target) as beside:
        for part in parts:
            part.save_pretrained(beside)
    return target
