# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Memory and time of GRPO on GPUs, by phase, computed from a model's shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from agile_gym.learner.options import part_of
from agile_gym.models.scoring import SCORED_NUMBERS

__all__ = [
    "GIB",
    "GPU",
    "POOL",
    "EnginePool",
    "IterationTime",
    "Load",
    "ModelShapes",
    "Phase",
    "iteration_time",
    "memory_phases",
]

GIB = 2**30
_ADAM_BYTES = 8
"""AdamW's two moments of a parameter, in float32."""
_PREFETCHED = 2
"""Units that FSDP holds gathered at a time: the one that is computed, and the next one."""
_SCORE_BYTES = 16
"""A logit's scaled, masked and normalised copies, and a gradient, in float32; of one chunk at a time."""
_BOOLEAN_BYTES = 1
POOL = "vLLM's pool"
"""Name of the part that vLLM reserves."""


@dataclass(frozen=True)
class ModelShapes:
    """Sizes of a model, numbers unless said otherwise.

    Attributes:
        parameters: Parameters by part, see `agile_gym.learner.options.PARTS`.
        trained: Those that are trained.
        weight_bytes: Bytes of all as they are kept by a learner.
        trained_bytes: Bytes of those that are trained.
        unit: Parameters of the largest layer, which FSDP gathers at a time.
        root: Parameters outside of the language model's layers, which stay gathered during an update.
        layers: Layers of the language model.
        width: Size of a token's vector.
        inner: Size of the MLP's inner vector.
        key_values: Size of a token's keys, and of its values, in a layer.
        vocabulary: Number of logits.
    """

    parameters: Mapping[str, int]
    trained: int
    weight_bytes: int
    trained_bytes: int
    unit: int
    root: int
    layers: int
    width: int
    inner: int
    key_values: int
    vocabulary: int

    @classmethod
    def of(cls, model: Any) -> ModelShapes:  # noqa: ANN401 -- transformers is untyped
        """Read the sizes of a model, whose tensors may be on the meta device."""
        config = model.config.get_text_config()
        parameters = list(model.named_parameters())
        parts = Counter[str]()
        for name, parameter in parameters:
            parts[part_of(name)] += parameter.numel()
        trained = [parameter for _, parameter in parameters if parameter.requires_grad]
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        layers = [entry for entry in lists if len(entry) == config.num_hidden_layers]
        layer = max(layers, key=lambda entry: sum(map(_size, entry)), default=nn.ModuleList())
        return cls(
            parameters=dict(parts),
            trained=sum(parameter.numel() for parameter in trained),
            weight_bytes=sum(parameter.numel() * parameter.element_size() for _, parameter in parameters),
            trained_bytes=sum(parameter.numel() * parameter.element_size() for parameter in trained),
            unit=max(map(_size, layer), default=0),
            root=sum(parts.values()) - sum(map(_size, layer)),
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            inner=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            key_values=heads * size,
            vocabulary=config.vocab_size,
        )

    @property
    def total(self) -> int:
        """Number of parameters."""
        return sum(self.parameters.values())

    @property
    def cached(self) -> int:
        """Numbers that a token's keys and values are, over all layers."""
        return 2 * self.layers * self.key_values


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True)
class EnginePool:
    """Memory that vLLM reserves for a runner: its copy of the weights, keys and values, and what it computes with.

    Attributes:
        size: Bytes.
        weights: Bytes of the weights.
        context: Tokens of the longest context that it is to take.
        token: Bytes of the keys and values of a token.
        on_gpu: True if it is on a GPU, which the runner's own copy of the weights is then not.
        sleeps: True if it is freed while learners compute.
    """

    size: float
    weights: float
    context: int
    token: float
    on_gpu: bool = True
    sleeps: bool = False

    @property
    def needed(self) -> float:
        """Bytes that it must have at least: vLLM starts only if the longest context fits."""
        return self.weights + self.context * self.token


