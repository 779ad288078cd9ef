"""Trains the tiny model from photographs to a solver of held-out jigsaws, several times, with controls.

    python benchmarks/learning.py --train FOLDER --test FOLDER --output RUNS [--jobs 2] [--set KEY=VALUE ...]

Each run is `agile-gym train` with the preset `tiny`: vision pretraining, cold start, GRPO, and after
the last two the same held-out puzzles, played greedily, by sampling, and with blanked looks. Besides the seeds on the
photographs of `--train`, there is one on the built-in photographs alone, and

- ``at-once-SEED``: with that seed's vision, supervised training on the answers of 8,000 puzzles, given at once, instead
  of cold start and GRPO: the worth of the vision alone where answers are plenty;
- ``one-turn``: with the first seed's vision, a cold start of as many puzzles as the other runs', answered at once, and
  GRPO of one turn: the worth of the vision alone where they are as few;
- ``blanked``: with the first seed's vision, cold start and GRPO in which every look shows grey, in training and play;
- ``no-crops``: with the first seed's vision, cold start and GRPO without crops and zooms, for a preset that has them;
- ``shuffled``: after the first seed's cold start, GRPO on rewards that are shuffled over the whole batch, with the same
  schedule: must not gain;
- ``no-step``: after the first seed's cold start, GRPO without the reward's part for steps.

All photographs of both folders are held out from each other by the caller; `--test` is never trained on. Interrupted,
the same command goes on. `benchmarks/learning_report.py` makes the tables and the picture.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

STAGES = ("vision", "cold-start", "sft")
SAMPLED, MORE_TURNS = "sampled", "more-turns"
AT_ONCE = [
    "cold_start.teacher=oracle",
    'cold_start.teacher_options={"think": ""}',
    "cold_start.turns=1",
    "cold_start.count=8000",
    "sft.epochs=12",
    "sft.batch_size=64",
    "grpo.iterations=0",
]
"""Settings of the control that answers at once: many more solved puzzles than those of the cold start."""
ONE_TURN = [
    "environment.max_turns=1",
    "cold_start.teacher=oracle",
    'cold_start.teacher_options={"think": ""}',
    "cold_start.turns=1",
    "grpo.iterations=150",
]
"""Settings of the control that learns to answer at once from as many solved puzzles, and by GRPO of as much time."""


def arguments():
    """Read the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--train", required=True, help="folder of photographs to train on")
    parser.add_argument("--test", required=True, help="folder of other photographs to test on")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=2048, help="held-out puzzles")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at the same time, a core each")
    parser.add_argument("--only", nargs="+", help="names of runs, such as photos-0 shuffled")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for agile-gym train")
    parser.add_argument("--run", help=argparse.SUPPRESS)  # set for processes of this script
    return parser.parse_args()


def plan(options):
    """Return the runs by name: photographs to train on, seed, the run to branch off and after which stage, changes."""
    from agile_gym.training.settings import read_settings

    first = options.seeds[0]
    base = f"photos-{first}"
    runs = {f"photos-{seed}": (options.train, seed, None, None, []) for seed in options.seeds}
    for seed in options.seeds:
        runs[f"at-once-{seed}"] = (options.train, seed, f"photos-{seed}", "vision", AT_ONCE)
    runs["one-turn"] = (options.train, first, base, "vision", ONE_TURN)
    runs["blanked"] = (options.train, first, base, "vision", [])
    if "crop" in read_settings(options.preset, {}).cold_start.given().get("looks", ()):
        runs["no-crops"] = (options.train, first, base, "vision", ['cold_start.looks=["board"]'])
    runs["shuffled"] = (options.train, first, base, "sft", [])
    runs["no-step"] = (options.train, first, base, "sft", ['environment.reward={"step_weight": 0.0}'])
    runs["builtin"] = (None, first, None, None, [])
    return {name: run for name, run in runs.items() if not options.only or name in options.only}


def settings_of(options, name):
    """Return the settings of a run."""
    from agile_gym.commands import read_pairs
    from agile_gym.training.settings import read_settings

    train, seed, _, _, changes = plan(options)[name]
    changes = {
        "seed": seed,
        "images.train": train,
        "images.test": options.test,
        "evaluation.episodes": options.episodes,
        **read_pairs(options.set, "--set", "grpo.lr=1e-4"),
        **read_pairs(changes, "--set", "grpo.lr=1e-4"),
    }
    return read_settings(options.preset, changes)


