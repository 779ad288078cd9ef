# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray are incomplete.
# pyright: reportUnknownMemberType=false
# The types of torch are incomplete.
"""Configurations of a run's stages, made of its settings, and the stage of vision training."""

from __future__ import annotations

import inspect
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch

from agile_gym.coldstart.config import ColdStartConfig
from agile_gym.envs.contract import JIGSAW
from agile_gym.envs.jigsaw.config import JigsawConfig
from agile_gym.envs.jigsaw.env import open_source
from agile_gym.errors import MAX_SEED, ConfigurationError, reason_of
from agile_gym.evaluation.benchmarks import plan_benchmark
from agile_gym.evaluation.plan import EvaluationPlan
from agile_gym.evaluation.run import photographs_of
from agile_gym.files import filling, replacing, write_text
from agile_gym.images.sources import ImageSource
from agile_gym.learner.options import TINY, ModelOptions
from agile_gym.models.processors import save_processor
from agile_gym.models.tiny.build import TinySizes, build_tiny
from agile_gym.models.tiny.pretraining import (
    ProbeResult,
    StateError,
    VisionPretrainingConfig,
    VisionProgress,
    VisionState,
    pretrain_vision,
)
from agile_gym.outputs import fingerprint, fingerprints
from agile_gym.questions.opening import name_files
from agile_gym.training.settings import RunSettings, SFTSettings
from agile_gym.training.tasks import (
    cold_start_config,
    environment_options,
    evaluation_entries,
    plays_environment,
    separate_tasks,
)

__all__ = [
    "SAVE_EVERY",
    "benchmark_files",
    "benchmark_plans",
    "content_of",
    "describe_probe",
    "evaluation_plan",
    "grpo_config",
    "has_vision_pretraining",
    "model_options",
    "probe_figures",
    "replay_config",
    "run_vision_pretraining",
    "sft_config",
    "sft_steps",
    "unset_values",
    "vision_config",
]

_REPLAY_SEED = 1_000_003
"""Added to the run's seed, so that other puzzles are replayed than the cold start has."""


def content_of(settings: RunSettings) -> dict[str, str]:
    """Return hashes of what is at the paths in the settings: the photographs, a model, episodes that are there.

    Raises:
        ImageError: If there are no photographs of a jigsaw.
    """
    content = fingerprints(settings.to_mapping())
    for task in separate_tasks(settings):
        for key, images in (("images", task.images), ("test_images", task.test_images)):
            digest = fingerprint(images) if isinstance(images, str) else None
            if digest is not None:
                content[f"grpo.tasks.{task.name}.{key}"] = digest
    if settings.env is not None:
        return content
    for name, test in (("images.train", False), ("images.test", True)):
        source = open_source(JigsawConfig.from_options(environment_options(settings, test=test)))
        content[name] = photographs_of(source)["sha256"]
    return content


def has_vision_pretraining(settings: RunSettings) -> bool:
    """Return whether the run begins with vision pretraining, which only the tiny model has."""
    return model_options(settings).path == TINY and bool(settings.vision.given())


def model_options(settings: RunSettings) -> ModelOptions:
    """Return the model to begin with, and how it is trained."""
    return ModelOptions.from_mapping({**settings.model.given(), "seed": settings.seed})


def vision_config(settings: RunSettings) -> VisionPretrainingConfig:
    """Return the settings of the tiny model's vision pretraining."""
    return VisionPretrainingConfig(**settings.vision.given(), seed=settings.seed)


def _shared(config: Any, settings: RunSettings, model: str) -> Any:  # noqa: ANN401 -- a configuration, returned
    """Set what supervised training and GRPO have in common."""
    resources, evaluation = settings.resources, settings.evaluation
    test = environment_options(settings, test=True)
    return (
        config.environment(settings.env or JIGSAW, env_config=environment_options(settings, test=False))
        .vlm(**{**settings.model.given(), "path": model, "seed": settings.seed})
        .env_runners(
            num_env_runners=resources.runners,
            num_cpus_per_env_runner=resources.cpus_per_runner,
            num_gpus_per_env_runner=resources.gpus_per_runner,
        )
        .learners(
            num_learners=resources.learners,
            num_cpus_per_learner=resources.cpus_per_learner,
            num_gpus_per_learner=resources.gpus_per_learner,
        )
        .evaluation(
            evaluation_interval=evaluation.interval or None,
            evaluation_duration=evaluation.interval_episodes,
            evaluation_config={"env_config": test},
        )
        .debugging(seed=settings.seed)
    )


def grpo_config(settings: RunSettings, model: str) -> Any:  # noqa: ANN401 -- a GRPOConfig
    """Return the configuration of GRPO.

    Args:
        settings: The settings.
        model: Folder of the model to begin with.
    """
    from agile_gym.learner.grpo import GRPOConfig

    config = _shared(GRPOConfig(), settings, model)
    config.training(**{name: value for name, value in settings.grpo.given().items() if value or name != "tasks"})
    config.check_values()
    if config.lr_total_steps is None:
        config.lr_total_steps = max(1, settings.grpo.iterations * config.num_minibatches * config.num_epochs)
    return config


