"""Export of episodes in the layouts of other trainers: LLaMA-Factory (ShareGPT), TRL and verl.

Where a model wrote a mark such as ``<image>`` itself, trainers would look for an image that is not there, so it becomes
``[image]``. Every file gets its name when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from agile_gym.actions.prompt import IMAGE_MARK
from agile_gym.errors import ConfigurationError, reason_of
from agile_gym.files import import_pyarrow, write_rows, write_text
from agile_gym.images.items import hash_pixels
from agile_gym.outputs import check_replaceable
from agile_gym.transcripts.parts import list_parts
from agile_gym.transcripts.pictures import ImageFolder, encode_png
from agile_gym.transcripts.reading import EPISODES
from agile_gym.transcripts.record import Message, Transcript

__all__ = ["conversation", "export_sharegpt", "export_trl", "export_verl"]

_MARKS = re.compile("<(image|video|audio)>")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_Row = TypeVar("_Row")


def conversation(transcript: Transcript) -> list[Message]:
    """Return the messages of an episode with as many image marks as images, as trainers require.

    Args:
        transcript: The episode, with its images.

    Raises:
        ConfigurationError: If it has no turns, or was recorded without images.
    """
    if not transcript.turns:
        raise ConfigurationError(
            f"The transcript {transcript.id!r} has no turns, so there is nothing to learn from it."
        )
    return [_clean(message, transcript.id) for message in transcript.messages()]


def export_sharegpt(transcripts: Iterable[Transcript], folder: str | Path, *, name: str = "agile_gym") -> int:
    """Write conversations as LLaMA-Factory reads them: ShareGPT with OpenAI's keys, as AGILE's cold start has them.

    ``NAME.json`` is a list of ``{"messages": [{"role", "content"}, ...], "images": [path, ...]}``, ``images/`` holds
    the images, and ``dataset_info.json`` describes the data set; other entries that it has stay. Train with
    ``dataset_dir: FOLDER`` and ``dataset: NAME``.

    Args:
        transcripts: The episodes; taken one by one.
        folder: Folder for the files.
        name: Name of the data set.

    Returns:
        The number of conversations.

    Raises:
        ConfigurationError: If there are none, one has no turns or no images, the name is not allowed, or a
            ``dataset_info.json`` that is there cannot be read.
    """
    path = _target(folder, name, ".json")
    info_path = path.with_name("dataset_info.json")
    check_replaceable(path, _is_export, "what agile-gym export wrote")
    info = _read_info(info_path)
    images = ImageFolder(path.parent)
    count = 0
    with _explained(path), write_text(path) as file:
        for count, transcript in enumerate(_some(transcripts), 1):
            messages = conversation(transcript)
            shown = [images.path(images.add(image)) for message in messages for image in message.images]
            row = {
                "messages": [{"role": message.role, "content": message.text} for message in messages],
                "images": [image.relative_to(path.parent).as_posix() for image in shown],
            }
            file.write(("[\n" if count == 1 else ",\n") + json.dumps(row))
        file.write("\n]\n")
    info[name] = {
        "file_name": path.name,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
    with _explained(info_path), write_text(info_path) as file:
        file.write(json.dumps(info, indent=2) + "\n")
    return count


def export_trl(transcripts: Iterable[Transcript], folder: str | Path, *, name: str = "train") -> int:
    """Write conversations as TRL's ``SFTTrainer`` reads them for vision-language models.

    ``NAME.parquet`` has the columns ``messages``, a list of ``{"role", "content": [{"type": "image"}, {"type": "text",
    "text": ...}, ...]}``, and ``images``, which ``datasets.load_dataset("parquet", data_files=...)`` returns as images.

    Args:
        transcripts: The episodes; taken one by one.
        folder: Folder for the file.
        name: Name of the file.

    Returns:
        The number of conversations.

    Raises:
        ConfigurationError: If there are none, one has no turns or no images, or the name is not allowed.
        MissingDependencyError: If pyarrow is not installed.
    """
    pa, _ = import_pyarrow()
    part = pa.struct([("type", pa.string()), ("text", pa.string())])
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    message = pa.struct([("role", pa.string()), ("content", pa.list_(part))])
    word = {"dtype": "string", "_type": "Value"}
    features = {
        "messages": [{"role": word, "content": [{"type": word, "text": word}]}],
        "images": [{"_type": "Image"}],
    }
    schema = pa.schema([("messages", pa.list_(message)), ("images", pa.list_(image))])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})

    def rows() -> Iterator[dict[str, Any]]:
        for transcript in transcripts:
            messages = conversation(transcript)
            yield {
                "messages": [{"role": said.role, "content": _content(said.text)} for said in messages],
                "images": [{"bytes": encode_png(shown), "path": None} for said in messages for shown in said.images],
            }

    return _write_parquet(_target(folder, name, ".parquet"), schema, rows())


def export_verl(
    transcripts: Iterable[Transcript],
    folder: str | Path,
    *,
    name: str = "train",
    data_source: str | None = None,
    env_name: str | None = None,
) -> int:
    """Write the puzzles of episodes as verl reads them, in the layout that AGILE released for reinforcement learning.

    ``NAME.parquet`` has the columns ``prompt`` (the first messages: ``[{"role", "content"}]`` with image marks),
    ``images`` (``[{"bytes"}]``), ``reward_model`` (``ground_truth``, JSON text of ``[[piece, angle], ...]``, row by
    row, and ``style``), ``data_source``, ``extra_info`` (``index``) and ``env_name``. The turns are left out, and
    a puzzle that was played several times is one row.

    Args:
        transcripts: The episodes; taken one by one.
        folder: Folder for the file.
        name: Name of the file.
        data_source: Name of the reward that verl computes; by default ``"puzzle"``, as AGILE's code calls its jigsaw's,
            or the name of another environment.
        env_name: Name of the tools in AGILE's verl; by default ``"puzzle_toolbox"``, likewise.

    Returns:
        The number of puzzles.

    Raises:
        ConfigurationError: If there are none, one has no images, or the name is not allowed.
        MissingDependencyError: If pyarrow is not installed.
    """
    pa, _ = import_pyarrow()
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", pa.list_(message)),
            ("images", pa.list_(pa.struct([("bytes", pa.binary())]))),
            ("reward_model", pa.struct([("ground_truth", pa.string()), ("style", pa.string())])),
            ("extra_info", pa.struct([("index", pa.int64())])),
            ("env_name", pa.string()),
        ]
    )

    def rows() -> Iterator[dict[str, Any]]:
        seen: set[bytes] = set()
        for transcript in transcripts:
            first = [] if transcript.system is None else [Message("system", transcript.system)]
            first.append(Message("user", transcript.prompt, transcript.prompt_images))
            prompt = [{"role": said.role, "content": said.text} for said in (_clean(m, transcript.id) for m in first)]
            other = None if "grid" in transcript.task else transcript.task.get("env")
            pairs = [_pair(entry, transcript.id) if other is None else entry for entry in transcript.solution]
            truth = json.dumps(pairs)
            hashes = [hash_pixels(image) for image in transcript.prompt_images]
            puzzle = hashlib.sha256(json.dumps([prompt, truth, hashes]).encode()).digest()
            if puzzle in seen:
                continue
            seen.add(puzzle)
            yield {
                "data_source": data_source or other or "puzzle",
                "prompt": prompt,
                "images": [{"bytes": encode_png(image)} for image in transcript.prompt_images],
                "reward_model": {"ground_truth": truth, "style": "rule"},
                "extra_info": {"index": len(seen) - 1},
                "env_name": env_name or other or "puzzle_toolbox",
            }

    return _write_parquet(_target(folder, name, ".parquet"), schema, rows())


def _pair(entry: object, name: str) -> list[Any]:
    """Return a place of a solution as a piece and its angle."""
    pair = [entry, 0] if isinstance(entry, str) else cast("list[Any]", entry)
    if isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], int):
        return list(pair)
    raise ConfigurationError(
        f"The transcript {name!r} has {entry!r:.60} in its solution, which is neither a piece nor [piece, angle]."
    )


def _clean(message: Message, name: str) -> Message:
    """Return a message whose marks all stand for images."""
    if message.role != "user":
        return Message(message.role, _utf8(_MARKS.sub(r"[\1]", message.text)), message.images)
    if message.text.count(IMAGE_MARK) != len(message.images):
        raise ConfigurationError(
            f"The transcript {name!r} has a text with {message.text.count(IMAGE_MARK)} image marks and "
            f"{len(message.images)} images. Record episodes with keep_images=True, and read them with their images."
        )
    return Message("user", _utf8(re.sub("<(video|audio)>", r"[\1]", message.text)), message.images)


def _utf8(text: str) -> str:
    """Replace lone surrogates, which some servers send, by question marks: no tokenizer and no Parquet takes them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _content(text: str) -> list[dict[str, str | None]]:
    """Return a text as a list of images and texts."""
    parts: list[dict[str, str | None]] = []
    for number, piece in enumerate(text.split(IMAGE_MARK)):
        if number:
            parts.append({"type": "image", "text": None})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts or [{"type": "text", "text": ""}]


