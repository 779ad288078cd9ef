"""The syntax of the code dialect: a walk over Python's syntax tree against a white list.

`ast.parse` only builds a tree; nothing is ever executed. `Evaluator` supports assignments, lists, indices, plain
arithmetic and calls of the functions it is given; everything else is refused with an `ActionError` that lists what is
allowed.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from agile_gym.actions.primitives import ActionError, quote
from agile_gym.actions.reading import read_whole, unfenced

__all__ = ["ALLOWED", "MAX_CODE", "Evaluator", "Function", "ImageValue", "Value", "check_name", "is_list", "parse_code"]

MAX_CODE = 4000
"""Longest code of a turn, in characters."""
MAX_NESTING = 12
MAX_VARIABLES = 64
MAX_ELEMENTS = 256
MAX_NUMBER = 1e9

ALLOWED = (
    "Allowed: assignments to variables and to state, lists, indices, numbers, + - * /, and calls of "
    "observation(state), swap(a, b), crop(image, [x1, y1, x2, y2]), zoom(image, factor), rotate(image, angle)."
)
"""Text that every refusal shows to the model."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
# Refused before ast.parse sees it, which would print a warning: a backslash, or a number that runs into a word.
_KEYWORD = "(?:and|else|for|if|in|is|not|or)"
_WARNS = re.compile(rf"\\|[0-9]\.?[jJ]?{_KEYWORD}|0[xX][0-9a-fA-F_]*{_KEYWORD}")
# Refused because ast.parse would recurse for nothing: far deeper nesting than the language allows.
_DEEP = re.compile(r"(?:[-+~(\[{][ \t]*){24}")
_SHORT = 256

Value = Any
"""str, int, float, `ImageValue`, a list of those, or, inside a list, a tuple of those."""


