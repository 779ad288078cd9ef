"""Judging of replies: the rule that reads the answer, whether it is right, and the tables of each benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from agile_gym.errors import ConfigurationError, did_you_mean
from agile_gym.questions import matching, scores
from agile_gym.questions.mmmu import mmmu_open
from agile_gym.questions.records import Question
from agile_gym.questions.scores import Scored

__all__ = ["DEFAULT_RULES", "RULES", "Verdict", "judge", "rule_of", "score", "unwrap"]


class Verdict(NamedTuple):
    """A reply that was judged.

    Attributes:
        answer: The answer that was read from it; None for none.
        right: True if it is right.
    """

    answer: str | None
    right: bool


Rule = Callable[[Question, str], Verdict]
OTHER_ANSWERS = "Other Answers"


def _chooses(name: str) -> Rule:
    """Return a rule that chooses among the options; an open question gets two, the right answer and any other."""
    choose = matching.CHOICE_RULES[name]

    def judge(question: Question, reply: str) -> Verdict:
        if question.kind == "open" and question.benchmark == "mmmu":
            answer = question.answers[0] if len(question.answers) == 1 else str(list(question.answers))
            letter = choose(reply, {"A": answer, "B": OTHER_ANSWERS})
            return Verdict(letter, letter == "A")
        letter = choose(reply, question.choices)
        return Verdict(letter, letter in question.answers)

    return judge


def _letter(read: Callable[[str], str | None]) -> Rule:
    def judge(question: Question, reply: str) -> Verdict:
        answer = read(reply) or None
        return Verdict(answer, answer in question.answers)

    return judge


def _mmmu_official(name: str) -> Rule:
    choose = matching.CHOICE_RULES[name]

    def judge(question: Question, reply: str) -> Verdict:
        if question.kind == "open":
            return Verdict(reply, mmmu_open(reply, list(question.answers)))
        letter = choose(reply, question.choices)
        return Verdict(letter, letter in question.answers)

    return judge


def _realworldqa(question: Question, reply: str) -> Verdict:
    return Verdict(
        matching.lmms_realworldqa_letter(reply) or reply.strip() or None,
        any(matching.lmms_realworldqa_scored(reply, answer) for answer in question.answers),
    )


def _intern(question: Question, reply: str) -> Verdict:
    answer = "Yes" if matching.lmms_hallusion_intern(reply) == "1" else "No"
    return Verdict(answer, answer in question.answers)


_MCQ = ("vlmevalkit_mcq", "vlmevalkit_mcq_2025h2", "lmms_hrbench_mcq")
_CHOICE: dict[str, Rule] = {name: _chooses(name) for name in _MCQ}
RULES: Mapping[str, Mapping[str, Rule]] = {
    "mme-realworld-lite": {
        "mme_realworld_scored": _letter(matching.mme_realworld_scored),
        "mme_realworld": _letter(matching.mme_realworld),
    },
    "realworldqa": _CHOICE | {"lmms_realworldqa": _realworldqa},
    "hrbench4k": _CHOICE,
    "hrbench8k": _CHOICE,
    "vstar": _CHOICE | {"lmms_vstar": _letter(matching.lmms_vstar)},
    "mmvp": _CHOICE | {"lmms_mmvp": _letter(matching.lmms_mmvp)},
    "blink": _CHOICE | {"lmms_blink": _letter(matching.lmms_blink)},
    "hallusionbench": {"vlmevalkit_yes_no": _letter(matching.vlmevalkit_yes_no), "lmms_hallusion_intern": _intern},
    "mmmu": _CHOICE | {name: _mmmu_official(name) for name in ("mmmu_official_choice", "lmms_mmmu_choice")},
}
"""The rules of each benchmark by name; the first is the default."""
DEFAULT_RULES: Mapping[str, str] = {key: next(iter(rules)) for key, rules in RULES.items()}


def rule_of(benchmark: str, name: str | None) -> str:
    """Return the name of a benchmark's rule, the default for None.

    Raises:
        ConfigurationError: If the benchmark has no rule of this name.
    """
    if name is None:
        return DEFAULT_RULES[benchmark]
    if name not in RULES[benchmark]:
        raise ConfigurationError(
            f"rule={name!r:.80} is none of {benchmark}. {did_you_mean(name, RULES[benchmark])} Its rules: "
            f"{', '.join(RULES[benchmark])}."
        )
    return name


def judge(question: Question, reply: str, rule: str | None = None) -> Verdict:
    """Judge a reply.

    A question of RealWorldQA in the Parquet layout, which holds its options within the text, is always judged by the
    rule ``lmms_realworldqa``.

    Args:
        question: The question.
        reply: The reply.
        rule: Name of the rule; the benchmark's default for None.

    Raises:
        ConfigurationError: If the benchmark has no rule of this name.
    """
    name = rule_of(question.benchmark, rule)
    if question.benchmark == "realworldqa" and question.kind == "open":
        name = "lmms_realworldqa"
    return RULES[question.benchmark][name](question, reply)


def unwrap(reply: str) -> str:
    """Return the text of the last answer tag, or else what follows the last thoughts."""
    text = reply.rpartition("</think>")[2]
    before, opened, inside = text.rpartition("<answer>")
    return inside.partition("</answer>")[0].strip() if opened else (before or text).strip()


def score(benchmark: str, rows: Sequence[Scored], *, complete: bool = True) -> tuple[float, dict[str, Any]]:
    """Compute a benchmark's tables.

    Args:
        benchmark: Its key.
        rows: The questions that were answered.
        complete: False if some questions are missing, so that halves of MMVP's pairs are left out of the pairs.

    Returns:
        The figure that is reported, a fraction of 1, and the table.

    Raises:
        ConfigurationError: If a pair of MMVP is not complete, and ``complete`` is true.
    """
    if benchmark == "mme-realworld-lite":
        tree = scores.mme_realworld_tree(rows)
        return tree["Overall"], tree
    if benchmark.startswith("hrbench"):
        table = scores.cycles(rows)
        return table["Average"]["all"], dict(table)
    if benchmark == "mmvp":
        means = scores.pairs(rows, strict=complete)
        return means["Average"], dict(means)
    if benchmark == "hallusionbench":
        percent = scores.hallusion(rows)
        return scores.three_means(percent) / 100, dict(percent)
    if benchmark == "blink":
        return scores.mean(rows), scores.categories(rows) | {"mean of sub tasks": scores.blink_group(rows)}
    return scores.mean(rows), dict(scores.categories(rows))
