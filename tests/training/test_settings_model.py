"""The settings as one typed model: Python, TOML and the command line, copies, and the page that lists them."""

import copy
import datetime
import pickle
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ray")
pytest.importorskip("torch")


from agile_gym.cli import main
from agile_gym.errors import ConfigurationError
from agile_gym.training import tasks
from agile_gym.training.settings import SECTIONS, RunSettings, read_settings, section_class
from agile_gym.training.texts import preset_names, preset_text, reference

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
    assert len(str(caught.value)) < 900


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


def test_another_teacher_does_not_get_the_options_of_the_former_one():
    tiny = read_settings("tiny")
    assert tiny.cold_start.given()["teacher_options"]["moves"] == "single"
    other = tiny.changed({"cold_start.teacher": "oracle"})
    assert "teacher_options" not in other.cold_start.given()
    both = tiny.changed({"cold_start.teacher": "oracle", "cold_start.teacher_options": {"think": ""}})
    assert both.cold_start.given()["teacher_options"] == {"think": ""}
    assert tiny.changed({"cold_start.teacher": "expert"}).cold_start.given()["teacher_options"]["moves"] == "single"


def test_a_cold_start_of_any_permutation_where_the_environment_has_a_level():
    settings = read_settings("tiny", {"environment.level": 1, "cold_start.level": "none"})
    assert tasks.cold_start_config(settings).level is None
    assert tasks.cold_start_config(read_settings("tiny", {"environment.level": 1})).level == 1


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
    presets = re.findall(r"`(\w+)`", next(line for line in page.splitlines() if line.startswith("| Key ")))
    assert sorted(presets) == ["agile_3b_lora", "agile_7b", "qwen3_vl", "tiny", "tiny_3x3", "tiny_crops"]
    for section, text in parts.items():
        rows = [re.split(r" ?(?<!\\)\| ?", line)[1:-1] for line in text.splitlines() if line.startswith("| `")]
        assert [row[0] for row in rows] == [f"`{key}`" for key in section_class(section).model_fields]
        for key, kind, _, *cells, meaning in rows:
            assert kind, key
            assert len(meaning.split()) >= 3, key
            assert meaning.endswith("."), key
            assert "``" not in meaning
            for name, cell in zip(presets, cells, strict=True):
                preset = tomllib.loads(preset_text(name)).get(section, {})
                default = section_class(section).model_fields[key.strip("`")].default
                shown = tomllib.loads(f"shown = {cell.strip('`')}")["shown"] if cell else default
                assert shown == preset.get(key.strip("`"), default), key


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"resources": {"runners": -1}},
            "[resources] runners = -1 is not allowed; give a whole number from 0 to 10,000.",
        ),
        ({"grpo": {"lr": "x"}}, "[grpo] lr = 'x' is not allowed; give a number."),
        ({"checkpoints": {"evry": 1}}, "[checkpoints] has no key 'evry'. Did you mean 'every'?"),
        ({"seed": -1}, "seed=-1 is not a seed; give a whole number of at least 0, up to 2,147,483,647."),
        ({"seeds": 1}, "there is no section 'seeds'. Did you mean 'seed'?"),
        ({"grpo": 3}, "grpo = 3 must be a section, [grpo]."),
        ([1], "settings must be a mapping of sections, such as {'grpo': {'lr': 1e-5}}."),
    ],
)
def test_a_bad_value_from_python_is_one_line_that_names_it(values, message):
    with pytest.raises(ConfigurationError) as error:
        RunSettings.model_validate(values)
    assert str(error.value) == message
    assert RunSettings.model_validate({"seed": 3, "grpo": {"lr": 0.5}}) == RunSettings(seed=3, grpo={"lr": 0.5})
