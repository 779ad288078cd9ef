"""Names on a hub that does not answer, the cache, and packages that a model needs."""

import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from agile_gym.errors import ModelError
from agile_gym.models.sources import load_config, missing_package
from tests.helpers import ROOT, families
from tests.helpers.asking import ask


@pytest.fixture
def hub(tmp_path):
    """Return a port of loopback that accepts connections and says nothing, and the environment that asks it."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HOME": str(tmp_path / "cache")}


PLAN = ["plan", "--model", "some/model", "--image-size", "64", "--context", "99999"]


@pytest.mark.slow
@pytest.mark.parametrize("command", [PLAN, ["eval", "--policy", "hf:some/model", "--output", "no.json"]])
def test_a_hub_that_does_not_answer_is_not_waited_for(hub, command):
    status, seconds, told = ask(command, **hub)
    assert status == 1
    assert told.count("\n") == 1
    assert told.startswith("agile-gym: There is no model at 'some/model': it is no folder")
    for words in (hub["HF_ENDPOINT"], "cannot be reached", "hf download some/model", "HF_ENDPOINT", "folder"):
        assert words in told
    assert 3 < seconds < 30  # one question of four seconds, and the imports


@pytest.mark.slow
def test_a_hub_that_is_not_there_is_told_at_once(hub):
    hub["HF_ENDPOINT"] = "http://127.0.0.1:1"
    _, _, told = ask(PLAN, **hub)
    assert "cannot be reached" in told
    assert "Retry" not in told
    assert told.count("\n") == 1
    _, _, told = ask(PLAN, **hub, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in told
    assert told.count("\n") == 1


@pytest.mark.slow
def test_a_model_in_the_cache_is_taken_from_there(saved, hub):
    """Also where the hub is out of reach; and what is missing there is not waited for."""
    folder = Path(hub["HF_HOME"]) / "hub" / "models--some--model"
    snapshot = shutil.copytree(saved("idefics3"), folder / "snapshots" / "abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    hub["HF_ENDPOINT"] = "http://127.0.0.1:1"
    status, _, told = ask(PLAN, **hub)
    assert (status, told) == (0, "")
    (snapshot / "model.safetensors").unlink()
    status, _, told = ask(["eval", "--policy", "hf:some/model", "--output", "no.json"], **hub)
    assert status == 1
    assert "Retry" not in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("path", ["./nowhere/x", "a/b/c", "/nowhere", "~/models", "C:\\models\\mine"])
def test_what_can_be_no_name_is_not_asked_for(path):
    with pytest.raises(ModelError, match=r"no model at .*: there is no such folder\. Give a folder"):
        load_config(path)


def caused(message, cause):
    error = ModuleNotFoundError(message)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ImportError("\nFooProcessor requires the Torchvision library but it was not found in your environment. "
                     "Checkout the instructions"), "torchvision"),
        (ImportError("Package `num2words` is required to run SmolVLM processor. Install it with `pip install "
                     "num2words`."), "num2words"),
        (ModuleNotFoundError("No module named 'einops'", name="einops"), "einops"),
        (caused("Could not import module 'AutoProcessor'.", ModuleNotFoundError("No module named 'tiktoken'",
                name="tiktoken")), "tiktoken"),
        (ModuleNotFoundError("No module named 'einops.layers'", name="einops.layers"), "einops"),
        (ImportError("Using `bitsandbytes` quantization requires bitsandbytes: `pip install -U bitsandbytes>=0.46.1`"),
         "bitsandbytes"),
    ],
)  # fmt: skip
def test_packages_that_are_missing_are_named(error, name):
    told = str(missing_package(error, "the model 'x'"))
    assert told == f"The package {name!r} is needed for the model 'x'. Install it with: pip install {name}"


def test_an_error_that_names_no_package_is_told_in_one_line():
    assert "for the model 'x': what is this" in str(missing_package(ImportError("what\nis this"), "the model 'x'"))


BARE = """
import sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions, requires
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

def needed(name):
    name = canonicalize_name(name)
    if name not in found:
        found.add(name)
        for text in requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed(requirement.name)

found = set()
for name in EXTRA:
    needed(name)

class Known(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        owners = owner.get(name.partition(".")[0])
        known = not owners or any(canonicalize_name(entry) in found for entry in owners)
        return super().find_spec(name, path, target) if known else None

owner = packages_distributions()
owner.pop("agile_gym", None)
sys.meta_path[sys.meta_path.index(PathFinder)] = Known
from agile_gym.models import load_vlm
for folder in FOLDERS:
    load_vlm(folder, device="cpu")
print("all loaded")
"""


@pytest.mark.slow
def test_the_extra_has_all_that_the_families_need(saved):
    """Of what is installed here, the process sees only what the package, its extra and these need themselves."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [Requirement(text).name for text in project["dependencies"] + project["optional-dependencies"]["vlm"]]
    folders = [str(saved(name)) for name in families.FAMILIES]
    code = f"EXTRA, FOLDERS = {names}, {folders}\n{BARE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=200)
    assert "all loaded" in done.stdout, done.stderr
