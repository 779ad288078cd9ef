"""Opening of questions in any form: JSON lines, Parquet, VLMEvalKit's TSV, ``hf:NAME``, datasets, lists of mappings."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from agile_gym.errors import ConfigurationError, ImageError, reason_of
from agile_gym.images.folder import encoded_column, is_dataset, load_dataset, parse_dataset_spec
from agile_gym.images.formats import header_problem
from agile_gym.images.items import Item, decode_checked, hash_bytes, shared_cache
from agile_gym.images.rows import ParquetTable, RowItem, TableLike, list_rows
from agile_gym.questions.records import Picture, Skipped
from agile_gym.questions.rows import Columns, RowOptions, RowProblem, read_row
from agile_gym.questions.tables import TsvTable
from agile_gym.questions.visual import ListedQuestions, VisualQuestion

__all__ = ["QuestionsLike", "SkippedQuestionWarning", "open_rows"]

QuestionsLike: TypeAlias = "str | os.PathLike[str] | Sequence[Mapping[str, Any]] | TableLike"
"""All that `open_rows` accepts."""
ENDINGS = (".jsonl", ".json", ".parquet", ".tsv")
_PREFIX = "hf:"
_NAMED = 3
_ACCEPTED = (
    "Accepted are: the path of a .jsonl, .json, .parquet or .tsv file, or of a folder of such files; "
    "'hf:NAME[:SPLIT[:COLUMN]]'; a datasets.Dataset; a list of dictionaries; or 'generated'."
)


class SkippedQuestionWarning(UserWarning):
    """Some rows cannot be asked and were skipped."""


@dataclass(frozen=True, slots=True, eq=False)
class _TsvItem:
    """A picture in a TSV, read from its place there when it is needed."""

    name: str
    content_hash: str
    picture: Picture

    def load(self, max_pixels: int) -> NDArray[np.uint8]:
        """Return the pixels, from the cache or decoded."""

        def decode() -> NDArray[np.uint8]:
            return decode_checked(self.picture.read(), self.content_hash, self.name, max_pixels)

        return shared_cache().get(self.content_hash, decode)


class _Reader:
    """Collector of the questions of one or several tables."""

    def __init__(self, columns: Mapping[str, Any], options: RowOptions) -> None:
        self.questions: list[VisualQuestion] = []
        self.skipped: list[Skipped] = []
        self.columns, self.options = columns, options
        self._seen: set[str] = set()
        self._rows = 0

    def add(
        self, row: Callable[[], tuple[Mapping[str, Any], Sequence[Item] | None]], columns: Columns, options: RowOptions
    ) -> None:
        """Add a row, or the reason why it cannot be asked."""
        number = self._rows
        self._rows += 1
        try:
            values, pictures = row()
            question = read_row(number, values, columns, options, pictures)
        except (RowProblem, ImageError) as error:
            self.skipped.append(Skipped(str(number), str(error)))
            return
        if question.id in self._seen:
            self.skipped.append(Skipped(str(number), f"its id {question.id!r:.80} is there twice"))
            return
        self._seen.add(question.id)
        self.questions.append(question)

    def add_mappings(self, rows: Sequence[object], source: str, options: RowOptions) -> None:
        """Add rows in memory; the columns are those of all of them."""
        names: dict[str, None] = {}
        for row in rows:
            if isinstance(row, Mapping):
                names |= dict.fromkeys(str(name) for name in cast("Mapping[object, object]", row))
        if not names:
            raise ConfigurationError(f"{source} has no rows. {_ACCEPTED}")
        columns = Columns.find(list(names), self.columns, source)

        def as_mapping(row: object) -> tuple[Mapping[str, Any], None]:
            if isinstance(row, str):
                raise RowProblem(row)
            if not isinstance(row, Mapping):
                raise RowProblem(f"it is of type {type(row).__name__}, no mapping")
            return cast("Mapping[str, Any]", row), None

        for row in rows:
            self.add(lambda row=row: as_mapping(row), columns, options)

    def add_table(self, table: TableLike, source: str, images: Sequence[str], options: RowOptions) -> None:
        """Add the rows of a table whose pictures are decoded when they are asked for."""
        given = dict(self.columns)
        if images:
            given["image"] = list(images)
        columns = Columns.find(list(table.column_names), given, source)
        held = columns.of["image"]
        pictures: dict[int, list[Item]] = defaultdict(list)
        broken: dict[int, str] = {}
        texts = {name for name in held if _holds_texts(table, name)}
        for name in held:
            if name in texts:
                continue
            items, skipped = list_rows(encoded_column(table, name), name, options.max_pixels)
            for item in items:
                pictures[cast("RowItem", item).row].append(item)
            for row, reason in ((one.name.partition("[")[0], one.reason) for one in skipped):
                if len(held) == 1 or reason != "the row has no image":
                    broken[int(row)] = f"the image: {reason}"
        wanted = [name for names in columns.of.values() for name in names if name not in held or name in texts]
        select = getattr(table, "select_columns", None)
        light = cast("TableLike", select(list(dict.fromkeys(wanted)))) if callable(select) else table

        def read(number: int) -> tuple[Mapping[str, Any], Sequence[Item] | None]:
            if number in broken:
                raise RowProblem(broken[number])
            row = light[number]
            return row, None if texts else pictures[number]

        for number in range(len(table)):
            self.add(lambda number=number: read(number), columns, options)

    def add_tsv(self, path: Path, options: RowOptions) -> None:
        """Add the rows of a TSV as VLMEvalKit has them."""
        table = TsvTable(path)
        names = [name for name in table.columns if name not in ("image", "image_path")]
        columns = Columns.find([*names, "image"], self.columns, str(path))
        if not {"image", "image_path"} & set(table.columns):
            raise ConfigurationError(f"{path} has no column of images; VLMEvalKit's files have image or image_path.")

        def read(texts: Mapping[str, str], found: Sequence[Picture]) -> tuple[Mapping[str, Any], Sequence[Item]]:
            items: list[Item] = []
            for picture in found:
                data = picture.read()
                problem = header_problem(io.BytesIO(data), options.max_pixels)
                if problem is not None:
                    raise RowProblem(f"{picture.name}: {problem}")
                items.append(_TsvItem(picture.name, hash_bytes(data), picture))
            return texts, items

        for row in table.rows():
            self.add(lambda row=row: read(row.texts, row.pictures), columns, options)

    def add_file(self, path: Path, source: str) -> None:
        """Add the rows of a file by its ending."""
        options = replace(self.options, folder=str(path.resolve().parent), table=path.name)
        ending = path.suffix.lower()
        if ending == ".tsv":
            self.add_tsv(path, replace(options, literals=True))
        elif ending == ".parquet":
            try:
                table = ParquetTable(str(path))
            except ImageError as error:
                raise ConfigurationError(f"{path} cannot be read: {error}. {_ACCEPTED}") from error
            self.add_table(table, str(path), (), options)
        elif ending in ENDINGS:
            self.add_mappings(_json_rows(path), str(path), options)
        else:
            raise ConfigurationError(f"{source} is no table of questions. {_ACCEPTED}")

    def result(self, source: str) -> ListedQuestions:
        """Return the questions; warn of those that were skipped."""
        named = "; ".join(f"row {one.id}: {one.reason}" for one in self.skipped[:_NAMED])
        more = f"; and {len(self.skipped) - _NAMED} more" if len(self.skipped) > _NAMED else ""
        if not self.questions:
            raise ConfigurationError(f"{source} has no question that can be asked ({named or 'no rows'}{more}).")
        if self.skipped:
            warnings.warn(
                f"{source}: {len(self.skipped):,} of {self._rows:,} rows skipped ({named}{more}). The attribute "
                "'skipped' of the source lists all.",
                SkippedQuestionWarning,
                stacklevel=4,
            )
        return ListedQuestions(self.questions, self.skipped, self.options.max_pixels)


def _holds_texts(table: TableLike, column: str) -> bool:
    """Return whether the first value of a column of images is a text: a path, or base64."""
    select = getattr(table, "select_columns", None)
    alone = cast("TableLike", select([column])) if callable(select) else table
    for row in range(min(len(table), 100)):
        value: object = alone[row][column]
        first = next(iter(cast("list[object]", value)), None) if isinstance(value, list) else value
        if first is not None:
            return isinstance(first, str)
    return False


def _json_rows(path: Path) -> list[object]:
    """Return the rows of a file of JSON lines, or of a JSON list; a line that is no JSON becomes the reason."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {reason_of(error)}.") from error
    if path.suffix.lower() == ".json":
        try:
            rows: object = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{path} is no JSON ({error!s:.200}). {_ACCEPTED}") from error
        if not isinstance(rows, list):
            raise ConfigurationError(f"{path} holds no JSON list of rows. {_ACCEPTED}")
        return cast("list[object]", rows)
    found: list[object] = []
    for line in data.split(b"\n"):
        if line.strip():
            try:
                row: object = json.loads(line)
            except (ValueError, RecursionError):
                row = "it is no JSON"
            found.append(row if not isinstance(row, str) or row == "it is no JSON" else [])
    return found


