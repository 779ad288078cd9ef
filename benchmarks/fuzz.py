"""Feeds generated texts to the environment, to find one that breaks it.

Each text is a turn of the code or the tool dialect: random characters, a soup of tokens, a program or tool calls of a
grammar that is wider than the dialects, an answer, or one of those with characters deleted, doubled or replaced; or one
meaning in two spellings (see `spellings.py`), such as other names for a piece, ``90.0`` for 90, fences, JSON within
strings, and tags within the reasoning. After each turn it is checked that nothing was raised, that the state is a
permutation, that an error changed nothing and its text names the mistake, that no mark, tag or control character of
the text came back, and that both spellings mean the same.

    python benchmarks/fuzz.py --inputs 1000000 --workers 2
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import re
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from spellings import Speller
from tqdm import tqdm

from agile_gym.actions.dialects import ParsedTurn
from agile_gym.actions.primitives import Answer
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.envs.turn_env import TurnEnv

CHUNK = 5000
CONFIGS = ({}, {"rotations": True}, {"grid": (2, 3), "reference_image": True}, {"reward": "official_code"})
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
NOTE = "Begin each turn with one <think>...</think> block."
SPELLED = 0.25
"""Fraction of turns that are one meaning in two spellings."""
UNSAFE = re.compile(r"<(?! )|[^\n -~]|[|\\&]|\[/?[A-Za-z_]+\]")


@dataclass
class Findings:
    """Outcome of a chunk of texts.

    Attributes:
        kinds: Number of turns by the kind of error, ``"carried out"``, ``"answered"`` and ``"warned"``.
        spelled: Number of turns that were read in two spellings.
        slowest: Seconds of processor time of the slowest turn.
        slowest_text: Its text.
        broken: The text that broke something, as `ascii` writes it, and the failure; None if none did.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    spelled: int = 0
    slowest: float = 0.0
    slowest_text: str = ""
    broken: tuple[str, str] | None = None


Check = Callable[[TurnEnv, bool, dict[str, Any]], str | None]
Run = Callable[[tuple[int, int]], Findings]


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


Draw = Callable[[Generator, TurnEnv], tuple[str | None, str]]


def broken_rule(env: TurnEnv, text: str, findings: Findings, broken_here: Check) -> str | None:
    """Play a turn and return the failure that it led to, or None."""
    workspace = env.episode.workspace
    before = (workspace.order, workspace.turns, workspace.made, len(workspace.images), workspace.variables)
    start = time.process_time()
    observation, reward, terminated, _, info = env.step(text)
    seconds = time.process_time() - start
    if seconds > findings.slowest:
        findings.slowest, findings.slowest_text = seconds, text
    error = info["error"]
    findings.kinds[error or ("answered" if terminated else "carried out")] += 1
    if not math.isfinite(reward):
        return f"reward {reward}"
    broken = broken_here(env, terminated, info)
    if broken is not None:
        return broken
    answered = [type(primitive) for primitive in info["primitives"]] == [Answer]
    if terminated and error and not answered and env.rules.reward.invalid_turn != "end":
        return f"the error {error} ended the episode"
    if error and not tells(error, observation["text"]):
        return f"the text does not name the error {error}: {observation['text']!a}"
    after = (workspace.order, workspace.turns, workspace.made, len(workspace.images), workspace.variables)
    if error and (after[:4] != before[:4] or after[4] is not before[4]):
        return "an error changed something"
    shown = observation["text"].removesuffix(NOTE)
    if shown.count("<image>") != len(info["images"]) or UNSAFE.search(shown.replace("<image>", "")):
        return f"text {shown!a}"
    return None


def broken_board(env: TurnEnv, terminated: bool, info: dict[str, Any]) -> str | None:
    """Return the failure of a board after a turn, or None."""
    workspace = env.episode.workspace
    if sorted(workspace.order) != list(range(len(workspace.names))):
        return f"order {workspace.order}"
    if any(angle not in (0, 90, 180, 270) for angle in workspace.turns):
        return f"turns {workspace.turns}"
    if not terminated and "state" not in workspace.variables and workspace.variables:
        return "the variable state is lost"
    return None


