"""Catalogue of environments, and its registration with Gymnasium.

The catalogue is a folder of TOML files, one an environment: ``specs`` inside the installed package, or ``envs``
next to it in a checkout.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium

from agile_gym.errors import ConfigurationError, did_you_mean

__all__ = ["EnvCard", "catalogue_folder", "load_catalogue", "read_spec", "register_all"]

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class EnvCard:
    """An entry of the catalogue.

    Attributes:
        id: The id for ``gymnasium.make``.
        summary: One sentence for people.
        entry_point: ``"module:attribute"`` that makes one environment.
        vector_entry_point: The same for a vector environment, or None.
        horizon: Largest number of turns; becomes the keyword ``max_turns``.
        tags: Words to find it by.
        kwargs: Keyword arguments.
    """

    id: str
    summary: str
    entry_point: str
    horizon: int
    vector_entry_point: str | None = None
    tags: tuple[str, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])


_TYPES: dict[str, type] = {
    "id": str,
    "summary": str,
    "entry_point": str,
    "vector_entry_point": str,
    "horizon": int,
    "tags": list,
    "kwargs": dict,
}
_OPTIONAL = ("vector_entry_point", "tags", "kwargs")


def catalogue_folder() -> Path:
    """Return the folder that holds the catalogue."""
    inside = _PACKAGE / "specs"
    return inside if inside.is_dir() else _PACKAGE.parent / "envs"


def read_spec(path: Path) -> EnvCard:
    """Read one entry of the catalogue.

    Args:
        path: A TOML file.

    Returns:
        The entry.

    Raises:
        ConfigurationError: If the file is not TOML, or a key is missing, unknown or of the wrong type; file and key are
            named.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: this is not TOML: {error}") from error
    for key, value in values.items():
        if key not in _TYPES:
            raise ConfigurationError(f"{path}: there is no key {key!r}. {did_you_mean(key, _TYPES)}")
        if not isinstance(value, _TYPES[key]) or isinstance(value, bool):
            raise ConfigurationError(f"{path}: {key} = {value!r} must be a {_TYPES[key].__name__}.")
    missing = [key for key in _TYPES if key not in values and key not in _OPTIONAL]
    if missing:
        raise ConfigurationError(f"{path}: the key {missing[0]!r} is missing.")
    values["tags"] = tuple(values.get("tags", ()))
    return EnvCard(**values)


def load_catalogue(folder: Path | None = None) -> dict[str, EnvCard]:
    """Read the catalogue.

    Args:
        folder: Folder of the catalogue; the package's own by default.

    Returns:
        The entries by id, sorted.

    Raises:
        ConfigurationError: If there are no entries, a bad one, or two of one id.
    """
    folder = catalogue_folder() if folder is None else folder
    cards: dict[str, EnvCard] = {}
    for path in sorted(folder.glob("*.toml")):
        card = read_spec(path)
        if card.id in cards:
            raise ConfigurationError(f"{path}: the id {card.id!r} exists already.")
        cards[card.id] = card
    if not cards:
        raise ConfigurationError(
            f"No environment is described in {folder}: the installation is incomplete; reinstall it."
        )
    return dict(sorted(cards.items()))


def register_all() -> None:
    """Register every environment of the catalogue that is not registered yet."""
    for card in load_catalogue().values():
        if card.id not in gymnasium.registry:
            gymnasium.register(  # pyright: ignore[reportUnknownMemberType] -- Gymnasium's types
                id=card.id,
                entry_point=card.entry_point,
                vector_entry_point=card.vector_entry_point,
                kwargs={**card.kwargs, "max_turns": card.horizon},
            )
