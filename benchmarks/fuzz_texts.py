"""Texts for the fuzzers: characters, soups of tokens, programs, tool calls and answers, and edits of these."""

from __future__ import annotations

import json
import math
import random

NAMES = (
    *("state", "state", "image_list", "observation", "swap", "crop", "zoom", "rotate", "turn", "list", "a", "b", "x"),
    *("x@5", "reference", "observation_image_1", "__class__", "print"),
)
PIECES = (
    *"AAABBBCCCDDDEFZ",
    "AA",
    "",
    "a",
    "crop_image_1",
    "observation_image_1",
    "x",
    "reference",
    "[INST]",
    "<image>",
)
NUMBERS = (
    *("0", "1", "-1", "2", "3", "-4", "0.5", "0.25", "1.0", "90", "180", "270", "-90", "1e9", "1e-9", "1e10", "45.5"),
    *("9" * 40, "0x1f", "1e999", "1j", "1_000", "007", "0b1", "1.", ".5", "1e5"),
)
WORDS = (
    *(
        "and",
        "or",
        "not",
        "if",
        "else",
        "in",
        "is",
        "for",
        "lambda:",
        "def f():",
        "import",
        "await",
        "yield",
        "None",
        "True",
    ),
    *(
        "f'",
        "b'",
        "while",
        "class A:",
        "del",
        "match",
        "case",
        "with",
        "as",
        "try:",
        "return",
        "async",
        "global",
        "'''",
    ),
)
MARKS = (*"()[]{},:=+-*/.;\n #'\"\\@%&|^~<>!?$`\t\r\0", "**", "//", ":=", "->", "==", "...")
TAGS = (
    *(f"<{slash}{tag}>" for tag in ("think", "code", "answer", "tool_call", "image") for slash in ("", "/")),
    *("<|im_start|>", "[INST]", "</s>", "```", "```python\n"),
)
ODD = (
    "\0\x01\x07\x0b\x0c\x1b\x1c\x7f\x85\xa0\xad\u0301\u200b\u200e\u202e\u2028\u2066\ufeff"
    "\uff21\uff53\ud800\udfff\U0001f600"
)
KEYS = ("first", "second", "order", "image", "box", "factor", "angle", "piece", "", "x", "name")
TOOLS = ("swap", "arrange", "observe", "crop", "zoom", "rotate", "turn", "Swap", "")


