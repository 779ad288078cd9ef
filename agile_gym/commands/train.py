"""``agile-gym train``: from photographs to a model; and ``agile-gym tiny``: the tiny model, untrained."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from agile_gym.commands.shared import add_env, find_modules_here, read_pairs
from agile_gym.errors import ConfigurationError

__all__ = ["add_tiny_command", "add_train_command"]


def add_tiny_command(commands: Any) -> None:  # noqa: ANN401 -- argparse names no type for it
    """Add the command ``tiny``.

    Args:
        commands: What ``ArgumentParser.add_subparsers`` returned.
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
    command.add_argument("--preset", default="tiny", help="tiny, agile_7b or a TOML file (default: %(default)s)")
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
        read_run_settings(options.output)  # with a word on what is damaged, if anything is
        preset = str(options.output / SETTINGS)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait leave the processor to others
    from agile_gym.training.pipeline import Interrupted, TrainingRun, check_settings

    find_modules_here()
    settings = read_settings(preset, changes)
    if options.dry_run:
        from agile_gym.training.dry_run import describe_run

        check_settings(settings)
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
    print(f"\nWritten: {report} (report), {options.output / 'grpo' / 'model'} (model)")
    return 0
