"""An environment of one's own, by the ordinary commands, run where its module lies."""

import importlib
import json
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from agile_gym.coldstart import ColdStartConfig, make_cold_start
from agile_gym.envs.contract import EpisodeDescription, complete_reward, env_name, find_env, make_env, make_info
from agile_gym.errors import AgileGymError, ConfigurationError
from agile_gym.evaluation import (
    EnvironmentEntry,
    EpisodeResult,
    EvaluationPlan,
    evaluate,
    read_journal,
    read_report,
    summarize,
    write_report,
)
from agile_gym.policies import GivenUp, as_policy, make_policy
from agile_gym.reporting.record import index_row
from agile_gym.rollout import EpisodeRecorder, EpisodeSpec, play_episodes
from agile_gym.transcripts import TranscriptWriter, read_transcripts
from tests.helpers import ROOT

EXAMPLES = ROOT / "examples"
QUARTER = "custom_env:QuarterEnv"
COUNT = 30


def run(*arguments):
    command = [sys.executable, "-m", "agile_gym", *map(str, arguments)]
    return subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, check=False)


def evaluated(output, *arguments, policy="custom_env:guess"):
    words = ("eval", "--env", QUARTER, "--policy", policy, "--episodes", COUNT, "--output", output)
    result = run(*words, *arguments)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("custom_env")


def expected(example, plan):
    """Play a plan's seeds in the environment itself: for each episode its label, and whether the guess is right."""
    env = example.QuarterEnv()
    found = {}
    for task in plan.tasks():
        _, info = env.reset(seed=task.seed)
        found[task.episode] = (info["task"]["label"], env.quarter == 0)
    return found


@pytest.mark.slow
def test_an_evaluation_tells_what_the_environment_does(tmp_path, example):
    output = tmp_path / "guess.json"
    result = evaluated(output, "--keep", "all", "--plots")
    assert output.with_suffix(".png").stat().st_size > 10_000
    plan = EvaluationPlan("custom_env:guess", [EnvironmentEntry(QUARTER, COUNT)])
    truth = expected(example, plan)
    assert len({label for label, _ in truth.values()}) == 2
    report = read_report(output)
    assert {row.episode: (row.label, row.solved) for row in report.rows} == truth
    assert len({row.seed for row in report.rows}) == COUNT
    columns = report.summary["QuarterEnv"]
    assert list(columns) == ["bottom", "top", "avg"]
    for name in ("bottom", "top"):
        mine = [solved for label, solved in truth.values() if label == name]
        assert columns[name]["acc"]["value"] == pytest.approx(sum(mine) / len(mine))
        assert columns[name]["puzzles"] == len(mine)
    assert columns["avg"]["answered"] == 1
    assert "QuarterEnv Acc: episodes solved (%)" in result.stdout
    assert "L0" not in result.stdout
    assert "photograph" not in result.stdout
    _, results = read_journal(output.with_suffix(".jsonl"))
    assert {(entry.label, tuple(entry.answer)) for entry in results} == {
        ("bottom", ("top left",)),
        ("top", ("top left",)),
    }
    transcripts = list(read_transcripts(tmp_path / "guess-transcripts"))
    assert sorted(one.id for one in transcripts) == sorted(f"QuarterEnv-{number}" for number in range(COUNT))
    for one in transcripts:
        label, solved = truth[int(one.id.rpartition("-")[2])]
        assert (one.task["env"], one.task["label"], one.task["max_turns"]) == ("QuarterEnv", label, 2)
        assert (one.solved, one.score, one.reward["total"]) == (solved, float(solved), float(solved))
        assert [image.shape for image in one.prompt_images] == [(64, 64, 3), (32, 32, 3)]


@pytest.mark.parametrize(
    ("grid", "label"),
    [("QuarterEnv", 1), ("QuarterEnv", None), ("2x2", "top"), ("a\x1b[2J", "top"), ("a b", "x"), ("", "x"), (3, "x")],
)
def test_results_that_no_environment_has_are_refused(tmp_path, grid, label):
    output = tmp_path / "guess.json"
    plan = EvaluationPlan("custom", [EnvironmentEntry(QUARTER, 2)])
    result = EpisodeResult("QuarterEnv", 0, 0, 0, 1, "x", True, 1.0, 1, label="top")
    assert EpisodeResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    with pytest.raises(ValueError, match="a value that no episode has"):
        EpisodeResult.from_json(result.to_json() | {"grid": grid, "label": label})
    write_report(output, [result], plan=plan.to_json(), photographs={})
    assert read_report(output).rows[0].label == "top"
    values = json.loads(output.read_text())
    values["rows"][0][0], values["rows"][0][-1] = grid, label
    output.write_text(json.dumps(values))
    with pytest.raises(ConfigurationError, match="is damaged"):
        read_report(output)


