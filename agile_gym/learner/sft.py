# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray are incomplete.
"""Supervised training on recorded episodes: the cold start, with the learner of GRPO."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from ray.rllib.utils.from_config import NotProvided
from ray.rllib.utils.metrics import LEARNER_UPDATE_TIMER, SYNCH_WORKER_WEIGHTS_TIMER, TIMERS

from agile_gym.errors import ConfigurationError, declared_types, documented, is_whole
from agile_gym.learner.config import GRPOConfig
from agile_gym.learner.data import Sample, make_samples
from agile_gym.learner.grpo import GRPO, GRPO_RESULTS
from agile_gym.learner.options import TINY, ModelOptions
from agile_gym.learner.updating import SUPERVISED
from agile_gym.models.chat import ChatFormat, tokenise_transcript
from agile_gym.transcripts.reading import read_transcripts
from agile_gym.transcripts.record import Transcript

__all__ = ["SFT", "SFTConfig", "supervised_samples"]

_NOT_GIVEN: Any = NotProvided
_REPLAY = 1
"""Seed that sets the draws of replayed episodes apart."""
_COMPARING = frozenset(
    {
        *("loss", "clip_low", "clip_high", "kl_coef", "entropy_coef", "max_loss_tokens", "group_size"),
        *(
            "groups_per_iteration",
            "advantage_scale",
            "leave_one_out",
            "filter_zero_variance_groups",
            "resample_rounds",
        ),
        *("mask_truncated", "curriculum", "credit", "turn_discount", "mismatch_correction", "mismatch_cap"),
        "max_lag",
    }
)
"""Settings of GRPO that have no meaning where episodes are not compared."""
WRONG_STEPS = ("wrong", "slip")
"""Kinds of steps, in an expert's plan, that are mistakes on purpose."""


class SFTConfig(GRPOConfig):
    """The configuration of `SFT`: that of `GRPO`, with episodes from a folder.

    An iteration takes ``num_minibatches`` steps of ``batch_size`` episodes each.
    """

    losses: ClassVar[tuple[str, ...]] = (SUPERVISED,)

    def __init__(self, algo_class: type | None = None) -> None:
        """Begin with AGILE's settings, at a constant learning rate."""
        super().__init__(algo_class=algo_class or SFT)
        self.loss = SUPERVISED
        self.lr = 1e-5
        self.transcripts: str | Sequence[str] = ""
        self.replay = ""
        self.batch_size = 32
        self.replay_size = 0
        self.skip_mistakes = False
        self.max_tokens: int | None = 16384

    def supervise(
        self,
        *,
        transcripts: str | Path | Sequence[str | Path] = _NOT_GIVEN,
        replay: str | Path = _NOT_GIVEN,
        batch_size: int = _NOT_GIVEN,
        replay_size: int = _NOT_GIVEN,
        skip_mistakes: bool = _NOT_GIVEN,
        max_tokens: int | None = _NOT_GIVEN,
    ) -> Self:
        """Set the training data.

        Args:
            transcripts: Folder of transcripts, with their images, or several.
            replay: Folder of other ones, against forgetting: only the content of their answers is trained on, not when
                to answer.
            batch_size: Episodes in each step.
            replay_size: Episodes of ``replay`` in each step, in addition; only their answers are trained on.
            skip_mistakes: True if turns that an expert got wrong on purpose are context only, not trained on.
            max_tokens: Turns are left out at the end of episodes that have more tokens; None leaves out none.
        """
        given = {name: value for name, value in locals().items() if name != "self"}
        for name, value in given.items():
            if value is not _NOT_GIVEN:
                folders = isinstance(value, Sequence) and not isinstance(value, str)
                value = [str(folder) for folder in value] if folders else value
                setattr(self, name, str(value) if isinstance(value, Path) else value)
        return self

    @classmethod
    def setting_types(cls) -> dict[str, Any]:
        """Return the settings of `supervise`, and those of `training` that it uses, with their types."""
        own = dict(declared_types(cls.supervise))
        return own | {name: kind for name, kind in super().setting_types().items() if name not in _COMPARING}

    @classmethod
    def setting_texts(cls) -> dict[str, str]:
        """Return the meaning of each setting."""
        return documented(cls.supervise) | super().setting_texts()

    def check_values(self) -> None:
        """Check each setting by itself, and combinations.

        Raises:
            ConfigurationError: If one is not allowed.
        """
        super().check_values()
        self._check(is_whole(self.batch_size, 10**6), "batch_size", "a whole number of at least 1")
        none = self.replay_size == 0
        self._check(none or is_whole(self.replay_size, 10**6), "replay_size", "a whole number of at least 0")
        tokens = self.max_tokens
        self._check(tokens is None or is_whole(tokens, 10**9), "max_tokens", "a whole number of at least 1, or None")
        if self.replay_size and not self.replay:
            raise ConfigurationError(f"replay_size={self.replay_size} needs episodes: give replay, their folder.")
        self._check(self.num_epochs == 1, "num_epochs", "1: SFT goes through its episodes as long as it is trained")


