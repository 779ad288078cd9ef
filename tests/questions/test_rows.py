"""Questions of tables in every form, and rows that cannot be asked."""

import base64
import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from agile_gym.errors import ConfigurationError
from agile_gym.questions.rows import RowOptions
from agile_gym.questions.sources import SkippedQuestionWarning, open_rows

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (6 + number, 9, 3), np.uint8) for number in range(8)]


def png(picture):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def rows(count=4):
    return [
        {"id": f"q{n}", "question": f"Which is {n}?", "choices": ["one", "two"], "answer": "B" if n % 2 else "one",
         "image": PICTURES[n], "category": "odd" if n % 2 else "even"}
        for n in range(count)
    ]  # fmt: skip


def summary(source):
    rng = np.random.default_rng(0)
    asked = [source.draw(rng, {"question": number}) for number in range(len(source))]
    return [(one.id, one.text, dict(one.key.choices), one.key.answers, one.label) for one in asked], [
        one.images[0] for one in asked
    ]


EXPECTED = [
    (f"q{n}", f"Which is {n}?", {"A": "one", "B": "two"}, ("B" if n % 2 else "A",), "odd" if n % 2 else "even")
    for n in range(4)
]


def written(folder, form):
    """Write the rows in a form, and return the source."""
    for number in range(4):
        (folder / f"{number}.png").write_bytes(png(PICTURES[number]))
    by_path = [row | {"image": f"{number}.png"} for number, row in enumerate(rows())]
    if form == "list":
        return rows()
    if form in ("jsonl", "folder"):
        path = folder / "questions.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in by_path))
        return folder if form == "folder" else str(path)
    if form == "json":
        (folder / "questions.json").write_text(json.dumps(by_path))
        return folder / "questions.json"
    if form == "base64":
        coded = [row | {"image": base64.b64encode(png(PICTURES[n])).decode()} for n, row in enumerate(rows())]
        (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in coded))
        return folder / "questions.jsonl"
    if form == "tsv":
        lines = ["index\tquestion\tA\tB\tanswer\tcategory\timage"]
        for number, row in enumerate(rows()):
            image = base64.b64encode(png(PICTURES[number])).decode()
            lines.append(
                "\t".join([row["id"], row["question"], *row["choices"], row["answer"], row["category"], image])
            )
        (folder / "questions.tsv").write_text("\n".join(lines) + "\n")
        return folder / "questions.tsv"
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    held = [row | {"image": {"bytes": png(PICTURES[n]), "path": None}} for n, row in enumerate(rows())]
    if form == "parquet paths":
        held = by_path
    table = pa.Table.from_pylist(held)
    pq.write_table(table, folder / "questions.parquet", row_group_size=2)
    if form == "dataset":
        datasets = pytest.importorskip("datasets")
        table = datasets.Dataset.from_list(held)
        return table.cast_column("image", datasets.Image())
    return folder / "questions.parquet"


FORMS = ("list", "jsonl", "folder", "json", "base64", "tsv", "parquet", "parquet paths", "dataset")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_questions(form, tmp_path):
    source = open_rows(written(tmp_path, form))
    facts, images = summary(source)
    assert facts == EXPECTED
    for image, picture in zip(images, PICTURES, strict=False):
        np.testing.assert_array_equal(image, picture)
        assert not image.flags.writeable
    assert source.skipped == ()


