"""``agile-gym train``: from photographs to a model; ``coldstart``: expert episodes; ``tiny``: the untrained model."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agile_gym.commands import add_env, env_of, find_modules_here, read_pairs
from agile_gym.errors import ConfigurationError
from agile_gym.training.texts import preset_names

if TYPE_CHECKING:
    from agile_gym.coldstart.config import ColdStartConfig
    from agile_gym.training.settings import RunSettings

__all__ = ["add_coldstart_command", "add_tiny_command", "add_train_command", "final_model"]


def add_tiny_command(commands: Any) -> None:  # noqa: ANN401 -- argparse names no type for it
    """Add the command ``tiny``.

    Args:
        commands: Result of ``ArgumentParser.add_subparsers``.
    """
    command: argparse.ArgumentParser = commands.add_parser(
        "tiny", help="write a tiny vision-language model, untrained, to try things out with"
    )
    command.add_argument("output", type=Path, metavar="DIR", help="folder of the model; made if it does not exist")
    command.add_argument("--seed", type=int, default=0, help="seed of its weights (default: %(default)s)")
    command.set_defaults(run=_tiny)


def _tiny(options: argparse.Namespace) -> int:
    if (options.output / "config.json").exists():
        raise ConfigurationError(f"{options.output} holds a model already; give another folder.")
    from agile_gym.files import filling
    from agile_gym.models.tiny.build import save_tiny

    try:
        with filling(options.output, replace=False) as beside:
            save_tiny(beside, options.seed)
    except FileExistsError as error:
        raise ConfigurationError(
            f"{error.filename} is there already, and would be replaced; give another folder."
        ) from error
    print(f"Written: {options.output} (its pieces have 32 x 32 pixels: image_size=64 for 2x2, with prompt=short)")
    return 0


def add_train_command(commands: Any) -> None:  # noqa: ANN401 -- argparse has no public name for it
    """Add the command."""
    command = commands.add_parser(
        "train",
        help="train a model: cold start, GRPO, evaluation, report",
        description="Trains a vision-language model: cold start, then GRPO, then evaluation, with a report.",
    )
    names = ", ".join(preset_names())
    command.add_argument("--preset", default="tiny", help=f"{names} or a TOML file (default: %(default)s)")
    command.add_argument("--print", dest="shown", metavar="PRESET", help="print a preset, and exit")
    command.add_argument(
        "--list-settings", action="store_true", help="print every setting: type, default and meaning, and exit"
    )
    command.add_argument(
        "--output", type=Path, default=Path("train"), metavar="DIR", help="the run's folder (default: %(default)s)"
    )
    add_env(command)
    command.add_argument("--images", help="photographs to train on (default: the built-in ones)")
    command.add_argument("--test-images", help="photographs to test on (default: a split of the others)")
    command.add_argument("--model", help="folder or name of a model (default: the preset's)")
    command.add_argument("--seed", type=int, help="seed of everything (default: the preset's)")
    command.add_argument("--runners", type=int, help="processes that play (default: the preset's)")
    command.add_argument("--learners", type=int, help="processes that learn (default: the preset's)")
    command.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a setting"
    )
    command.add_argument("--dry-run", action="store_true", help="print the plan: sizes, memory, tokens, time; and exit")
    command.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    command.add_argument("--overwrite", action="store_true", help="replace a run")
    command.add_argument("--wandb", action="store_true", help="also send figures to Weights & Biases")
    command.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    from agile_gym.errors import import_optional

    for package in ("ray", "pydantic"):
        import_optional(package, extra="train", purpose="train")
    from agile_gym.training.folder import SETTINGS, read_run_settings
    from agile_gym.training.settings import read_settings
    from agile_gym.training.texts import preset_text, reference

    if options.shown is not None:
        print(preset_text(options.shown), end="")
        return 0
    if options.list_settings:
        print(reference(), end="")
        return 0
    changes = read_pairs(options.changes, "--set", "grpo.lr=1e-4")
    for flag, key, value in (
        ("--env", "environment.id", options.env),
        ("--images", "images.train", options.images),
        ("--test-images", "images.test", options.test_images),
        ("--model", "model.path", options.model),
        ("--seed", "seed", options.seed),
        ("--runners", "resources.runners", options.runners),
        ("--learners", "resources.learners", options.learners),
    ):
        if value is not None:
            if key in changes:
                raise ConfigurationError(f"--set {key} sets {flag} a second time; leave one of the two out.")
            changes[key] = value
    if options.resume and options.overwrite:
        raise ConfigurationError("--resume and --overwrite exclude each other.")
    preset = options.preset
    if options.resume:
        read_run_settings(options.output)  # which names a damaged file, if there is one
        preset = str(options.output / SETTINGS)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait leave the processor to others
    from agile_gym.training.pipeline import Interrupted, TrainingRun, check_settings

    find_modules_here()
    settings = read_settings(preset, changes)
    if options.dry_run:
        import torch

        from agile_gym.training.dry_run import describe_run

        resources = settings.resources
        on_gpus = bool(resources.gpus_per_learner or resources.gpus_per_runner)
        planned = on_gpus and resources.address is None and not torch.cuda.is_available()  # for another machine
        check_settings(settings, elsewhere=planned)
        print("\n".join(describe_run(settings)))
        return 0
    run = TrainingRun(
        settings,
        options.output,
        resume=options.resume,
        overwrite=options.overwrite,
        wandb=options.wandb,
    )
    try:
        report = run.run()
    except Interrupted as interruption:
        print(f"\nSaved. Go on with: agile-gym train --output {options.output} --resume", file=sys.stderr)
        return interruption.status
    model = final_model(settings, options.output)
    print(f"\nWritten: {report} (report)" + ("" if model is None else f", {model} (model)"))
    return 0


def final_model(settings: RunSettings, output: Path) -> Path | None:
    """Return the folder of the model of a run's last stage that trains; None if none does."""
    from agile_gym.training.stages import has_vision_pretraining

    trains = {
        "grpo": settings.grpo.iterations,
        "sft": settings.has_cold_start,
        "vision": has_vision_pretraining(settings),
    }
    return next((output / stage / "model" for stage, there in trains.items() if there), None)


