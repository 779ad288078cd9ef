import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

import agile_gym.evaluation
from agile_gym.errors import ConfigurationError
from agile_gym.evaluation import EvaluationPlan, SuiteEntry, choose_entries, load_suite, suite_names

SUITES = Path(agile_gym.evaluation.__file__).parent / "suites"


def test_a_plan_has_every_level_and_fixed_seeds():
    plan = EvaluationPlan("edge", choose_entries([2, 3], episodes=3))
    tasks = list(plan.tasks())
    assert len(tasks) == len(plan) == (3 + 8) * 3
    assert len({task.seed for task in tasks}) == len(tasks)
    assert tasks == list(EvaluationPlan("random", choose_entries(["2x2", "3x3"], episodes=3)).tasks())
    fewer = list(EvaluationPlan("edge", [SuiteEntry("3x3", (2,), 2)]).tasks())
    assert set(fewer) <= set(tasks)  # a puzzle does not depend on what else is played
    other = EvaluationPlan("edge", choose_entries([2, 3], episodes=3), seed=1)
    assert not {task.seed for task in other.tasks()} & {task.seed for task in tasks}


@pytest.mark.slow
def test_the_puzzles_of_the_papers_suite_never_change():
    tasks = list(EvaluationPlan("edge").tasks())
    assert len(tasks) == 3300
    chosen = {task.name: task.seed for task in (tasks[0], tasks[1000], tasks[-1])}
    assert chosen == {"2x2-L0-0": 2133464877, "3x3-L0-100": 2806076453, "3x3-L7-299": 2347871557}
    suite = load_suite("paper")
    assert suite.entries == EvaluationPlan("edge").entries
    assert (suite.seed, suite.samples, suite.images, dict(suite.options)) == (0, 1, None, {})


def test_samples_share_the_puzzle_and_differ_in_the_policys_seed():
    plan = EvaluationPlan("x", [SuiteEntry("2x2", (0,), 5)], samples=3)
    tasks = list(plan.tasks())
    assert [task.key for task in tasks[:4]] == [("2x2", 0, 0, 0), ("2x2", 0, 0, 1), ("2x2", 0, 0, 2), ("2x2", 0, 1, 0)]
    assert [task.name for task in tasks[:2]] == ["2x2-L0-0", "2x2-L0-0-s1"]
    assert len({task.seed for task in tasks}) == 5
    assert len({task.policy_seed for task in tasks} | {task.seed for task in tasks}) == 20
    single = list(EvaluationPlan("x", [SuiteEntry("2x2", (0,), 5)]).tasks())
    assert single == tasks[::3]  # more samples leave the first as it was


@pytest.mark.parametrize(
    "entry",
    [
        {"grid": "1x1"},
        {"grid": "2x2", "levels": (3,)},
        {"grid": "2x2", "levels": ()},
        {"grid": "2x2", "levels": ("0",)},
        {"grid": "2x2", "levels": (True,)},
        {"grid": "2x2", "episodes": 0},
        {"grid": "2x2", "episodes": 2.5},
    ],
)
def test_bad_entries_are_refused(entry):
    with pytest.raises(ConfigurationError):
        SuiteEntry(**entry)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "up to 2,147,483,647"),
        ({"entries": ()}, "at least one grid"),
        ({"samples": 0}, "from 1 to 10,000"),
        ({"entries": (SuiteEntry("2x2"), SuiteEntry("2x2", (1,), 5))}, "2x2 L1: named more than once"),
        ({"options": {"grid": 3}}, "use grids"),
    ],
)
def test_bad_plans_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        EvaluationPlan("edge", **settings)


def test_levels_are_chosen_where_there_are_any():
    entries = choose_entries(["2x2", 3], (0, 5), 7)
    assert entries == (SuiteEntry("2x2", (0,), 7), SuiteEntry("3x3", (0, 5), 7))
    assert choose_entries(["2x2", "2", "3x3"], (7,)) == (SuiteEntry("3x3", (7,)),)
    with pytest.raises(ConfigurationError, match="Allowed: L0, L1, L2"):
        choose_entries([2], (5,))
    with pytest.raises(ConfigurationError, match="at least one grid"):
        choose_entries([])