def test_columns_are_mapped_and_images_may_be_several():
    given = [
        {"q": "Compare <image> with <image>.", "a": 1, "opts": {"text": ["x", "y"], "label": ["A", "B"]},
         "left": PICTURES[0], "right": PICTURES[1], "note": "Look."},
        {"q": "<image>\nHow many?", "a": 3.0, "opts": None, "left": PICTURES[2], "right": None, "note": ""},
    ]  # fmt: skip
    columns = {"question": "q", "answer": "a", "choices": "opts", "image": ["left", "right"], "hint": "note"}
    source = open_rows(given, columns=columns)
    first, second = source.questions
    assert first.text == "Hint: Look.\nCompare image_1 with image_2."
    assert (first.key.rule, first.key.answers, len(first.pictures)) == ("choice", ("B",), 2)
    assert (second.text, second.key.rule, second.key.answers) == ("How many?", "number", ("3",))
    with pytest.raises(ConfigurationError, match=r"no column 'missing'. Its columns: 'q', 'a'"):
        open_rows(given, columns={"question": "missing"})
    with pytest.raises(ConfigurationError, match=r"columns has no part 'quesion'. Did you mean 'question'"):
        open_rows(given, columns={"quesion": "q"})
    with pytest.raises(ConfigurationError, match=r"no column for the question: looked for were question, query"):
        open_rows(given)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": " "}, "there is no question"),
        ({"question": "x" * 8001}, "more than 8,000 characters"),
        ({"answer": "C"}, "the answer 'C' is none of the choices A, B"),
        ({"answer": 2}, "the answer 2 is none of the 2 choices"),
        ({"answer": None}, "there is no answer"),
        ({"choices": ["one", "one"]}, "two choices are the same"),
        ({"choices": ["one"]}, "it has 1 choices"),
        ({"choices": "no list"}, "the choices are no list"),
        ({"choices": None, "answer": "x", "rule": "number"}, "the answer 'x' is no number"),
        ({"rule": "nearly"}, "the rule 'nearly' is none of"),
        ({"tolerance": -1}, "the tolerance -1"),
        ({"box": [1, 2, 3]}, "no list of four numbers"),
        ({"box": [3, 0, 1, 2]}, "the box is empty"),
        ({"box": [0, 0, float("nan"), 2]}, "no numbers of at least 0"),
        ({"image": b"no image"}, "image 1: "),
        ({"image": None}, "there is no image"),
        ({"image": "missing.png"}, "the image 'missing.png' does not exist"),
        ({"image": 3}, "is of type int, no image"),
        ({"image": [PICTURES[0]] * 17}, "it has 17 images"),
        ({"id": "q1"}, "its id 'q1' is there twice"),
    ],
)
def test_broken_rows_are_counted_and_skipped(change, reason):
    given = [*rows(3), rows(4)[3] | change]
    with pytest.warns(SkippedQuestionWarning, match="1 of 4 rows skipped"):
        source = open_rows(given)
    assert len(source) == 3
    (skipped,) = source.skipped
    assert skipped.id == "3"
    assert reason in skipped.reason
    with pytest.raises(ConfigurationError, match="has no question that can be asked"):
        open_rows([row | {"image": None} for row in rows(2)])


def test_pictures_that_are_too_large_are_skipped_when_a_table_is_opened(tmp_path):
    path = written(tmp_path, "tsv")
    with pytest.warns(SkippedQuestionWarning, match="2 of 4 rows skipped"):
        source = open_rows(path, options=RowOptions(max_pixels=7 * 9))
    assert [one.id for one in source.questions] == ["q0", "q1"]
    assert all("pixels" in one.reason for one in source.skipped)


