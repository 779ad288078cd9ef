"""Evaluation: playing fixed puzzles and reporting Acc and Score."""

from agile_gym.evaluation.metrics import Estimate, bootstrap_mean, wilson
from agile_gym.evaluation.plan import EvaluationPlan, Task
from agile_gym.evaluation.reference import reference_rows
from agile_gym.evaluation.run import EpisodeResult, Journal, check_plan, evaluate
from agile_gym.evaluation.tables import format_tables, summarize

__all__ = [
    "EpisodeResult",
    "Estimate",
    "EvaluationPlan",
    "Journal",
    "Task",
    "bootstrap_mean",
    "check_plan",
    "evaluate",
    "format_tables",
    "reference_rows",
    "summarize",
    "wilson",
]
