"""Every setting of a training run is checked before its first stage, and the message is one line that helps."""

import copy
import datetime
import pickle
import re
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ray")
pytest.importorskip("torch")

import ray
import torch

from agile_gym.cli import main
from agile_gym.coldstart import ColdStartConfig
from agile_gym.errors import AgileGymError, ConfigurationError, ModelError
from agile_gym.evaluation import EvaluationPlan
from agile_gym.learner import GRPOConfig
from agile_gym.learner.options import ModelOptions
from agile_gym.models.tiny import build_tiny
from agile_gym.models.tiny.pretraining import EyesConfig
from agile_gym.training import checking as cluster
from agile_gym.training import stages
from agile_gym.training.checking import check_settings
from agile_gym.training.settings import SECTIONS, RunSettings, read_settings, section_class
from agile_gym.training.texts import preset_names, preset_text, reference

NAN, INF, HUGE = float("nan"), float("inf"), 10**30
BAD = ["x", "", -1, 0, 1.5, True, NAN, INF, -INF, HUGE, 1e300, [], [[]], [2, 3], ["x"], {}, {"a": 1}]
ALLOWED = {
    "environment": {
        "erode": [0], "gap": [0], "grid": [[2, 3]], "labels": [True], "level": [0], "reference_image": [True],
        "reward": [{}], "rotations": [True],
    },
    "model": {
        "freeze": [[]], "gradient_checkpointing": [True], "lora_alpha": [1.5], "lora_dropout": [0],
        "lora_targets": [["x"]],  # without an adapter
        "system": ["x", ""],
    },
    "eyes": {
        "few": [0], "lr": [1.5], "matching_lr": [1.5], "matching_steps": [0], "matching_weight": [0, 1.5],
        "steps": [0], "thought": [0], "turns": [[2, 3]], "vision_lr": [1.5], "warmup": [0], "weight_decay": [0, 1.5],
    },
    "cold_start": {
        "allow_errors": [True], "count": [0], "distinct_texts": [True], "grid": [[2, 3]], "level": [0],
        "teacher_options": [{}], "turns": [[2, 3]],
    },
    "sft": {
        "epochs": [1.5], "freeze": [[]], "lr_warmup_share": [0], "replay_size": [0], "skip_mistakes": [True],
    },
    "grpo": {
        "clip_high": [0, 1.5], "clip_low": [0], "curriculum": [True], "drop_constant_groups": [True],
        "entropy_weight": [0, 1.5], "iterations": [0], "kl_weight": [0, 1.5], "leave_one_out": [True],
        "mask_truncated": [True], "resample_rounds": [0], "tasks": [[]],
    },
    "evaluation": {"interval": [0], "seed": [0]},
    "resources": {
        "cpus_per_learner": [0], "cpus_per_runner": [0], "gpus_per_learner": [0], "gpus_per_runner": [0],
        "learners": [0], "runners": [0],
    },
}  # fmt: skip
"""What of `BAD` is allowed after all, by the documentation of each setting."""
OF_BOTH = {
    "check_resources": [True], "grad_clip": [1.5, HUGE], "learner_snapshots": [True], "lr": [1.5], "lr_lowest": [0],
    "lr_warmup_steps": [0], "reuse_cache": [True], "temperature": [1.5], "weight_decay": [0, 1.5],
}  # fmt: skip
"""The same, of the settings that supervised training and GRPO share."""


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def refusal(**changes):
    """Return the message of a mistake in a preset's settings, or None."""
    message = None
    try:
        check_settings(read_settings("tiny", {key.replace("__", "."): value for key, value in changes.items()}))
    except AgileGymError as error:
        message = str(error)
    assert message is None or (len(message.splitlines()) == 1 and len(message) < 700)
    return message


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_of_every_section(section):
    allowed = (OF_BOTH if section in ("sft", "grpo") else {}) | ALLOWED.get(section, {})
    keys = section_class(section).model_fields
    assert allowed.keys() <= keys.keys()
    for key in sorted(keys):
        for value in BAD:
            if (key, value) in (("path", "x"), ("address", "x")):  # asked for elsewhere
                continue
            message = refusal(**{f"{section}__{key}": value})
            fine = any(value == good and type(value) is type(good) for good in allowed.get(key, ()))
            assert (message is None) == fine, (key, value, message)
            assert fine or (message.startswith(f"[{section}] ") and key in message), (key, value, message)
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"grpo__lr": "abc"}, "[grpo] lr = 'abc' is not allowed; give a number."),
        ({"grpo__adam_betas": [2, 3]}, "[grpo] adam_betas = [2, 3] is not allowed; give two numbers from 0, below 1."),
        ({"grpo__adam_betas": [0.9]}, "give a list of 2: a number, a number."),
        ({"grpo__tasks": 3}, "[grpo] tasks = 3 is not allowed; give a list"),
        ({"grpo__tasks": [{"grid": "9x9x9"}]}, "[grpo] tasks: grid = '9x9x9' is not a grid"),
        ({"grpo__tasks": [{"grid": "2x2", "level": 3}]}, "[grpo] tasks: level = 3 does not exist for 4 pieces"),
        ({"grpo__tasks": [{"weight": NAN}]}, "[grpo] tasks: weight=nan"),
        ({"grpo__loss": "sft"}, "[grpo] loss = 'sft' is not allowed."),
        ({"grpo__clip_low": 1.5}, "[grpo] clip_low = 1.5 is not allowed; give a number from 0 to 1"),
        ({"grpo__max_new_tokens": 10**8}, "[grpo] max_new_tokens = 100000000"),
        ({"grpo__reward_fn": "x"}, "which only Python code can give"),
        ({"model__path": 3}, "[model] path = 3 is not allowed; give a text."),
        ({"model__attention": "flash"}, "[model] attention = 'flash' is not allowed. Allowed: 'eager'"),
        ({"model__attention": "flash_attention_2"}, "needs the package 'flash_attn'"),
        ({"model__lora_targets": []}, "[model] lora_targets = []"),
        (
            {"model__train": "lora", "model__lora_targets": ["nothing"]},
            "[model] lora_targets = ('nothing',): the model has no such layers.",
        ),
        ({"resources__cpus_per_runner": "x"}, "[resources] cpus_per_runner = 'x' is not allowed; give a number."),
        ({"resources__cpus_per_runner": -1}, "[resources] cpus_per_runner = -1"),
        ({"resources__cpus_per_learner": 1.5}, "a part from 0 to 1, or a whole number"),
        ({"resources__gpus_per_learner": 2}, "a process uses one GPU at most"),
        ({"sft__epochs": 0}, "[sft] epochs = 0 is not allowed; give a number above 0, up to 1,000,000."),
        ({"sft__freeze": ["eyes"]}, "[sft] freeze = 'eyes' is not allowed."),
        ({"sft__replay_count": 10**7}, "[sft] replay_count = 10000000 is not allowed; give at least 1, up to"),
        ({"eyes__grids": [[6, 6]]}, "[eyes] grids = ((6, 6),) is not allowed; give grids of 2 to 26 pieces"),
        ({"cold_start__teacher": "experrt"}, "[cold_start] teacher = 'experrt': There is no policy"),
        ({"cold_start__teacher": "hf:/nowhere"}, "There is no model at '/nowhere'"),
        ({"cold_start__teacher_options": {"mistakes": 3}}, "mistakes = 3 is not allowed; give a share from 0 to 1."),
        ({"cold_start__episodes": "/nowhere"}, "[cold_start] episodes = '/nowhere' is not allowed; give a folder"),
        ({"evaluation__workers": 1000}, "[evaluation] workers = 1000 is not allowed; give a whole number from"),
        ({"images__test": "/nowhere"}, "[images] test = '/nowhere' is neither a folder"),
        ({"environment__test_fraction": 2}, "[environment] test_fraction = 2"),
        ({"seed": 99999999999}, "seed=99999999999 is not a seed; give a whole number of at least 0, up to"),
    ],
)  # fmt: skip
def test_messages_name_the_setting_and_what_is_allowed(changes, expected):
    assert expected in refusal(**changes)


