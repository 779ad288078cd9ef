# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateImportUsage=false
# The types of torch and ray are incomplete, and torch.distributed does not list the stores that it documents.
"""Weights on their way from the learners to runners in other processes, past Ray's object store.

By ``"nccl"`` or ``"gloo"``, the first learner broadcasts tensors to all runners, in a process group of their own. By
``"ipc"``, runners read the memory of the learners on their GPU; of a CPU, memory that both share. What differs between
GPUs and CPUs is the group's backend, and the kind of memory.

To vLLM go all weights, under its own names, which it takes as they come (`VLLMEngine.take_weights`): neither the
runner's memory nor its copy of the model is touched. Adapters, and the weights of a model that plays by itself, go to
the runner's model. vLLM's own transfer engines (``weight_transfer_config``) were not used, as they need CUDA on both
sides, and a learner without shards.

A runner that was not there, or a transfer that failed, gets the weights through the object store.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayError
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import distributed as dist

from agile_gym.errors import one_line
from agile_gym.learner.sharding import gathered
from agile_gym.learner.shared_weights import SECONDS, Entry, SharedTensors, TransferError, WeightsGroup

__all__ = ["WeightsTransfer"]

_logger = logging.getLogger(__name__)


# Functions of learners: they return, and do not raise, as RLlib takes a learner that raises for dead.


def _weights_of(learner: Any, direct: str | None) -> list[tuple[str, Any]]:  # noqa: ANN401 -- a TokenLearner
    """Return what is sent: names, and tensors, which may be parts.

    Args:
        learner: The learner.
        direct: Type that an engine computes with, to which all weights go; None for the trained ones alone.
    """
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    if direct is None:
        return [(name, parameter.detach()) for name, parameter in module.trainable()]
    from agile_gym.models.vllm_inputs import named_weights

    return list(named_weights(module.model))


def _sent_dtype(tensor: Any, direct: str | None) -> torch.dtype:  # noqa: ANN401 -- a tensor, or a part of one
    return getattr(torch, direct) if direct is not None and tensor.is_floating_point() else tensor.dtype


def _entries(weights: Iterable[tuple[str, Any]], direct: str | None) -> list[Entry]:
    return [
        Entry(name, str(_sent_dtype(tensor, direct)).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in weights
    ]


def _whole(learner: Any, weights: Iterable[tuple[str, Any]], direct: str | None) -> Iterator[torch.Tensor]:  # noqa: ANN401 -- likewise
    """Yield tensors as they are sent, whole; all learners that share them must go through all."""
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    device = module.vlm.device if module.sharding is None else module.sharding.device
    for _, tensor in gathered(weights, device):
        yield tensor.to(_sent_dtype(tensor, direct))


def _offer(learner: Any, *, direct: str | None) -> tuple[str, int, list[Entry]] | None:  # noqa: ANN401 -- likewise
    """Open the place where the group meets, at the first learner; return address, port and what will be sent."""
    if learner._process_group.rank:
        return None
    address = ray.util.get_node_ip_address() if ray.is_initialized() else "127.0.0.1"
    learner.weights_store = dist.TCPStore(
        address, 0, None, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=SECONDS)
    )
    return address, learner.weights_store.port, _entries(_weights_of(learner, direct), direct)


def _open(learner: Any, *, size: int, backend: str) -> str | None:  # noqa: ANN401 -- likewise
    """Join the group, as the first learner does."""
    if learner._process_group.rank:
        return None
    try:
        learner.weights_group = WeightsGroup(learner.weights_store, 0, size, backend)
    except Exception as error:
        return _told(error)
    return None


def _number(learner: Any) -> int:  # noqa: ANN401 -- likewise
    """Return the number of the weights."""
    return learner._weights_seq_no


def _send(learner: Any, *, direct: str | None) -> str | None:  # noqa: ANN401 -- likewise
    """Send the weights; return the error, or None."""
    weights = _weights_of(learner, direct)
    tensors = _whole(learner, weights, direct)
    mistake = None
    if not learner._process_group.rank:
        try:
            learner.weights_group.send(tensors)
        except Exception as error:
            mistake = _told(error)
    for _ in tensors:  # what is left of them: the other learners wait for this one
        pass
    return mistake


def _share(learner: Any, *, direct: str | None) -> tuple[str | None, int, list[Entry], str, list[Any]]:  # noqa: ANN401 -- likewise
    """Share the weights with runners of this GPU, or of this machine's CPU."""
    weights = _weights_of(learner, direct)
    entries = _entries(weights, direct)
    tensors = _whole(learner, weights, direct)
    if learner._process_group.rank and learner._device.type == "cpu":  # the first one's are those of the machine
        for _ in tensors:
            pass
        return None, learner._weights_seq_no, entries, "", []
    try:
        learner.weights_shared = SharedTensors(entries, tensors)
    except Exception as error:
        for _ in tensors:
            pass
        return _told(error), learner._weights_seq_no, [], "", []
    shared = learner.weights_shared
    return None, learner._weights_seq_no, entries, shared.where, shared.handles


