"""Golden hashes of episodes and transcripts, equal to the bit; see benchmarks/golden.py."""

import importlib.util
import json
from pathlib import Path

import pytest

from tests.helpers import ROOT

GOLDEN = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
SPEC = importlib.util.spec_from_file_location("golden", ROOT / "benchmarks" / "golden.py")
golden = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(golden)


def exact(hashes):
    return {name: value for name, value in hashes.items() if name.startswith("exact/")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The image")  # some of the pictures have pieces that look alike
def test_episodes_over_all_options():
    assert exact(golden.episodes()) == {"exact/episodes": GOLDEN["exact/episodes"]}


def test_transcripts(tmp_path):
    hashes = exact(golden.transcripts(tmp_path))
    assert hashes == {"exact/transcripts-random": GOLDEN["exact/transcripts-random"]}


def test_the_hash_sees_types_values_and_order():
    values = [[1, 2], [2, 1], [1.0, 2], ["1", 2], [True, 2], [[1], 2], {"a": 1, "b": 2}, None]
    digests = []
    for value in values:
        digest = golden.Digest()
        digest.add(value)
        digests.append(str(digest))
    assert len(set(digests)) == len(values)
    renamed = golden.Digest()
    renamed.add({"c": 1, "d": 2})
    assert str(renamed) == digests[6]
