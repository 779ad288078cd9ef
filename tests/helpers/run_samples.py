"""Folders of runs for tests: episodes that were really played, and figures as GRPO logs them."""

import math
import random
from dataclasses import replace

from agile_gym.evaluation import EvaluationPlan, choose_entries, compare_blanked, prepare_plan, write_report
from agile_gym.evaluation.journal import Session, blanked_path
from agile_gym.policies import make_policy
from agile_gym.reporting.runlog import RunLog

SETTINGS = """\
# What the run was started with.
preset = "tiny"
images = "builtin"

[grpo]
lr = 1e-4
group_size = 8
"""


class Looks:
    """Looks at the board, a crop and a zoom, then answers rightly but for every third puzzle."""

    def reset(self, seed=None):
        pass

    def act(self, observations, infos):
        return [self.turn(info) for info in infos]

    def turn(self, info):
        steps = (
            "<think>I look at the board first.\nThe sky seems to be at the bottom.</think>"
            "<code>observation_image_1 = observation(state)</code>",
            "<think>A and C should change places.</think><code>state[0], state[2] = state[2], state[0]</code>",
            "<think>Is the edge of B straight?</think>"
            "<code>crop_image_1 = crop(image_list[1], [0.5, 0.0, 1.0, 0.5])</code>",
            "<think>Closer.</think><code>zoom_image_1 = zoom(crop_image_1, 2.5)</code>",
        )
        if info["turn"] < len(steps):
            return steps[info["turn"]]
        names = list(info["solution"])
        if info["policy_seed"] % 3 == 0:
            names = names[::-1]
        return f"<think>Now it fits.</think><answer>{names}</answer>".replace("'", '"')


def evaluate(
    folder, name, policy, *, grids=("2",), levels=(0, 1), episodes=20, image_size=96, policy_name=None, blanked=False
):
    """Play puzzles, and write results and transcripts as a training run does."""
    plan = EvaluationPlan(
        policy=policy_name or name, entries=choose_entries(grids, levels, episodes),
        options={"image_size": image_size, "reveal": True},
    )  # fmt: skip
    prepared = prepare_plan(plan)
    output = folder / "evaluation" / f"{name}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    with Session(prepared, output, keep=12) as session:
        list(session.play(policy))
        results = session.journal.results
    blank_looks = None
    if blanked:
        prepared = replace(prepared, plan=replace(plan, blank_looks=True))
        with Session(prepared, blanked_path(output), keep=0) as session:
            list(session.play(policy))
            blank_looks = compare_blanked(results, session.journal.results)
    write_report(output, results, plan=plan.to_json(), photographs=prepared.photographs(), blank_looks=blank_looks)


def log_run(folder, *, iterations=60, seed=0):
    """Log a run: supervised stages whose loss falls, then GRPO that learns, with a dip of its entropy at the end."""
    rng = random.Random(seed)
    with RunLog(folder, tensorboard=False) as log:
        seconds = 0.0
        for stage, count, pace in (("vision", 120, 4.0), ("sft", 30, 3.0)):
            for number in range(1, count + 1):
                seconds += pace
                loss = 1.4 * math.exp(-3 * number / count) + rng.gauss(0.2, 0.02)
                figures = {"learner/loss": loss, "learner/lr": 1e-3 * (1 - number / count), "learner/tokens": 4000.0}
                log.add(stage, number, {**figures, "learner/seconds": 0.9 * pace}, seconds=seconds)
        for number in range(1, iterations + 1):
            seconds += 22 + rng.gauss(0, 1)
            log.add("grpo", number, grpo_figures(number, iterations, rng), seconds=seconds)
    (folder / "settings.toml").write_text(SETTINGS)


def grpo_figures(number, iterations, rng):
    progress = number / iterations
    acc = 0.3 + 0.4 * progress + rng.gauss(0, 0.02)
    figures = {
        "return": 0.8 * acc + 0.05, "acc": acc, "score": acc + 0.15, "turns": 3.5 - progress + rng.gauss(0, 0.05),
        "reward_accuracy": acc, "reward_format": 0.97, "reward_step": -0.15, "valid": 0.96 + rng.gauss(0, 0.01),
        "crop": 0.3 - 0.2 * progress, "zoom": 0.1, "cut_short": 0.01, "truncated": 0.05, "episodes": 512.0,
        "share_constant": 0.3 + 0.2 * progress + rng.gauss(0, 0.04), "groups_played": 64.0, "group_retries": 0.0,
        "learner/entropy": 0.15 - 0.08 * progress if number < iterations - 4 else 0.002,
        "learner/grad_norm": abs(rng.gauss(0.6, 0.2)), "learner/lr": 1e-4, "learner/loss": 0.01,
        "learner/clip_frac_low": 0.01, "learner/clip_frac_high": 0.02, "learner/approx_kl_first": 1e-6,
        "seconds_rollout": 13.0, "seconds_update": 6.0, "seconds_sync": 0.4, "episodes_per_second": 26.0,
        "tokens_per_second": 1900 + rng.gauss(0, 60), "trained_tokens_per_second": 4200 + rng.gauss(0, 100),
    }  # fmt: skip
    if number % 10 == 0:
        figures |= {
            "eval/acc": acc - 0.03, "eval/acc_low": acc - 0.09, "eval/acc_high": acc + 0.03, "eval/turns": 3.1,
            "eval/score": acc + 0.1, "eval/score_low": acc + 0.06, "eval/score_high": acc + 0.14, "eval/valid": 0.97,
        }  # fmt: skip
    return figures


def make_run(folder):
    """Make a whole run: a model that guesses after the cold start, one that looks after GRPO."""
    log_run(folder)
    evaluate(folder, "untrained", make_policy("random"), episodes=5)
    evaluate(folder, "coldstart", make_policy("random"))
    evaluate(folder, "grpo", Looks(), blanked=True)
    return folder
