import json

import pytest

from agile_gym.actions import Arrange, Crop, Observe, Rotate, Swap, ToolDialect, Turn, Workspace, Zoom, tool_schemas
from agile_gym.puzzle import BoardLayout

DIALECT = ToolDialect()


def workspace(rows=2, cols=2, *, rotations=False):
    layout = BoardLayout(rows, cols, 20, 20)
    return Workspace(layout, (layout.height, layout.width), rotations=rotations)


def call(name, **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def test_calls_in_order_refer_to_the_board_as_it_then_is():
    text = "<think>x</think>" + call("swap", first="A", second="C") + "\n" + call("swap", first="A", second="D")
    parsed = DIALECT.parse(text + call("observe"), workspace())
    assert parsed.primitives == (Swap(0, 2), Swap(2, 3), Observe())
    assert parsed.well_formed


@pytest.mark.parametrize(
    ("text", "primitive"),
    [
        (call("arrange", order=["D", "C", "B", "A"]), Arrange((3, 2, 1, 0))),
        (call("crop", image="B", box=[0, 0, 0.5, 1]), Crop("B", (0, 0, 0.5, 1))),
        (call("zoom", image="crop_image_1", factor=2), Zoom("crop_image_1", 2)),
        (call("rotate", image="A", angle=-45.5), Rotate("A", -45.5)),
        ('<tool_call>\n{"name": "observe"}\n</tool_call>', Observe()),
    ],
)
def test_each_tool(text, primitive):
    assert DIALECT.parse(text, workspace()).primitives == (primitive,)


def test_turn_exists_only_where_pieces_are_turned():
    text = call("turn", piece="B", angle=270)
    assert DIALECT.parse(text, workspace(rotations=True)).primitives == (Turn(1, 270),)
    assert DIALECT.parse(text, workspace()).error.kind == "unknown_function"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("syntax", "<tool_call>swap A B</tool_call>"),
        ("syntax", "<tool_call>[1]</tool_call>"),
        ("syntax", '<tool_call>{"name": 3}</tool_call>'),
        ("syntax", '<tool_call>{"name": "observe", "arguments": []}</tool_call>'),
        ("syntax", '<tool_call>{"name": "zoom", "arguments": {"image": "A", "factor": NaN}}</tool_call>'),
        ("syntax", "<tool_call>" + "[" * 3000 + "</tool_call>"),
        ("code_too_long", "<tool_call>" + " " * 5000 + "</tool_call>"),
        ("code_too_long", call("observe") * 17),
        ("unknown_function", call("exec", code="1")),
        ("bad_argument", call("swap", first="A")),
        ("bad_argument", call("swap", first="A", second="A")),
        ("bad_argument", call("swap", first="A", second="B", third="C")),
        ("bad_argument", call("observe", state=[])),
        ("bad_argument", call("crop", image="A", box=[0, 0, 1])),
        ("bad_argument", call("crop", image=3, box=[0, 0, 1, 1])),
        ("bad_argument", call("zoom", image="A", factor="2")),
        ("bad_argument", call("zoom", image="A", factor=True)),
        ("bad_number", call("zoom", image="A", factor=10**12)),
        ("bad_index", call("swap", first="A", second="Z")),
        ("bad_index", call("swap", first=0, second=1)),
        ("not_a_permutation", call("arrange", order=["A", "B", "C", "C"])),
        ("not_a_permutation", call("arrange", order="ABCD")),
        ("several_actions", call("observe") + "<answer>[]</answer>"),
        ("no_action", "<code>observe()</code>"),
    ],
)
def test_every_mistake_has_its_kind(kind, text):
    assert DIALECT.parse("<think></think>" + text, workspace()).error.kind == kind


@pytest.mark.parametrize("rotations", [False, True])
def test_schemas_are_in_openai_form_and_name_what_the_dialect_reads(rotations):
    schemas = tool_schemas(rotations=rotations)
    names = [schema["function"]["name"] for schema in schemas]
    assert names == ["swap", "arrange", "observe", "crop", "zoom", "rotate"] + ["turn"] * rotations
    space = workspace(rotations=rotations)
    examples = {
        "first": "A",
        "second": "B",
        "order": ["B", "A", "C", "D"],
        "image": "A",
        "box": [0, 0, 0.5, 0.5],
        "factor": 1.5,
        "angle": 90,
        "piece": "A",
    }
    for schema in schemas:
        assert schema["type"] == "function"
        parameters = schema["function"]["parameters"]
        assert set(parameters["required"]) == set(parameters["properties"])
        text = call(schema["function"]["name"], **{name: examples[name] for name in parameters["properties"]})
        assert DIALECT.parse(text, space).error is None
    json.dumps(schemas)
