import json
from functools import cache

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.helpers.invariants import DIALECTS, Player

FUZZ = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
CONFIGS = (
    {},
    {"rotations": True},
    {"grid": (2, 3), "reference_image": True},
    {"reward": "official_code", "prompt": "short"},
)


@cache
def player(dialect, number):
    return Player(dialect, image_size=24, **CONFIGS[number])


def play(dialect, number, *texts):
    for text in texts:
        player(dialect, number).play(text)
    player(dialect, number).play_on()


both = pytest.mark.parametrize("dialect", DIALECTS)
configs = st.integers(0, len(CONFIGS) - 1)

NAMES = st.sampled_from(
    [
        "state",
        "image_list",
        "observation",
        "swap",
        "crop",
        "zoom",
        "rotate",
        "turn",
        "list",
        "a",
        "b",
        "x",
        "x@5",
        "reference",
    ]
)
PIECES = st.sampled_from([*"ABCDEFZ", "AA", "", "a", "crop_image_1", "observation_image_1", "x"])
SIMPLE = st.sampled_from(
    ["0", "1", "-1", "2", "0.5", "1.0", "90", "180", "-90", "1e9", "1e-9", "9" * 40, "0x1f", "1e999", "1j"]
)
PUNCTUATION = st.sampled_from([*"()[]{},:=+-*/.;\n #'\"\\@%&|^~<>!?$`\t\r\0", "**", "//", ":=", "->", "==", "..."])
WORDS = st.sampled_from(
    [
        "and",
        "or",
        "not",
        "if",
        "else",
        "in",
        "is",
        "for",
        "lambda",
        "def f():",
        "import",
        "await",
        "yield",
        "None",
        "True",
        "f'",
        "b'",
    ]
)
TAGS = st.sampled_from(
    [f"<{slash}{tag}>" for tag in ("think", "code", "answer", "tool_call", "image") for slash in ("", "/")]
    + ["<|im_start|>", "[INST]", "</s>", "```", "```python\n"]
)
QUOTED = PIECES.map(json.dumps)
TOKENS = st.one_of(NAMES, QUOTED, SIMPLE, PUNCTUATION, WORDS, TAGS, st.text(max_size=3))
SOUP = st.lists(TOKENS, max_size=40).map("".join) | st.lists(TOKENS, max_size=40).map(" ".join)

# --- a grammar of the code dialect, somewhat wider than the dialect itself

NUMBERS = st.integers(-6, 6) | st.floats(-2, 2) | st.sampled_from([90, 180, 270, 1e-9, 1e9, 1e10])
INDICES = st.integers(-7, 7).map(str)


def compounds(inner):
    return st.one_of(
        st.tuples(inner, inner).map(lambda pair: f"{pair[0]}[{pair[1]}]"),
        st.tuples(inner, inner, st.sampled_from("+-*/")).map(lambda parts: f"({parts[0]} {parts[2]} {parts[1]})"),
        st.lists(inner, max_size=5).map(lambda parts: f"[{', '.join(parts)}]"),
        inner.map(lambda part: f"-{part}"),
        st.tuples(NAMES, st.lists(inner, max_size=4)).map(lambda parts: f"{parts[0]}({', '.join(parts[1])})"),
        st.tuples(inner, inner, inner).map(lambda parts: f"{parts[0]}[{parts[1]}:{parts[2]}]"),
    )


