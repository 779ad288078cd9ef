"""Reads the small Python-like language of AGILE by walking its syntax tree against a white list.

Nothing is ever executed: `ast.parse` only builds a tree, and `Interpreter` knows assignments, lists, indices, plain
arithmetic and the functions in `FUNCTIONS`. Everything else is refused with an `ActionError` that says what is allowed.
The result is a list of primitives; the workspace is only read.
"""

from __future__ import annotations

import ast
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from agile_gym.actions.primitives import (
    ActionError,
    Arrange,
    Crop,
    Observe,
    Primitive,
    Rotate,
    Swap,
    Turn,
    Zoom,
    quote,
)
from agile_gym.actions.workspace import Workspace

__all__ = ["MAX_CODE", "Interpreter", "interpret"]

MAX_CODE = 4000
"""Longest code of a turn, in characters."""
MAX_NESTING = 12
MAX_VARIABLES = 64
MAX_ELEMENTS = 256
MAX_NUMBER = 1e9

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_FENCE = re.compile(r"\A```[A-Za-z0-9]*[ \t]*\n(.*?)\n?```\Z", re.DOTALL)
# Texts for which ast.parse would print a warning, or recurse needlessly, before it could be refused.
_REFUSED_EARLY = re.compile(
    r"\\|[0-9a-fA-F](?:and|else|for|if|in|is|not|or)\b|(?:[-+~(\[{][ \t]*){%d}" % (2 * MAX_NESTING)
)
_ALLOWED = (
    "Allowed: assignments to variables and to state, lists, indices, numbers, + - * /, and calls of observation(state), "
    "swap(a, b), crop(image, [x1, y1, x2, y2]), zoom(image, factor), rotate(image, angle)."
)


@dataclass(frozen=True, slots=True)
class ImageValue:
    """An image as a value of the language: the key under which the workspace keeps it."""

    key: str


Value = Any
"""str, int, float, `ImageValue`, a list of those, or, inside a list, a tuple of those."""


def interpret(code: str, workspace: Workspace) -> tuple[list[Primitive], dict[str, Value]]:
    """Read the code of a turn.

    Args:
        code: The text between the code tags.
        workspace: The episode's state, images and variables; not changed.

    Returns:
        The primitives, in order, and the variables as they are after the turn.

    Raises:
        ActionError: If the code is not in the language, or does not make sense here.
    """
    return Interpreter(workspace).run(_parse(code))


def _parse(code: str) -> list[ast.stmt]:
    if len(code) > MAX_CODE:
        raise ActionError("text_too_long", f"The code has {len(code)} characters; at most {MAX_CODE} are allowed.")
    code = code.strip("\r\n \t") if "\n" not in code else textwrap.dedent(code.strip("\r\n")).strip()
    if code.startswith("```"):
        fenced = _FENCE.match(code)
        code = fenced[1] if fenced else code
    if _REFUSED_EARLY.search(code):
        raise ActionError("syntax", f"The code cannot be read. {_ALLOWED}")
    try:
        return ast.parse(code).body
    except SyntaxError as error:
        line = error.lineno or 1
        raise ActionError("syntax", f"Line {line} of the code cannot be read as Python. {_ALLOWED}") from None
    except (ValueError, RecursionError, MemoryError):
        raise ActionError("syntax", f"The code cannot be read as Python. {_ALLOWED}") from None


