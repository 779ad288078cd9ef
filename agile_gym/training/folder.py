"""The folder of a run: marked, locked while a process works in it, and read with a check of every file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from agile_gym.errors import ConfigurationError, reason_of
from agile_gym.evaluation.benchmarks import BENCHMARK_SCORES
from agile_gym.evaluation.contamination import OVERLAPS
from agile_gym.files import Lock, sweep, write_text
from agile_gym.learner.checkpoint import CHECKPOINT_FILES
from agile_gym.outputs import (
    MARK,
    Known,
    adopt_paths,
    clear_folder,
    is_generated,
    list_names,
    mark_text,
    read_mark,
    write_mark,
)
from agile_gym.questions.opening import BENCHMARKS
from agile_gym.training.settings import SECTIONS, RunSettings, read_settings

__all__ = ["KIND", "SETTINGS", "STATE", "RunFolder", "read_run_settings"]

KIND = "training run"
SETTINGS, STATE = "settings.toml", "state.json"
STAGES = (
    *("benchmarks-untrained", "vision", "cold-start", "replay", "sft", "evaluate-coldstart", "benchmarks-coldstart"),
    *("grpo", "evaluate-grpo", "benchmarks-grpo"),
)
"""All that can be done, in order."""
_FIXED = ("seed", "images", "environment", "model", "vision", "cold_start", "sft", "grpo")
"""Sections that must not change when a run is resumed."""
_LEFT = {
    "vision": ("cold-start", "sft", "grpo"),
    "cold-start": ("replay", "sft"),
    "replay": ("sft",),
    "sft": ("evaluation/coldstart.jsonl",),
    "evaluate-coldstart": ("evaluation/coldstart.json",),
    "grpo": ("evaluation/grpo.jsonl",),
    "evaluate-grpo": ("evaluation/grpo.json",),
    **{f"benchmarks-{name}": (f"{BENCHMARK_SCORES}/{name}.json",) for name in ("untrained", "coldstart", "grpo")},
}
"""Files that exist only after a stage."""
_MODEL = (
    *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template.json", "chat_template.jinja"),
    *("additional_chat_templates/*.jinja", "processor_config.json", "*preprocessor_config.json"),
)
_HEX = "[0-9a-f]"
_TRANSCRIPTS = (
    *("episodes.jsonl", f"episodes-{'[0-9]' * 5}.parquet", f"images/{_HEX * 2}/{_HEX * 64}.png"),
    "page.html",
)


def _known() -> Known:
    """Return the files that a run writes."""
    names = [SETTINGS, STATE, "metrics.jsonl", "metrics.csv", OVERLAPS, "report.html", "wandb-id.txt", "wandb/**"]
    names += ["vision/checkpoint.pt", "vision/probe.json"]
    for stage in ("vision", "sft", "grpo"):
        names += [f"{stage}/model/{name}" for name in _MODEL]
        names += [f"tensorboard/{stage}/events.out.tfevents.*"]
    for stage in ("sft", "grpo"):
        for suffix in ("", ".partial", ".previous"):
            names += [f"{stage}/checkpoint{suffix}/**/{name}" for name in CHECKPOINT_FILES]
    for folder in ("cold-start", "cold-start/*", "replay"):
        names += [f"{folder}/{name}" for name in ("cold_start.json", *_TRANSCRIPTS)]
    played = ("untrained", "coldstart", "grpo")
    outputs = [f"evaluation/{name}{end}" for name in played for end in ("", "-blanked")]
    outputs += [f"{BENCHMARK_SCORES}/{name}-{key}" for name in played for key in BENCHMARKS]
    names += [f"{BENCHMARK_SCORES}/{name}.json" for name in played]
    for output in outputs:
        names += [f"{output}.json", f"{output}.jsonl"]
        names += [f"{output}-transcripts/{inner}" for inner in _TRANSCRIPTS]
    return {name: _is_page if name.endswith("page.html") else None for name in names}


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return is_generated(file.read(1 << 16))


class RunFolder:
    """The folder of a run, which this process alone works in, until it ends or `close` is called.

    Attributes:
        path: The folder.
        done: The stages that are done.
    """

    def __init__(self, path: Path, *, resume: bool = False, overwrite: bool = False) -> None:
        """Open a folder: a new or an empty one, or one that holds a run.

        Args:
            path: The folder; it is made.
            resume: Take the run that is there.
            overwrite: Remove the run that is there. If there is anything else in the folder, nothing is removed.

        Raises:
            ConfigurationError: If there is a run already and neither is asked for; if there is none to resume; if
                there is anything else; if another process works in it; if a file of the run is damaged.
        """
        self.path = path
        self.done: list[str] = []
        self._content: dict[str, str] = {}
        _check_place(path)
        if resume and not path.exists():
            raise _no_run(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(
                path, f"Another process is training in {path}. Wait for it to end, or give another --output."
            )
        except OSError as error:
            raise _not_writable(path, error) from error
        try:
            self._there = self._take(resume=resume, overwrite=overwrite)
            if not read_mark(path, KIND):
                write_mark(path, KIND)
        except OSError as error:
            self.close()
            raise _not_writable(path, error) from error
        except BaseException:
            self.close()
            raise

    def _take(self, *, resume: bool, overwrite: bool) -> RunSettings | None:
        """Return the settings of the run that is gone on with."""
        sweep(self.path)
        marked = read_mark(self.path, KIND)
        if not marked:
            _check_unmarked(self.path, resume=resume)
        begun = marked and any(entry.name != MARK for entry in self.path.iterdir())
        if not begun:
            if resume:
                raise _no_run(self.path)
            return None
        if overwrite:
            clear_folder(self.path, _known(), "agile-gym train")
            return None
        if not resume:
            raise ConfigurationError(
                f"There is a run in {self.path} already. Go on with it (--resume), replace it (--overwrite), or give "
                "another --output."
            )
        there = read_run_settings(self.path)
        for inner in self.path.iterdir():
            if inner.is_dir() and not inner.is_symlink():
                sweep(inner)
        self.done, self._content = _read_state(self.path)
        return there

    def begin(
        self,
        settings: RunSettings,
        content: Mapping[str, str],
        unset: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Write the settings down, once it is clear that they are those of the run that is there.

        Args:
            settings: The settings.
            content: Hashes of the content at their paths, by ``"section.key"``: paths may change, content may not.
            unset: Values that follow from other settings; see `RunSettings.to_toml`.

        Raises:
            ConfigurationError: If the run was begun with others, or the files cannot be written.
        """
        new = settings.to_mapping()
        if self._there is not None:
            old = _adopted(self._there.to_mapping(), new, self._content, content)
            for name in _FIXED:
                if old[name] != new[name]:
                    raise ConfigurationError(_other_settings(self.path, name, old[name], new[name]))
        try:
            text = settings.to_toml(unset)
            path = self.path / SETTINGS
            if self._there is None or path.read_text(encoding="utf-8") != text:
                _write(path, text)
            if self._there is None or not self._content:
                self._content = dict(content)
                self._write_state()
        except OSError as error:
            raise _not_writable(self.path, error) from error

    def close(self) -> None:
        """Let other processes work in the folder."""
        self._lock.let_go()

    def is_done(self, stage: str) -> bool:
        """Return whether a stage is done."""
        return stage in self.done

    def finish(self, stage: str) -> None:
        """Write down that a stage is done.

        Raises:
            OSError: If it cannot be written.
        """
        self.done.append(stage)
        self._write_state()

    def _write_state(self) -> None:
        _write(self.path / STATE, json.dumps({"done": self.done, "content": self._content}))