EXPRESSIONS = st.recursive(NAMES | QUOTED | NUMBERS.map(str) | INDICES, compounds, max_leaves=8)
PLACES = INDICES.map(lambda index: f"state[{index}]") | NAMES
STATEMENTS = st.one_of(
    st.tuples(PLACES, PLACES).map(lambda pair: f"{pair[0]}, {pair[1]} = {pair[1]}, {pair[0]}"),
    st.tuples(PLACES, EXPRESSIONS).map(" = ".join),
    st.tuples(NAMES, NAMES, EXPRESSIONS).map(" = ".join),
    st.tuples(QUOTED, QUOTED).map(lambda pair: f"swap({pair[0]}, {pair[1]})"),
    st.tuples(QUOTED, st.sampled_from([90, 180, 270, -90, 0, 45])).map(lambda pair: f"turn({pair[0]}, {pair[1]})"),
    st.permutations("ABCD").map(lambda order: f"state = {order}"),
    st.permutations("ABCD").map(lambda order: f"state = {[[name, 90] for name in order]}"),
    st.tuples(NAMES, NAMES).map(lambda pair: f"{pair[0]} = observation({pair[1]})"),
    st.tuples(NAMES, QUOTED, st.lists(NUMBERS, min_size=4, max_size=4)).map(
        lambda parts: f"{parts[0]} = crop({parts[1]}, {parts[2]})"
    ),
    st.tuples(NAMES, QUOTED | NAMES, NUMBERS).map(lambda parts: f"{parts[0]} = zoom({parts[1]}, {parts[2]})"),
    st.tuples(NAMES, QUOTED | NAMES, NUMBERS).map(lambda parts: f"{parts[0]} = rotate({parts[1]}, {parts[2]})"),
)
PROGRAMS = st.lists(STATEMENTS, min_size=1, max_size=6).map("\n".join)

# --- JSON

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | PIECES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5) | NAMES, inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["first", "second", "order", "image", "box", "factor", "angle", "piece", "", "x"])
ARGUMENTS = st.dictionaries(KEYS, PIECES | NUMBERS | st.lists(NUMBERS | PIECES, max_size=6) | JSON, max_size=3)
TOOLS = st.sampled_from(["swap", "arrange", "observe", "crop", "zoom", "rotate", "turn", "Swap", ""])
SOUND_CALLS = st.one_of(
    st.tuples(PIECES, PIECES).map(lambda pair: ("swap", {"first": pair[0], "second": pair[1]})),
    st.permutations("ABCD").map(lambda order: ("arrange", {"order": order})),
    st.tuples(PIECES, st.lists(NUMBERS, min_size=4, max_size=4)).map(
        lambda pair: ("crop", {"image": pair[0], "box": pair[1]})
    ),
    st.tuples(PIECES, NUMBERS).map(lambda pair: ("zoom", {"image": pair[0], "factor": pair[1]})),
    st.tuples(PIECES, NUMBERS).map(lambda pair: ("rotate", {"image": pair[0], "angle": pair[1]})),
    st.tuples(PIECES, NUMBERS).map(lambda pair: ("turn", {"piece": pair[0], "angle": pair[1]})),
)
CALLS = (SOUND_CALLS | st.tuples(TOOLS | st.text(max_size=5), ARGUMENTS | JSON)).map(
    lambda pair: json.dumps({"name": pair[0], "arguments": pair[1]})
) | JSON.map(json.dumps)


def tagged(tag, *bodies):
    return "<think>a</think>\n" + "\n".join(f"<{tag}>{body}</{tag}>" for body in bodies)


@pytest.mark.slow
@FUZZ
@given(number=configs, text=st.text(max_size=300) | st.text(st.characters(codec=None), max_size=100))
@example(number=0, text="\ud800\0\u202e")
@both
def test_any_text(dialect, number, text):
    play(dialect, number, text, tagged("code", text), tagged("tool_call", text), tagged("answer", text))


@pytest.mark.slow
@FUZZ
@given(number=configs, text=SOUP)
@both
def test_a_soup_of_tokens(dialect, number, text):
    play(dialect, number, text, tagged("code", text), tagged("tool_call", text), tagged("answer", text))


@pytest.mark.slow
@FUZZ
@given(number=configs, programs=st.lists(PROGRAMS, min_size=1, max_size=3))
@example(number=1, programs=["state = ['B', 'A', 'C', 'D']\nturn('A', 90)"])
@example(number=0, programs=["state = observation(state)"])
def test_programs(number, programs):
    play("code", number, *(tagged("code", program) for program in programs))