_EXPERT_FLAGS = ("style", "mistakes", "slips")


def add_coldstart_command(commands: Any) -> None:  # noqa: ANN401 -- argparse names no type for it
    """Add the command ``coldstart``.

    Args:
        commands: Result of ``ArgumentParser.add_subparsers``.
    """
    command: argparse.ArgumentParser = commands.add_parser(
        "coldstart",
        help="write expert episodes for supervised fine-tuning",
        description="Has a teacher play, and keeps solved episodes, balanced over turns and kinds of action.",
    )
    add = command.add_argument
    add("--output", type=Path, default=Path("cold-start"), metavar="DIR", help="folder (default: %(default)s)")
    add("--count", type=int, default=1600, help="episodes wanted (default: %(default)s)")
    players = "expert, hf:PATH, vllm:PATH, api:MODEL or module:attribute"
    add("--teacher", default="expert", help=f"{players} (default: %(default)s)")
    add("--teacher-option", action="append", default=[], metavar="KEY=VALUE", help="option of the teacher")
    add("--style", default=None, help="of the expert: full, short, verdict or none (default: as the prompt)")
    add("--mistakes", type=float, default=None, help="of the expert: fraction with wrong moves (default: 0.3)")
    add("--slips", type=float, default=None, help="of the expert: fraction with actions that are errors (default: 0)")
    add_env(command)
    add("--grid", nargs="+", default=None, help="grids, such as 2 or 2 3 2x4 (default: 2)")
    add("--level", default=None, help="pieces in place at the start: 0, 0-2, all or any (default: 0)")
    add("--turns", type=int, nargs="+", default=None, metavar="N", help="smallest and largest (default: 4 8)")
    add("--balance", default="both", help="over turns, looks, both or none (default: %(default)s)")
    add("--looks", nargs="+", default=None, help="board (no closer look), crop, zoom, both (default: all)")
    add("--images", default=None, help="folder, file, or hf:NAME[:SPLIT[:COLUMN]] (default: built-in photographs)")
    add("--split", default="train", choices=("train", "all"), help="all: no image is for tests (default: train)")
    add("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the environment")
    add("--seed", type=int, default=0, help="seed of puzzles and episodes (default: %(default)s)")
    add("--allow-errors", action="store_true", help="keep episodes with errors that were mended")
    add("--same-texts", action="store_true", help="keep episodes with the text of another one")
    add("--max-attempts", type=int, default=None, help="episodes played at most (default: 10 for each one wanted)")
    add("--batch", type=int, default=8, help="episodes played in one batch (default: %(default)s)")
    add("--workers", type=int, default=1, help="processes that play (default: %(default)s)")
    add("--format", default="jsonl", help="jsonl or parquet (default: %(default)s)")
    add("--resume", action="store_true", help="go on with a cold start that was interrupted")
    add("--overwrite", action="store_true", help="begin anew even if the folder holds transcripts")
    command.set_defaults(run=_coldstart)


