# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray are incomplete.
"""`GRPOConfig`, in the manner of RLlib's configurations, and its check of the cluster's resources."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.from_config import NotProvided

from agile_gym.envs.jigsaw.config import JigsawConfig
from agile_gym.errors import (
    ConfigurationError,
    check_types,
    declared_types,
    did_you_mean,
    documented,
    is_number,
    is_whole,
    one_line,
    require,
)
from agile_gym.learner.checks import (
    TRANSFERS,
    check_engine,
    check_evaluation,
    check_lag,
    check_numbers,
    check_transfer,
    warn_of_costly_looks,
)
from agile_gym.learner.correction import CORRECTIONS
from agile_gym.learner.groups import TaskMix
from agile_gym.learner.losses import LOSSES, clip_range
from agile_gym.learner.options import SCHEDULES, ModelOptions, mute_notices
from agile_gym.learner.resources import check_sharding, free_places
from agile_gym.learner.updating import SUPERVISED
from agile_gym.models.packing import PACKING
from agile_gym.transcripts.record import Transcript

if TYPE_CHECKING:
    from agile_gym.learner.learner_group import TokenLearnerGroup

__all__ = ["GRPOConfig"]

RewardFunction = Callable[[Transcript], float]
_WHOLE = 10**9
_NOT_GIVEN: Any = NotProvided

mute_notices()


class GRPOConfig(AlgorithmConfig):
    """The configuration of `GRPO`.

    Environments, runners, learners, evaluation, checkpoints and fault tolerance are set as for every algorithm of
    RLlib; the settings of GRPO are set with `training`, the model with `vlm`::

        config = (
            GRPOConfig()
            .environment("JigsawVision-v0", env_config={"grid": 2})
            .vlm(path="Qwen/Qwen2.5-VL-7B-Instruct", train="lora")
            .env_runners(num_env_runners=2)
            .learners(num_learners=2, num_gpus_per_learner=1)
            .training(lr=2e-6, group_size=8, groups_per_iteration=64)
        )
        algorithm = config.build_algo()

    Attributes:
        losses: The allowed losses.
    """

    losses: ClassVar[tuple[str, ...]] = tuple(LOSSES)

    def __init__(self, algo_class: type | None = None) -> None:
        """Begin with the defaults."""
        from agile_gym.learner.env_runner import VLMEnvRunner
        from agile_gym.learner.grpo import GRPO
        from agile_gym.learner.torch_learner import make_learner_connector

        super().__init__(algo_class=algo_class or GRPO)
        # Settings that GRPO adds; see `training`.
        self.loss = "grpo"
        self.clip_low: float | None = None
        self.clip_high: float | None = None
        self.kl_coef = 0.0
        self.entropy_coef = 0.0
        self.max_loss_tokens: int | None = None
        self.group_size = 8
        self.groups_per_iteration = 64
        self.advantage_scale = "group"
        self.leave_one_out = False
        self.credit = "episode"
        self.turn_discount = 1.0
        self.filter_zero_variance_groups = True
        self.resample_rounds = 0
        self.mask_truncated = False
        self.reward_fn: RewardFunction | None = None
        self.tasks: Sequence[Any] = ({},)
        self.curriculum = False
        self.num_minibatches = 1
        self.micro_batch_tokens = 16384
        self.packing = "off"
        self.adam_betas: tuple[float, float] = (0.9, 0.999)
        self.weight_decay = 0.0
        self.lr_schedule = "constant"
        self.lr_warmup_steps = 0
        self.lr_total_steps: int | None = None
        self.min_lr_ratio = 0.0
        self.temperature = 1.0
        self.max_new_tokens = 512
        self.window: int | None = None
        self.reuse_cache = True
        self.engine = "hf"
        self.engine_options: Mapping[str, Any] | None = None
        self.engine_sleep = False
        self.weights_transfer = "object_store"
        self.mismatch_correction: str | None = None
        self.mismatch_cap = 3.0
        self.rollout_batch = 64
        self.max_lag = 0
        self.policy_class: Any = None
        self.group_retries = 3
        self.learner_snapshots = True
        self.check_resources = True
        self.torch_threads_per_actor: int | None = 1
        self.sharding = "none"
        self.cpu_offload = False
        # RLlib's own, where its defaults do not suit episodes of a model that writes.
        self.lr = 2e-6
        self.grad_clip = 1.0
        self.num_epochs = 1
        self.seed = 0
        self.env_runner_cls = VLMEnvRunner
        self.create_local_env_runner = False  # else the driver holds another copy of the model
        self.sample_timeout_s = 1800.0  # a runner that takes longer counts as hung
        self.delay_between_env_runner_restarts_s = 1.0
        self.restart_failed_env_runners = True
        self.evaluation_duration = 256
        self.evaluation_num_env_runners = 0
        self.add_default_connectors_to_env_to_module_pipeline = False
        self.add_default_connectors_to_module_to_env_pipeline = False
        self.add_default_connectors_to_learner_pipeline = False
        self._learner_connector = make_learner_connector
        self._dont_auto_sync_env_runner_states = True
        self._model_config = {**ModelOptions().to_mapping()}

    def vlm(self, **options: Any) -> Self:  # noqa: ANN401 -- the fields of ModelOptions
        """Set the model, and the options of its training.

        Args:
            **options: The fields of `ModelOptions`, such as ``path`` and ``train``; those not given keep their values.

        Raises:
            ConfigurationError: If there is no such option, or a value is not allowed.
        """
        known = self._model_config if isinstance(self._model_config, Mapping) else {}
        self._model_config = ModelOptions.from_mapping({**known, **options}).to_mapping()
        return self

    def training(  # pyright: ignore[reportIncompatibleMethodOverride] -- RLlib's ``lr`` may be a schedule
        self,
        *,
        lr: float = _NOT_GIVEN,
        grad_clip: float | None = _NOT_GIVEN,
        num_epochs: int = _NOT_GIVEN,
        loss: str = _NOT_GIVEN,
        clip_low: float | None = _NOT_GIVEN,
        clip_high: float | None = _NOT_GIVEN,
        kl_coef: float = _NOT_GIVEN,
        entropy_coef: float = _NOT_GIVEN,
        max_loss_tokens: int | None = _NOT_GIVEN,
        group_size: int = _NOT_GIVEN,
        groups_per_iteration: int = _NOT_GIVEN,
        advantage_scale: str = _NOT_GIVEN,
        leave_one_out: bool = _NOT_GIVEN,
        credit: str = _NOT_GIVEN,
        turn_discount: float = _NOT_GIVEN,
        filter_zero_variance_groups: bool = _NOT_GIVEN,
        resample_rounds: int = _NOT_GIVEN,
        mask_truncated: bool = _NOT_GIVEN,
        reward_fn: RewardFunction | None = _NOT_GIVEN,
        tasks: Sequence[TaskMix | Mapping[str, Any]] = _NOT_GIVEN,
        curriculum: bool = _NOT_GIVEN,
        num_minibatches: int = _NOT_GIVEN,
        micro_batch_tokens: int = _NOT_GIVEN,
        packing: str = _NOT_GIVEN,
        adam_betas: tuple[float, float] = _NOT_GIVEN,
        weight_decay: float = _NOT_GIVEN,
        lr_schedule: str = _NOT_GIVEN,
        lr_warmup_steps: int = _NOT_GIVEN,
        lr_total_steps: int | None = _NOT_GIVEN,
        min_lr_ratio: float = _NOT_GIVEN,
        temperature: float = _NOT_GIVEN,
        max_new_tokens: int = _NOT_GIVEN,
        window: int | None = _NOT_GIVEN,
        reuse_cache: bool = _NOT_GIVEN,
        engine: str = _NOT_GIVEN,
        engine_options: Mapping[str, Any] | None = _NOT_GIVEN,
        engine_sleep: bool = _NOT_GIVEN,
        weights_transfer: str = _NOT_GIVEN,
        mismatch_correction: str | None = _NOT_GIVEN,
        mismatch_cap: float = _NOT_GIVEN,
        rollout_batch: int = _NOT_GIVEN,
        max_lag: int = _NOT_GIVEN,
        policy_class: Callable[..., Any] | None = _NOT_GIVEN,
        group_retries: int = _NOT_GIVEN,
        learner_snapshots: bool = _NOT_GIVEN,
        check_resources: bool = _NOT_GIVEN,
        torch_threads_per_actor: int | None = _NOT_GIVEN,
        sharding: str = _NOT_GIVEN,
        cpu_offload: bool = _NOT_GIVEN,
        **kwargs: Any,  # noqa: ANN401 -- RLlib's
    ) -> Self:
        """Set the training of the model.

        Args:
            lr: Learning rate of AdamW; its course is set with ``lr_schedule``.
            grad_clip: Gradients of a larger norm are scaled down to it; None leaves them.
            num_epochs: Number of passes over the episodes of an iteration.
            loss: The policy loss: ``"grpo"``, ``"dr_grpo"``, ``"dapo"`` or ``"gspo"``; see `agile_gym.learner.losses`.
            clip_low: Probability ratios are clipped at 1 - ``clip_low``; None for the loss's own: 0.2, and 3e-4 of
                ``"gspo"``.
            clip_high: Probability ratios are clipped at 1 + ``clip_high``; None for the loss's own: 0.2, 0.28 of
                ``"dapo"``, and 4e-4 of ``"gspo"``.
            kl_coef: Weight of the KL divergence from the model before training.
            entropy_coef: Weight of the entropy bonus.
            max_loss_tokens: Divisor of an episode's loss in ``"dr_grpo"``; None for ``max_new_tokens`` times the
                largest number of turns.
            group_size: Episodes of each puzzle, a group: advantages compare their returns.
            groups_per_iteration: Puzzles of each iteration.
            advantage_scale: Divisor of a return's difference from its group's mean: the standard deviation of the
                ``"group"``, that of the ``"batch"``, or ``"none"``.
            leave_one_out: Compares a return with the mean of the group's other episodes, not of all.
            credit: Unit that an advantage belongs to: the ``"episode"``, as in GRPO, or each ``"turn"``, whose
                return-to-go is compared with that of the group's other episodes at the same turn. Groups are still left
                out by the returns of their episodes.
            turn_discount: Discount of a reward one turn earlier, 0 to 1, where ``credit`` is ``"turn"``.
            filter_zero_variance_groups: Leaves out groups whose episodes all have the same return, and no advantage.
            resample_rounds: Number of times that groups left out are replaced by new ones, in an iteration (DAPO).
            mask_truncated: Leaves out episodes with a turn that was cut off by ``max_new_tokens``.
            reward_fn: Gives the return of an episode from its transcript, instead of the environment's reward.
            tasks: The mix of tasks: mappings with ``name``, ``weight`` and ``options``, and ``grid`` and ``level``, or
                ``env`` (another environment), ``images`` and ``test_images``; see `agile_gym.learner.groups.TaskMix`.
                By default, the environment's.
            curriculum: Plays tasks more often the more of their groups have variance.
            num_minibatches: Steps of the optimiser for each epoch.
            micro_batch_tokens: Tokens that are computed at once, padding included.
            packing: ``"on"`` computes episodes one behind the other in one row, without padding; ``"off"`` pads them to
                one length; ``"auto"`` packs if model and attention can.
            adam_betas: Decay rates of AdamW's means of gradients, and of their squares.
            weight_decay: Weight decay of AdamW.
            lr_schedule: Course of the learning rate after the warm-up: ``"constant"``, or down by ``"linear"`` or
                ``"cosine"``.
            lr_warmup_steps: Steps of the optimiser over which the learning rate rises from 0.
            lr_total_steps: Steps of the optimiser in all, for the schedule; `agile-gym train` counts them if it is
                None.
            min_lr_ratio: Fraction of ``lr`` that is left at the end of the schedule.
            temperature: Divisor of the logits, in sampling and in training.
            max_new_tokens: Largest number of tokens of a turn.
            window: Number of last turns whose images stay in the context; None keeps all.
            reuse_cache: True if key-value caches are kept from turn to turn.
            engine: Engine that writes turns: ``"hf"``, transformers, or ``"vllm"``.
            engine_options: Arguments of ``vllm.LLM``, such as ``max_model_len`` and ``gpu_memory_utilization``.
            engine_sleep: Frees the memory of vLLM while the learners compute, where they share its GPU.
            weights_transfer: Way of new weights to runners in processes of their own: Ray's ``"object_store"``;
                ``"nccl"``, or ``"gloo"`` on CPUs, a process group; ``"ipc"``, memory that both share.
            mismatch_correction: Correction of the difference between the sampler's probabilities and the learner's:
                ``"none"``, ``"token_truncate"`` weights tokens by their ratio, at most ``mismatch_cap``, and
                ``"sequence_mask"`` sequences by theirs, leaving out those above. None for ``"sequence_mask"`` with
                vLLM, else ``"none"``.
            mismatch_cap: Largest ratio of the learner's probability to the sampler's.
            rollout_batch: Episodes that a runner plays in one batch.
            max_lag: Largest number of updates that a group's weights lack when it is trained on. 0 plays and trains in
                turn; 1 and more play the next iterations' groups meanwhile, on runners in processes of their own.
            policy_class: Class of the policy that plays; takes the arguments of `HFVLMPolicy`.
            group_retries: Number of times that a group is played again after its runner died or its environment raised.
            learner_snapshots: Keeps a copy of the learners' state, so that training goes on if one of them dies.
            check_resources: Refuses to begin where the cluster is too small; turn it off if it grows on demand.
            torch_threads_per_actor: Threads of torch in each process; None leaves them as they are.
            sharding: ``"full"`` divides parameters, gradients and the optimiser's state among the learners (FSDP2);
                ``"none"`` gives each learner all of them. A learner in this process has all of them in any case.
            cpu_offload: Keeps these on the CPU between computations, where ``sharding`` is ``"full"``.
            **kwargs: RLlib's.

        Raises:
            ConfigurationError: If there is no such setting.
        """
        given = {name: value for name, value in locals().items() if name not in ("self", "kwargs", "__class__")}
        allowed = set(inspect.signature(AlgorithmConfig.training).parameters) - {"self"}
        for name in kwargs:
            if name not in allowed:
                raise ConfigurationError(f"GRPO has no setting {name!r}. {did_you_mean(name, allowed | set(given))}")
        super().training(**kwargs)
        for name, value in given.items():
            if value is not _NOT_GIVEN:
                setattr(self, name, value)
        return self

    def task_mix(self) -> tuple[TaskMix, ...]:
        """Return the tasks."""
        return TaskMix.from_mappings(self.tasks)

    @property
    def clip_range(self) -> tuple[float, float]:
        """Distances below and above 1 at which ratios are clipped: as set, or the loss's own by default."""
        low, high = clip_range(self.loss)
        return low if self.clip_low is None else self.clip_low, high if self.clip_high is None else self.clip_high

    @property
    def correction(self) -> str:
        """Correction of the mismatch: as set, or the engine's own by default."""
        default = "sequence_mask" if self.engine == "vllm" else "none"
        return default if self.mismatch_correction is None else self.mismatch_correction

    def loss_arguments(self) -> dict[str, Any]:
        """Return the options of the loss."""
        if self.loss == SUPERVISED:
            return {}
        low, high = self.clip_range
        arguments: dict[str, Any] = {
            "clip_low": low,
            "clip_high": high,
            "kl_coef": self.kl_coef,
            "entropy_coef": self.entropy_coef,
        }
        if self.loss == "dr_grpo":
            given = [task.resolve(self.env, self.env_config, test=False)[1] for task in self.task_mix()]
            turns = max(options.get("max_turns", JigsawConfig().max_turns) for options in given)
            arguments["max_tokens"] = self.max_loss_tokens or self.max_new_tokens * turns
        return arguments

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the specification of the module."""
        from agile_gym.learner.env_runner import PLACEHOLDER_SPACE
        from agile_gym.learner.module import VLMModule

        return RLModuleSpec(module_class=VLMModule, observation_space=PLACEHOLDER_SPACE, action_space=PLACEHOLDER_SPACE)

    def get_default_learner_class(self) -> type:
        """Return the learner's class."""
        from agile_gym.learner.torch_learner import TokenLearner

        return TokenLearner

    @classmethod
    def setting_types(cls) -> dict[str, Any]:
        """Return the settings of `training`, but for those that are RLlib's alone, with their types."""
        return {name: kind for name, kind in declared_types(GRPOConfig.training).items() if name != "kwargs"}

    @classmethod
    def setting_texts(cls) -> dict[str, str]:
        """Return the meaning of each setting."""
        return documented(GRPOConfig.training)

    @classmethod
    def described(cls) -> dict[str, tuple[Any, Any, str]]:
        """Return type, default and meaning of each setting."""
        defaults, texts = vars(cls()), cls.setting_texts()
        return {name: (kind, defaults[name], texts[name]) for name, kind in cls.setting_types().items()}

    def check_values(self) -> None:
        """Check each setting by itself, and combinations; RLlib's are checked by `validate`.

        Raises:
            ConfigurationError: If one is not allowed.
        """
        kinds = self.setting_types()
        check_types(kinds, {name: getattr(self, name) for name in kinds})
        check_numbers(self)
        for name, allowed in (
            ("loss", self.losses),
            ("advantage_scale", ("group", "batch", "none")),
            ("credit", ("episode", "turn")),
            ("lr_schedule", SCHEDULES),
            ("packing", PACKING),
            ("sharding", ("none", "full")),
            ("engine", ("hf", "vllm")),
            ("weights_transfer", TRANSFERS),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigurationError(f"{name}={value!r} is not allowed. {did_you_mean(value, allowed)}")
        self._check(self.correction in CORRECTIONS, "mismatch_correction", f"one of {', '.join(CORRECTIONS)}")
        self._check(is_number(self.mismatch_cap, 1e-3, 1e6), "mismatch_cap", "a number above 0")
        check_engine(self)
        self.task_mix()
        ModelOptions.from_mapping(self._model_config if isinstance(self._model_config, Mapping) else {})

    def validate(self) -> None:
        """Check the settings.

        Raises:
            ConfigurationError: If one is not allowed.
        """
        self.check_values()
        try:
            super().validate()
        except (TypeError, ValueError) as error:  # RLlib's, which may take several lines
            raise ConfigurationError(one_line(str(error))) from error
        if self.lr_schedule != "constant" and not is_whole(self.lr_total_steps, _WHOLE):
            raise ConfigurationError(
                f"lr_schedule={self.lr_schedule!r} needs lr_total_steps, the number of steps in all; it is "
                f"{self.lr_total_steps!r}."
            )
        if self.is_multi_agent:
            raise ConfigurationError("GRPO trains one model; a multi-agent configuration is not supported.")
        check_evaluation(self)
        if self.loss != SUPERVISED:
            warn_of_costly_looks(self)
        check_sharding(self)
        check_lag(self)
        check_transfer(self)

    def build_learner_group(self, **kwargs: Any) -> TokenLearnerGroup:  # noqa: ANN401 -- RLlib's
        """Return the learners; see RLlib.

        Args:
            **kwargs: RLlib's.
        """
        from agile_gym.learner.learner_group import TokenLearnerGroup

        free_places()
        spec = kwargs.pop("rl_module_spec", None) or self.get_multi_rl_module_spec(
            env=kwargs.pop("env", None), spaces=kwargs.pop("spaces", None)
        )
        return TokenLearnerGroup(config=self.copy(), module_spec=spec, placement_group=kwargs.get("placement_group"))

    def _check(self, condition: bool, name: str, allowed: str) -> None:
        require(condition, name, getattr(self, name), allowed)