class Generator:
    """Generator of texts from a seed."""

    def __init__(self, seed: int) -> None:
        """Start from a seed."""
        self.rng = random.Random(seed)

    def turn(self, dialect: str) -> str:
        """Return a turn, sound or not."""
        rng = self.rng
        action = "code" if dialect == "code" else "tool_call"
        shape = rng.random()
        if shape < 0.06:
            return self.characters()
        if shape < 0.12:
            return self.soup()
        if shape < 0.2:
            text = self._tagged(action, self.characters())
        elif shape < 0.32:
            text = self._tagged(action, self.soup())
        elif shape < 0.4:
            text = self._tagged("answer", self.answer())
        elif dialect == "code":
            text = self._tagged("code", "\n".join(self.statement() for _ in range(rng.choice((1, 1, 2, 3, 6)))))
        else:
            text = self._tagged("tool_call", *(self.call() for _ in range(rng.choice((1, 1, 2, 3)))))
        return self.edited(text) if rng.random() < 0.25 else text

    def _tagged(self, tag: str, *bodies: str) -> str:
        think = "<think>a</think>\n"
        if self.rng.random() < 0.1:
            think = self.rng.choice(("", "<think>", "</think>", self.soup()))
        return think + "\n".join(f"<{tag}>{body}</{tag}>" for body in bodies)

    def characters(self) -> str:
        """Return random characters, of all planes or of a few kinds."""
        rng = self.rng
        count = int(rng.expovariate(1 / 30))
        kind = rng.random()
        if kind < 0.3:
            return "".join([chr(int(rng.random() * 0x110000)) for _ in range(count)])
        if kind < 0.6:
            return "".join([chr(int(rng.random() * 256)) for _ in range(count)])
        if kind < 0.8:
            return "".join(rng.choices("0123456789abcdefxXoOjJ_. ifnorsteldha+-'\\", k=count))
        return "".join(rng.choices(ODD + "state=[]()01'A, ", k=count))

    def token(self) -> str:
        """Return a token."""
        rng = self.rng
        kind = rng.choice((NAMES, NAMES, PIECES, NUMBERS, MARKS, MARKS, MARKS, WORDS, TAGS, ODD))
        token = rng.choice(kind)
        return json.dumps(token) if kind is PIECES else token

    def soup(self) -> str:
        """Return tokens in any order, some of them many times over."""
        rng = self.rng
        tokens = [self.token() for _ in range(int(rng.expovariate(1 / 10)) + 1)]
        if rng.random() < 0.1:
            repeated = "".join(tokens[: rng.randint(1, 4)])
            tokens.insert(0, repeated * rng.randint(1, 4000 // max(len(repeated), 1) or 1))
        return rng.choice(("", " ")).join(tokens)

    def expression(self, depth: int = 0) -> str:
        """Return an expression."""
        rng = self.rng
        kind = rng.random() if depth < 4 else 0.0
        if kind < 0.25:
            return rng.choice(NUMBERS)
        if kind < 0.45:
            return json.dumps(rng.choice(PIECES))
        if kind < 0.65:
            return rng.choice(NAMES)
        first = self.expression(depth + 1)
        if kind < 0.72:
            return f"{first}[{self.expression(depth + 1)}]"
        if kind < 0.79:
            return f"({first} {rng.choice('+-*/')} {self.expression(depth + 1)})"
        if kind < 0.86:
            return "[" + ", ".join(self.expression(depth + 1) for _ in range(rng.randint(0, 5))) + "]"
        if kind < 0.9:
            return rng.choice("-+~") + first
        if kind < 0.96:
            return f"{rng.choice(NAMES)}({first}, {self.expression(depth + 1)})"
        return f"{first}[{rng.choice(('', '1', '-1'))}:{rng.choice(('', '2', '-1'))}]"

    def statement(self) -> str:
        """Return a statement."""
        rng = self.rng
        kind = rng.randrange(12)
        i, j = rng.randint(-4, 4), rng.randint(-4, 4)
        name, other = rng.choice(NAMES), rng.choice(NAMES)
        piece, number = json.dumps(rng.choice(PIECES)), rng.choice(NUMBERS)
        image = rng.choice((piece, other, f"image_list[{i}]", "x", "a"))
        order, fresh = rng.sample("ABCD", 4), rng.choice((name, "a", "b", "x"))
        choices = (
            f"state[{i}], state[{j}] = state[{j}], state[{i}]",
            f"{name}[{i}], {other}[{j}] = {other}[{j}], {name}[{i}]",
            f"swap({piece}, {j})",
            f"turn({rng.choice((piece, str(i)))}, {rng.choice(('90', '180', '270', '-90', number))})",
            f"state = {order}",
            f"state = {[[entry, rng.choice((0, 90, 180, 270, 91))] for entry in order]}",
            f"{name} = {self.expression()}",
            f"{name} = {other} = {self.expression()}",
            f"{name}[{i}] = {self.expression()}",
            f"{fresh} = observation({rng.choice((other, 'state', ''))})",
            f"{fresh} = crop({image}, [{', '.join(rng.choice(NUMBERS[:14]) for _ in range(4))}])",
            f"{fresh} = {rng.choice(('zoom', 'rotate'))}({image}, {number})",
        )
        return choices[kind]

    def json(self, depth: int = 0) -> object:
        """Return a JSON value."""
        rng = self.rng
        kind = rng.randrange(9 if depth < 3 else 7)
        if kind == 7:
            return [self.json(depth + 1) for _ in range(rng.randint(0, 5))]
        if kind == 8:
            return {rng.choice(KEYS): self.json(depth + 1) for _ in range(rng.randint(0, 4))}
        values = (
            None,
            True,
            rng.choice(PIECES),
            self.number(),
            rng.randint(-9, 9),
            rng.choice(PIECES),
            rng.choice(ODD),
        )
        return values[kind]

    def number(self) -> float:
        """Return a number that JSON, or Python's version of it, can hold."""
        rng = self.rng
        special = (0.0, 1e-9, 1e9, 1e10, math.inf, math.nan, 90, 180, 270, -90, 10**40, 1, 0.5)
        return rng.choice(special) if rng.random() < 0.4 else round(rng.uniform(-1, 2), 3)

    def call(self) -> str:
        """Return the text of a tool call."""
        rng = self.rng
        first, second, number = rng.choice(PIECES), rng.choice(PIECES), self.number()
        name = rng.choice(TOOLS)
        sound = {
            "swap": {"first": first, "second": second},
            "arrange": {"order": rng.sample("ABCD", 4)},
            "crop": {"image": first, "box": [rng.choice((0, 0.1, number)), 0, 0.8, rng.choice((1, number))]},
            "zoom": {"image": first, "factor": number},
            "rotate": {"image": first, "angle": number},
            "turn": {"piece": first, "angle": number},
        }
        arguments: object = sound.get(name, {})
        if rng.random() < 0.25:
            arguments = self.json()
        if rng.random() < 0.05:
            return json.dumps(self.json())
        return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=rng.random() < 0.5)

    def answer(self) -> str:
        """Return the text of an answer."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.3:
            return json.dumps(rng.sample("ABCD", 4))
        if kind < 0.5:
            return json.dumps([[name, rng.choice((0, 90, 180, 270, self.number()))] for name in rng.sample("ABCD", 4)])
        return json.dumps(self.json()) if kind < 0.8 else self.soup()

    def edited(self, text: str) -> str:
        """Return a text with a few parts deleted, doubled, replaced or reversed."""
        rng = self.rng
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(text) + 1)
            end = min(start + rng.randint(1, 6), len(text))
            part = text[start:end]
            part = rng.choice(("", part * 2, self.token(), part + self.token(), part[::-1]))
            text = text[:start] + part + text[end:]
        return text