@dataclass(frozen=True)
class Load:
    """The work of processes, and how it is spread.

    Attributes:
        learners: Learners, a GPU each; 0 counts as 1.
        runners: Runners; 0 counts as 1.
        sharded: True if weights, gradients and optimiser are spread over the learners.
        offloaded: True if they are kept on the CPU but for what is computed.
        half: True if products are computed in 16 bit, else in float32.
        checkpointed: True if activations of layers are computed twice instead of kept.
        batch_tokens: Most tokens of a micro-batch; a longer episode is one by itself.
        written: Share of an episode's tokens that a model has written, which are trained on.
        episode_tokens: Tokens of the longest episode.
        episodes: Episodes that a runner plays side by side.
        shared: True if runner and learner share a GPU.
        opening: Tokens of an episode before the first that a model has written.
        packed: True if the episodes of a micro-batch are computed one behind the other, without padding.
        masked: True if attention to padded rows of unequal lengths takes a mask, as PyTorch's does.
        players: Runners on a GPU.
        pool: What vLLM reserves for each of them; None if it does not play.
        referred: True if learners hold a frozen copy of the model, for the KL divergence from it.
        joint: True if they are one process, which plays with the weights that it trains.
        overlapping: True if runners play while learners train.
    """

    learners: int
    runners: int
    sharded: bool
    offloaded: bool
    half: bool
    checkpointed: bool
    batch_tokens: int
    written: float
    episode_tokens: int
    episodes: int
    shared: bool
    opening: int = 0
    packed: bool = False
    masked: bool = False
    players: int = 1
    pool: EnginePool | None = None
    referred: bool = False
    joint: bool = False
    overlapping: bool = False

    @property
    def number(self) -> int:
        """Bytes of a number that is computed."""
        return 2 if self.half else 4


