"""`HFVLMPolicy` and `VLLMPolicy`: policies of Hugging Face vision-language models, with images in every turn."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agile_gym.actions.prompt import HIDDEN_IMAGE, IMAGE_MARK
from agile_gym.errors import (
    ConfigurationError,
    ModelError,
    check_seed,
    did_you_mean,
    import_optional,
    is_whole,
    require,
    require_known,
)
from agile_gym.interruption import own_threads
from agile_gym.policies.base import GivenUp, Observation, slot_of
from agile_gym.transcripts.record import PolicyRecord, TurnUsage

if TYPE_CHECKING:
    from agile_gym.models.batch import Generator
    from agile_gym.models.chat import ChatFormat
    from agile_gym.models.inputs import Reader
    from agile_gym.models.loading import VLM
    from agile_gym.models.sampling import SamplingOptions

__all__ = ["HFVLMPolicy", "VLLMPolicy"]

_log = logging.getLogger(__name__)


class HFVLMPolicy:
    """Policy of a Hugging Face vision-language model.

    The model must load with ``AutoModelForImageTextToText`` and ``AutoProcessor``, have a chat template, and take
    images in several turns: Qwen2.5-VL, Qwen3-VL, SmolVLM and Idefics3, Gemma3, LLaVA-OneVision, InternVL and others.

    Episodes are played in a batch, whatever their lengths. The key-value cache of an episode is kept from turn to turn,
    so that a turn costs its new tokens only. Tokens are appended only, and recorded as they were sampled, with their
    log-probabilities (of the logits divided by the temperature, before ``top_k`` and ``top_p``; at temperature 0 of the
    logits as they are). Image placeholders and control tokens cannot be sampled, but for the end of the turn.

    The random numbers of an episode follow from ``info["policy_seed"]``, or else from the seed of `reset` and the
    number of episodes begun since, and not from the batch.

    Attributes:
        vlm: The model and its processor.
        chat: Its chat format.
        options: Sampling options.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 -- a path, or a VLM
        *,
        device: str | None = None,
        dtype: str | None = None,
        attention: str | None = None,
        adapter: str | Path | None = None,
        system: str | None = None,
        window: int | None = None,
        reuse_cache: bool = True,
        engine: Any = "hf",  # noqa: ANN401 -- a name, or a VLLMEngine
        engine_options: Mapping[str, Any] | None = None,
        seed: int | None = 0,
        **sampling: Any,  # noqa: ANN401 -- see SamplingOptions
    ) -> None:
        """Load a model.

        Args:
            model: A folder, a name on the hub, or an `agile_gym.models.VLM`.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"auto"``; by default a GPU if there is one.
            dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; by default bfloat16 on a GPU, float32 on a CPU.
            attention: ``"sdpa"``, ``"eager"`` or ``"flash_attention_2"``; transformers' choice by default.
            adapter: Folder of a LoRA adapter that PEFT has written.
            system: A system prompt, or None.
            window: Number of turns of feedback whose images are kept; older ones become words. None keeps all.
            reuse_cache: True to keep the key-value cache from turn to turn.
            engine: Engine that writes: ``"hf"``, transformers with this library's own cache; ``"vllm"``; or an
                `agile_gym.models.vllm_engine.VLLMEngine` with this model's weights, which several policies may share.
            engine_options: Arguments of ``vllm.LLM`` for ``"vllm"``, such as ``max_model_len``.
            seed: Seed of sampling, until `reset` is called.
            **sampling: ``temperature``, ``top_p``, ``top_k``, ``max_new_tokens`` and ``stop``; see
                `agile_gym.models.SamplingOptions`.

        Raises:
            ModelError: If the model, its processor or its adapter cannot be used.
            ConfigurationError: If an option is not allowed.
            MissingDependencyError: If a package is missing.

        With vLLM, the model itself may stay on the CPU (``device="cpu"``): vLLM has a copy of its weights.
        """
        import_optional("torch", extra="vlm", purpose="run a vision-language model")
        from agile_gym.models.batch import HFGenerator
        from agile_gym.models.cache import MAX_WINDOW
        from agile_gym.models.chat import ChatFormat
        from agile_gym.models.loading import VLM, load_vlm
        from agile_gym.models.processors import check_processor
        from agile_gym.models.sampling import SamplingOptions
        from agile_gym.models.sources import check_config

        require_known(sampling, [field.name for field in fields(SamplingOptions)], "HFVLMPolicy")
        if isinstance(sampling.get("stop"), list):
            sampling["stop"] = tuple(sampling["stop"])
        require(window is None or is_whole(window, MAX_WINDOW), "window", window, f"1 to {MAX_WINDOW}, or None")
        if system is not None and not isinstance(system, str):
            raise ConfigurationError(f"system={system!r:.200} is not allowed; give a text, or None.")
        self.options = SamplingOptions(**sampling)
        given = (device, dtype, attention, adapter)
        if isinstance(model, VLM):
            if any(value is not None for value in given):
                raise ConfigurationError(
                    "device, dtype, attention and adapter go with a path, not with a loaded model."
                )
            check_config(model.model.config, model.name)
            check_processor(model.processor, model.name)
            self.vlm = model
        elif isinstance(model, str | Path):
            self.vlm = load_vlm(model, device=device, dtype=dtype, attention=attention, adapter=adapter)
        else:
            raise ModelError(f"model={model!r:.200} is neither a path, nor a name on the hub, nor a loaded VLM.")
        self.chat = ChatFormat(self.vlm.processor, system=system)
        self.window = window
        self._system = system
        if engine == "hf":
            if engine_options:
                raise ConfigurationError("engine_options are those of vLLM; set engine='vllm', or leave them out.")
            self._generator: Generator = HFGenerator(self.vlm, self.chat, self.options, reuse_cache=reuse_cache)
        else:
            self._generator = _vllm_generator(self.vlm, self.chat, self.options, engine, engine_options)
        self.reset(seed)

    def reset(self, seed: int | None = None) -> None:
        """Drop all episodes, and seed sampling.

        Raises:
            ConfigurationError: If the seed is not a whole number of at least 0, or None.
        """
        self._seed = int(np.random.SeedSequence(check_seed(seed)).generate_state(1)[0])
        self._begun = 0
        self._episodes: dict[int, _Episode] = {}

    def take_weights(self) -> None:
        """Write with the model's weights as they are now; called after they have changed.

        Episodes that have begun are dropped: what was computed of them is that of the old weights.

        Raises:
            ModelError: If the engine does not take them.
        """
        self._episodes = {}
        self._generator.take_weights()

    def act(self, observations: Sequence[Observation], infos: Sequence[dict[str, Any]]) -> list[str]:
        """Write the next turn of each episode.

        Args:
            observations: Observations, as `agile_gym.envs.contract` has them.
            infos: Their ``info``.

        Returns:
            One text an observation; a `GivenUp` where the image processor refuses the images of an episode.

        Raises:
            ConfigurationError: If the first observation of an episode was not given, two observations are of the same
                slot, or a text has not as many image marks as there are images.
            ModelError: If the model does not work, such as when its logits are NaN.

        If anything is raised once tokens were read, the batch's episodes are dropped: none goes on from half a turn.
        """
        slots = [slot_of(info, position) for position, info in enumerate(infos)]
        self._check(slots, infos)
        try:
            with own_threads(self.vlm.model):
                return self._act(slots, observations, infos)
        except BaseException:
            for slot in slots:
                self._episodes.pop(slot, None)
            raise

    def _act(
        self, slots: Sequence[int], observations: Sequence[Observation], infos: Sequence[dict[str, Any]]
    ) -> list[str]:
        from agile_gym.models.inputs import Reader

        start = time.perf_counter()
        reader = Reader(self.chat, self.vlm.model)
        episodes = [
            self._read(reader, slot, observation["text"], info)
            for slot, observation, info in zip(slots, observations, infos, strict=True)
        ]
        going = [episode for episode in episodes if episode.given_up is None]
        lengths = [len(episode.context) for episode in going]
        rngs = [np.random.default_rng([episode.seed, len(episode.usage)]) for episode in going]
        written = self._generator.generate([episode.context for episode in going], rngs)
        seconds = time.perf_counter() - start
        texts: list[str] = []
        for episode, turn, length in zip(going, written, lengths, strict=True):
            episode.usage.append(TurnUsage(seconds, length, turn.computed_tokens, len(turn.ids)))
            episode.cut += not turn.stopped
            texts.append(self.chat.decode(turn.ids))
        told = iter(texts)
        return [next(told) if episode.given_up is None else episode.given_up for episode in episodes]

    def finish(self, slot: int) -> PolicyRecord:
        """Return the tokens of the episode in a slot, and drop it.

        Raises:
            ConfigurationError: If there is no episode in this slot.
        """
        episode = self._episodes.pop(slot, None)
        if episode is None:
            raise ConfigurationError(f"There is no episode in slot {slot}.")
        details: dict[str, Any] = {
            "model": self.vlm.name,
            "sampling": {**asdict(self.options), "stop": list(self.options.stop)},
            "seed": episode.seed,
            "window": self.window,
            "turns_cut_short": episode.cut,
            "system": self._system,
        }
        return PolicyRecord(tuple(episode.usage), episode.context.finished_segments(), details)

    def _check(self, slots: Sequence[int], infos: Sequence[dict[str, Any]]) -> None:
        """Check that each episode goes on from where it was.

        Raises:
            ConfigurationError: If one does not.
        """
        if len(set(slots)) < len(slots):
            twice = next(slot for slot in slots if slots.count(slot) > 1)
            raise ConfigurationError(
                f"Two observations of a batch are in slot {twice}. Give each episode of a batch "
                "a number of its own in info['slot']."
            )
        for slot, info in zip(slots, infos, strict=True):
            episode = self._episodes.get(slot)
            seen = 0 if episode is None else len(episode.usage)
            if episode is not None and episode.given_up is not None:
                continue
            if info["turn"] not in (0, seen):
                raise ConfigurationError(
                    f"HFVLMPolicy was given turn {info['turn']} of an episode in slot {slot} of which it has read "
                    f"{seen} turns. Give it every observation, from the first; if positions in the batch change, put "
                    "the number of the environment into info['slot']."
                )

    def _read(self, reader: Reader, slot: int, text: str, info: dict[str, Any]) -> _Episode:
        """Add an observation to the episode in a slot, or begin it; give it up if its images are refused."""
        from agile_gym.models.loading import ImageRefusedError

        if info["turn"] == 0:
            self._episodes[slot] = self._begin(info)
        episode = self._episodes[slot]
        if episode.given_up is None:
            try:
                self._add(reader, episode, text, info)
            except ImageRefusedError as error:
                episode.given_up = GivenUp("image_refused", str(error))
                _log.warning("An episode is given up. %s", episode.given_up.reason)
        return episode

    def _add(self, reader: Reader, episode: _Episode, text: str, info: dict[str, Any]) -> None:
        images = info["images"]
        if info["turn"] == 0:
            episode.context.read(reader.opening(text, images), reader.positions)
            return
        after = episode.context.last_token
        chunk = reader.follow_up(text, images, after=after)
        hidden = None
        if self.window is not None and images:
            hidden = reader.follow_up(text.replace(IMAGE_MARK, HIDDEN_IMAGE), (), after=after)
        episode.context.read(chunk, reader.positions, hidden)

    def _begin(self, info: dict[str, Any]) -> _Episode:
        from agile_gym.models.cache import Context

        seed = check_seed(info.get("policy_seed"))
        if seed is None:
            seed = int(np.random.SeedSequence([self._seed, self._begun]).generate_state(1)[0])
        self._begun += 1
        return _Episode(Context(window=self.window), seed)