def _unshare(learner: Any) -> None:  # noqa: ANN401 -- likewise
    if (shared := learner.__dict__.pop("weights_shared", None)) is not None:
        shared.close()


def _leave(member: Any) -> None:  # noqa: ANN401 -- a learner or a runner
    """Leave the group, if there is one."""
    member.__dict__.pop("weights_store", None)
    member.__dict__.pop("weights_member", None)
    if (group := member.__dict__.pop("weights_group", None)) is not None:
        group.close()


# Functions of runners, for which the same holds.


def _engine_dtype(runner: Any) -> str | None:  # noqa: ANN401 -- a VLMEnvRunner
    """Return the type that the engine computes with, if it takes all weights, or None."""
    return runner.takes_weights_of


def _is_member(runner: Any, *, group: str) -> bool:  # noqa: ANN401 -- likewise
    """Return whether a runner is in the group: one that was started anew is not."""
    return getattr(runner, "weights_member", None) == group


def _join(runner: Any, *, group: str, address: str, port: int, rank: int, size: int, backend: str) -> str | None:  # noqa: ANN401 -- likewise
    try:
        store = dist.TCPStore(address, port, None, is_master=False, timeout=timedelta(seconds=SECONDS))
        runner.weights_store = store
        runner.weights_group = WeightsGroup(store, rank, size, backend)
        runner.weights_member = group
    except Exception as error:
        return _told(error)
    return None


def _receive(runner: Any, *, entries: list[Entry], name: str, number: int) -> str | None:  # noqa: ANN401 -- likewise
    try:
        runner.take_tensors(runner.weights_group.receive(entries), name, number)
    except Exception as error:
        return _told(error)
    return None


def _read(runner: Any, *, entries: list[Entry], name: str, number: int, places: dict[str, list[Any]]) -> str | None:  # noqa: ANN401 -- likewise
    try:
        where = "cpu"
        if torch.cuda.is_available():
            where = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        if where not in places:
            raise TransferError("no learner is on the GPU of this runner" if where != "cpu" else "there is no GPU here")
        runner.take_tensors(SharedTensors.read(entries, places[where]), name, number)
        if where != "cpu":
            torch.cuda.ipc_collect()
    except Exception as error:
        return _told(error)
    return None


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(str(error), 500)}"


