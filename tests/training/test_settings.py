"""Every setting of a training run is checked before its first stage, and the message is one line that helps."""

import json
import re
import socket
import time
from importlib.util import find_spec

import pytest

pytest.importorskip("ray")
pytest.importorskip("torch")

import ray
import torch

from agile_gym.cli import main
from agile_gym.coldstart import ColdStartConfig
from agile_gym.errors import AgileGymError, ConfigurationError, MissingDependencyError, ModelError
from agile_gym.evaluation import EvaluationPlan
from agile_gym.learner import GRPOConfig
from agile_gym.learner.options import ModelOptions
from agile_gym.models.tiny import build_tiny, save_tiny
from agile_gym.models.tiny.pretraining import VisionPretrainingConfig
from agile_gym.training import checking as cluster
from agile_gym.training import stages, tasks
from agile_gym.training.checking import _check_tokens, check_settings
from agile_gym.training.settings import SECTIONS, RunSettings, read_settings, section_class

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
    "vision": {
        "exchanged": [0], "few": [0], "held_out": [0], "hidden": [0], "lr": [1.5], "pieces": [0], "places": [0],
        "seams": [0], "warmup": [0], "weight_decay": [0, 1.5],
    },
    "cold_start": {
        "allow_errors": [True], "count": [0], "distinct_texts": [True], "grid": [[2, 3]], "level": [0],
        "tasks": [{}], "teacher_options": [{}], "turns": [[2, 3]],
    },
    "sft": {
        "epochs": [1.5], "freeze": [[]], "lr_warmup_ratio": [0], "replay_size": [0], "skip_mistakes": [True],
    },
    "grpo": {
        "clip_high": [0, 1.5], "clip_low": [0], "curriculum": [True], "filter_zero_variance_groups": [True],
        "entropy_coef": [0, 1.5], "iterations": [0], "kl_coef": [0, 1.5], "leave_one_out": [True],
        "mask_truncated": [True], "max_lag": [0], "mismatch_cap": [1.5], "resample_rounds": [0], "tasks": [[]],
        "turn_discount": [0],
    },
    "evaluation": {
        "benchmarks": [[]], "benchmark_questions": [0], "blank_looks": [True], "interval": [0],
        "seed": [0],
    },
    "resources": {
        "cpus_per_learner": [0], "cpus_per_runner": [0], "gpus_per_learner": [0], "gpus_per_runner": [0],
        "gpu_memory": [1.5],
        "learners": [0], "runners": [0],
    },
}  # fmt: skip
"""Values of `BAD` that the documentation of each setting allows."""
OF_BOTH = {
    "check_resources": [True], "engine_options": [{}],
    "grad_clip": [1.5, HUGE], "learner_snapshots": [True], "lr": [1.5], "min_lr_ratio": [0],
    "lr_warmup_steps": [0], "reuse_cache": [True], "temperature": [1.5], "weight_decay": [0, 1.5],
}  # fmt: skip
"""The same, of the settings that supervised training and GRPO share."""


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


IN_PROCESS = {"resources.runners": 0, "resources.learners": 0}