def test_every_suite_of_the_package_can_be_read():
    assert suite_names() == ("large", "paper", "quick") == tuple(sorted(path.stem for path in SUITES.iterdir()))
    for name in suite_names():
        suite = load_suite(name)
        assert suite.summary
        assert len(EvaluationPlan("edge", suite.entries, options=suite.options)) > 50
    grids = [entry.grid for entry in load_suite("large").entries]
    assert grids == [f"{side}x{side}" for side in range(4, 11)]


def test_a_suite_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'summary = "Mine"\nseed = 7\nsamples = 2\nimages = "photos"\n[options]\nmax_turns = 8\nimage_size = [64, 96]\n'
        '[[puzzles]]\ngrid = 2\n[[puzzles]]\ngrid = "2x3"\nlevels = [0, 4]\nepisodes = 5\n'
    )
    suite = load_suite(str(path))
    assert (suite.name, suite.summary, suite.seed, suite.samples, suite.images) == ("mine", "Mine", 7, 2, "photos")
    assert suite.options == {"max_turns": 8, "image_size": [64, 96]}
    assert suite.entries == (SuiteEntry("2x2", (0, 1, 2), 300), SuiteEntry("2x3", (0, 4), 5))


GOOD = '[[puzzles]]\ngrid = "2x2"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[puzzles", "not TOML"),
        ("", "no puzzles"),
        (f"sed = 3\n{GOOD}", "no key 'sed'. Did you mean 'seed'"),
        (f"seed = '3'\n{GOOD}", "seed = '3' must be of the type int"),
        (f"samples = true\n{GOOD}", "samples = True must be of the type int"),
        (f"{GOOD}level = [0]", "puzzles 1: there is no key 'level'. Did you mean 'levels'"),
        (f"{GOOD}levels = 0", "puzzles 1: levels = 0 must be of the type list"),
        (f"{GOOD}{GOOD.replace('2x2', '2by2')}", "puzzles 2: .*is not a grid"),
        (f"{GOOD}levels = [9]", "puzzles 1: .*Allowed: L0, L1, L2"),
        ("[[puzzles]]\nlevels = [0]", "the key 'grid' is missing"),
        ("puzzles = [3]", "3 is not a table"),
        (f"[options]\nmax_turn = 3\n{GOOD}", "options: .*Did you mean 'max_turns'"),
    ],
)
def test_mistakes_in_a_suite_are_named(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=f"mine.toml: .*{message}") as error:
        load_suite(str(path))
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"a = {'[' * 1500 + ']' * 1500}\n{GOOD}", "this is not TOML"),
        (f"{GOOD}x = {'{a=' * 1000 + '1' + '}' * 1000}", "this is not TOML"),
        (f"seed = {'9' * 4090}\n{GOOD}".replace("seed", "s"), "there is no key 's'"),
        (f"a{'.a' * 20_000} = 1\n{GOOD}", "more than 65,536 bytes, or 4,096 in a line"),
        ("# comment\n" * 7000 + GOOD, "more than 65,536 bytes, or 4,096 in a line"),
        (f"summary = [{'1,' * 2000}]\n{GOOD}", r"summary = \[1, 1, .{0,100} must be of the type str"),
    ],
    ids=range(6),
)
def test_suites_made_to_do_harm_end_in_a_line(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_suite(str(path))
    assert time.process_time() - start < 5
    assert len(str(caught.value)) < 1000


def test_suites_that_are_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match="Did you mean 'paper'"):
        load_suite("papre")
    with pytest.raises(ConfigurationError, match="There is no file"):
        load_suite(str(tmp_path / "none.toml"))
    (tmp_path / "binary.toml").write_bytes(np.random.default_rng(0).bytes(200))
    with pytest.raises(ConfigurationError, match="not TOML"):
        load_suite(str(tmp_path / "binary.toml"))


def test_the_papers_suite_is_written_out():
    values = tomllib.loads((SUITES / "paper.toml").read_text(encoding="utf-8"))
    assert [puzzle["episodes"] for puzzle in values["puzzles"]] == [300, 300]
