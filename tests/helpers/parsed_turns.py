"""Turns of one action in each dialect, parsed in a workspace of small pieces."""

import json

from agile_gym.actions.dialects import get_dialect
from agile_gym.actions.workspace import Workspace
from agile_gym.puzzle import BoardLayout

CODE, TOOLS = get_dialect("code"), get_dialect("tools")


def workspace(rows=2, cols=2, *, rotations=False, reference=None):
    layout = BoardLayout(rows, cols, 20, 20)
    return Workspace(layout, (layout.height, layout.width), rotations=rotations, reference=reference)


def code(text, **options):
    return CODE.parse(f"<think>x</think><code>{text}</code>", workspace(**options))


def call(body, **options):
    body = body if isinstance(body, str) else json.dumps(body)
    return TOOLS.parse(f"<think>x</think><tool_call>{body}</tool_call>", workspace(**options))


def answer(text, **options):
    return CODE.parse(f"<think>x</think><answer>{text}</answer>", workspace(**options))
