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
import math
import multiprocessing
import re
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fuzz_texts import Generator
from spellings import Speller
from tqdm import tqdm

from agile_gym.actions.dialects import ParsedTurn
from agile_gym.actions.primitives import Answer
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.envs.turn_env import TurnEnv

CHUNK = 5000
CONFIGS = ({}, {"rotations": True}, {"grid": (2, 3), "reference_image": True}, {"reward": "official_code"})
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
