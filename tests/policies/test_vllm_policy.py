"""Evaluations with ``vllm:PATH`` beside ``hf:PATH``: the same transcripts, and errors that name the next step."""

import json
from importlib.util import find_spec

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from agile_gym.cli import main
from agile_gym.errors import ConfigurationError, MissingDependencyError
from agile_gym.models.tiny import save_tiny
from agile_gym.outputs import fingerprints
from agile_gym.policies import make_policy
from tests.helpers.benchmark_files import write_tsv
from tests.helpers.processes import run_module

WITH_VLLM = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
PUZZLES = ["--grid", "2x2", "--levels", "0", "--episodes", "24"]
SHORT = ["--option", "prompt=short", "--option", "image_size=64"]
PLAY = ["--policy-option", "temperature=0", "--policy-option", "max_new_tokens=16", "--keep", "all"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model")


def evaluate(*words):
    """Run ``agile-gym eval`` in a process of its own: an engine changes the process that it runs in."""
    return run_module("agile_gym", "eval", *words)


def played(folder, model, kind, *words):
    """Return the turns and tokens of each episode."""
    output = folder / f"{kind}.json"
    options = ["--policy-option", "max_model_len=512"] if kind == "vllm" else []
    done = evaluate("--policy", f"{kind}:{model}", *words, *PLAY, *options, "--output", str(output))
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = folder.glob(f"{kind}*-transcripts/episodes.jsonl")
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return {line["id"]: ([turn["text"] for turn in line["turns"]], line["segments"]) for line in lines}


@WITH_VLLM
@pytest.mark.slow
@pytest.mark.timeout(1300)
@pytest.mark.parametrize("what", ["puzzles", "benchmark"])
def test_greedy_episodes_are_those_of_transformers(what, model, tmp_path):
    words = [*PUZZLES, *SHORT]
    if what == "benchmark":
        words = ["--benchmark", f"mmvp={write_tsv(tmp_path, 'mmvp')}"]
    ours, theirs = (played(tmp_path, model, kind, *words) for kind in ("hf", "vllm"))
    assert len(ours) == (24 if what == "puzzles" else 4)
    assert ours.keys() == theirs.keys()
    assert all(any(texts) for texts, _ in theirs.values())
    assert sum(ours[name][0] == theirs[name][0] for name in ours) >= 0.99 * len(ours)
    same = [name for name in ours if ours[name][0] == theirs[name][0]]
    for name in same:
        for one, other in zip(ours[name][1], theirs[name][1], strict=True):
            assert one["ids"] == other["ids"]
            assert one["loss_mask"] == other["loss_mask"]


@WITH_VLLM
@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "parts"),
    [
        ("max_model_length=512", ["vLLM has no argument 'max_model_length'", "Did you mean 'max_model_len'?"]),
        ("temprature=0", ["Did you mean 'temperature'?"]),
        ("quantization=fp8", ["'quantization' is set by this library"]),
        ("top_p=0.9", ["top_p=0.9", "not allowed"]),
        ("max_model_len=100000000", ["vLLM cannot start", "100000000"]),
    ],
)
def test_an_option_that_is_not_allowed_is_named(option, parts, model, tmp_path):
    words = [*PUZZLES, *SHORT, "--policy-option", option, "--output", str(tmp_path / "out.json")]
    done = evaluate("--policy", f"vllm:{model}", *words)
    assert done.returncode == 1
    assert all(part in done.stderr for part in parts), done.stderr[-2000:]
    assert not (tmp_path / "out.json").exists()


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_error_has_the_way_to_install_it(model):
    with pytest.raises(MissingDependencyError, match=r"needs the package 'vllm'.*agile-gym\[vllm\]"):
        make_policy(f"vllm:{model}")


@WITH_VLLM
@pytest.mark.slow
def test_a_model_that_the_engine_does_not_take_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "idefics3"}', "utf-8")
    done = evaluate("--policy", f"vllm:{tmp_path}", *PUZZLES, "--output", str(tmp_path / "out.json"))
    assert done.returncode == 1
    assert "'idefics3', which engine='vllm' does not take" in done.stderr


def test_a_model_is_the_same_for_one_engine_and_another_policy_for_the_other(model):
    first, second = (fingerprints({"policy": f"{kind}:{model}"})["policy"] for kind in ("hf", "vllm"))
    assert first != second
    assert second.endswith(first)


@pytest.mark.slow
def test_an_evaluation_does_not_go_on_with_the_other_engine(model, tmp_path, monkeypatch, capsys):
    words = ["eval", *PUZZLES, *SHORT, "--episodes", "1", *PLAY, "--output", str(tmp_path / "out.json")]
    assert main([*words, "--policy", f"hf:{model}"]) == 0
    monkeypatch.setattr("agile_gym.commands.eval._policy", lambda plan, workers: None)
    assert main([*words, "--policy", f"vllm:{model}", "--resume"]) == 1
    assert "policy" in capsys.readouterr().err


def test_a_teacher_that_is_missing_is_found_before_the_training():
    pytest.importorskip("ray")
    from agile_gym.training.checking import check_settings
    from agile_gym.training.settings import read_settings

    with pytest.raises((ConfigurationError, MissingDependencyError), match="no_such_model"):
        check_settings(read_settings("tiny", {"cold_start.teacher": "vllm:no_such_model"}))
