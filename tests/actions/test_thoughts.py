"""End of the reasoning of a turn: tags inside it are words, whatever they are; tags outside it count."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agile_gym.actions.dialects import get_dialect
from agile_gym.actions.primitives import Answer, Observe
from agile_gym.actions.tags import answer_span, has_action, read_tags, thoughts
from agile_gym.actions.workspace import Workspace
from agile_gym.puzzle import BoardLayout

ANSWER = '<answer>["B", "A", "C", "D"]</answer>'
CODE = "<code>observe()</code>"
CALL = '<tool_call>{"name": "observe"}</tool_call>'
FIRST = Answer(tuple("BACD"))
TAGS = [f"<{slash}{name}>" for name in ("think", "code", "answer", "tool_call") for slash in ("", "/")]


def parse(text, dialect="code"):
    layout = BoardLayout(2, 2, 20, 20)
    return get_dialect(dialect).parse(text, Workspace(layout, (layout.height, layout.width)))


INSIDE = [
    CODE,
    ANSWER,
    CALL,
    "<code>",
    "</code>",
    "</answer><answer>",
    "</tool_call>",
    CODE * 40,
    "I write <code>x</code>, then <answer>[]</answer>.",
    "The form is <think>...</think>, then <code>...</code>. So",
    "<think>one<think>two</think></think>",
    "I begin with <think> and go on",
    "<think> " * 3 + "<code>x</code>",
    "```python\nswap(0, 1)\n```<code>",
]


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("dialect", ["code", "tools"])
def test_tags_inside_the_thought_do_not_count(dialect, inside):
    parsed = parse(f"<think>a {inside} b</think>{ANSWER}", dialect)
    assert (parsed.primitives, parsed.error) == ((FIRST,), None)
    assert parsed.well_formed
    assert not parsed.has_code
    action = CODE if dialect == "code" else CALL
    parsed = parse(f"<think>a {inside} b</think>\n{action}", dialect)
    assert [type(primitive) for primitive in parsed.primitives] == [Observe]
    assert parsed.well_formed
    assert parsed.has_code


@pytest.mark.parametrize("inside", [entry for entry in INSIDE if "<think>" not in entry])
def test_a_thought_that_the_template_opened(inside):
    parsed = parse(f"a {inside} b</think>{ANSWER}")
    assert (parsed.primitives, parsed.error, parsed.has_code) == ((FIRST,), None, False)
    assert not parsed.well_formed


@pytest.mark.parametrize(
    "text",
    [
        f"I write <think>...</think> and {CODE}, perhaps.</think>{ANSWER}",
        f"<think>I close with </think> in the end.</think>{ANSWER}",
        f"a</think> b</think></think>{ANSWER}",
        f"<think>a</think><think>b {CODE}</think>{ANSWER}",
    ],
)
def test_thoughts_that_are_odd_but_end_are_read_and_not_well_formed(text):
    parsed = parse(text)
    assert (parsed.primitives, parsed.error, parsed.has_code) == ((FIRST,), None, False)
    assert not parsed.well_formed


@pytest.mark.parametrize(
    ("text", "kind", "words", "has_code"),
    [
        (f"<think>a {ANSWER}", "unpaired_tags", "think block is not closed", False),
        (f"<think>a {CODE}", "unpaired_tags", "think block is not closed", False),
        (f"{CODE}<think>a", "unpaired_tags", "think block is not closed", True),
        ("<think>a", "unpaired_tags", "think block is not closed", False),
        ("<think>a</think>", "no_action", "neither an action nor an answer", False),
        (f"<think>a {CODE}</think>", "no_action", "neither an action nor an answer", False),
        (f"a {CODE}</think>", "no_action", "neither an action nor an answer", False),
        (f"<think>a</think>{CODE}</think>{ANSWER}", "unpaired_tags", "think is not opened", True),
        (f"<think>a</think><code>{ANSWER}", "unpaired_tags", "code is not opened and closed", True),
        ("<think>a</think><code><think>observe()</think></code>", "unpaired_tags", "code is not opened", True),
    ],
)
def test_thoughts_that_do_not_end_are_told(text, kind, words, has_code):
    parsed = parse(text)
    assert parsed.primitives == ()
    assert parsed.error.kind == kind
    assert words in parsed.error.message
    assert "think block, then exactly one block" in parsed.error.message
    assert parsed.has_code is has_code
    assert not parsed.well_formed


SOUP = st.lists(st.sampled_from([*TAGS, *TAGS[:2] * 3, "x", CODE, ANSWER, CALL]), max_size=12).map("".join)


@given(SOUP)
@example(f"<think>a <think> b</think>{CODE}<think>c</think>")
def test_all_readers_agree_on_where_the_reasoning_is(text):
    spans = thoughts(text)
    outside, place = "", 0
    for start, end in spans:
        assert place <= start < end <= len(text)
        outside, place = outside + text[place:start], end
    outside += text[place:]
    for dialect, action in (("code", "code"), ("tools", "tool_call")):
        parsed = parse(text, dialect)
        assert parsed.has_code == has_action(text, action) == (f"<{action}>" in outside)
        if any(isinstance(primitive, Answer) for primitive in parsed.primitives):
            begin, end = answer_span(text)
            assert text[begin:end] == read_tags(text, action).bodies[0]
            assert outside.count("<answer>") == 1
    span = answer_span(text)
    assert span is None or not any(start < span[1] and span[0] < end for start, end in spans if start < span[0])


@given(st.lists(st.sampled_from([*TAGS, "a", "\n"]), max_size=8).map("".join))
def test_a_balanced_thought_is_one_thought_whatever_is_inside(inside):
    depth = lowest = 0
    for tag in inside.replace("</think>", "-").replace("<think>", "+"):
        depth += {"+": 1, "-": -1}.get(tag, 0)
        lowest = min(lowest, depth)
    text = f"<think>{inside}</think>{ANSWER}"
    if depth == 0 and lowest == 0:
        assert thoughts(text) == [(0, len(text) - len(ANSWER))]
        assert parse(text).primitives == (FIRST,)
        assert parse(text).well_formed


@pytest.mark.parametrize("unit", ["<think>", "</think>", "<think></think>", "<think><think></think>", "<code></think>",
                                  "<think>x</think><code>", "</think><think>", "<answer></think>"])  # fmt: skip
def test_the_reasoning_is_found_in_linear_time(unit):
    text = unit * (30_000 // len(unit))
    for whole in (text, f"<think>{text}", f"<think></think>{text}", text + ANSWER, text + "</think>" + CODE):
        start = time.process_time()
        parse(whole[:32_000])
        answer_span(whole)
        has_action(whole, "code")
        assert time.process_time() - start < 0.3
