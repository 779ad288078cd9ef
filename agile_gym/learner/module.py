# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray and torch are incomplete.
"""The model as RLlib's module: a Hugging Face VLM with its processor."""

from __future__ import annotations

import copy
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from agile_gym.errors import ModelError
from agile_gym.learner.options import ModelOptions, build_vlm, resolve_autocast
from agile_gym.learner.sharding import Sharding, assign, gathered
from agile_gym.learner.updating import autocast
from agile_gym.models.chat import ChatFormat
from agile_gym.models.loading import VLM
from agile_gym.models.processors import save_processor
from agile_gym.models.scoring import PreparedSegment, Scorer

__all__ = ["VLMModule"]

_BFLOAT16 = "|bfloat16"
"""Ends the name of an array whose 16 bits are those of a bfloat16, which numpy does not have."""


class VLMModule(TorchRLModule):
    """A vision-language model that plays and learns.

    ``model_config`` holds the fields of `ModelOptions`. To train a model of another kind, override `load`.

    Attributes:
        options: The options.
        vlm: The model and its processor.
        chat: Its chat format.
        sharding: Present if learners share the model's parameters among themselves.
    """

    sharding: Sharding | None = None

    def setup(self) -> None:
        """Load the model."""
        self.options = ModelOptions.from_mapping(_as_mapping(self.model_config))
        vlm = self.load(self.options)
        self.model = vlm.model  # a submodule, so that RLlib moves it and finds its parameters
        self._processor, self._name = vlm.processor, vlm.name
        self.chat = ChatFormat(vlm.processor, system=self.options.system)

    def load(self, options: ModelOptions) -> VLM:
        """Load the model on the CPU.

        Args:
            options: Name and training options of the model.
        """
        return build_vlm(options, for_training=not self.inference_only, on_gpu=torch.cuda.is_available())

    def untrained(self, *, inference_only: bool, **options: Any) -> Self:  # noqa: ANN401 -- options of the model
        """Return a module as this one was at first, whole and on the CPU.

        Args:
            inference_only: True if it is not trained.
            **options: Fields of `ModelOptions` that differ.
        """
        return type(self)(
            observation_space=self.observation_space,
            action_space=self.action_space,
            inference_only=inference_only,
            model_config={**self.options.to_mapping(), **options},
        )

    @property
    def vlm(self) -> VLM:
        """The model and its processor."""
        return VLM(self.model, self._processor, self._name)

    def shard(self, device: torch.device, *, cpu_offload: bool) -> None:
        """Divide the parameters among all processes of the process group; see `Sharding`."""
        compute = resolve_autocast(self.options, on_gpu=device.type == "cuda")
        self.sharding = Sharding(self.model, device, autocast=compute, cpu_offload=cpu_offload)

    def scorer(self, *, temperature: float = 1.0, packing: bool = False) -> Scorer:
        """Return the scorer of log-probabilities, for sampling and training alike; see `Scorer`."""
        if self.sharding is not None:
            return self.sharding.scorer(self.vlm, self.chat, temperature=temperature, packing=packing)
        return Scorer(self.vlm, self.chat, temperature=temperature, packing=packing)

    @contextmanager
    def reference(self) -> Generator[None]:
        """Switch the adapter off: the model is then the one before training.

        Raises:
            ModelError: If there is no adapter.
        """
        if self.options.train != "lora":
            raise ModelError("Only a model with an adapter holds its own reference; set train='lora'.")
        with self.model.disable_adapter():
            yield

    def autocast(self) -> Any:  # noqa: ANN401 -- a context manager
        """Return the context in which matrix products are computed."""
        device = self.vlm.device
        return autocast(resolve_autocast(self.options, on_gpu=device.type == "cuda"), device)

    def _forward_train(self, batch: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 -- RLlib's
        """Score segments: ``batch["rows"]`` as `Scorer.prepare` returns them.

        Returns:
            ``logps``, ``loss_mask`` and ``entropies`` (B, T).
        """
        rows: Sequence[PreparedSegment] = batch["rows"]
        scores = self.scorer(temperature=batch.get("temperature", 1.0))(rows, entropies=True)
        return {"logps": scores.logps, "loss_mask": scores.loss_mask, "entropies": scores.entropies}

    def trainable(self) -> list[tuple[str, Any]]:
        """Return names and parameters that are trained."""
        return [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        inference_only: bool = False,
        **kwargs: Any,  # noqa: ANN401 -- likewise
    ) -> dict[str, NDArray[Any]]:
        """Return the weights.

        Args:
            components: Not used: there are none.
            not_components: Likewise.
            inference_only: Return only the trained weights; the rest is the same wherever the model is loaded.
            **kwargs: Not used.

        Returns:
            Arrays by name, copied. With an adapter, its weights only. Learners that share the model's parameters must
            all call this, and the first one gets all arrays, the others none.
        """
        changed = {name for name, _ in self.trainable()}
        chosen = [
            (name, tensor)
            for name, tensor in self.state_dict().items()
            if name in changed or not (inference_only or self.options.train == "lora")
        ]
        if self.sharding is None:
            return dict(_to_array(name, tensor) for name, tensor in chosen)
        arrays: dict[str, NDArray[Any]] = {}
        for name, tensor in gathered(chosen, self.sharding.device):
            if self.sharding.rank == 0:
                arrays |= [_to_array(name, tensor)]
        return arrays

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over weights.

        Raises:
            ModelError: If they are those of another model.
        """
        own = self.state_dict()
        tensors = dict(_to_tensor(key, array) for key, array in state.items())
        for name, tensor in tensors.items():
            if name not in own or own[name].shape != tensor.shape:
                have = tuple(own[name].shape) if name in own else "none"
                raise ModelError(
                    f"These weights belong to another model than {self._name!r}: {name} has shape "
                    f"{tuple(tensor.shape)}, this model's has {have}."
                )
        missing = [name for name, _ in self.trainable() if name not in tensors]
        if missing:
            raise ModelError(f"These weights belong to another model than {self._name!r}: {missing[0]} is missing.")
        for name, tensor in tensors.items():
            assign(own[name], tensor)

    def save_pretrained(self, path: str | Path, *, merge: bool = False) -> None:
        """Write the model, or its adapter, with its processor, as an ordinary Hugging Face directory.

        Learners that share the model's parameters must all call this. The first one loads the model anew on the CPU,
        puts the trained parameters into it one by one, and writes it.

        Args:
            path: The folder; it is made if it is missing.
            merge: True if an adapter is merged into a copy of the model, on the CPU, and that is written.
        """
        if self.sharding is not None:
            self._save_gathered(self.sharding, path, merge=merge)
            return
        Path(path).mkdir(parents=True, exist_ok=True)
        model = self.model
        if merge and self.options.train == "lora":
            device = self.vlm.device
            self.model.cpu()  # so that a GPU need not hold it twice
            try:
                model = copy.deepcopy(self.model).merge_and_unload()
            finally:
                self.model.to(device)
        model.save_pretrained(path)
        save_processor(self._processor, path)

    def _save_gathered(self, sharding: Sharding, path: str | Path, *, merge: bool) -> None:
        whole: Self | None = None
        mistake: Exception | None = None  # raised at the end, as the others would wait
        if sharding.rank == 0:
            try:
                whole = self.untrained(inference_only=self.inference_only)
            except Exception as error:  # a user's own model may raise any
                mistake = error
        targets = {} if whole is None else whole.state_dict()
        for name, tensor in gathered(self.trainable(), sharding.device):
            if name in targets:
                assign(targets[name], tensor)
        if mistake is not None:
            raise mistake
        if whole is not None:
            whole.save_pretrained(path, merge=merge)


def _as_mapping(config: Any) -> Mapping[str, Any]:  # noqa: ANN401 -- a mapping, None, or one of RLlib's defaults
    return config if isinstance(config, Mapping) else {}


def _to_array(name: str, tensor: torch.Tensor) -> tuple[str, NDArray[Any]]:
    copied = tensor.detach().cpu().contiguous()
    if copied.dtype == torch.bfloat16:
        return name + _BFLOAT16, np.array(copied.view(torch.int16).numpy())
    return name, np.array(copied.numpy())


def _to_tensor(key: str, array: NDArray[Any]) -> tuple[str, torch.Tensor]:
    copied = torch.from_numpy(np.array(array))
    if key.endswith(_BFLOAT16):
        return key.removesuffix(_BFLOAT16), copied.view(torch.bfloat16)
    return key, copied
