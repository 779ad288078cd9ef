"""Readers of benchmarks' files: both layouts, prompts, and files that are not right."""

import base64
import re

import pytest

from agile_gym.errors import ConfigurationError, ImageError
from agile_gym.questions.opening import BENCHMARKS, find_benchmarks, open_questions, read_questions
from agile_gym.questions.prompts import write_prompt
from tests.helpers.benchmark_files import ANSWERS, png, text64, tsv_rows, write_parquet, write_tsv


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_both_layouts_have_the_same_questions(benchmark, tmp_path):
    ours = open_questions(write_tsv(tmp_path, benchmark), benchmark)
    theirs = open_questions(write_parquet(tmp_path, benchmark), benchmark)
    assert [question.answers[0] for question in ours.asked] == ANSWERS[benchmark]
    assert [question.answers for question in theirs.asked] == [question.answers for question in ours.asked]
    assert ours.skipped == theirs.skipped == ()
    for mine, other in zip(ours.asked, theirs.asked, strict=True):
        assert [one.read() for one in mine.pictures] == [one.read() for one in other.pictures]
        assert (mine.category, mine.facts, mine.fine) == (other.category, other.facts, other.fine)
        if benchmark != "realworldqa":  # there the question holds its options
            assert (mine.text, mine.choices, mine.kind) == (other.text, other.choices, other.kind)
            assert write_prompt(mine)[0] == write_prompt(other)[0]


PROMPTS = {
    "mme-realworld-lite": "<image>Invented question 0? The choices are listed below:\n(A) thing 0 0\n"
    "(B) thing 0 1\n(C) thing 0 2\n(D) thing 0 3\n(E) thing 0 4\n"
    "Select the best answer to the above multiple-choice question based on the image. Respond with only the letter "
    "(A, B, C, D, or E) of the correct option. \nThe best answer is:",
    "mmvp": "<image>Question: Invented question 0?\nOptions:\nA. thing 0 0\nB. thing 0 1\n"
    "Please select the correct answer from the options above. \n",
    "hallusionbench": "<image>Invented question 0?",
}


@pytest.mark.parametrize("benchmark", PROMPTS)
def test_prompts(benchmark, tmp_path):
    question = read_questions(write_tsv(tmp_path, benchmark), benchmark)[0]
    assert write_prompt(question)[0] == PROMPTS[benchmark]


def test_pictures_of_mmmu_stand_where_they_are_named(tmp_path):
    questions = read_questions(write_tsv(tmp_path, "mmmu"), "mmmu")
    assert write_prompt(questions[1])[0] == "Question: Invented question 0? <image>\n"
    text, pictures = write_prompt(questions[2])
    assert text.startswith("Question: <image> beside <image>: Invented")
    assert [one.read() for one in pictures] == [png(12), png(2)]


def test_pictures_that_were_unpacked(tmp_path):
    rows = [{**row, "image_path": f"{row['index']}.png"} for row in tsv_rows("hrbench8k")]
    folder = tmp_path / "images" / "HRBench8K"
    folder.mkdir(parents=True)
    for row in rows:
        (folder / row["image_path"]).write_bytes(base64.b64decode(row.pop("image")))
    rows[1]["image_path"] = str(folder / "1.png")
    rows[2]["image_path"] = "../../../secret.png"
    (tmp_path.parent / "secret.png").write_bytes(png(0))
    found = open_questions(write_tsv(tmp_path, "hrbench8k", rows, "HRBench8K_local"), "hrbench8k")
    assert [one.pictures[0].read() for one in found.asked[:3]] == [png(0), png(1), png(3)]
    assert [(one.id, "not in" in one.reason) for one in found.skipped] == [("2", True)]


def test_words_that_pandas_takes_for_missing_are_options(tmp_path):
    rows = list(tsv_rows("vstar"))
    rows[0] |= {"A": "None", "B": "NA", "C": "3", "D": "null"}
    question = read_questions(write_tsv(tmp_path, "vstar", rows), "vstar")[0]
    assert question.choices == {"A": "None", "B": "NA", "C": "3", "D": "null"}


def test_line_breaks_tabs_and_quotes_in_a_question(tmp_path):
    rows = list(tsv_rows("vstar"))
    rows[1]["question"] = 'one\n"two"\tthree\r\nfour\u2028five'
    questions = read_questions(write_tsv(tmp_path, "vstar", rows), "vstar")
    assert questions[1].text == rows[1]["question"]
    assert [question.pictures[0].read() for question in questions] == [png(0), png(1), png(2)]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize("other", BENCHMARKS)
def test_a_file_of_another_benchmark_is_refused(benchmark, other, tmp_path):
    if benchmark == other:
        return
    for write in (write_tsv, write_parquet):
        path = write(tmp_path, other)
        with pytest.raises(ConfigurationError, match=r"is no file of|has no file"):
            open_questions(path, benchmark)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.97, "last byte"])
