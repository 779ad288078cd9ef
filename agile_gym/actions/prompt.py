"""The words that a model reads: the task at the start, and the feedback to each turn.

``IMAGE_MARK`` stands wherever an image belongs; the images follow in the same order. What a model wrote is never
repeated here but through `agile_gym.actions.primitives.quote`, so that it cannot bring marks or tags of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from agile_gym.actions.primitives import ActionError
from agile_gym.actions.recipes import Board
from agile_gym.actions.workspace import Workspace

__all__ = [
    "IMAGE_MARK",
    "code_instructions",
    "done_text",
    "error_text",
    "result_text",
    "task_text",
    "tool_instructions",
]

IMAGE_MARK = "<image>"

_RULES = (
    "A picture was cut into {rows} x {cols} equal pieces (rows x columns), which were shuffled. The pieces are named "
    "{names} in the order in which you see them. Find the order that restores the picture.\n"
    "{state}\n"
    "You have {turns}. In each, reason inside <think>...</think>, then write exactly one block: either {action}, "
    "which runs operations and shows you at most one image, or <answer>...</answer>, which ends the task.\n"
    "{functions}\n"
    "The answer is a JSON list, row by row from the top left: <answer>{example}</answer>"
)
_STATE = "The board is the list state, row by row; at first state = {state}."
_STATE_ROTATED = (
    "Pieces were also turned by 0, 90, 180 or 270 degrees. The board is the list state of [piece, angle] pairs, row by "
    "row, where angle is how far you have turned the piece clockwise; at first state = {state}."
)
_CODE_FUNCTIONS = (
    "In a code block you can write lines such as\n"
    'state[0], state[1] = state[1], state[0]  (swap the pieces at two places; or swap("A", "B"), or state = [...])'
    "{turn}\n"
    "observation_image_1 = observation(state)  (show the board)\n"
    "crop_image_1 = crop(image_list[0], [0.5, 0.0, 1.0, 1.0])  (a part of an image: x1, y1, x2, y2 from 0 to 1; "
    "image_list holds the pieces, and every result can be used by its name)\n"
    "zoom_image_1 = zoom(crop_image_1, 2.0)  (scale an image)\n"
    "rotate_image_1 = rotate(image_list[0], 90)  (rotate an image counter-clockwise)"
)
_CODE_TURN = '\nturn("A", 90)  (turn a piece clockwise)'
_TOOL_FUNCTIONS = (
    'A tool call is JSON such as {{"name": "swap", "arguments": {{"first": "A", "second": "B"}}}}. The tools are\n'
    "swap(first, second): exchange two pieces; arrange(order): put all pieces into a new order;{turn}\n"
    "observe(): show the board; crop(image, box): a part of a piece or of an earlier result, where box is "
    "[x1, y1, x2, y2] from 0 to 1;\n"
    "zoom(image, factor): scale an image; rotate(image, angle): rotate an image counter-clockwise."
)
_TOOL_TURN = " turn(piece, angle): turn a piece clockwise;"


def code_instructions(*, rotations: bool) -> str:
    """Return how actions are written in the code dialect."""
    return _CODE_FUNCTIONS.format(turn=_CODE_TURN if rotations else "")


def tool_instructions(*, rotations: bool) -> str:
    """Return how actions are written as tool calls."""
    return _TOOL_FUNCTIONS.format(turn=_TOOL_TURN if rotations else "")


def task_text(workspace: Workspace, action_tag: str, instructions: str, max_turns: int, captions: Sequence[str]) -> str:
    """Return the text of the first observation: task, rules, and the images with their captions.

    Args:
        workspace: The episode at its start.
        action_tag: Name of the tag that holds actions in the dialect used.
        instructions: How actions are written in it.
        max_turns: Number of turns.
        captions: What each image shown is, such as ``"Image A"``.

    Returns:
        The text, with one image mark an image.
    """
    names = workspace.names
    rules = _RULES.format(
        rows=workspace.layout.rows,
        cols=workspace.layout.cols,
        names=f"{names[0]} and {names[1]}" if len(names) == 2 else f"{names[0]} to {names[-1]}",
        state=(_STATE_ROTATED if workspace.rotations else _STATE).format(state=_state_text(workspace)),
        turns="1 turn" if max_turns == 1 else f"{max_turns} turns",
        action=f"<{action_tag}>...</{action_tag}>",
        functions=instructions,
        example=json.dumps(workspace.state_list(workspace.order[::-1])),
    )
    return "\n".join([rules, *(f"{caption}: {IMAGE_MARK}" for caption in captions)])


def result_text(workspace: Workspace, shown: str | None, turns_left: int, *, well_formed: bool = True) -> str:
    """Return the feedback to a turn that was carried out.

    Args:
        workspace: The episode after the turn.
        shown: Key of the image that is shown, or None.
        turns_left: Turns that are left.
        well_formed: Whether the turn kept to the tags; if not, a line says what to do.

    Returns:
        The text, with one image mark if an image is shown.
    """
    # A key such as crop_image_1@7 belongs to a name that was used again.
    image = "No image was asked for." if shown is None else f"{shown.partition('@')[0]}: {IMAGE_MARK}"
    if shown is not None:
        picture = workspace.images[shown].operation
        if isinstance(picture, Board) and picture.order != workspace.order:
            image += " (it shows another order than the state)"
    note = "" if well_formed else "\nBegin each turn with one <think>...</think> block."
    return f"{image}\nstate = {_state_text(workspace)}\n{_turns_text(turns_left)}{note}"


def error_text(error: ActionError, workspace: Workspace, turns_left: int) -> str:
    """Return the feedback to a turn that could not be carried out."""
    return (
        f"Error ({error.kind}): {error.message}\nNothing was changed: state = {_state_text(workspace)}\n"
        f"{_turns_text(turns_left)}"
    )


def done_text(*, answered: bool) -> str:
    """Return the last feedback of an episode; to an answer it tells nothing of its truth."""
    return "The answer was received." if answered else "The task is over, without an answer."


def _turns_text(turns_left: int) -> str:
    return "1 turn left." if turns_left == 1 else f"{turns_left} turns left."


def _state_text(workspace: Workspace) -> str:
    if workspace.rotations:
        return json.dumps(workspace.state_list())
    names = workspace.names
    return '["' + '", "'.join([names[piece] for piece in workspace.order]) + '"]'
