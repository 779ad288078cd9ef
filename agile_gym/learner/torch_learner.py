# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray and torch are incomplete.
"""RLlib's learner for episodes of tokens: epochs, minibatches, micro-batches, one or several processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tree  # pyright: ignore[reportMissingTypeStubs] -- it has none
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import COMPONENT_OPTIMIZER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils import force_list

from agile_gym.errors import ConfigurationError
from agile_gym.learner.data import Sample
from agile_gym.learner.memory import fetch_images, hand_back
from agile_gym.learner.module import VLMModule
from agile_gym.learner.options import learning_rate_ratio, make_optimizer, mute_notices, resolve_autocast
from agile_gym.learner.sharding import (
    SHARDS,
    ShardedGroup,
    load_shards,
    local_state,
    own_optimizer_state,
    save_shards,
    set_local_state,
)
from agile_gym.learner.updating import SUPERVISED, ProcessGroup, Reference, StepOptions, Updater
from agile_gym.models.packing import resolve_packing
from agile_gym.models.scoring import PreparedSegment, Scorer

__all__ = ["COMPLETE", "TokenLearner", "check_learner_class", "make_learner_connector"]

COMPLETE = "complete.txt"
"""Name of the file that is written last into a learner's part of a checkpoint."""

_STEPS = "optimizer_steps"
_logger = logging.getLogger(__name__)

mute_notices()


class SamplesColumn(ConnectorV2):
    """Connector that passes samples on: an array of objects, which RLlib neither pads nor turns into tensors."""

    def __call__(
        self,
        *,
        rl_module: RLModule,
        batch: dict[str, Any],
        episodes: Sequence[Any],
        **kwargs: Any,  # noqa: ANN401 -- likewise
    ) -> dict[str, Any]:
        """Put samples into a column."""
        column = np.empty(len(episodes), dtype=object)
        column[:] = episodes
        return {DEFAULT_MODULE_ID: {"samples": column}}


def make_learner_connector(observation_space: Any, action_space: Any) -> SamplesColumn:  # noqa: ANN401 -- RLlib's
    """Return the connector of a learner; a function of a module, as checkpoints hold it."""
    return SamplesColumn()


