"""Alarms about the figures of a run, each with a remedy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import NamedTuple

__all__ = ["Alarm", "AlarmSpan", "alarm_spans", "alarms", "find_alarms"]

History = Sequence[Mapping[str, float]]

RECENT = 3
"""Iterations that are looked at together, so that a single odd one raises no alarm."""
WINDOW = 5
"""Likewise for the return, which varies more."""
ENTROPY_SHARE, ENTROPY_NOTHING = 0.1, 0.005
"""Entropy has collapsed under this fraction of its start, or under so many nats a token ..."""
ACC_DONE = 0.9
"""... unless so many puzzles are solved."""
CONSTANT_SHARE = 0.95
FALL = 0.1
"""Fall of a fraction, or of a return, that raises an alarm."""
VALID_LEAST = 0.5
CUT_SHARE = 0.1
MISMATCH = 0.002
"""Nats a token. Rounding in bfloat16 is far below; a temperature of 0.8 for 1 gives several times as much."""
ABOVE_SHARE = 0.1
"""Fraction of the tokens whose ratio, or whose sequence's, is above the cap of the correction."""
CLIP_SHARE = 0.3
RETRY_SHARE = 0.25
MEMORY = 500
"""Iterations back to which the best is looked for, so that a long run costs no more and more time."""


class Alarm(NamedTuple):
    """An alarm of one iteration.

    Attributes:
        kind: Its name, such as ``"entropy"``.
        text: The problem, and a remedy.
    """

    kind: str
    text: str


class AlarmSpan(NamedTuple):
    """The iterations of a run in which an alarm was raised.

    Attributes:
        stage: The stage, or "".
        first: The first iteration with it.
        last: The last one.
        times: Iterations with it.
        alarm: The alarm as it was at last.
    """

    stage: str
    first: int
    last: int
    times: int
    alarm: Alarm


def alarms(history: History) -> list[str]:
    """Return the alarms after the last iteration, as sentences.

    Args:
        history: Records of a run, see `agile_gym.reporting.runlog.RunLog`, in order. Only those of the last record's
            stage are looked at; figures that are missing raise no alarm.

    Returns:
        Sentences: the problem, and a remedy. Empty if there is no alarm.
    """
    return [alarm.text for alarm in find_alarms(history)]


def find_alarms(history: History) -> list[Alarm]:
    """Return the alarms after the last iteration; see `alarms`."""
    if not history:
        return []
    stage = history[-1].get("stage")
    mine = [record for record in history if record.get("stage") == stage]
    if len(mine) > RECENT + MEMORY:
        mine = [*mine[:RECENT], *mine[-MEMORY:]]
    found = [(kind, check(mine)) for kind, check in _CHECKS]
    return [Alarm(kind, text) for kind, text in found if text is not None]


def alarm_spans(history: History) -> list[AlarmSpan]:
    """Return all alarms that were raised in the course of a run.

    Args:
        history: Records of a run, in order.

    Returns:
        One entry for each stage and kind of alarm, in the order in which they were raised first.
    """
    spans: dict[tuple[str, str], AlarmSpan] = {}
    for end, record in enumerate(history, 1):
        stage, iteration = str(record.get("stage", "")), int(record.get("iteration", end))
        for alarm in find_alarms(history[:end]):
            known = spans.get((stage, alarm.kind))
            first, times = (iteration, 0) if known is None else (known.first, known.times)
            spans[stage, alarm.kind] = AlarmSpan(stage, first, iteration, times + 1, alarm)
    return list(spans.values())


def _values(history: History, name: str) -> list[float]:
    return [record[name] for record in history if name in record]


def _recent(history: History, name: str, count: int = RECENT) -> float | None:
    """Return the mean of the last values, or None if there are too few."""
    values = _values(history, name)
    return fmean(values[-count:]) if len(values) >= count else None


