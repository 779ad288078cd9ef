"""Interpreter of the code dialect: its functions and its list ``state``.

The workspace is only read. The result is a list of primitives, and the variables as they are after the turn.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import cast

from agile_gym.actions.primitives import (
    ActionError,
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
from agile_gym.actions.reading import piece_reader, read_whole
from agile_gym.actions.syntax import (
    ALLOWED,
    Evaluator,
    Function,
    ImageValue,
    Value,
    check_name,
    is_list,
    number,
    parse_code,
)
from agile_gym.actions.workspace import NO_BOARD, Workspace

__all__ = ["FUNCTIONS", "interpret"]


def interpret(code: str, workspace: Workspace) -> tuple[list[Primitive], dict[str, Value]]:
    """Read the code of a turn.

    Args:
        code: The text between the code tags.
        workspace: The episode's state, images and variables; not changed.

    Returns:
        The primitives, in order, and the variables as they are after the turn.

    Raises:
        ActionError: If the code is not in the language, or is not valid here.
    """
    try:
        return _Interpreter(workspace).run(parse_code(code))
    except ActionError as error:
        if workspace.board:
            raise
        raise ActionError(error.kind, _of_pictures(error.message)) from None


_ALLOWED_LOOKS = (
    "Allowed: assignments to variables, lists, indices, numbers, + - * /, and calls of crop(image, [x1, y1, x2, y2]), "
    "zoom(image, factor), rotate(image, angle)."
)
_PICTURE_WORDS = (
    (ALLOWED, _ALLOWED_LOOKS),
    ("state[0]", "image_list[0]"),
    ("such as state or image_list,", "such as image_list,"),
    (" a piece such as image_list[0]", " a picture such as image_1"),
    (' Piece names are strings, such as "A".', ""),
)
"""Words of messages about boards, and those in their place where there is none."""


def _of_pictures(message: str) -> str:
    for of_board, of_picture in _PICTURE_WORDS:
        message = message.replace(of_board, of_picture)
    return message


class _Interpreter(Evaluator):
    """Evaluator of the statements of one turn; made anew for each."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace.variables, FUNCTIONS, "image_list")
        self._workspace = workspace
        self._names = workspace.names
        self._pieces = piece_reader(self._names)
        self._order = workspace.order
        self._turns = workspace.turns
        self._board = workspace.board
        if self._board and "state" not in self.variables:
            names = self._names
            self.variables["state"] = [
                (names[piece], self._turns[piece]) if workspace.rotations else names[piece] for piece in self._order
            ]
        self._settled: list[Value] = list(self.variables["state"]) if self._board else []
        self._primitives: list[Primitive] = []
        self._new_keys: list[str] = []

    def run(self, statements: Sequence[ast.stmt]) -> tuple[list[Primitive], dict[str, Value]]:
        """Walk the statements; see `interpret`."""
        for statement in statements:
            try:
                self.execute(statement)
                self._settle(final=statement is statements[-1])
            except ActionError as error:
                if len(statements) == 1:
                    raise
                raise ActionError(error.kind, f"Line {statement.lineno}: {error.message}") from None
        return self._primitives, self.variables

    def known(self, name: str) -> Value | None:
        """Return the image of a name, or, for ``image_list``, all pieces and the reference image, if there is one."""
        images = self._workspace.images
        if name == "state" and not self._board:
            raise ActionError("unknown_name", NO_BOARD)
        if name == "image_list":
            return [ImageValue(key) for key in (*self._names, *(["reference"] if "reference" in images else []))]
        is_image = name in self._new_keys or (name in images and not (self._board and name in self._names))
        return ImageValue(name) if is_image else None

    # --- images

    def observe(self, arguments: list[Value], target: str | None) -> Value:
        """Show the state, or the state given."""
        self._need_board()
        self._settle()
        shown = arguments[0] if arguments else self.variables["state"]
        if shown == self._settled:
            return self._make("observation_image", target, Observe)
        order, turns = self._decode(shown)
        return self._make("observation_image", target, lambda key: Observe(key, order, turns))

    def crop(self, arguments: list[Value], target: str | None) -> Value:
        """Cut a rectangle out of an image."""
        image = self._image(arguments[0])
        box = arguments[1:] if len(arguments) == 5 else arguments[1]
        if not is_list(box) or len(box) != 4:
            raise ActionError("bad_argument", "The box of crop is [x1, y1, x2, y2], four numbers from 0 to 1.")
        x1, y1, x2, y2 = (number(side) for side in box)
        return self._make("crop_image", target, lambda key: Crop(image, (x1, y1, x2, y2), key))

    def zoom(self, arguments: list[Value], target: str | None) -> Value:
        """Scale an image."""
        image, factor = self._image(arguments[0]), number(arguments[1])
        return self._make("zoom_image", target, lambda key: Zoom(image, factor, key))

    def rotate(self, arguments: list[Value], target: str | None) -> Value:
        """Rotate an image."""
        image, angle = self._image(arguments[0]), number(arguments[1])
        return self._make("rotate_image", target, lambda key: Rotate(image, angle, key))

    def _make(self, stem: str, target: str | None, make: Callable[[str], Primitive]) -> ImageValue:
        images = self._workspace.images
        self._workspace.check_room(len(self._new_keys) + 1)
        if target is None:
            key = self._workspace.fresh_key(stem, {*self._new_keys, *self.variables})
        else:
            check_name(target)
            if target in FUNCTIONS or target in ("image_list", "state"):
                raise ActionError("not_allowed", f"{quote(target)} is a name of the environment, not a variable.")
            key = target
            if target in images or target in self._new_keys:  # the earlier image may still have other names
                key = f"{target}@{len(images) + len(self._new_keys)}"
        self._primitives.append(make(key))
        self._new_keys.append(key)
        return ImageValue(key)

    def _image(self, value: Value) -> str:
        if isinstance(value, ImageValue):
            return value.key
        if isinstance(value, str):
            key = self._workspace.image_key(value, self._new_keys)
            if key is not None:
                return key
        shown = f" {quote(value)}" if isinstance(value, str) else ""
        raise ActionError(
            "unknown_image",
            f"There is no image{shown}. Give a piece such as image_list[0], or the variable of an earlier result.",
        )

    # --- state

    def swap(self, arguments: list[Value], target: str | None) -> Value:
        """Exchange two pieces of the state, each named by its name or by its place."""
        self._need_board()
        places = self._list(arguments[0] if len(arguments) == 3 else self.variables["state"])
        first, second = (self._place(argument, places) for argument in arguments[-2:])
        if first == second:
            raise ActionError("bad_argument", "swap needs two different pieces.")
        places[first], places[second] = places[second], places[first]
        return places

    def turn(self, arguments: list[Value], target: str | None) -> Value:
        """Turn a piece of the state clockwise, in puzzles with rotated pieces."""
        self._need_board()
        if not self._workspace.rotations:
            raise ActionError("unknown_function", "Pieces are upright in this puzzle; they are not turned.")
        places = self._list(self.variables["state"])
        place, angle = self._place(arguments[0], places), read_whole(arguments[1])
        if angle is None or angle % 90:
            raise ActionError("bad_argument", "turn needs an angle of 90, 180 or 270 degrees, clockwise.")
        order, turns = self._decode(places)
        piece = order[place]
        places[place] = (self._names[piece], (turns[piece] + angle) % 360)
        return places

    def copy(self, arguments: list[Value], target: str | None) -> Value:
        """Copy a list."""
        return list(self._list(arguments[0]))

    @staticmethod
    def _list(value: Value) -> list[Value]:
        if not isinstance(value, list):
            raise ActionError("bad_argument", "This needs a list, such as state.")
        return cast(list[Value], value)

    def _place(self, value: Value, places: list[Value]) -> int:
        place = read_whole(value)
        if place is not None and -len(places) <= place < len(places):
            return place % len(places)
        piece = self._pieces.find(value)
        for index, entry in enumerate(places if piece is not None else ()):
            if self._pieces.find(entry[0] if is_list(entry) and entry else entry) == piece:
                return index
        shown = f" {quote(value)}" if isinstance(value, str | int | float) else ""
        raise ActionError(
            "bad_index",
            f'There is no piece{shown}. Name a piece from "{self._names[0]}" to "{self._names[-1]}", or a place from '
            f"0 to {len(places) - 1}.",
        )

    def _need_board(self) -> None:
        """Refuse an action on the board where there is none."""
        if not self._board:
            raise ActionError("unknown_function", NO_BOARD)

    def _settle(self, *, final: bool = False) -> None:
        """Turn the changes of ``state`` into a primitive; incomplete ones may wait until the turn's end."""
        if not self._board:
            if "state" in self.variables:
                raise ActionError("not_allowed", NO_BOARD)
            return
        state = self.variables["state"]
        if state == self._settled:
            return
        try:
            order, turns = self._decode(state)
        except ActionError:
            if final:
                raise
            return
        moved = [place for place, piece in enumerate(order) if piece != self._order[place]]
        turned = [piece for piece, angle in enumerate(turns) if angle != self._turns[piece]]
        if len(turned) == 1 and not moved:
            angle = (turns[turned[0]] - self._turns[turned[0]]) % 360
            self._primitives.append(RotatePiece(order.index(turned[0]), angle))
        elif turned:
            self._primitives.append(Arrange(order, turns))
        elif len(moved) == 2:
            self._primitives.append(Swap(moved[0], moved[1]))
        elif moved:
            self._primitives.append(Arrange(order))
        self._order, self._turns = order, turns
        self._settled = list(state)

    def _decode(self, state: Value) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Read a state as the piece at each place and the turn of each piece."""
        if not is_list(state):
            raise self._no_state("It is no list")
        names: Sequence[Value] = state
        angles: list[int | None] = []
        if self._workspace.rotations:
            pairs = [entry if is_list(entry) and len(entry) == 2 else (entry, None) for entry in state]
            names = [name for name, _ in pairs]
            angles = [None if angle is None else self._angle(name, angle) for name, angle in pairs]
        order, problem = self._pieces.read_order(names)
        if problem is not None:
            raise self._no_state(problem)
        if not angles:
            return tuple(order), self._turns
        turns = list(self._turns)
        for piece, angle in zip(order, angles, strict=True):
            if angle is not None:
                turns[piece] = angle
        return tuple(order), tuple(turns)

    def _angle(self, name: Value, value: Value) -> int:
        angle = read_whole(value)
        if angle is None or angle % 90:
            raise self._no_state(f"The angle of {quote(name) if isinstance(name, str) else 'a piece'} is none of these")
        return angle % 360

    def _no_state(self, problem: str) -> ActionError:
        names = self._names
        entries = "[piece, angle] pairs, angles in steps of 90, of all" if self._workspace.rotations else "all"
        return ActionError(
            "not_a_permutation",
            f'state must be a list of {entries} {len(names)} pieces from "{names[0]}" to "{names[-1]}", each once. '
            f"{problem}.",
        )


_OBSERVE = Function("observation(state)", (0, 1), (("state",),), _Interpreter.observe)
_SWAP = Function('swap("A", "B") or swap(0, 1)', (2, 3), (("first", "a"), ("second", "b")), _Interpreter.swap)
_CROP = Function("crop(image, [x1, y1, x2, y2])", (2, 5), (("image",), ("box", "bbox")), _Interpreter.crop)
_ZOOM = Function("zoom(image, factor)", (2,), (("image",), ("factor", "scale")), _Interpreter.zoom)
_ROTATE = Function("rotate(image, angle)", (2,), (("image",), ("angle",)), _Interpreter.rotate)
_TURN = Function('turn("A", 90)', (2,), (("piece",), ("angle",)), _Interpreter.turn)
_LIST = Function("list(state)", (1,), (("values",),), _Interpreter.copy)
FUNCTIONS: dict[str, Function] = {
    "observation": _OBSERVE,
    "observe": _OBSERVE,
    "Observe": _OBSERVE,
    "swap": _SWAP,
    "Swap": _SWAP,
    "crop": _CROP,
    "Crop": _CROP,
    "zoom": _ZOOM,
    "Zoom": _ZOOM,
    "rotate": _ROTATE,
    "turn": _TURN,
    "list": _LIST,
}
"""The functions of the language, by name; the capitalised ones are those of the paper's figures."""