def test_a_check_takes_no_time():
    settings = read_settings("tiny")
    check_settings(settings)
    begun = time.process_time()
    for _ in range(5):
        check_settings(settings)
    assert (time.process_time() - begun) / 5 < 0.05


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "grpo.adam_betas=[2,3]"], "[grpo] adam_betas = [2, 3]"),
        (["--set", "resources.cpus_per_runner=x", "--dry-run"], "[resources] cpus_per_runner = 'x'"),
        (["--set", "sft.epochs=0", "--dry-run"], "[sft] epochs = 0"),
        (["--set", "grpo.lr=1e-3", "--set", "grpo.lr=1e-4"], "grpo.lr is given twice"),
        (["--seed", "1", "--set", "seed=2"], "--set seed sets --seed a second time"),
        (["--set", "grpo=3"], "grpo is a section; change its settings, as grpo.KEY"),
        (["--set", 'grpo={"lr": 1}'], "grpo is a section"),
        (["--set", "sed=3"], "Did you mean 'seed'?"),
        (["--set", ".lr=3"], "there is no section ''"),
        (["--set", "sft.kl_weight=1"], "[sft] has no key 'kl_weight'"),
        (["--preset", "."], "'.' is a folder"),
        (["--print", "."], "'.' is a folder"),
        (["--print", "tinny"], "Did you mean 'tiny'?"),
        (["--seed", "99999999999"], "of at least 0, up to 2,147,483,647"),
        (["--set", "resources.address=127.0.0.1"], "[resources] address = '127.0.0.1' is not the address"),
    ],
)
def test_the_command_says_it_in_one_line(tmp_path, capsys, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--output", "run", *words]) == 1
    errors = capsys.readouterr().err
    assert expected in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grpo = 3", "grpo = 3 must be a section, [grpo]"),
        ("[[grpo]]\nlr = 1", "must be a section"),
        ("[grpo]\nlr = 2020-01-01", "[grpo] lr = datetime.date(2020, 1, 1) is not allowed; give a number"),
        ("[model]\nfreeze = 'vision'", "[model] freeze = 'vision' is not allowed; give a list"),
        ("seed = '0'", "seed='0' is not a seed"),
        (f"seed = {'9' * 5000}", "this is not TOML"),
        (f"[grpo]\ntasks = {'[' * 5000}", "this is not TOML"),
        ("[grpo]\nlr = 1\nlr = 2", "this is not TOML"),
    ],
)
def test_files_of_wrong_types(tmp_path, text, expected):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        check_settings(read_settings(str(path)))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"resources__gpus_per_learner": 1}, r"\[resources\] gpus_per_learner = 1 with learners = 0: .*finds no GPU"),
        (
            {"resources__learners": 3, "resources__gpus_per_learner": 0.5},
            r"\[resources\] This needs 1.5 GPUs \(3 learners with 0.5\), and Ray has 0\..*gpus_per_learner",
        ),
        ({"resources__runners": 1, "resources__gpus_per_runner": 1}, "needs 1 GPUs .1 runner with 1., and Ray has 0"),
    ],
)  # fmt: skip
def test_gpus_that_are_not_there(changes, expected):
    assert re.search(expected, refusal(**changes))
    others_may_have_some = bool(changes.keys() & {"resources__learners", "resources__runners"})
    assert (refusal(**changes, grpo__check_resources=False) is None) == others_may_have_some


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "localhost:", "http://localhost:6379", "a b:3", "127.0.0.1:99999", "[::1", "ray://h:10001"]
)
def test_addresses_that_are_none(address):
    message = refusal(resources__address=address)
    assert f"[resources] address = {address!r}" in message
    assert "HOST:PORT" in message