class TokenLearner(TorchLearner):
    """Learner that trains a `VLMModule` on samples, alone or in a process group.

    Several learners add up their gradients, so that they take the very steps of a single one.

    Attributes:
        restore_error: The reason why a stored state could not be taken over, or None.
        part_taken: True if the last `take_part` succeeded.
    """

    config: Any  # a GRPOConfig, which RLlib takes for one of any algorithm
    module: Any
    _module: Any

    def build(self) -> None:
        """Make the module and the optimiser."""
        threads = self.config.torch_threads_per_actor
        if threads and self.config.num_learners:
            torch.set_num_threads(threads)
        self._steps = 0
        self.restore_error: str | None = None
        self.part_taken = False
        super().build()
        module = self._vlm_module
        kind = ProcessGroup if module.sharding is None else ShardedGroup
        self._process_group = kind(module.vlm.device, distributed=self.distributed)
        self._process_group.share(parameter for _, parameter in module.trainable())
        self._updater = self._make_updater()

    def _map_module_to_device(self, module: Any) -> None:  # noqa: ANN401 -- a MultiRLModule
        """Move the module to its device; a part of it, if it is sharded."""
        if self.config.sharding == "full" and self.config.num_learners:
            module[DEFAULT_MODULE_ID].unwrapped().shard(self._device, cpu_offload=self.config.cpu_offload)
        else:
            super()._map_module_to_device(module)

    def _make_modules_ddp_if_necessary(self) -> None:
        """Leave the module as it is: gradients are added up by `ProcessGroup`, or by sharded parameters."""

    @property
    def _vlm_module(self) -> VLMModule:
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    def get_parameters(self, module: Any) -> list[Any]:  # noqa: ANN401 -- a VLMModule
        """Return the parameters that are trained."""
        return [parameter for parameter in module.parameters() if parameter.requires_grad]

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:  # noqa: ANN401 -- RLlib's
        """Make AdamW. Its learning rate follows the configuration's schedule, step by step."""
        module = self._module[module_id].unwrapped()
        optimizer = make_optimizer(
            module.trainable(), lr=config.lr, betas=tuple(config.adam_betas), weight_decay=config.weight_decay
        )
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=self.get_parameters(module))

    def _make_updater(self) -> Updater:
        config, module = self.config, self._vlm_module
        device = module.vlm.device
        options = StepOptions(
            loss=config.loss,
            loss_options=config.loss_arguments(),
            micro_batch_tokens=config.micro_batch_tokens,
            grad_clip=config.grad_clip,
            autocast=resolve_autocast(module.options, on_gpu=device.type == "cuda"),
            correction=config.correction,
            correction_cap=config.mismatch_cap,
        )
        optimizer, reference = self.get_optimizer(DEFAULT_MODULE_ID), self._make_reference(module)
        return Updater(self._make_scorer(module), optimizer, options, self._process_group, reference)

    def _make_scorer(self, module: VLMModule) -> Scorer:
        packing = resolve_packing(self.config.packing, module.model)
        return module.scorer(temperature=self.config.temperature, packing=packing)

    def _make_reference(self, module: VLMModule) -> Reference | None:
        """Return the scorer of the reference, the model before training, if one is required."""
        if not self.config.kl_coef:
            return None
        if module.options.train == "lora":
            scorer = self._make_scorer(module)

            def adapter_off(rows: Sequence[PreparedSegment]) -> torch.Tensor:
                with torch.no_grad(), module.reference(), module.autocast():
                    return scorer(rows).logps

            return adapter_off
        frozen = module.untrained(inference_only=True, gradient_checkpointing=False)
        frozen.requires_grad_(False)
        if module.sharding is None:
            frozen.to(module.vlm.device)
        else:
            frozen.shard(module.sharding.device, cpu_offload=self.config.cpu_offload)
        frozen_scorer = self._make_scorer(frozen)

        def frozen_copy(rows: Sequence[PreparedSegment]) -> torch.Tensor:
            with torch.no_grad(), frozen.autocast():
                return frozen_scorer(rows).logps

        return frozen_copy

    def _update(self, batch: Mapping[str, Any], **kwargs: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:  # noqa: ANN401 -- RLlib's
        """Train on all samples: in each epoch, minibatch by minibatch, one step each."""
        config, module = self.config, self._vlm_module
        samples: list[Sample] = fetch_images([item for item in batch[DEFAULT_MODULE_ID]["samples"] if item.minibatches])
        start = time.perf_counter()
        logged: list[dict[str, float]] = []
        skipped, empty = self._updater.skipped, self._updater.empty
        compared: Mapping[str, float] = {}
        try:
            if config.loss != SUPERVISED and config.correction != "none":
                self._updater.compare(samples)
            module.model.train()
            for epoch in range(config.num_epochs):
                for number in range(config.num_minibatches):
                    rate = self._set_learning_rate()
                    chosen = [sample for sample in samples if sample.minibatches[epoch] == number]
                    logged.append({**self._updater.step(chosen), "lr": rate})
                    self._steps += 1
            compared = self._updater.mismatch
        finally:
            module.model.eval()
            self._updater.forget()  # the next samples show others, and would fill the memory
            if config.engine_sleep and torch.cuda.is_available():
                torch.cuda.empty_cache()  # the engine is about to wake
            if config.num_learners:
                hand_back()
        metrics = _mean(logged)
        metrics["max_log_ratio_first"] = compared.get("max_mismatch", 0.0)
        metrics["approx_kl_first"] = compared.get("mismatch_kl", 0.0)
        metrics |= compared
        metrics["skipped_steps"] = float(self._updater.skipped - skipped)
        metrics["empty_steps"] = float(self._updater.empty - empty)
        metrics[_STEPS] = float(self._steps)
        metrics["seconds"] = time.perf_counter() - start
        for name, value in metrics.items():
            self.metrics.log_value((DEFAULT_MODULE_ID, name), value, window=1)
        return {}, {DEFAULT_MODULE_ID: torch.tensor(metrics.get("loss", 0.0))}, {}

    def _set_learning_rate(self) -> float:
        config = self.config
        rate = config.lr * learning_rate_ratio(
            self._steps,
            warmup=config.lr_warmup_steps,
            total=config.lr_total_steps,
            schedule=config.lr_schedule,
            lowest=config.min_lr_ratio,
        )
        for group in self.get_optimizer(DEFAULT_MODULE_ID).param_groups:
            group["lr"] = rate
        return rate

    def compute_loss_for_module(self, **kwargs: Any) -> Any:  # noqa: ANN401 -- RLlib's
        """Not used: losses are functions, see `agile_gym.learner.losses`."""
        raise NotImplementedError("Losses are computed by agile_gym.learner.updating.Updater.")

    def save_pretrained(self, path: str, *, merge: bool = False) -> str | None:
        """Write the model as a Hugging Face directory; only the first learner does, with the parts of all.

        Args:
            path: The folder.
            merge: True if an adapter is merged into the model.

        Returns:
            The error, or None. Nothing is raised, as RLlib would take a learner that raises for dead.
        """
        module = self._vlm_module
        sharded = module.sharding is not None
        try:
            if sharded or not self._process_group.rank:
                module.save_pretrained(path, merge=merge)
        except Exception as error:  # the writers of its formats raise many kinds
            return f"{type(error).__name__}: {error}"
        return None

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 -- RLlib's
        """Return the state, with the number of steps taken.

        Of a sharded learner, it has the weights only if they are asked for, of all learners at once; the first one
        returns them. Nor has it the state of the optimiser: see `take_part` and `save_shards`.
        """
        left_out: list[Any] = list(force_list(not_components))
        if self._vlm_module.sharding is not None:
            left_out += [COMPONENT_OPTIMIZER, *([COMPONENT_RL_MODULE] if components is None else [])]
        state = super().get_state(components, not_components=left_out or None, **kwargs)
        if self._vlm_module.sharding is not None and self._process_group.rank:
            state.pop(COMPONENT_RL_MODULE, None)
        state[_STEPS] = self._steps
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state, be it older or newer."""
        self._weights_seq_no = -1  # else RLlib would keep the weights where the state is not newer
        super().set_state(dict(state))
        self._steps = state.get(_STEPS, self._steps)

    def take_part(self) -> dict[str, Any] | None:
        """Return all of the state that this learner holds, for `set_part`; None, and not `part_taken`, if it cannot."""
        self.part_taken = False
        state = self.get_state()
        state[SHARDS] = local_state(self._vlm_module.trainable(), self.get_optimizer(DEFAULT_MODULE_ID))
        self.part_taken = True
        return state

    def set_part(self, state: Mapping[str, Any]) -> None:
        """Take over the state of a learner with the same part."""
        self.set_state(state)
        set_local_state(self._vlm_module.trainable(), self.get_optimizer(DEFAULT_MODULE_ID), state[SHARDS])

    def save_shards(self, folder: str) -> str | None:
        """Write this learner's part of parameters and optimiser into a folder; all learners must do so.

        Returns:
            The error, or None.
        """
        try:
            save_shards(folder, self._vlm_module.trainable(), self.get_optimizer(DEFAULT_MODULE_ID))
        except OSError as error:
            return str(error)
        return None

    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:  # noqa: ANN401 -- RLlib's
        """Write the state, and a mark that it is complete, as RLlib does not report a learner that cannot write."""
        try:
            folder = super().save_to_path(path, **kwargs)
        except OSError as error:
            if not self.config.num_learners:
                raise
            _logger.warning("A checkpoint could not be written: %s", error)  # the driver finds no mark
            return str(path)
        if Path(folder).is_dir():
            (Path(folder) / COMPLETE).write_text("All files of this learner were written.\n", encoding="utf-8")
        return folder

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- RLlib's
        """Take over a stored state; a process of its own keeps an error, which RLlib would not report.

        A state that sharded learners stored is read by any number of learners, sharded or not, and the reverse.
        """
        self.restore_error = None
        shards = Path(path) / SHARDS
        try:
            super().restore_from_path(path, *args, **kwargs)
            if kwargs.get("component") is None and shards.is_dir():
                load_shards(shards, self._vlm_module.trainable(), self.get_optimizer(DEFAULT_MODULE_ID))
        except Exception as error:
            if not self.config.num_learners:
                raise
            self.restore_error = str(error)

    def _set_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """Take over a copy: RLlib would let all learners of a machine share one piece of memory, and write into it."""

        def copied(value: Any) -> Any:  # noqa: ANN401 -- any leaf
            return np.array(value) if isinstance(value, np.ndarray) else value

        own: Any = tree.map_structure(copied, state)
        optimizer = self.get_optimizer(DEFAULT_MODULE_ID)
        if self._vlm_module.sharding is None:
            super()._set_optimizer_state(own)
        else:
            for entry in own.values():
                optimizer.load_state_dict(own_optimizer_state(entry["state"], optimizer))
        for group in optimizer.param_groups:
            group["betas"] = tuple(group["betas"])


def _mean(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the means of metrics over steps; counts are added up, and maxima stay maxima."""
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    result: dict[str, float] = {}
    for name in names:
        values = [entry[name] for entry in entries if name in entry]
        if name in ("tokens", "episodes"):
            result[name] = sum(values)
        elif name.startswith("max_"):
            result[name] = max(values)
        else:
            result[name] = sum(values) / len(values)
    return result


def check_learner_class(cls: object) -> None:
    """Check that a learner class can be used here.

    Raises:
        ConfigurationError: If it is not a `TokenLearner`.
    """
    if not (isinstance(cls, type) and issubclass(cls, TokenLearner)):
        raise ConfigurationError(f"learner_class={cls!r} must be a subclass of agile_gym.learner.TokenLearner.")