def _best_before(values: Sequence[float], count: int) -> float | None:
    """Return the best mean of ``count`` values in a row, but for the last ones."""
    earlier = values[:-count]
    if len(earlier) < count:
        return None
    total = best = sum(earlier[:count])
    for place in range(count, len(earlier)):
        total += earlier[place] - earlier[place - count]
        best = max(best, total)
    return best / count


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _not_finite(history: History) -> str | None:
    recent = history[-RECENT:]
    bad = sum(_values(recent, "learner/not_finite")) + sum(
        not math.isfinite(value) for name in ("learner/grad_norm", "learner/loss") for value in _values(recent, name)
    )
    skipped = sum(_values(recent, "learner/skipped_steps"))
    if not skipped and not bad:
        return None
    what = f"{skipped:.0f} steps were skipped" if skipped else "no step was skipped"
    return (
        f"In the last {len(recent)} iterations a loss or gradient was not a finite number; {what}. Lower the learning "
        "rate; with a 16-bit type, try bfloat16 or float32; go on from an earlier checkpoint if it stays."
    )


def _entropy(history: History) -> str | None:
    values = _values(history, "learner/entropy")
    acc = _recent(history, "acc")
    if len(values) <= RECENT or acc is None or acc >= ACC_DONE:
        return None
    start, now = fmean(values[:RECENT]), median(values[-RECENT:])
    if now >= ENTROPY_SHARE * start and now >= ENTROPY_NOTHING:
        return None
    return (
        f"The entropy has fallen from {start:.3g} to {now:.3g} nats a token while Acc is only {_percent(acc)}: the "
        "model repeats itself and explores no more. Go on from an earlier checkpoint with a lower learning rate, a "
        "higher temperature, a larger clip_high, or a small entropy_coef such as 0.001."
    )


def _constant(history: History) -> str | None:
    recent = _values(history, "share_constant")[-RECENT:]
    if len(recent) < RECENT or min(recent) < CONSTANT_SHARE:
        return None
    acc = _recent(history, "acc")
    if acc is not None and acc > ACC_DONE:
        advice = "Nearly all puzzles are solved: give a lower level or a larger grid, or stop here."
    elif acc is not None and acc < 0.05:
        advice = (
            "Nearly none is solved: train longer in the stages before, give puzzles with more pieces in place or a "
            "smaller grid, or a reward that counts single pieces."
        )
    else:
        advice = "Raise the temperature or group_size, so that the episodes of a puzzle differ; or use a curriculum."
    return (
        f"In the last {RECENT} iterations {_percent(fmean(recent))} of the groups had no variance, so no gradient. "
        f"{advice}"
    )


def _falls(name: str, what: str) -> Callable[[History], str | None]:
    def check(history: History) -> str | None:
        now, best = _recent(history, name), _best_before(_values(history, name), RECENT)
        if now is None or best is None or now >= best - FALL:
            return None
        return (
            f"The fraction of {what} fell from {_percent(best)} to {_percent(now)}: the model forgets the protocol. "
            "Go on from an earlier checkpoint with a lower learning rate, or a KL weight such as 0.01; look at "
            "episodes with agile-gym view."
        )

    return check


def _few_valid(history: History) -> str | None:
    now = _recent(history, "valid")
    if now is None or now >= VALID_LEAST:
        return None
    return (
        f"Only {_percent(now)} of the turns are valid actions: the model has not learned the protocol. Train it longer "
        "in the cold start, and look at episodes with agile-gym view."
    )


def _return_falls(history: History) -> str | None:
    values = _values(history, "return")
    best = _best_before(values, WINDOW)
    if best is None:
        return None
    now = fmean(values[-WINDOW:])
    steps = [abs(after - before) for before, after in itertools.pairwise(values)]
    noise = median(steps) / 0.954 / math.sqrt(WINDOW)  # the median of |x - y| is 0.954 standard deviations
    if best - now <= max(FALL, 3 * math.sqrt(2) * noise):
        return None
    return (
        f"The return has fallen from {best:.3f} to {now:.3f} (means of {WINDOW} iterations). Go on from the best "
        "checkpoint with a lower learning rate or more groups an iteration. Where a curriculum has moved to harder "
        "puzzles, this is no fault: look at the held-out Acc."
    )


def _held_out_falls(history: History) -> str | None:
    measured = [record for record in history if {"eval/acc", "eval/acc_low", "eval/acc_high"} <= record.keys()]
    if len(measured) < 2:
        return None
    last = measured[-1]
    best = max(measured[:-1], key=lambda record: record["eval/acc"])
    if last["eval/acc_high"] >= best["eval/acc_low"]:
        return None
    return (
        f"The held-out Acc has fallen from {_percent(best['eval/acc'])} in iteration {best.get('iteration', '?')} to "
        f"{_percent(last['eval/acc'])}, outside of its 95% interval. Take the model of that iteration, and train with "
        "a lower learning rate or on more photographs."
    )


