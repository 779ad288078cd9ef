"""The text of the first observation: a template, filled in for a grid, a dialect and a number of turns.

It follows from the options alone: nothing in it, the worked example included, depends on photograph or solution.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from agile_gym.actions.dialects import Dialect, write_answer
from agile_gym.actions.primitives import Answer, Crop, Observe, Primitive, Swap, Turn
from agile_gym.actions.prompt import IMAGE_MARK, state_text
from agile_gym.actions.template import PromptTemplate
from agile_gym.actions.workspace import Workspace

__all__ = ["task_text", "worked_example"]

_ROTATIONS = (
    "The pieces were also turned by 0, 90, 180 or 270 degrees. Each entry of state is a pair [piece, angle]; angle is "
    "how far you have turned the piece clockwise."
)
_ROTATIONS_BRIEF = "turned"


def task_text(
    template: PromptTemplate, workspace: Workspace, dialect: Dialect, max_turns: int, captions: Sequence[str]
) -> str:
    """Return the text of the first observation.

    Args:
        template: What it says.
        workspace: The episode at its start.
        dialect: How actions are written.
        max_turns: Number of turns.
        captions: What each image shown is, such as ``"Image A"``.

    Returns:
        The text, with one image mark a caption.
    """
    names = workspace.names
    rotations = _ROTATIONS_BRIEF if template.brief else _ROTATIONS
    fields: dict[str, Callable[[], str]] = {
        "rows": lambda: str(workspace.layout.rows),
        "cols": lambda: str(workspace.layout.cols),
        "pieces": lambda: str(len(names)),
        "names": lambda: f"{names[0]} and {names[1]}" if len(names) == 2 else f"{names[0]} to {names[-1]}",
        "state": lambda: state_text(workspace),
        "rotations": lambda: rotations if workspace.rotations else "",
        "turns": lambda: "1 turn" if max_turns == 1 else f"{max_turns} turns",
        "action": lambda: f"<{dialect.action_tag}>...</{dialect.action_tag}>",
        "functions": lambda: dialect.instructions(workspace),
        "example": lambda: "\n".join(line for turn in worked_example(workspace, dialect, max_turns) for line in turn),
        "answer": lambda: json.dumps(workspace.state_list(_swapped(workspace), _turned(workspace))),
        "images": lambda: "\n".join([f"{caption}: {IMAGE_MARK}" for caption in captions]),
    }
    return template.render(fields)


def worked_example(workspace: Workspace, dialect: Dialect, max_turns: int) -> list[tuple[str, ...]]:
    """Write a few turns that the environment can carry out, in any grid.

    The first and the last piece change places, which is a fixed choice: it has nothing to do with the solution.

    Args:
        workspace: The episode at its start.
        dialect: How actions are written. A turn that it has no words for is left out.
        max_turns: Number of turns; a longer example is cut, and ends with its answer all the same.

    Returns:
        For each turn its text and, but for the answer, a line on what is shown then.
    """
    first, last = workspace.names[0], workspace.names[-1]
    move: list[Primitive] = [Swap(0, len(workspace.names) - 1), Observe()]
    look: list[Primitive] = [Crop("observation_image_1", (0.0, 0.0, 1.0, 0.5))]
    change = "swap them and look"
    if workspace.rotations:
        move.insert(1, Turn(0, 90))  # the last piece, which lies there now
        change = f"swap them, turn {last} upright, and look"
    answer = Answer(
        tuple(workspace.names[piece] for piece in _swapped(workspace)),
        tuple(_turned(workspace)[piece] for piece in _swapped(workspace)) if workspace.rotations else None,
    )
    moves: list[tuple[list[Primitive], str, str]] = [
        (move, f"Perhaps {first} and {last} belong in each other's place: {change}.", "the board"),
        (look, "Look closer at the upper half of the board.", "the upper half of the board"),
    ]
    turns: list[tuple[str, ...]] = []
    for primitives, think, shown in moves[: max_turns - 1]:
        try:
            text = dialect.write(primitives, workspace, think)
        except (ValueError, NotImplementedError):
            break
        turns.append((text, f"(You are shown {shown}.)"))
    turns.append((write_answer(answer, "The borders fit everywhere."),))
    return turns


def _swapped(workspace: Workspace) -> tuple[int, ...]:
    """Return the piece at each place after the worked example."""
    order = workspace.order
    return (order[-1], *order[1:-1], order[0])


def _turned(workspace: Workspace) -> tuple[int, ...]:
    """Return the turn of each piece after the worked example."""
    return (*workspace.turns[:-1], 90) if workspace.rotations else workspace.turns