@pytest.mark.slow
def test_it_is_resumed_played_by_workers_and_compared(tmp_path):
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    evaluated(whole)
    evaluated(part, "--workers", 2, "--keep", 0)  # two of its processes end episodes in any order
    journal = part.with_suffix(".jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == COUNT + 1
    journal.write_bytes(b"".join(lines[:12]) + b'{"grid": "Quar')
    evaluated(part, "--resume", "--keep", 0)
    first, second = (json.loads(path.read_text()) for path in (whole, part))
    for key in ("rows", "summary", "images", "columns"):
        assert first[key] == second[key]
    other = run("eval", "--env", QUARTER, "--policy", "custom_env:guess", "--episodes", 3, "--output", part, "--resume")
    assert other.returncode == 1
    assert "other settings" in other.stderr
    taught = tmp_path / "taught.json"
    evaluated(taught, policy="custom_env:Teacher")
    compared = run("compare", whole, taught, "--output", tmp_path / "compared.json")
    assert compared.returncode == 0, compared.stderr
    columns = json.loads((tmp_path / "compared.json").read_text())["QuarterEnv"]
    assert list(columns) == ["bottom", "top", "avg"]
    right = sum(row[6] for row in first["rows"])
    assert columns["avg"]["acc"]["second"] == 1
    assert columns["avg"]["only_second"] == COUNT - right


@pytest.mark.slow
def test_its_episodes_are_viewed_exported_and_planned(tmp_path):
    output = tmp_path / "guess.json"
    evaluated(output)
    for words in (("view", output), ("view", output, "--gif")):
        result = run(*words)
        assert result.returncode == 0, result.stderr
    page = (tmp_path / "guess-transcripts" / "page.html").read_text()
    assert '"grid":"QuarterEnv","level":"bottom"' in page
    assert (tmp_path / "guess-transcripts" / "QuarterEnv-0.gif").stat().st_size > 5000
    for layout in ("sharegpt", "trl", "verl"):
        result = run("export", output, "--to", layout, "--output", tmp_path / layout)
        assert result.returncode == 0, result.stderr
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "verl" / "train.parquet")
    assert set(table.column("data_source").to_pylist()) == {"QuarterEnv"}


def test_a_page_of_it_has_no_boards(tmp_path, example):
    (episode,) = play(example.QuarterEnv, 1)
    row = index_row(episode)
    assert (row["grid"], row["level"]) == ("QuarterEnv", episode.task["label"])


def play(make, count, policy="custom_env:Teacher", **options):
    specs = [EpisodeSpec("env", seed=seed) for seed in range(count)]
    episodes = play_episodes(make_policy(policy, **options), specs, {"env": make}, batch=2)
    return [transcript for _, transcript in episodes]


@pytest.mark.slow
def test_a_cold_start_needs_a_teacher_and_keeps_what_it_solves(tmp_path, example):
    result = run("coldstart", "--env", QUARTER, "--teacher", "custom_env:Teacher", "--count", 12, "--output", tmp_path)
    assert result.returncode == 0, result.stderr
    episodes = list(read_transcripts(tmp_path))
    assert len(episodes) == 12
    assert all(episode.solved and episode.policy == "custom_env:Teacher" for episode in episodes)
    with pytest.raises(
        ConfigurationError, match=r"expert plays the jigsaw only: give a teacher .* custom_env:QuarterEnv"
    ):
        ColdStartConfig(env=QUARTER)
    config = ColdStartConfig(env=QUARTER, teacher="custom_env:guess", count=6, max_attempts=60)
    report = make_cold_start(tmp_path / "guess", config)
    assert report.complete
    assert report.rejected["unsolved"] > 0


class Counting(gymnasium.Env):
    """A count-down: nothing but what the contract asks for, and rewards on the way."""

    observation_space = gymnasium.spaces.Dict({})
    action_space = gymnasium.spaces.Text(9)

    def __init__(self, turns=3, **info):
        self.turns, self.more = turns, info

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = self.turns
        return self._observe("Count."), {"images": ()}

    def step(self, action):
        self.left -= 1
        return self._observe("On."), 0.5, self.left == 0, False, {"images": (), **self.more}

    def _observe(self, text):
        return {"text": text, "image": np.zeros((4, 4, 3), np.uint8), "image_size": np.zeros(2, np.int64)}


