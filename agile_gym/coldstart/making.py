"""`make_cold_start`: plays a teacher until there are enough good episodes of every kind, and reports on them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from agile_gym.coldstart.config import ColdStartConfig, attempts_of, prepare
from agile_gym.coldstart.filters import REASONS, Filters, Kind
from agile_gym.coldstart.steps import LOOKS
from agile_gym.errors import ConfigurationError, reason_of
from agile_gym.evaluation.plan import Task, pieces_of
from agile_gym.evaluation.run import PreparedPlan, hold_back, play_tasks
from agile_gym.evaluation.workers import MAX_WORKERS, play_in_workers
from agile_gym.files import write_text
from agile_gym.interruption import hold
from agile_gym.outputs import adopt_paths, check_replaceable, fingerprints
from agile_gym.policies.base import Policy, as_policy, make_policy
from agile_gym.transcripts.reading import read_headers
from agile_gym.transcripts.record import Transcript
from agile_gym.transcripts.store import TranscriptWriter

__all__ = ["MANIFEST", "NOTE", "ColdStartReport", "count_episodes", "make_cold_start"]

_WORDS = {"board": "board only", "crop": "crop", "zoom": "zoom", "both": "crop and zoom"}


@dataclass(frozen=True)
class ColdStartReport:
    """Figures of a cold start.

    Attributes:
        folder: Folder of the transcripts.
        wanted: Episodes wanted.
        found: Episodes kept, by kind.
        attempts: Episodes played and judged.
        rejected: Those that were not kept, by reason (`agile_gym.coldstart.filters.REASONS`).
        short: Episodes missing by grid, number of turns and kind of looks; 0 or "" where it is not balanced over that.
        actions: Turns of kept episodes that hold each primitive, by its name.
        steps: Turns of kept episodes by the expert's kind of step.
    """

    folder: Path
    wanted: int
    found: Mapping[Kind, int]
    attempts: int
    rejected: Mapping[str, int]
    short: Mapping[tuple[str, int, str], int]
    actions: Mapping[str, int]
    steps: Mapping[str, int]

    @classmethod
    def of(cls, folder: Path, attempts: int, filters: Filters) -> ColdStartReport:
        """Sum up the counts of the filters."""
        quotas = filters.quotas
        return cls(
            folder,
            quotas.total,
            dict(sorted(quotas.found.items())),
            attempts,
            {reason: filters.rejected[reason] for reason in REASONS if filters.rejected[reason]},
            quotas.short(),
            dict(sorted(filters.actions.items())),
            dict(sorted(filters.steps.items())),
        )

    @property
    def kept(self) -> int:
        """Number of episodes kept."""
        return sum(self.found.values())

    @property
    def complete(self) -> bool:
        """Return whether no episode is missing."""
        return self.kept >= self.wanted

    def to_json(self) -> dict[str, Any]:
        """Return the figures in JSON's types."""
        return {
            "wanted": self.wanted,
            "kept": self.kept,
            "attempts": self.attempts,
            "rejected": dict(self.rejected),
            "found": [[*kind, count] for kind, count in self.found.items()],
            "short": [[*key, count] for key, count in self.short.items()],
            "actions": dict(self.actions),
            "steps": dict(self.steps),
        }

    def text(self) -> str:
        """Return the figures as tables: episodes by turns and looks for each grid, then turns by their actions."""
        parts = [_table(grid, self.found) for grid in dict.fromkeys(kind.grid for kind in self.found)]
        for title, counts in (("Turns with", self.actions), ("Steps", self.steps)):
            if counts:
                parts.append(f"{title}: {', '.join(f'{name} {count:,}' for name, count in counts.items())}")
        rejected = "".join(f", {count:,} {REASONS[reason]}" for reason, count in self.rejected.items())  # pyright: ignore[reportArgumentType] -- its keys are reasons
        parts.append(f"Kept {self.kept:,} of {self.attempts:,} episodes played{rejected}.")
        return "\n".join(parts)

    def shortage(self) -> str:
        """Write the number of missing episodes, and possible remedies; empty if none are missing."""
        if self.complete:
            return ""
        missing = sorted(self.short.items(), key=lambda item: -item[1])
        kinds = [f"{count:,} of {_describe(*key)}" for key, count in missing[:4]]
        more = f" and {len(missing) - 4:,} more kinds" if len(missing) > 4 else ""
        return (
            f"{self.wanted:,} episodes were wanted and {self.kept:,} were found in {self.attempts:,} attempts. Missing "
            f"are {', '.join(kinds)}{more}. Allow more attempts, take a better teacher, or require less balance."
        )