def unset_values(settings: RunSettings) -> dict[str, dict[str, Any]]:
    """Return what the settings that have not been set come to, by section and key, where it is a plain value."""
    model = model_options(settings)
    other = settings.env is not None
    makes_episodes = settings.has_cold_start and settings.cold_start.episodes is None and plays_environment(settings)
    grpo = grpo_config(settings, model.path)
    low, high = grpo.clip_range
    behind: dict[str, dict[str, Any]] = {
        "environment": {} if other else vars(JigsawConfig()) | environment_options(settings, test=False),
        "model": vars(model),
        "vision": vars(vision_config(settings)) if has_vision_pretraining(settings) else {},
        "cold_start": vars(cold_start_config(settings)) if makes_episodes else {},
        "sft": vars(sft_config(settings, model.path, Path(), 1, Path("replay"))),
        "grpo": vars(grpo) | {"clip_low": low, "clip_high": high},
    }
    behind["sft"] |= dict.fromkeys(("lr_total_steps", "lr_warmup_steps"))  # these follow from the cold start's episodes
    return {
        section: {
            name: values[name]
            for name in sorted(getattr(settings, section).behind - getattr(settings, section).given().keys())
            if name in values and _is_plain(values[name])
        }
        for section, values in behind.items()
    }


def _is_plain(value: Any) -> bool:  # noqa: ANN401 -- any value
    if isinstance(value, Mapping):
        return all(map(_is_plain, cast("Mapping[str, Any]", value).values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, cast("list[Any]", value)))
    return isinstance(value, bool | int | float | str)


def replay_config(settings: RunSettings) -> ColdStartConfig:
    """Return how the episodes are made that the cold start replays: puzzles that are answered at once.

    There is no thought: the answer is not to be read off from it.
    """
    cold = cold_start_config(settings)
    return replace(
        cold,
        count=settings.sft.replay_count,
        teacher="oracle",
        teacher_options={"think": ""},
        turns=1,
        balance="none",
        seed=(cold.seed + _REPLAY_SEED) % (MAX_SEED + 1),
    )


def sft_config(
    settings: RunSettings, model: str, transcripts: Path | Sequence[Path], episodes: int, replay: Path
) -> Any:  # noqa: ANN401 -- an SFTConfig
    """Return the configuration of supervised training.

    Args:
        settings: The settings.
        model: Folder of the model to begin with.
        transcripts: The cold start's episodes: a folder, or several.
        episodes: Their number.
        replay: Those that are replayed, if the settings want some.
    """
    from agile_gym.learner.sft import SFTConfig

    of_grpo = {name: value for name, value in settings.grpo.given().items() if name in SFTSettings.as_in_grpo}
    given = of_grpo | settings.sft.given()
    if separate_tasks(settings):  # it is evaluated on them, too
        given = {"tasks": settings.grpo.given()["tasks"]} | given
    supervised = inspect.signature(SFTConfig.supervise).parameters.keys() & given.keys()
    config = _shared(SFTConfig(), settings, model)
    config.training(**{name: value for name, value in given.items() if name not in supervised})
    config.supervise(transcripts=transcripts, replay=replay, **{name: given[name] for name in supervised})
    if settings.sft.freeze is not None:
        config.vlm(freeze=settings.sft.freeze)
    config.check_values()
    steps = sft_steps(settings, config, episodes)
    if config.lr_total_steps is None:
        config.lr_total_steps = max(1, steps)
    if "lr_warmup_steps" not in given:
        config.lr_warmup_steps = round(settings.sft.lr_warmup_ratio * steps)
    return config


def sft_steps(settings: RunSettings, config: Any, episodes: int) -> int:  # noqa: ANN401 -- an SFTConfig
    """Return the number of steps of supervised training, of which an iteration takes ``num_minibatches``.

    Args:
        settings: The settings.
        config: The configuration of this stage that follows from them.
        episodes: Number of episodes of the cold start.
    """
    return math.ceil(settings.sft.epochs * episodes / config.batch_size)


def evaluation_plan(settings: RunSettings, model: str) -> EvaluationPlan:
    """Return the puzzles that every stage's model is evaluated on: each task's, of photographs that are held out.

    Args:
        settings: The settings.
        model: Folder of the model.
    """
    options = environment_options(settings, test=True)
    entries = evaluation_entries(settings, options)
    images = options.pop("images", None)
    return EvaluationPlan(
        policy=f"hf:{model}",
        entries=entries,
        seed=settings.evaluation.seed,
        images=images,
        options=options,
        policy_options=_evaluation_policy(settings, model),
    )


def _evaluation_policy(settings: RunSettings, model: str) -> dict[str, Any]:
    grpo = grpo_config(settings, model)
    chosen: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": grpo.max_new_tokens}
    for name, value in (("window", grpo.window), ("system", model_options(settings).system)):
        if value is not None:
            chosen[name] = value
    return chosen


