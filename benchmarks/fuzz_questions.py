"""Feeds generated texts to questions about pictures, to find one that breaks the environment.

Texts are those of `fuzz.py`, and answers of every kind: letters, options, numbers in many forms, words, and tokens in
any order. After each turn it is checked that nothing was raised or warned of, that an error changed nothing and its
text names the mistake, that no mark, tag or control character of the text came back, and that an answer is right if and
only if the rule of the question, asked again, calls it so.

    python benchmarks/fuzz_questions.py --inputs 1000000 --workers 1
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import time
import traceback
import warnings

import numpy as np
from fuzz import CHUNK, NOTE, UNSAFE, Findings, Generator, tells
from tqdm import tqdm

from agile_gym.actions.primitives import Answer
from agile_gym.envs.visual_qa import VisualQAEnv

WORDS = (
    "A",
    "b",
    "(C)",
    "D.",
    "a: red",
    "red",
    "yes",
    "No.",
    "42",
    "4.2e1",
    "1,000",
    "1/2",
    "three",
    "the cat",
    "-0",
    "",
)
CONFIGS = ({}, {"reward": "official_code"}, {"questions": "generated", "difficulty": "1-3"})


def rows(seed: int) -> list[dict[str, object]]:
    """Return a question of each rule, with and without options, about one or several small pictures."""
    rng = np.random.default_rng(seed)
    pictures = [rng.integers(0, 256, (int(h), int(w), 3), np.uint8) for h, w in rng.integers(1, 90, (6, 2))]
    return [
        {"question": "Which colour?", "answer": "B", "choices": ["red", "blue", "A"], "image": pictures[0]},
        {"question": "Is it <image>?", "answer": "yes", "image": pictures[1], "box": [0.1, 0.1, 0.4, 0.5]},
        {"question": "How many?", "answer": "42", "tolerance": 1.5, "image": pictures[2]},
        {"question": "What is it?", "answer": ["cat", "a dog"], "image": pictures[3]},
        {"question": "Write it.", "answer": "Cat 1.", "rule": "exact", "image": pictures[4:]},
    ]


def answer(generator: Generator) -> str:
    """Return the text of a turn with an answer."""
    rng = generator.rng
    kind = rng.random()
    body = rng.choice(WORDS) if kind < 0.6 else generator.soup() if kind < 0.8 else generator.characters()
    return f"<think>a</think>\n<answer>{body}</answer>"


def look(generator: Generator, dialect: str) -> str:
    """Return the text of a turn that looks at pictures, mostly sound, and often edited."""
    rng = generator.rng
    images = ("image_1", "image_1", "image_2", "crop_image_1", "zoom_image_1", "x", "a", "image_9")
    calls: list[str] = []
    for _ in range(rng.choice((1, 1, 2, 4))):
        image, name = rng.choice(images), rng.choice(("x", "a", "crop_image_1", "image_1"))
        box = sorted(round(rng.uniform(-0.1, 1.1), 2) for _ in range(4))
        number = rng.choice((0.5, 1.5, 3, 90, -45, round(rng.uniform(0, 9), 2)))
        tool = rng.choice(("crop", "zoom", "rotate"))
        if dialect == "tools":
            value = {"box": [box[0], box[1], box[2], box[3]]} if tool == "crop" else None
            value = value or {"factor" if tool == "zoom" else "angle": number}
            calls.append(json.dumps({"name": tool, "arguments": {"image": image, **value}}))
        else:
            calls.append(f"{name} = {tool}({image}, {box if tool == 'crop' else number})")
    if dialect == "tools":
        bodies = "\n".join(f"<tool_call>{call}</tool_call>" for call in calls)
    else:
        bodies = "<code>" + "\n".join(calls) + "</code>"
    text = f"<think>a</think>\n{bodies}"
    return generator.edited(text) if rng.random() < 0.3 else text


def broken_rule(env: VisualQAEnv, text: str, findings: Findings) -> str | None:
    """Play a turn and return the failure that it led to, or None."""
    workspace, key = env.episode.workspace, env.episode.asked.key
    before = (workspace.made, len(workspace.images), workspace.variables)
    start = time.process_time()
    observation, reward, terminated, _, info = env.step(text)
    seconds = time.process_time() - start
    if seconds > findings.slowest:
        findings.slowest, findings.slowest_text = seconds, text
    error = info["error"]
    findings.kinds[error or ("answered" if terminated else "carried out")] += 1
    if not math.isfinite(reward):
        return f"reward {reward}"
    answers = [primitive for primitive in info["primitives"] if isinstance(primitive, Answer)]
    if terminated and not error and (len(answers) != 1 or key.judge(answers[0].text or "") != info["solved"]):
        return f"the answer {answers} counts as {info['solved']}"
    if terminated and error and env.rules.reward.invalid_turn != "end":
        return f"the error {error} ended the episode"
    if error and not tells(error, observation["text"]):
        return f"the text does not name the error {error}: {observation['text']!a}"
    after = (workspace.made, len(workspace.images), workspace.variables)
    if error and (after[:2] != before[:2] or after[2] is not before[2]):
        return "an error changed something"
    if any(max(image.shape[:2]) > max(env.rules.canvas) for image in info["images"]):
        return "an image is larger than the canvas"
    shown = observation["text"].removesuffix(NOTE)
    if shown.count("<image>") != len(info["images"]) or UNSAFE.search(shown.replace("<image>", "")):
        return f"text {shown!a}"
    return None


def run_chunk(job: tuple[int, int]) -> Findings:
    """Play a chunk of texts; see `Findings`.

    Args:
        job: The chunk's seed and its number of texts.
    """
    seed, count = job
    generator, findings = Generator(seed), Findings()
    turns = [
        (VisualQAEnv(**{"questions": rows(seed), "canvas_size": 64, "max_turns": 50, "dialect": name, **config}), name)
        for config in CONFIGS
        for name in ("code", "tools")
    ]
    for number in range(count):
        env, dialect = turns[number % len(turns)]
        if env.episode.done or env.episode.workspace.made > 50:
            env.reset(seed=number)
        kind = generator.rng.random()
        text = answer(generator) if kind < 0.2 else look(generator, dialect) if kind < 0.5 else generator.turn(dialect)
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                wrong = broken_rule(env, text, findings)
            if warned:
                wrong = f"{warned[0].category.__name__}: {warned[0].message}"
        except Exception:
            wrong = traceback.format_exc()
        if wrong is not None:
            findings.broken = (ascii(text), wrong)
            break
    return findings


def main(arguments: list[str] | None = None) -> int:
    """Run the fuzzer and print its findings.

    Returns:
        0, or 1 if a text broke something.
    """
    parser = argparse.ArgumentParser(description="Feed generated texts to questions, to find one that breaks them.")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="number of texts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the texts (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="number of processes (default: %(default)s)")
    options = parser.parse_args(arguments)
    sizes = [min(CHUNK, options.inputs - start) for start in range(0, options.inputs, CHUNK)]
    jobs = [(options.seed * 1_000_003 + number, size) for number, size in enumerate(sizes)]
    total, start = Findings(), time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool, tqdm(total=options.inputs) as progress:
        for findings in pool.imap_unordered(run_chunk, jobs):
            total.kinds += findings.kinds
            if findings.slowest > total.slowest:
                total.slowest, total.slowest_text = findings.slowest, findings.slowest_text
            progress.update(findings.kinds.total())
            if findings.broken is not None:
                total.broken = findings.broken
                break
    seconds = time.perf_counter() - start
    count = total.kinds.total()
    print(f"{count} texts in {seconds:.1f} s with {options.workers} workers ({count / seconds:.0f} per second)")
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
