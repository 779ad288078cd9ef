"""Spellings of whole numbers, names, lists and JSON, read alike in every dialect."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agile_gym.actions.primitives import Answer, Arrange, Crop, Observe, RotatePiece, Swap, Zoom
from agile_gym.actions.reading import PieceNames, read_json, read_list, read_whole
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.puzzle import piece_names
from tests.helpers.parsed_turns import CODE, TOOLS, answer, call, code, workspace

# --- whole numbers


@given(st.integers() | st.floats() | st.booleans() | st.text() | st.none() | st.lists(st.integers()))
def test_a_whole_number_is_one_by_its_value_and_a_bool_is_none(value):
    expected = None
    if type(value) in (int, float) and math.isfinite(value) and value % 1 == 0 and abs(value) <= 1e9:
        expected = int(value)
    found = read_whole(value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("plain", "floats"),
    [
        ("state[0], state[2] = state[2], state[0]", "state[0.0], state[2.0] = state[2.0], state[-4.0]"),
        ("swap(0, 2)", "swap(0.0, 4 / 2)"),
        ("swap(state, 0, -2)", "swap(state, -0.0, -2.0)"),
        ("x = state[1:3]\nstate[0], state[1] = state[1], state[0]", "x = state[1.0:3e0]\nswap(-4.0, 1.0)"),
        ("turn('A', 90)", "turn('A', 90.0)"),
        ("turn(3, 270)", "turn(3.0, -90.0)"),
        ("state = [['B', 90], ['A', 0], ['C', 0], ['D', 0]]", "state = [['B', 90.0], ['A', 0.0], ['C', 0], ['D', 0]]"),
        ("state[1][1] = 180", "state[1.0][1.0] = 180.0"),
        ("rotate(image_list[0], 90)", "rotate(image_list[0.0], 90.0)"),
        ("observe([['B', 90], 'A', 'C', 'D'])", "observe([['B', 450.0], 'A', 'C', 'D'])"),
    ],
)
def test_integral_floats_in_code(plain, floats):
    expected, found = (code(text, rotations=True) for text in (plain, floats))
    assert expected.error is None
    assert found.error is None
    assert found.primitives == expected.primitives


@pytest.mark.parametrize("angle", [90.0, 450.0, -270.0, 90])
def test_integral_floats_in_tool_calls_and_answers(angle):
    turned = {"name": "turn", "arguments": {"piece": "B", "angle": angle}}
    assert call(turned, rotations=True).primitives == (RotatePiece(1, 90),)
    entries = [["B", angle], ["A", 0.0], ["C", -0.0], ["D", 3600.0]]
    assert answer(json.dumps(entries), rotations=True).primitives == (Answer(tuple("BACD"), (90, 0, 0, 0)),)


@pytest.mark.parametrize(
    "angle", ["NaN", "Infinity", "-Infinity", "1e308", "1e999", "0.5", "90.5", "true", "false", "null", '"90"']
)
def test_what_is_no_whole_number_stays_an_error_that_helps(angle):
    parsed = answer(f'[["B", {angle}], ["A", 0], ["C", 0], ["D", 0]]', rotations=True)
    assert parsed.error.kind == "bad_answer"
    assert '[["B", 90], ["A", 0], ...]' in parsed.error.message
    parsed = call(f'{{"name": "turn", "arguments": {{"piece": "B", "angle": {angle}}}}}', rotations=True)
    if angle in ("NaN", "Infinity", "-Infinity"):
        assert parsed.error.kind == "syntax"
    else:
        assert (parsed.error.kind, "90, 180 or 270" in parsed.error.message) == ("bad_argument", True)


@pytest.mark.parametrize("index", ["0.5", "1e400", "-1e400", "'A'", "state"])
def test_what_is_no_index_stays_an_error_that_helps(index):
    error = code(f"x = state[{index}]").error
    expected = "between -1e9 and 1e9" if error.kind == "bad_number" else "a whole number, as in state[0]"
    assert error.kind in ("bad_index", "bad_number")
    assert expected in error.message


# --- names

SPELLINGS = (
    "{0}",
    " {0}\t",
    "Image {0}",
    "image {0}",
    "IMAGE {0} ",
    "Piece {0}",
    "piece_{0}",
    "Tile: {0}",
    "Image-{0}",
    "image{0}",
    "the piece {0}",
    "'{0}'",
    "({0})",
    "**{0}**",
    "{0}.",
)


@given(st.integers(2, 100), st.data())
def test_every_spelling_of_a_name_is_its_piece_in_any_grid(count, data):
    names = piece_names(count)
    pieces = PieceNames(names)
    piece = data.draw(st.integers(0, count - 1))
    written = data.draw(st.sampled_from(SPELLINGS)).format(
        data.draw(st.sampled_from([names[piece], names[piece].lower(), names[piece].capitalize()]))
    )
    assert pieces.find(written) == piece
    assert pieces.name(written) == names[piece]


@given(st.text(max_size=12) | st.text("abcdABCD \"'image_piece", max_size=12))
def test_a_name_is_that_of_a_piece_or_of_none(text):
    pieces = PieceNames(piece_names(4))
    piece = pieces.find(text)
    letters = [letter for letter in text if letter.isalnum()]
    assert piece is None or letters[-1].upper() == "ABCD"[piece]


@pytest.mark.parametrize(
    "name", ["", " ", "E", "e", "AA", "AB", "A B", "A, B", "A1", "1", "image", "Image", "Image E", "\uff21", "\u0410",
             "A\u200b", "imageimage A", "\u017f", "A" * 4000, " " * 4000 + "A", 0, None, True, ["A"], 1.0],
)  # fmt: skip
def test_what_names_no_piece_of_a_grid(name):
    assert PieceNames(piece_names(4)).find(name) is None


def test_other_letters_are_read_only_where_one_piece_has_them():
    pieces = PieceNames(["a", "A", "b"])
    assert [pieces.find(name) for name in ("a", "A", "B", "b", " A ", "Image A")] == [0, 1, 2, 2, 1, 1]
    pieces = PieceNames(["Ab", "AB", "x", "x"])
    assert [pieces.find(name) for name in ("ab", "aB", "AB", "x", "X")] == [None, None, 1, None, None]


def test_names_of_two_letters():
    pieces = PieceNames(piece_names(100))
    assert [pieces.find(name) for name in ("aa", "Image AA", "a", "Aa", "cv", "piece cv")] == [26, 26, 0, 26, 99, 99]


@pytest.mark.parametrize(
    "written",
    [
        '["c", "b", "a", "d"]',
        '["C ", " B", "A", "D"]',
        '["Image C", "image b", "Piece A", "D"]',
        "['C', 'B', 'A', 'D']",
        "[c, b, a, d]",
        "[C, B, A, D]",
        "[C, B, A, D,]",
        "(C, B, A, D)",
        "[Image C, Image B, Image A, Image D]",
        "[\u201cC\u201d, \u201cB\u201d, \u201cA\u201d, \u201cD\u201d]",
        "[\"C\", 'B', A, d]",
        json.dumps(json.dumps(["C", "B", "A", "D"])),
        json.dumps(json.dumps(json.dumps(["C", "B", "A", "D"]))),
        '[["c", 0.0], ["b", 0], ("A", 0), [D, 0]]',
    ],
)
def test_answers_in_every_spelling(written):
    for dialect in (CODE, TOOLS):
        parsed = dialect.parse(f"<think>x</think><answer>{written}</answer>", workspace())
        assert parsed.primitives == (Answer(tuple("CBAD")),)
        assert parsed.well_formed


def test_names_in_code():
    swapped = (Swap(0, 2),)
    assert code("state = ['c', ' b', 'Image A', 'd']").primitives == swapped
    assert code("swap('a', 'Piece C')").primitives == swapped
    assert code("state = ['c', 'b', 'a', 'd']\nswap('C', 'a')\nswap('A', 'C')").primitives == (
        *swapped,
        *swapped,
        *swapped,
    )
    assert code("zoom('image b', 1)").primitives == (Zoom("B", 1, "zoom_image_1"),)
    assert code("a = crop('b', [0, 0, 1, 1])\nzoom('a', 1)").primitives[1] == Zoom("a", 1, "zoom_image_1")
    assert code("turn('d', 90)", rotations=True).primitives == (RotatePiece(3, 90),)
    assert code("observe([('b', 90), 'a', 'c', 'd'])", rotations=True).primitives == (
        Observe("observation_image_1", (1, 0, 2, 3), (0, 90, 0, 0)),
    )


def test_a_state_in_other_letters_outlives_its_turn():
    space = workspace()
    for text in ("state = ['c', 'b', 'a', 'd']", "state[0], state[2] = state[2], state[0]\nswap('A', 'B')"):
        parsed = CODE.parse(f"<think>x</think><code>{text}</code>", space)
        assert parsed.error is None
        space.execute(parsed.primitives)
        space.variables = parsed.variables
    assert space.order == (1, 0, 2, 3)


def test_names_in_tool_calls():
    def primitives(name, **arguments):
        return call({"name": name, "arguments": arguments}, rotations=True).primitives

    assert primitives("swap", first="a", second="Image C") == (Swap(0, 2),)
    assert primitives("arrange", order=["d", "C ", "piece b", "A"]) == (Arrange((3, 2, 1, 0)),)
    assert primitives("turn", piece="b", angle=90) == (RotatePiece(1, 90),)
    assert primitives("zoom", image="Piece A", factor=1) == (Zoom("A", 1),)
    assert primitives("crop", image=" crop_image_1 ", box=[0, 0, 1, 1]) == (Crop("crop_image_1", (0, 0, 1, 1)),)
    assert call({"name": "swap", "arguments": {"first": "A", "second": " a"}}).error.kind == "bad_argument"


@pytest.mark.parametrize(
    ("entries", "reasons"),
    [
        (["A", "A", "C", "D"], ["'A' is there 2 times", "'B' is missing"]),
        (["A", "a", "C", "D"], ["'A' is there 2 times", "(as 'A' and 'a')", "'B' is missing"]),
        (["Image A", "B", "C", "Z"], ["There is no piece 'Z'", "'D' is missing"]),
        (["A", "B", "C"], ["'D' is missing"]),
        (["A", "B", "C", "D", "E"], ["There is no piece 'E'"]),
        ([], ["'A', 'B', 'C', 'D' are missing"]),
        (["A", "B", "C", 3], ["There is no piece '3'"]),
        (["A", "B", "C", ["D"]], ["An entry is not the name of a piece"]),
    ],
)
def test_a_state_that_is_not_every_piece_once_is_told_why_in_both_dialects(entries, reasons):
    for parsed in (code(f"state = {entries}"), call({"name": "arrange", "arguments": {"order": entries}})):
        assert parsed.error.kind == "not_a_permutation"
        for reason in reasons:
            assert reason in parsed.error.message


# --- what an answer that cannot be right is told


def play(text, **options):
    env = JigsawVisionEnv(image_size=48, reveal=True, **options)
    env.reset(seed=1, options={"level": 0})
    observation, reward, terminated, _, info = env.step(f"<think>x</think><answer>{text}</answer>")
    return observation["text"], reward, terminated, info


@pytest.mark.parametrize("reward", ["paper", "official_code"])
@pytest.mark.parametrize("dialect", ["code", "tools"])
@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        ('["A", "A", "C", "D"]', ["'A' is there 2 times", "'B' is missing"]),
        ('["A", "a", "C", "D"]', ["'A' is there 2 times", "'B' is missing"]),
        ('["A", "B", "C", "Z"]', ["There is no piece 'Z'", "'D' is missing"]),
        ('["A", "B", "C", "AA"]', ["There is no piece 'AA'"]),
        ('["A"]', ["'B', 'C', 'D' are missing"]),
        ('["A", "B", "C", "D", "D"]', ["'D' is there 2 times"]),
        ('["<image>", "B", "C", "D"]', ["There is no piece '?image?'"]),
    ],
)
def test_an_answer_that_cannot_be_right_ends_the_episode_and_is_told_why(reward, dialect, text, reasons):
    said, _, terminated, info = play(text, reward=reward, dialect=dialect)
    assert terminated
    assert said.startswith("The answer was received.\nError (not_a_permutation): It cannot be right. ")
    for reason in reasons:
        assert reason in said
    assert info["error"] == "not_a_permutation"
    assert [type(primitive) for primitive in info["primitives"]] == [Answer]
    assert info["reward"]["format"] == 1
    assert not info["solved"]


def test_a_turned_piece_at_an_angle_that_cannot_be_is_told():
    said, _, terminated, info = play('[["A", 91], ["B", 0], ["C", 0], ["D", 0]]', rotations=True)
    assert (terminated, info["error"]) == (True, "bad_answer")
    assert "The angle of 'A' is 91" in said


def test_a_whole_answer_is_told_nothing_of_its_truth():
    for order in (["A", "B", "C", "D"], ["B", "A", "D", "C"], ["Image B", "a", "D ", "piece_c"]):
        said, _, _, info = play(json.dumps(order))
        assert (said, info["error"]) == ("The answer was received.", None)


def test_the_right_answer_in_other_words_is_right():
    env = JigsawVisionEnv(grid=(3, 10), image_size=(60, 200), reveal=True)
    for spelling in SPELLINGS:
        _, info = env.reset(seed=2)
        order = [spelling.format(name.lower()) for name in info["solution"]]
        _, reward, _, _, info = env.step(f"<think>x</think><answer>{json.dumps(order)}</answer>")
        assert (info["error"], info["solved"], info["score"], reward) == (None, True, 1.0, 1.0)


def test_the_released_codes_rule_of_json_stays_that_of_the_format():
    for text, kept in (
        ('["{}", "{}", "{}", "{}"]', 1),
        ("['{}', '{}', '{}', '{}']", 0),
        ("```\n[{}, {}, {}, {}]\n```", 0),
    ):
        env = JigsawVisionEnv(image_size=48, reveal=True, reward="official_code")
        _, info = env.reset(seed=1)
        written = text.format(*(name.lower() for name in info["solution"]))
        info = env.step(f"<think>x</think><answer>{written}</answer>")[4]
        assert (info["reward"]["accuracy"], info["reward"]["format"]) == (1, kept)


def test_an_answer_that_cannot_be_read_and_ends_the_episode_is_told_why():
    said, _, terminated, info = play("A and B", reward="official_code")
    assert (terminated, info["error"]) == (True, "bad_answer")
    assert said.startswith("The task is over, without an answer.\nError (bad_answer): The answer must be a JSON list")
    assert play('["A"]', prompt="short")[0] == "The answer was received.\nerror not_a_permutation"


# --- JSON


def test_json_within_strings_is_read_three_deep_and_no_deeper():
    value = {"name": "observe", "arguments": {}}
    for depth in range(5):
        text = json.dumps(value)
        for _ in range(depth):
            text = json.dumps(text)
        if depth < 3:
            assert read_json(text) == value
        else:
            assert isinstance(read_json(text), str)
            assert call(text).error.kind == "syntax"


@pytest.mark.parametrize("text", ["", "[", "NaN", "[NaN]", "[Infinity]", "[" * 100_000, '"[NaN]"', '"' * 9, "x"])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 -- its text is nobody's
        read_json(text)
    with pytest.raises(ValueError):  # noqa: PT011 -- likewise
        read_list(text if text != "x" else "[" * 3900)


NO_LISTS = ("A, B", "{A, B}", "[A; B]", "[A B] C", "[A, B", "A]", "[A,, B]", "[,]", "[A] [B]", "5", '"A"', "[A-B]")


@pytest.mark.parametrize(
    "text", [*NO_LISTS, "['A\\'', B]", "[1 2]", "null", '{"a": 1}', "['A', 'B]", "[A, None]", "[nan]"]
)
def test_what_is_no_list_is_none(text):
    with pytest.raises(ValueError):  # noqa: PT011 -- likewise
        read_list(text)


@given(st.recursive(st.text("abAB ", min_size=1, max_size=5) | st.integers(-999, 999), st.lists, max_leaves=6).filter(
    lambda value: isinstance(value, list)
))  # fmt: skip
def test_lists_in_pythons_quotes_and_in_jsons_are_the_same(value):
    assert read_list(json.dumps(value)) == value
    assert read_list(repr(value)) == value
