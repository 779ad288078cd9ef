import itertools
import json

import pytest

from agile_gym.actions.dialects import ToolDialect
from agile_gym.actions.primitives import Arrange, Crop, Observe, Rotate, RotatePiece, Swap, Zoom
from agile_gym.actions.tools import tool_schemas
from tests.helpers.parsed_turns import workspace

DIALECT = ToolDialect()


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
    assert DIALECT.parse(text, workspace(rotations=True)).primitives == (RotatePiece(1, 270),)
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


SWAP = {"first": "A", "second": "C"}


@pytest.mark.parametrize("key", ["arguments", "parameters", "args", "input"])
@pytest.mark.parametrize("wrap", ["plain", "wrapped", "with id"])
@pytest.mark.parametrize("encode", [0, 1, 2])
@pytest.mark.parametrize("whole", [0, 1])
def test_a_call_is_read_under_any_key_and_through_strings(key, wrap, encode, whole):
    def tag(name, arguments):
        for _ in range(encode):
            arguments = json.dumps(arguments)
        value = {"name": name, key: arguments}
        if wrap != "plain":
            value = {"function": value} if wrap == "wrapped" else {"id": "1", "type": "function", "function": value}
        for _ in range(whole):
            value = json.dumps(value)
        return f"<tool_call>{json.dumps(value)}</tool_call>"

    assert DIALECT.parse(tag("swap", SWAP) + tag("observe", {}), workspace()).primitives == (Swap(0, 2), Observe())


@pytest.mark.parametrize("nothing", [None, "", "  ", "null", "{}", {}, '"null"', "```json\n{}\n```"])
@pytest.mark.parametrize("key", ["arguments", "parameters"])
def test_a_call_without_arguments(key, nothing):
    text = f"<tool_call>{json.dumps({'name': 'observe', key: nothing})}</tool_call>"
    assert DIALECT.parse(text, workspace()).primitives == (Observe(),)
    text = f"<tool_call>{json.dumps({'name': 'swap', key: nothing})}</tool_call>"
    error = DIALECT.parse(text, workspace()).error
    assert (error.kind, "first, second" in error.message) == ("bad_argument", True)


def test_arguments_given_twice_are_read_if_they_are_the_same():
    def parse(**given):
        return DIALECT.parse(f"<tool_call>{json.dumps({'name': 'swap', **given})}</tool_call>", workspace())

    assert parse(arguments=None, parameters=SWAP).primitives == (Swap(0, 2),)
    assert parse(arguments=SWAP, parameters=json.dumps(SWAP)).primitives == (Swap(0, 2),)
    error = parse(arguments=SWAP, parameters={"first": "A", "second": "B"}).error
    assert (error.kind, "twice" in error.message) == ("syntax", True)


@pytest.mark.parametrize("arguments", ["[]", "5", "swap", '"A"', "[1, 2]", "{", 5, True, [SWAP], "NaN", "true"])
def test_arguments_that_are_no_object_are_told(arguments):
    error = DIALECT.parse(f"<tool_call>{json.dumps({'name': 'swap', 'arguments': arguments})}</tool_call>", workspace())
    assert error.error.kind == "syntax"
    assert '{"name": "swap", "arguments": {"first": "A", "second": "B"}}' in error.error.message


def test_a_list_that_is_an_argument_may_be_a_string():
    text = call("arrange", order='["D", "C", "B", "A"]') + call("crop", image="B", box="[0, 0, 0.5, 1]")
    assert DIALECT.parse(text, workspace()).primitives == (Arrange((3, 2, 1, 0)), Crop("B", (0, 0, 0.5, 1)))
    assert DIALECT.parse(call("arrange", order="[d, c, b, a]"), workspace()).primitives == (Arrange((3, 2, 1, 0)),)


def accepts(schema, value):
    """Check a value against what our schemas use of JSON schema; an unknown keyword is an error."""
    kinds = {
        "object": lambda value: isinstance(value, dict),
        "array": lambda value: isinstance(value, list),
        "string": lambda value: isinstance(value, str),
        "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
        "integer": lambda value: type(value) in (int, float) and value % 1 == 0,
    }
    rules = {
        "description": lambda _: True,
        "type": lambda kind: kinds[kind](value),
        "minItems": lambda least: len(value) >= least,
        "maxItems": lambda most: len(value) <= most,
        "items": lambda item: all(accepts(item, entry) for entry in value),
        "required": lambda names: set(names) <= set(value),
        "additionalProperties": lambda allowed: allowed or set(value) <= set(schema["properties"]),
        "properties": lambda known: all(accepts(known[name], value[name]) for name in value if name in known),
        "minimum": lambda least: value >= least,
        "maximum": lambda most: value <= most,
        "multipleOf": lambda factor: value % factor == 0,
        "enum": lambda values: value in values,
    }
    return all(rules[keyword](rule) for keyword, rule in schema.items())


def inner_schemas(schema):
    yield schema
    for inner in (*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])):
        yield from inner_schemas(inner)


@pytest.mark.parametrize("rotations", [False, True])
def test_no_schema_has_an_enum_of_anything_but_strings(rotations):
    for schema in tool_schemas(rotations=rotations):
        for inner in inner_schemas(schema["function"]["parameters"]):
            assert all(isinstance(value, str) for value in inner.get("enum", ()))
            assert inner["type"] in ("object", "array", "string", "number", "integer")


def test_what_the_dialect_reads_its_schemas_accept_and_they_say_what_it_refuses():
    names = ["A", "b", "Image C", "Z", 0]
    numbers = [0, 1, 1.5, 90, 90.0, 180, 270.0, -90, 450, 360, 45, 0.5, True, "1", None]
    values = {
        "first": names,
        "second": names,
        "order": [["B", "A", "C", "D"], ["B", "A", "C"], [0, 1, 2, 3]],
        "image": names,
        "box": [[0, 0, 1, 1], [0, 0, 0.5], [0, 0, "1", 1], [0.0, 0, 1, 1.0]],
        "factor": numbers,
        "angle": numbers,
        "piece": names,
    }
    read = refused = 0
    for schema in tool_schemas(rotations=True):
        function = schema["function"]
        parameters = function["parameters"]
        for chosen in itertools.product(*(values[name] for name in parameters["properties"])):
            arguments = dict(zip(parameters["properties"], chosen, strict=True))
            error = DIALECT.parse(call(function["name"], **arguments), workspace(rotations=True)).error
            if error is None:
                assert accepts(parameters, arguments), (function["name"], arguments)
                read += 1
            elif accepts(parameters, arguments):
                refused += 1
                assert error.kind in ("bad_index", "bad_argument", "not_a_permutation", "unknown_image"), arguments
    assert min(read, refused) > 10
    (turn,) = (schema for schema in tool_schemas(rotations=True) if schema["function"]["name"] == "turn")
    angle = turn["function"]["parameters"]["properties"]["angle"]
    assert all(str(degrees) in angle["description"] for degrees in (90, 180, 270))


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
