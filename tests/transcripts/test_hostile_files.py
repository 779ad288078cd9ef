"""Files of transcripts that somebody made to do harm: every one ends in an error that names it, soon and in little
memory, and nothing outside the folder is touched."""

import json
import os
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from agile_gym.cli import main
from agile_gym.errors import AgileGymError, ConfigurationError, TranscriptError
from agile_gym.images.items import hash_pixels
from agile_gym.transcripts import TranscriptWriter, export_verl, read_headers, read_transcripts, reading
from agile_gym.transcripts import parts as part_reading
from agile_gym.transcripts import values as records
from agile_gym.transcripts.pictures import encode_png
from tests.helpers.made_transcripts import made, played

MEGABYTE = 1024 * 1024
ODD = (
    *(None, True, 0, -1, 10**400, 1e308, -1e308, float("nan"), float("inf"), "", "\ud800\x1b[31m", "9x9", "A" * 10**5),
    *([], [None], [1], [["A", 1]], [0, 0], [-5, -5], ["a", 1], [1e9, 1e9], [[]], ["A"] * 4, {}, {"a": 1}),
)


def nested(levels, kind):
    value = kind()
    for _ in range(levels):
        value = [value] if kind is list else {"a": value}
    return value


def write(folder, episodes, **options):
    with TranscriptWriter(folder, **options) as writer:
        for episode in episodes:
            assert writer.append(episode)


