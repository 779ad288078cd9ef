"""The tree is the data's path: imports point one way, without circles, tests mirror it, and modules stay readable."""

import ast
import re
from pathlib import Path

import pytest

import agile_gym
from tests.helpers import ROOT

PACKAGE = Path(agile_gym.__file__).parent
LAYERS = (
    ("images", "puzzle"),
    ("outputs",),
    ("actions",),
    ("questions",),
    ("envs",),
    ("transcripts",),
    ("models",),
    ("policies",),
    ("rollout",),
    ("evaluation", "coldstart", "learner"),
    ("reporting",),
    ("training",),
    ("studies",),
    ("commands",),
)
"""Packages (and one module) in the order in which they may be imported; what is not named is used by all."""
LONGEST = 450
LONGER = {"agile_gym.testing": 460}  # three public checks that share their messages
MOST = 207
OPENINGS = ("What", "Whatever", "How", "Tell", "Tells", "Say", "Says", "Why", "Whether", "Where", "Which", "Knows")
"""Words that no docstring begins with; see the rules of prose in CONTRIBUTING.md."""
TESTS = ROOT / "tests"
OTHERS = ("helpers", "helpers/hostile", "packaging", "safety", "learner/rllib")
"""Folders of tests that are those of no package: the last one holds what needs Ray."""


def modules():
    """Return each module's path by its name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path, known, *, anywhere):
    """Return the modules that a module imports: at its top, or anywhere."""
    tree = ast.parse(path.read_text("utf-8"))
    names = set()
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names & known


def layer(name):
    """Return the place of a module's package among the layers, or None."""
    package = name.split(".")[1] if "." in name else ""
    return next((place for place, names in enumerate(LAYERS) if package in names), None)


def docstrings(path):
    """Yield line and text of each docstring: of the module, its classes and functions, and below assignments."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


@pytest.mark.slow
def test_no_module_imports_from_a_later_layer():
    found = modules()
    wrong = [
        (name, other)
        for name, path in found.items()
        for other in imports(path, found.keys(), anywhere=True)
        if layer(name) is not None and layer(other) is not None and layer(other) > layer(name)
    ]
    assert wrong == []


def test_no_module_of_all_layers_imports_one_at_its_top():
    found = modules()
    for name, path in found.items():
        if layer(name) is None and name not in (
            "agile_gym",
            "agile_gym.cli",
            "agile_gym.testing",
            "agile_gym.__main__",
        ):
            inner = [other for other in imports(path, found.keys(), anywhere=False) if layer(other) is not None]
            assert inner == [], name


def test_modules_import_one_another_without_a_circle():
    found = {name: path for name, path in modules().items() if path.name != "__init__.py"}
    edges = {name: imports(path, found.keys(), anywhere=False) - {name} for name, path in found.items()}
    while edges:
        free = {name for name, others in edges.items() if not others & edges.keys()}
        assert free, f"There is a circle among {sorted(edges)}."
        edges = {name: others for name, others in edges.items() if name not in free}


@pytest.mark.parametrize("name", sorted(modules()))
def test_modules_are_read_in_one_sitting(name):
    assert len(modules()[name].read_text("utf-8").splitlines()) <= LONGER.get(name, LONGEST)


def test_modules_are_few():
    assert len(modules()) <= MOST


def test_docstrings_open_with_an_imperative_or_the_name_of_the_thing():
    wrong = [
        f"{name}:{line}: {text.splitlines()[0]}"
        for name, path in [*modules().items(), *((path.name, path) for path in TESTS.rglob("*.py"))]
        for line, text in docstrings(path)
        if re.match(rf"\s*({'|'.join(OPENINGS)})\b", text)
    ]
    assert wrong == []


def test_tests_mirror_the_package():
    folders = {path.parent.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py")} - {".", *OTHERS}
    packages = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")} - {"."}
    assert folders == packages


def test_folders_of_tests_are_packages():
    assert all((path.parent / "__init__.py").is_file() for path in TESTS.rglob("*.py"))


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.relative_to(TESTS).as_posix())
def test_files_of_tests_are_read_in_one_sitting(path):
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST
