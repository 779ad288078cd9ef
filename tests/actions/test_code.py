"""The code dialect against hand-made states: what each text means, and what each mistake is called."""

import pytest

from agile_gym.actions.dialects import CodeDialect
from agile_gym.actions.primitives import Answer, Arrange, Crop, Observe, Rotate, RotatePiece, Swap, Zoom
from tests.helpers.parsed_turns import workspace

DIALECT = CodeDialect()


def code(text):
    return f"<think>Look.</think>\n<code>{text}</code>"


def run(space, text):
    """Parse and carry out, as the environment does; returns the primitives and the key of the image shown."""
    parsed = DIALECT.parse(text, space)
    assert parsed.error is None, parsed.error
    shown = space.execute(parsed.primitives)
    space.variables = parsed.variables
    return parsed.primitives, shown


def error_kind(space, text):
    """Parse and carry out what must fail; nothing may have changed."""
    before = (space.order, space.turns, dict(space.images), repr(space.variables))
    parsed = DIALECT.parse(text, space)
    error = parsed.error
    if error is None:
        with pytest.raises(Exception) as caught:  # noqa: PT011 -- the kind is compared by the caller
            space.execute(parsed.primitives)
        error = caught.value
    assert (space.order, space.turns, dict(space.images), repr(space.variables)) == before
    assert error.message
    return error.kind


SWAPPED = (Swap(0, 2), Observe("observation_image_1"))


@pytest.mark.parametrize(
    ("text", "primitives"),
    [
        ("state[0], state[2] = state[2], state[0]\nobservation_image_1 = observation(state)", SWAPPED),
        ("state[2], state[0] = state[0], state[2]\nobservation_image_1 = observe(state)", SWAPPED),
        ("\n  state[0], state[2] = state[2], state[0]\n  observation_image_1 = observation(state)\n", SWAPPED),
        ("```python\nswap('A', 'C')\nobserve()\n```", SWAPPED),
        ("swap(0, 2); observe()  # both at once", SWAPPED),
        ("swap(state, 0, -2)\nobserve()", SWAPPED),
        ("state = swap(state, 'C', 'A')\nobserve()", SWAPPED),
        ("Swap('C', 'A')\nObserve()", SWAPPED),
        ("state = ['C', 'B', 'A', 'D']\nobserve()", SWAPPED),
        ("state = ('C', 'B', 'A', 'D')\nobservation_image_1 = observation(state=state)", SWAPPED),
        ("tmp = state[0]\nstate[0] = state[2]\nstate[2] = tmp\nobserve()", SWAPPED),
        ("i = 0\nj = i + 4 / 2 - 0\nstate[0], state[2] = state[2], state[0]\nobserve()", SWAPPED),
        ("new = state\nnew[0], new[2] = new[2], new[0]\nobserve()", SWAPPED),
        ("(state[0], state[2]) = [state[2], state[0]]\nobserve()", SWAPPED),
        ("state = state[::-1]", (Arrange((3, 2, 1, 0)),)),
        ("state[0], state[1], state[2] = state[1], state[2], state[0]", (Arrange((1, 2, 0, 3)),)),
        ("new = list(state)\nnew[0], new[2] = new[2], new[0]\nobserve()", (Observe("observation_image_1"),)),
        (
            "new = state[:]\nnew[0], new[2] = new[2], new[0]\nx = observation(new)",
            (Observe("x", (2, 1, 0, 3), (0, 0, 0, 0)),),
        ),
        ("observation(['B', 'A', 'C', 'D'])", (Observe("observation_image_1", (1, 0, 2, 3), (0, 0, 0, 0)),)),
        ("c = crop(image_list[1], [0, 0.5, 1, 1])", (Crop("B", (0, 0.5, 1, 1), "c"),)),
        ("crop(image=image_list[-1], box=(0, 0, 1/2, 0.5))", (Crop("D", (0, 0, 0.5, 0.5), "crop_image_1"),)),
        ("crop('A', 0, 0, .5, 1)", (Crop("A", (0, 0, 0.5, 1), "crop_image_1"),)),
        ("Crop(image_list[0], bbox=[0, 0, .5, 1])", (Crop("A", (0, 0, 0.5, 1), "crop_image_1"),)),
        ("zoom_image_1 = zoom(image_list[0], 1.5)", (Zoom("A", 1.5, "zoom_image_1"),)),
        ("zoom(image_list[0], factor=1e0)", (Zoom("A", 1.0, "zoom_image_1"),)),
        ("r = rotate(image_list[0], -90)", (Rotate("A", -90, "r"),)),
        (
            "a = crop(image_list[0], [0, 0, .5, .5])\nb = zoom(a, 2)",
            (Crop("A", (0, 0, 0.5, 0.5), "a"), Zoom("a", 2, "b")),
        ),
        (
            "zoom(crop(image_list[0], [0, 0, .5, .5]), 2)",
            (Crop("A", (0, 0, 0.5, 0.5), "crop_image_1"), Zoom("crop_image_1", 2, "zoom_image_1")),
        ),
        (
            "o = observation(state)\nswap(0, 1)\nc = crop(o, [0, 0, .5, .5])",
            (Observe("o"), Swap(0, 1), Crop("o", (0, 0, 0.5, 0.5), "c")),
        ),
        (
            "a = zoom('A', 1)\nb = a\na = zoom(a, .5)\nzoom(b, .25)",
            (Zoom("A", 1, "a"), Zoom("a", 0.5, "a@5"), Zoom("a", 0.25, "zoom_image_1")),
        ),
    ],
)
def test_texts_mean_what_python_means(text, primitives):
    assert run(workspace(), code(text))[0] == primitives