def read_run_settings(folder: Path) -> RunSettings:
    """Read the settings of the run in a folder.

    Raises:
        ConfigurationError: If there is no run, or its file of settings is damaged.
    """
    if not folder.is_dir():
        raise _no_run(folder)
    if not read_mark(folder, KIND):
        _check_unmarked(folder, resume=True)
        raise _no_run(folder)
    path = folder / SETTINGS
    advice = "Restore it from a copy (report.html shows it, too), or begin the run anew (--overwrite)."
    if not path.is_file():
        raise ConfigurationError(f"{path} is missing or not a file, so the run cannot be resumed. {advice}")
    try:
        settings = read_settings(str(path))
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {reason_of(error)}.") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"The settings of the run are damaged: {str(error).rstrip('.')}. {advice}") from error
    lines = text.splitlines()
    missing = [f"[{name}]" for name in SECTIONS if f"[{name}]" not in lines]
    if not any(line.startswith("seed") for line in lines):
        missing.insert(0, "seed")
    # What was cut off at the end of a line, or in the last one, would be taken for the defaults.
    cut = not text.endswith("\n") or not any(line.startswith("every") for line in lines)
    if missing or cut:
        what = f"{list_names(missing)} {'is' if len(missing) == 1 else 'are'} missing" if missing else "it was cut off"
        raise ConfigurationError(f"The settings of the run, {path}, are not whole: {what}. {advice}")
    return settings


