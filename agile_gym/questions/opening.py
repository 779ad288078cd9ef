"""Opening of benchmarks' files: which benchmark a file is of, its shards, and the questions that can be asked."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from agile_gym.errors import ConfigurationError, did_you_mean
from agile_gym.questions.parsing import BLINK_TASKS, PARSERS
from agile_gym.questions.records import Question, Questions, Skipped
from agile_gym.questions.spool import Spool
from agile_gym.questions.tables import Row, TsvTable, parquet_columns, parquet_rows

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "find_benchmarks",
    "get_benchmark",
    "name_files",
    "open_questions",
    "read_questions",
]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark.

    Attributes:
        key: Its key, as on the command line.
        title: Its name in tables, as in the paper.
        count: Number of its questions.
        tsv: Name of VLMEvalKit's file, without ending; other names of it follow.
        split: Pattern of the names of the Parquet files of the split that is scored.
        images: Columns of Parquet files that hold images.
    """

    key: str
    title: str
    count: int
    tsv: tuple[str, ...]
    split: str
    images: tuple[str, ...] = ("image",)


_NUMBERED = tuple(f"image_{number}" for number in range(1, 8))
BENCHMARKS: dict[str, Benchmark] = {
    one.key: one
    for one in (
        Benchmark(
            "mme-realworld-lite",
            "MME-RealWorld-Lite",
            1919,
            ("MME-RealWorld-Lite", "mme_realworld_lite"),
            "train-*",
            ("bytes",),
        ),
        Benchmark("realworldqa", "RealWorldQA", 765, ("RealWorldQA",), "test-*"),
        Benchmark("hrbench4k", "HRBench4K", 800, ("HRBench4K", "hr_bench_4k"), "*hr*bench_4k*"),
        Benchmark("hrbench8k", "HRBench8K", 800, ("HRBench8K", "hr_bench_8k"), "*hr*bench_8k*"),
        Benchmark("vstar", "V*", 191, ("VStarBench",), "test-*"),
        Benchmark("mmvp", "MMVP", 300, ("MMVP",), "train-*"),
        Benchmark("blink", "BLINK", 1901, ("BLINK",), "val-*", _NUMBERED[:4]),
        Benchmark("hallusionbench", "HallusionBench", 951, ("HallusionBench",), "image-*"),
        Benchmark("mmmu", "MMMU", 900, ("MMMU_DEV_VAL",), "validation-*", _NUMBERED),
    )
}
"""The benchmarks by key."""
VSTAR_CATEGORIES = frozenset(("direct_attributes", "relative_position"))
MMMU_SPLIT = "validation"


def get_benchmark(key: str) -> Benchmark:
    """Return a benchmark.

    Raises:
        ConfigurationError: If there is none of this key.
    """
    if key not in BENCHMARKS:
        raise ConfigurationError(f"There is no benchmark {key!r:.80}. {did_you_mean(key, BENCHMARKS)}")
    return BENCHMARKS[key]


def name_files(given: Iterable[str], option: str) -> dict[str, Path]:
    """Return benchmarks' files by key.

    Args:
        given: Texts of the form ``NAME=FILE``.
        option: Name of the option that has them, for errors.

    Raises:
        ConfigurationError: If one is not of that form, or a benchmark is not known, or is given twice.
    """
    files: dict[str, Path] = {}
    for text in given:
        key, equals, file = text.partition("=")
        if not equals or not file:
            raise ConfigurationError(f"{option} {text} is not of the form NAME=FILE, such as mmvp=MMVP.tsv.")
        if get_benchmark(key).key in files:
            raise ConfigurationError(f"{option} {text}: {key} is given twice; leave one of the two out.")
        files[key] = Path(file)
    return files


_PARQUET_COLUMNS = {
    "mme-realworld-lite": {"multi-choice options", "bytes", "question", "answer"},
    "hrbench4k": {"cycle_category", "question", "answer", "A", "image"},
    "vstar": {"text", "label", "category", "image"},
    "mmvp": {"Options", "Correct Answer", "Question", "Index", "image"},
    "blink": {"sub_task", "choices", "question", "answer", "image_1", "idx"},
    "hallusionbench": {"gt_answer", "visual_input", "set_id", "figure_id", "question_id", "image"},
    "mmmu": {"question_type", "options", "id", "answer", "image_1"},
}


