"""The settings of a training run: a preset, or a TOML file of the same form, and changes to it."""

from __future__ import annotations

import inspect
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from agile_gym.arguments import is_number, is_whole
from agile_gym.errors import ConfigurationError, did_you_mean

__all__ = ["PRESETS", "TrainSettings", "format_settings", "preset_names", "preset_text", "read_settings"]

PRESETS = Path(__file__).parent / "presets"
"""Folder of the presets."""
_MAX_FILE = 1 << 20
SECTIONS = (
    *("images", "environment", "model", "eyes", "cold_start", "sft", "grpo", "evaluation", "resources"),
    "checkpoints",
)
_OWN: dict[str, dict[str, Any]] = {
    "images": {"train": None, "test": None},
    "sft": {
        "epochs": 2,
        "batch_size": 32,
        "replay_size": 0,
        "replay_count": 6400,
        "skip_mistakes": False,
        "max_tokens": 16384,
        "freeze": None,
        "lr_warmup_share": 0.1,
    },
    "grpo": {"iterations": 100, "tasks": None},
    "cold_start": {"episodes": None},
    "evaluation": {"episodes": 300, "interval": 20, "interval_episodes": 256, "batch": 64, "seed": 0, "workers": 1},
    "resources": {
        "runners": 0,
        "learners": 0,
        "cpus_per_runner": 1,
        "cpus_per_learner": 1,
        "gpus_per_runner": 0,
        "gpus_per_learner": 0,
        "address": None,
    },
    "checkpoints": {"every": 10},
}
"""Keys of the sections that are not those of a class, with their defaults."""


@dataclass(frozen=True)
class TrainSettings:
    """The settings, section by section, every value checked for its name.

    Attributes:
        seed: Seed of everything.
        images: ``train`` and ``test``: folders or other sources; None for the built-in photographs, and for the test
            split of the training source.
        environment: Options of the environment.
        model: Fields of `agile_gym.learner.model.ModelOptions`.
        eyes: Fields of `agile_gym.policies.tiny.eyes.EyesConfig`; only the tiny model has this stage.
        cold_start: Fields of `agile_gym.coldstart.ColdStartConfig`, or ``episodes``, a folder that is there.
        sft: Settings of supervised training.
        grpo: Settings of GRPO.
        evaluation: What is played, and how often.
        resources: Processes, processors and GPUs.
        checkpoints: ``every``: iterations between two checkpoints.
    """

    seed: int
    images: Mapping[str, Any]
    environment: Mapping[str, Any]
    model: Mapping[str, Any]
    eyes: Mapping[str, Any]
    cold_start: Mapping[str, Any]
    sft: Mapping[str, Any]
    grpo: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    resources: Mapping[str, Any]
    checkpoints: Mapping[str, Any]

    def to_mapping(self) -> dict[str, Any]:
        """Return the settings as a mapping of mappings."""
        return {"seed": self.seed} | {name: dict(getattr(self, name)) for name in SECTIONS}


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def preset_text(name: str) -> str:
    """Return a preset as it stands in its file.

    Raises:
        ConfigurationError: If there is no such preset, and no such file.
    """
    path = PRESETS / f"{name}.toml"
    if name not in preset_names():
        path = Path(name)
        if not path.is_file():
            raise ConfigurationError(
                f"There is no preset {name!r}, and no such file. {did_you_mean(name, preset_names())}"
            )
    if path.stat().st_size > _MAX_FILE:
        raise ConfigurationError(f"{path} is too large to be a file of settings.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not a text file in UTF-8: {error}") from error


def read_settings(preset: str, changes: Mapping[str, Any] | None = None) -> TrainSettings:
    """Read a preset or a file.

    Args:
        preset: Name of a preset, or path of a TOML file.
        changes: Values by ``"section.key"`` (or ``"seed"``).

    Returns:
        The settings.

    Raises:
        ConfigurationError: If the file is not TOML, or a section, key or value is not allowed.
    """
    try:
        values: dict[str, Any] = tomllib.loads(preset_text(preset))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{preset}: this is not TOML: {error}") from error
    for name, value in (changes or {}).items():
        section, dot, key = name.partition(".")
        if not dot:
            values[section] = value
        elif isinstance(values.setdefault(section, {}), dict):
            values[section][key] = value
    return _check(values, preset)


