import io

from hypothesis import given
from hypothesis import strategies as st

from agile_gym.errors import one_line, printable


@given(st.text(st.characters(), max_size=50))
def test_what_is_printed_cannot_command_a_terminal(text):
    shown = printable(text)
    assert shown.isprintable()
    io.TextIOWrapper(io.BytesIO(), "utf-8").write(shown)  # halves of surrogate pairs would raise here
    assert text.isprintable() == (shown == text)


def test_what_cannot_be_seen_stands_as_its_number():
    assert printable("a\x1b[31mé\n\u202e\U000e0041\ud800 語") == r"a\x1b[31mé\x0a\u202e\U000e0041\ud800 語"


def test_a_message_is_one_line_of_a_bounded_length():
    assert one_line("a\n  b\x07") == r"a b\x07"
    assert one_line("x" * 2000) == "x" * 2000
    assert one_line("x" * 2001) == "x" * 2000 + "..."
    assert one_line("x y " * 10**6, 10) == "x y x y x ..."
    assert one_line(" " * 10_000 + "x", 10) == "..."
