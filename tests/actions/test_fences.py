"""Fences around what a model writes: one is taken away alike everywhere, in linear time."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agile_gym.actions.primitives import Answer, Observe, Swap
from agile_gym.actions.reading import unfenced
from tests.helpers.parsed_turns import CODE, TOOLS, answer, call, code, workspace

FENCES = (
    "```{body}```",
    "``` {body} ```",
    "`{body}`",
    "```\n{body}\n```",
    "```{word}\n{body}\n```",
    "```{word}  \n{body}\n```  ",
    "\n\n```{word}\n{body}\n```\n",
    "```{word}\r\n{body}\r\n```\r\n",
    "````{word}\n{body}\n````",
    "~~~{word}\n{body}\n~~~",
    "~~~~\r\n{body}\r\n~~~~",
    "```{word}\n{body}",
    "{body}\n```",
    "   ```{word}\n   {body}\n   ```",
    "```markdown\n```{word}\n{body}\n```\n```",
)
WORDS = (
    "json",
    "python",
    "Python3",
    "py",
    "c++",
    "tool_call",
    "text",
    "JSON5",
    "{.python}",
    "python title=x",
    "",
    "swahili",
)


@pytest.mark.parametrize("fence", FENCES)
@pytest.mark.parametrize("word", WORDS)
def test_one_fence_is_read_alike_everywhere(fence, word):
    def fenced(body):
        return fence.format(word=word, body=body)

    assert code(fenced("swap('A', 'C')")).primitives == (Swap(0, 2),)
    assert call(fenced('{"name": "observe"}')).primitives == (Observe(),)
    assert answer(fenced('["C", "B", "A", "D"]')).primitives == (Answer(tuple("CBAD")),)
    assert answer(fenced("[c, b, a, d]")).primitives == (Answer(tuple("CBAD")),)


@pytest.mark.parametrize("around", ["```\n{0}\n```", "```xml\r\n{0}\r\n```", "~~~\n{0}\n~~~", "```{0}```"])
def test_a_fence_around_the_tags_is_no_part_of_the_action(around):
    for dialect, action, primitives in (
        (CODE, "<code>swap('A', 'C')</code>", (Swap(0, 2),)),
        (TOOLS, '<tool_call>{"name": "observe"}</tool_call>', (Observe(),)),
        (CODE, "<answer>[c, b, a, d]</answer>", (Answer(tuple("CBAD")),)),
    ):
        parsed = dialect.parse("<think>x</think>" + around.format(action), workspace())
        assert (parsed.primitives, parsed.well_formed) == (primitives, True)
        parsed = dialect.parse(around.format("<think>x</think>" + action), workspace())
        assert (parsed.primitives, parsed.well_formed) == (primitives, True)


def test_several_lines_in_a_fence_keep_their_indentation():
    lines = "swap(0, 2)\nobserve()"
    for text in (
        f"```python\n{lines}\n```",
        "  ```\n    swap(0, 2)\n    observe()\n  ```",
        "\n  swap(0, 2)\n  observe()\n",
        "```python\r\n  swap(0, 2)\r\n  observe()\r\n```",
        "  swap(0, 2)\n  observe()\n```",
        "```  \n  swap(0, 2)\n  observe()",
        "swap(0, 2)\r\nobserve()",
    ):
        assert code(text).primitives == (Swap(0, 2), Observe("observation_image_1"))


@given(st.text(max_size=40) | st.text("`~ \r\npyson[]{}\"'(),=", max_size=40))
def test_any_text_loses_its_fence_or_nothing(text):
    bare = unfenced(text)
    assert bare in text
    if "`" not in text and "~" not in text:
        assert bare == text


@pytest.mark.parametrize("body", ["swap(0, 2)", "json = 3", "python = state", "x = 1\ny = 2", '["A"]', "text = [1]"])
@pytest.mark.parametrize("mark", ["```", "~~~~", "`````"])
def test_a_name_in_front_is_no_language(body, mark):
    assert unfenced(f"{mark}\n{body}\n{mark}") == body
    if not body.startswith(("json", "python", "text", "x = 1\n")):
        assert unfenced(f"{mark}{body}{mark}") == body


@pytest.mark.parametrize(
    "shape", ["`", "~", "```", "``` ", "```\n", "```json ", "`x", "~~~x\n", "``` a=b", " ", "\u201c"]
)
def test_fences_are_taken_away_in_linear_time(shape):
    text = shape * (2_000_000 // len(shape))
    for body in (text, "```" + text, "```" + text + "x"):
        start = time.process_time()
        unfenced(body)
        assert time.process_time() - start < 1
