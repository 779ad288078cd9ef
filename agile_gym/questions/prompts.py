"""Default prompts of the benchmarks, as VLMEvalKit has them, with a mark for each picture."""

from __future__ import annotations

import re

from agile_gym.actions.prompt import IMAGE_MARK
from agile_gym.questions.records import Picture, Question

__all__ = ["write_prompt"]

_HINT = "Hint: {hint}\n"
_QUESTION = "Question: {question}\n"
_OPTIONS = "Options:\n"
_OPTION = "{letter}. {text}\n"
_SELECT = "Please select the correct answer from the options above. \n"
_MME = "{question} The choices are listed below:\n{options}\n"
_MME_SELECT = (
    "Select the best answer to the above multiple-choice question based on the image. Respond with only the letter "
    "(A, B, C, D, or E) of the correct option. \nThe best answer is:"
)
_PLACE = re.compile(r"<image ([1-9])>")


def write_prompt(question: Question) -> tuple[str, tuple[Picture, ...]]:
    """Write the prompt of a question.

    Returns:
        The text, with a mark ``<image>`` for each picture, and the pictures of the marks, in order. All come first, but
        for MMMU, where they stand where the question names them; those that it does not name are then left out.
    """
    text = _text(question).replace(IMAGE_MARK, "<image >")  # a text of the data is no mark
    pictures = question.pictures
    if question.benchmark == "mmmu":
        named = [int(number) for number in _PLACE.findall(text)]
        if named and max(named) <= len(pictures):
            return _PLACE.sub(IMAGE_MARK, text), tuple(pictures[number - 1] for number in named)
    return IMAGE_MARK * len(pictures) + text, pictures


def _text(question: Question) -> str:
    if question.benchmark == "mme-realworld-lite":
        options = "\n".join(f"({letter}) {text}" for letter, text in question.choices.items())
        return _MME.format(question=question.text, options=options) + _MME_SELECT
    if question.kind == "yes_no" or (question.kind == "open" and question.benchmark == "realworldqa"):
        return question.text
    text = _HINT.format(hint=question.hint) if question.hint.strip() else ""
    text += _QUESTION.format(question=question.text)
    if not question.choices:
        return text
    options = "".join(_OPTION.format(letter=letter, text=option) for letter, option in question.choices.items())
    return text + _OPTIONS + options + _SELECT