def _check(values: Mapping[str, Any], origin: str) -> TrainSettings:
    for name in values:
        if name not in (*SECTIONS, "seed"):
            raise ConfigurationError(f"{origin}: there is no section {name!r}. {did_you_mean(name, SECTIONS)}")
    seed = values.get("seed", 0)
    if seed != 0 and not is_whole(seed, 2**32):
        raise ConfigurationError(f"{origin}: seed = {seed!r} is not a whole number of at least 0.")
    sections: dict[str, dict[str, Any]] = {}
    for name in SECTIONS:
        given = values.get(name, {})
        if not isinstance(given, Mapping):
            raise ConfigurationError(f"{origin}: {name} = {given!r} must be a section, [{name}].")
        allowed = _allowed(name)
        for key in cast("Mapping[str, Any]", given):
            if key not in allowed:
                raise ConfigurationError(f"{origin}: [{name}] has no key {key!r}. {did_you_mean(key, allowed)}")
        sections[name] = {**_OWN.get(name, {}), **given}
    _check_numbers(sections, origin)
    return TrainSettings(seed=seed, **sections)


def _allowed(section: str) -> set[str]:
    """Return the keys of a section."""
    own = set(_OWN.get(section, {}))
    if section == "environment":
        from agile_gym.envs.config import JigsawConfig

        return {field.name for field in fields(JigsawConfig)} - {"images", "split", "reveal"}
    if section == "model":
        from agile_gym.learner.model import ModelOptions

        return {field.name for field in fields(ModelOptions)}
    if section == "eyes":
        from agile_gym.policies.tiny.eyes import EyesConfig

        return {field.name for field in fields(EyesConfig)} - {"seed"}
    if section == "cold_start":
        from agile_gym.coldstart import ColdStartConfig

        return own | {field.name for field in fields(ColdStartConfig)} - {"images", "split", "seed", "options"}
    if section in ("sft", "grpo"):
        from agile_gym.learner import GRPOConfig

        names = set(inspect.signature(GRPOConfig.training).parameters) - {"self", "kwargs"}
        return own | names | {"lr", "grad_clip", "num_epochs"}
    return own


def _check_numbers(sections: Mapping[str, Mapping[str, Any]], origin: str) -> None:
    """Check the values that this package itself uses."""
    for section, key, least in (
        ("sft", "batch_size", 1),
        ("sft", "replay_size", 0),
        ("sft", "replay_count", 1),
        ("grpo", "iterations", 0),
        ("evaluation", "episodes", 1),
        ("evaluation", "interval", 0),
        ("evaluation", "interval_episodes", 1),
        ("evaluation", "batch", 1),
        ("evaluation", "workers", 1),
        ("resources", "runners", 0),
        ("resources", "learners", 0),
        ("checkpoints", "every", 1),
    ):
        value = sections[section][key]
        if not (is_whole(value, 10**9) or (least == 0 and value == 0)):
            raise ConfigurationError(
                f"{origin}: [{section}] {key} = {value!r} must be a whole number, {least} or more."
            )
    for section, key, low, high in (("sft", "epochs", 0.0, 1e6), ("sft", "lr_warmup_share", 0.0, 1.0)):
        value = sections[section][key]
        if not is_number(value, low, high):
            raise ConfigurationError(f"{origin}: [{section}] {key} = {value!r} must be a number from {low:g}.")


def format_settings(settings: TrainSettings) -> str:
    """Return settings as TOML, which `read_settings` reads back."""
    lines = [f"seed = {settings.seed}"]
    for name in SECTIONS:
        section: Mapping[str, Any] = getattr(settings, name)
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in section.items() if value is not None]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:  # noqa: ANN401 -- any plain value
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        inside = ", ".join(f"{json.dumps(key)} = {_toml(entry)}" for key, entry in entries.items() if entry is not None)
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_toml(entry) for entry in cast('Sequence[Any]', value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=True)
    return json.dumps(value)