def recorded(env):
    recorder = EpisodeRecorder(env)
    recorder.reset(seed=5)
    while not recorder.done:
        recorder.step("1")
    return recorder.finish("counter")


def test_a_record_has_defaults_for_all_that_an_environment_does_not_tell(tmp_path):
    transcript = recorded(Counting())
    assert transcript.id == "Counting-5"
    assert {key: transcript.task[key] for key in ("env", "label", "seed")} == {
        "env": "Counting",
        "label": "",
        "seed": 5,
    }
    assert [turn.reward["total"] for turn in transcript.turns] == [0.5, 0.5, 0.5]
    assert transcript.reward == {"accuracy": 0.0, "format": 1.0, "step": 0.0, "score": 0.0, "total": 1.5}
    assert (transcript.solved, transcript.score, transcript.solution) == (False, 0.0, ())
    assert [(turn.primitives, turn.error, turn.state) for turn in transcript.turns] == [((), None, ())] * 3
    with TranscriptWriter(tmp_path / "run") as writer:
        writer.append(transcript)
    (back,) = read_transcripts(tmp_path / "run")
    assert (back.task, back.reward) == (transcript.task, transcript.reward)


def test_parts_of_a_reward_that_are_given_are_kept():
    transcript = recorded(Counting(solved=True, score=0.75, reward={"total": 1.5, "step": -0.1}))
    assert transcript.reward == {"accuracy": 1.0, "format": 1.0, "step": -0.1, "score": 0.75, "total": 1.5}
    whole = {"accuracy": 0.0, "format": 0.0, "step": 0.0, "score": 0.5, "total": 2.0}
    assert complete_reward({"reward": whole, "solved": True}, 9, over=True) is whole
    assert complete_reward(make_info((), turn=1), 0.25, over=False)["total"] == 0.25


def test_an_environment_may_describe_itself_for_the_record():
    class Described(Counting):
        def describe_episode(self):
            return EpisodeDescription({"start": self.turns}, "three", ["0"])

        def describe_state(self):
            return [self.left]

    transcript = recorded(Described())
    assert (transcript.task["label"], transcript.task["start"], transcript.task["seed"]) == ("three", 3, 5)
    assert transcript.solution == ("0",)
    assert [turn.state for turn in transcript.turns] == [(2,), (1,), (0,)]


def test_turns_that_do_not_keep_the_contract_are_told():
    env = Counting()
    env.step = lambda action: ({"text": "x"}, 0.0, False, False, {})
    recorder = EpisodeRecorder(env)
    recorder.reset(seed=0)
    with pytest.raises(
        ConfigurationError, match=r"Counting does not keep the contract: the result of step\(\) .* no 'images'"
    ):
        recorder.step("1")