def _target(folder: str | Path, name: str, suffix: str) -> Path:
    """Return the file to write, in a folder that is made."""
    if not _NAME.fullmatch(name) or name == "dataset_info":
        raise ConfigurationError(f"{name!r} cannot name a data set; use letters, digits, '-', '_' and '.'.")
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made a folder: {reason_of(error)}. Give another one.") from error
    if (path / EPISODES).exists() or list_parts(path):
        raise ConfigurationError(f"{path} holds transcripts. Give another folder, so that their images stay apart.")
    return path / f"{name}{suffix}"


def _is_export(head: bytes) -> bool:
    """Return whether the first bytes of a file may be those of an export."""
    return head.startswith(b'[\n{"messages": [{"role": ')


def _check_table(path: Path, schema: Any) -> None:  # noqa: ANN401 -- a pyarrow.Schema
    """Check that a Parquet file that would be replaced has the columns of the one that is written."""
    pa, pq = import_pyarrow()

    def is_own(head: bytes) -> bool:
        try:
            return head.startswith(b"PAR1") and pq.read_schema(path).names == schema.names
        except (OSError, pa.ArrowException):
            return False

    check_replaceable(path, is_own, "what agile-gym export wrote")


def _read_info(path: Path) -> dict[str, Any]:
    """Return the data sets that a folder describes already."""
    if not path.exists():
        return {}
    try:
        info: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{path} cannot be read: {_reason(error)}. Mend it, or give another folder."
        ) from error
    if not isinstance(info, dict):
        raise ConfigurationError(f"{path} does not hold a JSON dictionary. Mend it, or give another folder.")
    return cast("dict[str, Any]", info)


def _reason(error: Exception) -> str:
    return reason_of(error) if isinstance(error, OSError) else str(error)


def _write_parquet(path: Path, schema: Any, rows: Iterator[dict[str, Any]]) -> int:  # noqa: ANN401 -- a pyarrow.Schema
    def size(row: dict[str, Any]) -> int:
        return sum(len(image["bytes"]) for image in row["images"])

    _check_table(path, schema)
    with _explained(path):
        return write_rows(path, schema, _some(rows), size)


def _some(rows: Iterable[_Row]) -> Iterator[_Row]:
    """Return rows that must be at least one."""
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise ConfigurationError("There is no episode to export. Check the run, and the episodes that were selected.")


@contextmanager
def _explained(path: Path) -> Generator[None, None, None]:
    """Turn the errors of the system into one with advice."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {reason_of(error)}. Give another folder.") from error
