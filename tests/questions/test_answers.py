"""Rules of answers, on literal cases, and on any text."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agile_gym.actions.primitives import ActionError
from agile_gym.questions.answers import RULES, AnswerKey, infer_rule, normalise, read_number, read_yes_no

CHOICE = AnswerKey("choice", ("B",), {"A": "a dog", "B": "the cat", "C": "Dog"})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12), ("1,234.5", Fraction(2469, 2)), ("-3", -3), ("\u22123", -3), ("about 12 apples", 12), ("$5.00", 5),
        ("1/2", Fraction(1, 2)), ("\u00bd", Fraction(1, 2)), ("twelve", 12), ("Seven.", 7), ("12.", 12),
        ("1e5", 100000), (".5", Fraction(1, 2)), ("50%", 50), ("x = -2.50", Fraction(-5, 2)), ("\uff11\uff12", 12),
        ("12 13", None), ("3 / 0", None), ("1e999", None), ("9" * 61, None), ("1,2", None), ("1 000", None),
        ("1.2.3", None), ("state0", None), ("5-3", None), ("", None), ("nan", None), ("inf", None), ("0x1f", None),
    ],
)  # fmt: skip
def test_numbers(text, number):
    assert read_number(text) == number


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), (" b ", "B"), ("(B)", "B"), ("B.", "B"), ("**B**", "B"), ("B: cat", "B"), ("B) The cat.", "B"),
        ("the cat", "B"), ("Cat", "B"), ("Option B", "B"), ("answer: A", "A"), ("A", "A"), ("C. dog", "C"),
        ("dog", None), ("B. dog", None), ("B or C", None), ("Z", None), ("AB", None), ("", None), ("x" * 1001, None),
    ],
)  # fmt: skip
def test_letters(text, letter):
    if letter is None:
        with pytest.raises(ActionError, match="The answer must be the letter of one option, A to C") as caught:
            CHOICE.judge(text)
        assert caught.value.kind == "bad_answer"
    else:
        assert CHOICE.judge(text) is (letter == "B")


def test_a_letter_comes_before_an_option_of_the_same_text():
    key = AnswerKey("choice", ("A",), {"A": "B", "B": "A"})
    assert key.judge("A")
    assert not key.judge("B")


@pytest.mark.parametrize(
    ("answer", "tolerance", "relative", "near", "far"),
    [
        ("0.3", 0.2, 0.0, ["0.1", "0.5", "0.3"], ["0.51", "0.0999"]),  # exactly at the border, where floats would fail
        ("100", 0.0, 0.05, ["95", "105"], ["94.99", "105.01", "-100"]),
        ("7", 0.0, 0.0, ["7", "7.0", "seven"], ["7.0000001", "8"]),
    ],
)
def test_tolerances_are_exact(answer, tolerance, relative, near, far):
    key = AnswerKey("number", (answer,), tolerance=tolerance, relative_tolerance=relative)
    assert all(key.judge(text) for text in near)
    assert not any(key.judge(text) for text in far)


def test_texts():
    assert normalise("  The U.S.A.,  a state-of-the-art 1.5\u2019s ") == "usa state of art 1.5s"
    assert normalise("?") == "?"
    assert AnswerKey("text", ("The Cat!",)).judge("cat")
    assert not AnswerKey("text", ("1.5",)).judge("15")
    exact = AnswerKey("exact", ("Cat 1.",))
    assert exact.judge(" Cat 1. ")
    assert not exact.judge("cat 1.")
    assert read_yes_no("Yes, it is.") == "yes"
    assert read_yes_no("yes it is") is read_yes_no("maybe") is None


@pytest.mark.parametrize(
    ("answers", "choices", "rule"),
    [
        (["B"], {"A": "x", "B": "y"}, "choice"), (["Yes"], {}, "yes_no"), (["3", "4.5"], {}, "number"),
        (["3 cats"], {}, "text"), (["yes", "3"], {}, "text"),
    ],
)  # fmt: skip
def test_rules_follow_from_answers(answers, choices, rule):
    assert infer_rule(answers, choices) == rule


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (AnswerKey("choice", ("D",), {"A": "x", "B": "y"}), "the answer 'D' is none of the choices A, B"),
        (AnswerKey("yes_no", ("maybe",)), "neither yes nor no"),
        (AnswerKey("number", ("many",)), "is no number"),
        (AnswerKey("text", ("",)), "there is no answer"),
        (AnswerKey("text", ()), "there is no answer"),
        (AnswerKey("text", ("x" * 1001,)), "more than 1000 characters"),
        (AnswerKey("number", ("3",)), None),
    ],
)
def test_keys_that_no_answer_fits_are_found(key, problem):
    found = key.problem()
    assert found is None if problem is None else problem in found


TEXTS = st.one_of(st.text(max_size=40), st.text(alphabet="0123456789.,-+/eE% ABCabc()", max_size=12))


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from(RULES))
def test_any_text_is_right_or_wrong_or_no_answer(text, rule):
    answers = {"choice": "A", "yes_no": "no", "number": "12", "text": "cat", "exact": "cat"}
    key = AnswerKey(rule, (answers[rule],), {"A": "x", "B": "y"} if rule == "choice" else {}, tolerance=1.0)
    error = None
    try:
        assert key.judge(text) in (True, False)
    except ActionError as refused:
        error = refused
    assert error is None or (error.kind == "bad_answer" and error.message.startswith(key.form()))