def test_a_variant_of_the_jigsaw_is_evaluated_by_its_id():
    entry = EnvironmentEntry("JigsawVisionTools-v0", 12)
    plan = EvaluationPlan("edge", [entry], options={"image_size": 128, "level": "all"})
    columns = summarize(evaluate(make_policy("edge"), plan))["JigsawVisionTools-v0"]
    assert columns["avg"]["acc"]["value"] == 1
    assert list(columns) == ["2x2-L0", "2x2-L1", "2x2-L2", "avg"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", "nowhere:Env"], "the module 'nowhere' raised ModuleNotFoundError"),
        (["--env", "custom_env:QuaterEnv"], "no class 'QuaterEnv'. Did you mean 'QuarterEnv'?"),
        (["--env", "custom_env:NAMES"], "no class 'NAMES'."),
        (["--env", "JigsawVison-v0"], "no environment 'JigsawVison-v0'. Did you mean 'JigsawVision-v0'?"),
        (["--env", "CartPole-v1"], "CartPole-v1 does not keep the contract: the observation of reset() must be a dict"),
        (["--env", "JigsawVisionDiscrete-v0"], "JigsawVisionDiscrete-v0 does not keep the contract"),
        (["--env", "json:JSONDecoder"], "makes a JSONDecoder, which is no gymnasium.Env"),
        (["--env", QUARTER, "--option", "sice=3"], "unexpected keyword argument 'sice'. Did you mean 'size'?"),
        (["--env", QUARTER, "--option", "size=big"], "cannot be made with {'size': 'big'}: TypeError"),
        (["--env", QUARTER, "--option", "size=3"], "does not keep the contract"),
        (["--env", QUARTER, "--images", "photos"], "unexpected keyword argument 'images'"),
        (["--env", QUARTER, "--grid", "2"], "--grid is of the jigsaw; give the options of custom_env:QuarterEnv with"),
        (["--env", QUARTER, "--suite", "quick"], "--suite is of the jigsaw"),
        (["--env", QUARTER, "--levels", "0"], "--levels is of the jigsaw"),
        (["--env", QUARTER, "--episodes", "0"], "episodes=0 of the environment custom_env:QuarterEnv is not allowed"),
        (["--env", QUARTER, "--training-images", "x"], "--training-images compares photographs of the jigsaw"),
        (["--env", QUARTER], "EdgePolicy plays the jigsaw only; give another environment a policy of its own"),
        (["--env", QUARTER, "--policy", "random"], "RandomPolicy plays the jigsaw and VisualQA only"),
        (["--env", QUARTER, "--policy", "oracle"], "OraclePolicy plays the jigsaw and VisualQA only"),
    ],
)
def test_mistakes_are_told_in_a_line(words, message, tmp_path, capsys, monkeypatch):
    from agile_gym.cli import main

    monkeypatch.chdir(EXAMPLES)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    assert main(["eval", *words, "--output", str(tmp_path / "r.json")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("agile-gym: ") or "kept; add --resume" in last
    assert message in last


@pytest.mark.parametrize(
    "code", ["x = 1 / 0", "def broken(:", "import nothing_of_that_name", "raise SystemError('no')"]
)
def test_a_module_that_cannot_be_imported(code, tmp_path, monkeypatch):
    (tmp_path / "my_module_of_an_env.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_module_of_an_env", raising=False)
    with pytest.raises(ConfigurationError, match="'my_module_of_an_env:Env' cannot be loaded: the module"):
        find_env("my_module_of_an_env:Env")


def test_names_of_environments_can_be_ids():
    assert env_name("a.b:Env") == "Env"
    assert env_name("space/Env-v0") == "space-Env-v0"
    assert env_name(gymnasium.make("CartPole-v1")) == "CartPole-v1"
    assert env_name("module:Ünv") == "-nv"
    assert isinstance(make_env("gymnasium:CartPole-v1", {}), gymnasium.Env)
    with pytest.raises(ConfigurationError, match="one entry, its own"):
        EvaluationPlan("x", [EnvironmentEntry("a:A"), EnvironmentEntry("b:B")])


def giving_up(observation):
    """Give up what is at the top, and answer the rest after a turn that is lost."""
    return GivenUp("refused", "no such picture") if observation["text"].startswith("There") else "well"


def test_an_episode_that_is_given_up_ends_unsolved(tmp_path, example):
    class PaidEnv(example.QuarterEnv):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, reward + 0.25, *rest

    class EndableEnv(PaidEnv):
        def give_up(self):
            return {"total": -0.5, "step": -0.5}

    for make, total, step in ((PaidEnv, 0.25, 0.0), (EndableEnv, -0.5, -0.5)):
        (played,) = play_episodes(as_policy(giving_up), [EpisodeSpec("env", 3)], {"env": make})
        _, transcript = played
        assert [turn.error for turn in transcript.turns] == ["no_answer", "refused"]
        assert (transcript.solved, transcript.score, transcript.truncated) == (False, 0.0, False)
        assert transcript.details["given_up"] == {"kind": "refused", "reason": "no such picture"}
        parts = {"accuracy": 0.0, "format": 0.0, "step": step, "score": 0.0, "total": total}
        assert transcript.reward == parts
        assert transcript.turns[1].reward["total"] == (total if step else 0.0)
        with TranscriptWriter(tmp_path / make.__name__) as writer:
            writer.append(transcript)
        assert next(iter(read_transcripts(tmp_path / make.__name__))).reward == parts


def test_results_tell_which_episodes_were_given_up(tmp_path, example):
    plan = EvaluationPlan("p", [EnvironmentEntry(QUARTER, 6)])

    def some(observation):
        if observation["image"][0, 0, 0] % 2:
            return GivenUp("refused", "odd")
        return example.guess(observation)

    results = evaluate(as_policy(some), plan)
    odd = {}
    for task in plan.tasks():
        observation, _ = example.QuarterEnv().reset(seed=task.seed)
        odd[task.episode] = bool(observation["image"][0, 0, 0] % 2)
    assert 0 < sum(odd.values()) < 6
    assert {result.episode: result.given_up == "refused" for result in results} == odd
    assert {result.episode: result.errors == {"refused": 1} for result in results} == odd
    assert all(EpisodeResult.from_json(json.loads(json.dumps(result.to_json()))) == result for result in results)
    with pytest.raises(AgileGymError, match=r"gave up each of the first 6 episodes .* The last reason: always"):
        evaluate(as_policy(lambda _: GivenUp("refused", "always")), plan)