def _recognised(columns: Collection[str], categories: Collection[str], *, parquet: bool) -> str | None:
    """Return the key of the benchmark that a table is of, by columns and categories; of both HR-Benches the first."""
    there = set(columns)
    if parquet:
        found = next((key for key, needed in _PARQUET_COLUMNS.items() if needed <= there), None)
        plain = {"question", "answer", "image"} <= there <= {"question", "answer", "image", "image_path"}
        return "realworldqa" if found is None and plain else found
    if not {"index", "question", "answer"} <= there or not there & {"image", "image_path"}:
        return None
    if "multi-choice options" in there:
        return "mme-realworld-lite"
    if "cycle_category" in there:
        return "hrbench4k"
    if "A" not in there:
        return "hallusionbench" if {"category", "l2-category"} <= there else None
    if "split" in there or "l2-category" in there:
        return "mmmu"
    if "category" in there:
        kinds = set(categories)
        return "vstar" if kinds <= VSTAR_CATEGORIES else "blink" if kinds <= BLINK_TASKS else None
    return "realworldqa" if "C" in there else "mmvp"


def _check(benchmark: Benchmark, path: Path, rows: Sequence[Row], columns: Sequence[str], *, parquet: bool) -> None:
    """Check that a table is of the benchmark.

    Raises:
        ConfigurationError: If not, or it has no rows.
    """
    categories = {row.texts.get("category", "") for row in rows}
    found = _recognised(columns, categories, parquet=parquet)
    other = re.search(r"([48])k", path.name.lower())
    if found == "hrbench4k" and benchmark.key.startswith("hrbench"):
        found = benchmark.key if other is None else f"hrbench{other[1]}k"
    if found != benchmark.key:
        what = f"It looks like one of {BENCHMARKS[found].title}." if found else "It is none that is known."
        raise ConfigurationError(
            f"{path} is no file of {benchmark.title}: its columns are {', '.join(columns)!s:.300}. {what}"
        )
    if not rows:
        raise ConfigurationError(f"{path} has no questions, so it was cut short. Get it again.")


_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.parquet")


def _shards(benchmark: Benchmark, path: Path) -> list[Path]:
    """Return the Parquet files of a folder, or all shards of the one that was given.

    Raises:
        ConfigurationError: If there is none, or one is missing.
    """
    if path.is_dir():
        found = sorted(one for one in path.rglob("*.parquet") if one.match(benchmark.split))
        if not found:
            raise ConfigurationError(
                f"{path} has no file {benchmark.split}.parquet of {benchmark.title}. Give the folder that was "
                "downloaded, or a file."
            )
    else:
        found = [path]
    wanted: dict[Path, None] = {}
    for one in found:
        match = _SHARD.fullmatch(one.name)
        names = [one.name]
        if match:
            names = [f"{match[1]}-{number:05d}-of-{match[3]}.parquet" for number in range(int(match[3]))]
        for name in names:
            if not (one.parent / name).is_file():
                raise ConfigurationError(
                    f"{one.parent / name} is missing: {benchmark.title} lies in {len(names)} files."
                )
            wanted[one.parent / name] = None
    return list(wanted)


def read_questions(path: Path, key: str) -> list[Question]:
    """Read all questions of a benchmark's file, whatever can be asked of them.

    Args:
        path: A TSV of VLMEvalKit, a Parquet file (the other shards are read, too), or a folder of Parquet files.
        key: Key of the benchmark.

    Raises:
        ConfigurationError: If it cannot be read, is of another benchmark, was cut short, or has an index twice.
        MissingDependencyError: If pyarrow is needed and not installed.
    """
    benchmark = get_benchmark(key)
    tsv, parquet = PARSERS[key]
    if not path.exists():
        raise ConfigurationError(f"{path} does not exist. Give a file of {benchmark.title}, or a folder of its files.")
    if path.is_file() and path.suffix.lower() != ".parquet":
        if path.suffix.lower() != ".tsv":
            raise ConfigurationError(f"{path} is neither .tsv nor .parquet. Give a file of {benchmark.title}.")
        table = TsvTable(path)
        if _recognised(table.columns, (), parquet=False) is None and "category" not in table.columns:
            _check(benchmark, path, (), table.columns, parquet=False)
        rows = table.rows()
        _check(benchmark, path, rows, table.columns, parquet=False)
        return [tsv(key, number, row) for number, row in enumerate(rows)]
    questions: list[Question] = []
    spool = Spool()
    for shard in _shards(benchmark, path):
        columns = parquet_columns(shard)
        rows = parquet_rows(shard, benchmark.images, spool)
        _check(benchmark, shard, rows, columns, parquet=True)
        questions += [parquet(key, len(questions) + number, row) for number, row in enumerate(rows)]
    _refuse_twice(path, questions)
    return questions


