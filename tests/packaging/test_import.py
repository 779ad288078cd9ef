import importlib
import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import agile_gym

LIMIT = 0.4
"""Seconds of a processor that the import of agile_gym may take, Gymnasium's included."""
OWN_LIMIT = 0.1
"""Seconds of these that may be its own."""
TRIES = 10
HEAVY = (
    *("torch", "torchvision", "transformers", "ray", "peft"),
    *("cv2", "skimage", "scipy", "PIL", "datasets", "pyarrow", "pandas", "tqdm", "jinja2", "matplotlib", "rich"),
)
MEASURE = """
import sys, time
start = time.process_time()
import gymnasium
between = time.process_time()
before = set(sys.modules)
import agile_gym
end = time.process_time()
import json
print(json.dumps({
    "seconds": end - start,
    "own_seconds": end - between,
    "gymnasium": sorted(before),
    "modules": sorted(sys.modules),
}))
"""
MODULES = sorted(module.name for module in pkgutil.walk_packages(agile_gym.__path__, "agile_gym."))
MODULES.remove("agile_gym.__main__")  # runs the command line
OF_RAY = ("agile_gym.learner", "agile_gym.training", "agile_gym.studies")


def measure_import(cwd):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", MEASURE],
        cwd=cwd,
        env=environment | {"PYTHONPATH": str(Path(agile_gym.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


@pytest.mark.slow
def test_import_is_quick(tmp_path):
    # The best of some tries, because other processes may empty the caches. Their turns on the processor do not count.
    seconds, own_seconds = [], []
    for _ in range(TRIES):
        told = measure_import(tmp_path)
        seconds.append(told["seconds"])
        own_seconds.append(told["own_seconds"])
        if len(seconds) >= 3 and min(seconds) < LIMIT and min(own_seconds) < OWN_LIMIT:
            break
    assert min(seconds) < LIMIT, seconds
    assert min(own_seconds) < OWN_LIMIT, own_seconds


def test_import_brings_nothing_heavy(tmp_path):
    told = measure_import(tmp_path)
    loaded = {name.partition(".")[0] for name in told["modules"]}
    # Should some version of Gymnasium import one of them, that is not ours to change.
    by_gymnasium = {name.partition(".")[0] for name in told["gymnasium"]}
    assert not (loaded - by_gymnasium) & set(HEAVY)
    own = {name for name in told["modules"] if name.partition(".")[0] == "agile_gym"}
    assert own == {"agile_gym", "agile_gym.errors", "agile_gym.registration"}


@pytest.mark.parametrize("name", ["agile_gym", *MODULES])
def test_every_public_name_exists(name):
    try:
        module = importlib.import_module(name)
        names = module.__all__
        missing = [public for public in names if not hasattr(module, public)]
    except ImportError as error:
        if importlib.util.find_spec("ray") is None and name.startswith(OF_RAY):
            pytest.skip(f"Ray is not installed: {error}")
        raise
    assert len(set(names)) == len(names)
    assert missing == []


def test_names_of_the_package_that_are_imported_late_are_public():
    assert set(agile_gym._LAZY) <= set(agile_gym.__all__)
    for name, home in agile_gym._LAZY.items():
        assert name in importlib.import_module(home).__all__
        assert getattr(agile_gym, name) is getattr(importlib.import_module(home), name)


def test_name_that_does_not_exist():
    with pytest.raises(AttributeError, match="'agile_gym' has no attribute 'JigsawVisonEnv'"):
        _ = agile_gym.JigsawVisonEnv
