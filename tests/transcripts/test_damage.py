"""Damaged transcripts are told with file and line."""

import pytest
from hypothesis import HealthCheck, settings

from agile_gym.errors import TranscriptError
from agile_gym.images.items import hash_pixels
from agile_gym.transcripts import TranscriptWriter, read_headers, read_transcripts
from agile_gym.transcripts.pictures import encode_png
from tests.helpers.made_transcripts import ids, made, write

SLOW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def edit(old, new):
    """Return what replaces a piece of the second line."""

    def damage(folder):
        path = folder / "episodes.jsonl"
        first, second, third = path.read_bytes().splitlines(keepends=True)
        assert old in second
        path.write_bytes(first + second.replace(old, new, 1) + third)

    return damage


def replace_line(data):
    def damage(folder):
        path = folder / "episodes.jsonl"
        first, _, third = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(first + data + b"\n" + third)

    return damage


IMAGE = hash_pixels(made(1).images[0])
IDS = made(1).segments[0].ids


def picture(data):
    def damage(folder):
        path = folder / "images" / IMAGE[:2] / f"{IMAGE}.png"
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data(path.read_bytes()))

    return damage


def other_picture(data):
    return encode_png(made(5).images[0])


def huge_picture(data):
    return data[:16] + (2**31 - 1).to_bytes(4, "big") * 2 + data[24:]


LINE = r"episodes\.jsonl, line 2, "


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (replace_line(b"{garbage"), LINE + "is not JSON"),
        (replace_line(b"[" * 100_000), LINE + "is not JSON"),
        (replace_line(b"\xff\xfe"), LINE + "is not JSON"),
        (replace_line(b"[1, 2]"), LINE + "is not a transcript"),
        (replace_line(b'{"grid": "2x2"}'), LINE + "is not a transcript"),
        (edit(b'"format":1', b'"format":2'), LINE + "has the format 2.*install a newer one"),
        (edit(b'"format":1', b'"format":"1"'), LINE + "has '1' as 'format'"),
        (edit(b'"id":"episode-1"', b'"id":"../../x"'), LINE + "has '../../x' as its id"),
        (edit(b'"solved":true', b'"solvd":true'), LINE + "has no 'solved'"),
        (edit(b'"solved":true', b'"solved":1'), LINE + "has 1 as 'solved', which must be of type bool"),
        (edit(b'"score":1.0,"reward"', b'"score":true,"reward"'), LINE + "has True as 'score'"),
        (edit(b'"turns":[{', b'"turns":[7,{'), LINE + "has 7 where a dictionary must be"),
        (edit(b'"text":"look"', b'"text":null'), LINE + "has None as 'text'"),
        (edit(b'"primitives":["Observe"]', b'"primitives":[1]'), LINE + "has 1 in 'primitives'"),
        (edit(b'"total":0.95', b'"sum":0.95'), LINE + "has no 'total'"),
        (edit(IMAGE.encode(), b"../../../etc/passwd"), LINE + r"refers to the image '\.\./\.\./\.\./etc/passwd'"),
        (edit(IMAGE.encode(), IMAGE[:-1].encode() + b"/"), LINE + "refers to the image"),
        (edit(b'"ids":"', b'"ids":"!'), LINE + "has a segment whose ids cannot be read"),
        (edit(b'"ids":"', b'"ids":"AAAAAA=='), LINE + "has a segment whose ids cannot be read"),
        (edit(b'"ids":"', b'"ids":"AAAAAAAAAAAAAAAA'), LINE + "has a damaged segment"),
        (edit(b'"loss_mask":"AQ', b'"loss_mask":"/w'), LINE + "has a segment whose loss_mask are neither 0 nor 1"),
        (edit(b'"images":[0,1,2]', b'"images":[0,-1,2]'), LINE + "has -1 as the index of an image"),
        (edit(b'"logps":"', b'"logps":null,"old":"'), LINE + "has a segment without"),
        (picture(None), rf"The image .*{IMAGE}\.png is missing"),
        (picture(lambda data: b""), rf"The image {IMAGE} of .*line 2 is not a PNG file"),
        (picture(lambda data: b"GIF89a" + data), "is not a PNG file"),
        (
            picture(lambda data: data[: len(data) // 2]),
            f"The image {IMAGE} of .*line 2.* cannot be decoded|cannot be used",
        ),
        (picture(other_picture), f"The image {IMAGE} of .*line 2 holds another image than its name refers to"),
        (picture(huge_picture), "declares 2147483647 x 2147483647 pixels"),
    ],
)
def test_damage_is_told_with_file_and_line(tmp_path, damage, message):
    write(tmp_path, [made(number) for number in range(3)])
    damage(tmp_path)
    episodes = read_transcripts(tmp_path)
    assert next(episodes).id == "episode-0"  # what comes before is read
    with pytest.raises(TranscriptError, match=message):
        next(episodes)


