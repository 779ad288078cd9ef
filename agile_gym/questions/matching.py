"""Rules that read the answer out of a reply, by name, as the code of the benchmarks applies them: pure functions.

A rule returns the letter of an option, or another short text, as its docstring has it. Faults of the original rules are
kept, since published figures contain them. No rule asks a model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from agile_gym.questions.mmmu import lmms_mmmu_choice, mmmu_official_choice

__all__ = [
    "CHOICE_RULES",
    "REFUSED",
    "lmms_blink",
    "lmms_hallusion_intern",
    "lmms_hrbench_mcq",
    "lmms_mmvp",
    "lmms_realworldqa_letter",
    "lmms_realworldqa_scored",
    "lmms_vstar",
    "mme_realworld",
    "mme_realworld_scored",
    "vlmevalkit_mcq",
    "vlmevalkit_mcq_2025h2",
    "vlmevalkit_yes_no",
]

REFUSED = "Z"
"""Result of a rule for a refusal; no option has this letter."""
FAILED = "Failed to obtain answer via API"
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
NEAR_END = 4
"""Words at the end of a reply among which a lone letter must stand."""
_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_STATED = re.compile(r"answer is\s*\**([a-d])", re.IGNORECASE)

Choices = Mapping[str, str]
"""Texts of the options by letter, in order."""


def vlmevalkit_mcq(reply: str, choices: Choices) -> str | None:
    """Return the letter chosen by the rule of VLMEvalKit since May 2026, `REFUSED`, or None for no answer."""
    return _lone_letter(reply, choices, near_end=True) or _stated(reply, choices) or _text(reply, choices, limit=True)


def vlmevalkit_mcq_2025h2(reply: str, choices: Choices) -> str | None:
    """Return the letter chosen by the rule of VLMEvalKit from July 2025 to May 2026; otherwise as `vlmevalkit_mcq`."""
    return _lone_letter(reply, choices, near_end=True) or _text(reply, choices, limit=True)


def lmms_hrbench_mcq(reply: str, choices: Choices) -> str | None:
    """Return the letter chosen by VLMEvalKit's rule before July 2025, which lmms-eval has for HR-Bench."""
    return _lone_letter(reply, choices, near_end=False) or _text(reply, choices, limit=False)


def _lone_letter(reply: str, choices: Choices, *, near_end: bool) -> str | None:
    if FAILED in reply:
        return None
    if any(refusal in reply for refusal in REFUSALS):
        return REFUSED
    words = reply.translate(_SEPARATORS).split()
    found = [letter for letter in choices if letter in words]
    if len(found) == 1:
        late = words.index(found[0]) >= len(words) - NEAR_END
        return found[0] if late or not near_end else None
    return REFUSED if not found and REFUSED in words else None


def _stated(reply: str, choices: Choices) -> str | None:
    """Return the letter after the first "answer is", which may begin a word."""
    if FAILED in reply:
        return None
    found = _STATED.search(reply)
    letter = found[1].upper() if found else None
    return letter if letter in choices else None


def _text(reply: str, choices: Choices, *, limit: bool) -> str | None:
    """Return the letter of the one option whose text the reply contains, if the reply is not too long."""
    texts = {letter: text.lower() for letter, text in choices.items()}
    if limit and len(reply) > 2 * sum(map(len, choices.values())):
        return None
    lowered = reply.lower()
    found = [letter for letter, text in texts.items() if text in lowered]
    return found[0] if len(found) == 1 else None


CHOICE_RULES: Mapping[str, Callable[[str, Choices], str | None]] = {
    "vlmevalkit_mcq": vlmevalkit_mcq,
    "vlmevalkit_mcq_2025h2": vlmevalkit_mcq_2025h2,
    "lmms_hrbench_mcq": lmms_hrbench_mcq,
    "mmmu_official_choice": mmmu_official_choice,
    "lmms_mmmu_choice": lmms_mmmu_choice,
}
"""The rules that choose among options by their letters and texts."""

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_GROUPED = re.compile(r"\d,\d")
_DOT = re.compile(r"\.(?!\d)")
MAX_DOTS = 32