def _refuse_twice(path: Path, questions: Sequence[Question]) -> None:
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise ConfigurationError(
                f"{path}: the question {question.id!r:.80} is there twice. Give files in which each is once."
            )
        seen.add(question.id)


def open_questions(path: Path, key: str) -> Questions:
    """Read the questions of a benchmark that can be asked, and the others with the reason; of MMMU those of validation.

    The headers of all pictures are read. Results are kept while the files stay as they are, as each environment asks
    for them.

    Raises:
        ConfigurationError: As for `read_questions`, or if none can be asked.
        MissingDependencyError: If pyarrow is needed and not installed.
    """
    full = path.resolve()
    held = (
        [full] if full.suffix.lower() == ".tsv" else sorted((full if full.is_dir() else full.parent).rglob("*.parquet"))
    )
    stamps = [(one.name, one.stat().st_mtime_ns, one.stat().st_size) for one in held if one.is_file()]
    return _opened(full, key, tuple(stamps))


@lru_cache(maxsize=16)
def _opened(path: Path, key: str, stamps: object) -> Questions:
    asked: list[Question] = []
    skipped: list[Skipped] = []
    hashes: list[tuple[str, ...]] = []
    for question in read_questions(path, key):
        if key == "mmmu" and question.split != MMMU_SPLIT:
            continue
        problem = question.problem()
        if problem is None and key == "hallusionbench" and len(question.facts) < len(("set", "figure", "number")):
            problem = "its index does not tell set, figure and question"
        if problem is None and key.startswith("hrbench") and not question.facts.get("cycle"):
            problem = "it has no cycle"
        checks = [] if problem else [picture.check() for picture in question.pictures]
        for picture, (_, fault) in zip(question.pictures, checks, strict=False):
            problem = problem or (fault and f"{picture.name}: {fault}")
        if problem is None:
            asked.append(question)
            hashes.append(tuple(content for content, _ in checks))
        else:
            skipped.append(Skipped(question.id, problem))
    if not asked:
        why = f" The first one: {skipped[0].reason}." if skipped else ""
        raise ConfigurationError(f"{path} has no question of {get_benchmark(key).title} that can be asked.{why}")
    return Questions(key, tuple(asked), tuple(skipped), tuple(hashes))


def find_benchmarks(folder: Path) -> dict[str, Path]:
    """Return the files of benchmarks in a folder, by key: TSVs by their names, and Parquet files by their columns.

    Of a benchmark in both layouts the TSV is taken, and of a TSV that was unpacked the ``_local`` one.

    Raises:
        ConfigurationError: If there is no such folder, or no file of a benchmark in it.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder. Give the folder of the benchmarks' files.")
    found: dict[str, Path] = {}
    for key, benchmark in BENCHMARKS.items():
        names = [f"{name}{end}.tsv" for name in benchmark.tsv for end in ("_local", "")]
        there = next((path for name in names for path in sorted(folder.rglob(name))), None)
        if there is not None:
            found[key] = there
    for path in sorted(folder.rglob("*.parquet")):
        key = _recognised(parquet_columns(path), (), parquet=True)
        size = re.search(r"([48])k", path.name.lower())
        key = f"hrbench{size[1]}k" if key == "hrbench4k" and size else key
        if key is None or key in found or not path.match(BENCHMARKS[key].split):
            continue
        root = path.parent if path.parent.name != "data" else path.parent.parent
        many = key in ("blink", "mmmu") and path.parent.name != "data"  # a folder for each task or subject
        found[key] = path if key.startswith("hrbench") else root.parent if many else root
    if not found:
        raise ConfigurationError(f"{folder} has no file of a benchmark. Known: {', '.join(BENCHMARKS)}.")
    return {key: found[key] for key in BENCHMARKS if key in found}