def places(value, path=()):
    """Yield the path of every value of a record, but of one turn and one image only."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 1)):
            yield from places(value[index], (*path, index))


def put(text, path, value):
    record = holder = json.loads(text)
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return json.dumps(record)


RECORD = json.dumps(records.to_record(played(1, tokens=8, initial_view="board")[0], hash_pixels))
PATHS = [path for path in places(json.loads(RECORD)) if path]
COMMANDS = (("view",), ("view", "--gif"), *(("export", "--to", kind) for kind in ("sharegpt", "trl", "verl")))


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_any_value_in_a_record_ends_in_a_file_or_in_one_line(tmp_path, capsys, path):
    pytest.importorskip("pyarrow")
    run = tmp_path / "run"
    write(run, played(1, tokens=8, initial_view="board"))
    walked = not {"grid", "names", "initial_view", "piece_size", "solution", "state"}.isdisjoint(path)
    for number, value in enumerate([*ODD, nested(400, list), nested(400, dict)]):
        (run / "episodes.jsonl").write_text(put(RECORD, path, value) + "\n")
        turn = (number + len(PATHS) * len(str(path))) % len(COMMANDS)
        for command in [COMMANDS[turn]] if walked or number % 6 == 0 else []:
            output = ["--output", str(tmp_path / f"{number}-{command[-1]}")] if command[0] == "export" else []
            status = main([*command[:1], str(run), *command[1:], *output])
            shown = capsys.readouterr()
            assert status in (0, 1)
            assert shown.err.startswith("agile-gym: ") == bool(status)
            if status:
                assert shown.err.count("\n") == 1
                assert len(shown.err) < 1000
            assert all(line.isprintable() for line in (shown.out + shown.err).splitlines())


@pytest.mark.parametrize("key", ["task", "details", "solution"])
def test_what_cannot_be_walked_through_is_neither_read_nor_written(tmp_path, key):
    deep = nested(101, list) if key == "solution" else {"a": nested(100, dict)}
    with TranscriptWriter(tmp_path) as writer:
        with pytest.raises(ConfigurationError, match=f"its {key} are nested in more than 100 levels"):
            writer.append(replace(made(0), **{key: tuple(deep) if key == "solution" else deep}))
        shallow = nested(99, list) if key == "solution" else {"a": nested(98, dict)}
        assert writer.append(replace(made(0), **{key: tuple(shallow) if key == "solution" else shallow}))
    list(read_headers(tmp_path))
    path = tmp_path / "episodes.jsonl"
    path.write_text(put(path.read_text(), [key], deep) + "\n")
    with pytest.raises(TranscriptError, match=f"line 1, has '{key}' nested in more than 100 levels"):
        list(read_headers(tmp_path))


def test_no_line_is_written_that_would_not_be_read(tmp_path, monkeypatch):
    write(tmp_path, [made(0)])
    size = (tmp_path / "episodes.jsonl").stat().st_size
    for module in ("reading", "values"):
        monkeypatch.setattr(f"agile_gym.transcripts.{module}.MAX_LINE", size)
    with TranscriptWriter(tmp_path, resume=True) as writer:
        with pytest.raises(ConfigurationError, match=rf"it has {size + 1:,} bytes, and {size:,} can be read back"):
            writer.append(replace(made(1), policy="made up!"))
        assert writer.append(made(2))
    assert [header.id for header in read_headers(tmp_path)] == ["episode-0", "episode-2"]


def test_images_that_are_small_as_files_and_large_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_PIXELS", 3_000_000)
    images = tuple(np.full((1000, 1000, 3), shade, np.uint8) for shade in range(8))
    write(tmp_path / "fits", [replace(made(0), prompt_images=images[:2], turns=made(0).turns[1:])])
    assert len(next(read_transcripts(tmp_path / "fits")).images) == 2
    for name, shown in (("many", images), ("repeated", images[:1] * 8)):
        write(tmp_path / name, [replace(made(0), prompt_images=shown)])
        assert sum(path.stat().st_size for path in (tmp_path / name).rglob("*.png")) < 100_000
        tracemalloc.start()
        with pytest.raises(TranscriptError, match=r"line 1, shows images of more than 3,000,000 pixels together"):
            list(read_transcripts(tmp_path / name))
        assert tracemalloc.get_traced_memory()[1] < 30 * MEGABYTE
        tracemalloc.stop()
        assert next(read_transcripts(tmp_path / name, images=False)).id == "episode-0"
    (header,) = read_headers(tmp_path / "repeated")
    files = header.load_png()
    assert len(files) == 9
    assert all(data is files[0] for data in files[:8])  # read once


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_pipes_and_devices_are_not_waited_for(tmp_path):
    write(tmp_path, [made(0)])
    image = tmp_path / "images" / hash_pixels(made(0).images[0])[:2] / f"{hash_pixels(made(0).images[0])}.png"
    for replacement in (lambda path: os.mkfifo(path), lambda path: path.symlink_to("/dev/zero")):
        image.unlink()
        replacement(image)
        with pytest.raises(TranscriptError, match=r"The image .* is not a file"):
            list(read_transcripts(tmp_path))
    for name in ("episodes.jsonl", "episodes-00000.parquet"):
        (tmp_path / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / name)
        with pytest.raises(TranscriptError, match=rf"{name} .*is not a file"):
            list(read_headers(tmp_path))
        (tmp_path / name).unlink()


@pytest.mark.slow
def test_links_in_a_folder_do_not_lead_writing_elsewhere(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("no line end")
    for name, act in (
        ("episodes.jsonl", lambda run: TranscriptWriter(run, resume=True)),
        ("episodes.jsonl", TranscriptWriter),
        ("page.html", lambda run: main(["view", str(run)])),
        (f".page.html-{os.getpid()}.new", lambda run: main(["view", str(run)])),
        ("episode-0.gif", lambda run: main(["view", str(run), "--gif"])),
    ):
        run = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        write(run, [replace(made(0), task={"grid": "1x2", "names": ["A", "B"]})])
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(secret)
        try:
            assert act(run) == 0
        except AgileGymError as error:
            assert "episodes.jsonl is not a file but leads elsewhere" in str(error)  # noqa: PT017 -- or it is replaced
        assert secret.read_text() == "no line end"


def test_solutions_that_are_none_are_not_exported(tmp_path):
    pytest.importorskip("pyarrow")
    for entry in (1, None, ["A"], ["A", "B"], ["A", 0, 0], [1, 2], {"A": 0}):
        with pytest.raises(ConfigurationError, match="in its solution, which is neither a piece nor"):
            export_verl([replace(made(0), solution=("A", entry))], tmp_path)
    assert export_verl([replace(made(0), solution=("A", ["B", 90]))], tmp_path) == 1


def parquet(folder, change, **options):
    """Write a part, change its rows, and write them again."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write(folder, [made(0), made(1)], format="parquet", overwrite=True)
    path = folder / "episodes-00000.parquet"
    schema = pq.read_schema(path)
    rows = pq.read_table(path).to_pylist()
    change(rows[1])
    pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="zstd", **options)
    return path


