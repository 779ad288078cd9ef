"""Import of AGILE's released data: the conversations of its cold start, and the puzzles of its reinforcement learning.

Cold start: a JSON list of ShareGPT conversations in LLaMA-Factory's layout, with image folders next to it. For the
puzzles see `agile_gym.transcripts.agile`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

from agile_gym.actions.dialects import get_dialect
from agile_gym.actions.primitives import ActionError, Answer
from agile_gym.actions.prompt import IMAGE_MARK
from agile_gym.actions.workspace import Workspace
from agile_gym.envs.contract import no_reward
from agile_gym.envs.reward import EpisodeRecord, get_reward, score_episode
from agile_gym.errors import ImageError, TranscriptError, reason_of
from agile_gym.images.decode import decode_image
from agile_gym.puzzle.board import MAX_SIDE, parse_grid
from agile_gym.puzzle.pixels import BoardLayout
from agile_gym.transcripts.agile import AgilePuzzle, AgilePuzzles, Grid, read_agile_rl
from agile_gym.transcripts.reading import MAX_PIXELS
from agile_gym.transcripts.record import Image, Transcript, Turn, TurnUsage
from agile_gym.transcripts.values import RecordProblem, get_field, get_items, get_mapping

__all__ = ["AgilePuzzle", "AgilePuzzles", "read_agile_cold_start", "read_agile_rl"]

MAX_FILE = 1024**3
"""Largest JSON file that is read, in bytes."""
MAX_PIECES = 100
POLICY = "agile-cold-start"
_CANVAS = (8192, 8192)
_LARGEST = Workspace(BoardLayout(MAX_SIDE, MAX_SIDE, 1, 1), _CANVAS)
"""Names of all pieces that a puzzle can have, to read an answer before the grid is known."""
_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


class _Played(NamedTuple):
    """Result of a turn's text, as far as this library's dialect can read it."""

    primitives: tuple[str, ...]
    error: str | None
    state: tuple[Any, ...]
    has_code: bool
    well_formed: bool


def read_agile_cold_start(
    path: str | Path, image_root: str | Path | None = None, *, grid: Grid | None = None
) -> Iterator[Transcript]:
    """Read the conversations of AGILE's cold start, or others in its layout, as transcripts.

    AGILE kept only conversations whose answer is right, so the answer is taken for the solution and the paper's reward
    follows from the turns. Actions are read from the turns' texts. Tokens, seeds and times are missing.

    Args:
        path: The JSON file: a list of dictionaries with ``messages`` (``role``, ``content``) or ``conversations``
            (``from``, ``value``), and ``images``, paths.
        image_root: Folder that the paths begin at; the file's own by default. Leading folders that are not there are
            left out, and a path can lead nowhere else.
        grid: Grid of the puzzles, such as ``"2x3"``; squares by default, as in AGILE's file, which does not include it.

    Returns:
        An iterator over the transcripts, whose images are read one episode at a time.

    Raises:
        TranscriptError: If the file or an image cannot be read, or a conversation is not one; the message names it.
        ConfigurationError: If ``grid`` is not one.
    """
    sides = None if grid is None else parse_grid(grid)
    file = Path(path)
    root = file.parent if image_root is None else Path(image_root)
    try:
        if file.stat().st_size > MAX_FILE:
            raise TranscriptError(f"{file} has more than {MAX_FILE:,} bytes. Split it into several files.")
        entries: object = json.loads(file.read_bytes())
    except OSError as error:
        raise TranscriptError(
            f"{file} cannot be read: {reason_of(error)}. Give the JSON file of the conversations."
        ) from error
    except (ValueError, RecursionError) as error:
        raise TranscriptError(f"{file} is not JSON: {error}. Give the JSON file of the conversations.") from error
    if not isinstance(entries, list):
        raise TranscriptError(f"{file} does not hold a list of conversations, but a {type(entries).__name__}.")
    return _read_all(file, root, cast("list[object]", entries), sides)


def _read_all(file: Path, root: Path, entries: list[object], grid: tuple[int, int] | None) -> Iterator[Transcript]:
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", file.stem)[:100]
    for number, entry in enumerate(entries):
        try:
            details = {"file": file.name, "index": number}
            yield _read_one(get_mapping(entry), root, f"{stem}-{number:06}", details, grid)
        except (RecordProblem, ImageError) as problem:
            raise TranscriptError(
                f"{file}, conversation {number} (from 0): it {problem} Mend or remove it, or give another image_root."
                if isinstance(problem, RecordProblem)
                else f"{file}, conversation {number} (from 0): {problem}"
            ) from problem


def _read_one(
    entry: Mapping[str, Any], root: Path, name: str, details: dict[str, Any], grid: tuple[int, int] | None
) -> Transcript:
    """Turn a conversation into a transcript."""
    said = _messages(entry)
    system = said.pop(0)[1] if said[0][0] == "system" else None
    if [role for role, _ in said] != ["user", "assistant"] * (len(said) // 2) or not said:
        raise RecordProblem("does not alternate between user and assistant, beginning with the user.")
    paths = get_items(entry, "images", str) if "images" in entry else []
    marks = [text.count(IMAGE_MARK) for role, text in said if role == "user"]
    if sum(marks) != len(paths):
        raise RecordProblem(f"has {sum(marks)} image marks in the user's messages, and {len(paths)} images.")
    images = iter(_images(root, paths))
    shown = [tuple(next(images) for _ in range(count)) for count in marks]
    texts = [text for role, text in said if role == "assistant"]
    feedback = [*(text for role, text in said[1:] if role == "user"), ""]
    results = [*shown[1:], ()]

    answer = _answer(texts[-1])
    rows, cols = grid or _square(len(answer) if answer else _piece_count(len(shown[0])))
    pieces = rows * cols
    size = shown[0][0].shape[:2] if shown[0] else (0, 0)
    workspace = Workspace(BoardLayout(rows, cols, max(size[0], 1), max(size[1], 1)), _CANVAS)
    played = [_play(text, workspace, images) for text, images in zip(texts, results, strict=True)]
    solved = answer is not None and sorted(answer) == sorted(workspace.names)
    reward = score_episode(
        EpisodeRecord(
            texts=texts,
            code_turns=sum(turn.has_code for turn in played),
            images=sum(map(len, results)),
            well_formed=all(turn.well_formed for turn in played),
            answered=answer is not None,
            pieces_right=pieces if solved else 0,
            pieces=pieces,
            max_turns=len(texts),
        ),
        get_reward("paper"),
    )
    last = len(texts) - 1
    turns = tuple(
        Turn(
            text=text,
            feedback=feedback[place],
            images=results[place],
            primitives=played[place].primitives,
            error=played[place].error,
            state=played[place].state,
            reward=reward if place == last else no_reward(),
            env_seconds=0.0,
            usage=TurnUsage(0.0),
        )
        for place, text in enumerate(texts)
    )
    solution = answer if answer is not None and solved else ()
    return Transcript(
        id=name,
        policy=POLICY,
        task={
            "grid": f"{rows}x{cols}",
            "level": sum(a == b for a, b in zip(solution, workspace.names, strict=False)) if solved else None,
            "names": list(workspace.names),
            "dialect": "code",
            "initial_view": "pieces",
            "piece_size": [int(side) for side in size],
            "rotations": False,
            "max_turns": len(texts),
            "seed": None,
            "policy_seed": None,
            "image_id": "",
        },
        prompt=said[0][1],
        prompt_images=shown[0],
        turns=turns,
        solution=solution,
        solved=solved,
        score=reward["score"],
        reward=reward,
        truncated=answer is None,
        system=system,
        details=details,
    )


def _messages(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return role and text of each message."""
    key, role, text = ("messages", "role", "content") if "messages" in entry else ("conversations", "from", "value")
    said: list[tuple[str, str]] = []
    for message in get_items(entry, key, dict):
        given = get_field(message, role, str)
        if given not in _ROLES:
            raise RecordProblem(f"has a message of the role {given!r:.40}; there are {', '.join(_ROLES)}.")
        said.append((_ROLES[given], get_field(message, text, str)))
    if not said:
        raise RecordProblem("has no messages.")
    return said