class Interpreter:
    """Walks the statements of one turn; made anew for each."""

    def __init__(self, workspace: Workspace) -> None:
        """Start from the episode's state and variables, which are copied.

        Args:
            workspace: The episode's state, images and variables; not changed.
        """
        self._workspace = workspace
        self._places = {name: piece for piece, name in enumerate(workspace.names)}
        self._variables = _copy_variables(workspace.variables)
        if "state" not in self._variables:
            self._variables["state"] = self._state_value(workspace.order, workspace.turns)
        self._order = workspace.order
        self._turns = workspace.turns
        self._settled: Value = list(self._variables["state"])
        self._primitives: list[Primitive] = []
        self._new_keys: list[str] = []

    def run(self, statements: Sequence[ast.stmt]) -> tuple[list[Primitive], dict[str, Value]]:
        """Walk the statements; see `interpret`."""
        if not statements:
            raise ActionError("no_action", f"The code is empty. {_ALLOWED}")
        for statement in statements:
            try:
                self._statement(statement)
                self._settle(final=statement is statements[-1])
            except ActionError as error:
                if len(statements) == 1:
                    raise
                raise ActionError(error.kind, f"Line {statement.lineno}: {error.message}") from None
        return self._primitives, self._variables

    # --- statements

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
            if isinstance(value, ast.Tuple) and isinstance(targets[0], ast.Tuple):
                result: Value = [self._evaluate(element, 1) for element in value.elts]
            else:
                name = targets[0].id if isinstance(targets[0], ast.Name) else None
                result = self._evaluate(value, 0, name)
            for target in targets:
                self._assign(target, result)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            self._evaluate(node.value, 0)
        else:
            self._refuse(node)

    def _assign(self, target: ast.expr, value: Value) -> None:
        if isinstance(target, ast.Subscript):
            index = self._index(target.slice)
            container = self._evaluate(target.value, 1)
            if isinstance(container, tuple) and isinstance(target.value, ast.Subscript):
                pair: list[Value] = list(container)  # pyright: ignore[reportUnknownArgumentType]
                pair[self._within(index, pair)] = value
                self._assign(target.value, tuple(pair))
            elif isinstance(container, list):
                elements: list[Value] = container
                elements[self._within(index, elements)] = _freeze(value)
            else:
                raise ActionError("bad_argument", "Only an element of a list, such as state[0], can be assigned to.")
        elif isinstance(target, ast.Name):
            self._bind(target.id, value)
        elif isinstance(target, ast.Tuple | ast.List):
            if not isinstance(value, list | tuple) or len(value) != len(target.elts):  # pyright: ignore[reportUnknownArgumentType]
                raise ActionError("bad_argument", f"The left side has {len(target.elts)} targets; the right side differs.")
            for element, part in zip(target.elts, value, strict=True):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
                self._assign(element, part)
        else:
            self._refuse(target)

    def _bind(self, name: str, value: Value) -> None:
        if not _NAME.fullmatch(name):
            raise ActionError("not_allowed", "A variable's name must be plain ASCII and at most 64 characters long.")
        if name in FUNCTIONS or name == "image_list":
            raise ActionError("not_allowed", f"{quote(name)} is a name of the environment and cannot be assigned to.")
        if name not in self._variables and len(self._variables) >= MAX_VARIABLES:
            raise ActionError("not_allowed", f"At most {MAX_VARIABLES} variables can be made.")
        self._variables[name] = value

    # --- expressions

    def _evaluate(self, node: ast.expr, depth: int, target: str | None = None) -> Value:
        if depth > MAX_NESTING:
            raise ActionError("too_deep", f"Expressions can be nested at most {MAX_NESTING} deep.")
        if isinstance(node, ast.Name):
            return self._lookup(node.id)
        if isinstance(node, ast.Constant):
            return self._constant(node)
        if isinstance(node, ast.Subscript):
            return self._subscript(node, depth)
        if isinstance(node, ast.List | ast.Tuple):
            if len(node.elts) > MAX_ELEMENTS:
                raise ActionError("not_allowed", f"A list can have at most {MAX_ELEMENTS} elements.")
            return [_freeze(self._evaluate(element, depth + 1)) for element in node.elts]
        if isinstance(node, ast.Call):
            return self._call(node, depth, target)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            number = self._number(self._evaluate(node.operand, depth + 1))
            return -number if isinstance(node.op, ast.USub) else number
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            left = self._number(self._evaluate(node.left, depth + 1))
            right = self._number(self._evaluate(node.right, depth + 1))
            if isinstance(node.op, ast.Div) and right == 0:
                raise ActionError("bad_number", "Division by zero.")
            return _checked(_ARITHMETIC[type(node.op)](left, right))
        return self._refuse(node)

    def _lookup(self, name: str) -> Value:
        if name in self._variables:
            return self._variables[name]
        if name == "image_list":
            keys = [*self._workspace.names, *(["reference"] if "reference" in self._workspace.images else [])]
            return [ImageValue(key) for key in keys]
        known = ", ".join([*list(self._variables)[:8], "image_list"])
        hint = f' Write piece names as strings: "{name}".' if name in self._places else ""
        raise ActionError("unknown_name", f"There is no variable {quote(name)}.{hint} There are: {known}.")

    def _constant(self, node: ast.Constant) -> Value:
        value = node.value
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _checked(value)
        return self._refuse(node)

    def _subscript(self, node: ast.Subscript, depth: int) -> Value:
        container = self._evaluate(node.value, depth + 1)
        if not isinstance(container, list | tuple):
            raise ActionError("bad_argument", "Only a list, such as state or image_list, can be indexed.")
        elements: Sequence[Value] = container
        if isinstance(node.slice, ast.Slice):
            bounds = [
                None if bound is None else self._index(bound)
                for bound in (node.slice.lower, node.slice.upper, node.slice.step)
            ]
            if bounds[2] == 0:
                raise ActionError("bad_index", "The step of a slice cannot be 0.")
            return list(elements[slice(*bounds)])
        return elements[self._within(self._index(node.slice), elements)]

    def _index(self, node: ast.expr) -> int:
        value = self._evaluate(node, 2)
        if not isinstance(value, int):
            raise ActionError("bad_index", "An index must be a whole number, such as state[0].")
        return value

    @staticmethod
    def _within(index: int, container: Sequence[Value]) -> int:
        if not -len(container) <= index < len(container):
            raise ActionError("bad_index", f"Index {index} lies outside a list of {len(container)} elements.")
        return index

    @staticmethod
    def _number(value: Value) -> float:
        if not isinstance(value, int | float):
            raise ActionError("bad_argument", "Arithmetic and coordinates need numbers.")
        return value

    @staticmethod
    def _refuse(node: ast.AST) -> NoReturn:
        raise ActionError("not_allowed", f"{type(node).__name__} is not part of the language. {_ALLOWED}")

    # --- calls

    def _call(self, node: ast.Call, depth: int, target: str | None) -> Value:
        if not isinstance(node.func, ast.Name):
            raise ActionError("not_allowed", f"Only plain functions can be called. {_ALLOWED}")
        function = FUNCTIONS.get(node.func.id)
        if function is None:
            raise ActionError("unknown_function", f"There is no function {quote(node.func.id)}. {_ALLOWED}")
        if any(isinstance(argument, ast.Starred) for argument in node.args) or any(k.arg is None for k in node.keywords):
            raise ActionError("not_allowed", "Arguments cannot be unpacked with * or **.")
        arguments = [self._evaluate(argument, depth + 1) for argument in node.args]
        for keyword in node.keywords:
            position = function.position(keyword.arg or "")
            if position is None or position < len(node.args) or len(arguments) > position:
                raise ActionError("bad_argument", f"Call it as {function.usage}.")
            arguments += [_MISSING] * (position + 1 - len(arguments))
            arguments[position] = self._evaluate(keyword.value, depth + 1)
        if _MISSING in arguments or len(arguments) not in function.counts:
            raise ActionError("bad_argument", f"Call it as {function.usage}.")
        return function.run(self, arguments, target)

    def _make(self, stem: str, target: str | None, make: Callable[[str], Primitive]) -> ImageValue:
        images = self._workspace.images
        if target is not None and not _NAME.fullmatch(target):
            raise ActionError("not_allowed", "A variable's name must be plain ASCII and at most 64 characters long.")
        if target is None:
            key = self._workspace.fresh_key(stem, self._new_keys)
        elif target in images or target in self._new_keys:
            key = f"{target}@{len(images) + len(self._new_keys)}"  # the earlier image keeps its key for its other names
        else:
            key = target
        self._primitives.append(make(key))
        self._new_keys.append(key)
        return ImageValue(key)

    def _image(self, value: Value) -> str:
        if isinstance(value, ImageValue):
            return value.key
        if isinstance(value, str) and (value in self._workspace.images or value in self._new_keys):
            return value
        shown = f" {quote(value)}" if isinstance(value, str) else ""
        raise ActionError(
            "unknown_image",
            f"There is no image{shown}. Give a piece such as image_list[0], or the variable of an earlier result.",
        )

    def observe(self, arguments: list[Value], target: str | None) -> ImageValue:
        """Show the state, or the state given."""
        self._settle()
        if not arguments or arguments[0] is self._variables["state"] or arguments[0] == self._settled:
            if self._variables["state"] != self._settled:
                self._decode(self._variables["state"])
            return self._make("observation_image", target, lambda key: Observe(key))
        order, turns = self._decode(arguments[0])
        return self._make("observation_image", target, lambda key: Observe(key, order, turns))

    def crop(self, arguments: list[Value], target: str | None) -> ImageValue:
        """Cut a rectangle out of an image."""
        image = self._image(arguments[0])
        box = arguments[1:] if len(arguments) == 5 else arguments[1]
        if not isinstance(box, list | tuple) or len(box) != 4:  # pyright: ignore[reportUnknownArgumentType]
            raise ActionError("bad_argument", "The box of crop is [x1, y1, x2, y2], four numbers from 0 to 1.")
        x1, y1, x2, y2 = (self._number(side) for side in box)  # pyright: ignore[reportUnknownVariableType]
        return self._make("crop_image", target, lambda key: Crop(image, (x1, y1, x2, y2), key))

    def zoom(self, arguments: list[Value], target: str | None) -> ImageValue:
        """Scale an image."""
        image, factor = self._image(arguments[0]), self._number(arguments[1])
        return self._make("zoom_image", target, lambda key: Zoom(image, factor, key))

    def rotate(self, arguments: list[Value], target: str | None) -> ImageValue:
        """Rotate an image."""
        image, angle = self._image(arguments[0]), self._number(arguments[1])
        return self._make("rotate_image", target, lambda key: Rotate(image, angle, key))

    def swap(self, arguments: list[Value], target: str | None) -> Value:
        """Exchange two pieces of the state, named by piece or by place."""
        state = self._variables["state"] if len(arguments) == 2 else arguments[0]
        if not isinstance(state, list):
            raise ActionError("bad_argument", "The state is not a list of pieces any more.")
        places: list[Value] = state
        first, second = (self._place(argument, places) for argument in arguments[-2:])
        if first == second:
            raise ActionError("bad_argument", "swap needs two different pieces.")
        places[first], places[second] = places[second], places[first]
        return places

    def turn(self, arguments: list[Value], target: str | None) -> Value:
        """Turn a piece of the state clockwise, in puzzles with rotated pieces."""
        state = self._variables["state"]
        if not self._workspace.rotations or not isinstance(state, list):
            raise ActionError("unknown_function", "Pieces are upright in this puzzle; they are not turned.")
        places: list[Value] = state
        place = self._place(arguments[0], places)
        angle = arguments[1]
        if not isinstance(angle, int) or angle % 90:
            raise ActionError("bad_argument", "turn needs an angle of 90, 180 or 270 degrees, clockwise.")
        name, now = places[place]
        places[place] = (name, (now + angle) % 360)
        return places

    def copy(self, arguments: list[Value], target: str | None) -> Value:
        """Copy a list."""
        if not isinstance(arguments[0], list | tuple):
            raise ActionError("bad_argument", "list() needs a list.")
        return list(arguments[0])  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]

    def _place(self, value: Value, places: list[Value]) -> int:
        if isinstance(value, int):
            return self._within(value, places) % len(places)
        names = [entry[0] if isinstance(entry, tuple) else entry for entry in places]
        if isinstance(value, str) and value in names:
            return names.index(value)
        shown = f" {quote(value)}" if isinstance(value, str) else ""
        raise ActionError(
            "bad_index",
            f"There is no piece{shown}. Name a piece from {quote(self._workspace.names[0])} to "
            f"{quote(self._workspace.names[-1])}, or a place from 0 to {len(places) - 1}.",
        )

    # --- state

    def _state_value(self, order: Sequence[int], turns: Sequence[int]) -> list[Value]:
        names = self._workspace.names
        if self._workspace.rotations:
            return [(names[piece], turns[piece]) for piece in order]
        return [names[piece] for piece in order]

    def _settle(self, *, final: bool = False) -> None:
        """Turn what has happened to `state` into a primitive; a state that is half-way changed may wait until the end."""
        state = self._variables["state"]
        if state == self._settled:
            return
        try:
            order, turns = self._decode(state)
        except ActionError:
            if final:
                raise
            return
        moved = [place for place, piece in enumerate(order) if piece != self._order[place]]
        if turns != self._turns:
            self._primitives.append(self._turned(order, turns, moved))
        elif len(moved) == 2:
            self._primitives.append(Swap(moved[0], moved[1]))
        elif moved:
            self._primitives.append(Arrange(order))
        self._order, self._turns = order, turns
        self._settled = list(state)

    def _turned(self, order: tuple[int, ...], turns: tuple[int, ...], moved: list[int]) -> Primitive:
        changed = [piece for piece, angle in enumerate(turns) if angle != self._turns[piece]]
        if not moved and len(changed) == 1:
            return Turn(order.index(changed[0]), (turns[changed[0]] - self._turns[changed[0]]) % 360)
        return Arrange(order, turns)

    def _decode(self, state: Value) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Read a state as the piece at each place and each piece's turn."""
        count = len(self._workspace.names)
        if isinstance(state, list | tuple) and len(state) == count:  # pyright: ignore[reportUnknownArgumentType]
            entries: Sequence[Value] = state
            order: list[int] = []
            turns = list(self._turns)
            for entry in entries:
                name, angle = entry, None
                if isinstance(entry, tuple) and len(entry) == 2 and self._workspace.rotations:  # pyright: ignore[reportUnknownArgumentType]
                    name, angle = entry
                piece = self._places.get(name) if isinstance(name, str) else None
                if piece is None or (angle is not None and (not isinstance(angle, int) or angle % 90)):
                    break
                order.append(piece)
                if angle is not None:
                    turns[piece] = angle % 360
            if len(order) == count and len(set(order)) == count:
                return tuple(order), tuple(turns)
        shape = "a list of [piece, angle] pairs, angles in steps of 90," if self._workspace.rotations else "a list of"
        raise ActionError(
            "not_a_permutation",
            f"state must be {shape} all {count} pieces from {quote(self._workspace.names[0])} to "
            f"{quote(self._workspace.names[-1])}, each exactly once.",
        )


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the language.

    Attributes:
        usage: How to call it, for error texts.
        counts: Numbers of arguments it takes.
        parameters: For each argument, the names it may be given by.
        run: The method that carries it out, given the interpreter, the arguments and the assigned variable's name.
    """

    usage: str
    counts: tuple[int, ...]
    parameters: tuple[tuple[str, ...], ...]
    run: Callable[[Interpreter, list[Value], str | None], Value]

    def position(self, keyword: str) -> int | None:
        """Return the position of a keyword argument, or None if there is no such parameter."""
        return next((place for place, names in enumerate(self.parameters) if keyword in names), None)


_OBSERVE = Function("observation(state)", (0, 1), (("state",),), Interpreter.observe)
_SWAP = Function('swap("A", "B") or swap(0, 1)', (2, 3), (("first", "a"), ("second", "b")), Interpreter.swap)
_CROP = Function("crop(image, [x1, y1, x2, y2])", (2, 5), (("image",), ("box", "bbox")), Interpreter.crop)
_ZOOM = Function("zoom(image, factor)", (2,), (("image",), ("factor", "scale")), Interpreter.zoom)
_ROTATE = Function("rotate(image, angle)", (2,), (("image",), ("angle",)), Interpreter.rotate)
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
    "turn": Function('turn("A", 90)', (2,), (("piece",), ("angle",)), Interpreter.turn),
    "list": Function("list(state)", (1,), (("values",),), Interpreter.copy),
}
"""The functions of the language, by name; the capitalised ones are those of the paper's figures."""

_MISSING = object()
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def _checked(number: float) -> float:
    if not math.isfinite(number) if isinstance(number, float) else False:
        raise ActionError("bad_number", "Numbers must be finite.")
    if not -MAX_NUMBER <= number <= MAX_NUMBER:
        raise ActionError("bad_number", "Numbers must lie between -1e9 and 1e9.")
    return number


def _freeze(value: Value) -> Value:
    """Make a list that becomes an element of another list immutable, so that no cycles can arise."""
    if isinstance(value, list | tuple):
        elements: Sequence[Value] = value
        if any(isinstance(element, list | tuple) for element in elements):
            raise ActionError("not_allowed", "Lists can be nested only once, as in [[\"A\", 90], [\"B\", 0]].")
        return tuple(elements)
    return value


def _copy_variables(variables: dict[str, Value]) -> dict[str, Value]:
    copies: dict[int, list[Value]] = {}
    result: dict[str, Value] = {}
    for name, value in variables.items():
        if isinstance(value, list):
            elements: list[Value] = value
            if id(elements) not in copies:
                copies[id(elements)] = list(elements)
            result[name] = copies[id(elements)]
        else:
            result[name] = value
    return result