def _read_state(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Return the stages that are done, and the content that the run was begun with."""
    path = folder / STATE
    value: Any = None
    problem = "is damaged"
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        if not any((folder / name).exists() for names in _LEFT.values() for name in names):
            return [], {}
        problem = "is missing"
    except OSError as error:
        problem = f"cannot be read ({reason_of(error)})"
    except (ValueError, RecursionError):
        pass
    state = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    done, content = state.get("done"), state.get("content", {})
    stages, entries = cast("list[str]", done), cast("dict[str, Any]", content)
    if isinstance(done, list) and all(stage in STAGES for stage in stages) and isinstance(content, dict):
        return stages, {key: text for key, text in entries.items() if isinstance(text, str)}
    likely = [stage for stage in STAGES if any((folder / name).exists() for name in _LEFT[stage])]
    raise ConfigurationError(
        f"{path} {problem}: it must list the stages that are done. Restore it from a copy, or write this into it, the "
        f"stages that have left something behind: {json.dumps({'done': likely})}"
    )


def _adopted(
    old: Mapping[str, Any], new: Mapping[str, Any], before: Mapping[str, str], now: Mapping[str, str]
) -> dict[str, Any]:
    """Return older settings with the newer ones' paths where these lead to the same content."""
    adopted = adopt_paths(old, new, before, now)
    images: dict[str, Any] = adopted["images"]
    known = [key for key in images if f"images.{key}" in before.keys() & now.keys()]
    changed = [key for key in known if before[f"images.{key}"] != now[f"images.{key}"]]
    if len(known) == len(images) and not changed:
        adopted["images"] = new["images"]
    for key in changed:
        images[key] = f"{images[key] or 'these'} (other photographs)"
    for key in before.keys() & now.keys():
        if key.startswith("grpo.tasks.") and before[key] != now[key]:
            adopted["grpo"]["tasks"] = f"{key.removeprefix('grpo.')} (other photographs)"
    return adopted


def _other_settings(folder: Path, name: str, old: Any, new: Any) -> str:  # noqa: ANN401 -- a section, or the seed
    differ = ""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        first, second = cast("Mapping[str, Any]", old), cast("Mapping[str, Any]", new)
        keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
        differ = "".join(f" {key}: {first.get(key)!r:.200} there, {second.get(key)!r:.200} now." for key in keys[:2])
    return f"The run in {folder} has other settings in [{name}]; resume it with those of {folder / SETTINGS}.{differ}"


def _check_place(path: Path) -> None:
    try:
        if path.exists() and not path.is_dir():
            raise ConfigurationError(f"{path} is not a folder. Give another --output.")
        place = path.resolve()
        homes = [Path.home().resolve()]
    except (OSError, RuntimeError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"The run's folder {path} cannot be used: {reason}. Give another --output.") from error
    if place in homes or place == Path(place.anchor):
        raise ConfigurationError(f"{path} is not a folder for a run alone. Give one within it, as --output.")


def _check_unmarked(folder: Path, *, resume: bool) -> None:
    """Check that a folder without a mark is empty.

    Raises:
        ConfigurationError: If it is not.
    """
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    if not names:
        return
    traces = {STATE, "metrics.jsonl", "vision/", "cold-start/", "sft/", "grpo/"}
    if SETTINGS in names and traces & set(names):
        then = "--resume" if resume else "--resume or --overwrite"
        raise ConfigurationError(
            f"{folder} seems to hold a run of an older version: the file {MARK}, which marks a run, is missing. If it "
            f"is a run, write this into {folder / MARK}: {mark_text(KIND)} and give {then} once more; or give another "
            "--output."
        )
    what = "There is no run in it that could be resumed." if resume else "Nothing was changed."
    raise ConfigurationError(
        f"{folder} is not empty, and no run is there: it holds {list_names(names)}. {what} Give a new or an empty "
        "folder as --output."
    )


def _no_run(folder: Path) -> ConfigurationError:
    return ConfigurationError(f"There is no run in {folder} that could be resumed. Begin one without --resume.")


def _not_writable(folder: Path, error: OSError) -> ConfigurationError:
    name = error.filename or folder
    return ConfigurationError(f"The run's folder cannot be written: {name}: {reason_of(error)}. Give another --output.")


def _write(path: Path, text: str) -> None:
    with write_text(path) as stream:
        stream.write(text)