@dataclass(frozen=True, slots=True)
class ImageValue:
    """An image as a value of the language: the key under which the workspace keeps it."""

    key: str


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the language.

    Attributes:
        usage: Form of a call, for error texts.
        counts: Numbers of arguments it takes.
        parameters: For each argument, the names it may be given by.
        run: Function that carries it out, given the arguments and the name of the variable that takes the result, if
            any.
    """

    usage: str
    counts: tuple[int, ...]
    parameters: tuple[tuple[str, ...], ...]
    run: Callable[[Any, list[Value], str | None], Value]

    def position(self, keyword: str | None) -> int | None:
        """Return the position of a keyword argument, or None if there is no such parameter."""
        return next((place for place, names in enumerate(self.parameters) if keyword in names), None)

    def misuse(self) -> ActionError:
        """Return the error for a call with unsuitable arguments."""
        return ActionError("bad_argument", f"Call it as {self.usage}.")


def parse_code(code: str) -> list[ast.stmt]:
    """Parse the code of a turn, without its fence and common indentation.

    Args:
        code: The text between the code tags.

    Returns:
        Its statements, at least one.

    Raises:
        ActionError: If it is too long, empty, or not Python.
    """
    if len(code) > MAX_CODE:
        raise ActionError("code_too_long", f"The code has {len(code)} characters; at most {MAX_CODE} are allowed.")
    code = unfenced(code)
    stripped = code.strip()
    if "\n " in stripped or "\n\t" in stripped:  # perhaps all lines share an indentation
        stripped = textwrap.dedent(code.strip("\r\n")).strip()
    code = stripped
    if _WARNS.search(code) or (len(code) > _SHORT and _DEEP.search(code)):
        raise ActionError("syntax", f"The code cannot be read. {ALLOWED}")
    try:
        statements = ast.parse(code, filename="").body  # on an error Python opens the file, and no file has this name
    except SyntaxError as error:
        line = error.lineno or 1
        raise ActionError("syntax", f"Line {line} of the code cannot be read as Python. {ALLOWED}") from None
    except (ValueError, RecursionError, MemoryError):
        raise ActionError("syntax", f"The code cannot be read as Python. {ALLOWED}") from None
    if not statements:
        raise ActionError("syntax", f"The code is empty. {ALLOWED}")
    return statements


class Evaluator:
    """Evaluator of statements, with the variables.

    Attributes:
        functions: The functions that can be called.
        variables: The variables and their values.
    """

    def __init__(self, variables: Mapping[str, Value], functions: Mapping[str, Function], reserved: str = "") -> None:
        """Start from a copy of variables.

        Args:
            variables: Variables of earlier turns; two names of one list stay names of one list.
            functions: The functions that can be called.
            reserved: A name, besides the functions', that cannot be assigned to.
        """
        self.variables = _copy(variables)
        self.functions = functions
        self._reserved = reserved

    def known(self, name: str) -> Value | None:
        """Return the value of a name that is no variable, or None; here, there is none."""
        return None

    def execute(self, node: ast.stmt) -> None:
        """Walk a statement: an assignment or a call."""
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
            if isinstance(value, ast.Tuple) and isinstance(targets[0], ast.Tuple):
                result: Value = [self.evaluate(element, 1) for element in value.elts]
            else:
                name = targets[0].id if isinstance(targets[0], ast.Name) else None
                result = self.evaluate(value, 0, name)
            for target in targets:
                self._assign(target, result)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            self.evaluate(node.value, 0)
        else:
            _refuse(node)

    def _assign(self, target: ast.expr, value: Value) -> None:
        if isinstance(target, ast.Subscript):
            self._assign_element(target, value)
        elif isinstance(target, ast.Name):
            self._bind(target.id, value)
        elif isinstance(target, ast.Tuple | ast.List):
            if not is_list(value) or len(value) != len(target.elts):
                raise ActionError(
                    "bad_argument", f"The left side has {len(target.elts)} targets, the right side does not match."
                )
            for element, part in zip(target.elts, value, strict=True):
                self._assign(element, part)
        else:
            _refuse(target)

    def _assign_element(self, target: ast.Subscript, value: Value) -> None:
        index = self._index(target.slice, 1)
        container = self.evaluate(target.value, 1)
        owner = target.value
        while isinstance(owner, ast.Subscript):
            owner = owner.value
        if not isinstance(owner, ast.Name) or owner.id not in self.variables:
            raise ActionError("not_allowed", "Only elements of a variable, such as state[0], can be assigned to.")
        if not is_list(container):
            raise ActionError("bad_argument", "Only an element of a list, such as state[0], can be assigned to.")
        place = _within(index, container)
        if isinstance(container, list):
            container[place] = _freeze(value)
        else:  # a pair inside a list is immutable, so it is replaced as a whole
            self._assign(target.value, (*container[:place], _freeze(value), *container[place + 1 :]))

    def _bind(self, name: str, value: Value) -> None:
        if isinstance(value, ImageValue) and value.key == name:
            self.variables.pop(name, None)  # the workspace has this image under the same name
            return
        if name not in self.variables:
            check_name(name)
            if name in self.functions or name == self._reserved:
                raise ActionError("not_allowed", f"{quote(name)} is a name of the environment, not a variable.")
            if len(self.variables) >= MAX_VARIABLES:
                raise ActionError("not_allowed", f"At most {MAX_VARIABLES} variables can be made.")
        self.variables[name] = value

    def evaluate(self, node: ast.expr, depth: int, target: str | None = None) -> Value:
        """Walk an expression.

        Args:
            node: The expression.
            depth: Depth of its nesting.
            target: Name of the variable that the value is assigned to, if any.

        Returns:
            Its value.

        Raises:
            ActionError: If it is not in the language.
        """
        if depth > MAX_NESTING:
            raise ActionError("too_deep", f"Expressions can be nested at most {MAX_NESTING} deep.")
        walk = _EXPRESSIONS.get(type(node))
        return _refuse(node) if walk is None else walk(self, node, depth, target)

    def walk_list(self, node: ast.List | ast.Tuple, depth: int, _: str | None) -> Value:
        """Walk an expression: list or tuple literals; nested ones become tuples."""
        if len(node.elts) > MAX_ELEMENTS:
            raise ActionError("not_allowed", f"A list can have at most {MAX_ELEMENTS} elements.")
        return [_freeze(self.evaluate(element, depth + 1)) for element in node.elts]

    def walk_sign(self, node: ast.UnaryOp, depth: int, _: str | None) -> Value:
        """Walk an expression: a number with a sign."""
        sign = _SIGNS.get(type(node.op))
        return _refuse(node.op) if sign is None else sign(number(self.evaluate(node.operand, depth + 1)))

    def walk_arithmetic(self, node: ast.BinOp, depth: int, _: str | None) -> Value:
        """Walk an expression: a sum, difference, product or quotient."""
        operation = _ARITHMETIC.get(type(node.op))
        if operation is None:
            return _refuse(node.op)
        left = number(self.evaluate(node.left, depth + 1))
        right = number(self.evaluate(node.right, depth + 1))
        if isinstance(node.op, ast.Div) and right == 0:
            raise ActionError("bad_number", "A number cannot be divided by zero.")
        return _checked(operation(left, right))

    def walk_name(self, node: ast.Name, _: int, __: str | None) -> Value:
        """Walk an expression: a variable, or a name of the environment."""
        name = node.id
        if name in self.variables:
            return self.variables[name]
        value = self.known(name)
        if value is not None:
            return value
        known = ", ".join(["image_list", *list(self.variables)[:8]])
        raise ActionError(
            "unknown_name",
            f'There is no variable {quote(name)}; there are {known}. Piece names are strings, such as "A".',
        )

    def walk_subscript(self, node: ast.Subscript, depth: int, _: str | None) -> Value:
        """Walk an expression: an element or a slice of a list."""
        container = self.evaluate(node.value, depth + 1)
        if not is_list(container):
            raise ActionError("bad_argument", "Only a list, such as state or image_list, can be indexed.")
        if isinstance(node.slice, ast.Slice):
            bounds = [
                None if bound is None else self._index(bound, depth + 1)
                for bound in (node.slice.lower, node.slice.upper, node.slice.step)
            ]
            if bounds[2] == 0:
                raise ActionError("bad_index", "The step of a slice cannot be 0.")
            return list(container[slice(*bounds)])
        return container[_within(self._index(node.slice, depth + 1), container)]

    def _index(self, node: ast.expr, depth: int) -> int:
        value = node.value if type(node) is ast.Constant else self.evaluate(node, depth)
        if type(value) is int:
            return value
        index = read_whole(value)
        if index is None:
            shown = f" {quote(value)}" if isinstance(value, str | float) else " this"
            raise ActionError("bad_index", f"An index must be a whole number, as in state[0], not{shown}.")
        return index

    def walk_call(self, node: ast.Call, depth: int, target: str | None) -> Value:
        """Walk an expression: a call of one of the functions."""
        if not isinstance(node.func, ast.Name):
            raise ActionError("not_allowed", f"Only plain functions can be called. {ALLOWED}")
        function = self.functions.get(node.func.id)
        if function is None:
            raise ActionError("unknown_function", f"There is no function {quote(node.func.id)}. {ALLOWED}")
        arguments = [self.evaluate(argument, depth + 1) for argument in node.args]
        for keyword in node.keywords:
            position = function.position(keyword.arg)
            if position is None or position < len(node.args):
                raise function.misuse()
            arguments += [_MISSING] * (position + 1 - len(arguments))
            if arguments[position] is not _MISSING:
                raise function.misuse()
            arguments[position] = self.evaluate(keyword.value, depth + 1)
        if len(arguments) not in function.counts or (node.keywords and any(value is _MISSING for value in arguments)):
            raise function.misuse()
        return function.run(self, arguments, target)


_MISSING = object()
_LISTS = {list, tuple}
_EXPRESSIONS: dict[type[ast.expr], Callable[[Evaluator, Any, int, str | None], Value]] = {
    ast.Constant: lambda _, node, __, ___: _literal(node),
    ast.Name: Evaluator.walk_name,
    ast.Subscript: Evaluator.walk_subscript,
    ast.List: Evaluator.walk_list,
    ast.Tuple: Evaluator.walk_list,
    ast.Call: Evaluator.walk_call,
    ast.UnaryOp: Evaluator.walk_sign,
    ast.BinOp: Evaluator.walk_arithmetic,
}
"""The white list of expressions."""
_SIGNS: dict[type[ast.unaryop], Callable[[float], float]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda a, b: a / b,
}


def is_list(value: Value) -> bool:
    """Return whether a value is a list, or a pair inside a list."""
    return isinstance(value, list | tuple)


def number(value: Value) -> float:
    """Return a value that is a number.

    Raises:
        ActionError: If it is something else.
    """
    if not isinstance(value, int | float):
        raise ActionError("bad_argument", "Arithmetic, coordinates, factors and angles need numbers.")
    return value


def check_name(name: str) -> None:
    """Check the name of a variable.

    Raises:
        ActionError: If it is longer than 64 characters or not plain ASCII, so that it could not be shown safely.
    """
    if not _NAME.fullmatch(name):
        raise ActionError("not_allowed", "A variable's name must be plain ASCII and at most 64 characters long.")


def _refuse(node: ast.AST) -> NoReturn:
    raise ActionError("not_allowed", f"{type(node).__name__} is not part of the language. {ALLOWED}")


def _literal(node: ast.Constant) -> Value:
    value = node.value
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _checked(value)
    return _refuse(node)


def _checked(value: float) -> float:
    if not -MAX_NUMBER <= value <= MAX_NUMBER or math.isnan(value):
        raise ActionError("bad_number", "Numbers must lie between -1e9 and 1e9.")
    return value


def _within(index: int, container: Sequence[Value]) -> int:
    if not -len(container) <= index < len(container):
        raise ActionError("bad_index", f"Index {quote(index)} lies outside a list of {len(container)} elements.")
    return index % len(container)


def _freeze(value: Value) -> Value:
    """Make a list that becomes an element of another list immutable, so that no cycles can arise."""
    if not is_list(value):
        return value
    if not _LISTS.isdisjoint(map(type, value)):
        raise ActionError("not_allowed", 'Lists can be nested only once, as in [["A", 90], ["B", 0]].')
    return tuple(value)


def _copy(variables: Mapping[str, Value]) -> dict[str, Value]:
    copies: dict[int, list[Value]] = {}
    result: dict[str, Value] = {}
    lists = cast(Mapping[str, list[Value]], variables)
    for name, value in variables.items():
        result[name] = copies.setdefault(id(lists[name]), list(lists[name])) if isinstance(value, list) else value
    return result