def test_an_address_where_nothing_listens(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    begun = time.perf_counter()
    assert f"[resources] address = {address!r}: nothing listens there" in refusal(resources__address=address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert f"RAY_ADDRESS={address!r} (in the environment): nothing listens there" in refusal()
    assert "nothing listens there (" in refusal(resources__address="no-such-host.invalid:6379")
    assert time.perf_counter() - begun < 10
    assert not ray.is_initialized()


def test_a_server_that_is_not_rays(monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.perf_counter()
        message = refusal(resources__address=f"127.0.0.1:{silent.getsockname()[1]}")
        assert "there is no Ray cluster that answers within 3 seconds" in message
        assert time.perf_counter() - begun < 20


@pytest.mark.parametrize(
    ("loss", "low", "high"), [("grpo", 0.2, 0.2), ("dr_grpo", 0.2, 0.2), ("dapo", 0.2, 0.28), ("gspo", 3e-4, 4e-4)]
)
def test_a_loss_clips_as_it_does_unless_told(loss, low, high, tmp_path):
    settings = read_settings("tiny", {"grpo.loss": loss})
    config = stages.grpo_config(settings, "tiny")
    assert (config.loss_arguments()["clip_low"], config.loss_arguments()["clip_high"]) == (low, high)
    text = settings.to_toml(stages.unset_values(settings))
    assert f"\n# clip_low = {low}\n" in text
    assert f"\n# clip_high = {high}\n" in text
    (tmp_path / "copy.toml").write_text(text)
    assert read_settings(str(tmp_path / "copy.toml")) == settings  # and no clip range is taken to another loss
    told = stages.grpo_config(read_settings("tiny", {"grpo.loss": loss, "grpo.clip_high": 0.5}), "tiny")
    assert (told.loss_arguments()["clip_low"], told.loss_arguments()["clip_high"]) == (low, 0.5)


def test_the_plan_tells_the_clip_range():
    from agile_gym.training.dry_run import describe_run

    lines = describe_run(read_settings("tiny", {"grpo.loss": "gspo"}), measure=False)
    assert "Loss        gspo, ratios clipped at 0.9997 and 1.0004 (clip_low = 0.0003, clip_high = 0.0004)" in lines


def test_what_is_not_set_is_written_as_it_is_used():
    settings = read_settings("tiny", {"grpo.max_new_tokens": 7})
    unset = stages.unset_values(settings)
    assert unset["sft"]["max_new_tokens"] == 7  # as in GRPO
    assert unset["cold_start"]["grid"] == ("2x2",)
    assert unset["grpo"]["lr_total_steps"] == 25 * 2
    assert "lr" not in unset["grpo"]


def test_none_is_kept_where_it_is_not_the_default(tmp_path):
    changes = {"environment.level": None, "grpo.grad_clip": None, "sft.max_tokens": None, "grpo.window": None}
    settings = read_settings("tiny", changes)
    check_settings(settings)
    (tmp_path / "copy.toml").write_text(settings.to_toml())
    back = read_settings(str(tmp_path / "copy.toml"))
    assert stages.environment_options(back, test=False)["level"] is None
    assert stages.grpo_config(back, "tiny").grad_clip is None
    assert stages.sft_config(back, "tiny", tmp_path, 1, tmp_path).max_tokens is None


@pytest.mark.parametrize(
    "words",
    [
        ["play"], ["eval", "--policy", "random"], ["coldstart"], ["tiny", "model"], ["train"],
        ["train", "--dry-run"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", ["99999999999", "-1", str(2**31)])
def test_commands_tell_the_limits_of_seeds(tmp_path, capsys, monkeypatch, words, seed):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--seed", seed]) == 1
    errors = capsys.readouterr().err
    assert f"seed={seed} is not a seed; give a whole number of at least 0, up to 2,147,483,647" in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [99999999999, 2**31, -1, 1.5, True, "1", None, [1]])
def test_arguments_that_are_seeds(seed):
    makers = [
        lambda: EvaluationPlan("random", seed=seed),
        lambda: ColdStartConfig(seed=seed),
        lambda: EyesConfig(seed=seed),
        lambda: ModelOptions(seed=seed),
        lambda: build_tiny(seed),
    ]
    if seed is not None:  # which RLlib allows
        makers.append(lambda: GRPOConfig().debugging(seed=seed).check_values())
    for make in makers:
        with pytest.raises(ConfigurationError, match="seed="):
            make()


def test_the_largest_seed_is_one():
    settings = read_settings("tiny", {"seed": 2**31 - 1, "evaluation.seed": 2**31 - 1})
    check_settings(settings)
    assert 0 <= stages.replay_config(settings).seed < 1_000_003  # it begins anew


def test_options_of_the_commands_have_the_defaults_of_the_classes_behind_them():
    from agile_gym.cli import _parser
    from agile_gym.commands.coldstart import _config
    from agile_gym.commands.plan import NEW_TOKENS
    from agile_gym.evaluation.plan import DEFAULT_EPISODES
    from agile_gym.learner.sft import SFTConfig
    from agile_gym.models.sampling import SamplingOptions

    assert _config(_parser().parse_args(["coldstart"])) == ColdStartConfig()
    assert SamplingOptions().max_new_tokens == NEW_TOKENS == GRPOConfig().max_new_tokens
    empty = RunSettings()
    for config, fresh in (
        (stages.grpo_config(empty, "tiny"), GRPOConfig()),
        (stages.sft_config(empty, "tiny", "", 1, ""), SFTConfig()),
    ):
        for name in type(config).setting_types():
            if name not in ("lr_total_steps", "lr_warmup_steps"):  # which follow from the steps
                assert getattr(config, name) == getattr(fresh, name), name
    assert empty.evaluation.episodes == DEFAULT_EPISODES
    assert empty.evaluation.interval_episodes == GRPOConfig().evaluation_duration


def test_a_model_that_is_not_there_is_named():
    with pytest.raises(ModelError, match=r"^\[model\] path = '/nowhere/model': There is no model"):
        check_settings(read_settings("tiny", {"model.path": "/nowhere/model"}))


OTHER = {"id": "custom_env:QuarterEnv"}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | st.dates() | st.times() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(options=st.dictionaries(TEXTS.filter(lambda key: key != "id"), PLAIN, max_size=4), system=TEXTS)
def test_whatever_a_setting_holds_is_read_back_from_toml(options, system):
    settings = RunSettings(environment={**OTHER, **options}, model={"system": system})
    back = RunSettings.from_toml(settings.to_toml())
    assert back == settings
    assert back.environment.given() == options
    assert back.model.system == system


@pytest.mark.parametrize("text", ["\U0001f4f7 photos", "a\x7fb", "\u2028", 'a "b"\\', "\x00\t\r\n", "none"])
def test_texts_that_toml_writes_in_another_way_than_json(text):
    settings = RunSettings(images={"train": text}, environment={**OTHER, text: text})
    assert RunSettings.from_toml(settings.to_toml()).to_mapping() == settings.to_mapping()


def looped():
    loop = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"grpo": {"lr": 10**5000}}, "[grpo] lr: a whole number of 16,610 bits is not allowed"),
        ({"seed": -(10**5000)}, "seed: a whole number of 16,610 bits is not allowed"),
        ({"seed": None}, "seed=None is not a seed"),
        ({"grpo": {"tasks": looped()}}, "[grpo] tasks: lists and tables may be nested 16 deep"),
        ({"grpo": {"tasks": [{1: 2}]}}, "[grpo] tasks = [{1: 2}] is not allowed; give a list, each entry"),
        ({"grpo": {None: 1}}, "[grpo] has no key 'None'"),
        ({"grpo": None}, "grpo = None must be a section, [grpo]."),
        ({"grpo": {"lr": np.float32("nan")}}, "[grpo] lr = nan is not allowed; give a number."),
        ({"grpo": {"reward_fn": print}}, "[grpo] has no key 'reward_fn': it is a function, which only Python"),
        ({"model": {"freeze": {"vision"}}}, "[model] freeze = {'vision'} is not allowed; give a list"),
        ({"model": {"path": b"x"}}, "[model] path = b'x' is not allowed; give a text."),
        ({"model": {"seed": 1}}, "[model] has no key 'seed': it is that of the run; set seed."),
        ({"model": {"system": "\ud800"}}, "[model] system = '\\ud800' is not allowed; give a text of valid Unicode."),
        ({"images": {"train": datetime.date(2020, 1, 1)}}, "[images] train = datetime.date(2020, 1, 1)"),
        ({"images": {"train": ["a", 3]}}, "[images] train = ['a', 3] is not allowed; give a text or a list"),
        ({"environment": {"id": ["a"]}}, "[environment] id = ['a'] must be a text: 'module:Class', or an id."),
        ({"environment": {"dialect": print}}, "[environment] dialect = <built-in function print> is not allowed"),
        ({"environment": {**OTHER, "x": None}}, "[environment] x = None is not allowed; give what TOML can hold"),
        ({"environment": {**OTHER, "x": [{"y": None}]}}, "[environment] x = [{'y': None}] is not allowed"),
        ({"environment": {"split": "train"}}, "[environment] has no key 'split': it follows from train"),
        ({"cold_start": {"count": None}}, "[cold_start] count = None is not allowed; give a whole number."),
        ({"evaluation": {"workers": 1000}}, "[evaluation] workers = 1000 is not allowed; give a whole number from 1"),
        ({"checkpoints": {"every": "10"}}, "[checkpoints] every = '10' is not allowed; give a whole number."),
        ({"sft": {"epochs": True}}, "[sft] epochs = True is not allowed; give a number."),
        ({"model_config": {}}, "there is no section 'model_config'. Allowed: 'checkpoints'"),
        ({"self": 1}, "there is no section 'self'"),
    ],
)  # fmt: skip
def test_python_is_told_in_one_line(values, expected):
    with pytest.raises(ConfigurationError) as caught:
        RunSettings(**values)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "seed.x=3"], "there is no section 'seed'. Allowed: 'checkpoints'"),
        (["--set", "grpo.lr.x=1"], "[grpo] has no key 'lr.x'. Did you mean 'lr'?"),
        (["--set", 'grpo.lr={"x": {"y": [1]}}'], "[grpo] lr = {'x': {'y': [1]}} is not allowed; give a number."),
        (["--set", "grpo.l\u00f6ss=dapo"], "has no key 'l\u00f6ss'. Did you mean 'loss'?"),
        (["--set", f"grpo.tasks={'[' * 900}{']' * 900}"], "[grpo] tasks: lists and tables may be nested 16 deep"),
        (["--set", f"checkpoints.every={'9' * 400}"], "[checkpoints] every: a whole number of 1,329 bits"),
        (["--set", "model.freeze=vision"], "[model] freeze = 'vision' is not allowed; give a list"),
        (["--set", "evaluation.workers=true"], "[evaluation] workers = True is not allowed; give a whole number."),
        (["--set", "sft.epochs=-Infinity"], "[sft] epochs = -inf is not allowed; give a number."),
        (["--set", 'cold_start.teacher_options={"a": null}'], "teacher_options = {'a': None} is not allowed"),
        (["--set", "grpo.lr="], "[grpo] lr = '' is not allowed; give a number."),
        (
            ["--images", "photos\udcff"],
            "[images] train = 'photos\\udcff' is not allowed; give a text of valid Unicode.",
        ),
    ],
)
def test_the_command_line_is_told_in_one_line(capsys, words, expected):
    assert main(["train", "--dry-run", *words]) == 1
    errors = capsys.readouterr().err
    assert expected in errors
    assert errors.count("\n") == 1