def _coldstart(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from agile_gym.coldstart.making import make_cold_start
    from agile_gym.interruption import stop_signals

    config = _config(options)
    if not config.is_expert:
        find_modules_here()
    with tqdm(total=config.count, unit="episode", file=sys.stderr) as bar, stop_signals() as stops:

        def show(attempts: int, kept: int) -> None:
            bar.set_postfix_str(f"{attempts:,} played", False)
            bar.update(kept - bar.n)
            stops.check()

        try:
            report = make_cold_start(
                options.output,
                config,
                batch=options.batch,
                workers=options.workers,
                format=options.format,
                resume=options.resume,
                overwrite=options.overwrite,
                on_attempt=show,
                on_lost=lambda sentence: bar.write(f"agile-gym: {sentence}", file=sys.stderr),
            )
        except BaseException:
            if bar.n:
                bar.write(f"{bar.n:,} episodes are kept; add --resume to go on.", file=sys.stderr)
            raise
    print(report.text())
    print(f"\nWritten: {report.folder} ({report.kept:,} episodes)")
    if not report.complete:
        print(f"agile-gym: {report.shortage()}", file=sys.stderr)
        return 1
    return 0


def _config(options: argparse.Namespace) -> ColdStartConfig:
    from agile_gym.coldstart.config import EXPERT, ColdStartConfig

    teacher_options = read_pairs(options.teacher_option, "--teacher-option", "temperature=0.7")
    for name in _EXPERT_FLAGS:
        value = getattr(options, name)
        if value is not None:
            if options.teacher != EXPERT:
                raise ConfigurationError(f"--{name} is an option of the expert; leave it out with another teacher.")
            teacher_options[name] = value
    jigsaw_only = ("grid", "level", "looks", *_EXPERT_FLAGS)
    env = env_of(options, {name: f"--{name}" for name in jigsaw_only})
    turns: list[int] | None = options.turns
    level = "0" if options.level is None else options.level
    return ColdStartConfig(
        count=options.count,
        teacher=options.teacher,
        teacher_options=teacher_options,
        grid=options.grid or ["2"],
        level=None if level == "any" else int(level) if level.isdecimal() else level,
        turns=turns[0] if turns is not None and len(turns) == 1 else turns,
        balance=options.balance,
        **({"looks": options.looks} if options.looks else {}),
        images=options.images,
        split="train" if options.split == "train" else None,
        seed=options.seed,
        options=read_pairs(options.option, "--option", "image_size=224"),
        distinct_texts=False if options.same_texts else None,
        allow_errors=options.allow_errors,
        max_attempts=options.max_attempts,
        env=env,
    )
