"""Commands and code of the documentation run. The two ```bash blocks of the README are run by .ci/run."""

import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT

WITH_RAY = ("studies.md", "training.md")
SMALL = {  # so that a training takes seconds
    "vision.steps": 4,
    "vision.probes": 8,
    "vision.batch": 8,
    "vision.few": 0,
    "cold_start.count": 8,
    "sft.batch_size": 4,
    "sft.replay_size": 2,
    "sft.replay_count": 6,
    "sft.epochs": 1,
    "grpo.iterations": 2,
    "grpo.groups_per_iteration": 2,
    "grpo.max_new_tokens": 8,
    "evaluation.episodes": 4,
    "evaluation.interval": 0,
    "resources.runners": 0,
    "resources.learners": 0,
}
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("envs/*.md")])


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def beside_examples():
    """Return an environment in which the examples' modules are found, as if a command was run in their folder."""
    paths = [str(ROOT / "examples"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def needs_ray(page):
    if page.name in WITH_RAY:
        pytest.importorskip("ray")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path):
    needs_ray(page)
    for code in blocks(page, "python"):
        warnings = "ignore" if page.name in WITH_RAY else "error"  # Ray warns of itself
        environment = {**os.environ, "PYTHONWARNINGS": warnings}
        command = [sys.executable, "-c", code]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{code}\n{result.stderr}"


def shorten(study):
    """Let a study play few puzzles."""
    study.write_text(re.sub(r"episodes = \d+", "episodes = 4", study.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run(page, tmp_path):
    needs_ray(page)
    for number, text in enumerate(blocks(page, "toml")):
        (tmp_path / f"{number or page.stem.removesuffix('ies') + 'y'}.toml").write_text(text)
    for line in "".join(blocks(page, "console")).splitlines():
        program, *arguments = shlex.split(line)
        assert program == "agile-gym", f"no test knows how to run {line!r}"
        if arguments[0] == "bench":
            arguments += ["--seconds", "0.05"]
        if arguments[0] == "train" and "--resume" not in arguments:
            arguments += [f"--set={key}={value}" for key, value in SMALL.items()]
        if arguments[0] == "study" and "--output" in arguments:
            arguments += [f"--set={key}={value}" for key, value in (SMALL | {"evaluation.episodes": 2}).items()]
            arguments += ["--seeds", "0", "--budget-hours", "9"]
            shorten(tmp_path / "study.toml")
        command = [sys.executable, "-m", "agile_gym", *arguments]
        result = subprocess.run(
            command, cwd=tmp_path, env=beside_examples(), input="answer\n", capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        assert "agile-gym: " not in result.stderr


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        assert (ROOT / link).exists(), link


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("quickstart.py", [], "reward"),
        ("custom_policy.py", ["10"], "borders  Acc"),
        ("vector_rollout.py", ["4", "20"], "turns a second"),
        ("evaluate_hf.py", [], "tokens written an episode"),
        ("write_transcripts.py", ["run", "3"], "3 conversations"),
    ],
)
def test_examples_run(script, arguments, words, tmp_path):
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(ROOT / "examples" / script), *arguments]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert words in result.stdout
    assert len((ROOT / "examples" / script).read_text().splitlines()) < 150


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("rllib_grpo.py", [], "held out: Acc"),
        ("rllib_ppo.py", ["1"], "a photograph never seen, PPO:"),
        ("tune_sweep.py", [], "best learning rate"),
    ],
)
def test_examples_with_ray_run(script, arguments, words, tmp_path):
    pytest.importorskip("ray")
    command = [sys.executable, str(ROOT / "examples" / script), *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert words in result.stdout


def test_the_cluster_of_the_example_is_one_and_its_flags_are_those_of_the_command():
    pytest.importorskip("ray")
    import yaml
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = (ROOT / "examples" / "ray_cluster.yaml").read_text()
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    gpus = config["available_node_types"]["head"]["resources"]["GPU"]
    from agile_gym.training.settings import read_settings

    resources = read_settings("agile_7b", {"resources.address": "auto"}).resources
    needed = resources.runners * resources.gpus_per_runner + resources.learners * resources.gpus_per_learner
    assert needed == gpus
    options = subprocess.run(
        [sys.executable, "-m", "agile_gym", "train", "--help"], capture_output=True, text=True
    ).stdout
    assert all(flag in options for flag in re.findall(r"--(?:preset|images|output|set|runners|learners)\b", text))


@pytest.mark.slow
def test_the_policy_of_the_example_plays_on_the_command_line(tmp_path):
    arguments = ["--policy", "custom_policy:BorderPolicy", "--grid", "2", "--episodes", "2"]
    command = [sys.executable, "-m", "agile_gym", "eval", *arguments, "--output", str(tmp_path / "r.json")]
    result = subprocess.run(command, cwd=ROOT / "examples", capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "100.0" in result.stdout.split("custom_policy:BorderPolicy")[1].splitlines()[0]


def test_every_example_is_run():
    here = {"quickstart.py", "custom_policy.py", "vector_rollout.py", "evaluate_hf.py", "write_transcripts.py"}
    elsewhere = {"evaluate_api.py", "custom_env.py"}  # by the tests of endpoints and of other environments
    with_ray = {"rllib_grpo.py", "rllib_ppo.py", "tune_sweep.py"}
    by_hand = {"assemble_vlm.py"}  # needs packages with pretrained weights
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == here | elsewhere | with_ray | by_hand


def test_the_picture_of_the_readme_is_what_the_script_draws(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'docs'); import make_pictures; make_pictures.puzzle_picture().save(sys.argv[1])"
    )
    target = tmp_path / "puzzle.png"
    subprocess.run([sys.executable, "-c", code, str(target)], cwd=ROOT, check=True)
    with Image.open(target) as drawn, Image.open(ROOT / "docs/puzzle.png") as kept:
        difference = np.asarray(drawn).astype(int) - np.asarray(kept)
    assert np.abs(difference).mean() < 2  # versions of OpenCV may differ in a grey level
