"""Rules by which an answer in answer tags is read and compared with the right ones, exactly and without a judge.

An answer that a rule cannot read, such as a letter that is no option, is no answer; one that it can read is right or
wrong. Numbers are compared as fractions, so that no rounding decides.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, TypeVar, get_args

from agile_gym.actions.primitives import ActionError, quote

__all__ = ["MAX_ANSWER", "RULES", "AnswerKey", "Rule", "infer_rule", "normalise", "read_number", "read_yes_no"]

Rule = Literal["choice", "yes_no", "number", "text", "exact"]
_T = TypeVar("_T")
RULES: tuple[Rule, ...] = get_args(Rule)
"""Option letter; yes or no; number with tolerance; text without case, marks and articles; text as it stands."""
MAX_ANSWER = 1000
"""Longest answer that is read, in characters."""

_AROUND = " \t\r\n.,;:!?()[]{}*'\"`"
_LETTER = re.compile(r"\(?\s*(?:option\s+|answer\s*:?\s*)?\(?([A-Za-z])\s*(?:[).:]\s*(.*))?", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,2}(?!\d))?", re.ASCII
)
_PLAIN = re.compile(r"[-+]?[\d,]*\.?\d+")
_DIGIT = re.compile(r"\d")
_ARTICLES = frozenset(("a", "an", "the"))
_DROPPED = re.compile(r"(?<!\d)[.'\u2019]|[.'\u2019](?!\d)")
_SEPARATED = re.compile(r"(?<!\d)[^\w\s%]|[^\w\s%](?!\d)|[^\w\s.,%]|_")
_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_MAX_DIGITS = 60


def normalise(text: str) -> str:
    """Return a text in lower case, in compatible characters, without marks, articles and superfluous blanks.

    Marks between digits stay, so that 1.5 is not 15. A text that is nothing but marks or articles keeps them.
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    words = _SEPARATED.sub(" ", _DROPPED.sub("", folded)).split()
    return " ".join([word for word in words if word not in _ARTICLES]) or folded


def read_number(text: str) -> Fraction | None:
    """Return the one number in a text, or None if there is none or more than one.

    Digits may be grouped by commas, a slash makes a fraction, and a text that is a word from zero to twenty is one.
    """
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-").replace("\u2044", "/")
    text = text.lstrip(_AROUND.replace(".", "")).rstrip(_AROUND)
    if text.casefold() in _WORDS:
        return Fraction(_WORDS.index(text.casefold()))
    found = _NUMBER.findall(text)
    if any(len(number) > _MAX_DIGITS for number in found) or len(_DIGIT.findall("".join(found))) < len(
        _DIGIT.findall(text)
    ):
        return None
    if len(found) == 2 and re.search(rf"{re.escape(found[0])}\s*/\s*{re.escape(found[1])}", text):
        above, below = (_fraction(number) for number in found)
        return above / below if below else None
    return _fraction(found[0]) if len(found) == 1 else None


def _fraction(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))


def read_yes_no(text: str) -> str | None:
    """Return ``"yes"`` or ``"no"`` if the text, or its first word before a comma or stop, is that; else None."""
    word = re.split(r"[,.;:!\n]", text.strip(_AROUND).casefold(), maxsplit=1)[0].strip(_AROUND)
    return word if word in ("yes", "no") else None


def infer_rule(answers: Sequence[str], choices: Mapping[str, str]) -> Rule:
    """Return the rule that fits a question: a choice where there are options, else yes or no, a number, or a text."""
    if choices:
        return "choice"
    if all(answer.strip().casefold() in ("yes", "no") for answer in answers):
        return "yes_no"
    if all(
        re.fullmatch(r"[-+]?[\d,]*\.?\d+", answer.strip()) and read_number(answer) is not None for answer in answers
    ):
        return "number"
    return "text"


@dataclass(frozen=True, slots=True)
class AnswerKey:
    """The right answers to a question and the rule that compares with them.

    Attributes:
        rule: One of `RULES`.
        answers: The right answers, of which any will do: of a choice, letters.
        choices: Texts of the options by letter, in order.
        tolerance: Largest distance of a number from the right one.
        relative_tolerance: The same as a fraction of the right one; the larger of the two counts.
    """

    rule: Rule
    answers: tuple[str, ...]
    choices: Mapping[str, str] = field(default_factory=dict[str, str])
    tolerance: float = 0.0
    relative_tolerance: float = 0.0

    def problem(self) -> str | None:
        """Return the reason why no answer could be right, as part of a sentence, or None."""
        if not self.answers or not all(answer.strip() for answer in self.answers):
            return "there is no answer"
        if any(len(answer) > MAX_ANSWER for answer in self.answers):
            return f"the answer has more than {MAX_ANSWER} characters"
        first = f"the answer {self.answers[0]!r:.40}"
        if self.rule == "choice" and not set(self.answers) <= set(self.choices):
            return f"{first} is none of the choices {', '.join(self.choices) or '(none)'}"
        if self.rule == "yes_no" and any(read_yes_no(answer) is None for answer in self.answers):
            return f"{first} is neither yes nor no"
        if self.rule == "number" and any(read_number(answer) is None for answer in self.answers):
            return f"{first} is no number"
        return None

    def judge(self, text: str) -> bool:
        """Return whether an answer is right.

        Args:
            text: The text between the answer tags.

        Raises:
            ActionError: If the rule cannot read it; the message describes the form, never the right answer.
        """
        text = text.strip()
        if not text or len(text) > MAX_ANSWER:
            problem = f"This one has more than {MAX_ANSWER} characters" if text else "This one is empty"
            raise ActionError("bad_answer", f"{self.form()} {problem}.")
        match self.rule:
            case "choice":
                return self._need(self._letter(text), text) in self.answers
            case "yes_no":
                return self._need(read_yes_no(text), text) in map(read_yes_no, self.answers)
            case "number":
                return self._near(self._need(read_number(text), text))
            case "exact":
                return text in (answer.strip() for answer in self.answers)
            case "text":
                return normalise(text) in map(normalise, self.answers)

    def form(self) -> str:
        """Return a sentence on the form of the answer."""
        match self.rule:
            case "choice":
                letters = list(self.choices)
                return f"The answer must be the letter of one option, {letters[0]} to {letters[-1]}."
            case "yes_no":
                return "The answer must be yes or no."
            case "number":
                return "The answer must be one number."
            case "exact":
                return "The answer must be a text, written exactly."
            case "text":
                return "The answer must be a few words."

    def _need(self, read: _T | None, text: str) -> _T:
        if read is None:
            raise ActionError("bad_answer", f"{self.form()} {quote(' '.join(text.split()))} is not.")
        return read

    def _near(self, number: Fraction) -> bool:
        for answer in self.answers:
            right = read_number(answer)
            if right is not None:
                allowed = max(Fraction(repr(self.tolerance)), Fraction(repr(self.relative_tolerance)) * abs(right))
                if abs(number - right) <= allowed:
                    return True
        return False

    def _letter(self, text: str) -> str | None:
        """Return the letter of the option that an answer names: by letter, by text, or by both, which must agree."""
        named = [letter for letter, option in self.choices.items() if normalise(option) == normalise(text)]
        if text in self.choices:
            return text
        found = _LETTER.fullmatch(text.strip(" \t\r\n*'\"`"))
        letter = found[1].upper() if found else ""
        if found and letter in self.choices:
            rest = (found[2] or "").strip(_AROUND)
            if not rest or normalise(rest) == normalise(self.choices[letter]):
                return letter
        return named[0] if len(named) == 1 else None
