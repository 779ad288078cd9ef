# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch, transformers and PEFT are incomplete.
# The types of torch are incomplete.
"""Options of the trained model (name, types, trained parameters) and of its optimiser."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from agile_gym.errors import (
    ConfigurationError,
    ModelError,
    check_fields,
    did_you_mean,
    import_optional,
    is_number,
    is_whole,
    require,
    require_known,
    require_seed,
)

if TYPE_CHECKING:
    from agile_gym.models.loading import VLM

__all__ = [
    "PARTS",
    "SCHEDULES",
    "TINY",
    "ModelOptions",
    "build_vlm",
    "learning_rate_ratio",
    "make_optimizer",
    "mute_notices",
    "part_of",
    "resolve_autocast",
]

TINY = "tiny"
"""Instead of a path: the tiny model, made in code and untrained."""
PARTS = ("vision", "projector", "language")
"""The parts of a model that can be frozen."""
_PROJECTORS = frozenset({"multi_modal_projector", "connector", "merger", "deepstack_merger_list", "mlp1"})
_VISION = frozenset({"vision_tower", "visual", "vision_model"})
_DTYPES = ("auto", "float32", "bfloat16")
_ATTENTIONS = ("sdpa", "eager", "flash_attention_2")


@dataclass(frozen=True)
class ModelOptions:
    """The model, and the options of its training.

    Attributes:
        path: A folder, a name on the hub, or ``"tiny"`` for the tiny model, untrained.
        system: The system prompt; None for none.
        train: ``"full"`` trains the parameters themselves, ``"lora"`` an adapter.
        freeze: Parts that are not trained: of ``"vision"``, ``"projector"`` and ``"language"``. With LoRA, parts that
            get no adapter.
        dtype: Type of the weights. ``"auto"`` is float32 for weights that are trained, so that small steps are not
            lost, and bfloat16 for all others on a GPU; float32 on a CPU.
        autocast: ``"bfloat16"`` computes matrix products in it, ``"none"`` does not, ``"auto"`` does on a GPU.
        attention: ``"sdpa"``, ``"eager"`` or ``"flash_attention_2"``; transformers' choice if None.
        gradient_checkpointing: Computes activations twice instead of keeping them: less memory, more time.
        lora_rank: Rank of the adapter.
        lora_alpha: The adapter is scaled by ``lora_alpha / lora_rank``.
        lora_dropout: Dropout of the adapter's inputs, in training.
        lora_targets: Names of the layers that get an adapter; None for all linear ones.
        seed: Seed of the initial weights: the tiny model's, the adapter's.
    """

    path: str = TINY
    system: str | None = None
    train: str = "full"
    freeze: tuple[str, ...] = ()
    dtype: str = "auto"
    autocast: str = "auto"
    attention: str | None = None
    gradient_checkpointing: bool = False
    lora_rank: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ConfigurationError: If one is not allowed.
        """
        check_fields(self)
        object.__setattr__(self, "freeze", tuple(self.freeze))
        if self.lora_targets is not None:
            object.__setattr__(self, "lora_targets", tuple(self.lora_targets))
            require(bool(self.lora_targets), "lora_targets", [], "names of layers, or None for all linear ones")
        require(bool(self.path.strip()), "path", self.path, f"a folder, a name on the hub, or {TINY!r}")
        require_seed(self.seed)
        _one_of("train", self.train, ("full", "lora"))
        _one_of("dtype", self.dtype, _DTYPES)
        _one_of("autocast", self.autocast, ("auto", "none", "bfloat16"))
        if self.attention is not None:
            _one_of("attention", self.attention, _ATTENTIONS)
        for part in self.freeze:
            _one_of("freeze", part, PARTS)
        if set(self.freeze) == set(PARTS):
            raise ConfigurationError("freeze: all parts are frozen, so there is nothing to train. Leave one out.")
        require(is_whole(self.lora_rank, 65536), "lora_rank", self.lora_rank, "a whole number from 1 to 65,536")
        require(is_number(self.lora_alpha, 1e-9, 1e9), "lora_alpha", self.lora_alpha, "a number above 0")
        require(is_number(self.lora_dropout, 0, 0.99), "lora_dropout", self.lora_dropout, "a fraction from 0 to 0.99")

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> ModelOptions:
        """Make options of a mapping, such as an `RLModule`'s ``model_config``.

        Raises:
            ConfigurationError: If there is no option of a given name, or a value is not allowed.
        """
        require_known(options, [field.name for field in fields(cls)], "A model")
        return cls(**options)

    def to_mapping(self) -> dict[str, Any]:
        """Return the options as a mapping of plain values."""
        return asdict(self)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{name}={value!r} is not allowed. {did_you_mean(value, allowed)}")