def benchmark_files(settings: RunSettings) -> dict[str, Path]:
    """Return the files of the benchmarks in which training images are looked for, and that may be played, by key.

    Raises:
        ConfigurationError: If one is not of the right form, the environment has images of its own, or they are to be
            played and there is none.
    """
    given = settings.evaluation.benchmarks
    if given and settings.env is not None:
        raise ConfigurationError(
            f"benchmarks are compared with the photographs of the jigsaw; leave them out, as the environment is "
            f"{settings.env}."
        )
    if settings.evaluation.play_benchmarks and not given:
        raise ConfigurationError(
            "play_benchmarks = true plays nothing without files. Name them: benchmarks = ['mmvp=MMVP.tsv']."
        )
    return name_files(given, "benchmarks:")


def benchmark_plans(settings: RunSettings, model: str) -> dict[str, EvaluationPlan]:
    """Return what is played of the benchmarks with a model, by key; none unless the settings want it.

    Answers are taken out of their tags, so that models that write these and such that do not are judged alike.

    Args:
        settings: The settings.
        model: Folder of the model.

    Raises:
        ConfigurationError: If a file cannot be read.
    """
    if not settings.evaluation.play_benchmarks:
        return {}
    return {
        key: plan_benchmark(
            key,
            file,
            f"hf:{model}",
            policy_options=_evaluation_policy(settings, model),
            options={"unwrap": True},
            limit=settings.evaluation.benchmark_questions or None,
            seed=settings.evaluation.seed,
        )
        for key, file in benchmark_files(settings).items()
    }


SAVE_EVERY = 100
"""Steps from one checkpoint to the next: at most so many are lost."""


def run_vision_pretraining(
    folder: Path,
    images: ImageSource,
    config: VisionPretrainingConfig,
    begin: Callable[[int], None],
    progress: Callable[[VisionProgress], None],
    *,
    layers: int = TinySizes.vision_layers,
    save_every: int = SAVE_EVERY,
) -> tuple[Path, list[ProbeResult]]:
    """Pretrain the tiny model's vision, from the last checkpoint on if there is one, and write the model.

    Args:
        folder: Folder of the checkpoint, the ``model`` and ``probe.json``.
        images: Photographs to cut boards from.
        config: Settings of the stage. The seed is also the model's.
        begin: Called with the number of steps that were done before.
        progress: Called after every step. If it raises, the training is saved.
        layers: Layers of the model's vision transformer.
        save_every: Steps from one checkpoint to the next.

    Returns:
        The model's directory, and the probe of the vectors of boards of each grid.

    Raises:
        ConfigurationError: If the checkpoint cannot be read, or has other settings.
    """
    checkpoint, target = folder / "checkpoint.pt", folder / "model"
    model, processor = build_tiny(config.seed, sizes=TinySizes(vision_layers=layers))
    state = _read(checkpoint) if checkpoint.exists() else None
    folder.mkdir(parents=True, exist_ok=True)

    def save(state: VisionState) -> None:
        data = io.BytesIO()  # torch tells of a full disk in words of its own, if it writes to a file
        torch.save(state, data)
        with replacing(checkpoint) as beside:
            beside.write_bytes(data.getbuffer())

    done = 0 if state is None else state["step"]
    try:
        probes = pretrain_vision(
            model, images, config, progress, state=state, begin=lambda: begin(done), save=save, save_every=save_every
        )
    except StateError as error:
        raise _unreadable(checkpoint, str(error)) from error
    with write_text(folder / "probe.json") as file:
        file.write(json.dumps([asdict(probe) for probe in probes], indent=1) + "\n")
    with filling(target) as beside:
        model.save_pretrained(beside)
        save_processor(processor, beside)
    return target, probes


def probe_figures(probe: ProbeResult) -> dict[str, float]:
    """Return the fractions of a probe by name."""
    return {name: value for name, value in asdict(probe).items() if isinstance(value, float)}


def describe_probe(probe: ProbeResult) -> str:
    """Return a line on the probe of a grid's boards."""
    of = f"{probe.held_out} held-out photographs" if probe.held_out else "the photographs that were learned from"
    told = ", ".join(f"{name.replace('_', ' ')} {100 * share:.1f}%" for name, share in probe_figures(probe).items())
    tokens = "1 token" if probe.tokens == 1 else f"{probe.tokens} tokens"
    return f"vision, {probe.grid} boards ({tokens}) of {of}: {told}"


def _read(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing but tensors and plain values is taken from it."""
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise all sorts of them
        raise _unreadable(path, reason_of(error) if isinstance(error, OSError) else type(error).__name__) from error
    values = cast("dict[str, Any]", state) if isinstance(state, dict) else {}
    if type(values.get("step")) is not int:
        raise _unreadable(path, "it is no vision pretraining")
    return values


def _unreadable(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The checkpoint {path} cannot be read ({why}). Restore it from a copy, or begin the vision "
        "pretraining anew: Remove it."
    )
