"""Rules of MMMU: letters of multiple choice, and candidates of open questions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["lmms_mmmu_choice", "mmmu_official_choice", "mmmu_open", "mmmu_open_parse"]

_ENDS = (",", ".", "!", "?", ";", ":", "'")
MIN_WORDS = 5
"""A reply must have more words than these for the texts of options to be looked for."""


def mmmu_official_choice(reply: str, choices: Mapping[str, str]) -> str | None:
    """Return the letter by MMMU's own rule, or None where that draws one at random."""
    return _choice(reply, choices, (" {} ",))


def lmms_mmmu_choice(reply: str, choices: Mapping[str, str]) -> str | None:
    """Return the letter by lmms-eval's rule for MMMU, or None where that draws one at random."""
    return _choice(reply, choices, ("{} ", "{}."))


def _choice(reply: str, choices: Mapping[str, str], forms: Sequence[str]) -> str | None:
    text = reply
    for mark in _ENDS:
        text = text.strip(mark)
    text = f" {text} "
    found, places = [letter for letter in choices if f"({letter})" in text], "({})"
    for form in forms:
        if not found:
            found, places = [letter for letter in choices if form.format(letter) in text], " {} "
    if found:
        return max(found, key=lambda letter: text.rfind(places.format(letter)))  # the first of equal ones
    if len(text.split()) <= MIN_WORDS:
        return None
    lowered = text.lower()
    found = [letter for letter, option in choices.items() if option.lower() in lowered]
    return max(found, key=lambda letter: lowered.rfind(choices[letter].lower()), default=None)


_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_COMMAS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")
_SIMPLE = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")


def mmmu_open_parse(reply: str) -> set[str | float]:
    """Return the candidates for the answer of an open question: texts in lower case, and numbers of 2 places."""
    tails = _tails(reply.strip().strip(".").lower())
    numbers = [
        number for tail in tails for pattern in (_COMMAS, _SCIENTIFIC, _SIMPLE) for number in pattern.findall(tail)
    ]
    return {value for text in (*tails, *numbers) for value in _normalised(text)}


def mmmu_open(reply: str, answer: str | Sequence[str]) -> bool:
    """Return whether a reply to an open question is right by MMMU's rule.

    Args:
        reply: The reply.
        answer: The right answer, or several, any of which will do.
    """
    answers = [value for text in ([answer] if isinstance(answer, str) else answer) for value in _normalised(text)]
    return any(_meets(candidate, answers) for candidate in mmmu_open_parse(reply))


def _meets(candidate: str | float, answers: Iterable[str | float]) -> bool:
    if isinstance(candidate, str):
        return any(isinstance(answer, str) and answer in candidate for answer in answers)
    return candidate in answers


def _tails(text: str) -> list[str]:
    """Return, for each line, the shortest text after a word that announces a result; without any, the whole text."""
    lines, found = text.split("\n"), list[str]()
    for number, line in enumerate(lines):
        indicators = (*_INDICATORS, "=") if number == len(lines) - 1 else _INDICATORS
        shortest = ""
        for indicator in indicators:
            if indicator in line:
                tail = line.rpartition(indicator)[2].strip()
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in _ENDS:
            found.append(shortest)
    return found or [text]


def _normalised(text: str) -> list[str | float]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]