def test_paths_do_not_leave_the_folder_and_lines_that_are_no_json_are_skipped(tmp_path):
    (tmp_path / "outside.png").write_bytes(png(PICTURES[0]))
    folder = tmp_path / "inside"
    folder.mkdir()
    path = written(folder, "jsonl")
    with open(path, "a") as file:
        file.write(json.dumps(rows()[0] | {"id": "out", "image": "../outside.png"}) + "\n")
        file.write(json.dumps(rows()[0] | {"id": "abs", "image": str(tmp_path / "outside.png")}) + "\n")
        file.write('{"id": "cut", "quest\n"text"\n')
    with pytest.warns(SkippedQuestionWarning, match="4 of 8 rows skipped"):
        source = open_rows(path)
    assert [one.reason for one in source.skipped][2:] == ["it is no JSON", "it is of type list, no mapping"]
    assert all("only files in the folder of questions.jsonl are read" in one.reason for one in source.skipped[:2])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "has no rows"),
        ("a.json", b"{}", "holds no JSON list"),
        ("a.json", b"[", "is no JSON"),
        ("a.tsv", b"index\tquestion\tanswer\timage\n1\tWhy?\tyes\tcut", "ends in the middle of a line"),
        ("a.tsv", b"index\tquestion\tanswer\n1\tWhy?\tyes\n", "has no column of images"),
        ("a.tsv", b"index\tquestion\tanswer\timage\n1\ta\tb\tc\n1\ta\tb\tc\n", "the index '1' is there twice"),
        ("a.parquet", b"no parquet", "is not a Parquet file"),
        ("a.csv", b"a,b", "is no table of questions"),
    ],
)
def test_files_that_are_none_are_refused(name, content, message, tmp_path):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        open_rows(tmp_path / name)


def test_sources_that_are_none_are_refused(tmp_path):
    for source, message in ((tmp_path, "has no table"), ("nowhere", "does not exist"), (3, "of type int")):
        with pytest.raises(ConfigurationError, match=message):
            open_rows(source)


def test_boxes_are_fractions_of_the_first_picture():
    boxes = [[0.25, 0.5, 1, 1], [1, 1, 4, 3], [[1, 1, 2, 2], [3, 2, 4, 3]], None, [8, 1, 99, 2]]
    given = [row | {"box": box} for row, box in zip(rows(5), boxes, strict=True)]
    source = open_rows(given)
    found = [source.draw(np.random.default_rng(0), {"question": number}).box for number in range(5)]
    assert found[0] == (0.25, 0.5, 1, 1)
    assert found[1] == pytest.approx((1 / 9, 1 / 7, 4 / 9, 3 / 7))
    assert found[2] == pytest.approx((1 / 9, 1 / 8, 4 / 9, 3 / 8))
    assert found[3] is None
    assert found[4] == pytest.approx((8 / 9, 1 / 10, 1, 2 / 10))
    wide = open_rows([rows(1)[0] | {"box": [1, 1, 4, 3]}], options=RowOptions(box_format="xywh"))
    assert wide.draw(np.random.default_rng(0), {}).box == pytest.approx((1 / 9, 1 / 6, 5 / 9, 4 / 6))


def test_no_picture_is_in_both_splits():
    pairs = [(0, 1), (1, 2), (3, 3), (4, 5), (6, 6), (5, 7)]  # 0, 1 and 2 belong together, and 4, 5 and 7
    given = [row | {"image": [PICTURES[a], PICTURES[b]]} for row, (a, b) in zip(rows(6), pairs, strict=True)]
    source = open_rows(given)
    groups = [{"q0", "q1"}, {"q2"}, {"q3", "q5"}, {"q4"}]
    for fraction in (0.01, 0.3, 0.5, 0.9):
        parts = [source.of_split(split, fraction) for split in ("train", "test")]
        ids = [{one.id for one in part.questions} for part in parts]
        hashes = [{item.content_hash for one in part.questions for item in one.pictures} for part in parts]
        assert ids[0] | ids[1] == {f"q{n}" for n in range(6)}
        assert all(ids)
        assert not hashes[0] & hashes[1]
        assert all(group <= ids[0] or group <= ids[1] for group in groups)
    with pytest.raises(ConfigurationError, match="all 2 share their pictures"):
        open_rows(given[:2]).of_split("train", 0.5).of_split("test", 0.5)


def test_a_source_is_pickled_and_files_are_read_once(tmp_path):
    path = written(tmp_path, "jsonl")
    source = open_rows(path)
    assert open_rows(path) is source
    assert summary(pickle.loads(pickle.dumps(source)))[0] == EXPECTED
