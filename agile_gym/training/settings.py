"""Settings of a run: one typed model of all sections, made of a preset, TOML, the command line or Python."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from functools import cache, partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, Self, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    SkipValidation,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)

from agile_gym.coldstart.config import EXPERT
from agile_gym.envs.contract import JIGSAW
from agile_gym.errors import ConfigurationError, described_fields, did_you_mean, require_seed
from agile_gym.training.sections import (
    NONE,
    CheckpointSettings,
    ColdStartSettings,
    EnvironmentSettings,
    EvaluationSettings,
    GRPOSettings,
    ImageSettings,
    ModelSettings,
    OtherEnvironmentSettings,
    ResourceSettings,
    Section,
    SFTSettings,
    VisionSettings,
)
from agile_gym.training.texts import as_toml, format_sections, named, preset_text

__all__ = ["SECTIONS", "RunSettings", "Section", "read_settings", "section_class"]


@cache
def section_class(name: str) -> type[Section]:
    """Return the model of a section with the keys of the class behind it: of the environment, the jigsaw's."""
    own = cast("type[Section]", RunSettings.model_fields[name].annotation)
    source: Any = None if own.source is None else resolve_name(own.source)
    described = {} if source is None else described_fields(source) if is_dataclass(source) else source.described()
    behind = {key: described[key] for key in described if key not in own.elsewhere and key not in own.model_fields}
    definitions: dict[str, Any] = {}
    for key, (kind, default, text) in behind.items():
        initial = None if key in own.unless_set else own.defaults.get(key, default)
        definitions[key] = (Annotated[kind, SkipValidation], Field(initial, description=text))
    kind = create_model(own.__name__, __base__=own, __doc__=own.__doc__, __module__=__name__, **definitions)
    kind.behind = frozenset(behind)
    return kind


_SECTION: Any = Field(default_factory=dict, validate_default=True)


class RunSettings(BaseModel):
    """The settings of a run: ``RunSettings(seed=1, grpo={"lr": 1e-5})``.

    Names and types are checked here, and all the rest by `agile_gym.training.checking.check_settings` before a run
    begins. A section's values are its attributes, ``settings.grpo.lr``; they stay as they are, `changed` makes others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    seed: int = Field(0, description="Seed of everything.")
    images: SerializeAsAny[ImageSettings] = _SECTION
    environment: SerializeAsAny[EnvironmentSettings] = _SECTION
    model: SerializeAsAny[ModelSettings] = _SECTION
    vision: SerializeAsAny[VisionSettings] = _SECTION
    cold_start: SerializeAsAny[ColdStartSettings] = _SECTION
    sft: SerializeAsAny[SFTSettings] = _SECTION
    grpo: SerializeAsAny[GRPOSettings] = _SECTION
    evaluation: SerializeAsAny[EvaluationSettings] = _SECTION
    resources: SerializeAsAny[ResourceSettings] = _SECTION
    checkpoints: SerializeAsAny[CheckpointSettings] = _SECTION

    def __init__(self, /, **values: Any) -> None:  # noqa: ANN401 -- a mapping for each section, and the seed
        """Take ``seed``, and a mapping for each section; what is left out has its default.

        Raises:
            ConfigurationError: If there is no section or key of a name, or a value is of another type.
        """
        for name in [name for name in SECTIONS if name in values]:
            if isinstance(values[name], Section):
                values[name] = values[name].explicit()
            elif not isinstance(values[name], Mapping):
                raise ConfigurationError(f"{name} = {values[name]!r:.100} must be a section, [{name}].")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _in_words(error) from None

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:  # noqa: ANN401 -- as pydantic has it
        """Take a mapping, as the constructor takes its items.

        Args:
            obj: ``seed``, and a mapping for each section.
            **options: Pydantic's.

        Raises:
            ConfigurationError: If there is no section or key of a name, or a value is of another type.
        """
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise _in_words(error) from None

    @field_validator("*", mode="before")
    @classmethod
    def _check(cls, value: Any, info: ValidationInfo) -> Section | int:  # noqa: ANN401 -- any value
        if info.field_name == "seed":
            return require_seed(as_toml(value, "seed"))
        env = value.get("id", JIGSAW) if info.field_name == "environment" else JIGSAW
        if not isinstance(env, str):
            raise ConfigurationError(f"id={env!r:.100} must be a text: 'module:Class', or an id.")
        if env != JIGSAW:
            return OtherEnvironmentSettings.model_validate(value)
        return section_class(info.field_name or "").model_validate(value)

    @classmethod
    def from_toml(cls, text: str, origin: str = "settings") -> Self:
        """Read settings from TOML, as `to_toml` writes it; errors name the origin.

        Raises:
            ConfigurationError: If it is not TOML, there is no section or key of a name, or a value is of another type.
        """
        try:
            return cls(**tomllib.loads(text))
        except ConfigurationError as error:
            raise ConfigurationError(f"{origin}: {error}") from None
        except (ValueError, RecursionError) as error:  # a number can be too long, and lists nested too deep
            raise ConfigurationError(f"{origin}: this is not TOML: {error}") from error

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """Return settings with other values, by ``"section.key"`` or ``"seed"``.

        With another ``environment.id`` or ``cold_start.teacher``, what the former one alone has is left out.

        Raises:
            ConfigurationError: If there is no section or key of a name, or a value is of another type.
        """
        values = self.explicit()
        if changes.get("environment.id", self.environment.id) != self.environment.id:
            for section, keys in _JIGSAW_ONLY.items():
                values[section] = {key: value for key, value in values[section].items() if keys and key not in keys}
        teacher = values["cold_start"].get("teacher", EXPERT)
        if changes.get("cold_start.teacher", teacher) != teacher:
            values["cold_start"].pop("teacher_options", None)
        for name, value in changes.items():
            section, dot, key = str(name).partition(".")
            if not dot and section in SECTIONS:
                raise ConfigurationError(f"{section} is a section; change its settings, as {section}.KEY.")
            if section not in (SECTIONS if dot else values):
                raise _no_section(section, SECTIONS if dot else values)
            (values[section] if dot else values)[key if dot else section] = value
        return type(self)(**values)

    def explicit(self) -> dict[str, Any]:
        """Return what was given, section by section."""
        return {"seed": self.seed} | {name: section.explicit() for name, section in self._sections()}

    def _sections(self) -> list[tuple[str, Section]]:
        return [(name, getattr(self, name)) for name in SECTIONS]

    def __eq__(self, other: object) -> bool:
        """Compare what was set: a key that was given its default is not one that follows from others."""
        return isinstance(other, RunSettings) and self.to_mapping() == other.to_mapping()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the values: the sections' classes are made when they are used, and cannot be looked up."""
        return partial(RunSettings, **self.explicit()), ()

    @property
    def env(self) -> str | None:
        """The environment, or None for the jigsaw."""
        return None if self.environment.id == JIGSAW else self.environment.id

    @property
    def has_cold_start(self) -> bool:
        """True if there is a cold start, and supervised training on it."""
        return self.cold_start.given().get("count") != 0

    def to_mapping(self) -> dict[str, Any]:
        """Return the settings as a mapping of mappings, without those that are left to the classes behind."""
        return {"seed": self.seed} | {name: section.to_mapping() for name, section in self._sections()}

    def to_toml(self, unset: Mapping[str, Mapping[str, Any]] | None = None) -> str:
        """Return the settings as TOML.

        Args:
            unset: Values that keys which were not set have, by section and key; written as comments.
        """
        sections: dict[str, dict[str, Any]] = {}
        for name, section in self._sections():
            values = section.to_mapping()
            nones = {key: NONE for key, value in values.items() if value is None and section.none_is_set(key)}
            sections[name] = values | nones
        return format_sections({"seed": self.seed}, sections, unset or {})


