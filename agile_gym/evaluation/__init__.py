"""Evaluation: playing fixed puzzles and reporting Acc and Score.

plan       puzzles of an evaluation, each with its seeds
suite      lists of puzzles in TOML files
run        plays a plan in this process; the result of each episode
workers    plays it in several
journal    keeps finished episodes and their transcripts
estimates  intervals, pass@k, paired tests
metrics    figures by grid and level: Acc, looks, behaviours
report     the file of results, and its tables beside the paper's
benchmarks questions of nine benchmarks: plans, scores, tables
behaviours table of the behaviours
compare    two evaluations of the same puzzles
contamination  images that are also in a training set
"""

from agile_gym.evaluation.behaviours import format_behaviours
from agile_gym.evaluation.compare import (
    LooksReport,
    compare_blanked,
    compare_reports,
    format_comparison,
    format_looks,
    looks_report,
)
from agile_gym.evaluation.contamination import Overlap, find_overlap
from agile_gym.evaluation.estimates import (
    Estimate,
    bootstrap_difference,
    bootstrap_mean,
    mcnemar,
    pass_at_k,
    sign_flip,
    wilson,
)
from agile_gym.evaluation.journal import Journal, read_journal
from agile_gym.evaluation.metrics import summarize, summarize_behaviours, summarize_cost, summarize_looks
from agile_gym.evaluation.plan import (
    EnvironmentEntry,
    EvaluationPlan,
    SuiteEntry,
    Task,
    choose_entries,
)
from agile_gym.evaluation.report import Report, format_cost, format_tables, read_report, reference_rows, write_report
from agile_gym.evaluation.run import (
    EpisodeResult,
    Played,
    PreparedPlan,
    evaluate,
    play_tasks,
    prepare_plan,
    result_of,
)
from agile_gym.evaluation.suite import Suite, load_suite, suite_names
from agile_gym.evaluation.workers import play_in_workers

__all__ = [
    "EnvironmentEntry",
    "EpisodeResult",
    "Estimate",
    "EvaluationPlan",
    "Journal",
    "LooksReport",
    "Overlap",
    "Played",
    "PreparedPlan",
    "Report",
    "Suite",
    "SuiteEntry",
    "Task",
    "bootstrap_difference",
    "bootstrap_mean",
    "choose_entries",
    "compare_blanked",
    "compare_reports",
    "evaluate",
    "find_overlap",
    "format_behaviours",
    "format_comparison",
    "format_cost",
    "format_looks",
    "format_tables",
    "load_suite",
    "looks_report",
    "mcnemar",
    "pass_at_k",
    "play_in_workers",
    "play_tasks",
    "prepare_plan",
    "read_journal",
    "read_report",
    "reference_rows",
    "result_of",
    "sign_flip",
    "suite_names",
    "summarize",
    "summarize_behaviours",
    "summarize_cost",
    "summarize_looks",
    "wilson",
    "write_report",
]
