"""Settings of a run: one typed model of all sections, made of a preset, TOML, the command line or Python."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from functools import cache, partial
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType
from typing import Annotated, Any, ClassVar, Self, cast, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    SkipValidation,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    create_model,
    field_validator,
    model_validator,
)

from agile_gym.envs.contract import JIGSAW
from agile_gym.errors import (
    MAX_SEED,
    ConfigurationError,
    check_types,
    described_fields,
    did_you_mean,
    in_words,
    require,
    require_seed,
)
from agile_gym.evaluation.plan import DEFAULT_EPISODES, MAX_EPISODES
from agile_gym.evaluation.workers import MAX_WORKERS
from agile_gym.training.texts import as_toml, format_sections, is_toml, named, preset_text, range_words

__all__ = ["SECTIONS", "RunSettings", "Section", "read_settings", "section_class"]

_MOST = 10**9
_NONE = "none"
"""Stands for None, which TOML lacks, where None is allowed and not the default."""
_TOML = "what TOML can hold: texts, numbers, True or False, dates, lists and tables"
_FUNCTION = "it is a function, which only Python code can give: train with GRPOConfig"


class Section(BaseModel):
    """A section: its own keys, which it declares, and those of the class behind it, which `section_class` adds.

    Values are kept as they are given, in the form that TOML has for them. Types are checked here, and ranges of own
    keys; all else by the classes behind, when a run is checked.

    Attributes:
        source: The class behind it, as ``"module:Class"``: a dataclass, or a configuration of RLlib.
        behind: Its keys.
        elsewhere: Keys of this class that are not set in the section, with the reason.
        unless_set: Keys that follow from others unless they are set, with what they follow from; None until then.
        defaults: Defaults of this class's keys that are others in a run.
        checks_types: False if the class behind checks types, in better words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    source: ClassVar[str | None] = None
    behind: ClassVar[frozenset[str]] = frozenset()
    elsewhere: ClassVar[Mapping[str, str]] = {}
    unless_set: ClassVar[Mapping[str, str]] = {}
    defaults: ClassVar[Mapping[str, Any]] = {}
    checks_types: ClassVar[bool] = True

    @classmethod
    def none_is_set(cls, key: str) -> bool:
        """Return whether None is another value of a key than its default."""
        field = cls.model_fields.get(key)
        return field is None or field.default is not None or key in cls.unless_set

    def explicit(self) -> dict[str, Any]:
        """Return the values that were given, in the order of the keys."""
        values = {**{key: getattr(self, key) for key in type(self).model_fields}, **(self.model_extra or {})}
        return {key: value for key, value in values.items() if key in self.model_fields_set}

    def given(self) -> dict[str, Any]:
        """Return the values that were given for the class behind it."""
        own, none_is_set = type(self).model_fields.keys() - self.behind, self.none_is_set
        return {k: v for k, v in self.explicit().items() if k not in own and (v is not None or none_is_set(k))}

    def to_mapping(self) -> dict[str, Any]:
        """Return the values of its own keys, and those given for the class behind it."""
        own = {key: getattr(self, key) for key in type(self).model_fields if key not in self.behind}
        return {**own, **self.given()}

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Mapping[Any, Any]) -> dict[Any, Any]:
        """Convert values to the types of TOML."""
        return {key: as_toml(value, str(key)) for key, value in values.items()}

    @field_validator("*", mode="wrap")
    @classmethod
    def _check(cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:  # noqa: ANN401 -- any value
        """Check type and range of a value, and return it as it was given."""
        key = info.field_name or ""
        field = cls.model_fields[key]
        takes_none = cls.none_is_set(key) and NoneType in get_args(field.annotation)
        if takes_none and isinstance(value, str) and value == _NONE:
            return None
        if cls.checks_types:
            check_types({key: field.annotation}, {key: value})
        require(value is None or is_toml(value), key, value, _TOML)
        if key not in cls.behind:
            try:
                check(value)
            except ValidationError:
                require(False, key, value, in_words(field.annotation) + range_words(field.metadata))
        return value


class ImageSettings(Section):
    """Photographs: a folder, a file, a Parquet file or `hf:NAME`; see `agile_gym.images.open_images`."""

    train: str | list[str] | None = Field(None, description="To train on. None for the built-in ones.")
    test: str | list[str] | None = Field(None, description="To test on. None for the test split of the others.")


class EnvironmentSettings(Section):
    """The environment, and its options.

    Those listed are the jigsaw's. Another environment (`id`) takes its own, which are handed on as they are; then there
    is no vision pretraining, nothing is replayed, and the cold start needs a teacher.
    """

    source = "agile_gym.envs.jigsaw.config:JigsawConfig"
    elsewhere = {
        "images": "set train and test in [images]",
        "split": "it follows from train and test in [images]",
        "reveal": "the solution stays hidden in training",
    }
    defaults = {"crop": "random"}
    checks_types = False
    id: str = Field(JIGSAW, description="Another environment: `module:Class`, or a registered id.")


class OtherEnvironmentSettings(EnvironmentSettings):
    """Another environment than the jigsaw, with options of its own."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        for key, value in self.given().items():  # None may be another value than the default, and cannot be written
            require(is_toml(value), key, value, _TOML)
        return self


class ModelSettings(Section):
    """The model to begin with: weights, precision, frozen parts, adapter."""

    source = "agile_gym.learner.options:ModelOptions"
    elsewhere = {"seed": "it is that of the run; set seed"}


class VisionSettings(Section):
    """Vision pretraining of the tiny model on boards, seams and pieces. Left out of other models, and if empty."""

    source = "agile_gym.models.tiny.pretraining:VisionPretrainingConfig"
    elsewhere = {"seed": "it is that of the run; set seed"}


class ColdStartSettings(Section):
    """Episodes of a teacher for supervised training; `count = 0` leaves both out."""

    source = "agile_gym.coldstart.config:ColdStartConfig"
    elsewhere = {
        "env": "set id in [environment]",
        "images": "set train and test in [images]",
        "split": "it follows from train and test in [images]",
        "seed": "it is that of the run; set seed",
        "options": "set them in [environment]",
    }
    unless_set = {"grid": "as in `[environment]`", "level": "as in `[environment]`"}
    episodes: str | None = Field(None, description="A folder of episodes to learn from. None plays new ones.")


class GRPOSettings(Section):
    """Reinforcement learning: groups of episodes are played and compared; see `agile_gym.learner.GRPOConfig`."""

    source = "agile_gym.learner.grpo:GRPOConfig"
    elsewhere = {"reward_fn": _FUNCTION, "policy_class": _FUNCTION}
    iterations: int = Field(100, ge=0, le=_MOST, description="Iterations: rollout and update. 0 leaves the stage out.")


class SFTSettings(Section):
    """Supervised training on the cold start's episodes."""

    source = "agile_gym.learner.sft:SFTConfig"
    as_in_grpo: ClassVar = ("max_new_tokens", "rollout_batch", "temperature", "window", "micro_batch_tokens")
    """Keys that are as in GRPO unless they are set."""
    elsewhere = {
        "transcripts": "they are those of the cold start; set episodes in [cold_start]",
        "replay": "its episodes are made; set replay_size and replay_count",
        "reward_fn": _FUNCTION,
        "policy_class": _FUNCTION,
    }
    unless_set = {**dict.fromkeys(as_in_grpo, "as in `[grpo]`"), "lr_warmup_steps": "from `lr_warmup_ratio`"}
    epochs: float = Field(2, gt=0, le=10**6, description="Passes over the episodes.")
    replay_count: int = Field(6400, description="Puzzles that are made for `replay_size` to draw from.")
    freeze: list[str] | None = Field(None, description="Parts that are not trained here. None for those of `[model]`.")
    lr_warmup_ratio: float = Field(0.1, ge=0, le=1, description="Fraction of the steps over which `lr` rises.")


class EvaluationSettings(Section):
    """Evaluation on held-out photographs: after each stage, and in training."""

    episodes: int = Field(DEFAULT_EPISODES, ge=1, le=MAX_EPISODES, description="Puzzles played after each stage.")
    interval: int = Field(20, ge=0, le=_MOST, description="Iterations between two evaluations in training. 0 for none.")
    interval_episodes: int = Field(256, ge=1, le=MAX_EPISODES, description="Puzzles of each of these evaluations.")
    batch: int = Field(64, ge=1, le=MAX_EPISODES, description="Episodes that are played in one batch.")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Seed of the puzzles.")
    workers: int = Field(1, ge=1, le=MAX_WORKERS, description="Processes that play after each stage.")
    blank_looks: bool = Field(False, description="True to play again with looks blanked, after cold start and GRPO.")


class ResourceSettings(Section):
    """Processes, with the CPUs and GPUs of each."""

    runners: int = Field(0, ge=0, le=10_000, description="Processes that play. 0 plays in the run's own.")
    learners: int = Field(0, ge=0, le=10_000, description="Processes that learn. 0 learns in the run's own.")
    cpus_per_runner: float = Field(1, description="CPUs of each runner; above 1, whole ones only.")
    cpus_per_learner: float = Field(1, description="CPUs of each learner; above 1, whole ones only.")
    gpus_per_runner: float = Field(0, description="GPUs of each runner, 0 to 1: two with 0.5 share one.")
    gpus_per_learner: float = Field(0, description="GPUs of each learner, 0 to 1: it uses one at most.")
    address: str | None = Field(None, description="A Ray cluster: `auto` or `HOST:PORT`. None starts Ray here.")

    @field_validator("cpus_per_runner", "cpus_per_learner", "gpus_per_runner", "gpus_per_learner")
    @classmethod
    def _check_amount(cls, value: float, info: ValidationInfo) -> float:
        key, fits = info.field_name or "", 0 <= value <= 1
        require(fits or key[0] != "g", key, value, "a number from 0 to 1: a process uses one GPU at most")
        fits = fits or (1 <= value <= 10_000 and value % 1 == 0)
        require(fits, key, value, "a part from 0 to 1, or a whole number up to 10,000")
        return value

    @field_validator("address")
    @classmethod
    def _check_address(cls, value: str | None) -> str | None:
        require(value is None or bool(value.strip()), "address", value, "'auto', HOST:PORT or ray://HOST:PORT")
        return value


class CheckpointSettings(Section):
    """Checkpoints of GRPO and supervised training, from which a run goes on after an interruption."""

    every: int = Field(10, ge=1, le=_MOST, description="Iterations between two.")


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
        teacher = values["cold_start"].get("teacher", "expert")
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
            nones = {key: _NONE for key, value in values.items() if value is None and section.none_is_set(key)}
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
