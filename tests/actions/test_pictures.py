"""The language of actions without a board: looks at pictures, and refusals of all that needs a board."""

import numpy as np
import pytest

from agile_gym.actions.dialects import DIALECTS
from agile_gym.actions.primitives import ActionError, Answer, Arrange, Crop, Observe, Rotate, RotatePiece, Swap, Zoom
from agile_gym.actions.tools import tool_schemas
from agile_gym.actions.workspace import MAX_DEPTH, Workspace, render_recipe

SIZES = [(100, 200), (50, 60)]
LOOKS = [
    Crop("image_1", (0.0, 0.0, 0.5, 0.25)),
    Zoom("image_2", 1.5),
    Rotate("image_2", 90),
    Crop("image_2", (0.25, 0.5, 1.0, 1.0)),
]


def workspace():
    return Workspace.of_pictures(SIZES, (80, 90))


def turn(dialect, body):
    tag = DIALECTS[dialect].action_tag
    return DIALECTS[dialect].parse(f"<think>a</think>\n<{tag}>{body}</{tag}>", workspace())


def refusal(parsed):
    assert parsed.primitives == ()
    return parsed.error.kind, parsed.error.message


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("look", LOOKS, ids=repr)
def test_looks_are_read_as_they_are_written(dialect, look):
    written = DIALECTS[dialect].write([look], workspace(), "Why.")
    parsed = DIALECTS[dialect].parse(written, workspace())
    assert parsed.well_formed
    assert parsed.has_code
    (read,) = parsed.primitives
    assert type(read) is type(look)
    made, expected = workspace(), workspace()
    first, second = made.images[made.execute([read])], expected.images[expected.execute([look])]
    pictures = [np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
    shown = [render_recipe(image, pictures, made.layout) for image in (first, second)]
    np.testing.assert_array_equal(*shown)
    assert shown[0].shape == (first.height, first.width, 3)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_answer_is_a_text(dialect):
    for text in ("B", " 42 ", '["A"]', "a <b> c", ""):
        parsed = DIALECTS[dialect].parse(f"<think>a</think><answer>{text}</answer>", workspace())
        assert parsed.primitives == (Answer((), text=text),)
        written = DIALECTS[dialect].write(parsed.primitives, workspace(), "Why.")
        assert written == f"<think>Why.</think>\n<answer>{text}</answer>"


@pytest.mark.parametrize(
    "body",
    ["swap('A', 'B')", "observation()", "observe(state)", "state[0] = 1", "state = [1]", "x = state", "turn('A', 90)",
     "list(state)", "state[0], state[1] = state[1], state[0]", "x = crop(image_1, [0, 0, 1, 1])\nobserve()"],
)  # fmt: skip
def test_code_about_a_board_is_refused_with_a_sentence(body):
    _, message = refusal(turn("code", body))
    assert "There is no board here, only pictures: look closer with crop, zoom or rotate" in message


@pytest.mark.parametrize(
    "body",
    ['{"name": "swap", "arguments": {"first": "A", "second": "B"}}', '{"name": "observe"}',
     '{"name": "arrange", "arguments": {"order": ["A"]}}', '{"name": "turn", "arguments": {}}'],
)  # fmt: skip
def test_tools_of_a_board_are_refused_with_a_sentence(body):
    kind, message = refusal(turn("tools", body))
    assert (kind, message[:42]) == ("unknown_function", "There is no board here, only pictures: loo")


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("code", "import os"), ("code", "foo(1)"), ("code", "x = missing"), ("code", "zoom('A', 2)"), ("code", "["),
        ("code", "image_list[9]"), ("code", "x = image_list['a']"), ("code", "x = 3[0]"), ("code", "zoom(3, 1)"),
        ("code", "a = image_list[9]"), ("code", "x[0] = 1"), ("code", "a = 1\nb = c"),
        ("tools", "{"), ("tools", "[]"), ("tools", '{"name": "foo"}'), ("tools", '{"name": 3}'),
        ("tools", '{"name": "zoom", "arguments": {"image": 3, "factor": 1}}'),
    ],
)  # fmt: skip
def test_no_message_speaks_of_a_board(dialect, body):
    _, message = refusal(turn(dialect, body))
    assert not any(word in message for word in ("state", "swap", "observ", "piece", "Piece", '"A"', "arrange"))


@pytest.mark.parametrize("action", [Swap(0, 1), Observe(), Arrange((1, 0)), RotatePiece(0, 90)], ids=repr)
def test_a_workspace_of_pictures_carries_out_nothing_on_a_board(action):
    made = workspace()
    with pytest.raises(ActionError, match="There is no board here"):
        made.execute([LOOKS[0], action])
    assert list(made.images) == ["image_1", "image_2"]
    assert made.made == 0


@pytest.mark.parametrize("name", ["image_2", "Image_2", " image_2 ", "image 2", "Image 2", '"image_2"'])
def test_pictures_are_named_in_many_ways(name):
    assert workspace().image_key(name) == "image_2"


@pytest.mark.parametrize("name", ["image_3", "A", "2", "", "image"])
def test_other_names_are_none(name):
    assert workspace().image_key(name) is None
    with pytest.raises(ActionError, match="There are image_1 to image_2"):
        workspace().execute([Zoom(name, 1.0)])


def test_limits_are_those_of_the_jigsaw():
    made = workspace()
    with pytest.raises(ActionError, match=r"larger than 90 x 80 pixels. Crop first, or zoom up to a factor of 1.50"):
        made.execute([Zoom("image_2", 1.7)])
    with pytest.raises(ActionError, match=r"zoom up to a factor of 0.45"):
        made.execute([Zoom("image_1", 1.0)])
    name = "image_2"
    for _ in range(MAX_DEPTH):
        name = made.execute([Crop(name, (0.0, 0.0, 0.9, 0.9))])
    with pytest.raises(ActionError, match="start again from image_1"):
        made.execute([Zoom(name, 1.0)])
    few = Workspace.of_pictures(SIZES, (80, 90), max_images=1)
    with pytest.raises(ActionError, match="At most 1 images"):
        few.execute(LOOKS[:2])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_instructions_name_looks_only(dialect):
    text = DIALECTS[dialect].instructions(workspace())
    assert "image_1" in text
    assert not any(word in text for word in ("swap", "observ", "state", "piece"))


def test_schemas_name_looks_only():
    schemas = tool_schemas(board=False)
    assert [schema["function"]["name"] for schema in schemas] == ["crop", "zoom", "rotate"]
    assert "piece" not in repr(schemas)
    assert len(tool_schemas()) == 6