def test_a_tsv_that_was_cut_short_is_refused(kept, tmp_path):
    path = write_tsv(tmp_path, "hallusionbench")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 1 if kept == "last byte" else int(kept * len(data))])
    with pytest.raises(ConfigurationError, match="cut short"):
        open_questions(path, "hallusionbench")


def test_a_damaged_parquet_file_and_a_missing_shard_are_refused(tmp_path):
    folder = write_parquet(tmp_path, "realworldqa")
    first, second = sorted(folder.rglob("*.parquet"))
    assert len(open_questions(first, "realworldqa").asked) == 3
    second.rename(tmp_path / "away.parquet")
    with pytest.raises(ConfigurationError, match=r"test-00001-of-00002\.parquet is missing"):
        open_questions(folder, "realworldqa")
    (tmp_path / "away.parquet").rename(second)
    second.write_bytes(second.read_bytes()[:-20])
    with pytest.raises(ConfigurationError, match="damaged"):
        open_questions(folder, "realworldqa")


def test_an_index_that_is_there_twice_is_refused(tmp_path):
    rows = list(tsv_rows("vstar"))
    rows[2]["index"] = "0"
    with pytest.raises(ConfigurationError, match=r"index '0' is there twice \(again in row 3\)"):
        open_questions(write_tsv(tmp_path, "vstar", rows), "vstar")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "E"}, "the answer 'E' is none of the choices A, B, C, D"),
        ({"answer": ""}, "there is no answer"),
        ({"question": " "}, "there is no question"),
        ({"image": ""}, "there is no image"),
        ({"image": "77"}, "that of the row '77', which is not there"),
        ({"image": "!" * 200}, "is not base64"),
        ({"image": base64.b64encode(b"no picture" * 20).decode()}, "not an image"),
        ({"A": "", "B": "", "C": "", "D": ""}, r"none of the choices \(none\)"),
    ],
)
def test_a_question_that_cannot_be_asked_is_skipped_with_the_reason(change, reason, tmp_path):
    rows = list(tsv_rows("vstar"))
    rows[1] |= change
    found = open_questions(write_tsv(tmp_path, "vstar", rows), "vstar")
    assert [question.id for question in found.asked] == ["0", "2"]
    assert [one.id for one in found.skipped] == ["1"]
    assert re.search(reason, found.skipped[0].reason)


def test_a_picture_that_is_cut_short_is_an_error_that_names_it(tmp_path):
    rows = list(tsv_rows("vstar"))
    rows[1]["image"] = base64.b64encode(png(1)[:-900]).decode()
    question = open_questions(write_tsv(tmp_path, "vstar", rows), "vstar").asked[1]
    with pytest.raises(ImageError, match="row 1"):
        question.pictures[0].load()


def test_a_file_without_a_question_that_can_be_asked_is_refused(tmp_path):
    rows = [{**row, "answer": "Z"} for row in tsv_rows("vstar")]
    with pytest.raises(ConfigurationError, match="has no question of"):
        open_questions(write_tsv(tmp_path, "vstar", rows), "vstar")


def test_files_in_a_folder_are_found(tmp_path):
    for benchmark in BENCHMARKS:
        write_parquet(tmp_path, benchmark)
    found = find_benchmarks(tmp_path)
    assert list(found) == list(BENCHMARKS)
    assert {key: len(open_questions(path, key).asked) for key, path in found.items()} == {
        key: len(answers) for key, answers in ANSWERS.items()
    }
    path = write_tsv(tmp_path, "mmvp")
    assert find_benchmarks(tmp_path)["mmvp"] == path
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigurationError, match="no file of a benchmark"):
        find_benchmarks(empty)


def test_pictures_are_not_kept(tmp_path):
    path = write_tsv(tmp_path, "vstar")
    question = open_questions(path, "vstar").asked[0]
    path.write_bytes(path.read_bytes().replace(text64(0).encode(), text64(7).encode()))
    assert question.pictures[0].read() == png(7)


@pytest.mark.parametrize("layout", ["base64", "structures"])
def test_a_page_of_pictures_is_not_held(layout, tmp_path):
    import pyarrow
    import pyarrow.parquet

    pictures = [png(number, (250, 200)) for number in range(16)]  # 150 KB each
    cells = [base64.b64encode(one).decode() for one in pictures]
    if layout == "structures":
        cells = [{"bytes": one, "path": None} for one in pictures]
    rows = [{**row, "index": n, "image": cells[n // 2]} for n, row in enumerate(4 * list(tsv_rows("hrbench8k")))]
    path = tmp_path / "hr_bench_8k.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, use_dictionary=False)  # one page
    before = pyarrow.total_allocated_bytes()
    found = open_questions(path, "hrbench8k")
    assert pyarrow.total_allocated_bytes() - before < 150_000
    path.unlink()
    order = [31, 0, 15, 30]
    assert [found.asked[number].pictures[0].read() == pictures[number // 2] for number in order] == [True] * 4
    assert pyarrow.total_allocated_bytes() - before < 150_000
