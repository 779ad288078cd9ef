"""The benchmark of the speed of training runs, and what it tells adds up. How fast is not asked here."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.benchmark

SCRIPT = ROOT / "benchmarks" / "training_speed.py"
WITH_TRL = importlib.util.find_spec("trl") is not None


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    output = tmp_path_factory.mktemp("speed") / "speed.json"
    parts = (["trl"] if WITH_TRL else []) + ["cache", "profile", "overlap"]
    command = [sys.executable, str(SCRIPT), "--quick", "--output", str(output), "--only", *parts]
    result = subprocess.run(command, cwd=output.parent, capture_output=True, text=True, check=False, timeout=280)
    assert result.returncode == 0, result.stderr
    content = json.loads(output.read_text("utf-8"))
    assert content["markdown"].strip() == result.stdout.strip()
    assert content["repetitions"] == 1
    return content


def test_the_cache_changes_no_token(told):
    for entry in told["figures"]["cache"].values():
        assert entry["same_tokens"]
        assert min(entry["kept"] + entry["scratch"]) > 0
        assert entry["context"][0] + 4 < entry["context"][1]  # the turn, and the feedback with an image


def test_parts_add_up_to_the_iteration(told):
    profile = told["figures"]["profile"]
    assert sum(profile["seconds"].values()) == pytest.approx(profile["total"])
    kept = {"runner: making environments"}  # made in the iterations before, which are not counted
    assert all(seconds > 0 or name in kept for name, seconds in profile["seconds"].items()), profile["seconds"]
    rows = [line.split("|")[1:-1] for line in told["markdown"].splitlines() if line.startswith("| ")]
    shares = {name.strip(): float(share) for name, _, share in (row for row in rows if len(row) == 3) if share != " % "}
    assert shares.pop("iteration") == 100
    assert sum(shares.values()) == pytest.approx(100, abs=1)


def test_iterations_with_and_without_a_lag_are_timed(told):
    for entry in told["figures"]["overlap"].values():
        assert len(entry["wall"]) == len(entry["wait"]) == len(entry["update"]) == 1
        assert entry["wall"][0] > entry["update"][0] > 0
    assert told["figures"]["overlap"].keys() == {"0", "1"}


@pytest.mark.skipif(not WITH_TRL, reason="TRL is not installed")
def test_trl_and_this_library_train_on_as_many_tokens(told):
    figures = told["figures"]["trl"]
    setting = figures["setting"]
    assert figures["tokens"] == setting["groups"] * setting["group_size"] * setting["new_tokens"] == 64
    assert set(figures["rates"]) == {
        f"{what}_{kind}" for what in ("rollout", "update") for kind in ("wall", "processor")
    }
    for entry in figures["rates"].values():
        assert entry["ratio"] == pytest.approx(entry["agile_gym"][0] / entry["TRL"][0])
        assert min(entry["agile_gym"] + entry["TRL"]) > 0


def test_what_is_missing_is_told():
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--only", "everything"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "invalid choice: 'everything'" in result.stderr