def test_a_file_is_named_for_its_own_mistakes_only(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(f"seed = 0x{'f' * 5000}")
    with pytest.raises(ConfigurationError, match=rf"^{path}: seed: a whole number of 20,000 bits"):
        read_settings(path)
    path.write_text("\ufeffseed = 3\n", encoding="utf-8")
    assert read_settings(path).seed == 3
    with pytest.raises(ConfigurationError, match=r"^\[grpo\] has no key 'lrr'"):
        read_settings(path, {"grpo.lrr": 1})


def test_what_was_given_is_told_apart_from_defaults(tmp_path):
    settings = RunSettings(grpo={"lr": 2e-6}, model={"path": tmp_path, "freeze": ("vision",)})
    assert settings.grpo.lr == RunSettings().grpo.lr == 2e-6
    assert settings.grpo.model_fields_set == {"lr"}
    assert settings.model.explicit() == {"path": str(tmp_path), "freeze": ["vision"]}  # as TOML has it
    assert "\nlr = 2e-06\n" in settings.to_toml()
    assert "lr = " not in RunSettings().to_toml()
    assert settings.sft.max_new_tokens is None  # as in [grpo]
    asked = settings.changed({"sft.max_new_tokens": 512})
    assert asked != settings  # else GRPO's would be taken
    assert asked.sft.given() == {"max_new_tokens": 512}
    assert settings.changed({"sft.window": "none"}) != settings  # GRPO's window may be another
    assert RunSettings(**dict(settings)) == settings
    with pytest.raises(pydantic.ValidationError):
        settings.grpo.lr = 1.0


@pytest.mark.parametrize("name", preset_names())
def test_settings_are_copied_and_sent_to_other_processes(name):
    settings = read_settings(name)
    for other in (pickle.loads(pickle.dumps(settings)), copy.deepcopy(settings), settings.changed({})):
        assert other == settings
        assert other.explicit() == settings.explicit()
        assert type(other.grpo) is type(settings.grpo)


def test_none_is_written_where_it_is_not_the_default():
    found = set()
    for section in SECTIONS:
        kind = section_class(section)
        for key in kind.model_fields:
            try:
                settings = RunSettings(**{section: {key: "none"}})
            except ConfigurationError:
                continue
            if getattr(getattr(settings, section), key) is None:
                found.add(f"{section}.{key}")
                assert f'\n{key} = "none"\n' in settings.to_toml()
                assert RunSettings.from_toml(settings.to_toml()) == settings
    assert found == {
        "environment.level", "environment.crop", "cold_start.level", "sft.window", "sft.grad_clip",
        "sft.torch_threads_per_actor", "sft.max_tokens", "grpo.grad_clip", "grpo.torch_threads_per_actor",
    }  # fmt: skip


def test_a_cold_start_of_any_permutation_where_the_environment_has_a_level():
    settings = read_settings("tiny", {"environment.level": 1, "cold_start.level": "none"})
    assert stages.cold_start_config(settings).level is None
    assert stages.cold_start_config(read_settings("tiny", {"environment.level": 1})).level == 1


def test_the_model_of_the_settings_is_imported_without_torch_and_ray():
    code = "import sys, agile_gym.training.settings; print(*{'ray', 'torch', 'transformers'} & sys.modules.keys())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == ""


def test_the_page_of_settings_is_current():
    page = (Path(__file__).parents[2] / "docs/settings.md").read_text("utf-8")
    assert page == reference(), "write it anew: agile-gym train --list-settings > docs/settings.md"


def test_the_page_of_settings_has_every_key_with_a_meaning():
    page = (Path(__file__).parents[2] / "docs/settings.md").read_text("utf-8")
    parts = dict(re.findall(r"^## \[(\w+)\]\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    assert list(parts) == list(SECTIONS)
    for section, text in parts.items():
        rows = [re.split(r" ?(?<!\\)\| ?", line)[1:-1] for line in text.splitlines() if line.startswith("| `")]
        assert [row[0] for row in rows] == [f"`{key}`" for key in section_class(section).model_fields]
        for key, kind, _, tiny, agile, meaning in rows:
            assert kind, key
            assert len(meaning.split()) >= 3, key
            assert meaning.endswith("."), key
            assert "``" not in meaning
            for name, cell in (("tiny", tiny), ("agile_7b", agile)):
                preset = tomllib.loads(preset_text(name)).get(section, {})
                default = section_class(section).model_fields[key.strip("`")].default
                shown = tomllib.loads(f"shown = {cell.strip('`')}")["shown"] if cell else default
                assert shown == preset.get(key.strip("`"), default), key
