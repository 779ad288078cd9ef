# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of torch and transformers are incomplete.
"""Sharded learners (FSDP2): each holds a part of the parameters, of their gradients and of the optimiser's state.

Every layer of the model is a unit: its parameters are put together for its forward and backward pass, and freed after
it. What is in no layer (embeddings, which may be tied, norms, projector) is in the unit of the whole model. Gradients
are added up over the learners in each backward pass, so that no learner ever holds all of them.

Putting a unit together takes all learners, which therefore compute equal numbers of micro-batches, and show images to
the model in the same ones: `ShardedGroup.level` adds blank samples, which have no token that is trained on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from agile_gym.actions.prompt import IMAGE_MARK
from agile_gym.errors import ModelError
from agile_gym.learner.data import Sample
from agile_gym.learner.updating import ProcessGroup
from agile_gym.models.chat import ChatFormat
from agile_gym.models.loading import VLM
from agile_gym.models.scoring import PreparedSegment, Scorer, TokenScores
from agile_gym.transcripts.record import Segment

__all__ = [
    "SHARDS",
    "ShardedGroup",
    "Sharding",
    "assign",
    "blank_sample",
    "gathered",
    "load_shards",
    "local_state",
    "missing_shards",
    "own_optimizer_state",
    "save_shards",
    "set_local_state",
]

SHARDS = "shards"
"""Folder of a checkpoint that holds the learners' parts, in the format of torch.distributed.checkpoint."""
_METADATA = ".metadata"
"""File in it that lists the others."""
_BLANK = 64
"""Pixels of the sides of an image that shows nothing."""

Named = Sequence[tuple[str, Any]]
"""Names and parameters."""


class Sharding:
    """A model that is sharded over all processes of the process group.

    Attributes:
        device: Device that it is computed on.
        rank: Number of this process.
    """

    def __init__(self, model: Any, device: torch.device, *, autocast: str | None, cpu_offload: bool) -> None:  # noqa: ANN401 -- transformers is untyped
        """Shard a model in place; unit by unit, so that a GPU never holds all of it.

        Args:
            model: The whole model, on the CPU; the same in all processes.
            device: Device that it is computed on.
            autocast: ``"bfloat16"`` puts parameters together in it, the sharded ones keep their type; None as they are.
            cpu_offload: Keeps parameters, gradients and the optimiser's state on the CPU.

        Raises:
            ModelError: If a parameter cannot be sharded.
        """
        _check_shardable(model)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # which FSDP and NCCL take
        self.device = device
        self.rank: int = dist.get_rank()
        _share(model, device)
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        on_gpu = device.type == "cuda"
        options: dict[str, Any] = {
            "mesh": mesh,
            # The context of autocast stays: it computes norms and the like in float32, so inputs are not cast here.
            "mp_policy": MixedPrecisionPolicy(
                param_dtype=None if autocast is None else getattr(torch, autocast),
                reduce_dtype=torch.float32,
                cast_forward_inputs=False,
            ),
            "offload_policy": CPUOffloadPolicy(pin_memory=on_gpu) if cpu_offload else OffloadPolicy(),
        }
        for layer in _layers(model):
            fully_shard(layer, **options)
        self._root: Any = fully_shard(_Whole(model), **options)
        for unit in self._root.modules():
            if hasattr(unit, "set_gradient_divide_factor"):
                unit.set_gradient_divide_factor(1.0)
                unit.set_force_sum_reduction_for_comms(enable=True)
        if cpu_offload:
            model.compute_device = device  # where parameters are is not where inputs go

    def scorer(self, vlm: VLM, chat: ChatFormat, *, temperature: float, packing: bool = False) -> Scorer:
        """Return a scorer with the sharded model; see `Scorer`."""
        return _ShardedScorer(self._root, vlm, chat, temperature=temperature, packing=packing)


class _Whole(nn.Module):
    """Root of the units: whatever is computed with the model is computed inside it."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 -- transformers is untyped
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], Any]) -> Any:  # noqa: ANN401 -- what it returns
        """Call a function that uses the model."""
        return compute()


class _ShardedScorer(Scorer):
    def __init__(self, root: Any, *args: Any, **options: Any) -> None:  # noqa: ANN401 -- Scorer's
        self._root = root
        super().__init__(*args, **options)

    def __call__(self, rows: Sequence[PreparedSegment], *, entropies: bool | str = False) -> TokenScores:
        """Score segments; see `Scorer`."""

        def compute() -> tuple[Tensor, Tensor, Tensor | None]:  # FSDP finds tensors in tuples, not in other objects
            scores = super(_ShardedScorer, self).__call__(rows, entropies=entropies)
            return scores.logps, scores.loss_mask, scores.entropies

        return TokenScores(*self._root(compute))


def _layers(model: Any) -> list[Any]:  # noqa: ANN401 -- transformers is untyped
    """Return the layers of all parts of a model: those that transformers can compute twice to save memory."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _check_shardable(model: Any) -> None:  # noqa: ANN401 -- transformers is untyped
    for name, parameter in model.named_parameters():
        advice = "Set sharding='none', or use another model."
        if parameter.ndim == 0:
            raise ModelError(f"The parameter {name!r} is a single number, which cannot be sharded. {advice}")
        if not parameter.is_floating_point():
            raise ModelError(f"The parameter {name!r} is quantised ({parameter.dtype}); it cannot be sharded. {advice}")


