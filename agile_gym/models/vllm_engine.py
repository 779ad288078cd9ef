# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false
# The types of torch and transformers are incomplete; vLLM is installed in few environments.
"""vLLM as the engine that writes turns, in this process, with the weights of a Hugging Face model.

vLLM gets token ids and pixels as `agile_gym.models.chat` made them, and runs neither tokenizer nor image processor. Its
tokens are examined one by one as they come, so that a turn ends where it would end with `HFGenerator`; tokens that
vLLM has written beyond are dropped.
"""

from __future__ import annotations

import importlib
import itertools
import math
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agile_gym.errors import ConfigurationError, ModelError, one_line
from agile_gym.models.batch import Generated
from agile_gym.models.cache import Context
from agile_gym.models.chat import ChatFormat, Chunk
from agile_gym.models.loading import VLM
from agile_gym.models.sampling import SamplingOptions, StopTexts, end_tokens, forbidden_tokens
from agile_gym.models.vllm_inputs import (
    CPU_CACHE,
    check_family,
    check_options,
    check_sleep,
    check_vllm,
    image_hash,
    image_ranges,
    named_weights,
    write_config,
)

__all__ = ["VLLMEngine", "VLLMGenerator"]


class VLLMEngine:
    """vLLM's engine with the weights of a model in this process.

    Attributes:
        vlm: The model, whose weights the engine has a copy of.
        max_context: Tokens that an episode may have.
        asleep: True from `sleep` to the next turn or weights.
    """

    def __init__(
        self, vlm: VLM, chat: ChatFormat, *, options: Mapping[str, Any] | None = None, sleeps: bool = False
    ) -> None:
        """Start an engine.

        Args:
            vlm: The model. It may stay on the CPU: the engine has the device to itself.
            chat: Its chat format.
            options: Arguments of ``vllm.LLM``, such as ``max_model_len`` and ``gpu_memory_utilization``.
            sleeps: True if the engine is to free its GPU when `sleep` is called.

        Raises:
            ConfigurationError: If an option is not allowed, or the engine cannot sleep on this platform.
            ModelError: If vLLM does not take the model, or cannot start; the message has vLLM's own.
            MissingDependencyError: If vLLM is not installed.
        """
        given = dict(options or {})
        check_options(given)
        base = vlm.model.get_base_model() if hasattr(vlm.model, "get_base_model") else vlm.model
        self._kind: str = base.config.model_type
        check_family(self._kind, vlm.name)
        check_vllm()
        if sleeps:
            check_sleep()
        self.vlm = vlm
        self.asleep = False
        self._sleeps = sleeps
        self._has_own = True
        self._ends = end_tokens(vlm.model, chat)
        vocabulary: int = base.get_input_embeddings().weight.shape[0]
        forbidden = forbidden_tokens(chat, vocabulary, self._ends)
        self._requests = itertools.count()
        self._items: weakref.WeakKeyDictionary[Chunk, list[tuple[Any, str, int, int]]] = weakref.WeakKeyDictionary()
        self._folder = tempfile.TemporaryDirectory(prefix="agile-gym-vllm-")
        write_config(base, vlm.processor, Path(self._folder.name))
        self._llm = self._start(base, forbidden, given)
        self.max_context: int = self._llm.model_config.max_model_len
        self._fields = self._make_fields()
        self.take_weights()

    def _start(self, base: Any, forbidden: torch.Tensor, given: dict[str, Any]) -> Any:  # noqa: ANN401 -- untyped
        vllm = importlib.import_module("vllm")
        settings: dict[str, Any] = {
            "dtype": str(base.dtype).removeprefix("torch."),
            "enforce_eager": not torch.cuda.is_available(),
            "skip_mm_profiling": not torch.cuda.is_available(),
            "limit_mm_per_prompt": {"image": 64, "video": 0},
            "seed": 0,
            **({"enable_sleep_mode": True} if self._sleeps else {}),
        }
        settings |= given
        if not torch.cuda.is_available():
            settings.setdefault("enable_chunked_prefill", False)  # on a CPU it ends vLLM where requests have seeds
            settings.setdefault("block_size", 32)  # only whole blocks of a prompt are cached: 128 hold many a turn
            if "gpu_memory_utilization" not in given:
                settings.setdefault("kv_cache_memory_bytes", CPU_CACHE)
        settings |= {
            "load_format": "dummy",  # the weights are taken from the model
            "logprobs_mode": "processed_logprobs",
            "logits_processors": [_mask(forbidden)],
            "enable_prefix_caching": True,
            "mm_processor_cache_gb": 0,  # pixels are given with every request
            "mm_device_do_normalize": False,  # and are normalised
        }
        threads = torch.get_num_threads()
        try:
            return vllm.LLM(self._folder.name, **settings)
        except Exception as error:  # vLLM raises many kinds
            told = one_line(str(error), 1500) or type(error).__name__
            raise ModelError(
                f"vLLM cannot start with the model {self.vlm.name!r}: {told} Its log above may have more. Its "
                "arguments are set with engine_options; engine='hf' needs no vLLM."
            ) from error
        finally:
            torch.set_num_threads(threads)

    def _make_fields(self) -> Any:  # noqa: ANN401 -- vLLM's processor of the model
        multimodal = importlib.import_module("vllm.multimodal")
        return multimodal.MULTIMODAL_REGISTRY.create_processor(self._llm.model_config)

    def take_weights(self, weights: Iterable[tuple[str, torch.Tensor]] | None = None) -> None:
        """Take over weights, after they have changed, and drop all that was computed with the old ones.

        An engine that sleeps wakes: there is room for weights first, for keys and values once these are loaded.

        Args:
            weights: All weights, named as `named_weights` does; by default the model's.

        Raises:
            ModelError: If vLLM does not take them.
        """
        if self.asleep:
            self._llm.wake_up(tags=["weights"])
        worker = self._llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
        try:
            worker.reload_weights(weights_iterator=named_weights(self.vlm.model) if weights is None else weights)
        except Exception as error:  # as above
            raise ModelError(
                f"vLLM does not take the weights of {self.vlm.name!r}: {one_line(str(error), 1500)}"
            ) from error
        self._has_own = weights is None
        if self.asleep:
            self._llm.wake_up(tags=["kv_cache"])
            self.asleep = False
        self.reset()

    def sleep(self) -> None:
        """Free the GPU until the next turn or the next weights, if the engine was made to sleep.

        Weights that the model has are dropped, and taken from it again; others are kept in the memory of the CPU.
        """
        if self._sleeps and not self.asleep:
            self._llm.sleep(level=2 if self._has_own else 1)
            self.asleep = True

    def _wake(self) -> None:
        """End the sleep with the weights of before."""
        if not self.asleep:
            return
        if self._has_own:
            self.take_weights()
            return
        for tag in ("weights", "kv_cache"):
            self._llm.wake_up(tags=[tag])
        self.asleep = False

    def reset(self) -> None:
        """Drop the caches of prefixes, images and their features."""
        engine = self._llm.llm_engine
        if not engine.reset_prefix_cache():
            raise ModelError("vLLM did not drop its prefix cache, as requests are still running.")
        engine.reset_mm_cache()
        engine.reset_encoder_cache()

    def write(
        self,
        contexts: Sequence[Context],
        rooms: Sequence[int],
        seeds: Sequence[int],
        options: SamplingOptions,
        stop: StopTexts,
    ) -> list[Generated]:
        """Write the next turn of each context; the contexts stay as they are.

        Args:
            contexts: The contexts.
            rooms: Most tokens of each turn, at least 1.
            seeds: Seed of each turn.
            options: Sampling options.
            stop: Detector of the texts that end a turn.

        Raises:
            ModelError: If ids come back changed, or log-probabilities are not numbers.
        """
        self._wake()
        engine = self._llm.llm_engine
        vllm = importlib.import_module("vllm")
        kinds = importlib.import_module("vllm.sampling_params")
        turns: dict[str, _Turn] = {}
        for context, room, seed in zip(contexts, rooms, seeds, strict=True):
            name = f"turn-{next(self._requests)}"
            prompt, ids = self._prompt(context)
            params = vllm.SamplingParams(
                temperature=options.temperature,
                max_tokens=room,
                seed=seed,
                logprobs=0,
                stop_token_ids=list(self._ends),
                ignore_eos=True,  # the ends above are all
                detokenize=False,
                output_kind=kinds.RequestOutputKind.DELTA,
            )
            turns[name] = _Turn(ids, stop)
            engine.add_request(name, prompt, params)
        going = set(turns)
        try:
            while going:
                for output in engine.step():
                    turn = turns.get(output.request_id)
                    if turn is None or output.request_id not in going:
                        continue
                    self._take(turn, output)
                    if turn.stopped or output.finished:
                        going.discard(output.request_id)
                        if not output.finished:
                            engine.abort_request([output.request_id])
        except BaseException:
            engine.abort_request(sorted(going))
            raise
        while engine.has_unfinished_requests():
            engine.step()
        return [Generated(tuple(turn.new), tuple(turn.logps), turn.computed, turn.stopped) for turn in turns.values()]

    def _take(self, turn: _Turn, output: Any) -> None:  # noqa: ANN401 -- a RequestOutput
        """Take the next tokens of a turn, up to its end."""
        if turn.computed < 0:
            if list(output.prompt_token_ids or ()) != turn.ids:
                raise ModelError(f"vLLM has changed the ids of a conversation with {self.vlm.name!r}.")
            turn.computed = len(turn.ids) - (output.num_cached_tokens or 0)
        told = output.outputs[0]
        for token, scores in zip(told.token_ids, told.logprobs or (), strict=True):
            logp = scores[token].logprob
            if math.isnan(logp):
                raise ModelError(f"The logits of {self.vlm.name!r} in vLLM are not numbers (NaN).")
            turn.new.append(token)
            turn.logps.append(logp)
            if token in self._ends or turn.watch.add(token):
                turn.stopped = True
                return

    def _prompt(self, context: Context) -> tuple[Any, list[int]]:
        """Return a context as vLLM's input, and its ids."""
        ids: list[int] = np.concatenate([part.chunk.ids for part in context.parts]).tolist()
        kinds = importlib.import_module("vllm.inputs")
        places = importlib.import_module("vllm.multimodal.inputs")
        items: list[Any] = []
        hashes: list[str] = []
        ranges: list[Any] = []
        offset = 0
        for part in context.parts:
            for item, name, start, length in self._images(part.chunk):
                items.append(item)
                hashes.append(name)
                ranges.append(places.PlaceholderRange(offset=offset + start, length=length))
            offset += len(part.chunk.ids)
        if not items:
            return kinds.tokens_input(ids), ids
        kwargs = places.MultiModalKwargsItems({"image": items})
        return kinds.mm_input(list(ids), kwargs, {"image": hashes}, {"image": ranges}), ids

    def _images(self, chunk: Chunk) -> list[tuple[Any, str, int, int]]:
        """Return the images of a chunk: vLLM's item, a hash, and the place and number of its tokens."""
        if not chunk.images:
            return []
        known = self._items.get(chunk)
        if known is None:
            places = importlib.import_module("vllm.multimodal.inputs")
            features = importlib.import_module("transformers").BatchFeature(dict(chunk.pixels))
            fields = self._fields._get_mm_fields_config(features, {})
            items = list(places.MultiModalKwargsItems.from_hf_inputs(features, fields)["image"])
            ranges = image_ranges(chunk)
            if len(items) != len(ranges):
                raise ModelError(f"vLLM counts {len(items)} images where there are {len(ranges)}.")
            known = [(item, image_hash(item), *place) for item, place in zip(items, ranges, strict=True)]
            self._items[chunk] = known
        return known