class VLLMPolicy(HFVLMPolicy):
    """Policy of a Hugging Face vision-language model whose turns are written by vLLM, in this process.

    Episodes, turns and recorded tokens are those of `HFVLMPolicy`, and so are the texts at temperature 0, but where two
    tokens are equally likely up to rounding.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: str | None = None,
        adapter: str | Path | None = None,
        system: str | None = None,
        window: int | None = None,
        seed: int | None = 0,
        **options: Any,  # noqa: ANN401 -- of SamplingOptions and of vLLM
    ) -> None:
        """Load a model, and start the engine with its weights.

        Args:
            model: A folder, or a name on the hub.
            dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; by default bfloat16 on a GPU, float32 on a CPU.
            adapter: Folder of a LoRA adapter that PEFT has written; it is merged into the engine's weights.
            system: A system prompt, or None.
            window: Number of turns of feedback whose images are kept; None keeps all.
            seed: Seed of sampling, until `reset` is called.
            **options: ``temperature``, ``max_new_tokens`` and ``stop``, as for `HFVLMPolicy`; all others are arguments
                of ``vllm.LLM``, such as ``max_model_len`` and ``gpu_memory_utilization``.

        Raises:
            ModelError: If the model cannot be used, or vLLM cannot start with it.
            ConfigurationError: If an option is not allowed, or vLLM has no argument of its name.
            MissingDependencyError: If vLLM is not installed.
        """
        torch = import_optional("torch", extra="vlm", purpose="run a vision-language model")
        from agile_gym.models.sampling import SamplingOptions
        from agile_gym.models.vllm_inputs import check_arguments, check_model

        names = [field.name for field in fields(SamplingOptions)]
        sampling = {name: value for name, value in options.items() if name in names}
        given = {name: value for name, value in options.items() if name not in names}
        check_arguments(given, also=names)
        check_model(str(model))
        super().__init__(
            model,
            device="cpu",  # the engine has the device to itself
            dtype=dtype or ("bfloat16" if torch.cuda.is_available() else None),
            adapter=adapter,
            system=system,
            window=window,
            engine="vllm",
            engine_options=given,
            seed=seed,
            **sampling,
        )


def _vllm_generator(vlm: VLM, chat: ChatFormat, options: SamplingOptions, engine: Any, given: Any) -> Generator:  # noqa: ANN401 -- as in `HFVLMPolicy`
    """Return a generator of vLLM's."""
    if isinstance(engine, str) and engine != "vllm":
        raise ConfigurationError(f"engine={engine!r} is not allowed. {did_you_mean(engine, ('hf', 'vllm'))}")
    from agile_gym.models.vllm_engine import VLLMEngine, VLLMGenerator

    if isinstance(engine, VLLMEngine):
        if engine.vlm.model is not vlm.model:
            raise ConfigurationError("engine: this VLLMEngine has the weights of another model.")
        return VLLMGenerator(engine, chat, options)
    if isinstance(engine, str):
        return VLLMGenerator(VLLMEngine(vlm, chat, options=given), chat, options)
    raise ConfigurationError(f"engine={engine!r:.200} is not allowed; give 'hf', 'vllm' or a VLLMEngine.")


class _Episode:
    """State of an episode that the policy plays."""

    def __init__(self, context: Any, seed: int) -> None:  # noqa: ANN401 -- a Context, imported late
        self.context = context
        self.seed = seed
        self.usage: list[TurnUsage] = []
        self.cut = 0
        self.given_up: GivenUp | None = None