def _share(model: Any, device: torch.device) -> None:  # noqa: ANN401 -- transformers is untyped
    """Give all processes the trained parameters of the first, one by one."""
    if dist.get_world_size() > 1:
        for parameter in model.parameters():
            if parameter.requires_grad:
                values = parameter.data.to(device)
                dist.broadcast(values, 0)
                parameter.data.copy_(values)


class ShardedGroup(ProcessGroup):
    """The learners that train a sharded model."""

    def add_gradients(self, parameters: Iterable[Any]) -> None:
        """Leave gradients as they are: the backward passes added them up."""

    def share(self, parameters: Iterable[Any]) -> None:
        """Leave parameters as they are: they were shared before the model was sharded."""

    def clip(self, parameters: Sequence[Any], limit: float | None) -> float:
        """Scale gradients down to a norm, over all learners; see `ProcessGroup.clip`."""
        gradients = [parameter.grad.to_local() for parameter in parameters if parameter.grad is not None]
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32).double() for gradient in gradients]
        own = float(torch.stack(norms).square().sum()) if norms else 0.0
        norm = self.add([own])[0] ** 0.5
        if limit is not None and norm > limit:
            for gradient in gradients:
                gradient.mul_(limit / (norm + 1e-6))
        return norm

    def level(self, batches: Sequence[Sequence[Sample]], chat: ChatFormat) -> list[list[Sample]]:
        """Add blank samples, so that all learners have as many micro-batches, and images in the same ones."""
        count = torch.tensor([len(batches)], device=self._device)
        dist.all_reduce(count, op=dist.ReduceOp.MAX)
        shows = torch.zeros(int(count), dtype=torch.int32)
        for number, batch in enumerate(batches):
            shows[number] = any(sample.images for sample in batch)
        anywhere = shows.to(self._device, copy=True)
        if len(anywhere):
            dist.all_reduce(anywhere, op=dist.ReduceOp.MAX)
        levelled: list[list[Sample]] = []
        for number, image in enumerate(anywhere.tolist()):
            batch = list(batches[number]) if number < len(batches) else []
            if not batch or (image and not shows[number]):
                batch.append(blank_sample(chat, image=bool(image)))
            levelled.append(batch)
        return levelled


def blank_sample(chat: ChatFormat, *, image: bool) -> Sample:
    """Return a sample that no token of is trained on.

    Args:
        chat: The model's chat format.
        image: True if it shows an image.
    """
    images = [np.full((_BLANK, _BLANK, 3), 128, np.uint8)] if image else []
    ids = chat.opening(IMAGE_MARK if image else "", images).ids
    count = len(ids)
    turns = np.full(count, -1, np.int16)
    segment = Segment(ids, np.zeros(count, np.bool_), np.zeros(count, np.float32), turns, tuple(range(len(images))))
    return Sample(segment, tuple(images), 0, ())