def refusal(**changes):
    """Return the message of a mistake in a preset's settings, in one process, or None."""
    message = None
    try:
        check_settings(read_settings("tiny", IN_PROCESS | {key.replace("__", "."): v for key, v in changes.items()}))
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
        ({"resources__learners": 3, "resources__gpus_per_learner": 0.5}, "[resources] gpus_per_learner = 0.5 with"),
        ({"sft__epochs": 0}, "[sft] epochs = 0 is not allowed; give a number above 0, up to 1,000,000."),
        ({"sft__freeze": ["sight"]}, "[sft] freeze = 'sight' is not allowed."),
        ({"sft__replay_count": 10**7}, "[sft] replay_count = 10000000 is not allowed; give at least 1, up to"),
        ({"vision__grids": [[6, 6]]}, "[vision] grids = ((6, 6),) is not allowed; give grids of 2 to 26 pieces"),
        ({"cold_start__teacher": "experrt"}, "[cold_start] teacher = 'experrt': There is no policy"),
        ({"cold_start__teacher": "hf:/nowhere"}, "There is no model at '/nowhere'"),
        ({"cold_start__teacher_options": {"mistakes": 3}}, "mistakes = 3 is not allowed; give a fraction from 0 to 1."),
        ({"cold_start__episodes": "/nowhere"}, "[cold_start] episodes = '/nowhere' is not allowed; give a folder"),
        ({"evaluation__workers": 1000}, "[evaluation] workers = 1000 is not allowed; give a whole number from"),
        ({"evaluation__benchmarks": ["mmpv=x.tsv"]}, "[evaluation] There is no benchmark 'mmpv'. Did you mean 'mmvp'"),
        ({"evaluation__play_benchmarks": True}, "[evaluation] play_benchmarks = true plays nothing without files"),
        ({"evaluation__benchmarks": ["mmvp=/x.tsv"]}, "[evaluation] /x.tsv does not exist. Give a file of MMVP"),
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
        (["--set", "sft.kl_coef=1"], "[sft] has no key 'kl_coef'"),
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
            {"resources__learners": 3, "resources__gpus_per_learner": 0.75},
            r"\[resources\] This needs 2.25 GPUs \(3 learners with 0.75\), and Ray has 0\..*gpus_per_learner",
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
    settings = read_settings("tiny", {"grpo.max_new_tokens": 7, "grpo.iterations": 60})
    unset = stages.unset_values(settings)
    assert unset["sft"]["max_new_tokens"] == 7  # as in GRPO
    assert unset["cold_start"]["grid"] == ("2x2",)
    assert unset["grpo"]["lr_total_steps"] == 60 * 2
    assert "lr" not in unset["grpo"]


def test_none_is_kept_where_it_is_not_the_default(tmp_path):
    changes = {"environment.level": None, "grpo.grad_clip": None, "sft.max_tokens": None, "grpo.window": None}
    settings = read_settings("tiny", changes)
    check_settings(settings)
    (tmp_path / "copy.toml").write_text(settings.to_toml())
    back = read_settings(str(tmp_path / "copy.toml"))
    assert tasks.environment_options(back, test=False)["level"] is None
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
        lambda: VisionPretrainingConfig(seed=seed),
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
    from agile_gym.commands.bench import NEW_TOKENS
    from agile_gym.commands.train import _config
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


def test_looks_that_a_context_has_no_room_for(tmp_path):
    path = save_tiny(tmp_path / "tiny")
    config = json.loads((path / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 96
    (path / "config.json").write_text(json.dumps(config))
    settings = read_settings("tiny", {"model.path": str(path), "environment.max_turns": 4})
    check_settings(settings)
    long = settings.changed({"environment.max_turns": 12})
    with pytest.raises(ConfigurationError, match=r"its context of 96 tokens is too short for an episode of 12 turns"):
        check_settings(long)


def test_looks_that_the_engine_has_no_room_for(tmp_path):
    path = save_tiny(tmp_path / "tiny")
    settings = read_settings("tiny", {"model.path": str(path), "environment.max_turns": 12})
    check_settings(settings)
    short = settings.changed({"grpo.engine": "vllm", "grpo.engine_options": {"max_model_len": 96}})
    wanted = r"its context of 96 tokens \(max_model_len in \[grpo\] engine_options\) is too short"
    with pytest.raises(ConfigurationError, match=wanted):
        _check_tokens(short, stages.grpo_config(short, str(path)))


def test_an_engine_that_cannot_sleep_is_named_before_the_run():
    with pytest.raises(ConfigurationError, match=r"engine_sleep.*vLLM cannot sleep on a CPU"):
        check_settings(read_settings("tiny", {"grpo.engine": "vllm", "grpo.engine_sleep": True}))


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_an_engine_that_is_not_installed_is_named_before_the_run():
    with pytest.raises(MissingDependencyError, match=r"engine='vllm' needs.*agile-gym\[vllm\].*engine='hf'"):
        check_settings(read_settings("tiny", {"grpo.engine": "vllm"}))


def test_a_model_that_is_not_there_is_named():
    with pytest.raises(ModelError, match=r"^\[model\] path = '/nowhere/model': There is no model"):
        check_settings(read_settings("tiny", {"model.path": "/nowhere/model"}))
