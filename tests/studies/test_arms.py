"""Arms and runs of studies against plans that were written by hand."""

from dataclasses import replace

import pytest

pytest.importorskip("ray")
pytest.importorskip("torch")

from agile_gym.cli import main
from agile_gym.errors import ConfigurationError
from agile_gym.studies.arms import check_arms, expand, plan_runs
from agile_gym.studies.estimate import Speed, check_budget, hours_of, work_seconds
from agile_gym.studies.spec import Evaluation, Factor, Study, read_study
from agile_gym.training.tasks import cold_starts
from tests.helpers.large_models import configured

STEP = Factor("step", {"no step": {"environment.reward": {"step_weight": 0.0}}}, stage="grpo")
RATE = Factor("rate", {"slow": {"grpo.lr": 1e-5}, "fast": {"grpo.lr": 1e-3}})
COLD = Factor("cold", {"no cold start": {"cold_start.count": 0}}, stage="cold_start")
LENGTHS = {"cold_start.count": 450, "sft.epochs": 12, "grpo.iterations": 60}
EYES = Factor("eyes", {"blind": {"vision.steps": 1}})


def study(*factors, **changes):
    values = {"seeds": (0,), "evaluations": (Evaluation("2x2", "2x2", 0, episodes=10),)}
    return Study("s", "S", tuple(factors), **{**values, **changes})


def plan(of):
    """Return the base of every run, by its name; a shared stage is named after its users and the seed."""
    runs = plan_runs(of, expand(of))
    users = {}
    for run in runs:
        for base in bases(run, runs):
            if run.arm is not None:
                users.setdefault(base, []).append(run.arm)
    names = {run.name: run.name for run in runs}
    for run in runs:
        if run.arm is None:
            stage = run.name.rpartition("-")[0]
            names[run.name] = f"{stage}{run.seed}: {', '.join(users[run.name])}"
            assert run.users == len(users[run.name])
    return {names[run.name]: None if run.base is None else (names[run.base], run.last) for run in runs}


def bases(run, runs):
    named = {one.name: one for one in runs}
    while run.base is not None:
        yield run.base
        run = named[run.base]


def test_one_factor_at_a_time_has_a_base_and_an_arm_a_value():
    arms = expand(study(RATE, STEP))
    assert [arm.name for arm in arms] == ["base", "slow", "fast", "no step"]
    assert [arm.changes["grpo"] for arm in arms] == [
        {},
        {"grpo.lr": 1e-5},
        {"grpo.lr": 1e-3},
        {"environment.reward": {"step_weight": 0.0}},
    ]
    assert arms[3].changes["cold_start"] == arms[3].changes["vision"] == {}


def test_a_grid_has_all_combinations():
    arms = expand(study(RATE, COLD, design="grid"))
    assert [arm.name for arm in arms] == ["slow, no cold start", "fast, no cold start"]
    assert arms[0].values == {"rate": "slow", "cold": "no cold start"}
    assert arms[0].changes == {
        "vision": {"grpo.lr": 1e-5},
        "cold_start": {"grpo.lr": 1e-5, "cold_start.count": 0},
        "grpo": {"grpo.lr": 1e-5, "cold_start.count": 0},
    }


def test_arms_that_differ_in_grpo_alone_share_one_cold_start_a_seed():
    first, second = "cold-start0: base, slow, fast, no step", "cold-start1: base, slow, fast, no step"
    expected = {first: None, second: None}
    for arm in ("base", "slow", "fast", "no_step"):
        expected[f"{arm}-seed0"] = (first, "cold_start")
        expected[f"{arm}-seed1"] = (second, "cold_start")
    assert plan(study(RATE, STEP, seeds=(0, 1))) == expected


def test_arms_that_differ_from_the_cold_start_on_share_the_vision():
    vision, cold = "vision0: base, no step, no cold start", "cold-start0: base, no step"
    assert plan(study(STEP, COLD)) == {
        vision: None,
        cold: (vision, "vision"),
        "base-seed0": (cold, "cold_start"),
        "no_step-seed0": (cold, "cold_start"),
        "no_cold_start-seed0": (vision, "vision"),
    }


def test_arms_that_differ_from_the_beginning_share_nothing():
    assert plan(study(EYES)) == {"base-seed0": None, "blind-seed0": None}


def test_a_change_of_grpo_alone_has_the_former_stages_of_the_base_even_alone():
    photographs = Factor("n", {"8": {"images.train": "{images:8}"}}, stage="grpo")
    of = study(photographs, design="grid", settings={"images.train": "builtin"})
    cold, arm = plan_runs(of, expand(of))
    assert (arm.base, arm.last) == (cold.name, "cold_start")
    assert cold.settings.images.train == "builtin"
    assert cold.settings.grpo.iterations == 0
    assert arm.settings.images.train == "{images:8}"
    assert arm.settings.images.test == "{test}"


