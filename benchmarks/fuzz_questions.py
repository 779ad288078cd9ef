"""Feeds generated texts to questions about pictures, to find one that breaks the environment.

Texts are those of `fuzz_texts.py`, and answers of every kind: letters, options, numbers in many forms, words, and
tokens in any order. After each turn it is checked that nothing was raised or warned of, that an error changed nothing
and its text names the mistake, that no mark, tag or control character of the text came back, and that an answer is
right if and only if the rule of the question, asked again, calls it so.

    python benchmarks/fuzz_questions.py --inputs 1000000 --workers 1
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from fuzz import Findings, main, play_chunk
from fuzz_texts import Generator

from agile_gym.actions.primitives import Answer
from agile_gym.envs.turn_env import TurnEnv
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


def draw(generator: Generator, env: TurnEnv) -> tuple[None, str]:
    """Return None, as a turn has one spelling only, and its text."""
    dialect, kind = env.dialect.name, generator.rng.random()
    text = answer(generator) if kind < 0.2 else look(generator, dialect) if kind < 0.5 else generator.turn(dialect)
    return None, text


def broken_answer(env: TurnEnv, terminated: bool, info: dict[str, Any]) -> str | None:
    """Return the failure of an answer or a look, or None."""
    answers, error = [one for one in info["primitives"] if isinstance(one, Answer)], info["error"]
    key = env.episode.asked.key
    if terminated and not error and (len(answers) != 1 or key.judge(answers[0].text or "") != info["solved"]):
        return f"the answer {answers} counts as {info['solved']}"
    if any(max(image.shape[:2]) > max(env.rules.canvas) for image in info["images"]):
        return "an image is larger than the canvas"
    return None


def run_chunk(job: tuple[int, int]) -> Findings:
    """Play a chunk of texts, of a seed and a number; see `Findings`."""
    envs = [
        VisualQAEnv(**{"questions": rows(job[0]), "canvas_size": 64, "max_turns": 50, "dialect": name, **config})
        for config in CONFIGS
        for name in ("code", "tools")
    ]
    return play_chunk(*job, envs, draw, broken_answer)


if __name__ == "__main__":
    sys.exit(main(run_chunk=run_chunk))