def _mismatch(history: History) -> str | None:
    # A mean over tokens: the largest difference is, in bfloat16, that of one unlikely token.
    divergence = history[-1].get("learner/approx_kl_first")
    if divergence is None or not divergence > MISMATCH:
        return None
    lag = history[-1].get("lag_max", 0.0)
    if lag:
        return (
            f"Before the first step, the tokens' distribution diverges by {divergence:.2g} nats a token from the one "
            f"they were sampled from, up to {lag:.0f} updates ago: the policy moves too far for groups played ahead. "
            "Lower max_lag or the learning rate, or set mismatch_correction."
        )
    return (
        f"Before the first step, the tokens' distribution diverges by {divergence:.2g} nats a token from the one they "
        "were sampled from: sampling and training do not agree. Check that both use one type (float32, or "
        "bfloat16 in both), one temperature and the same weights, and that dropout is off."
    )


def _above_cap(history: History) -> str | None:
    now = _recent(history, "learner/mismatch_clipped")
    if now is None or now <= ABOVE_SHARE:
        return None
    if history[-1].get("lag_max"):
        return (
            f"{_percent(now)} of the tokens, or of those in sequences that are masked as a whole, have become likelier "
            "than mismatch_cap allows since their groups were played. Lower max_lag or the learning rate, or set "
            "mismatch_correction = 'token_truncate', which goes by single tokens and leaves none out."
        )
    return (
        f"{_percent(now)} of the tokens, or of those in sequences that are masked as a whole, have become likelier "
        "than mismatch_cap allows, only because the learner computes otherwise than the sampler. Use one type in both, "
        "or mismatch_correction = 'token_truncate', which goes by single tokens and leaves none out."
    )


def _clipped(history: History) -> str | None:
    low, high = _recent(history, "learner/clip_frac_low"), _recent(history, "learner/clip_frac_high")
    if low is None or high is None or low + high <= CLIP_SHARE:
        return None
    return (
        f"{_percent(low + high)} of the tokens are clipped: the policy moves too far within an iteration. Lower the "
        "learning rate, or the number of minibatches or epochs."
    )


def _cut_short(history: History) -> str | None:
    now = _recent(history, "cut_short")
    if now is None or now <= CUT_SHARE:
        return None
    return (
        f"{_percent(now)} of the turns were cut off by the limit of tokens. Raise max_new_tokens, or set "
        "mask_truncated so that such episodes are not trained on."
    )


def _retries(history: History) -> str | None:
    recent = history[-RECENT:]
    retries, lost = sum(_values(recent, "group_retries")), sum(_values(recent, "groups_lost"))
    played = sum(_values(recent, "groups_played"))
    if not played or (retries / played <= RETRY_SHARE and not lost):
        return None
    what = f"{retries:.0f} groups had to be played again" + (f" and {lost:.0f} were given up" if lost else "")
    return (
        f"Of {played:.0f} groups in the last {len(recent)} iterations, {what}: runners die, hang or raise. Read their "
        "logs; give them more memory, fewer concurrent episodes (rollout_batch), or more time (sample_timeout_s)."
    )


def _learner_died(history: History) -> str | None:
    rebuilt = _values(history[-RECENT - 1 :], "learners_rebuilt")
    if not rebuilt or rebuilt[-1] <= (rebuilt[0] if len(rebuilt) > RECENT else 0.0):
        return None
    return (
        "Learners died lately and were built anew. Read their logs; if memory ran out, lower micro_batch_tokens or set "
        "gradient_checkpointing."
    )


_CHECKS: tuple[tuple[str, Callable[[History], str | None]], ...] = (
    ("not_finite", _not_finite),
    ("entropy", _entropy),
    ("constant", _constant),
    ("format", _falls("reward_format", "episodes in the right format")),
    ("valid", _falls("valid", "valid turns")),
    ("few_valid", _few_valid),
    ("return", _return_falls),
    ("held_out", _held_out_falls),
    ("mismatch", _mismatch),
    ("above_cap", _above_cap),
    ("clipped", _clipped),
    ("cut_short", _cut_short),
    ("retries", _retries),
    ("learner_died", _learner_died),
)