SECTIONS = tuple(name for name in RunSettings.model_fields if name != "seed")
"""The sections, in their order."""
_JIGSAW_ONLY: dict[str, tuple[str, ...]] = {
    "environment": (),
    "vision": (),
    "cold_start": ("grid", "level", "turns", "looks", "balance"),
    "sft": ("replay_size", "replay_count"),
    "grpo": ("tasks",),
}
"""Keys of the jigsaw's settings that are dropped when the environment changes; an empty tuple drops all."""


def _no_section(name: object, allowed: Iterable[str]) -> ConfigurationError:
    return ConfigurationError(f"there is no section {name!r:.100}. {did_you_mean(name, allowed)}")


def _in_words(error: ValidationError) -> ConfigurationError:
    """Return the first of pydantic's errors in one line; names come before values."""
    entries = error.errors(include_url=False, include_input=False)
    entry = next((entry for entry in entries if entry["type"] != "value_error"), entries[0])
    if not entry["loc"]:  # raised by the constructor, or no mapping
        raised: object = entry.get("ctx", {}).get("error")
        if isinstance(raised, ConfigurationError):
            return raised
        return ConfigurationError("settings must be a mapping of sections, such as {'grpo': {'lr': 1e-5}}.")
    section, *keys = entry["loc"]
    if entry["type"] != "value_error":
        if not keys:
            return _no_section(section, RunSettings.model_fields)
        kind, key = section_class(str(section)), keys[0]
        reason = kind.elsewhere.get(str(key))
        hint = f". {did_you_mean(key, kind.model_fields)}" if reason is None else f": {reason}."
        return ConfigurationError(f"[{section}] has no key {key!r:.100}{hint}")
    cause: ConfigurationError = entry.get("ctx", {})["error"]
    return cause if section == "seed" else named(cause, str(section))


def read_settings(preset: str | Path, changes: Mapping[str, Any] | None = None) -> RunSettings:
    """Return the settings of a preset or a file.

    Args:
        preset: Name of a preset, or path of a TOML file.
        changes: Other values; see `RunSettings.changed`.

    Raises:
        ConfigurationError: If there is no such file, or it is none of settings; see `RunSettings.from_toml`.
    """
    return RunSettings.from_toml(preset_text(str(preset)), str(preset)).changed(changes or {})
