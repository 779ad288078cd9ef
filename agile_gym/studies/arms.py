"""Arms of a study, and the runs that train them: one for each arm and seed, and one for each stage that arms share."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agile_gym.errors import ConfigurationError, did_you_mean
from agile_gym.evaluation.plan import EnvironmentEntry, EvaluationPlan, SuiteEntry
from agile_gym.puzzle.board import parse_grid, parse_level
from agile_gym.studies.photographs import Photographs, uses_photographs
from agile_gym.studies.spec import BASE, STAGES, Evaluation, Factor, Study, no_duplicates
from agile_gym.training import stages
from agile_gym.training.sections import SFTSettings
from agile_gym.training.settings import RunSettings, read_settings
from agile_gym.training.tasks import environment_options

__all__ = [
    "Arm",
    "Run",
    "check_arms",
    "divides_photographs",
    "evaluation_of",
    "expand",
    "fill",
    "fill_evaluations",
    "plan_runs",
]

_READ_BEFORE = {"cold_start": ("vision",), "grpo": ("vision", "cold_start", "sft")}
"""Sections that are read only before a stage."""
_SLUG = re.compile(r"[^A-Za-z0-9.+%-]+")


@dataclass(frozen=True)
class Arm:
    """An arm: settings with a name.

    Attributes:
        name: Its name.
        values: Name of its value, by factor; none for factors that are as in the base.
        changes: Its settings, by ``"section.key"``, by the stage before which they hold: those of ``"vision"``
            and ``"cold_start"`` lack changes of factors that begin later, and those of ``"grpo"`` are its own.
    """

    name: str
    values: Mapping[str, str]
    changes: Mapping[str, Mapping[str, Any]]

    @property
    def slug(self) -> str:
        """Its name as that of a folder."""
        return _SLUG.sub("_", self.name)


@dataclass(frozen=True)
class Run:
    """A run of the training pipeline.

    Attributes:
        name: Its name, which is that of its folder.
        settings: Its settings, with names of photographs as in the study's file.
        seed: Its seed.
        arm: Name of the arm; None for one that only has shared stages.
        base: The run whose stages it begins with, or None.
        last: The last stage that it takes from there: ``"vision"`` or ``"cold_start"``.
        users: Number of arms and seeds that need it.
    """

    name: str
    settings: RunSettings
    seed: int
    arm: str | None = None
    base: str | None = None
    last: str | None = None
    users: int = 1


def expand(study: Study) -> list[Arm]:
    """Return the arms, in the order of the factors and their values.

    Raises:
        ConfigurationError: If two have the same name, a factor changes what its stage does not read, or a name that
            the study gives is not that of an arm.
    """
    for factor in study.factors:
        _check_stage(factor)
    arms: list[Arm] = []
    if study.design == "one":
        chosen: list[dict[str, str]] = [
            {},
            *({factor.name: value} for factor in study.factors for value in factor.values),
        ]
    else:
        names = [factor.name for factor in study.factors]
        combinations = itertools.product(*(factor.values for factor in study.factors))
        chosen = [dict(zip(names, values, strict=True)) for values in combinations]
    for values in chosen:
        changes: dict[str, dict[str, Any]] = {}
        for place, stage in enumerate(STAGES):
            mine = dict(study.settings)
            for factor in study.factors:
                if factor.name in values and STAGES.index(factor.stage) <= place:
                    mine |= factor.values[values[factor.name]]
            changes[stage] = mine
        arms.append(Arm(", ".join(values.values()) or BASE, values, changes))
    no_duplicates("arm", (arm.name for arm in arms))
    no_duplicates("folder of an arm", (arm.slug for arm in arms))
    names = [arm.name for arm in arms]
    for what, name in [("reference", study.reference), *(("[paper] arms", name) for name in study.paper)]:
        if name is not None and name not in names:
            raise ConfigurationError(f"{what}: there is no arm {name!r}. {did_you_mean(name, names)}")
    return arms


def _check_stage(factor: Factor) -> None:
    for value, settings in factor.values.items():
        for key in settings:
            section = key.partition(".")[0]
            if section in _READ_BEFORE.get(factor.stage, ()):
                raise ConfigurationError(
                    f"[factors.{factor.name}] {value}: {key} is read before the stage {factor.stage}, so that it would "
                    f'change nothing. Set stage = "{section if section in STAGES else "cold_start"}".'
                )
            if key == "seed":
                raise ConfigurationError(f"[factors.{factor.name}] {value}: a seed is no factor; set seeds.")


def check_arms(study: Study, arms: list[Arm]) -> dict[str, dict[str, RunSettings]]:
    """Return the settings of the arms, by arm and stage, with the first seed.

    Raises:
        ConfigurationError: If there is no setting of a name, a value is of another type, or two arms are alike.
    """
    if "seed" in study.settings:
        raise ConfigurationError("[settings] seed: set seeds instead.")
    found = {arm.name: _settings_of(study, arm, study.seeds[0]) for arm in arms}
    seen: dict[str, str] = {}
    for name, settings in found.items():
        key = _digest({stage: one.to_mapping() for stage, one in settings.items()})
        if key in seen:
            raise ConfigurationError(f"the arms {seen[key]!r} and {name!r} have the same settings; leave one out.")
        seen[key] = name
    return found


def _settings_of(study: Study, arm: Arm, seed: int) -> dict[str, RunSettings]:
    found: dict[str, RunSettings] = {}
    for stage, changes in arm.changes.items():
        changed = {**changes, "seed": seed}
        if _needs_test(study):
            changed.setdefault("images.test", "{test}")  # so that all arms are evaluated on the same photographs
        try:
            found[stage] = read_settings(study.preset, changed)
        except ConfigurationError as error:
            raise ConfigurationError(f"arm {arm.name!r}: {error}") from None
    return found


def _needs_test(study: Study) -> bool:
    return bool({"test", "part"} & uses_photographs([dict(study.settings), [dict(f.values) for f in study.factors]]))


def divides_photographs(study: Study) -> bool:
    """Return whether the study needs the photographs to train on and to test on as folders of their own."""
    return _needs_test(study) or "test" in uses_photographs([dict(entry.options) for entry in study.evaluations])


def plan_runs(study: Study, arms: list[Arm]) -> list[Run]:
    """Return all runs, seed by seed; one comes after the one that it begins with.

    So a study whose budget is spent has all arms of some seeds, rather than some arms of all.

    A stage is done once for all arms and seeds whose settings are the same up to its end. What a stage reads is its own
    section and those of earlier stages, images, environment and model, and, of GRPO, what supervised training takes
    from it.
    """
    shared: dict[str, Run] = {}
    own: list[Run] = []
    entries = [(arm, seed, _settings_of(study, arm, seed)) for arm in arms for seed in study.seeds]
    cold_users: dict[str, int] = {}
    vision_users: dict[str, set[str]] = {}
    for arm, seed, settings in entries:
        vision, cold = _keys(settings)
        if cold is not None:
            cold_users[cold] = cold_users.get(cold, 0) + 1
        if vision is not None:
            vision_users.setdefault(vision, set()).add(cold or f"{arm.name} {seed}")
    for arm, seed, settings in entries:
        vision, cold = _keys(settings)
        name = f"{arm.slug}-seed{seed}"
        base = last = None
        joins = cold is not None and (cold_users[cold] > 1 or _differs(settings, "cold_start", "grpo"))
        later = ("cold_start",) if joins else ("cold_start", "grpo")
        if vision is not None and (len(vision_users[vision]) > 1 or _differs(settings, "vision", *later)):
            base, last = f"vision-{vision}", "vision"
            alone = settings["vision"].changed({"cold_start.count": 0, "grpo.iterations": 0})
            _share(shared, Run(base, alone, seed))
        if joins:
            alone = settings["cold_start"].changed({"grpo.iterations": 0})
            _share(shared, Run(f"cold-start-{cold}", alone, seed, base=base, last=last))
            base, last = f"cold-start-{cold}", "cold_start"
        own.append(Run(name, settings["grpo"], seed, arm.name, base, last))
    return sorted([*shared.values(), *own], key=lambda run: study.seeds.index(run.seed))  # shared ones stay before


def _share(shared: dict[str, Run], run: Run) -> None:
    former = shared.get(run.name)
    shared[run.name] = run if former is None else replace(former, users=former.users + 1)


def _keys(settings: Mapping[str, RunSettings]) -> tuple[str | None, str | None]:
    """Return a hash of what vision pretraining reads, and of what supervised training reads; None without the stage."""
    vision = _vision_read(settings["vision"]) if stages.has_vision_pretraining(settings["vision"]) else None
    cold = _cold_read(settings["cold_start"]) if settings["cold_start"].has_cold_start else None
    return None if vision is None else _digest(vision), None if cold is None else _digest([vision, cold])


def _differs(settings: Mapping[str, RunSettings], stage: str, *later: str) -> bool:
    """Return whether a later stage's settings would lead to something else in a stage than the stage's own."""
    read = _vision_read if stage == "vision" else _cold_read
    return any(read(settings[other]) != read(settings[stage]) for other in later)


def _vision_read(settings: RunSettings) -> dict[str, Any]:
    values = settings.to_mapping()
    return {key: values[key] for key in ("seed", "images", "environment", "model", "vision")}


def _cold_read(settings: RunSettings) -> dict[str, Any]:
    values = settings.to_mapping()
    grpo = settings.grpo.given()
    taken = {key: grpo[key] for key in (*SFTSettings.as_in_grpo, "tasks") if key in grpo}
    processes = {key: values["resources"][key] for key in ("runners", "learners")}
    own = {key: values[key] for key in ("seed", "images", "environment", "model", "cold_start", "sft")}
    return own | {"grpo": taken, "resources": processes}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]


def fill(settings: RunSettings, photographs: Photographs) -> RunSettings:
    """Return settings with the photographs that their names stand for.

    Raises:
        ConfigurationError: If there are fewer than a part wants.
    """
    return RunSettings(**photographs.fill(settings.explicit()))


def fill_evaluations(study: Study, photographs: Photographs) -> list[Evaluation]:
    """Return the evaluations with the photographs that their options name."""
    return [replace(entry, options=photographs.fill(dict(entry.options))) for entry in study.evaluations]


def evaluation_of(entry: Evaluation, settings: RunSettings, model: str) -> EvaluationPlan:
    """Return what an evaluation of the study plays with a model of a run.

    Args:
        entry: The evaluation, with its photographs.
        settings: Settings of the run, with theirs.
        model: Folder of the model.

    Raises:
        ConfigurationError: If a setting of it is not allowed.
    """
    own = stages.evaluation_plan(settings, model)
    extra = dict(entry.options)
    if entry.grid is None:
        env = str(entry.env)
        return EvaluationPlan(
            policy=own.policy,
            entries=[EnvironmentEntry(env, entry.episodes)],
            seed=settings.evaluation.seed,
            options=extra,
            policy_options=own.policy_options,
        )
    options = environment_options(settings, test=True)
    if settings.env is not None:
        source, options = options.get("images"), {"split": "test"}
    else:
        source = options.pop("images")
    rows, cols = parse_grid(entry.grid)
    levels = parse_level(entry.levels, rows * cols)
    return EvaluationPlan(
        policy=own.policy,
        entries=[SuiteEntry(entry.grid, levels, entry.episodes)],
        seed=settings.evaluation.seed,
        images=source,
        options={**{key: options[key] for key in options if key not in ("grid", "level")}, **extra},
        policy_options=own.policy_options,
    )