def test_an_over_long_line_is_refused(tmp_path, monkeypatch):
    write(tmp_path, [made(0)])
    monkeypatch.setattr("agile_gym.transcripts.reading.MAX_LINE", 100)
    with pytest.raises(TranscriptError, match="line 1, has more than 100 bytes"):
        ids(tmp_path)


def test_a_writer_does_not_go_on_after_damage(tmp_path):
    write(tmp_path, [made(number) for number in range(3)])
    replace_line(b"{garbage")(tmp_path)
    with pytest.raises(TranscriptError, match=LINE):
        TranscriptWriter(tmp_path, resume=True)
    write(tmp_path, [made(4)], overwrite=True)
    assert ids(tmp_path) == ["episode-4"]


def test_paths_that_hold_no_transcripts(tmp_path):
    with pytest.raises(TranscriptError, match=r"does not exist. Give the folder of a run"):
        read_transcripts(tmp_path / "nothing")
    with pytest.raises(TranscriptError, match=r"neither episodes.jsonl nor episodes-"):
        read_headers(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(TranscriptError, match=r"must end in .jsonl or .parquet"):
        read_transcripts(tmp_path / "notes.txt")


def test_single_files_can_be_read(tmp_path):
    write(tmp_path / "a", [made(0)])
    write(tmp_path / "b", [made(0)], format="parquet")
    assert ids(tmp_path / "a/episodes.jsonl") == ids(str(tmp_path / "b/episodes-00000.parquet")) == ["episode-0"]


def test_damaged_parts_are_told(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    write(tmp_path, [made(0, size=64), made(1, size=64)], format="parquet")
    path = tmp_path / "episodes-00000.parquet"
    whole = path.read_bytes()
    table = pq.read_table(path)
    for data in (b"", b"PAR1", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(TranscriptError, match=r"episodes-00000.parquet cannot be read as Parquet"):
            ids(tmp_path)
    path.write_bytes(whole[:200] + bytes(2000) + whole[2200:])
    with pytest.raises(TranscriptError, match=r"episodes-00000.parquet"):
        list(read_transcripts(tmp_path))
    pq.write_table(pa.table({"prompt": ["x"]}), path)
    with pytest.raises(TranscriptError, match="is not a file of transcripts: it has the columns prompt"):
        ids(tmp_path)
    broken = table.set_column(table.schema.get_field_index("record"), "record", pa.array(["{", "{"]))
    pq.write_table(broken, path)
    with pytest.raises(TranscriptError, match="row 0 of row group 0, is not JSON"):
        ids(tmp_path)
    empty = pa.array([[], []], table.schema.field("images").type)
    pq.write_table(table.set_column(table.schema.get_field_index("images"), "images", empty), path)
    with pytest.raises(TranscriptError, match="row 0 of row group 0, has no image"):
        ids(tmp_path)
    assert [episode.id for episode in read_transcripts(tmp_path, images=False)] == ["episode-0", "episode-1"]