def change_segment(**values):
    return lambda row: row["segments"][0].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.update(record=None), "is not JSON"),
        (lambda row: row.update(record="{" + "[" * 10**5), "is not JSON"),
        (lambda row: row.update(images=None), "has no image"),
        (lambda row: row.update(images=[None]), "has an image without bytes or path"),
        (lambda row: row["images"][0].update(path=None), "has an image without bytes or path"),
        (lambda row: row["images"][0].update(bytes=None), "has an image without bytes or path"),
        (lambda row: row["images"][0].update(bytes=b"x"), "is not a PNG file"),
        (lambda row: row["images"][0].update(path="../../../etc/passwd"), "has no image"),
        (lambda row: row.update(segments=[None]), "has a segment without ids"),
        (change_segment(ids=None), "has a segment without ids"),
        (change_segment(loss_mask=None), "has a segment without ids"),
        (change_segment(ids=[1, None, 2, 3]), "has a segment with gaps in its ids"),
        (change_segment(ids=[1]), "has a damaged segment"),
        (change_segment(advantages=[1.0]), "has a damaged segment"),
        (change_segment(images=None), "has a segment with images that are not there"),
        (change_segment(images=[None]), "has a segment with images that are not there"),
        (change_segment(images=[-1]), "has a segment with images that are not there"),
    ],
)
def test_rows_that_nobody_has_written_are_told(tmp_path, change, message):
    parquet(tmp_path, change)
    episodes = read_transcripts(tmp_path)
    assert next(episodes).id == "episode-0"
    with pytest.raises(TranscriptError, match=f"row 1 of row group 0,?.*{message}"):
        next(episodes)
    with TranscriptWriter(tmp_path, format="parquet", resume=True) as writer:
        writer.keep(["episode-0", "episode-1"])


def test_small_parquet_files_do_not_unfold_to_large_ones(tmp_path, monkeypatch):
    limits = {"MAX_VALUES": 1 << 16, "MAX_LINE": 1 << 20, "MAX_ROW_IMAGES": 1 << 24, "MAX_NAMES": 1000}
    for name, limit in limits.items():
        assert getattr(part_reading, name) > limit
        monkeypatch.setattr(part_reading, name, limit)
    noise = np.random.default_rng(0).bytes(400_000)
    image = {"bytes": noise, "path": f"{hash_pixels(made(0).images[0])}.png"}
    long = json.dumps({"format": 1, "id": "x", "x": "y" * 2 * MEGABYTE})
    attacks = {
        "has images of more than 16,777,216 bytes": lambda row: row.update(images=[image] * 50),
        "has more than 1,048,576 bytes as 'record'": lambda row: row.update(record=long),
        "65,536 can be read": change_segment(ids=[7] * 70_000),
        "has images of more than 1,000 bytes": lambda row: row.update(images=[{**image, "path": "p" * 100}] * 11),
    }
    for message, attack in attacks.items():
        path = parquet(tmp_path, attack, dictionary_pagesize_limit=1 << 28, data_page_size=1 << 28)
        assert path.stat().st_size < 2 * MEGABYTE
        with pytest.raises(TranscriptError, match=message):
            list(read_transcripts(tmp_path))
    path = parquet(tmp_path, lambda row: row.update(id="i" * 1001))
    with pytest.raises(TranscriptError, match="it has no ids"):
        TranscriptWriter(tmp_path, format="parquet", resume=True)


def test_dropping_episodes_of_a_part_leaves_the_others_as_they_were(tmp_path):
    pytest.importorskip("pyarrow")
    episodes = [*played(3, tokens=30), replace(made(3), policy="\ud800")]
    write(tmp_path / "all", episodes, format="parquet")
    write(tmp_path / "some", episodes[1:], format="parquet")
    with TranscriptWriter(tmp_path / "all", format="parquet", resume=True) as writer:
        writer.keep([episode.id for episode in episodes[1:]])
    import pyarrow.parquet as pq

    tables = [pq.read_table(tmp_path / name / "episodes-00000.parquet") for name in ("all", "some")]
    assert tables[0].equals(tables[1])
    assert encode_png(episodes[1].images[0]) in [image["bytes"] for image in tables[0]["images"][0].as_py()]
