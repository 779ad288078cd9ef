"""Files of studies: what they may hold, and the errors for what they may not."""

import pytest

from agile_gym.errors import ConfigurationError
from agile_gym.studies.spec import SIZES, builtin_names, builtin_text, read_study

GOOD = """
title = "A study"
seeds = [0, 1]
[settings]
"grpo.iterations" = 3
[settings.evaluation]
episodes = 4
[factors.lr]
setting = "grpo.lr"
values = [1e-4, 0.001]
[factors.rest]
stage = "grpo"
[factors.rest.values]
"no step" = { "environment.reward" = { step_weight = 0.0 } }
[[evaluations]]
grid = "2"
levels = 0
[[evaluations]]
name = "questions"
env = "some:Env"
options = { size = 64 }
"""


def read(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return read_study(str(path))


def test_a_file_is_read_as_it_stands(tmp_path):
    study = read(tmp_path, GOOD)
    assert (study.name, study.title, study.design, study.seeds) == ("mine", "A study", "one", (0, 1))
    assert study.settings == {"grpo.iterations": 3, "evaluation.episodes": 4}
    first, second = study.factors
    assert first.values == {"0.0001": {"grpo.lr": 1e-4}, "0.001": {"grpo.lr": 0.001}}
    assert second.values == {"no step": {"environment.reward": {"step_weight": 0.0}}}
    assert (first.stage, second.stage) == ("vision", "grpo")
    assert [(entry.name, entry.grid, entry.env) for entry in study.evaluations] == [
        ("2x2", "2x2", None),
        ("questions", None, "some:Env"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds =", "sedes =", r"mine\.toml: there is no key 'sedes'\. Did you mean 'seeds'"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "two seeds are called '0'"),
        ("seeds = [0, 1]", "seeds = []", "seeds"),
        ("seeds = [0, 1]", 'design = "each"', "design"),
        ("seeds = [0, 1]", "budget_hours = 0", "budget_hours"),
        ("values = [1e-4, 0.001]", "values = []", r"\[factors\.lr\] has no values, and so no arm"),
        ("values = [1e-4, 0.001]", "values = [0.001, 0.001]", "two values are called '0.001'"),
        ("values = [1e-4, 0.001]", 'values = ["No Step"]', "two arms are called 'no step'"),
        ("values = [1e-4, 0.001]", 'values = ["base"]', "two arms are called 'base'"),
        ("values = [1e-4, 0.001]", 'values = ["../x"]', "cannot be a name"),
        ('setting = "grpo.lr"', "", r"\[factors\.lr\] 0\.0001 = 0\.0001 is no table of settings"),
        ('stage = "grpo"', 'stage = "sft"', r"\[factors\.rest\] stage"),
        ('grid = "2"', 'grid = "77"', "grid"),
        ("levels = 0", "levels = 3", "level"),
        ("levels = 0", "episodes = 0", "episodes"),
        ("levels = 0", 'env = "a:B"', "give either grid"),
        ('grid = "2"', 'name = "questions"\ngrid = "2"', "two evaluations are called 'questions'"),
        ("[settings.evaluation]\nepisodes = 4", '"grpo" = { iterations = 4 }', "grpo.iterations is set twice"),
        ('title = "A study"', "title = 3", "title = 3 must be of the type text"),
        ('title = "A study"', "title = ", "this is not TOML"),
    ],
)
def test_a_mistake_has_its_own_error(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(ConfigurationError, match=message):
        read(tmp_path, GOOD.replace(old, new, 1))


def test_a_study_without_factors_has_no_arm(tmp_path):
    with pytest.raises(ConfigurationError, match="there is no factor, and so no arm"):
        read(tmp_path, 'title = "x"')


def test_a_study_without_evaluations_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="there is no evaluation"):
        read(tmp_path, '[factors.a]\nsetting = "grpo.lr"\nvalues = [1]')


def test_an_unknown_name_is_an_error_with_a_hint(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no study 'scalings'\. Did you mean 'scaling'"):
        read_study("scalings")
    with pytest.raises(ConfigurationError, match="There is no file"):
        read_study(str(tmp_path / "none.toml"))
    with pytest.raises(ConfigurationError, match="--size"):
        builtin_text("scaling", "huge")


def test_the_studies_of_the_package_are_those_of_the_paper_in_two_sizes():
    assert builtin_names() == ["ablations", "difficulty", "mix", "scaling"]
    for name in builtin_names():
        for size in SIZES:
            assert read_study(name, size).factors
    assert read_study("ablations").paper == {
        "base": 65.2,
        "step weight 0.5": 64.8,
        "step weight 0": 64.4,
        "alpha 0.9 beta 0.1": 64.9,
        "no cold start": 63.9,
        "no crop and zoom": 63.5,
        "cold start only": 63.1,
        "3x3 added": 65.6,
    }
    assert list(read_study("scaling").factors[0].values) == ["0", "8", "35", "140"]
    assert read_study("scaling", "paper").paper == {"0": 22.0, "16K": 82.8}
    assert read_study("mix").paper == {
        "questions": 64.7,
        "half questions half jigsaws": 65.5,
        "jigsaws": 64.9,
        "cold start only": 63.1,
    }