def branch(options, name, settings):
    """Begin a run from the files of another one, up to a stage."""
    from agile_gym.outputs import write_mark
    from agile_gym.training.folder import KIND

    _, _, base, last, _ = plan(options)[name]
    folder = options.output / name
    if base is None or folder.exists():
        return
    done = STAGES[: STAGES.index(last) + 1]
    beside = folder.with_name(name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    (beside / "evaluation").mkdir(parents=True)
    evaluated = {"sft": "coldstart"}
    for stage in done:
        shutil.copytree(options.output / base / stage, beside / stage)
        for path in (options.output / base / "evaluation").glob(f"{evaluated.get(stage, '-')}*"):
            copy = shutil.copytree if path.is_dir() else shutil.copy2
            copy(path, beside / "evaluation" / path.name)
    records = (options.output / base / "metrics.jsonl").read_text("utf-8").splitlines(keepends=True)
    kept = [record for record in records if json.loads(record)["stage"] in done]
    (beside / "metrics.jsonl").write_text("".join(kept), "utf-8")
    state = [*done, *(f"evaluate-{evaluated[stage]}" for stage in done if stage in evaluated)]
    (beside / "state.json").write_text(json.dumps({"done": state}), "utf-8")
    (beside / "settings.toml").write_text(settings.to_toml(), "utf-8")
    write_mark(beside, KIND)
    beside.rename(folder)


def train(options, name):
    """Do one run, or go on with it; then play the held-out puzzles with sampling, and with the expert's turns."""
    import numpy as np

    from agile_gym.learner import GRPO
    from agile_gym.training import stages
    from agile_gym.training.pipeline import TrainingRun

    class Shuffled(GRPO):
        """Algorithm that gives every episode the return of another one of the whole batch."""

        def returns(self, groups):
            """Shuffle the returns."""
            earned = super().returns(groups)
            return np.random.default_rng([self.config.seed, self.iteration]).permutation(earned)

    class ControlRun(TrainingRun):
        """A run whose GRPO trains on shuffled returns."""

        def _grpo(self, model):
            config = stages.grpo_config(self.settings, model)
            config.algo_class = Shuffled
            return self._train("grpo", config, self.settings.grpo.iterations)

    settings = settings_of(options, name)
    branch(options, name, settings)
    folder = options.output / name
    if name == "blanked":
        blank_every_look()
    kind = ControlRun if name == "shuffled" else TrainingRun
    kind(settings, folder, resume=(folder / "settings.toml").exists()).run()
    for stage, model in (("coldstart", "sft"), ("grpo", "grpo")):
        if not (folder / model / "model").exists():
            continue
        play(settings, folder / "evaluation" / SAMPLED / f"{stage}.json", folder / model / "model", temperature=1.0)
    turns = np.max(settings.cold_start.turns)
    if turns > settings.environment.max_turns:
        play(
            settings,
            folder / "evaluation" / MORE_TURNS / "coldstart.json",
            folder / "sft" / "model",
            max_turns=int(turns),
        )


def blank_every_look():
    """Have environments of this process show grey after every turn, for experts, rollouts and evaluations alike."""
    from agile_gym.envs.jigsaw import JigsawVisionEnv
    from agile_gym.policies import blank_look

    step = JigsawVisionEnv.step

    def blanked(self, action):
        observation, reward, terminated, truncated, info = step(self, action)
        observation, info = blank_look(observation, info)
        return observation, reward, terminated, truncated, info

    JigsawVisionEnv.step = blanked


def play(settings, output, model, *, temperature=0.0, **changes):
    """Play the held-out puzzles once more, with other settings, unless that was done."""
    from dataclasses import replace

    from agile_gym.evaluation import evaluate, prepare_plan, write_report
    from agile_gym.policies import make_policy
    from agile_gym.training import stages

    if output.exists():
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    plan = stages.evaluation_plan(settings, str(model))
    plan = replace(
        plan,
        options={**plan.options, **changes},
        policy_options={**plan.policy_options, "temperature": temperature},
    )
    prepared = prepare_plan(plan)
    policy = make_policy(plan.policy, **plan.policy_options)
    results = evaluate(policy, plan, batch=settings.evaluation.batch, prepared=prepared)
    write_report(output, results, plan=plan.to_json(), photographs=prepared.photographs())


def start(options, name):
    """Do a run in a process of its own, on one core, and note its cost."""
    log = options.output / f"{name}.log"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    began = time.monotonic()
    with log.open("a") as stream:
        command = [sys.executable, __file__, *sys.argv[1:], "--run", name]
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    took = {"run": name, "exit": code, "wall": time.monotonic() - began, "processor": usage.ru_utime + usage.ru_stime}
    with (options.output / "processes.jsonl").open("a") as stream:
        stream.write(json.dumps(took) + "\n")
    what = "done" if code == 0 else f"exit status {code}, see {log}"
    print(f"{name}: {what} in {took['wall']:,.0f} s, {took['processor']:,.0f} s of processor", flush=True)
    return code


def main():
    """Do all runs, as many at a time as there are jobs; those that branch off wait for what they branch off from."""
    options = arguments()
    if options.run:
        train(options, options.run)
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    runs = plan(options)
    with ThreadPoolExecutor(options.jobs) as pool:
        started = {}

        def do(name):
            base = runs[name][2]
            if base in started and started[base].result():
                return 1
            return start(options, name)

        for name in runs:  # a run comes after the one that it branches off from
            started[name] = pool.submit(do, name)
        return max(future.result() for future in started.values())


if __name__ == "__main__":
    sys.exit(main())
