import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import agile_gym
from agile_gym.errors import ConfigurationError
from agile_gym.registration import catalogue_folder, load_catalogue, read_spec
from tests.helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SPECS = sorted((ROOT / "envs").glob("*.toml"))

GOOD_SPEC = """\
id = "Good-v0"
summary = "A spec that is right."
entry_point = "agile_gym.envs.jigsaw:JigsawVisionEnv"
horizon = 5
"""


def clean_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def run_python(code: str, folder: Path, cwd: Path) -> str:
    """Run code with a folder first on the path; what it prints on the last line is returned."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=cwd,
        env=clean_environment() | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built from a copy of the tree."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("agile_gym", "envs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    output = tmp_path_factory.mktemp("wheel")
    result = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(output), str(tree)],
        cwd=output,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "not being included" not in result.stdout + result.stderr
    (path,) = output.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.slow
def test_wheel_holds_exactly_the_files_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    shipped = {name for name in names if not name.partition("/")[0].endswith(".dist-info")}
    files = [path for path in (ROOT / "agile_gym").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    expected |= {f"agile_gym/specs/{path.name}" for path in (ROOT / "envs").iterdir() if path.is_file()}
    assert shipped == expected
    assert {"agile_gym/py.typed", "agile_gym/evaluation/reference_results.csv"} <= shipped
    assert {"agile_gym/specs/jigsaw_vision.toml", "agile_gym/specs/jigsaw_vision.md"} <= shipped
    assert (
        len([name for name in shipped if re.fullmatch(r"agile_gym/images/photographs/(train|test)/\w+\.jpg", name)])
        == 51
    )
    assert wheel.stat().st_size < 2_500_000


@pytest.mark.slow
def test_wheel_has_one_top_level_package_and_the_licences(wheel):
    info = f"agile_gym-{PROJECT['version']}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        assert {name.partition("/")[0] for name in archive.namelist()} == {"agile_gym", info}
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert archive.read(f"{info}/top_level.txt").decode().split() == ["agile_gym"]
        attribution = archive.read(f"{info}/licenses/agile_gym/images/photographs/ATTRIBUTION.toml").decode()
        metadata = archive.read(f"{info}/METADATA").decode()
    photographs = tomllib.loads(attribution)["photograph"]
    licences = {entry["licence"].replace("public domain", "LicenseRef-Public-Domain") for entry in photographs}
    assert f"License-Expression: {' AND '.join(['MIT', *sorted(licences)])}\n" in metadata
    assert "License-File: agile_gym/images/photographs/ATTRIBUTION.toml\n" in metadata
    assert not any("scikit-image" in line and "extra ==" not in line for line in metadata.splitlines())
    assert f"Requires-Python: {PROJECT['requires-python']}\n" in metadata


@pytest.mark.slow
def test_unpacked_wheel_works_on_its_own(unpacked, tmp_path):
    code = """