class SFT(GRPO):
    """Supervised training on the assistant's tokens of given episodes: their mean negative log-likelihood.

    Episodes are drawn without putting back, anew in each epoch; so are those that are replayed. Runners are used for
    `evaluate` alone.
    """

    @classmethod
    def get_default_config(cls) -> SFTConfig:
        """Return the default configuration."""
        return SFTConfig()

    def setup(self, config: Any) -> None:  # noqa: ANN401 -- RLlib's
        """Read the episodes, and build learners and runners."""
        settings: SFTConfig = self.config if isinstance(self.config, SFTConfig) else SFTConfig()
        options = ModelOptions.from_mapping(settings.model_config)
        chat = ChatFormat(_load_processor(options.path), system=options.system)

        def read(given: str | Sequence[str], *, only_answers: bool = False) -> list[Sample]:
            folders = [given] if isinstance(given, str) else given
            samples = supervised_samples(
                chat,
                chain.from_iterable(read_transcripts(folder) for folder in folders),
                skip_mistakes=settings.skip_mistakes,
                only_answers=only_answers,
                max_tokens=settings.max_tokens,
            )
            if not samples:
                raise ConfigurationError(f"{', '.join(map(repr, folders))} holds no episode to learn from.")
            return samples

        self._samples = read(settings.transcripts)
        self._replay = read(settings.replay, only_answers=True) if settings.replay_size else []
        super().setup(config)

    @property
    def steps_an_epoch(self) -> float:
        """Steps in which every episode is seen once."""
        return len(self._samples) / self.config.batch_size

    def training_step(self) -> None:
        """Take the steps of an iteration."""
        begun = time.perf_counter()
        samples = self._next_samples()
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            self.learn(samples)
        updated = time.perf_counter()
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self._sync_weights()
        values = {
            "episodes": float(len(samples)),
            "epoch": self._groups_begun / len(self._samples),
            "seconds_update": updated - begun,
            "seconds_sync": time.perf_counter() - updated,
        }
        for name, value in values.items():
            self.metrics.log_value((GRPO_RESULTS, name), value, window=1)

    def _next_samples(self) -> list[Sample]:
        """Return the episodes of an iteration, each with the number of its step."""
        config, steps = self.config, self.config.num_minibatches
        seeds = [config.seed or 0]
        chosen = _drawn(self._samples, self._groups_begun, steps, config.batch_size, seeds)
        begun = self._groups_begun // config.batch_size * config.replay_size
        self._groups_begun += len(chosen)
        return chosen + _drawn(self._replay, begun, steps, config.replay_size, [*seeds, _REPLAY])


def _drawn(samples: Sequence[Sample], begun: int, steps: int, size: int, seeds: Sequence[int]) -> list[Sample]:
    """Draw samples without putting back, anew in each epoch, each with the number of its step.

    Args:
        samples: The samples to draw from.
        begun: Number drawn before.
        steps: Number of steps.
        size: Samples a step.
        seeds: Of the draws.

    Returns:
        ``steps * size`` samples.
    """
    chosen: list[Sample] = []
    orders: dict[int, Any] = {}
    for number in range(steps * size):
        epoch, place = divmod(begun + number, len(samples))
        if epoch not in orders:
            orders[epoch] = np.random.default_rng([*seeds, epoch]).permutation(len(samples))
        chosen.append(replace(samples[int(orders[epoch][place])], minibatches=(number // size,)))
    return chosen


def supervised_samples(
    chat: ChatFormat,
    transcripts: Iterable[Transcript],
    *,
    skip_mistakes: bool,
    only_answers: bool = False,
    max_tokens: int | None,
) -> list[Sample]:
    """Turn episodes into training samples.

    Args:
        chat: The model's chat format.
        transcripts: The episodes.
        skip_mistakes: True if turns that an expert got wrong on purpose are context only.
        only_answers: True if only the content of answers is trained on, not when to answer.
        max_tokens: Turns are left out at the end of episodes that have more tokens.

    Returns:
        One sample an episode; episodes without trained tokens are left out.
    """
    samples: list[Sample] = []
    for transcript in transcripts:
        wrong = _mistakes(transcript) if skip_mistakes else ()
        segment = tokenise_transcript(
            chat, transcript, untrained=wrong, only_answers=only_answers, max_tokens=max_tokens
        )
        if segment is not None and segment.loss_mask.any():
            samples += make_samples(transcript, None, segments=[segment])
    return samples


def _mistakes(transcript: Transcript) -> Sequence[int]:
    """Return the turns that are mistakes in the plan of an expert."""
    steps: Any = transcript.details.get("steps")
    if not isinstance(steps, Sequence) or isinstance(steps, str):
        return ()
    return [number for number, step in enumerate(steps) if step in WRONG_STEPS]


def _load_processor(path: str) -> Any:  # noqa: ANN401 -- transformers is untyped
    if path == TINY:
        from agile_gym.models.tiny.build import build_processor

        return build_processor()
    from agile_gym.models.processors import load_processor

    return load_processor(path)