def _describe(grid: str, turns: int, looks: str) -> str:
    length = f" with {turns} turn{'s' if turns > 1 else ''}" if turns else ""
    return f"{grid}{length}{f' ({_WORDS[looks]})' if looks else ''}"


def _table(grid: str, found: Mapping[Kind, int]) -> str:
    kinds = {(kind.turns, kind.looks): count for kind, count in found.items() if kind.grid == grid}
    numbers = sorted({turns for turns, _ in kinds})
    lines = [f"{grid + ', turns:':16}" + "".join(f"{turns:>7}" for turns in numbers) + "    all"]
    for looks in LOOKS if pieces_of(grid) else ():
        row = [kinds.get((turns, looks), 0) for turns in numbers]
        lines.append(f"{_WORDS[looks]:16}" + "".join(f"{count:>7,}" for count in [*row, sum(row)]))
    columns = [sum(count for (turns, _), count in kinds.items() if turns == number) for number in numbers]
    lines.append(f"{'all':16}" + "".join(f"{count:>7,}" for count in [*columns, sum(columns)]))
    return "\n".join(lines)


MANIFEST = "cold_start.json"
"""File beside the transcripts: settings, progress of the attempts, and figures."""
NOTE = "cold_start"
"""Key in a transcript's details: number of the attempt, hash of the puzzle, and the rejections before it."""


def make_cold_start(
    output: str | Path,
    config: ColdStartConfig | None = None,
    *,
    teacher: Policy | Callable[[dict[str, Any]], str] | None = None,
    batch: int = 8,
    workers: int = 1,
    format: str = "jsonl",  # noqa: A002 -- the word for it
    resume: bool = False,
    overwrite: bool = False,
    on_attempt: Callable[[int, int], None] | None = None,
    on_lost: Callable[[str], None] | None = None,
) -> ColdStartReport:
    """Write episodes for a cold start as transcripts.

    Episodes are kept if they are solved and no turn was an error, each puzzle once and each text once, until there are
    enough of every kind. They are judged in the order of the attempts, so that those that are kept depend on the
    settings alone, not on ``batch`` or ``workers``, for a teacher that keeps to the contract of policies. If the
    attempts run out first, those found are kept, and the report lists the missing ones.

    Args:
        output: The folder. Each transcript's ``details["cold_start"]`` holds the number of its attempt.
        config: The settings; `ColdStartConfig`'s by default.
        teacher: A policy that plays instead of the one that the settings name, which then only name it. It receives the
            solution of a jigsaw (``reveal=True``).
        batch: Number of episodes played in one batch, in each process.
        workers: Number of processes; more than one make their own policies by name.
        format: ``"jsonl"`` or ``"parquet"``; see `TranscriptWriter`.
        resume: Go on after the episodes that are there, which the same settings made.
        overwrite: Begin anew even if there are transcripts; they are deleted.
        on_attempt: Called after each attempt with the numbers of attempts and of episodes kept.
        on_lost: Called with a sentence when a worker process was lost.

    Returns:
        The figures.

    Raises:
        ConfigurationError: If a setting is not allowed, there are transcripts and neither ``resume`` nor ``overwrite``
            is given, or other settings made them.
        ImageError: If no photographs are found.
        AgileGymError: If the teacher fails or gives up everything, or files cannot be written. What is written is kept.
    """
    config = ColdStartConfig() if config is None else config
    for name, value, limit in (("batch", batch, 100_000), ("workers", workers, MAX_WORKERS)):
        if not 1 <= value <= limit:
            raise ConfigurationError(f"{name}={value!r} is not allowed; give 1 to {limit:,}.")
    if teacher is not None and workers > 1:
        raise ConfigurationError("Worker processes make the teacher by its name; give a name, or workers=1.")
    policy = None if teacher is None else as_policy(teacher)
    name, options = config.policy_call()
    if policy is None and workers == 1:
        policy = make_policy(name, **options)
    prepared, quotas = prepare(config)
    filters = Filters(
        quotas,
        distinct_texts=config.wants_distinct_texts,
        allow_errors=config.allow_errors,
        name=None if config.env is None else config.grids[0],
    )
    folder = Path(output)
    if not resume:
        check_replaceable(folder / MANIFEST, _is_manifest, "what agile-gym coldstart wrote")
    plain = config.to_json()
    settings = {"config": plain, "photographs": prepared.photographs(), "content": fingerprints(plain)}
    if resume:
        _check_manifest(folder, settings)
    with TranscriptWriter(folder, format=format, resume=resume, overwrite=overwrite) as writer:  # pyright: ignore[reportArgumentType] -- it says itself what it takes
        judged = _restore(folder, filters) if resume else 0
        _write_manifest(folder, settings, judged, filters)
        appended = True
        try:
            if not quotas.complete:
                tasks = attempts_of(config, judged)
                episodes = _play(
                    policy, prepared, tasks, batch=batch, workers=workers, on_lost=on_lost, proven=judged > 0
                )
                with closing(_in_order(episodes, judged)) as attempts:
                    for number, transcript in attempts:
                        with hold():
                            if filters.judge(transcript) is None:
                                appended = False
                                writer.append(_noted(transcript, number, config.teacher, filters))
                                appended = True
                            judged = number + 1
                        if on_attempt is not None:
                            on_attempt(judged, quotas.found.total())
                        if quotas.complete:
                            break
        except BaseException:
            if appended:  # else the filters count an episode that is not there
                with hold(), suppress(OSError):  # it only saves attempts; the error that was raised is the one reported
                    _write_manifest(folder, settings, judged, filters)
            raise
        _write_manifest(folder, settings, judged, filters)
    return ColdStartReport.of(folder, judged, filters)