import json
import sys
sys.modules["skimage"] = None  # photographs come with the package
import gymnasium
env = gymnasium.make("agile_gym:JigsawVision-v0")
observation, info = env.reset(seed=0)
observation, *_ = env.step("<think>Look.</think><code>observe()</code>")
import agile_gym
from agile_gym.evaluation import reference_rows
from agile_gym.images import open_images
from agile_gym.registration import catalogue_folder
print(json.dumps({
    "file": agile_gym.__file__,
    "folder": str(catalogue_folder()),
    "ids": list(agile_gym.load_catalogue()),
    "shape": observation["image"].shape,
    "rows": len(reference_rows("2x2", "acc")),
    "photographs": [len(open_images(split=split)) for split in ("train", "test")],
    "version": agile_gym.__version__,
}))
"""
    told = json.loads(run_python(code, unpacked, tmp_path))
    assert told["file"] == str(unpacked / "agile_gym" / "__init__.py")
    assert told["folder"] == str(unpacked / "agile_gym" / "specs")
    assert told["ids"] == list(load_catalogue())
    assert told["shape"] == [452, 452, 3]
    assert told["rows"] > 0
    assert told["photographs"] == [39, 12]
    assert told["version"] == PROJECT["version"]


def test_build_leaves_nothing_in_the_tree(wheel):
    assert wheel.is_file()
    assert not (ROOT / "agile_gym" / "specs").exists()


def test_package_map_lists_every_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = setup["options"]["packages"].split()
    inside = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "agile_gym").rglob("__init__.py")}
    assert listed == sorted(set(listed))
    assert set(listed) == inside | {"agile_gym.specs"}
    folders = {path.parent for path in (ROOT / "agile_gym").rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_version_is_that_of_the_project():
    assert agile_gym.__version__ == PROJECT["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[([^\]]+)\]", changelog, re.MULTILINE)
    assert headings[:2] == ["Unreleased", PROJECT["version"]]


@pytest.mark.slow
def test_command_is_installed(tmp_path):
    (point,) = (point for point in distribution("agile-gym").entry_points if point.name == "agile-gym")
    assert (point.group, point.value) == ("console_scripts", "agile_gym.cli:main")
    script = shutil.which("agile-gym", path=Path(sys.executable).parent)
    assert script, "the command agile-gym is not installed beside the interpreter"
    for command in ([script], [sys.executable, "-m", "agile_gym"]):
        result = subprocess.run([*command, "list"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (0, "")
        assert [line.split()[0] for line in result.stdout.splitlines()] == list(load_catalogue())


def test_continuous_integration_is_executable():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")


def requirements_of(extra):
    """Return what an extra asks for; where it names other extras of this package, what those ask for."""
    for text in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) == PROJECT["name"]:
            for other in requirement.extras:
                yield from requirements_of(other)
        else:
            yield requirement


@pytest.mark.parametrize(
    ("file", "extras"),
    [("constraints.txt", ["dev"]), ("constraints-train.txt", ["train", "dev"])],
    ids=["base", "train"],
)
def test_constraints_fix_every_dependency(file, extras):
    lines = [line for line in (ROOT / file).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    fixed = dict(line.split("==") for line in lines)
    assert list(fixed) == sorted(fixed)
    wanted = [Requirement(text) for text in PROJECT["dependencies"]]
    wanted += [requirement for extra in extras for requirement in requirements_of(extra)]
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        assert name in fixed, f"{file} does not fix {name}"
        assert requirement.specifier.contains(fixed[name]), f"{file}: {name}=={fixed[name]} is not {requirement}"


def test_catalogue_of_a_checkout_is_the_folder_envs():
    assert catalogue_folder() == ROOT / "envs"
    assert SPECS
    assert {card.id for card in map(read_spec, SPECS)} == set(load_catalogue())
    assert {path.stem for path in (ROOT / "envs").glob("*.md")} == {path.stem for path in SPECS}


@pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.stem)
def test_card_tells_what_the_spec_says(spec):
    card = read_spec(spec)
    text = spec.with_suffix(".md").read_text(encoding="utf-8")
    assert text.startswith(f"# {card.id}\n")
    (sentence,) = re.findall(r"^Its keywords: ([^.]*)\. ", text, re.MULTILINE)
    keywords = re.findall(r"`([^`]*)`", sentence)
    expected = {**card.kwargs, "max_turns": card.horizon}
    assert keywords == [f"{key}={json.dumps(value)}" for key, value in expected.items()]
    assert f"`{card.entry_point.replace(':', '.')}`" in text


@pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.stem)
def test_code_of_the_card_runs(spec):
    text = spec.with_suffix(".md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    names = {}
    exec(compile(code, spec.with_suffix(".md").name, "exec"), names)
    names["envs"].reset(seed=0)
    names["envs"].close()
    assert names["env"].spec.id == read_spec(spec).id
    names["env"].reset(seed=0)
    assert names.get("info", {}).get("error") is None


def test_good_spec_is_read(tmp_path):
    (tmp_path / "good.toml").write_text(GOOD_SPEC, encoding="utf-8")
    (tmp_path / "notes.txt").write_text("not a spec", encoding="utf-8")
    (card,) = load_catalogue(tmp_path).values()
    assert (card.id, card.horizon) == ("Good-v0", 5)
    assert (card.vector_entry_point, card.tags, dict(card.kwargs)) == (None, (), {})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("horizon = 5", "horizon = 5\nhorizont = 5"), ["'horizont'", "Did you mean 'horizon'?"]),
        (("horizon = 5", "horizon = 5\nxyzzy = 5"), ["'xyzzy'", "Allowed:", "'entry_point'"]),
        (("horizon = 5", ""), ["'horizon'", "missing"]),
        (("id =", "# id ="), ["'id'", "missing"]),
        (("summary =", "# summary ="), ["'summary'", "missing"]),
        (("entry_point =", "# entry_point ="), ["'entry_point'", "missing"]),
        (("horizon = 5", 'horizon = "5"'), ["horizon = '5'", "int"]),
        (("horizon = 5", "horizon = true"), ["horizon = True", "int"]),
        (("horizon = 5", "horizon = 5.0"), ["horizon = 5.0", "int"]),
        (('id = "Good-v0"', "id = 1"), ["id = 1", "str"]),
        (("horizon = 5", 'horizon = 5\ntags = "jigsaw"'), ["tags = 'jigsaw'", "list"]),
        (("horizon = 5", "horizon = 5\nkwargs = 2"), ["kwargs = 2", "dict"]),
        (("horizon = 5", "horizon ="), ["not TOML", "line 4"]),
        (("horizon = 5", "horizon = 5\nhorizon = 6"), ["not TOML"]),
    ],
)
def test_bad_spec_is_named_with_its_key(tmp_path, change, words):
    path = tmp_path / "bad.toml"
    text = GOOD_SPEC.replace(*change)
    assert text != GOOD_SPEC
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as raised:
        load_catalogue(tmp_path)
    for word in [str(path), *words]:
        assert word in str(raised.value)


def test_spec_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="not TOML") as raised:
        load_catalogue(tmp_path)
    assert str(path) in str(raised.value)


def test_id_that_exists_already_is_named(tmp_path):
    for name in ("first", "second"):
        (tmp_path / f"{name}.toml").write_text(GOOD_SPEC, encoding="utf-8")
    with pytest.raises(ConfigurationError, match="'Good-v0' exists already") as raised:
        load_catalogue(tmp_path)
    assert str(tmp_path / "second.toml") in str(raised.value)


@pytest.mark.parametrize("name", ["", "missing"])
def test_catalogue_without_entries_is_named(tmp_path, name):
    with pytest.raises(ConfigurationError, match="No environment is described in") as raised:
        load_catalogue(tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)