def _files(folder: Path) -> list[Path]:
    """Return the tables of a folder, of the first ending of `ENDINGS` that it has, in the order of their paths."""
    for ending in ENDINGS:
        found = sorted(
            path
            for path in folder.rglob(f"*{ending}")
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
        if found:
            return found
    raise ConfigurationError(f"{folder} has no table of questions. {_ACCEPTED}")


@lru_cache(maxsize=8)
def _opened(files: tuple[tuple[str, int, int], ...], source: str, columns: str, options: RowOptions) -> ListedQuestions:
    """Read files, which are kept while they stay as they are, as each environment of a batch asks for them."""
    reader = _Reader(json.loads(columns), options)
    for path, *_ in files:
        reader.add_file(Path(path), source)
    return reader.result(source)


def open_rows(
    questions: QuestionsLike, *, columns: Mapping[str, Any] | None = None, options: RowOptions | None = None
) -> ListedQuestions:
    """Open questions in any form but the generated one.

    Pictures are hashed and their headers checked now, and decoded when they are shown. Rows that cannot be asked are
    skipped: one `SkippedQuestionWarning` counts them, and the attribute ``skipped`` of the result has them all.

    Args:
        questions: See `QuestionsLike`. In a file, paths of pictures are relative to its folder and must not leave it.
        columns: For some parts of a question (`agile_gym.questions.rows.ALIASES`) the column, or a list of them.
        options: How rows are read.

    Returns:
        The questions, at least one.

    Raises:
        ConfigurationError: If nothing can be read, a column is not found, a TSV was cut short, or no row can be asked.
        ImageError: If a Hugging Face dataset cannot be loaded.
        MissingDependencyError: If a package is missing that the form needs.
    """
    options, columns = options or RowOptions(), columns or {}
    source = f"questions={questions!r:.200}" if isinstance(questions, str | os.PathLike) else "questions"
    if isinstance(questions, str) and questions.startswith(_PREFIX):
        spec = parse_dataset_spec(questions)
        reader = _Reader(columns, options)
        reader.add_table(load_dataset(spec), source, [spec.column] if spec.column else [], options)
        return reader.result(source)
    if isinstance(questions, str | os.PathLike):
        path = Path(os.path.expanduser(os.fspath(questions)))
        if not path.exists():
            raise ConfigurationError(f"{source} does not exist. {_ACCEPTED}")
        files = _files(path) if path.is_dir() else [path]
        stamps = tuple((str(one), one.stat().st_mtime_ns, one.stat().st_size) for one in files)
        return _opened(stamps, source, json.dumps(dict(columns), sort_keys=True, default=repr), options)
    given: Any = questions
    reader = _Reader(columns, options)
    if is_dataset(given):
        reader.add_table(given, source, (), options)
    elif isinstance(given, list | tuple):
        reader.add_mappings(cast("Sequence[object]", given), source, options)
    else:
        raise ConfigurationError(f"questions of type {type(given).__name__} cannot be opened. {_ACCEPTED}")
    return reader.result(source)
