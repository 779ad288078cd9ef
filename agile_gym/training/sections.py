"""Sections of a run's settings: their own keys, and the classes behind them."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, ClassVar, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from agile_gym.envs.contract import JIGSAW
from agile_gym.errors import MAX_SEED, check_types, in_words, require
from agile_gym.evaluation.plan import DEFAULT_EPISODES, MAX_EPISODES
from agile_gym.evaluation.workers import MAX_WORKERS
from agile_gym.training.texts import as_toml, is_toml, range_words

__all__ = [
    "NONE",
    "CheckpointSettings",
    "ColdStartSettings",
    "EnvironmentSettings",
    "EvaluationSettings",
    "GRPOSettings",
    "ImageSettings",
    "ModelSettings",
    "OtherEnvironmentSettings",
    "ResourceSettings",
    "SFTSettings",
    "Section",
    "VisionSettings",
]

NONE = "none"
"""Stands for None, which TOML lacks, where None is allowed and not the default."""
_MOST = 10**9
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
        if takes_none and isinstance(value, str) and value == NONE:
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
    layers: int = Field(2, ge=1, le=64, description="Layers of the vision transformer.")


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
    tasks: Mapping[str, Any] | None = Field(
        None, description="Settings of tasks with an environment or images of their own, by name: `teacher`, ..."
    )


class GRPOSettings(Section):
    """Reinforcement learning: groups of episodes are played and compared; see `agile_gym.learner.GRPOConfig`."""

    source = "agile_gym.learner.grpo:GRPOConfig"
    elsewhere = {"reward_fn": _FUNCTION, "policy_class": _FUNCTION}
    iterations: int = Field(100, ge=0, le=_MOST, description="Iterations: rollout and update. 0 leaves the stage out.")


class SFTSettings(Section):
    """Supervised training on the cold start's episodes."""

    source = "agile_gym.learner.sft:SFTConfig"
    as_in_grpo: ClassVar = (
        *("max_new_tokens", "rollout_batch", "temperature", "window", "micro_batch_tokens", "packing", "sharding"),
        "cpu_offload",
    )
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
    benchmarks: list[str] = Field(
        [], description="`NAME=FILE` of benchmarks: the report has the training images among their pictures."
    )
    play_benchmarks: bool = Field(
        False, description="True to play them, too, before the first stage and after cold start and GRPO."
    )
    benchmark_questions: int = Field(
        0, ge=0, le=MAX_EPISODES, description="Questions of each benchmark that are played, from the first. 0 for all."
    )


class ResourceSettings(Section):
    """Processes, with the CPUs and GPUs of each."""

    runners: int = Field(0, ge=0, le=10_000, description="Processes that play. 0 plays in the run's own.")
    learners: int = Field(0, ge=0, le=10_000, description="Processes that learn. 0 learns in the run's own.")
    cpus_per_runner: float = Field(1, description="CPUs of each runner; above 1, whole ones only.")
    cpus_per_learner: float = Field(1, description="CPUs of each learner; above 1, whole ones only.")
    gpus_per_runner: float = Field(0, description="GPUs of each runner, 0 to 1: two with 0.5 share one.")
    gpus_per_learner: float = Field(0, description="GPUs of each learner, 0 to 1: it uses one at most.")
    gpu_memory: float | None = Field(None, gt=0, le=10_000, description="GiB of each GPU. None for that of GPUs here.")
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
