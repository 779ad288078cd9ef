"""Settings of a run as text: in errors, in TOML, and the reference of them all."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, time
from os import PathLike, fspath
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin

from agile_gym.errors import ConfigurationError, did_you_mean, one_line, plain

__all__ = [
    "PRESETS",
    "as_toml",
    "format_sections",
    "is_toml",
    "named",
    "naming",
    "preset_names",
    "preset_text",
    "range_words",
    "reference",
    "to_toml",
]

PRESETS = Path(__file__).parent / "presets"
"""Folder of the presets."""
_RESOURCES = {"num_gpus_per_env_runner": "gpus_per_runner", "num_gpus_per_learner": "gpus_per_learner"}
"""Settings of the section ``resources`` by RLlib's names for them, which errors of its configurations have."""
_MAX_FILE = 1 << 20
_NONE = '`"none"`'
_DEEPEST = 16
"""Most levels of lists and tables in a value."""
_LARGEST = 1 << 1000
"""Whole numbers from here on are no floats, either."""


def range_words(bounds: list[Any]) -> str:
    """Return the range of a key in words, such as ``" from 1 to 10"``."""
    low, above, high = (
        next((getattr(bound, name) for bound in bounds if hasattr(bound, name)), None) for name in ("ge", "gt", "le")
    )
    if low is above is high is None:
        return ""
    if above is not None:
        return f" above {above:,}" + ("" if high is None else f", up to {high:,}")
    return f" of at least {low:,}" if high is None else f" from {low:,} to {high:,}"


def as_toml(value: Any, key: str, depth: int = 0) -> Any:  # noqa: ANN401 -- any value
    """Return a value in the form that TOML has for it, if there is one; see `is_toml`.

    Args:
        value: The value.
        key: The key that it is given for.
        depth: Number of lists and tables around it.

    Raises:
        ConfigurationError: If it is too large or too deep to be shown, or no Unicode.
    """
    value = plain(value)
    if isinstance(value, PathLike):
        value = fspath(cast("PathLike[str]", value))
    if depth > _DEEPEST:
        raise ConfigurationError(f"{key}: lists and tables may be nested {_DEEPEST} deep, and these are deeper.")
    if isinstance(value, Mapping):
        table = cast("Mapping[Any, Any]", value)
        return {as_toml(name, key, depth + 1): as_toml(entry, key, depth + 1) for name, entry in table.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [as_toml(entry, key, depth + 1) for entry in cast("Sequence[Any]", value)]
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ConfigurationError(f"{key}={value!r:.100} is not allowed; give a text of valid Unicode.")
    if isinstance(value, int) and abs(value) >= _LARGEST:
        raise ConfigurationError(f"{key}: a whole number of {value.bit_length():,} bits is not allowed.")
    return value


def is_toml(value: object) -> bool:
    """Return whether a value is of lists, tables, texts, numbers, truth values, dates and times."""
    if isinstance(value, dict):
        entries = cast("dict[object, object]", value)
        return all(isinstance(name, str) and is_toml(entry) for name, entry in entries.items())
    if isinstance(value, list):
        return all(map(is_toml, cast("list[object]", value)))
    return isinstance(value, str | bool | int | float | date | time)


def to_toml(value: Any) -> str:  # noqa: ANN401 -- any plain value
    """Return a value as it is written in TOML; entries of tables that are None are left out."""
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        inside = ", ".join(f"{_key(key)} = {to_toml(entry)}" for key, entry in entries.items() if entry is not None)
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(to_toml(entry) for entry in cast('Sequence[Any]', value))}]"
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def format_sections(
    top: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]], unset: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return TOML of keys and sections; what is None is left out.

    Args:
        top: Keys before the first section.
        sections: Keys of each section.
        unset: Further keys of sections, which are written as comments.
    """
    lines = ["# Lines that begin with # were not set: they tell what follows from the others."] if unset else []
    lines += [f"{key} = {to_toml(value)}" for key, value in top.items()]
    for name, section in sections.items():
        lines += ["", f"[{name}]"]
        lines += [f"{_key(key)} = {to_toml(value)}" for key, value in section.items() if value is not None]
        lines += [f"# {key} = {to_toml(value)}" for key, value in unset.get(name, {}).items()]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else to_toml(name)


@contextmanager
def naming(section: str, key: str | None = None, value: object = None, **keys: str) -> Generator[None]:
    """Let errors name the setting that they are about, as ``[section] key = value``.

    Args:
        section: The section.
        key: The key, if errors are about this one; else they name it themselves.
        value: Its value.
        **keys: Keys of the section by what the errors call them.
    """
    try:
        yield
    except ConfigurationError as error:
        raise named(error, section, key, value, keys) from error


def named(
    error: ConfigurationError,
    section: str,
    key: str | None = None,
    value: object = None,
    keys: Mapping[str, str] | None = None,
) -> ConfigurationError:
    """Return an error that names the setting; see `naming`."""
    text = re.sub("|".join(_RESOURCES), lambda match: _RESOURCES[match[0]], one_line(str(error)))
    if text.partition("=")[0] in _RESOURCES.values():
        section = "resources"
    text = re.sub(r"^(\w+)=", lambda match: f"{(keys or {}).get(match[1], match[1])} = ", text)
    if key is not None and not text.startswith(f"{key} = "):
        text = f"{key} = {value!r:.100}: {text}"
    return type(error)(f"[{section}] {text}")


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def preset_text(name: str) -> str:
    """Return a preset as it stands in its file.

    Raises:
        ConfigurationError: If there is no such preset, and no such file.
    """
    path = PRESETS / f"{name}.toml"
    if name not in preset_names():
        path = Path(name)
        if path.is_dir():
            inside = " Did you mean the settings.toml in it?" if (path / "settings.toml").is_file() else ""
            raise ConfigurationError(f"{name!r} is a folder; give a preset or a TOML file.{inside}")
        if not path.is_file():
            raise ConfigurationError(
                f"There is no preset {name!r}, and no such file. {did_you_mean(name, preset_names())}"
            )
    if path.stat().st_size > _MAX_FILE:
        raise ConfigurationError(f"{path} is too large to be a file of settings.")
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not a text file in UTF-8: {error}") from error


_HEAD = """# Settings

