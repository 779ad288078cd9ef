"""A study with made-up results, for tests of its sentences and its page."""

import numpy as np

from agile_gym.studies.spec import Evaluation, Factor, Study

ABLATIONS = Study(
    name="ablations",
    title="Ablations, made up",
    summary="Each arm changes one thing of the base.",
    settings={"images.train": "{images}"},
    factors=(
        Factor(
            "step",
            {
                "step weight 0.5": {"environment.reward": {"step_weight": 0.5}},
                "step weight 0": {"environment.reward": {"step_weight": 0.0}},
            },
            stage="grpo",
        ),
        Factor("cold", {"no cold start": {"cold_start.count": 0}}, stage="cold_start"),
    ),
    evaluations=(Evaluation("2x2", "2x2", 0, episodes=200), Evaluation("3x3", "3x3", 0, episodes=200)),
    paper_figure="mean of nine general benchmarks",
    paper={"base": 65.2, "step weight 0.5": 64.8, "step weight 0": 64.4, "no cold start": 63.9},
)
SCALING = Study(
    name="scaling",
    title="Photographs, made up",
    summary="",
    factors=(
        Factor(
            "photographs",
            {"0": {"grpo.iterations": 0}, "8": {"grpo.iterations": 8}, "140": {"grpo.iterations": 9}},
            title="photographs in GRPO",
            stage="grpo",
            ordered=True,
        ),
    ),
    design="grid",
    evaluations=(Evaluation("2x2", "2x2", 0, episodes=200),),
)


def outcomes(study, accs, *, spread=0.02, puzzles=200, seed=0):
    """Return made-up outcomes: for each evaluation the probability of a solved puzzle by arm."""
    rng = np.random.default_rng(seed)
    found = []
    for by_arm in accs:
        easy = rng.normal(0, 0.1, puzzles)
        arms = {}
        for arm, acc in by_arm.items():
            for number in study.seeds:
                solved = rng.random(puzzles) < acc + easy + rng.normal(0, spread)
                values = {("2x2", 0, place, 0): (float(one), f"{place % 40}") for place, one in enumerate(solved)}
                scores = {key: (0.5 + 0.5 * value, photograph) for key, (value, photograph) in values.items()}
                arms.setdefault(arm, {})[number] = {"acc": values, "score": scores}
        found.append(arms)
    return found


ABLATED = [
    {"base": 0.6, "step weight 0.5": 0.6, "step weight 0": 0.3, "no cold start": 0.05},
    {"base": 0.1, "step weight 0.5": 0.1, "step weight 0": 0.1, "no cold start": 0.01},
]
SCALED = [{"0": 0.2, "8": 0.4, "140": 0.7}]
