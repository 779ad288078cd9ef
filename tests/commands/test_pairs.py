import pytest

from agile_gym.commands.shared import read_pairs
from agile_gym.errors import ConfigurationError


def test_values_are_json_pythons_words_or_texts():
    given = {
        "a=1": 1,
        "a=0.5": 0.5,
        "a=true": True,
        "a=True": True,
        "a=False": False,
        "a=null": None,
        "a=None": None,
        'a="None"': "None",
        "a=[1, 2]": [1, 2],
        "a=x=y": "x=y",
        "a=": "",
        "a=TRUE": "TRUE",
        f"a={'[' * 10**5}": "[" * 10**5,
        f"a={'9' * 10**4}": "9" * 10**4,
    }
    for text, value in given.items():
        (read,) = read_pairs([text], "--option", "a=1").values()
        assert (read, type(read)) == (value, type(value))
    assert read_pairs(["a=1", "b=2"], "--option", "a=1") == {"a": 1, "b": 2}
    with pytest.raises(ConfigurationError, match="--option a=3: a is given twice"):
        read_pairs(["a=1", "b=2", "a=3"], "--option", "a=1")
    with pytest.raises(ConfigurationError, match="--option a is not of the form KEY=VALUE, such as a=1"):
        read_pairs(["a"], "--option", "a=1")