class _Turn:
    """State of a turn while it is written."""

    def __init__(self, ids: list[int], stop: StopTexts) -> None:
        self.ids = ids
        self.watch = stop.begin()
        self.new: list[int] = []
        self.logps: list[float] = []
        self.computed = -1
        self.stopped = False


class VLLMGenerator:
    """Generator of turns with vLLM; see `agile_gym.models.batch.Generator`.

    Attributes:
        engine: The engine, which several generators may share.
    """

    def __init__(self, engine: VLLMEngine, chat: ChatFormat, options: SamplingOptions) -> None:
        """Make a generator.

        Args:
            engine: The engine.
            chat: The model's chat format.
            options: Sampling options.

        Raises:
            ConfigurationError: If there is a ``top_p`` or ``top_k``: vLLM's log-probabilities would be those after it.
        """
        if options.top_p < 1 or options.top_k:
            raise ConfigurationError(
                f"engine='vllm' draws from all tokens: top_p={options.top_p!r} and top_k={options.top_k!r} are not "
                "allowed. Leave them out, or set engine='hf'."
            )
        self.engine = engine
        self._options = options
        self._stop = StopTexts(chat, options.stop)

    def take_weights(self) -> None:
        """Take over the model's weights; see `VLLMEngine.take_weights`."""
        self.engine.take_weights()

    def reset(self) -> None:
        """Drop the caches; see `VLLMEngine.reset`."""
        self.engine.reset()

    def generate(self, contexts: Sequence[Context], rngs: Sequence[np.random.Generator]) -> list[Generated]:
        """Write the next turn of each context, and add it to the context; see `Generator`."""
        limit = self.engine.max_context
        rooms = [max(0, min(self._options.max_new_tokens, limit - len(context))) for context in contexts]
        seeds = [int(rng.integers(2**62)) for rng in rngs]
        going = [number for number, room in enumerate(rooms) if room]
        results = [Generated((), (), 0, stopped=False)] * len(contexts)
        written = self.engine.write(
            [contexts[i] for i in going],
            [rooms[i] for i in going],
            [seeds[i] for i in going],
            self._options,
            self._stop,
        )
        for number, turn in zip(going, written, strict=True):
            results[number] = turn
        for context, turn in zip(contexts, results, strict=True):
            context.write(turn.ids, turn.logps)
        return results


def _mask(forbidden: torch.Tensor) -> type:
    """Return the class of a logits processor of vLLM's that forbids the same tokens (V,) in all requests."""
    base: Any = importlib.import_module("vllm.v1.sample.logits_processor").LogitsProcessor

    class AllowedTokens(base):
        """Mask of the tokens that may be drawn."""

        def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ANN401 -- vLLM's
            width: int = vllm_config.model_config.get_vocab_size()
            padded = torch.nn.functional.pad(forbidden, (0, max(0, width - len(forbidden))), value=True)
            self._forbidden = padded.to(device)

        def apply(self, logits: torch.Tensor) -> torch.Tensor:
            """Mask logits (rows, V) in place."""
            return logits.masked_fill_(self._forbidden[: logits.shape[-1]], -torch.inf)

        def is_argmax_invariant(self) -> bool:
            """Return False: the likeliest token may be forbidden."""
            return False

        def update_state(self, batch_update: Any) -> None:  # noqa: ANN401 -- vLLM's
            """Do nothing: all requests have the same mask."""

    return AllowedTokens