@dataclass(frozen=True)
class Phase:
    """Memory of a GPU in a phase of an iteration.

    Attributes:
        name: Its name.
        parts: Bytes by what holds them.
    """

    name: str
    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        """Bytes in all."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        """Return a line with the parts."""
        told = ", ".join(f"{name} {size / GIB:.3g}" for name, size in self.parts.items() if size)
        return f"{self.total / GIB:.3g} GiB ({told})"


@dataclass(frozen=True)
class MicroBatch:
    """Numbers of tokens that are computed at a time.

    Attributes:
        tokens: All, padding included.
        columns: Those whose logits are computed.
        trained: Those whose logits are scored.
        row: Tokens of a row whose attention takes a mask; 0 if there is none.
    """

    tokens: float
    columns: float
    trained: float
    row: int = 0


def micro_batches(load: Load) -> list[MicroBatch]:
    """Return the micro-batches that may take the most memory, if the longest episodes come together with others.

    Packed, there are as many tokens as fit, and logits of the trained ones alone. Padded, the longest episode by itself
    is computed likewise. Rows of unequal lengths are as wide as the longest of them, and logits are computed of all
    rows wherever one of them is trained on, which may be anywhere behind the openings.
    """
    together, longest = max(load.batch_tokens, load.episode_tokens), load.episode_tokens
    if load.packed:
        return [MicroBatch(together, together * load.written, together * load.written)]
    found = [MicroBatch(longest, longest * load.written, longest * load.written)]
    rows = max(2, -(-load.batch_tokens // longest))
    columns = load.batch_tokens - rows * load.opening
    if columns > 0:
        trained = min(columns, load.batch_tokens * load.written)
        row = min(longest, load.batch_tokens // 2) if load.masked else 0
        found.append(MicroBatch(load.batch_tokens, columns, trained, row))
    return found


def layer_bytes(shapes: ModelShapes, load: Load, *, row: int = 0) -> int:
    """Return the bytes that a layer keeps of a token for the backward pass: two RMSNorms, attention, a gated MLP.

    A norm keeps its input in float32, its normalised form and its output, which is the input of what follows. Weights
    in float32, unless they are sharded, make all three float32, and products in 16 bit keep a copy for each of the five
    matrices that the two outputs go through. Attention is fused, so that no matrix of tokens by tokens is kept but for
    a mask: queries, keys, values and its output. The MLP keeps its two products, the activation, and what is multiplied
    last.

    Args:
        shapes: The model.
        load: The work.
        row: Tokens of a row whose attention takes a mask, which is kept as numbers, with the keys and values of every
            head; 0 if there is none.
    """
    number, width = load.number, shapes.width
    norms = width * (16 + 5 * number if _mixed(shapes, load) else 8 + 4 * number)
    attention = 2 * width + 2 * (max(width, shapes.key_values) if row else shapes.key_values) + row
    return norms + number * (attention + 4 * shapes.inner)


def _mixed(shapes: ModelShapes, load: Load) -> bool:
    """Return True if layers hand on float32 while products are computed in 16 bit: autocast, but of sharded weights."""
    return load.half and not load.sharded and shapes.weight_bytes > 3 * shapes.total


def _computed(shapes: ModelShapes, load: Load, micro: MicroBatch) -> dict[str, float]:
    """Return the memory of the activations and logits of a micro-batch."""
    per_token = layer_bytes(shapes, load, row=micro.row)
    if load.checkpointed:
        per_token += shapes.layers * shapes.width * (4 if _mixed(shapes, load) else load.number)
    else:
        per_token *= shapes.layers
    # In the forward pass the logits and their trained part are there, in the backward pass the gradients of both.
    logits = (micro.columns + micro.trained) * shapes.vocabulary * load.number
    scores = min(micro.trained * shapes.vocabulary, SCORED_NUMBERS) * _SCORE_BYTES
    return {"activations": micro.tokens * (per_token + micro.row * _BOOLEAN_BYTES), "logits": logits + scores}


def memory_phases(shapes: ModelShapes, load: Load) -> list[Phase]:
    """Return the memory of a GPU while groups are played, and while a step is taken.

    Counted are weights, those of a frozen reference, too, gradients in the weights' type, AdamW's moments, gathered
    units, activations of the language model, logits, and keys and values, or the pool that vLLM keeps both its weights
    and these in; not counted: activations of the vision tower, fragmentation, and what CUDA and NCCL take themselves (1
    to 2 GiB), which vLLM keeps a part of while it sleeps.

    Args:
        shapes: The model.
        load: The work.

    Returns:
        The phases ``play`` and ``update``, or one of both where runner and learner share a GPU and work at a time.
    """
    world = max(1, load.learners) if load.sharded else 1
    kept = 0 if load.offloaded else 1
    reference = {"reference's weights": kept * shapes.total * load.number / world} if load.referred else {}
    state = {
        **reference,
        "weights": kept * shapes.weight_bytes / world,
        "gradients": kept * shapes.trained_bytes / world,
        "optimiser": kept * _ADAM_BYTES * shapes.trained / world,
    }
    copies = load.number * (shapes.root + _PREFETCHED * shapes.unit)
    if not load.sharded:  # autocast keeps a copy of the weights that are trained
        copies = load.number * shapes.trained if load.half and shapes.trained_bytes > 2 * shapes.trained else 0
    computed = [_computed(shapes, load, micro) for micro in micro_batches(load)]
    learner = {
        **state,
        "gathered units" if load.sharded else "16-bit copies": copies,
        **max(computed, key=lambda parts: sum(parts.values())),
    }
    pool = load.pool
    own = not load.joint and (pool is None or not pool.on_gpu)
    player = {"player's weights": load.players * shapes.total * load.number if own else 0}
    if pool is None:
        cached = load.episodes * load.episode_tokens * shapes.cached * load.number
        held = {"keys and values": load.players * cached}
        rest = dict[str, float]()
    else:
        held = {POOL: load.players * pool.size}
        rest = {POOL: 0.0} if pool.sleeps else held
    if not load.shared:
        return [Phase("play", {**player, **held}), Phase("update", learner)]
    if load.overlapping:
        return [Phase("play+update", {**learner, **player, **held})]
    resident = {**state, "gradients": 0.0}
    return [Phase("play", {**resident, **player, **held}), Phase("update", {**learner, **player, **rest})]


@dataclass(frozen=True)
class GPU:
    """Speed of a GPU.

    Attributes:
        flops: Products a second in 16 bit, at best.
        bandwidth: Bytes of memory read a second, at best.
        used: Share of the products that a training reaches.
        read: Share of the bandwidth that generation reaches.
    """

    flops: float = 312e12
    bandwidth: float = 2.0e12
    used: float = 0.35
    read: float = 0.5


@dataclass(frozen=True)
class IterationTime:
    """Seconds of an iteration."""

    play: float
    update: float


def iteration_time(
    shapes: ModelShapes, load: Load, episodes: int, written: int, gpu: GPU | None = None
) -> IterationTime:
    """Return the time of an iteration, from a model of its cost; by default on an A100 of 80 GB.

    A step of generation reads the weights once for all episodes that are played side by side, and the keys and values
    of each; all episodes are as long as the longest. An update computes 6 products a parameter and token, 8 where
    activations are computed twice.

    Args:
        shapes: The model.
        load: The work.
        episodes: Episodes of an iteration.
        written: Tokens that a model writes in an episode.
        gpu: The GPU.
    """
    gpu = gpu or GPU()
    rounds = -(-episodes // (max(1, load.runners) * load.episodes))
    step = shapes.total * load.number + load.episodes * load.episode_tokens / 2 * shapes.cached * load.number
    play = rounds * written * step / (gpu.bandwidth * gpu.read)
    products = (8 if load.checkpointed else 6) * shapes.total * episodes * load.episode_tokens
    return IterationTime(play, products / (max(1, load.learners) * gpu.flops * gpu.used))
