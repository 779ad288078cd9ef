"""Actions of a model: primitives, dialects that write them, the engine that carries them out, and the prompts."""

from agile_gym.actions.dialects import DIALECTS, CodeDialect, Dialect, ParsedTurn, ToolDialect, get_dialect
from agile_gym.actions.primitives import (
    ERROR_KINDS,
    ActionError,
    Answer,
    Arrange,
    Crop,
    ErrorKind,
    Observe,
    Primitive,
    Rotate,
    RotatePiece,
    Swap,
    Zoom,
)
from agile_gym.actions.prompt import IMAGE_MARK
from agile_gym.actions.tools import tool_schemas
from agile_gym.actions.workspace import Workspace

__all__ = [
    "DIALECTS",
    "ERROR_KINDS",
    "IMAGE_MARK",
    "ActionError",
    "Answer",
    "Arrange",
    "CodeDialect",
    "Crop",
    "Dialect",
    "ErrorKind",
    "Observe",
    "ParsedTurn",
    "Primitive",
    "Rotate",
    "RotatePiece",
    "Swap",
    "ToolDialect",
    "Workspace",
    "Zoom",
    "get_dialect",
    "tool_schemas",
]