def vlmevalkit_yes_no(reply: str) -> str:
    """Return ``"Yes"``, ``"No"`` or ``"Unknown"`` by VLMEvalKit's rule."""
    lowered = text = reply.lower()
    grouped = _GROUPED.search(lowered) is not None
    for mark in _PUNCTUATION:
        loose = grouped or f"{mark} " in lowered or f" {mark}" in lowered
        text = text.replace(mark, "" if loose else " ")
    words = _DOT.sub("", text, count=MAX_DOTS).split()
    yes, no = "yes" in words, "no" in words
    return "Unknown" if yes == no else "Yes" if yes else "No"


def lmms_hallusion_intern(reply: str) -> str:
    """Return ``"1"`` if a reply contains "yes", else ``"0"``: a rule that lmms-eval has switched off."""
    return "1" if "yes" in reply.lower() else "0"


_OPENINGS = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)
MAX_WORDS = 10
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def mme_realworld(reply: str) -> str:
    """Return the letter by MME-RealWorld's rule; empty for none."""
    text = reply.strip()
    for opening in _OPENINGS:
        text = text.replace(opening, "")
    found = re.search("[ABCDE]", text)
    if found:
        return found[0]
    if len(text.split()) > MAX_WORDS:
        return ""
    return next((letter for letter in "ABCDE" if text.lower() in f"({letter.lower()})"), "")


def mme_realworld_scored(reply: str) -> str:
    """Return the letter as VLMEvalKit scores MME-RealWorld: of the first answer tag, if there is one."""
    found = _TAGGED.search(reply)
    return mme_realworld(found[1].strip().upper() if found else reply)


_ENDS = " \n\t,.!?;:'\""
_RANKED: tuple[tuple[int, re.Pattern[str]], ...] = (
    (10, re.compile(r"^([A-D])\b")),
    (9, re.compile(r"([A-D])$")),
    (7, re.compile(r"(?i:answer is|answer:|choose|option|choice is)\s*\(?([A-D])\b")),
    (6, re.compile(r"\(([A-D])\)")),
    (5, re.compile(r"([A-D])\.")),
    (4, re.compile(r"([A-D]):")),
    (3, re.compile(r"([A-D])\)")),
    (2, re.compile(r"([A-D]) ")),
    (0, re.compile(r"([A-D])")),
)
"""Forms of an answer with their priorities; of the form after a phrase, the first place counts, of others the last."""
_FIRST = 7


def lmms_realworldqa_letter(reply: str) -> str:
    """Return the letter, A to D, by lmms-eval's rule for RealWorldQA; empty for none."""
    text = reply.strip(_ENDS)
    for priority, pattern in _RANKED:
        found = list(pattern.finditer(text))
        if found:
            return found[0 if priority == _FIRST else -1][1]
    return ""


def lmms_realworldqa_scored(reply: str, answer: str) -> bool:
    """Return whether a reply is right by lmms-eval's rule for RealWorldQA."""
    if answer.strip() in ("A", "B", "C", "D"):
        return lmms_realworldqa_letter(reply) == answer.strip()
    return reply.lower().strip().rstrip(".") == answer.lower()


_VSTAR = tuple(
    re.compile(pattern)
    for pattern in (
        r"^([A-D])",
        r"(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]*([A-D])",
        r"\(([A-D])\)",
        r"([A-D])[.)\]]",
        r"(?:^|\s)([A-D])(?:\s|$)",
    )
)


def lmms_vstar(reply: str) -> str | None:
    """Return the letter, A to D, by lmms-eval's rule for V*, or None."""
    text = reply.strip().upper()
    for pattern in _VSTAR:
        found = pattern.search(text)
        if found:
            return found[1]
    letters = re.findall("[A-D]", text)
    return letters[0] if len(letters) == 1 else None


_MMVP = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^\(?([AB])\)?\.?$",
        r"^([AB])[.\s]",
        r"answer is:?\s*\(?([AB])\)?",
        r"option\s*\(?([AB])\)?",
        r"\(?([AB])\)?(?:\s|$)",
    )
)


def lmms_mmvp(reply: str) -> str:
    """Return ``"A"`` or ``"B"`` by lmms-eval's rule for MMVP; empty for none."""
    text = reply.strip()
    for pattern in _MMVP:
        found = pattern.search(text)
        if found:
            return found[1].upper()
    first = text[:1].upper()
    return first if first in ("A", "B") else ""


def lmms_blink(reply: str) -> str:
    """Return the letter by lmms-eval's rule for BLINK, any from A to Z; empty for none."""
    found = re.match(r"[\s(]*([A-Za-z])", reply)
    return found[1].upper() if found else ""
