"""``agile-gym tiny``: writes the tiny model, untrained, as an ordinary model directory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from agile_gym.errors import ConfigurationError

__all__ = ["add_tiny_command"]


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
    from agile_gym.policies.tiny import save_tiny
    from agile_gym.rollout.files import filling

    try:
        with filling(options.output, replace=False) as beside:
            save_tiny(beside, options.seed)
    except FileExistsError as error:
        raise ConfigurationError(
            f"{error.filename} is there already, and would be replaced; give another folder."
        ) from error
    print(f"Written: {options.output} (its pieces have 32 x 32 pixels: image_size=64 for 2x2, with prompt=short)")
    return 0
