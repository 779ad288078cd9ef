"""Dialects: tags of a turn, and the ways of writing actions between them; each reads and writes primitives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

from agile_gym.actions import tools
from agile_gym.actions.interpreter import interpret
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
)
from agile_gym.actions.prompt import code_instructions, tool_instructions
from agile_gym.actions.tags import has_action, read_answer, read_tags
from agile_gym.actions.workspace import Workspace
from agile_gym.errors import ConfigurationError, did_you_mean

__all__ = ["DIALECTS", "CodeDialect", "Dialect", "ParsedTurn", "ToolDialect", "get_dialect", "write_answer"]


class ParsedTurn(NamedTuple):
    """Result of parsing a turn's text.

    Attributes:
        primitives: The primitives, in order; a single `Answer` ends the episode.
        well_formed: True if the text keeps to the tags: think, then one action.
        has_code: True if the text holds a code block or a tool call, sound or not.
        error: The error, or None. With an error, there are no primitives.
        variables: The code dialect's variables after the turn; None leaves them as they were.
    """

    primitives: tuple[Primitive, ...]
    well_formed: bool
    has_code: bool
    error: ActionError | None = None
    variables: dict[str, Any] | None = None


class Dialect(Protocol):
    """A way of writing actions."""

    @property
    def name(self) -> str:
        """The dialect's name."""
        ...

    @property
    def action_tag(self) -> str:
        """Name of the tag that holds actions."""
        ...

    def parse(self, text: str, workspace: Workspace) -> ParsedTurn:
        """Read a turn. Total: any text gives a `ParsedTurn`, never an exception."""
        ...

    def write(self, primitives: Sequence[Primitive], workspace: Workspace, think: str = "") -> str:
        """Write a turn that means the given primitives.

        Raises:
            ValueError: If the dialect has no words for one of them, or an answer is not the only one.
        """
        ...

    def instructions(self, workspace: Workspace) -> str:
        """Return the prompt's instructions for writing actions."""
        ...


def _parse(dialect: CodeDialect | ToolDialect, text: str, workspace: Workspace, *, several: bool) -> ParsedTurn:
    """Read a turn: tags first, then the body, in the dialect's own way."""
    tag = dialect.action_tag
    well_formed, has_code = False, None
    try:
        kind, bodies, well_formed = read_tags(text, tag, several=several)
        has_code = kind == tag
        if not has_code:
            if workspace.board:
                answer = read_answer(bodies[0], workspace.names, rotations=workspace.rotations)
            else:
                answer = Answer((), text=bodies[0])
            return ParsedTurn((answer,), well_formed, has_code)
        primitives, variables = dialect.read_bodies(bodies, workspace)
        return ParsedTurn(tuple(primitives), well_formed, has_code, None, variables)
    except ActionError as error:
        error.forget()
        return ParsedTurn((), well_formed, has_action(text, tag) if has_code is None else has_code, error)


def _tagged(think: str, tag: str, bodies: Sequence[str]) -> str:
    blocks = "\n".join(f"<{tag}>{body}</{tag}>" for body in bodies)
    return f"<think>{think}</think>\n{blocks}"


def write_answer(answer: Answer, think: str = "") -> str:
    """Write an answer, which is the same in every dialect.

    Args:
        answer: The answer.
        think: The reasoning before it.

    Returns:
        The text of a turn.
    """
    if answer.text is not None:
        return _tagged(think, "answer", [answer.text])
    entries: list[Any] = list(answer.order)
    if answer.turns is not None:
        entries = [[name, angle] for name, angle in zip(answer.order, answer.turns, strict=True)]
    return _tagged(think, "answer", [json.dumps(entries)])


