"""Sections of a run's settings that belong to no class of another part: defaults, types and ranges."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from agile_gym.errors import check_fields, is_number, require, require_seed
from agile_gym.evaluation.plan import DEFAULT_EPISODES, MAX_EPISODES
from agile_gym.evaluation.workers import MAX_WORKERS

__all__ = ["OWN_SECTIONS", "Section"]

_MOST = 10**9


@dataclass(frozen=True)
class Section:
    """A section whose values are checked: by type here, by range in its class."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: If one is not allowed.
        """
        check_fields(self)
        self._check_ranges()

    def _check_ranges(self) -> None:
        """Check what types do not tell."""

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the defaults by key."""
        return {field.name: field.default for field in fields(cls)}

    def _whole(self, least: int, most: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            require(least <= value <= most, name, value, f"a whole number from {least} to {most:,}")


@dataclass(frozen=True)
class Images(Section):
    """Where photographs come from; `agile_gym.images.open_images` checks the rest.

    Attributes:
        train: To train on; None for the built-in ones.
        test: To test on; None for the test split of the others.
    """

    train: str | list[str] | None = None
    test: str | list[str] | None = None


@dataclass(frozen=True)
class SFT(Section):
    """Supervised training, beside what `agile_gym.learner.sft.SFTConfig` has.

    Attributes:
        epochs: How often every episode is seen.
        replay_count: Episodes that are made to be replayed; its range is that of `ColdStartConfig`.
        freeze: Parts of the model that are not trained in this stage; None for those of ``model.freeze``.
        lr_warmup_ratio: Share of the steps over which the learning rate rises.
    """

    epochs: float = 2
    replay_count: int = 6400
    freeze: list[str] | None = None
    lr_warmup_ratio: float = 0.1

    def _check_ranges(self) -> None:
        require(is_number(self.epochs, 1e-6, 1e6), "epochs", self.epochs, "a number above 0")
        share = self.lr_warmup_ratio
        require(is_number(share, 0, 1), "lr_warmup_ratio", share, "a share of the steps from 0 to 1")


@dataclass(frozen=True)
class GRPO(Section):
    """GRPO, beside what `agile_gym.learner.GRPOConfig` has.

    Attributes:
        iterations: Iterations; 0 leaves the stage out.
        tasks: As in `GRPOConfig.training`; None for the environment's.
    """

    iterations: int = 100
    tasks: list[Any] | None = None

    def _check_ranges(self) -> None:
        self._whole(0, _MOST, "iterations")


@dataclass(frozen=True)
class ColdStart(Section):
    """The cold start, beside what `agile_gym.coldstart.ColdStartConfig` has.

    Attributes:
        episodes: A folder of episodes that are there; None for episodes that are made.
    """

    episodes: str | None = None


@dataclass(frozen=True)
class Evaluation(Section):
    """The puzzles that are played to evaluate.

    Attributes:
        episodes: Puzzles that each stage's model is evaluated on.
        interval: Iterations between two evaluations in training; 0 for none.
        interval_episodes: Puzzles of these.
        batch: Episodes side by side.
        seed: Seed of the puzzles.
        workers: Processes that play.
        blank_looks: True for evaluations after cold start and GRPO that are also played with blanked looks.
    """

    episodes: int = DEFAULT_EPISODES
    interval: int = 20
    interval_episodes: int = 256
    batch: int = 64
    seed: int = 0
    workers: int = 1
    blank_looks: bool = False

    def _check_ranges(self) -> None:
        self._whole(1, MAX_EPISODES, "episodes", "interval_episodes", "batch")
        self._whole(0, _MOST, "interval")
        self._whole(1, MAX_WORKERS, "workers")
        require_seed(self.seed)


@dataclass(frozen=True)
class Resources(Section):
    """Processes, and what each of them is given.

    Attributes:
        runners: Processes that play; 0 plays in this one.
        learners: Processes that learn; 0 learns in this one.
        cpus_per_runner: CPUs of each; above 1, Ray gives whole ones only.
        cpus_per_learner: Likewise.
        gpus_per_runner: GPUs of each; two processes can share one.
        gpus_per_learner: GPUs of each: a learner uses one at most.
        address: A Ray cluster, as `ray.init` takes it; None for one that is started on this machine.
    """

    runners: int = 0
    learners: int = 0
    cpus_per_runner: float = 1
    cpus_per_learner: float = 1
    gpus_per_runner: float = 0
    gpus_per_learner: float = 0
    address: str | None = None

    def _check_ranges(self) -> None:
        self._whole(0, 10_000, "runners", "learners")
        for name in ("cpus_per_runner", "cpus_per_learner"):
            value = getattr(self, name)
            fits = is_number(value, 0, 1) or (is_number(value, 1, 10_000) and value % 1 == 0)
            require(fits, name, value, "a part from 0 to 1, or a whole number up to 10,000")
        for name in ("gpus_per_runner", "gpus_per_learner"):
            value = getattr(self, name)
            require(is_number(value, 0, 1), name, value, "a number from 0 to 1: a process uses one GPU at most")
        address = self.address
        require(address is None or bool(address.strip()), "address", address, "'auto', HOST:PORT or ray://HOST:PORT")


@dataclass(frozen=True)
class Checkpoints(Section):
    """Checkpoints.

    Attributes:
        every: Iterations between two.
    """

    every: int = 10

    def _check_ranges(self) -> None:
        self._whole(1, _MOST, "every")


OWN_SECTIONS: dict[str, type[Section]] = {
    "images": Images,
    "cold_start": ColdStart,
    "sft": SFT,
    "grpo": GRPO,
    "evaluation": Evaluation,
    "resources": Resources,
    "checkpoints": Checkpoints,
}
"""The classes by the section's name."""
