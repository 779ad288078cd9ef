"""Settings of a run: their names, presets, and their TOML."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from agile_gym.envs.contract import JIGSAW
from agile_gym.errors import ConfigurationError, did_you_mean
from agile_gym.terminal import one_line
from agile_gym.training.sections import OWN_SECTIONS

__all__ = [
    "PRESETS",
    "SECTIONS",
    "TrainSettings",
    "format_settings",
    "naming",
    "own_settings",
    "preset_names",
    "preset_text",
    "read_settings",
    "setting_names",
]

PRESETS = Path(__file__).parent / "presets"
"""Folder of the presets."""
_MAX_FILE = 1 << 20
SECTIONS = (
    *("images", "environment", "model", "eyes", "cold_start", "sft", "grpo", "evaluation", "resources"),
    "checkpoints",
)
_SET_HERE: dict[str, set[str]] = {
    "environment": {"images", "split", "reveal"},
    "eyes": {"seed"},
    "model": {"seed"},
    "cold_start": {"env", "images", "split", "seed", "options"},
    "sft": {"transcripts", "replay"},
}
"""Settings of the classes behind sections that follow from other sections."""
_NONE = "none"
"""Stands for None, which TOML lacks, where None is allowed and not the default."""
_CAN_BE_NONE = {
    "environment": {"level", "crop"},
    "sft": {"grad_clip", "torch_threads_per_actor", "max_tokens"},
    "grpo": {"grad_clip", "torch_threads_per_actor"},
}
_JIGSAW_ONLY: dict[str, tuple[str, ...]] = {
    "environment": (),
    "eyes": (),
    "cold_start": ("grid", "level", "turns", "looks", "balance"),
    "sft": ("replay_size", "replay_count"),
    "grpo": ("tasks",),
}
"""What is left out of a preset of the jigsaw when the environment is changed; of some sections, everything."""


@dataclass(frozen=True)
class TrainSettings:
    """The settings, section by section; names are checked, values by `agile_gym.training.pipeline.check_settings`.

    Attributes:
        seed: Seed of everything.
        images: ``train`` and ``test``: folders or other sources; None for the built-in photographs, and for the test
            split of the training source.
        environment: Options of the environment, and ``id`` of another one than the jigsaw, as
            `agile_gym.envs.contract.find_env` reads it. Then there is no stage of `eyes`, nothing is replayed, and the
            cold start needs a teacher.
        model: Fields of `agile_gym.learner.options.ModelOptions`.
        eyes: Fields of `agile_gym.models.tiny.pretraining.VisionPretrainingConfig`; only the tiny model has this stage.
        cold_start: Fields of `agile_gym.coldstart.ColdStartConfig`, or ``episodes``, a folder that is there; ``count``
            of 0 leaves it out.
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

    @property
    def env(self) -> str | None:
        """The environment, or None for the jigsaw."""
        env = self.environment.get("id")
        return None if env in (None, JIGSAW) else str(env)

    @property
    def has_cold_start(self) -> bool:
        """Whether there is a cold start, and supervised training on it."""
        count = self.cold_start.get("count")
        return type(count) is not int or count != 0

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
        if path.is_dir():
            inside = " Did you mean the settings.toml in it?" if (path / "settings.toml").is_file() else ""
            raise ConfigurationError(f"{name!r} is a folder; give a preset or a TOML file.{inside}")
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
        ConfigurationError: If the file is not TOML, or there is no section or key of a name.
    """
    text = preset_text(preset)
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number can be too long, and lists nested too deep
        raise ConfigurationError(f"{preset}: this is not TOML: {error}") from error
    changes = dict(changes or {})
    if "environment.id" in changes and changes["environment.id"] != _env_id(values):
        for section, keys in _JIGSAW_ONLY.items():
            given = values.get(section, {})
            values[section] = {key: value for key, value in given.items() if keys and key not in keys}
    for name, value in changes.items():
        section, dot, key = name.partition(".")
        if not dot:
            if section in SECTIONS:
                raise ConfigurationError(f"{section} is a section; change its settings, as {section}.KEY.")
            values[section] = value
        elif isinstance(values.setdefault(section, {}), dict):
            values[section][key] = value
    return _check_names(values, preset)


def _env_id(values: Mapping[str, Any]) -> object:
    section = values.get("environment", {})
    return cast("Mapping[str, Any]", section).get("id", JIGSAW) if isinstance(section, Mapping) else JIGSAW


def _check_names(values: Mapping[str, Any], origin: str) -> TrainSettings:
    for name in values:
        if name not in (*SECTIONS, "seed"):
            hint = did_you_mean(name, (*SECTIONS, "seed"))
            raise ConfigurationError(f"{origin}: there is no section {name!r:.100}. {hint}")
    sections: dict[str, dict[str, Any]] = {}
    for name in SECTIONS:
        section: Any = values.get(name, {})
        if not isinstance(section, Mapping):
            raise ConfigurationError(f"{origin}: {name} = {section!r:.100} must be a section, [{name}].")
        given, allowed = cast("Mapping[str, Any]", section), setting_names(name)
        free = name == "environment" and _env_id(values) != JIGSAW
        for key in given:
            if key not in allowed and not free:
                hint = did_you_mean(key, allowed)
                raise ConfigurationError(f"{origin}: [{name}] has no key {key!r:.100}. {hint}")
        nones = {key: None for key in _CAN_BE_NONE.get(name, ()) if given.get(key) == _NONE and not free}
        own = OWN_SECTIONS.get(name)
        sections[name] = {**({} if own is None else own.defaults()), **given, **nones}
    return TrainSettings(seed=values.get("seed", 0), **sections)


def setting_names(section: str) -> set[str]:
    """Return the keys of a section: its own, and those of the class behind it that do not follow from others."""
    own = OWN_SECTIONS.get(section)
    names: set[str] = set(own.defaults()) if own is not None else set()
    if section == "environment":
        from agile_gym.envs.jigsaw.config import JigsawConfig

        names |= {"id"} | _fields(JigsawConfig)
    elif section == "model":
        from agile_gym.learner.options import ModelOptions

        names |= _fields(ModelOptions)
    elif section == "eyes":
        from agile_gym.models.tiny.pretraining import VisionPretrainingConfig

        names |= _fields(VisionPretrainingConfig)
    elif section == "cold_start":
        from agile_gym.coldstart.config import ColdStartConfig

        names |= _fields(ColdStartConfig)
    elif section == "sft":
        from agile_gym.learner.sft import SFTConfig

        names |= set(SFTConfig.setting_types())
    elif section == "grpo":
        from agile_gym.learner.rllib import GRPOConfig

        names |= set(GRPOConfig.setting_types())
    return names - _SET_HERE.get(section, set())


def _fields(kind: Any) -> set[str]:  # noqa: ANN401 -- a dataclass
    return {field.name for field in fields(kind)}


def own_settings(settings: TrainSettings, section: str) -> dict[str, Any]:
    """Return the settings of a section that belong to no class of another part."""
    names = OWN_SECTIONS[section].defaults()
    return {name: value for name, value in getattr(settings, section).items() if name in names}


@contextmanager
def naming(section: str, key: str | None = None, value: object = None, **keys: str) -> Generator[None]:
    """Let errors name the setting that they are about, as ``[section] key = value``.

    Args:
        section: The section.
        key: The key, if errors are about this one; else they name it themselves.
        value: Its value.
        **keys: Keys of the section by what the errors call them.
    """
    try:
        yield
    except ConfigurationError as error:
        text = re.sub(r"^(\w+)=", lambda match: f"{keys.get(match[1], match[1])} = ", one_line(str(error)))
        if key is not None and not text.startswith(f"{key} = "):
            text = f"{key} = {value!r:.100}: {text}"
        raise type(error)(f"[{section}] {text}") from error


def format_settings(settings: TrainSettings, unset: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Return settings as TOML, which `read_settings` reads back.

    Args:
        settings: The settings.
        unset: What has not been set comes to, by section and key; it is written as comments.
    """
    lines = [f"seed = {settings.seed}"]
    if unset:
        lines.insert(0, "# Lines that begin with # were not set: they tell what follows from the others.")
    for name in SECTIONS:
        section: Mapping[str, Any] = getattr(settings, name)
        lines += ["", f"[{name}]"]
        nones = _CAN_BE_NONE.get(name, ())
        shown = {key: _NONE if value is None and key in nones else value for key, value in section.items()}
        lines += [f"{key} = {_toml(value)}" for key, value in shown.items() if value is not None]
        lines += [f"# {key} = {_toml(value)}" for key, value in (unset or {}).get(name, {}).items()]
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
