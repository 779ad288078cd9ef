import pytest

from agile_gym.commands import read_pairs
from agile_gym.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=0.5", 0.5),
        ("a=true", True),
        ("a=True", True),
        ("a=False", False),
        ("a=null", None),
        ("a=None", None),
        ('a="None"', "None"),
        ("a=[1, 2]", [1, 2]),
        ("a=x=y", "x=y"),
        ("a=", ""),
        ("a=TRUE", "TRUE"),
        pytest.param(f"a={'[' * 10**5}", "[" * 10**5, id="brackets"),
        pytest.param(f"a={'9' * 10**4}", "9" * 10**4, id="digits"),
    ],
)
def test_values_are_json_pythons_words_or_texts(text, value):
    (read,) = read_pairs([text], "--option", "a=1").values()
    assert (read, type(read)) == (value, type(value))


def test_pairs_are_read_together():
    assert read_pairs(["a=1", "b=2"], "--option", "a=1") == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["a=1", "b=2", "a=3"], "--option a=3: a is given twice"),
        (["a"], "--option a is not of the form KEY=VALUE, such as a=1"),
    ],
)
def test_pairs_that_are_none_are_refused(pairs, message):
    with pytest.raises(ConfigurationError, match=message):
        read_pairs(pairs, "--option", "a=1")
