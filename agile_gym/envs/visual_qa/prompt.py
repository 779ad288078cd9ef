"""The text of a question: rules, functions, a worked example, the pictures, the question and its options."""

from __future__ import annotations

from collections.abc import Sequence

from agile_gym.actions.dialects import Dialect, write_answer
from agile_gym.actions.primitives import Answer, Crop, Primitive, Zoom
from agile_gym.actions.prompt import IMAGE_MARK, turns_text
from agile_gym.actions.workspace import Workspace
from agile_gym.questions.answers import AnswerKey, Rule

__all__ = ["EXAMPLES", "first_text"]

_RULES = (
    "Answer a question about {pictures}. You have {turns}, the answer included. In each, write your reasoning in "
    "<think>...</think> and then exactly one block:\n"
    "<{tag}>...</{tag}> looks closer: it asks for one image, which you see in the next message, with the turns left. "
    "Use one image operation a turn. What cannot be carried out costs a turn, too.\n"
    "<answer>...</answer> gives your answer and ends the task. {form}\n"
    "{functions}\n"
    "An example shows the form of the turns; it is not this question:\n"
    "{example}\n"
    "Here is the question:"
)
EXAMPLES: dict[Rule, str] = {"choice": "A", "yes_no": "yes", "number": "3", "text": "a word", "exact": "a word"}
"""An answer of each rule, for examples."""


def first_text(workspace: Workspace, dialect: Dialect, text: str, key: AnswerKey, turns: int, *, brief: bool) -> str:
    """Return the text of the first observation; nothing in it but the question depends on the right answer.

    Args:
        workspace: The episode at its start.
        dialect: Dialect of the turns.
        text: The question.
        key: The rule and the options.
        turns: Number of turns.
        brief: True for as few words as possible.

    Returns:
        The text, with one image mark a picture.
    """
    names = workspace.names
    asked = "\n".join(
        [
            *(f"{name}: {IMAGE_MARK}" for name in names),
            text,
            *(f"{letter}. {option}" for letter, option in key.choices.items()),
        ]
    )
    if brief:
        return f"{turns_text(turns, brief=True)}\n{asked}"
    rules = _RULES.format(
        pictures=f"the picture {names[0]}" if len(names) == 1 else f"the pictures {names[0]} to {names[-1]}",
        turns="1 turn" if turns == 1 else f"{turns} turns",
        tag=dialect.action_tag,
        form=key.form(),
        functions=dialect.instructions(workspace),
        example="\n".join(line for turn in _example(workspace, dialect, key, turns) for line in turn),
    )
    return f"{rules}\n{asked}"


def _example(workspace: Workspace, dialect: Dialect, key: AnswerKey, turns: int) -> list[Sequence[str]]:
    """Write a few turns that the environment can carry out, the last of which answers."""
    looks: list[tuple[Primitive, str, str]] = [
        (Crop(workspace.names[0], (0.0, 0.0, 0.5, 0.5)), "Look closer at the top left.", "the top left quarter")
    ]
    picture = workspace.images[workspace.names[0]]
    if max(picture.height / workspace.canvas[0], picture.width / workspace.canvas[1]) <= 1:  # else there is no room
        looks.append((Zoom("crop_image_1", 1.5), "It is small: show it larger.", "it larger"))
    lines: list[Sequence[str]] = []
    for primitive, think, shown in looks[: turns - 1]:
        try:
            written = dialect.write([primitive], workspace, think)
        except (ValueError, NotImplementedError):
            break
        lines.append((written, f"(You are shown {shown}.)"))
    answer = Answer((), text=next(iter(key.choices), EXAMPLES[key.rule]))
    return [*lines, (write_answer(answer, "Now it can be seen."),)]
