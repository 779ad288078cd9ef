"""Templates of the task's text: which are read, which are refused, and how fields are put in."""

from pathlib import Path

import pytest

from agile_gym.actions.prompt import FIELDS, MAX_TEMPLATE, PROMPTS, read_prompt
from agile_gym.errors import ConfigurationError


def constant(text):
    return lambda: text


def render(path, **fields):
    return read_prompt(path).render({name: constant(text) for name, text in fields.items()})


def written(tmp_path, text):
    path = tmp_path / "mine.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_fields_are_put_in_and_doubled_braces_are_braces(tmp_path):
    path = written(tmp_path, 'Grid {rows}x{cols}: {{"a": {{}}}} {{rows}}\n\n{images}\nend\n\n')
    text = render(path, rows="2", cols="3", images="A: <image>\nB: <image>")
    assert text == 'Grid 2x3: {"a": {}} {rows}\n\nA: <image>\nB: <image>\nend'


def test_what_a_field_brings_is_not_read_again(tmp_path):
    path = written(tmp_path, "{functions} {images}")
    assert render(path, functions="{rows} {{x}} {0.__class__}", images="I") == "{rows} {{x}} {0.__class__} I"


def test_only_the_fields_that_are_named_are_made(tmp_path):
    path = written(tmp_path, "{images}")

    def fail():
        raise AssertionError("not needed")

    assert read_prompt(path).render({"images": constant("I"), "example": fail}) == "I"


def test_a_line_of_empty_fields_is_left_out_and_an_empty_line_is_kept(tmp_path):
    path = written(tmp_path, "a\n{rotations}\n\n{rotations}{functions}\nb {rotations}\n{images}")
    assert render(path, rotations="", functions="", images="I") == "a\n\nb \nI"
    assert render(path, rotations="R", functions="", images="I") == "a\nR\n\nR\nb R\nI"


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_marks_of_byte_order_and_ends_of_lines_do_not_matter(tmp_path, ends):
    path = written(tmp_path, b"\xef\xbb\xbf" + f"Gr\u00fc\u00dfe \u2028{{rows}}{ends}{{images}}{ends}".encode())
    assert render(path, rows="2", images="I") == "Gr\u00fc\u00dfe \u20282\nI"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{images} {row}", r"has no use for \{row\}. Did you mean 'rows'\? The fields are \{rows\}, \{cols\}"),
        ("{images} {rows.real}", r"no use for \{rows.real\}"),
        ("{images} {rows!r}", r"no use for \{rows!r\}"),
        ("{images} {rows:>9999999999}", r"no use for \{rows:>9999999999\}"),
        ("{images} {state[0]}", r"no use for \{state\[0\]\}"),
        ("{images} {}", r"no use for \{\}"),
        ("{images} { rows }", "Did you mean 'rows'"),
        ("{images} {0}", r"no use for \{0\}"),
        ('{images} {"name": "swap"}', r"write \{\{ and \}\} for braces"),
        ("{images} {rows", "brace without its partner"),
        ("{images} rows}", "brace without its partner"),
        ("{images} {\nrows}", "brace without its partner"),
        ("{images} {{rows}", "brace without its partner"),
        ("nothing", r"field \{images\} 0 times"),
        ("", r"field \{images\} 0 times"),
        ("{{images}}", r"field \{images\} 0 times"),
        ("{images}{images}", r"field \{images\} 2 times"),
        ("{images}\n<image>", "holds the mark <image>"),
        (b"{images} \xff", "not a text in UTF-8: byte 9 is 0xff"),
        ("{images}".encode("utf-16"), "UTF-8"),
        (b"{images}" + b" " * MAX_TEMPLATE, f"more than {MAX_TEMPLATE} bytes"),
    ],
)
def test_what_is_no_template_is_refused_with_what_is_allowed(tmp_path, text, message):
    with pytest.raises(ConfigurationError, match=message):
        read_prompt(written(tmp_path, text))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("ful", "neither 'full' nor 'short'.*Did you mean 'full'"),
        ("no/such/file.txt", "cannot be read as a text file .*No such file"),
        (Path("no/such/file.txt"), "'no/such/file.txt'.*No such file"),
        (Path("full"), "'full'.*No such file"),  # a path is a file, whatever its name
        (Path.cwd(), "cannot be read"),
        ("nul\0byte", "cannot be read"),
        ("x" * 5000, "cannot be read"),
        ("", "cannot be read"),
        (None, "prompt=None is not allowed"),
        (3, "prompt=3 is not allowed"),
        (b"full", "is not allowed"),
        (["full"], "is not allowed"),
    ],
)
def test_what_is_no_file_is_refused(tmp_path, monkeypatch, prompt, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        read_prompt(prompt)


def test_a_file_of_ones_own_is_found_by_path_and_by_text(tmp_path, monkeypatch):
    written(tmp_path, "{images}")
    monkeypatch.chdir(tmp_path)
    assert read_prompt("mine.txt") == read_prompt(Path("mine.txt"))
    assert read_prompt("mine.txt").lines == ((("images", True),),)


def test_our_own_templates_use_fields_only_and_every_field_is_explained():
    used = {text for name in PROMPTS for line in read_prompt(name).lines for text, is_field in line if is_field}
    assert used <= set(FIELDS)
    assert {"rows", "cols", "turns", "images"} <= used
    assert all(FIELDS.values())
    assert [read_prompt(name).brief for name in PROMPTS] == [False, True]