The settings of `agile-gym train`, section by section; [training.md](training.md) describes what a run does with them.
They are set in a TOML file (`--preset FILE.toml`), on the command line (`--set grpo.lr=1e-5`) and in Python
(`RunSettings(grpo={"lr": 1e-5})`). The columns after the default are those of the presets, and empty where they keep
it. None stands for a key that is not set; where the type has `"none"`, that turns off what has a default. What Python
writes as `(2, 3)` is `[2, 3]` in TOML.

This page is written by `agile-gym train --list-settings`, from the code."""
_TYPES = {int: "int", float: "float", str: "str", bool: "bool", Any: "any"}


def reference() -> str:
    """Return a page in Markdown with every setting: its type, default and meaning, and what the presets set."""
    from agile_gym.training.settings import SECTIONS, RunSettings, section_class

    presets = {name: RunSettings.from_toml(preset_text(name), name) for name in sorted(preset_names(), reverse=True)}
    seed = _row("seed", "int", "`0`", ["" for _ in presets], RunSettings.model_fields["seed"].description or "")
    parts = [_HEAD, *_table("Top level", "", presets), seed]
    for name in SECTIONS:
        kind = section_class(name)
        parts += _table(f"[{name}]", inspect.getdoc(kind) or "", presets)
        for key, field in kind.model_fields.items():
            types = [text for text in _type_names(field.annotation) if text != _NONE or kind.none_is_set(key)]
            default = kind.unless_set.get(key) or ("" if field.default is None else f"`{to_toml(field.default)}`")
            given = [getattr(settings, name).explicit() for settings in presets.values()]
            set_there = [f"`{to_toml(values[key])}`" if key in values else "" for values in given]
            set_there = ["" if text == default else text for text in set_there]
            words = " or ".join(types) + range_words(field.metadata)
            parts.append(_row(key, words, default, set_there, field.description or ""))
    return "\n".join(parts) + "\n"


def _table(title: str, text: str, presets: Iterable[str]) -> list[str]:
    head = ["Key", "Type", "Default", *(f"`{name}`" for name in presets), "Meaning"]
    return [f"\n## {title}\n", *([f"{text}\n"] if text else []), f"| {' | '.join(head)} |", "|---" * len(head) + "|"]


def _row(key: str, kind: str, default: str, presets: list[str], meaning: str) -> str:
    cells = [f"`{key}`", kind, default, *presets, meaning.replace("``", "`")]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _type_names(kind: Any) -> list[str]:  # noqa: ANN401 -- any annotation
    """Return the types of TOML that an annotation allows; what only Python has is left out."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return list(dict.fromkeys(name for part in inner for name in _type_names(part)))
    if origin is Literal:
        return [f"`{to_toml(value)}`" for value in inner]
    if origin is tuple and inner[-1] is not Ellipsis:
        return [f"[{', '.join(name for part in inner for name in _type_names(part))}]"]
    if origin in (tuple, list, Sequence):
        return [f"list of {' or '.join(_type_names(inner[0]))}"]
    if origin is Mapping:
        return ["table"]
    return [_NONE] if kind is NoneType else [_TYPES[kind]] if kind in _TYPES else []