class WeightsTransfer:
    """Sender of weights from the learners to the runners, as the driver runs it."""

    def __init__(self, kind: str) -> None:
        """Set the kind of transfer.

        Args:
            kind: One of `TRANSFERS`, but for the object store.
        """
        self.kind = kind
        self._members: tuple[Any, ...] = ()
        self._group = ""
        self._entries: list[Entry] = []
        self._direct: str | None = None

    def send(self, learners: Any, runners: Any) -> str | None:  # noqa: ANN401 -- groups of RLlib's
        """Send the weights to all runners that are alive.

        Args:
            learners: The `TokenLearnerGroup`.
            runners: The ``EnvRunnerGroup``.

        Returns:
            The name that the weights have at the runners now; None if it failed, which is logged.
        """
        manager = runners._worker_manager
        actors = {number: manager.actors()[number] for number in sorted(runners.healthy_env_runner_ids())}
        name = uuid.uuid4().hex
        try:
            if not actors:
                raise TransferError("no runner is alive")
            learners.ping()
            if self.kind == "ipc":
                self._by_memory(learners, actors, name)
            else:
                self._by_group(learners, actors, name)
        except (TransferError, RayError, GetTimeoutError) as error:
            _logger.warning("Weights go through the object store, as weights_transfer=%r failed: %s", self.kind, error)
            self._close(learners, actors)
            return None
        return name

    def _by_group(self, learners: Any, actors: dict[int, Any], name: str) -> None:  # noqa: ANN401 -- likewise
        members = (learners, *actors)
        asked = self._call(actors, partial(_is_member, group=self._group))
        if members != self._members or not all(ray.get(asked, timeout=SECONDS)):
            self._close(learners, actors)
            self._open(learners, actors)
            self._members = members
        number = learners._ask(_number)[0]
        asked = self._call(actors, partial(_receive, entries=self._entries, name=name, number=number))
        mistakes = learners._ask(partial(_send, direct=self._direct))
        self._await(asked, next(filter(None, mistakes), None))

    def _open(self, learners: Any, actors: dict[int, Any]) -> None:  # noqa: ANN401 -- likewise
        self._direct = ray.get(self._call(actors, _engine_dtype)[0], timeout=SECONDS)
        offers = [offer for offer in learners._ask(partial(_offer, direct=self._direct)) if offer is not None]
        address, port, self._entries = offers[0]
        size, self._group = 1 + len(actors), uuid.uuid4().hex
        join = partial(_join, group=self._group, address=address, port=port, size=size, backend=self.kind)
        asked = [actor.apply.remote(partial(join, rank=rank)) for rank, actor in enumerate(actors.values(), 1)]
        mistakes = learners._ask(partial(_open, size=size, backend=self.kind))
        self._await(asked, next(filter(None, mistakes), None))

    def _by_memory(self, learners: Any, actors: dict[int, Any], name: str) -> None:  # noqa: ANN401 -- likewise
        self._direct = ray.get(self._call(actors, _engine_dtype)[0], timeout=SECONDS)
        shared = learners._ask(partial(_share, direct=self._direct))
        try:
            if mistake := next(filter(None, (told[0] for told in shared)), None):
                raise TransferError(mistake)
            _, number, entries, _, _ = shared[0]
            places = {where: handles for *_, where, handles in shared}
            read = partial(_read, entries=entries, name=name, number=number, places=places)
            self._await(self._call(actors, read), None)
        finally:
            learners._ask(_unshare)

    def _call(self, actors: dict[int, Any], function: Any) -> list[Any]:  # noqa: ANN401 -- likewise
        return [actor.apply.remote(function) for actor in actors.values()]

    def _await(self, asked: list[Any], mistake: str | None) -> None:
        """Wait for the runners.

        Raises:
            TransferError: If one of them, or the learner, failed.
        """
        found = list(filter(None, [mistake, *ray.get(asked, timeout=SECONDS)]))
        if found:
            raise TransferError(found[0])

    def _close(self, learners: Any, actors: dict[int, Any]) -> None:  # noqa: ANN401 -- likewise
        """Have all that can leave the group."""
        self._members = ()
        try:
            learners._ask(_leave)
            ray.wait(self._call(actors, _leave), num_returns=len(actors), timeout=10)
        except RayError as error:
            _logger.warning("A group of weights was not left in order: %s", error)