def gathered(tensors: Iterable[tuple[str, Any]], device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Put tensors together, one by one: never more than one is whole, but for those that the caller keeps.

    All learners must go through all of them.

    Args:
        tensors: Names and tensors, sharded or whole.
        device: Device to send them from.
    """
    for name, tensor in tensors:
        value: Any = tensor.detach()
        if isinstance(value, DTensor):
            sent: Any = value.to(device)
            value = sent.full_tensor()
        yield name, value


def assign(own: Any, whole: Tensor) -> None:  # noqa: ANN401 -- a tensor
    """Copy a whole tensor, or the part of it that belongs to this learner, into a tensor of the model."""
    with torch.no_grad():
        if isinstance(own, DTensor):
            own.to_local().copy_(_own_part(whole, own))
        else:
            own.copy_(whole)


def _own_part(whole: Tensor, like: DTensor) -> Tensor:
    """Return the rows of a whole tensor that a learner holds."""
    rows = -(-whole.shape[0] // like.device_mesh.size())
    first = min(like.device_mesh.get_rank() * rows, whole.shape[0])
    return whole[first : first + like.to_local().shape[0]]


def own_optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the part of a whole optimiser's state (`Optimizer.state_dict`) that belongs to this learner."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own: dict[int, dict[str, Any]] = {}
    for number, entry in state["state"].items():
        parameter = parameters[int(number)]
        own[int(number)] = {}
        for key, value in entry.items():
            whole = torch.as_tensor(value).clone()
            if whole.shape == parameter.shape:
                mine = torch.zeros_like(parameter, dtype=whole.dtype)
                assign(mine, whole)
                whole = mine
            own[int(number)][key] = whole
    return {**state, "state": own}


def local_state(named: Named, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """Return copies of this learner's part of parameters and optimiser, on the CPU.

    Returns:
        For each parameter, ``""`` its values and, by their names, the optimiser's tensors.
    """

    def copied(tensor: Any) -> Tensor:  # noqa: ANN401 -- a tensor
        local: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        return local.detach().cpu().clone()

    return {
        name: {"": copied(parameter)}
        | {key: copied(value) for key, value in optimizer.state.get(parameter, {}).items()}
        for name, parameter in named
    }


def set_local_state(named: Named, optimizer: torch.optim.Optimizer, state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Take over what `local_state` returned, of a learner with the same part."""
    optimizer.state.clear()
    with torch.no_grad():
        for name, parameter in named:
            for key, value in state[name].items():
                if not key:
                    parameter.to_local().copy_(value)
                    continue
                own = torch.zeros_like(parameter) if value.shape == parameter.to_local().shape else value.clone()
                if isinstance(own, DTensor):
                    own.to_local().copy_(value)
                optimizer.state[parameter][key] = own


def save_shards(folder: str | Path, named: Named, optimizer: torch.optim.Optimizer) -> None:
    """Write parameters and the optimiser's state, each learner its own part.

    Args:
        folder: A folder that all learners reach.
        named: The parameters that are trained.
        optimizer: Their optimiser.

    Raises:
        OSError: If a learner cannot write; all of them raise it.
    """
    state = {_key(name, ""): parameter.detach() for name, parameter in named}
    for name, parameter in named:
        state |= {_key(name, key): value for key, value in optimizer.state.get(parameter, {}).items()}
    try:
        save(state, storage_writer=FileSystemWriter(str(folder)))
    except CheckpointException as error:
        raise OSError(_first_reason(error)) from error


def load_shards(folder: str | Path, named: Named, optimizer: torch.optim.Optimizer) -> None:
    """Read what any number of learners wrote with `save_shards`; this learner may be sharded or not.

    Args:
        folder: The folder.
        named: The parameters that are trained.
        optimizer: Their optimiser.

    Raises:
        ModelError: If they are those of another model.
        OSError: If a learner cannot read; all of them raise it.
    """
    reader = FileSystemReader(str(folder))
    stored = cast("Mapping[str, Any]", reader.read_metadata().state_dict_metadata)
    state: dict[str, Any] = {}
    moments: dict[str, dict[str, Any]] = {name: {} for name, _ in named}
    for name, parameter in named:
        known = stored.get(_key(name, ""))
        if known is None or tuple(known.size) != tuple(parameter.shape):
            have = "is missing" if known is None else f"has shape {tuple(known.size)}"
            raise ModelError(
                f"These weights belong to another model: {name} {have}, this model's has {tuple(parameter.shape)}."
            )
        state[_key(name, "")] = parameter.detach()
    for key, known in stored.items():
        _, name, moment = key.split("|")
        parameter = dict(named).get(name)
        if parameter is None:
            raise ModelError(f"These weights belong to another model: this one does not train {name}.")
        if moment:
            like = tuple(known.size) == tuple(parameter.shape) and bool(known.size)
            empty = torch.zeros_like(parameter) if like else torch.zeros(known.size, dtype=known.properties.dtype)
            state[key] = moments[name][moment] = empty.detach()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is")
            load(state, storage_reader=reader, no_dist=not dist.is_initialized())
    except CheckpointException as error:
        raise OSError(_first_reason(error)) from error
    optimizer.state.clear()
    for name, parameter in named:
        if moments[name]:
            optimizer.state[parameter] = moments[name]


def missing_shards(folder: str | Path) -> str | None:
    """Return the name of a file of `save_shards` that is not in the folder, as seen from this machine, or None."""
    path = Path(folder)
    if not (path / _METADATA).is_file():
        return _METADATA
    places: Mapping[Any, Any] = FileSystemReader(str(path)).read_metadata().storage_data or {}
    names = sorted({str(place.relative_path) for place in places.values()})
    return next((name for name in names if not (path / name).is_file()), None)


def _key(name: str, moment: str) -> str:
    return f"{'optimizer' if moment else 'model'}|{name}|{moment}"


def _first_reason(error: CheckpointException) -> str:
    return next((f"{type(reason[0]).__name__}: {reason[0]}" for reason in error.failures.values()), str(error))
