"""Place of the answer in a turn."""

from hypothesis import given
from hypothesis import strategies as st

from agile_gym.actions.dialects import write_answer
from agile_gym.actions.primitives import Answer
from agile_gym.actions.tags import answer_span, read_answer

NAMES = st.lists(st.sampled_from("ABCDEFGHI"), min_size=1, max_size=9, unique=True)


@given(NAMES, st.text(max_size=30))
def test_what_is_there_is_read_as_the_answer(names, think):
    text = write_answer(Answer(tuple(names)), think.replace("<", ""))
    begin, end = answer_span(text)
    assert text[:begin].endswith("<answer>")
    assert text[end:] == "</answer>"
    assert read_answer(text[begin:end]) == Answer(tuple(names))


def test_answers_in_thoughts_and_unfinished_ones_are_none():
    assert answer_span("<think>say <answer>[1]</answer></think><code>nothing()</code>") is None
    assert answer_span('<think></think><answer>["A"') is None
    text = '<think><answer>["B"]</answer></think><answer>["A"]</answer>'
    begin, end = answer_span(text)
    assert text[begin:end] == '["A"]'