def test_state_images_and_variables_outlive_a_turn():
    space = workspace()
    run(space, code("first = state[0]\nhalf = crop(image_list[0], [0, 0, .5, 1])"))
    run(space, code("state[0], state[1] = state[1], state[0]"))
    assert space.order == (1, 0, 2, 3)
    primitives, shown = run(space, code("swap(first, state[3])\nz = zoom(half, 1.5)"))
    assert primitives == (Swap(1, 3), Zoom("half", 1.5, "z"))
    assert space.order == (1, 3, 2, 0)
    assert shown == "z"


def test_two_names_of_one_list_stay_so_over_turns():
    space = workspace()
    run(space, code("mine = state"))
    run(space, code("mine[0], mine[3] = mine[3], mine[0]"))
    assert space.order == (3, 1, 2, 0)


def test_only_the_last_image_of_a_turn_is_shown():
    assert run(workspace(), code("o = observe()\nc = crop(o, [0, 0, .5, .5])"))[1] == "c"
    assert run(workspace(), code("swap(0, 1)"))[1] is None


def test_an_image_keeps_its_pixels_when_the_state_moves_on():
    space = workspace()
    run(space, code("o = observe()"))
    run(space, code("swap(0, 1)"))
    assert space.images["o"].operation.order == (0, 1, 2, 3)


def test_turned_pieces():
    space = workspace(rotations=True)
    assert run(space, code('turn("B", 90)\nobserve()'))[0] == (RotatePiece(1, 90), Observe("observation_image_1"))
    assert space.turns == (0, 90, 0, 0)
    assert run(space, code("state[1] = ['B', 270]"))[0] == (RotatePiece(1, 180),)
    assert run(space, code("state[0][1] = 180"))[0] == (RotatePiece(0, 180),)
    assert space.turns == (180, 270, 0, 0)
    assert run(space, code("state[0], state[1] = state[1], state[0]"))[0] == (Swap(0, 1),)
    assert (space.order, space.turns) == ((1, 0, 2, 3), (180, 270, 0, 0))
    text = "state = [['A', 0], ['B', 0], ['C', 90], ['D', 0]]"
    assert run(space, code(text))[0] == (Arrange((0, 1, 2, 3), (0, 0, 90, 0)),)
    assert run(space, code("state = ['D', 'B', 'C', 'A']"))[0] == (Swap(0, 3),)
    assert space.turns == (0, 0, 90, 0)  # bare names keep their angles