def _play(
    policy: Policy | None,
    prepared: PreparedPlan,
    tasks: Iterator[Task],
    *,
    batch: int,
    workers: int,
    on_lost: Callable[[str], None] | None,
    proven: bool,
) -> Generator[tuple[int, Transcript], None, None]:
    """Play attempts, in this process or in others; they end in any order."""
    if policy is not None:
        policy.reset(prepared.plan.seed)
        episodes = play_tasks(policy, prepared, tasks, batch=batch, keep=sys.maxsize)
    else:
        episodes = play_in_workers(prepared, tasks, workers=workers, batch=batch, keep=sys.maxsize, on_lost=on_lost)
    for result, transcript in hold_back(episodes, prepared.plan.policy, proven=proven):
        if transcript is not None:
            yield result.episode, transcript


def _in_order(
    episodes: Generator[tuple[int, Transcript], None, None], start: int
) -> Generator[tuple[int, Transcript], None, None]:
    """Pass episodes on in the order of their numbers, from ``start`` on; those that come early wait."""
    early: dict[int, Transcript] = {}
    with closing(episodes):
        for number, transcript in episodes:
            early[number] = transcript
            while start in early:
                yield start, early.pop(start)
                start += 1


def _noted(transcript: Transcript, number: int, teacher: str, filters: Filters) -> Transcript:
    note = {"attempt": number, **filters.note(transcript)}
    return replace(transcript, policy=teacher, details={**transcript.details, NOTE: note})


def _restore(folder: Path, filters: Filters) -> int:
    """Count the episodes that are there, and return the number of attempts judged.

    Raises:
        ConfigurationError: If one is missing, which would be made up for by another one.
    """
    judged = kept = 0
    for header in read_headers(folder):
        transcript = header.load(images=False)
        attempt, puzzle, rejected = _note_of(transcript, folder)
        if attempt != kept + sum(rejected.values()):
            raise _lost(folder, f"an episode is missing before {transcript.id!r:.80}")
        filters.restore(transcript, puzzle, rejected)
        judged, kept = attempt + 1, kept + 1
    manifest = _read_manifest(folder)
    if manifest is not None and manifest["kept"] > kept:
        raise _lost(folder, f"{MANIFEST} counts {manifest['kept']:,} episodes, and {kept:,} are there")
    if manifest is not None and manifest["attempts"] > judged:  # the last attempts came to nothing
        judged = manifest["attempts"]
        filters.rejected.clear()
        filters.rejected.update(manifest["rejected"])
    return judged