@pytest.mark.slow
@FUZZ
@given(number=configs, calls=st.lists(CALLS, min_size=1, max_size=4))
def test_tool_calls(number, calls):
    play("tools", number, tagged("tool_call", *calls))


@pytest.mark.slow
@FUZZ
@given(number=configs, entries=JSON | st.permutations("ABCD") | st.lists(st.tuples(PIECES, NUMBERS), max_size=6))
@both
def test_answers(dialect, number, entries):
    play(dialect, number, tagged("answer", json.dumps(entries)))


# --- one meaning in two spellings

SPELLED = st.sampled_from(
    ["{0}", "{0} ", "  {0}", "Image {0}", "image {0}", "Piece {0}", "piece_{0}", "'{0}'", "({0})", "TILE {0}", "{0}."]
)
FENCES = st.sampled_from(
    [
        "{1}",
        "\n{1}\n",
        "```\n{1}\n```",
        "```{0}\n{1}\n```",
        "```{0}\r\n{1}\r\n```",
        "~~~{0}\n{1}\n~~~",
        "```{1}```",
        "```{0}\n{1}",
        "{1}\n```",
    ]
)
LANGUAGES = st.sampled_from(["", "json", "python", "c++", "tool_call", "klingon"])
THOUGHTS = st.sampled_from(
    [
        "a",
        "<code>x</code>",
        "<answer>",
        "</tool_call>",
        "<think>b</think>",
        "I begin with <think>",
        "<answer>[]</answer>",
    ]
)
WHOLE = st.sampled_from([0, 90, 180, 270, -90, 450, 45, 3600, 4000, 10**12, 0.5])
ORDERS = st.permutations("ABCD") | st.lists(st.sampled_from([*"ABCD", "Z", "AB", "<image>"]), min_size=1, max_size=5)


@st.composite
def spellings(draw, name):
    """A piece's name in other words; what names no piece stays as it is."""
    form = draw(SPELLED)
    return form.format(draw(st.sampled_from([name, name.lower()]))) if name in list("ABCD") else name


def other_number(draw, value):
    return float(value) if draw(st.booleans()) else value


def encoded(draw, value):
    """JSON, perhaps within the JSON of a string."""
    text = json.dumps(value)
    for _ in range(draw(st.integers(0, 2))):
        text = json.dumps(text)
    return text


def fenced(draw, tag, body):
    return f"<think>{draw(THOUGHTS)}</think><{tag}>{draw(FENCES).format(draw(LANGUAGES), body)}</{tag}>"


def the_same(dialect, number, plain, spelled):
    """Both are read alike, and then played."""
    one = player(dialect, number)
    one.fresh()
    first, second = (one.env.dialect.parse(text, one.env.episode.workspace) for text in (plain, spelled))
    assert first.primitives == second.primitives, (plain, spelled)
    assert (first.error and first.error.kind) == (second.error and second.error.kind), (plain, spelled)
    assert (first.has_code, first.well_formed) == (second.has_code, second.well_formed), (plain, spelled)
    play(dialect, number, spelled, plain)


@pytest.mark.slow
@FUZZ
@given(number=configs, order=ORDERS, angles=st.none() | st.lists(WHOLE, min_size=5, max_size=5), data=st.data())
@both
def test_answers_in_two_spellings(dialect, number, order, angles, data):
    plain = list(order) if angles is None else [list(pair) for pair in zip(order, angles, strict=False)]
    spelled = [data.draw(spellings(name)) for name in order]
    if angles is not None:
        spelled = [[name, other_number(data.draw, angle)] for name, angle in zip(spelled, angles, strict=False)]
    body = data.draw(st.sampled_from([repr(spelled), encoded(data.draw, spelled)]))
    if '"' in repr(spelled) or "\\" in repr(spelled):
        body = encoded(data.draw, spelled)
    the_same(dialect, number, tagged("answer", json.dumps(plain)), fenced(data.draw, "answer", body))


