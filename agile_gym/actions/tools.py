"""JSON tool calls: their schema for chat models, and the reading and writing of calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from agile_gym.actions.primitives import (
    ActionError,
    Answer,
    Arrange,
    Crop,
    Observe,
    Primitive,
    Rotate,
    RotatePiece,
    Swap,
    Zoom,
    quote,
)
from agile_gym.actions.reading import piece_reader, read_json, read_list, read_whole
from agile_gym.actions.workspace import NO_BOARD, Workspace

__all__ = ["MAX_CALL", "MAX_CALLS", "call_text", "read_calls", "tool_schemas", "write_calls"]

MAX_CALL = 4000
"""Longest JSON text of one call, in characters."""
MAX_CALLS = 16
"""Calls in one turn."""

_ARGUMENTS = ("arguments", "parameters", "args", "input")
"""The keys under which APIs and models hand over the arguments of a call."""
_LOOK_FORM = 'A tool call is {"name": "zoom", "arguments": {"image": "image_1", "factor": 2}}.'
_FORM = 'A tool call is {"name": "swap", "arguments": {"first": "A", "second": "B"}}.'

_NUMBER = {"type": "number"}
_PIECE = {"type": "string", "description": "Name of a piece, such as A."}
_IMAGE = {"type": "string", "description": "Name of a piece, or of an image made before, such as crop_image_1."}
_PICTURE = {"type": "string", "description": "Name of a picture, such as image_1, or of an image made before."}
_LOOKS = ("crop", "zoom", "rotate")


def _tool(name: str, description: str, properties: dict[str, Any], required: Sequence[str]) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def tool_schemas(*, rotations: bool = False, board: bool = True) -> list[dict[str, Any]]:
    """Return the tools in OpenAI's function-calling format.

    Args:
        rotations: True if pieces can be turned; adds the tool ``turn``.
        board: False for questions about pictures, where there are only crop, zoom and rotate.

    Returns:
        A new list that can be given to ``tools=`` of a chat completion, or to a chat template.
    """
    box = {
        "type": "array",
        "items": _NUMBER,
        "minItems": 4,
        "maxItems": 4,
        "description": "x1, y1, x2, y2 as shares of the image from 0 to 1, from its top left.",
    }
    order = {"type": "array", "items": {"type": "string"}, "description": "All piece names, row by row, each once."}
    image = _IMAGE if board else _PICTURE
    schemas = [
        _tool("swap", "Exchange two pieces on the board.", {"first": _PIECE, "second": _PIECE}, ("first", "second")),
        _tool("arrange", "Put all pieces into a new order.", {"order": order}, ("order",)),
        _tool("observe", "Show the board as it is now.", {}, ()),
        _tool("crop", "Show a part of an image.", {"image": image, "box": box}, ("image", "box")),
        _tool("zoom", "Show an image scaled by a factor.", {"image": image, "factor": _NUMBER}, ("image", "factor")),
        _tool(
            "rotate",
            "Show an image rotated counter-clockwise by degrees.",
            {"image": image, "angle": _NUMBER},
            ("image", "angle"),
        ),
    ]
    if not board:
        return [schema for schema in schemas if schema["function"]["name"] in _LOOKS]
    if rotations:
        # No enum, which some APIs take for strings only, and no bounds, as -90 and 450 are read, too.
        angle = {"type": "integer", "description": "Degrees, clockwise: 90, 180 or 270."}
        schemas.append(
            _tool("turn", "Turn a piece on the board.", {"piece": _PIECE, "angle": angle}, ("piece", "angle"))
        )
    return schemas


def read_calls(bodies: Sequence[str], workspace: Workspace) -> list[Primitive]:
    """Read the tool calls of a turn.

    Args:
        bodies: The JSON texts, ``{"name": ..., "arguments": {...}}`` each, in any form that `_read_call` reads.
        workspace: The episode's state and images; not changed.

    Returns:
        One primitive a call.

    Raises:
        ActionError: If a call cannot be read, or is not valid here.
    """
    if len(bodies) > MAX_CALLS:
        raise ActionError("code_too_long", f"A turn can hold at most {MAX_CALLS} tool calls.")
    order = list(workspace.order)
    primitives: list[Primitive] = []
    for body in bodies:
        try:
            name, arguments = _read_body(body)
        except ActionError as error:
            if workspace.board:
                raise
            message = error.message.replace(_FORM, _LOOK_FORM).replace(", ".join(_READERS), ", ".join(_LOOKS))
            raise ActionError(error.kind, message) from None
        if not workspace.board and name not in _LOOKS:
            raise ActionError("unknown_function", NO_BOARD)
        primitive = _READERS[name](arguments, _Board(workspace, order))
        if isinstance(primitive, Swap):
            order[primitive.first], order[primitive.second] = order[primitive.second], order[primitive.first]
        elif isinstance(primitive, Arrange):
            order = list(primitive.order)
        primitives.append(primitive)
    return primitives


def call_text(call: object) -> str | None:
    """Write a call, as an API hands it over apart from the text, in the form that the tools dialect reads.

    Args:
        call: A JSON value; see `_read_call`.

    Returns:
        The JSON text of ``{"name": ..., "arguments": {...}}``, or None if the value is no call.
    """
    try:
        name, arguments = _read_call(call)
        return json.dumps({"name": name, "arguments": arguments})
    except (ActionError, ValueError, RecursionError):
        return None


def _read_body(body: str) -> tuple[str, Mapping[str, Any]]:
    if len(body) > MAX_CALL:
        raise ActionError("code_too_long", f"A tool call can have at most {MAX_CALL} characters.")
    try:
        call = read_json(body)
    except ValueError:
        raise ActionError("syntax", f"The tool call is not valid JSON. {_FORM}") from None
    name, arguments = _read_call(call)
    if name not in _READERS:
        raise ActionError("unknown_function", f"There is no tool {quote(name)}. There are: {', '.join(_READERS)}.")
    return name, arguments


def _read_call(call: object) -> tuple[str, Mapping[str, Any]]:
    """Return a call's name and arguments.

    The arguments may stand under any key of `_ARGUMENTS`, be missing, null or empty where there are none, or be the
    JSON of an object as a string, as in OpenAI's API; name and arguments may lie under ``"function"``.

    Raises:
        ActionError: If it is no call.
    """
    if not isinstance(call, dict):
        raise ActionError("syntax", f"The tool call is not a JSON object. {_FORM}")
    fields = cast(dict[str, Any], call)
    if isinstance(fields.get("function"), dict) and not isinstance(fields.get("name"), str):
        fields = cast(dict[str, Any], fields["function"])
    name = fields.get("name")
    if not isinstance(name, str):
        raise ActionError("syntax", f"The tool call has no name. {_FORM}")
    if len(fields) == 2 and isinstance(fields.get("arguments"), dict):
        return name, fields["arguments"]
    given = [fields[key] for key in _ARGUMENTS if fields.get(key) is not None]
    read = [_read_arguments(value) for value in given] or [{}]
    if any(arguments != read[0] for arguments in read[1:]):
        raise ActionError("syntax", f"The tool call has arguments twice, and not the same. {_FORM}")
    return name, read[0]


def _read_arguments(value: object) -> dict[str, Any]:
    try:
        arguments: object = (read_json(value) if value.strip() else {}) if isinstance(value, str) else value
    except ValueError:
        arguments = value
    if arguments is None:  # the JSON of null, as a string
        return {}
    if not isinstance(arguments, dict):
        raise ActionError("syntax", f"The arguments of the tool call are not a JSON object. {_FORM}")
    return cast(dict[str, Any], arguments)


class _Board:
    """Names, places and images that a call can refer to, after the calls before it."""

    def __init__(self, workspace: Workspace, order: Sequence[int]) -> None:
        self.workspace = workspace
        self.order = order

    def piece(self, value: Any) -> int:  # noqa: ANN401 -- JSON
        names = self.workspace.names
        piece = piece_reader(names).find(value)
        if piece is None:
            raise ActionError(
                "bad_index", f"There is no piece {quote(value)}. Name a piece from {names[0]} to {names[-1]}."
            )
        return piece

    def place(self, value: Any) -> int:  # noqa: ANN401 -- JSON
        return list(self.order).index(self.piece(value))

    def image(self, value: Any) -> str:  # noqa: ANN401 -- JSON
        if not isinstance(value, str):
            known = self.workspace.names[0]
            raise ActionError("bad_argument", f"An image is given by its name, such as {known} or crop_image_1.")
        return self.workspace.image_key(value) or value.strip()

    def number(self, value: Any) -> float:  # noqa: ANN401 -- JSON
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ActionError("bad_argument", f"{quote(value)} is not a number.")
        if not abs(value) <= 1e9:
            raise ActionError("bad_number", "Numbers must lie between -1e9 and 1e9.")
        return value


def _take(arguments: Mapping[str, Any], *names: str) -> list[Any]:
    if set(arguments) != set(names):
        raise ActionError("bad_argument", f"This tool takes exactly these arguments: {', '.join(names) or 'none'}.")
    return [arguments[name] for name in names]


def _list(value: Any) -> list[Any] | None:  # noqa: ANN401 -- JSON
    """Return a list that is an argument, perhaps written as a string; None for anything else."""
    if isinstance(value, str):
        try:
            return read_list(value)
        except ValueError:
            return None
    return cast(list[Any], value) if isinstance(value, list) else None


def _read_swap(arguments: Mapping[str, Any], board: _Board) -> Primitive:
    first, second = (board.place(piece) for piece in _take(arguments, "first", "second"))
    if first == second:
        raise ActionError("bad_argument", "swap needs two different pieces.")
    return Swap(*sorted((first, second)))


def _read_arrange(arguments: Mapping[str, Any], board: _Board) -> Primitive:
    (given,) = _take(arguments, "order")
    names, entries = board.workspace.names, _list(given)
    order, problem = piece_reader(names).read_order(entries) if entries is not None else ([], "It is no list")
    if problem is not None:
        raise ActionError(
            "not_a_permutation",
            f"order must be a list of all {len(names)} pieces from {names[0]} to {names[-1]}, each once. {problem}.",
        )
    return Arrange(tuple(order))


def _read_observe(arguments: Mapping[str, Any], board: _Board) -> Primitive:
    _take(arguments)
    return Observe()


def _read_crop(arguments: Mapping[str, Any], board: _Board) -> Primitive:
    image, given = _take(arguments, "image", "box")
    box = _list(given)
    if box is None or len(box) != 4:
        raise ActionError("bad_argument", "box is [x1, y1, x2, y2], four numbers from 0 to 1.")
    x1, y1, x2, y2 = (board.number(value) for value in box)
    return Crop(board.image(image), (x1, y1, x2, y2))


def _read_zoom(arguments: Mapping[str, Any], board: _Board) -> Primitive:
    image, factor = _take(arguments, "image", "factor")
    return Zoom(board.image(image), board.number(factor))


def _read_rotate(arguments: Mapping[str, Any], board: _Board) -> Primitive:
    image, angle = _take(arguments, "image", "angle")
    return Rotate(board.image(image), board.number(angle))


def _read_turn(arguments: Mapping[str, Any], board: _Board) -> Primitive:
    piece, given = _take(arguments, "piece", "angle")
    if not board.workspace.rotations:
        raise ActionError("unknown_function", "Pieces are upright in this puzzle; they are not turned.")
    angle = read_whole(given)
    if angle is None or angle % 360 not in (90, 180, 270):
        raise ActionError("bad_argument", "turn needs an angle of 90, 180 or 270 degrees, clockwise.")
    return RotatePiece(board.place(piece), angle % 360)


_READERS: dict[str, Callable[[Mapping[str, Any], _Board], Primitive]] = {
    "swap": _read_swap,
    "arrange": _read_arrange,
    "observe": _read_observe,
    "crop": _read_crop,
    "zoom": _read_zoom,
    "rotate": _read_rotate,
    "turn": _read_turn,
}


def write_calls(primitives: Sequence[Primitive], workspace: Workspace) -> list[str]:
    """Write primitives as the JSON of tool calls; the reverse of `read_calls`.

    Args:
        primitives: The primitives of one turn, in order. An `Answer`, an `Arrange` that also turns pieces and an
            `Observe` of another order than the current one have no tool.
        workspace: The episode's state, which gives names to places; not changed.

    Returns:
        One JSON text a primitive.

    Raises:
        ValueError: If this dialect cannot express one of them.
    """
    order = list(workspace.order)
    texts: list[str] = []
    for primitive in primitives:
        name, arguments = _write(primitive, workspace.names, order)
        texts.append(json.dumps({"name": name, "arguments": arguments}))
        if isinstance(primitive, Swap):
            order[primitive.first], order[primitive.second] = order[primitive.second], order[primitive.first]
        elif isinstance(primitive, Arrange):
            order = list(primitive.order)
    return texts


def _write(primitive: Primitive, names: Sequence[str], order: Sequence[int]) -> tuple[str, dict[str, Any]]:
    match primitive:
        case Swap(first, second):
            return "swap", {"first": names[order[first]], "second": names[order[second]]}
        case Arrange(new_order, None):
            return "arrange", {"order": [names[piece] for piece in new_order]}
        case RotatePiece(place, angle):
            return "turn", {"piece": names[order[place]], "angle": angle}
        case Observe(_, None, None):
            return "observe", {}
        case Crop(image, box, _):
            return "crop", {"image": image, "box": list(box)}
        case Zoom(image, factor, _):
            return "zoom", {"image": image, "factor": factor}
        case Rotate(image, angle, _):
            return "rotate", {"image": image, "angle": angle}
        case Answer() | Arrange() | Observe():
            raise ValueError(f"{primitive!r} cannot be written as one tool call")
