# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray and torch are incomplete.
"""A training run: vision pretraining (tiny model), cold start, GRPO, evaluation, report; every stage is resumable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from agile_gym.coldstart.config import ColdStartConfig
from agile_gym.coldstart.making import count_episodes, make_cold_start
from agile_gym.envs.jigsaw.config import JigsawConfig
from agile_gym.envs.jigsaw.env import open_source
from agile_gym.errors import import_optional, reason_of
from agile_gym.evaluation.benchmarks import (
    BENCHMARK_SCORES,
    BenchmarkScore,
    counted,
    score_benchmark,
    write_benchmarks,
)
from agile_gym.evaluation.compare import compare_blanked
from agile_gym.evaluation.contamination import OVERLAPS, find_training_pictures, overlap_text, write_overlaps
from agile_gym.evaluation.journal import Session, blanked_path
from agile_gym.evaluation.report import write_report
from agile_gym.evaluation.run import EpisodeResult, PreparedPlan, prepare_plan
from agile_gym.interruption import stop_signals
from agile_gym.learner.options import TINY
from agile_gym.policies.base import Policy, make_policy
from agile_gym.questions.judging import rule_of
from agile_gym.questions.opening import BENCHMARKS
from agile_gym.reporting.alarms import alarms
from agile_gym.reporting.console import LiveTable
from agile_gym.reporting.report import write_report as write_page
from agile_gym.reporting.runlog import RunLog, flatten_result
from agile_gym.training import stages
from agile_gym.training.checking import check_settings, start_ray, stop_ray
from agile_gym.training.folder import RunFolder
from agile_gym.training.settings import RunSettings
from agile_gym.training.tasks import cold_starts, environment_options

__all__ = ["Interrupted", "TrainingRun", "check_settings"]

REPORT = "report.html"
KEPT_TRANSCRIPTS = 32
"""Transcripts that are kept of each level, for the report."""


class Interrupted(Exception):  # noqa: N818 -- it is no error
    """The run was interrupted by a signal, after it was saved.

    Attributes:
        status: The exit status for it, such as 130 for Ctrl-C.
    """

    def __init__(self, status: int) -> None:
        """Make it."""
        super().__init__(status)
        self.status = status


class TrainingRun:
    """A run in a folder.

    Attributes:
        settings: The settings.
        folder: ``agile-gym.json``, which marks it, ``settings.toml``, ``state.json``, ``metrics.jsonl``,
            ``metrics.csv``, a folder for each stage with its ``model`` and ``checkpoint``, ``evaluation`` and
            ``report.html``.
    """

    def __init__(
        self,
        settings: RunSettings,
        folder: Path,
        *,
        resume: bool = False,
        overwrite: bool = False,
        wandb: bool = False,
    ) -> None:
        """Open the folder, and check what can be checked before anything takes long.

        Args:
            settings: The settings.
            folder: The run's folder; it is made.
            resume: Go on with the run that is there.
            overwrite: Remove the run that is there; if there is anything else in the folder, nothing is removed.
            wandb: Also send figures to Weights & Biases.

        Raises:
            ConfigurationError: If there is a run already and neither is asked for; if there is none to resume, or one
                with other settings; if there is anything else in the folder; if another process trains in it; if a
                setting is not allowed.
            ImageError: If there are no photographs.
            MissingDependencyError: If a package is missing.
        """
        import_optional("ray", extra="train", purpose="train")
        import_optional("torch", extra="train", purpose="train")
        self.settings, self.folder, self._wandb = settings, folder, wandb
        check_settings(settings)
        self._open(resume=resume, overwrite=overwrite)

    def _open(self, *, resume: bool, overwrite: bool) -> None:
        place = RunFolder(self.folder, resume=resume, overwrite=overwrite)
        try:
            place.begin(self.settings, stages.content_of(self.settings), stages.unset_values(self.settings))
        except BaseException:
            place.close()
            raise
        self._place = place

    def _is_done(self, stage: str) -> bool:
        return self._place.is_done(stage)

    def _finish(self, stage: str) -> None:
        self._place.finish(stage)

    def run(self) -> Path:
        """Run what is left.

        Returns:
            The report.

        Raises:
            Interrupted: If the run was interrupted by a signal; it is saved. A second one raises `KeyboardInterrupt`.
        """
        with stop_signals() as self._stops:
            try:
                self._run_stages()
                return write_page(self.folder, self.folder / REPORT)
            except KeyboardInterrupt:
                if self._stops.received is None or self._stops.repeated:
                    raise
                raise Interrupted(self._stops.status) from None

    def _run_stages(self) -> None:
        """Run what is left, but for the report."""
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # its bars would break the live table
        with (
            RunLog(self.folder, wandb=self._wandb, settings=self.settings.to_mapping()) as log,
            LiveTable() as table,
        ):
            self._log, self._table = log, table
            self._stops.on_held = lambda: table.status("saving; interrupt it again to stop at once")
            model = stages.model_options(self.settings).path
            try:
                self._look_for_training_images()
                if model != TINY:  # which is made in code, and has learned nothing yet
                    self._play_benchmarks("untrained", model)
                if stages.has_vision_pretraining(self.settings):
                    model = self._pretrain_vision()
                if self.settings.has_cold_start:
                    transcripts, episodes = self._cold_start()
                    self._start_ray()
                    model = self._sft(model, transcripts, episodes)
                    self._evaluate("coldstart", model)
                    self._play_benchmarks("coldstart", model)
                self._start_ray()
                if self.settings.grpo.iterations:
                    model = self._grpo(model)
                    self._evaluate("grpo", model)
                    self._play_benchmarks("grpo", model)
            finally:
                self._stops.on_held = None
                stop_ray(self._stops)

    def _look_for_training_images(self) -> None:
        """Look for training images in the benchmarks' files that are given, and write them down for the report."""
        files, found = stages.benchmark_files(self.settings), self.folder / OVERLAPS
        if not files:
            found.unlink(missing_ok=True)
            return
        self._table.status("looking for training images in the benchmarks")
        images = open_source(JigsawConfig.from_options(stages.environment_options(self.settings, test=False)))
        overlaps = find_training_pictures(files, images)
        write_overlaps(found, overlaps)
        self._table.print_above(overlap_text(overlaps))
        self._stops.check()

    def _start_ray(self) -> None:
        self._table.status("starting Ray")
        start_ray(self.settings, self._stops)

    def _pretrain_vision(self) -> str:
        """Pretrain the tiny model's vision, and report its probe."""
        from agile_gym.models.tiny.pretraining import VisionProgress
        from agile_gym.training.stages import probe_figures, run_vision_pretraining

        folder = self.folder / "vision"
        if self._is_done("vision"):
            return str(folder / "model")
        settings = self.settings
        config = stages.vision_config(settings)
        images = open_source(JigsawConfig.from_options(environment_options(settings, test=False)))

        def begin(done: int) -> None:
            with self._stops.hold():
                self._log.truncate_after("vision", min(done, config.steps - 1))  # the last one is logged with the probe
            self._table.begin("vision", config.steps, done=done)

        figures: dict[str, float] = {}
        with ExitStack() as held:
            waiting = [self._stops.hold()]

            def progress(entry: VisionProgress) -> None:
                if waiting:  # from the first step on there is something to save
                    held.enter_context(waiting.pop())
                figures.update({"learner/loss": entry.loss, "boards": float(entry.boards)})
                if entry.step % 25 == 0 and entry.step < entry.steps:
                    self._table.update(self._log.add("vision", entry.step, figures))
                self._stops.check()

            target, probes = run_vision_pretraining(
                folder, images, config, begin, progress, layers=settings.vision.layers
            )
            for probe in probes:
                self._table.print_above(stages.describe_probe(probe))
                figures.update({f"probe/{probe.grid}/{name}": value for name, value in probe_figures(probe).items()})
            self._table.update(self._log.add("vision", config.steps, figures))
            self._finish("vision")
        return str(target)

    def _cold_start(self) -> tuple[list[Path], int]:
        """Make the episodes of the cold start, or take those that are there."""
        given = self.settings.cold_start.episodes
        if given is not None:
            return [Path(given)], count_episodes(Path(given))
        configs = cold_starts(self.settings)
        folders = {name: self.folder / "cold-start" / name for name in configs}
        if not self._is_done("cold-start"):
            for name, config in configs.items():
                self._table.status(f"making the episodes of the cold start{name and ': '}{name}")
                self._make_episodes(folders[name], config)
            self._finish("cold-start")
        return list(folders.values()), sum(map(count_episodes, folders.values()))

    def _make_episodes(self, folder: Path, config: ColdStartConfig) -> None:
        def attempt(kept: int, attempts: int) -> None:
            self._stops.check()

        make_cold_start(folder, config, batch=32, resume=folder.exists(), on_attempt=attempt)

    def _sft(self, model: str, transcripts: list[Path], episodes: int) -> str:
        replay = self.folder / "replay"
        config = stages.sft_config(self.settings, model, transcripts, episodes, replay)
        if config.replay_size and not (self._is_done("replay") or self._is_done("sft")):
            self._table.status("making the episodes that are replayed")
            self._make_episodes(replay, stages.replay_config(self.settings))
            self._finish("replay")
        steps = stages.sft_steps(self.settings, config, episodes)
        return self._train("sft", config, math.ceil(steps / config.num_minibatches))

    def _grpo(self, model: str) -> str:
        return self._train("grpo", stages.grpo_config(self.settings, model), self.settings.grpo.iterations)

    def _train(self, stage: str, config: Any, iterations: int) -> str:  # noqa: ANN401 -- a configuration
        """Train, from the last checkpoint on if there is one."""
        target, checkpoint = self.folder / stage / "model", self.folder / stage / "checkpoint"
        if self._is_done(stage):
            return str(target)
        self._table.status(f"{stage}: starting runners and learners")
        algorithm = config.build_algo()
        try:
            if checkpoint.exists() or checkpoint.with_name(checkpoint.name + ".previous").exists():
                algorithm.restore_from_path(checkpoint)
            with self._stops.hold():
                self._log.truncate_after(stage, algorithm.iteration)
                self._table.begin(stage, iterations, done=algorithm.iteration)
                every = self.settings.checkpoints.every
                self._stops.check()
                while algorithm.iteration < iterations:
                    record = self._log.add(stage, algorithm.iteration + 1, flatten_result(algorithm.train()))
                    self._table.update(record)
                    self._table.alarms(alarms(self._log.history(stage)))
                    if self._stops.received is not None or algorithm.iteration % every == 0:
                        self._save(algorithm, checkpoint)
                    self._stops.check()
                algorithm.save_pretrained(target, merge=True)  # what the next stage begins with
                self._finish(stage)
        finally:
            with self._stops.hold():
                algorithm.stop()
        self._log.flush()
        return str(target)

    def _save(self, algorithm: Any, checkpoint: Path) -> None:  # noqa: ANN401 -- an Algorithm
        try:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            algorithm.save_to_path(checkpoint)
        except OSError as error:
            reason = reason_of(error)
            self._table.print_above(f"The checkpoint could not be written ({reason}); the former one is kept.")

    def _evaluate(self, stage: str, model: str) -> None:
        """Play the held-out puzzles with a stage's model."""
        name = f"evaluate-{stage}"
        if self._is_done(name):
            return
        plan = stages.evaluation_plan(self.settings, model)
        prepared = prepare_plan(plan)
        output = self.folder / "evaluation" / f"{stage}.json"
        output.parent.mkdir(parents=True, exist_ok=True)
        evaluation, photographs = self.settings.evaluation, prepared.photographs()
        policy = make_policy(plan.policy, **plan.policy_options) if evaluation.workers == 1 else None
        results = self._play(stage, prepared, output, policy)
        self._tell(stage, results)
        blank_looks = None
        if evaluation.blank_looks:
            prepared = replace(prepared, plan=replace(plan, blank_looks=True))
            path = blanked_path(output)
            blanked = self._play(f"{stage}, looks blanked", prepared, path, policy)
            self._tell(f"{stage}, looks blanked", blanked)
            write_report(path, blanked, plan=prepared.plan.to_json(), photographs=photographs)
            blank_looks = compare_blanked(results, blanked)
        write_report(output, results, plan=plan.to_json(), photographs=photographs, blank_looks=blank_looks)
        self._finish(name)

    def _play_benchmarks(self, stage: str, model: str) -> None:
        """Play the benchmarks with a stage's model, where the settings want it."""
        name, plans = f"benchmarks-{stage}", stages.benchmark_plans(self.settings, model)
        if not plans or self._is_done(name):
            return
        evaluation, policy = self.settings.evaluation, None
        if evaluation.workers == 1:
            plan = next(iter(plans.values()))
            policy = make_policy(plan.policy, **plan.policy_options)
        folder = self.folder / BENCHMARK_SCORES
        folder.mkdir(exist_ok=True)
        scores: list[BenchmarkScore] = []
        for key, plan in plans.items():
            output = folder / f"{stage}-{key}.json"
            title = f"{stage}, {BENCHMARKS[key].title}"
            results = self._play(title, prepare_plan(plan), output, policy, "questions")
            write_report(output, counted(results), plan=plan.to_json(), photographs={})
            scores.append(score_benchmark(plan, results, rule_of(key, None)))
            self._table.print_above(f"{title}: {100 * scores[-1].figure:.1f}% on {scores[-1].asked} questions")
        write_benchmarks(folder / f"{stage}.json", scores, f"hf:{model}")
        self._finish(name)

    def _play(
        self, title: str, prepared: PreparedPlan, output: Path, policy: Policy | None, what: str = "puzzles"
    ) -> list[EpisodeResult]:
        """Play what is left of an evaluation."""
        evaluation = self.settings.evaluation
        there = output.with_suffix(".jsonl").exists()
        with Session(prepared, output, keep=KEPT_TRANSCRIPTS, resume=there) as session:
            done = len(session.journal.results)
            if session.journal.unread:
                lines = f"{session.journal.unread:,} line" + "s" * (session.journal.unread > 1)
                self._table.print_above(f"{lines} of {session.journal.path} cannot be read; played again.")
            for _ in session.play(policy, batch=evaluation.batch, workers=evaluation.workers):
                done += 1
                if done % 16 == 0:
                    self._table.status(f"evaluation of {title}: {done} of {len(prepared.plan)} {what}")
                self._stops.check()
            return session.journal.results

    def _tell(self, title: str, results: Sequence[EpisodeResult]) -> None:
        """Print Acc of an evaluation."""
        self._table.print_above(f"{title}: Acc {_acc(results)} on {len(results)} held-out puzzles")
        names = list(dict.fromkeys(result.grid for result in results))
        for name in names if len(names) > 1 else ():
            mine = [result for result in results if result.grid == name]
            self._table.print_above(f"{title}, {name}: Acc {_acc(mine)} on {len(mine)}")


def _acc(results: Sequence[EpisodeResult]) -> str:
    return f"{100 * sum(result.solved for result in results) / len(results):.1f}%"