def _images(root: Path, names: list[str]) -> list[Image]:
    """Read the images of a conversation; one that is named several times is read once."""
    known: dict[str, Image] = {}
    pixels = 0
    for name in names:
        if name not in known:
            known[name] = decode_image(_find(root, name))
        pixels += known[name].size // 3
        if pixels > MAX_PIXELS:
            raise RecordProblem(f"shows images of more than {MAX_PIXELS:,} pixels together.")
    return [known[name] for name in names]


def _find(root: Path, name: str) -> Path:
    """Return the file of an image within the root, leaving out as few leading folders as need be."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part.strip("/")]
    if ".." in parts or "\0" in name:
        raise RecordProblem(f"names the image {name!r:.200}, which leads out of the folder of images.")
    for start in range(len(parts)):
        path = root.joinpath(*parts[start:])
        if path.is_file():
            return path
    raise RecordProblem(f"names the image {name!r:.200}, which is not in {root}.")


def _answer(text: str) -> tuple[str, ...] | None:
    """Return the pieces that a turn answers with, or None if it is no answer that can be read."""
    parsed = get_dialect("code").parse(text, _LARGEST)
    match parsed.primitives:
        case (Answer(order, _),) if 2 <= len(order) <= MAX_PIECES:
            return order
        case _:
            return None


def _piece_count(images: int) -> int:
    """Return the number of first images that are pieces: all, or all but a reference image, if that makes a square."""
    for count in (images, images - 1):
        if 2 <= count <= MAX_PIECES and math.isqrt(count) ** 2 == count:
            return count
    return 4


def _square(pieces: int) -> tuple[int, int]:
    side = math.isqrt(pieces)
    if side * side != pieces:
        raise RecordProblem(f"has an answer of {pieces} pieces, which make no square; give their grid.")
    return side, side


def _play(text: str, workspace: Workspace, shown: tuple[Image, ...]) -> _Played:
    """Carry a turn out on the board; where an image came back, AGILE has carried it out whatever this dialect reads."""
    parsed = get_dialect("code").parse(text, workspace)
    error = parsed.error
    names = tuple(type(primitive).__name__ for primitive in parsed.primitives)
    if error is None and names != ("Answer",):
        try:
            workspace.execute(parsed.primitives)
            if parsed.variables is not None:
                workspace.variables = parsed.variables
        except ActionError as failure:
            error = failure
    return _Played(
        primitives=() if error else names,
        error=error.kind if error is not None and not shown else None,
        state=tuple(workspace.state_list()),
        has_code=parsed.has_code,
        well_formed=parsed.well_formed,
    )
