"""Evaluation: playing fixed puzzles and reporting Acc and Score.

plan        which puzzles, each with its seeds
suites      lists of puzzles in TOML files
run         plays a plan in this process
workers     plays it in several
results     what came of each episode
journal     keeps finished episodes
metrics     shares and means with intervals, pass@k
paired      exact tests of paired results
summary     all figures by grid and level
reference   the paper's tables
tables      tables for people
report      the file of results
compare     two evaluations of the same puzzles
overlap     photographs that are in a training set, too
plots       pictures of Acc and Score
"""

from agile_gym.evaluation.compare import compare_reports, format_comparison
from agile_gym.evaluation.journal import Journal, read_journal
from agile_gym.evaluation.metrics import Estimate, bootstrap_difference, bootstrap_mean, pass_at_k, wilson
from agile_gym.evaluation.overlap import Overlap, find_overlap
from agile_gym.evaluation.paired import mcnemar, sign_flip
from agile_gym.evaluation.plan import EvaluationPlan, SuiteEntry, Task, choose_entries
from agile_gym.evaluation.reference import reference_rows
from agile_gym.evaluation.report import Report, read_report, write_report
from agile_gym.evaluation.results import EpisodeResult, result_of
from agile_gym.evaluation.run import Played, PreparedPlan, evaluate, play_tasks, prepare_plan
from agile_gym.evaluation.suites import Suite, load_suite, suite_names
from agile_gym.evaluation.summary import summarize, summarize_cost
from agile_gym.evaluation.tables import format_cost, format_tables
from agile_gym.evaluation.workers import play_in_workers

__all__ = [
    "EpisodeResult",
    "Estimate",
    "EvaluationPlan",
    "Journal",
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
    "compare_reports",
    "evaluate",
    "find_overlap",
    "format_comparison",
    "format_cost",
    "format_tables",
    "load_suite",
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
    "summarize_cost",
    "wilson",
    "write_report",
]