def tells(error: str, text: str) -> bool:
    """Return whether a text names a kind of error and then, in whole sentences, the mistake."""
    lines = [line for line in text.split("\n") if line.startswith(f"Error ({error}): ")]
    return len(lines) == 1 and re.fullmatch(r"Error \(\w+\): (?:\S+ ){3,}\S*[^.\s]\.", lines[0]) is not None


def meaning(parsed: ParsedTurn) -> object:
    """Return the common meaning of two spellings of one turn."""
    kind = None if parsed.error is None else parsed.error.kind
    return parsed.primitives, kind, parsed.has_code, parsed.well_formed


def differing(env: TurnEnv, plain: str, spelled: str) -> str | None:
    """Return the two readings of a turn's spellings, if they differ, or None."""
    first, second = (env.dialect.parse(text, env.episode.workspace) for text in (plain, spelled))
    if meaning(first) == meaning(second):
        return None
    return f"{plain!a} is read as {first}, the other spelling as {second}"


def draw(generator: Generator, env: TurnEnv) -> tuple[str | None, str]:
    """Return the plain spelling of a turn, or None for one in one spelling only, and its text."""
    if generator.rng.random() < SPELLED:
        return Speller(generator.rng).turn(env.dialect.name, env.episode.workspace)
    return None, generator.turn(env.dialect.name)


def run_chunk(job: tuple[int, int]) -> Findings:
    """Play a chunk of texts, of a seed and a number; see `Findings`."""
    envs = [
        JigsawVisionEnv(image_size=16, dialect=dialect, max_turns=1000, **config)
        for config in CONFIGS
        for dialect in ("code", "tools")
    ]
    return play_chunk(*job, envs, draw, broken_board)


def play_chunk(seed: int, count: int, envs: Sequence[TurnEnv], draw: Draw, broken_here: Check) -> Findings:
    """Play a chunk of texts.

    Args:
        seed: Seed of the texts.
        count: Number of texts.
        envs: Environments, which play in turn.
        draw: Function that draws a turn, as `draw` does.
        broken_here: Function that checks an environment after a turn.
    """
    generator, findings = Generator(seed), Findings()
    for number in range(count):
        env = envs[number % len(envs)]
        if env.episode.done or env.episode.workspace.made > 50 or env.episode.turn > 200:
            env.reset(seed=number)
        plain, text = draw(generator, env)
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                wrong = None if plain is None else differing(env, plain, text)
                wrong = wrong or broken_rule(env, text, findings, broken_here)
                findings.spelled += plain is not None
            if warned:
                wrong = f"{warned[0].category.__name__}: {warned[0].message}"
        except Exception:
            wrong = traceback.format_exc()
        if wrong is not None:
            findings.broken = (ascii(text), wrong)
            break
    return findings


def main(arguments: list[str] | None = None, run_chunk: Run = run_chunk) -> int:
    """Run a fuzzer and print its findings.

    Args:
        arguments: Those of the command line.
        run_chunk: Function that plays a chunk of texts.

    Returns:
        0, or 1 if a text broke something.
    """
    parser = argparse.ArgumentParser(description="Feed generated texts to environments, to find one that breaks them.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="number of texts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the texts (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="number of processes (default: %(default)s)")
    options = parser.parse_args(arguments)
    sizes = [min(CHUNK, options.inputs - start) for start in range(0, options.inputs, CHUNK)]
    jobs = [(options.seed * 1_000_003 + number, size) for number, size in enumerate(sizes)]
    total, start = Findings(), time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool, tqdm(total=options.inputs) as progress:
        for findings in pool.imap_unordered(run_chunk, jobs):
            total.kinds += findings.kinds
            total.spelled += findings.spelled
            if findings.slowest > total.slowest:
                total.slowest, total.slowest_text = findings.slowest, findings.slowest_text
            progress.update(findings.kinds.total())
            if findings.broken is not None:
                total.broken = findings.broken
                break
    seconds = time.perf_counter() - start
    count = total.kinds.total()
    print(f"{count} texts in {seconds:.1f} s with {options.workers} workers ({count / seconds:.0f} per second)")
    if total.spelled:
        print(f"{total.spelled:9} in two spellings")
    for kind, number in total.kinds.most_common():
        print(f"{number:9} {kind}")
    print(f"slowest: {total.slowest * 1000:.1f} ms for {total.slowest_text[:200]!a}")
    if total.broken is None:
        return 0
    text, wrong = total.broken
    print(f"broken by {text}\n{wrong}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