def test_shared_stages_have_the_later_ones_left_out():
    of = study(STEP, COLD, settings=LENGTHS)
    vision, cold, base, *_ = plan_runs(of, expand(of))
    assert (vision.settings.cold_start.given()["count"], vision.settings.grpo.iterations) == (0, 0)
    assert (cold.settings.cold_start.given()["count"], cold.settings.grpo.iterations) == (450, 0)
    assert (base.settings.cold_start.given()["count"], base.settings.grpo.iterations) == (450, 60)


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (study(Factor("a", {"x": {"grpo.lrr": 1}})), r"arm 'x': \[grpo\] has no key 'lrr'.*Did you mean 'lr'"),
        (study(Factor("a", {"x": {"gpro.lr": 1}})), r"arm 'x': there is no section 'gpro'"),
        (study(Factor("a", {"x": {"grpo.lr": "high"}})), r"arm 'x': \[grpo\] lr"),
        (study(STEP, settings={"grpo.lrr": 1}), r"arm 'base': \[grpo\] has no key 'lrr'"),
        (study(Factor("a", {"x": {"grpo.iterations": 60}}), settings=LENGTHS), "'base' and 'x' have the same settings"),
        (study(Factor("a", {"x": {"seed": 4}})), "a seed is no factor"),
        (
            study(Factor("a", {"x": {"vision.steps": 4}}, stage="grpo")),
            r"read before the stage grpo.*stage = \"vision\"",
        ),
        (study(Factor("a", {"x": {"sft.lr": 4}}, stage="grpo")), r"stage = \"cold_start\""),
        (study(STEP, reference="nothing"), "reference: there is no arm 'nothing'"),
        (study(STEP, paper={"no steps": 1.0}), r"\[paper\] arms: there is no arm 'no steps'\. Did you mean 'no step'"),
        (study(STEP, preset="tinny"), "tinny"),
        (study(Factor("a", {"x y": {"grpo.lr": 1}, "x_y": {"grpo.lr": 2}})), "two folder of an arms are called 'x_y'"),
    ],
)
def test_a_mistake_has_its_own_error(of, message):
    with pytest.raises(ConfigurationError, match=message):
        check_arms(of, expand(of))


@pytest.mark.parametrize("name", ["scaling", "ablations", "difficulty"])
@pytest.mark.parametrize("size", ["tiny", "paper"])
def test_studies_of_the_package_expand_and_share_what_they_can(name, size):
    of = read_study(name, size)
    arms = expand(of)
    check_arms(of, arms)
    runs = plan_runs(of, arms)
    cold = [run for run in runs if run.name.startswith("cold-start")]
    assert len([run for run in runs if run.arm is not None]) == len(arms) * len(of.seeds)
    if (name, size) == ("scaling", "tiny"):  # its arms differ from the first stage on
        assert len(runs) == len(arms) * len(of.seeds)
        return
    assert len(cold) == len(of.seeds)
    alone = {"no cold start", "no crop and zoom"} if name == "ablations" else set()
    assert {run.arm for run in runs if run.last != "cold_start" and run.arm} == alone


def test_time_is_counted_by_hand_and_by_jobs():
    of = study(STEP, settings={**LENGTHS, "evaluation.interval": 0, "evaluation.episodes": 10, "vision.steps": 100})
    cold, base, _ = plan_runs(of, expand(of))
    speed = Speed(rollout=0.01, update=0.02, vision=0.5)
    # 15 s of start; 100 steps of vision; 12 epochs of 450 episodes; an evaluation of 10 episodes
    assert work_seconds(cold, cold.settings, of.evaluations, speed) == pytest.approx(15 + 50 + 108 + 0.1)
    # 60 iterations of 512 episodes, an evaluation, and the study's own of 10
    assert work_seconds(base, base.settings, of.evaluations, speed) == pytest.approx(15 + 60 * 512 * 0.03 + 0.2)
    runs = plan_runs(of, expand(of))
    seconds = {run.name: 3600.0 for run in runs}
    assert [hours_of(seconds, runs, jobs) for jobs in (1, 2, 8)] == [3, 2, 2]


def test_a_budget_that_is_far_too_small_is_refused():
    check_budget(study(STEP), None, 10, 1)
    check_budget(study(STEP), 6, 10, 1)
    with pytest.raises(ConfigurationError, match=r"budget of 4 hours is too small: the study takes about 10 hours"):
        check_budget(study(STEP), 4, 10, 1)


def test_all_arms_of_a_seed_come_before_the_next_one():
    of = study(STEP, seeds=(3, 1), settings={"vision.steps": 100})
    assert [(run.seed, run.arm) for run in plan_runs(of, expand(of))] == [
        *((3, None), (3, "base"), (3, "no step")),
        *((1, None), (1, "base"), (1, "no step")),
    ]


def test_another_seed_is_another_cold_start():
    one, two = (plan_runs(of, expand(of))[0] for of in (study(STEP), replace(study(STEP), seeds=(1,))))
    assert one.name != two.name


QA_AND_JIGSAWS = {"questions": (0, 20_032), "half questions half jigsaws": (10_016, 10_016), "jigsaws": (20_032, 0)}
"""Groups of jigsaws and of questions in the paper's mixes, in whole batches of 64."""


def test_the_mixes_of_the_paper_are_of_20k_samples():
    of = read_study("mix", "paper")
    arms = expand(of)
    for name, settings in check_arms(of, arms).items():
        grpo = settings["grpo"]
        assert list(cold_starts(grpo)) == [""]  # of jigsaws alone
        if name != "cold start only":
            groups = grpo.grpo.iterations * grpo.grpo.groups_per_iteration
            weights = [task["weight"] for task in grpo.grpo.tasks]
            assert tuple(groups * weight / sum(weights) for weight in weights) == QA_AND_JIGSAWS[name]


@pytest.mark.slow
def test_one_mix_of_the_paper_is_planned_by_one_command(tmp_path, capsys):
    model = str(configured(tmp_path, "qwen2_5_vl"))
    words = ["study", "mix", "--size", "paper", "--set", f"model.path={model}", "--dry-run"]
    assert main([*words, "--arms", "half questions half jigsaws"]) == 0
    printed = capsys.readouterr().out
    assert "1 arms, 1 seeds (0), 1 shared stages: 2 runs" in printed
    assert "\nTime    about " in printed
    assert main([*words, "--arms", "half"]) == 1
    assert (
        "--arms: there is no arm 'half'. Allowed: 'cold start only', 'half questions half jigsaws'"
        in capsys.readouterr().err
    )