def test_the_reference_image_is_the_last_of_the_list():
    space = workspace(reference=(40, 40))
    assert run(space, code("crop(image_list[4], [0, 0, .5, .5])"))[0][0].image == "reference"
    assert error_kind(workspace(), code("zoom('reference', 1)")) == "unknown_image"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("no_action", "just words"),
        ("no_action", ""),
        ("no_action", "<think>only thinking</think>"),
        ("no_action", "<think></think><tool_call>{}</tool_call>"),
        ("syntax", code("")),
        ("syntax", code("# nothing but a comment")),
        ("several_actions", code("observe()") + "<answer>[]</answer>"),
        ("several_actions", code("observe()") * 2),
        ("several_actions", "<think></think>" + "<answer>[]</answer>" * 2),
        ("unpaired_tags", "<think></think><code>observe()"),
        ("unpaired_tags", "<think></think>observe()</code>"),
        ("unpaired_tags", "<think>never closed <code>observe()</code>"),
        ("unpaired_tags", "<think></think><code>observe()</answer>"),
        ("text_too_long", "x" * 40_000),
        ("code_too_long", code("observe()" + " " * 5000 + "#")),
        ("syntax", code("state[0], = = state")),
        ("syntax", code("state = [")),
        ("syntax", code("observe() extra")),
        ("syntax", code("x = '\\n'")),
        ("syntax", code("if 1else 2")),
        ("not_allowed", code("import os")),
        ("not_allowed", code("state.reverse()")),
        ("not_allowed", code("[x for x in state]")),
        ("not_allowed", code("lambda: 1")),
        ("not_allowed", code("(lambda: 1)()")),
        ("not_allowed", code("state[0] += 1")),
        ("not_allowed", code("x = True")),
        ("not_allowed", code("x = f'{state}'")),
        ("not_allowed", code("x = 2 ** 9")),
        ("not_allowed", code("x = not 1")),
        ("not_allowed", code("state")),
        ("not_allowed", code("observation = 3")),
        ("not_allowed", code("zoom = zoom('A', 1)")),
        ("not_allowed", code("image_list = 3")),
        ("not_allowed", code("image_list = zoom('A', 1)")),
        ("not_allowed", code("x = [[['A']]]")),
        ("not_allowed", code("\u0430 = 3")),
        ("not_allowed", code("swap(*state)")),
        ("unknown_name", code("x = y")),
        ("unknown_name", code("swap(A, B)")),
        ("unknown_function", code("print(state)")),
        ("unknown_function", code("turn('A', 90)")),
        ("bad_argument", code("swap('A')")),
        ("bad_argument", code("swap('A', 'A')")),
        ("bad_argument", code("observe(state, state)")),
        ("bad_argument", code("crop('A', [0, 0, 1])")),
        ("bad_argument", code("crop('A', ['0', 0, 1, 1])")),
        ("bad_argument", code("zoom('A', times=2)")),
        ("bad_argument", code("zoom('A', 2, factor=2)")),
        ("bad_argument", code("zoom('A', **state)")),
        ("bad_argument", code("state[0], state[1] = state[0]")),
        ("bad_argument", code("x = 3\nx[0] = 3")),
        ("bad_argument", code("x = 'A' + 'B'")),
        ("bad_index", code("swap('A', 'E')")),
        ("bad_index", code("swap(0, 4)")),
        ("bad_index", code("x = state[4]")),
        ("bad_index", code("x = state[-5]")),
        ("bad_index", code("x = state['A']")),
        ("bad_index", code("x = state[0.5]")),
        ("bad_index", code("x = state[1e400]")),
        ("bad_index", code("swap(0.5, 1)")),
        ("bad_number", code("swap(1e308, 1)")),
        ("bad_index", code("swap(1e9, 1)")),
        ("bad_index", code("x = state[::0]")),
        ("bad_number", code("x = 1e999")),
        ("bad_number", code("x = 10000000000")),
        ("bad_number", code("x = 1 / 0")),
        ("bad_number", code("zoom('A', 0)")),
        ("bad_number", code("zoom('A', -1)")),
        ("bad_box", code("crop('A', [0.5, 0, 0.5, 1])")),
        ("bad_box", code("crop('A', [1, 0, 0, 1])")),
        ("bad_box", code("crop('A', [10, 20, 200, 300])")),
        ("unknown_image", code("crop(state, [0, 0, 1, 1])")),
        ("unknown_image", code("crop('E', [0, 0, 1, 1])")),
        ("not_a_permutation", code("state[1] = 'B'")),
        ("not_a_permutation", code("state = ['A', 'B', 'C']")),
        ("not_a_permutation", code("state = ['A', 'B', 'C', 'E']")),
        ("not_a_permutation", code("state = 3")),
        ("not_a_permutation", code("observation(['A', 'A', 'C', 'D'])")),
        ("not_a_permutation", code("state[1] = 'B'\nobserve()")),
        ("image_too_large", code("zoom('A', 1e9)")),
        ("image_too_large", code("zoom('A', 2.1)")),
        ("image_too_large", code("o = observe()\nrotate(o, 45)")),
        ("too_deep", code("x = " + "(1 + " * 14 + "1" + ")" * 14)),
        ("too_deep", code("\n".join(["x = zoom('A', 1)"] + ["x = zoom(x, 1)"] * 6))),
        ("too_many_images", code("\n".join(["observe()"] * 65))),
        ("bad_answer", "<think></think><answer>A, B, C, D</answer>"),
        ("bad_answer", "<think></think><answer></answer>"),
        ("bad_answer", "<think></think><answer>[1, 2]</answer>"),
        ("bad_answer", "<think></think><answer>[]</answer>"),
        ("bad_answer", "<think></think><answer>{}</answer>"),
        ("bad_answer", "<think></think><answer>['A', 'B', 'C', 'D</answer>"),
    ],
)
def test_every_mistake_has_its_kind_and_changes_nothing(kind, text):
    space = workspace()
    run(space, code("swap(0, 1)\nmine = crop('A', [0, 0, .5, .5])"))
    assert error_kind(space, text) == kind