def count_episodes(folder: Path) -> int:
    """Return the number of episodes in a folder of transcripts.

    Raises:
        ConfigurationError: If it holds a cold start that had more, or none.
        TranscriptError: If it holds no transcripts, or damaged ones.
    """
    count = sum(1 for _ in read_headers(folder))
    manifest = _read_manifest(folder)
    if manifest is not None and manifest["kept"] > count:
        raise _lost(folder, f"{MANIFEST} counts {manifest['kept']:,} episodes, and {count:,} are there")
    if not count:
        raise ConfigurationError(f"{folder} holds no episodes; a cold start needs some.")
    return count


def _check_manifest(folder: Path, settings: dict[str, Any]) -> None:
    """Check that the episodes there were made with the same settings.

    Raises:
        ConfigurationError: If it was not.
    """
    manifest = _read_manifest(folder)
    if manifest is None:
        if any(folder.glob("episodes*")):
            raise ConfigurationError(
                f"{folder} holds transcripts that are no cold start: {MANIFEST} is missing. Give another folder."
            )
        return
    adopted = adopt_paths(manifest["config"], settings["config"], manifest["content"], settings["content"])
    if manifest["photographs"] == settings["photographs"]:
        adopted["images"] = settings["config"]["images"]
    for part in ("config", "photographs"):
        before = adopted if part == "config" else manifest[part]
        now = json.loads(json.dumps(settings[part]))
        different = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if different:
            key = different[0]
            raise ConfigurationError(
                f"{folder} cannot be resumed: its cold start has other {part} ({key}: {before.get(key)!r}, not "
                f"{now.get(key)!r}). Give the same settings, another folder, or overwrite it."
            )


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest.setdefault("content", {})
        if not all(isinstance(manifest[key], dict) for key in ("config", "photographs", "rejected", "content")):
            raise ValueError("a part is missing")
        counts = [manifest["attempts"], manifest["kept"], *manifest["rejected"].values()]
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError("a count is no number")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {reason_of(error)}. Give another folder.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigurationError(
            f"{path} is damaged ({str(error)[:200]}). Restore it from a copy, or give another folder."
        ) from error
    return manifest


def _is_manifest(head: bytes) -> bool:
    """Return whether a file that begins so is a manifest, perhaps cut short."""
    beginning = b'{\n "config": {'
    return head[: len(beginning)] == beginning[: len(head)]


def _note_of(transcript: Transcript, folder: Path) -> tuple[int, str, dict[str, int]]:
    """Return the notes of an episode: its attempt, the hash of its puzzle, and the rejections before it.

    Raises:
        ConfigurationError: If it is no episode of a cold start.
    """
    note = transcript.details.get(NOTE)
    if isinstance(note, dict):
        values = cast("dict[str, Any]", note)
        attempt, puzzle, rejected = values.get("attempt"), values.get("puzzle"), values.get("rejected")
        if type(attempt) is int and isinstance(puzzle, str) and isinstance(rejected, dict):
            counts = cast("dict[str, Any]", rejected)
            if all(type(count) is int for count in counts.values()):
                return attempt, puzzle, counts
    raise ConfigurationError(
        f"{folder} cannot be resumed: {transcript.id!r:.80} is no episode of a cold start. Give another folder."
    )


def _lost(folder: Path, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{folder} has lost episodes: {what}. Others would take their place. Restore its files from a copy; or move "
        "the folder away, and all are made anew."
    )


def _write_manifest(folder: Path, settings: dict[str, Any], judged: int, filters: Filters) -> None:
    report = ColdStartReport.of(folder, judged, filters)
    with write_text(folder / MANIFEST) as file:
        json.dump({**settings, **report.to_json()}, file, indent=1)
        file.write("\n")
