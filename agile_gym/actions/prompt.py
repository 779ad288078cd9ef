"""Texts that a model reads: instructions of the dialects, feedback, captions, and templates of the task.

``IMAGE_MARK`` stands wherever an image belongs; the images follow in the same order. A model's text is
repeated through `agile_gym.actions.primitives.quote` only, so that it cannot bring marks or tags of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agile_gym.actions.primitives import ActionError
from agile_gym.actions.workspace import Board, Workspace
from agile_gym.errors import ConfigurationError, did_you_mean

__all__ = [
    "FIELDS",
    "HIDDEN_IMAGE",
    "IMAGE_MARK",
    "MAX_TEMPLATE",
    "PROMPTS",
    "PromptTemplate",
    "code_instructions",
    "done_text",
    "error_text",
    "image_captions",
    "read_prompt",
    "result_text",
    "state_text",
    "tool_instructions",
    "turns_text",
]

IMAGE_MARK = "<image>"
HIDDEN_IMAGE = "[image no longer shown]"
"""Text that replaces an image that is no longer sent, as newer ones took its place."""

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
_CODE_LOOKS = (
    "In a code block you can write lines such as\n"
    "crop_image_1 = crop(image_1, [0.5, 0.0, 1.0, 1.0])  (a part of an image: x1, y1, x2, y2 from 0 to 1, from its top "
    "left; every result can be used by its name)\n"
    "zoom_image_1 = zoom(crop_image_1, 2.0)  (scale an image)\n"
    "rotate_image_1 = rotate(image_1, 90)  (rotate an image counter-clockwise)"
)
_CODE_TURN = '\nturn("A", 90)  (turn a piece clockwise)'
_TOOL_FUNCTIONS = (
    'A tool call is JSON such as {{"name": "swap", "arguments": {{"first": "A", "second": "B"}}}}. A turn can hold '
    "several, each in tags of its own. The tools are\n"
    "swap(first, second): exchange two pieces; arrange(order): put all pieces into a new order;{turn}\n"
    "observe(): show the board; crop(image, box): a part of a piece or of an earlier result, where box is "
    "[x1, y1, x2, y2] from 0 to 1;\n"
    "zoom(image, factor): scale an image; rotate(image, angle): rotate an image counter-clockwise."
)
_TOOL_LOOKS = (
    'A tool call is JSON such as {"name": "crop", "arguments": {"image": "image_1", "box": [0.5, 0, 1, 1]}}. A turn '
    "can hold several, each in tags of its own. The tools are\n"
    "crop(image, box): a part of an image, where box is [x1, y1, x2, y2] from 0 to 1, from its top left;\n"
    "zoom(image, factor): scale an image; rotate(image, angle): rotate an image counter-clockwise. Results can be used "
    "by their names, such as crop_image_1."
)
_TOOL_TURN = " turn(piece, angle): turn a piece clockwise;"


def code_instructions(*, rotations: bool, board: bool = True) -> str:
    """Return the instructions for writing actions in the code dialect; without a board, looks at pictures only."""
    if not board:
        return _CODE_LOOKS
    return _CODE_FUNCTIONS.format(turn=_CODE_TURN if rotations else "")


def tool_instructions(*, rotations: bool, board: bool = True) -> str:
    """Return the instructions for writing actions as tool calls; without a board, looks at pictures only."""
    if not board:
        return _TOOL_LOOKS
    return _TOOL_FUNCTIONS.format(turn=_TOOL_TURN if rotations else "")


def image_captions(names: Sequence[str], initial_view: str, *, reference: bool, brief: bool = False) -> list[str]:
    """Return the captions of the images of the first observation.

    Args:
        names: Names of the pieces.
        initial_view: Initial view: ``"pieces"``, ``"board"`` or ``"both"``.
        reference: True if the whole picture is shown, too.
        brief: True for as few words as possible.

    Returns:
        One caption an image, in the images' order.
    """
    captions: list[str] = []
    if initial_view != "board":
        captions += names if brief else [f"Image {name}" for name in names]
    if initial_view != "pieces":
        captions.append("board" if brief else "The board")
    if reference:
        captions.append("reference" if brief else "The whole picture (reference)")
    return captions


def result_text(
    workspace: Workspace, shown: str | None, turns_left: int, *, well_formed: bool = True, brief: bool = False
) -> str:
    """Return the feedback to a turn that was carried out.

    Args:
        workspace: The episode after the turn.
        shown: Key of the image that is shown, or None.
        turns_left: Turns that are left.
        well_formed: True if the turn kept to the tags; if not, a line explains the form.
        brief: True for as few words as possible.

    Returns:
        The text, with one image mark if an image is shown.
    """
    # A key such as crop_image_1@7 belongs to a name that was used again.
    image = "No image was asked for." if shown is None else f"{shown.partition('@')[0]}: {IMAGE_MARK}"
    if brief and shown is None:
        image = "no image"
    if shown is not None:
        picture = workspace.images[shown].operation
        if isinstance(picture, Board) and picture.order != workspace.order:
            image += " other order" if brief else " (it shows another order than the state)"
    state = [_state_line(workspace, brief=brief)] if workspace.board else []
    lines = [image, *state, turns_text(turns_left, brief=brief)]
    if not well_formed:
        lines.append("think first" if brief else "Begin each turn with one <think>...</think> block.")
    return "\n".join(lines)


def error_text(error: ActionError, workspace: Workspace, turns_left: int, *, brief: bool = False) -> str:
    """Return the feedback to a turn that could not be carried out; the brief one names the kind of error only."""
    turns = turns_text(turns_left, brief=brief)
    if not workspace.board:
        return f"{_error_line(error, brief=brief)}\n{turns}"
    state = _state_line(workspace, brief=brief)
    unchanged = "" if brief else "Nothing was changed: "
    return f"{_error_line(error, brief=brief)}\n{unchanged}{state}\n{turns}"


def _error_line(error: ActionError, *, brief: bool) -> str:
    return f"error {error.kind}" if brief else f"Error ({error.kind}): {error.message}"


def done_text(error: ActionError | None = None, *, answered: bool, brief: bool = False) -> str:
    """Return the last feedback of an episode; to an answer it does not reveal whether that is right.

    Args:
        error: Reason why the last turn cannot be right, or could not be read; None if there is none.
        answered: True if the episode ended with an answer.
        brief: True for as few words as possible.
    """
    text = "The answer was received." if answered else "The task is over, without an answer."
    return text if error is None else f"{text}\n{_error_line(error, brief=brief)}"


def turns_text(turns_left: int, *, brief: bool = False) -> str:
    """Return the text for the number of turns left."""
    text = "1 turn left" if turns_left == 1 else f"{turns_left} turns left"
    return text if brief else f"{text}."


def state_text(workspace: Workspace) -> str:
    """Return the state list, as a model writes it."""
    if workspace.rotations:
        return json.dumps(workspace.state_list())
    names = workspace.names
    return '["' + '", "'.join([names[piece] for piece in workspace.order]) + '"]'


def _state_line(workspace: Workspace, *, brief: bool) -> str:
    if not brief:
        return f"state = {state_text(workspace)}"
    names, turns = workspace.names, workspace.turns
    entries = [f"{names[piece]} {turns[piece]}" if workspace.rotations else names[piece] for piece in workspace.order]
    return f"state {' '.join(entries)}"


PROMPTS = ("full", "short")
"""The prompts of this library, by name."""
MAX_TEMPLATE = 65_536
"""Largest size of a template file, in bytes."""
FIELDS = {
    "rows": "number of rows",
    "cols": "number of columns",
    "pieces": "number of pieces",
    "names": "the pieces' names, such as A to D",
    "state": "the state list at the start",
    "rotations": "instructions for turned pieces; empty where pieces are upright",
    "turns": "number of turns, such as 5 turns",
    "action": "the tags of an action, such as <code>...</code>",
    "functions": "instructions for writing actions in the dialect",
    "example": "a worked example of a few turns",
    "answer": "an example of an answer",
    "images": "the images, a line with caption and image mark each",
}
"""Fields that can stand in braces in a template, and the text that takes their place."""

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class PromptTemplate:
    """A template, cut at its fields.

    Attributes:
        lines: The parts of each line: a text, and whether it is the name of a field.
        brief: True if captions, feedback and fields use as few words as possible.
    """

    lines: tuple[tuple[tuple[str, bool], ...], ...]
    brief: bool = False

    def render(self, fields: Mapping[str, Callable[[], str]]) -> str:
        """Put in the fields.

        Args:
            fields: Function that makes the text of each field; only those that the template names are called.

        Returns:
            The text. A line that holds nothing but fields, all of them empty, is left out.
        """
        lines: list[str] = []
        for parts in self.lines:
            line = "".join([fields[text]() if is_field else text for text, is_field in parts])
            if line or not parts:
                lines.append(line)
        return "\n".join(lines)


def read_prompt(prompt: str | Path) -> PromptTemplate:
    """Read a template: one of ours by name, or a text file.

    Args:
        prompt: One of `PROMPTS`, or the path of a text file in UTF-8 with the fields of `FIELDS` in braces. Braces
            that are meant are doubled.

    Returns:
        The template.

    Raises:
        ConfigurationError: If there is no such file, or it is no template; the message lists what is allowed.
    """
    if isinstance(prompt, str) and prompt in PROMPTS:
        return _own(prompt)
    if not isinstance(prompt, str | Path):
        raise ConfigurationError(
            f"prompt={prompt!r} is not allowed; give one of {PROMPTS}, or the path of a text file."
        )
    path = Path(prompt)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEMPLATE + 1)
    except (OSError, ValueError) as error:
        hint = f" {did_you_mean(prompt, PROMPTS)}" if isinstance(prompt, str) else ""
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(
            f"prompt={str(prompt)!r} is neither 'full' nor 'short', and cannot be read as a text file ({reason}).{hint}"
        ) from None
    if len(data) > MAX_TEMPLATE:
        raise ConfigurationError(f"The prompt template {path} has more than {MAX_TEMPLATE} bytes; write a shorter one.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"The prompt template {path} is not a text in UTF-8: byte {error.start} is {data[error.start]:#04x}. "
            "Save it as UTF-8."
        ) from None
    return _parse(text, f"The prompt template {path}")


@cache
def _own(name: str) -> PromptTemplate:
    text = (_FOLDER / f"prompt_{name}.txt").read_text(encoding="utf-8")
    return _parse(text, f"The prompt {name!r}", brief=name == "short")


def _parse(text: str, source: str, *, brief: bool = False) -> PromptTemplate:
    if IMAGE_MARK in text:
        raise ConfigurationError(
            f"{source} holds the mark {IMAGE_MARK}, which stands for an image that is sent. Write {{images}} where the "
            "images belong."
        )
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    lines = tuple(_parse_line(line, source) for line in text.split("\n"))
    count = sum(part == ("images", True) for line in lines for part in line)
    if count != 1:
        raise ConfigurationError(
            f"{source} holds the field {{images}} {count} times; it is needed exactly once, where the images belong."
        )
    return PromptTemplate(lines, brief)


def _parse_line(line: str, source: str) -> tuple[tuple[str, bool], ...]:
    parts: list[tuple[str, bool]] = []
    end = 0
    for match in _BRACES.finditer(line):
        if match.start() > end:
            parts.append((line[end : match.start()], False))
        end = match.end()
        if match[0] in ("{{", "}}"):
            parts.append((match[0][0], False))
        elif match[1] in FIELDS:
            parts.append((match[1], True))
        else:
            raise ConfigurationError(_unknown(match[0], match[1], source))
    if end < len(line):
        parts.append((line[end:], False))
    return tuple(parts)


def _unknown(found: str, name: str | None, source: str) -> str:
    problem = f"{source} has a brace without its partner" if name is None else f"{source} has no use for {found[:60]}"
    near = "" if name is None else f" {did_you_mean(name, FIELDS)}"
    allowed = ", ".join(f"{{{field}}}" for field in FIELDS)
    return f"{problem}.{near} The fields are {allowed}, as they stand here; write {{{{ and }}}} for braces themselves."