class CodeDialect:
    """AGILE's dialect: a few lines of Python-like text between code tags (see `agile_gym.actions.interpreter`)."""

    name = "code"
    action_tag = "code"

    def parse(self, text: str, workspace: Workspace) -> ParsedTurn:
        """Read a turn. Total: any text gives a `ParsedTurn`, never an exception."""
        return _parse(self, text, workspace, several=False)

    def instructions(self, workspace: Workspace) -> str:
        """Return the prompt's instructions for writing code."""
        return code_instructions(rotations=workspace.rotations, board=workspace.board)

    def read_bodies(self, bodies: Sequence[str], workspace: Workspace) -> tuple[list[Primitive], dict[str, Any] | None]:
        """Read the code block; see `interpret`."""
        return interpret(bodies[0], workspace)

    def write(self, primitives: Sequence[Primitive], workspace: Workspace, think: str = "") -> str:
        """Write a turn that means the given primitives."""
        match primitives:
            case [Answer() as answer]:
                return write_answer(answer, think)
            case _:
                taken: list[str] = []
                lines = [self._line(primitive, workspace, taken) for primitive in primitives]
                return _tagged(think, self.action_tag, ["\n" + "\n".join(lines) + "\n"])

    def _line(self, primitive: Primitive, workspace: Workspace, taken: list[str]) -> str:
        def named(stem: str, name: str | None) -> str:
            taken.append(name or workspace.fresh_key(stem, taken))
            return taken[-1]

        def image(key: str) -> str:
            return f"image_list[{workspace.names.index(key)}]" if workspace.board and key in workspace.names else key

        match primitive:
            case Swap(a, b):
                return f"state[{a}], state[{b}] = state[{b}], state[{a}]"
            case Arrange(order, turns):
                return f"state = {json.dumps(workspace.state_list(order, turns))}"
            case RotatePiece(place, angle):
                return f"turn({place}, {angle})"
            case Observe(name, order, turns):
                state = "state" if order is None else json.dumps(workspace.state_list(order, turns))
                return f"{named('observation_image', name)} = observation({state})"
            case Crop(source, box, name):
                return f"{named('crop_image', name)} = crop({image(source)}, {list(box)})"
            case Zoom(source, factor, name):
                return f"{named('zoom_image', name)} = zoom({image(source)}, {factor})"
            case Rotate(source, angle, name):
                return f"{named('rotate_image', name)} = rotate({image(source)}, {angle})"
            case Answer():
                raise ValueError("an answer must be the only primitive of its turn")


class ToolDialect:
    """JSON tool calls, as chat models are trained on: one or more in a turn (see `agile_gym.actions.tools`)."""

    name = "tools"
    action_tag = "tool_call"

    def parse(self, text: str, workspace: Workspace) -> ParsedTurn:
        """Read a turn. Total: any text gives a `ParsedTurn`, never an exception."""
        return _parse(self, text, workspace, several=True)

    def instructions(self, workspace: Workspace) -> str:
        """Return the prompt's instructions for calling tools."""
        return tool_instructions(rotations=workspace.rotations, board=workspace.board)

    def read_bodies(self, bodies: Sequence[str], workspace: Workspace) -> tuple[list[Primitive], None]:
        """Read the calls, in order; see `agile_gym.actions.tools.read_calls`."""
        return tools.read_calls(bodies, workspace), None

    def write(self, primitives: Sequence[Primitive], workspace: Workspace, think: str = "") -> str:
        """Write a turn that means the given primitives."""
        match primitives:
            case [Answer() as answer]:
                return write_answer(answer, think)
            case _:
                return _tagged(think, self.action_tag, tools.write_calls(primitives, workspace))


DIALECTS: dict[str, Dialect] = {"code": CodeDialect(), "tools": ToolDialect()}
"""The dialects, by name."""


def get_dialect(dialect: str | Dialect) -> Dialect:
    """Return a dialect by its name; a user's own dialect object is passed through.

    Raises:
        ConfigurationError: If there is no dialect of this name, or it is no dialect.
    """
    if all(
        hasattr(dialect, name) for name in ("name", "action_tag", "parse", "write", "instructions")
    ) and not isinstance(dialect, type):
        return cast(Dialect, dialect)
    if not isinstance(dialect, str):
        raise ConfigurationError(
            f"dialect={dialect!r} is neither the name of a dialect ({', '.join(map(repr, DIALECTS))}) nor an object "
            "with name, action_tag, parse(), write() and instructions()."
        )
    if dialect not in DIALECTS:
        raise ConfigurationError(f"There is no dialect {dialect!r}. {did_you_mean(dialect, DIALECTS)}")
    return DIALECTS[dialect]