def build_vlm(options: ModelOptions, *, for_training: bool, on_gpu: bool, shapes_only: bool = False) -> VLM:
    """Load a model on the CPU, and prepare it for training or for sampling.

    Args:
        options: Name and training options of the model.
        for_training: True if it is trained; False if it samples only.
        on_gpu: True if it will be moved to a GPU.
        shapes_only: True to leave out the weights: parameters have shapes and types, and neither weights nor much
            memory are needed.

    Returns:
        The model; parameters that are not trained need no gradients.

    Raises:
        ModelError: If it cannot be used.
        MissingDependencyError: If torch, transformers or PEFT is missing.
    """
    torch = import_optional("torch", extra="train", purpose="train a vision-language model")
    from agile_gym.models.loading import VLM, load_shapes, load_vlm

    dtype = options.dtype
    if dtype == "auto":
        trained = for_training and options.train == "full"
        dtype = "bfloat16" if on_gpu and not trained else "float32"
    if options.path == TINY:
        from agile_gym.models.tiny.build import build_tiny

        model, processor = build_tiny(options.seed)
        vlm = VLM(model.to(getattr(torch, dtype)).eval(), processor, TINY)
    elif shapes_only:
        vlm = load_shapes(options.path, dtype=dtype)
    else:
        vlm = load_vlm(options.path, device="cpu", dtype=dtype, attention=options.attention)
    if options.train == "lora":
        vlm = VLM(_with_lora(vlm.model, options), vlm.processor, vlm.name)
    _freeze(vlm.model, options.freeze)
    if options.gradient_checkpointing and for_training:
        _checkpoint_activations(vlm.model)
        if options.train == "lora":
            vlm.model.enable_input_require_grads()
    if not any(parameter.requires_grad for parameter in vlm.model.parameters()):
        raise ModelError(f"No parameter of {options.path!r} is left to train with freeze={options.freeze!r}.")
    return vlm


def _checkpoint_activations(model: Any) -> None:  # noqa: ANN401 -- transformers is untyped
    arguments = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # as newer versions of transformers call it
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=arguments)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=arguments)


def part_of(name: str) -> str:
    """Return the one of `PARTS` that a parameter belongs to, by its name."""
    words = set(name.split("."))
    if words & _PROJECTORS:
        return "projector"
    return "vision" if words & _VISION else "language"


def _freeze(model: Any, parts: tuple[str, ...]) -> None:  # noqa: ANN401 -- transformers is untyped
    for part in parts:
        mine = [parameter for name, parameter in model.named_parameters() if part_of(name) == part]
        if not mine:
            raise ModelError(f"freeze={part!r}: the model has no parameters that are known to be its {part}.")
        for parameter in mine:
            parameter.requires_grad_(False)


def _with_lora(model: Any, options: ModelOptions) -> Any:  # noqa: ANN401 -- transformers and PEFT are untyped
    torch = import_optional("torch", extra="train", purpose="train an adapter")
    peft = import_optional("peft", extra="train", purpose="train an adapter")
    targets: Any = options.lora_targets
    if targets is None:
        targets = "all-linear"
    elif not any(name.split(".")[-1] in targets for name, _ in model.named_modules()):
        raise ModelError(f"lora_targets={targets!r}: the model has no such layers.")
    config = peft.LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT accesses a name of transformers that is going out of use.
        warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning)
        torch.manual_seed(options.seed)
        return peft.get_peft_model(model, config)


def resolve_autocast(options: ModelOptions, *, on_gpu: bool) -> str | None:
    """Return the type of matrix products, or None for that of the weights."""
    if options.autocast == "auto":
        return "bfloat16" if on_gpu else None
    return None if options.autocast == "none" else options.autocast


SCHEDULES = ("constant", "linear", "cosine")
"""Schedules of the learning rate after the warm-up: constant, or to its lowest value along a line or half a cosine."""


def make_optimizer(
    parameters: Iterable[tuple[str, Any]],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Make AdamW for a model's trainable parameters; those with one dimension, such as biases, do not decay.

    Args:
        parameters: Names and parameters.
        lr: Learning rate.
        betas: Decay of the averages of gradients and of their squares.
        weight_decay: Weight decay.
    """
    named = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [parameter for _, parameter in named if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for _, parameter in named if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=betas)


def learning_rate_ratio(step: int, *, warmup: int, total: int | None, schedule: str, lowest: float) -> float:
    """Return the learning rate of a step, as a fraction of its peak.

    Args:
        step: The step, from 0.
        warmup: Steps over which the rate rises along a line.
        total: Steps in all; None for a constant rate.
        schedule: One of `SCHEDULES`.
        lowest: Fraction at the last step.

    Returns:
        Above 0, at most 1.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant" or total is None or total <= warmup:
        return 1.0
    progress = min(1.0, (step - warmup) / (total - warmup))
    shape = 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return lowest + (1 - lowest) * shape


_MUTED = ("on the new API stack!", "RLModule(config=", "Install gputil")
_LOGGERS = (
    "ray.rllib.algorithms.algorithm_config",
    "ray.rllib.core.rl_module.rl_module",
    "ray.rllib.utils.deprecation",
    "ray._common.deprecation",
    "ray.tune.utils.util",
)


class _WithoutNotices(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is shown."""
        text = record.getMessage()
        return not any(part in text for part in _MUTED)


_FILTER = _WithoutNotices()


def mute_notices() -> None:
    """Drop these notices in this process; all other records of RLlib are shown."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)  # adding it again changes nothing