CALLED = st.one_of(
    st.tuples(st.sampled_from("ABCDZ"), st.sampled_from("ABCDZ")).map(
        lambda pair: ("swap", {"first": pair[0], "second": pair[1]})
    ),
    ORDERS.map(lambda order: ("arrange", {"order": list(order)})),
    st.just(("observe", {})),
    st.tuples(st.sampled_from("ABCDZ"), WHOLE).map(lambda pair: ("turn", {"piece": pair[0], "angle": pair[1]})),
    st.tuples(st.sampled_from("ABCD"), WHOLE).map(lambda pair: ("rotate", {"image": pair[0], "angle": pair[1]})),
    st.sampled_from("ABCD").map(lambda name: ("crop", {"image": name, "box": [0, 0, 1, 1]})),
)


def respelled(draw, value):
    if isinstance(value, list):
        return [respelled(draw, entry) for entry in value]
    return draw(spellings(value)) if isinstance(value, str) else other_number(draw, value)


@pytest.mark.slow
@FUZZ
@given(number=configs, call=CALLED, data=st.data())
def test_tool_calls_in_two_spellings(number, call, data):
    name, arguments = call
    given_as = {key: respelled(data.draw, value) for key, value in arguments.items()}
    if data.draw(st.booleans()):
        given_as = encoded(data.draw, given_as)
    written = {"name": name, data.draw(st.sampled_from(["arguments", "parameters", "args", "input"])): given_as}
    if data.draw(st.booleans()):
        written = {"type": "function", "function": written}
    plain = tagged("tool_call", json.dumps({"name": name, "arguments": arguments}))
    the_same("tools", number, plain, fenced(data.draw, "tool_call", encoded(data.draw, written)))


@pytest.mark.slow
@FUZZ
@given(number=configs, order=ORDERS, places=st.lists(st.integers(-5, 5), min_size=2, max_size=2), data=st.data())
def test_code_in_two_spellings(number, order, places, data):
    names, (i, j) = [data.draw(spellings(name)) for name in order], places
    x, y = (other_number(data.draw, place) for place in places)
    plain, spelled = data.draw(
        st.sampled_from(
            [
                (f"state = {list(order)}", f"state = {names}"),
                (f"swap({order[0]!r}, {j})", f"swap({names[0]!r}, {y})"),
                (
                    f"state[{i}], state[{j}] = state[{j}], state[{i}]",
                    f"state[{x}], state[{y}] = state[{y}], state[{x}]",
                ),
                (f"turn({order[0]!r}, {i * 90})", f"turn({names[0]!r}, {float(i * 90)})"),
            ]
        )
    )
    the_same("code", number, tagged("code", plain), fenced(data.draw, "code", spelled))


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["delete", "duplicate", "replace", "insert", "swap"]),
        st.floats(0, 1),
        st.integers(1, 6),
        TOKENS,
    ),
    min_size=1,
    max_size=4,
)
SOUND_TURNS = {
    "code": PROGRAMS.map(lambda program: tagged("code", program)),
    "tools": st.lists(CALLS, min_size=1, max_size=3).map(lambda calls: tagged("tool_call", *calls)),
}


def edited(text, edits):
    for kind, share, length, token in edits:
        start = int(share * len(text))
        end = min(start + length, len(text))
        part = text[start:end]
        new = {"delete": "", "duplicate": part * 2, "replace": token, "insert": part + token, "swap": part[::-1]}[kind]
        text = text[:start] + new + text[end:]
    return text


@pytest.mark.slow
@FUZZ
@given(data=st.data(), number=configs, edits=EDITS)
@both
def test_edited_turns(dialect, data, number, edits):
    play(dialect, number, edited(data.draw(SOUND_TURNS[dialect]), edits))