def test_a_turn_is_carried_out_wholly_or_not_at_all():
    space = workspace()
    assert error_kind(space, code("swap(0, 1)\nzoom('A', 100)")) == "image_too_large"
    assert space.order == (0, 1, 2, 3)
    assert error_kind(space, code("swap(0, 1)\nx = nothing")) == "unknown_name"
    assert space.order == (0, 1, 2, 3)


def test_errors_say_the_line_and_what_is_allowed():
    parsed = DIALECT.parse(code("observe()\nfoo()"), workspace())
    assert "Line 2" in parsed.error.message
    assert "observation(state)" in parsed.error.message


def test_errors_never_repeat_tags_or_control_characters():
    for name in ("'<image>'", "'<|im_start|>'", "'\u202eabc\x07'"):
        message = DIALECT.parse(code(f"crop({name}, [0, 0, 1, 1])"), workspace()).error.message
        assert not set(message) & set("<>|\u202e\x07")


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ('["B", "A", "D", "C"]', ("B", "A", "D", "C")),
        (' \n["B", "A"]\n', ("B", "A")),
        ('```json\n["B", "A"]\n```', ("B", "A")),
        ('[["B", 90], ["A", 0]]', ("B", "A")),
        ('["B", "B", "Z", "C"]', ("B", "B", "Z", "C")),
    ],
)
def test_answers(text, order):
    parsed = DIALECT.parse(f"<think></think><answer>{text}</answer>", workspace())
    assert parsed.primitives == (Answer(order),)
    assert parsed.well_formed
    assert not parsed.has_code


def test_answers_with_angles_count_where_pieces_are_turned():
    parsed = DIALECT.parse('<think></think><answer>[["B", -90], ["A", 360]]</answer>', workspace(1, 2, rotations=True))
    assert parsed.primitives == (Answer(("B", "A"), (270, 0)),)


@pytest.mark.parametrize(
    ("text", "well_formed"),
    [
        ("<think>a</think><code>observe()</code>", True),
        (" <think>a</think> \n words <code>observe()</code> ", True),
        ("<code>observe()</code>", False),
        ("<code>observe()</code><think>a</think>", False),
        ("reasoning that began in the prompt</think><code>observe()</code>", False),
        ("<think>a</think><think>b</think><code>observe()</code>", False),
        ("<think>I could write <code> or <answer>.</think><code>observe()</code>", True),
        ("</think><code>observe()</code>", False),
    ],
)
def test_the_format_is_one_think_block_and_one_action(text, well_formed):
    parsed = DIALECT.parse(text, workspace())
    assert parsed.error is None
    assert parsed.primitives == (Observe("observation_image_1"),)
    assert parsed.well_formed is well_formed
