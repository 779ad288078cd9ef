# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray and transformers are incomplete.
"""The check of a run's settings before its first stage: every configuration is built once, by the class behind it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from agile_gym.arguments import require, require_seed
from agile_gym.coldstart.config import ColdStartConfig, prepare
from agile_gym.envs.config import JigsawConfig, resolve
from agile_gym.envs.jigsaw import open_source
from agile_gym.errors import ConfigurationError
from agile_gym.evaluation import prepare_plan
from agile_gym.images.split import check_fraction
from agile_gym.learner.model import TINY, ModelOptions, build_vlm
from agile_gym.policies.base import check_policy, make_policy
from agile_gym.rollout.reading import read_headers
from agile_gym.training import stages
from agile_gym.training.cluster import check_machines
from agile_gym.training.sections import OWN_SECTIONS
from agile_gym.training.settings import TrainSettings, naming, own_settings

__all__ = ["check_settings"]


def check_settings(settings: TrainSettings) -> None:
    """Check what can be checked before anything takes long: values, photographs, the model's files, the cluster.

    Raises:
        ConfigurationError: If a setting is not allowed; the message names it as ``[section] key = value``.
        ImageError: If there are no photographs.
        ModelError: If the model cannot be used.
        MissingDependencyError: If a package is missing.
    """
    require_seed(settings.seed)
    for name, kind in OWN_SECTIONS.items():
        with naming(name):
            kind(**own_settings(settings, name))
    with naming("environment"):
        resolve(JigsawConfig.from_options(settings.environment))
        check_fraction(settings.environment.get("test_fraction", JigsawConfig.test_fraction))
    for test in (False, True):
        key = "test" if test and settings.images["test"] is not None else "train"
        with naming("images", key, settings.images[key], images=key):
            open_source(JigsawConfig.from_options(stages.environment_options(settings, test=test)))
    with naming("model"):
        options = stages.model_options(settings)
        _check_packages(options)
    if settings.eyes:
        with naming("eyes"):
            stages.eyes_config(settings)
    with naming("cold_start"):
        cold = stages.cold_start_config(settings)
        _check_episodes(cold, settings.cold_start["episodes"])
    with naming("cold_start", *_teacher_of(cold)):
        _check_teacher(cold)
    with naming("grpo"):
        grpo = stages.grpo_config(settings, options.path)
        grpo.validate()
    with naming("sft", count="replay_count"):
        sft = stages.sft_config(settings, options.path, Path(), 1, Path("replay"))
        sft.validate()
        if sft.replay_size:
            prepare(stages.replay_config(settings))
    with naming("grpo", grid="tasks: grid", level="tasks: level"):
        plan = stages.evaluation_plan(settings, options.path)
    with naming("evaluation"):
        prepare_plan(plan)
    if options.path != TINY:
        with naming("model", "path", options.path):
            _check_files(options.path)
    elif options.train == "lora" and options.lora_targets:
        with naming("model"):
            build_vlm(options, for_training=True, on_gpu=False)  # it takes no time, and has the layers' names
    check_machines(settings, grpo)


def _check_episodes(config: ColdStartConfig, episodes: str | None) -> None:
    """Check how episodes are made, or that they are there."""
    if episodes is None:
        prepare(config)
        return
    require(Path(episodes).is_dir(), "episodes", episodes, "a folder that `agile-gym coldstart` wrote")
    if not any(True for _ in read_headers(Path(episodes))):
        raise ConfigurationError(f"episodes={episodes!r} holds no episodes; a cold start needs some.")


def _teacher_of(config: ColdStartConfig) -> tuple[str, object]:
    """Return what errors of the teacher are about: its options, if there are any, or its name."""
    options = config.teacher_options
    return ("teacher_options", dict(options)) if options else ("teacher", config.teacher)


def _check_teacher(config: ColdStartConfig) -> None:
    """Check that there is the teacher, and that it takes its options."""
    name, options = config.policy_call()
    check_policy(name, **options)
    kind, _, path = name.partition(":")
    if config.is_expert:
        make_policy(name, **options)  # which checks values, too
    elif kind == "hf":
        _check_files(path)


def _check_packages(options: ModelOptions) -> None:
    """Check that what the options need is installed."""
    for needed, package, why in (
        (options.train == "lora", "peft", "train='lora'"),
        (options.attention == "flash_attention_2", "flash_attn", "attention='flash_attention_2'"),
    ):
        if needed and find_spec(package) is None:
            raise ConfigurationError(f"{why} needs the package {package!r}, which is not installed.")


def _check_files(path: str) -> None:
    """Check that a model's files are there, and those of a model that reads images."""
    from agile_gym.policies.vlm.configs import check_config
    from agile_gym.policies.vlm.loading import check_processor, load_config, load_processor

    check_config(load_config(path), path)
    check_processor(load_processor(path), path)
