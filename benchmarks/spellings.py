"""Writes one meaning in two ways, as `fuzz.py` feeds them: plainly, and as models and servers may spell it.

Both must be read as the same primitives, or be refused by the same kind of error.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from agile_gym.actions.workspace import Workspace

NAME_FORMS = ("{0}", " {0} ", "Image {0}", "image {0}", "piece {0}", "Piece_{0}", "TILE {0}", "'{0}'", "({0})", "{0}.")
FENCE_FORMS = (
    *(
        "{1}",
        "{1}",
        "{1}",
        "\n{1}\n",
        "```\n{1}\n```",
        "```{0}\n{1}\n```",
        " ```{0}\r\n{1}\r\n```\r\n",
        "~~~{0}\n{1}\n~~~",
    ),
    *("```{1}```", "`{1}`", "```{0}\n{1}", "{1}\n```", "````{0}\n{1}\n````", "```md\n```{0}\n{1}\n```\n```"),
)
LANGUAGES = ("", "json", "python", "Python3", "c++", "tool_call", "klingon")
THOUGHTS = (
    *("a", "", "I write <code>x</code>.", "<answer>", "</code></answer>", "<tool_call>{}</tool_call>"),
    *("<think>b</think>", "The form is <think>...</think>, then <answer>[]</answer>.", "I begin with <think>, and"),
)
ARGUMENT_KEYS = ("arguments", "arguments", "parameters", "args", "input")
IMAGE_NAMES = ("reference", "observation_image_1", "nothing")
UNKNOWN = ("Z", "AB", "", "A B", "<image>", "1")


class Speller:
    """Draws meanings and writes them."""

    def __init__(self, rng: random.Random) -> None:
        """Take a source of randomness."""
        self.rng = rng

    def turn(self, dialect: str, workspace: Workspace) -> tuple[str, str]:
        """Return a turn that makes sense, or nearly, in both ways."""
        rng = self.rng
        if rng.random() < 0.4:
            tag, (plain, spelled) = "answer", self.answer(workspace)
        elif dialect == "code":
            tag, (plain, spelled) = "code", self.code(workspace)
        else:
            tag, (plain, spelled) = "tool_call", self.call(workspace)
        fence = rng.choice(FENCE_FORMS)
        if "\n" in spelled and "\n" not in fence:
            fence = FENCE_FORMS[0]
        spelled = f"<{tag}>{fence.format(rng.choice(LANGUAGES), spelled)}</{tag}>"
        if rng.random() < 0.1:
            spelled = rng.choice(("```\n{0}\n```", "~~~xml\r\n{0}\r\n~~~")).format(spelled)
        return f"<think>a</think><{tag}>{plain}</{tag}>", f"<think>{rng.choice(THOUGHTS)}</think>\n{spelled}"

    def name(self, name: str, taken: Sequence[str] = ()) -> str:
        """Spell the name of a piece so that it is not the name of something else."""
        rng = self.rng
        written = rng.choice(NAME_FORMS).format(rng.choice((name, name.lower())))
        return name if written in taken or written.strip() in taken else written

    def number(self, number: float) -> float:
        """Spell a whole number."""
        return float(number) if self.rng.random() < 0.5 else number

    def order(self, workspace: Workspace) -> list[tuple[str, str]]:
        """Return the names of all pieces, or nearly, plain and spelled."""
        rng = self.rng
        order: list[str] = rng.sample(workspace.names, len(workspace.names))
        pairs = [(name, self.name(name)) for name in order]
        if rng.random() < 0.2:
            other = rng.choice((*UNKNOWN, *order))
            spelled = self.name(other) if other in order else other
            pairs[rng.randrange(len(pairs))] = (other, spelled)
        return pairs[: rng.choice((*(len(pairs),) * 9, 2))]

    def answer(self, workspace: Workspace) -> tuple[str, str]:
        """Return an answer in both ways."""
        rng = self.rng
        pairs = self.order(workspace)
        angles = [rng.choice((0, 90, 180, 270, -90, 450, 91, 3600, 4000, 0.5)) for _ in pairs]
        if rng.random() < 0.5:
            return self._listed([name for name, _ in pairs]), self._listed([name for _, name in pairs], odd=True)
        plain = [[name, angle] for (name, _), angle in zip(pairs, angles, strict=True)]
        spelled = [[name, self.number(angle)] for (_, name), angle in zip(pairs, angles, strict=True)]
        return self._listed(plain), self._listed(spelled, odd=True)

    def _listed(self, entries: list[Any], *, odd: bool = False) -> str:
        rng = self.rng
        kind = rng.randrange(5) if odd else 0
        names = [entry[0] if isinstance(entry, list) else entry for entry in entries]
        if kind == 1 and not any("'" in name for name in names):
            return repr(entries)
        if kind == 2 and all(name.replace(" ", "").isalpha() and name == name.strip() for name in names):
            return json.dumps(entries).replace('"', "")
        if kind == 3:
            return json.dumps(json.dumps(entries))
        return json.dumps(entries, indent=rng.choice((None, 1)))

    def call(self, workspace: Workspace) -> tuple[str, str]:
        """Return a tool call in both ways."""
        rng = self.rng
        (first, one), (second, two) = self._piece(workspace), self._piece(workspace)
        image, shown = self._image(workspace)
        angle = rng.choice((90, 180, 270, -90, 450, 45, 0, 1.5, 10**12))
        box = [0, 0.25, 1, rng.choice((1, 0.75, 0))]
        order = self.order(workspace)
        name, plain, spelled = rng.choice(
            (
                ("swap", {"first": first, "second": second}, {"first": one, "second": two}),
                ("arrange", {"order": [name for name, _ in order]}, {"order": [name for _, name in order]}),
                ("observe", {}, {}),
                ("turn", {"piece": first, "angle": angle}, {"piece": one, "angle": self.number(angle)}),
                ("zoom", {"image": image, "factor": 1}, {"image": shown, "factor": self.number(1)}),
                ("rotate", {"image": image, "angle": angle}, {"image": shown, "angle": self.number(angle)}),
                ("crop", {"image": image, "box": box}, {"image": shown, "box": [self.number(side) for side in box]}),
            )
        )
        return json.dumps({"name": name, "arguments": plain}), self._wrapped(name, spelled)

    def _wrapped(self, name: str, arguments: dict[str, Any]) -> str:
        """Spell a call."""
        rng = self.rng
        given: Any = {
            key: json.dumps(value) if isinstance(value, list) and rng.random() < 0.2 else value
            for key, value in arguments.items()
        }
        for _ in range(rng.choice((0, 0, 1, 2))):
            given = json.dumps(given)
        if not arguments and rng.random() < 0.5:
            given = rng.choice((None, "", "null"))
        call: Any = {"name": name, rng.choice(ARGUMENT_KEYS): given}
        if rng.random() < 0.2:
            call = {"id": "call_1", "type": "function", "function": call}
        for _ in range(rng.choice((0, 0, 0, 1))):
            call = json.dumps(call)
        return json.dumps(call)

    def _piece(self, workspace: Workspace) -> tuple[str, str]:
        if self.rng.random() < 0.1:
            return (unknown := self.rng.choice(UNKNOWN)), unknown
        name: str = self.rng.choice(workspace.names)
        return name, self.name(name)

    def _image(self, workspace: Workspace) -> tuple[str, str]:
        if self.rng.random() < 0.3:
            return (image := self.rng.choice(IMAGE_NAMES)), f" {image}"
        name: str = self.rng.choice(workspace.names)
        return name, self.name(name, tuple(workspace.images))

    def code(self, workspace: Workspace) -> tuple[str, str]:
        """Return some code in both ways."""
        rng = self.rng
        count = len(workspace.names)
        (first, one), (second, two) = self._piece(workspace), self._piece(workspace)
        image, shown = self._image(workspace)
        i, j = rng.randint(-count, count), rng.randint(-count, count)
        x, y = self.number(i), self.number(j)
        angle = rng.choice((90, 180, 270, -90, 450, 45, 0, 0.5))
        turned = self.number(angle)
        order = self.order(workspace)
        pairs = [(name, written, rng.choice((0, 90, 270))) for name, written in order]
        return rng.choice(
            (
                (f"swap({first!r}, {second!r})", f"swap({one!r}, {two!r})"),
                (f"swap({i}, {j})", f"swap({x}, {y})"),
                (f"swap({first!r}, {j})", f"swap({one!r}, {y})"),
                (
                    f"state[{i}], state[{j}] = state[{j}], state[{i}]",
                    f"state[{x}], state[{y}] = state[{y}], state[{x}]",
                ),
                (f"state = {[name for name, _ in order]}", f"state = {[name for _, name in order]}"),
                (
                    f"state = {[[name, angle] for name, _, angle in pairs]}",
                    f"state = {[[name, self.number(angle)] for _, name, angle in pairs]}",
                ),
                (f"turn({first!r}, {angle})", f"turn({one!r}, {turned})"),
                (f"turn({i}, {angle})", f"turn({x}, {turned})"),
                (f"zoom({image!r}, 1)", f"zoom({shown!r}, 1.0)"),
                (f"rotate(image_list[{i}], {angle})", f"rotate(image_list[{x}], {turned})"),
                (f"swap({i}, {j})\nobserve()", f"  swap({x}, {y})\r\n  observe()"),
            )
        )
