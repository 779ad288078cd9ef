import ast
import contextlib
import gc
import itertools
import os
import random
import subprocess
import sys
import textwrap
import time
import tracemalloc
import warnings

import numpy as np
import pytest

from agile_gym.actions.primitives import ERROR_KINDS
from agile_gym.puzzle.pixels import rotate, rotated_size
from tests.helpers import ROOT
from tests.helpers.hostile import GROUPS, HUGE, TEXTS, every_text
from tests.helpers.invariants import DIALECTS, SOUND, Player

CONFIGS = {
    "2x2": {},
    "3x3": {"grid": 3},
    "rotations": {"rotations": True},
    "official_code": {"reward": "official_code"},
    "10x10": {"grid": 10, "image_size": 320},
    "short": {"prompt": "short", "rotations": True},
}
SLOW = 0.050
MEMORY = 50_000_000


def shown(text):
    return ascii(text[:200]) + (f"... ({len(text)} characters)" if len(text) > 200 else "")


def test_the_corpus_is_large_and_distinct():
    assert len(TEXTS) + len(HUGE) >= 300
    assert len(set(TEXTS)) == len(TEXTS)
    assert all(len(group) >= 10 for group in GROUPS.values())


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "config", [pytest.param(name, marks=[] if name == "2x2" else pytest.mark.slow) for name in CONFIGS]
)
def test_no_text_breaks_anything(config, dialect):
    player = Player(dialect, **CONFIGS[config])
    failures = []
    for text in TEXTS if config in ("3x3", "10x10") else every_text():
        try:
            player.play(text)
            player.play_on()
        except Exception as error:
            failures.append(f"{shown(text)}: {type(error).__name__}: {str(error)[:300]}")
            player = Player(dialect, **CONFIGS[config])
    assert not failures, f"{len(failures)} failures\n" + "\n".join(failures[:20])


@pytest.mark.slow
def test_texts_are_told_apart():
    # The corpus reaches every kind of error, and some of it is carried out.
    kinds = set()
    for dialect in DIALECTS:
        player = Player(dialect, image_size=32)
        kinds |= {player.play(text) for text in TEXTS}
    assert kinds == {*ERROR_KINDS, None}


def seconds(env, text):
    start = time.process_time()
    env.step(text)
    return time.process_time() - start


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("config", ["2x2", "10x10"])
def test_no_turn_is_slow(config, dialect):
    player = Player(dialect, **CONFIGS[config])

    def fresh_seconds(text):
        player.env.reset(seed=0)
        return seconds(player.env, text)

    plain = min(fresh_seconds(SOUND[dialect]) for _ in range(5))
    slow = []
    for text in every_text():
        player.fresh()
        if seconds(player.env, text) - plain > SLOW:
            least = min(fresh_seconds(text) for _ in range(3)) - plain
            if least > SLOW:
                slow.append(f"{least:.3f} s: {shown(text)}")
    assert not slow, "\n".join(slow)


def peak(env, text):
    tracemalloc.reset_peak()
    start = tracemalloc.get_traced_memory()[0]
    env.step(text)
    return tracemalloc.get_traced_memory()[1] - start


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("reward", ["paper", "official_code"])
def test_no_turn_takes_much_memory(reward, dialect):
    player = Player(dialect, reward=reward, rotations=True)
    some = itertools.chain(TEXTS[::20], GROUPS["chains"], GROUPS["nesting"], (make() for make in HUGE))
    large = []
    tracemalloc.start()
    try:
        plain = peak(player.env, SOUND[dialect])
        for text in TEXTS if reward == "paper" else some:
            player.fresh()
            used = peak(player.env, text) - plain
            if used > MEMORY:
                large.append(f"{used / 1e6:.0f} MB: {shown(text)}")
    finally:
        tracemalloc.stop()
    assert not large, "\n".join(large)


@pytest.mark.slow
def test_a_rotated_image_is_as_large_as_was_said():
    # Else it might not fit into the canvas.
    rng = random.Random(0)
    for _ in range(5000):
        height, width = rng.randint(1, 60), rng.randint(1, 60)
        angle = rng.choice((0, 45, 90, 120, 180, 270, 360, -90))
        angle += rng.choice(
            (0, 1e-17, 6e-14, -6e-14, 1e-13, -1e-13, rng.uniform(-1e-12, 1e-12), 1e-9, rng.uniform(-9, 9))
        )
        image = rotate(np.zeros((height, width, 3), np.uint8), angle)
        assert image.shape[:2] == rotated_size(height, width, angle), (height, width, angle)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
def test_memory_does_not_grow_over_a_long_episode(dialect):
    player = Player(dialect, image_size=32)
    env = player.env
    texts = [text for text in TEXTS if "answer" not in text]
    for text in texts[:100]:
        env.step(text)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for index in range(400):
            env.step(texts[index % len(texts)])
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", ["text", "action", "code", "call", "answer", "execution"])
def test_an_error_leaves_no_cycles_behind(kind, dialect):
    # Cycles through an exception's frames would keep each turn's canvas and text until the next collection.
    text = {
        "text": "x" * 40_000,
        "action": "x",
        "code": "<code>x = (</code>",
        "call": "<tool_call>{</tool_call>",
        "answer": "<answer>[</answer>",
        "execution": "<code>zoom(image_list[0], 1e8)</code>"
        if dialect == "code"
        else '<tool_call>{"name": "zoom", "arguments": {"image": "A", "factor": 1e8}}</tool_call>',
    }[kind]
    player = Player(dialect, image_size=32)
    assert player.play(text) is not None
    gc.collect()
    gc.disable()
    try:
        player.env.step(text)
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
def test_nothing_is_printed_and_no_warning_is_emitted(dialect, capfd):
    # Under "error" the parser turns its warnings into syntax errors, which would hide them, so they are recorded.
    player = Player(dialect, image_size=32)
    warned = []
    for text in TEXTS:
        player.fresh()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            player.env.step(text)
        warned += [f"{warning.category.__name__}: {warning.message}: {shown(text)}" for warning in caught]
    assert not warned, "\n".join(warned)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for text in TEXTS:
            player.fresh()
            player.env.step(text)
    assert capfd.readouterr() == ("", "")


def test_the_corpus_has_texts_that_would_warn():
    count = 0
    for text in GROUPS["warnings"]:
        body = text.partition("<code>")[2].partition("</code>")[0]
        with warnings.catch_warnings(record=True) as caught, contextlib.suppress(SyntaxError):
            warnings.simplefilter("always")
            ast.parse(body)
        count += bool(caught)
    assert count > 20


# Events that are allowed:
# - compile: ast.parse's own, which makes a tree and no code; its file name is empty.
# - open: when the text is no Python, the parser tries to read the wrong line from its file. The file name is empty, so
#   that there is none; "<unknown>", which ast.parse would use, could be one.
# - builtins.id: id(), by which lists are told apart.
AUDIT = """
import sys, warnings
from collections import Counter
from tests.helpers import hostile
from tests.helpers.invariants import DIALECTS, SOUND, Player

seen, watching = Counter(), False

def hook(event, arguments):
    if watching:
        named = {"compile": arguments[1:2], "open": arguments[:1]}.get(event)
        allowed = event == "builtins.id" or named == ("",)
        seen[event if allowed else f"{event} {str(arguments)[:200]}"] += 1

warnings.simplefilter("always")
configs = [{}, {"rotations": True, "reward": "official_code"}, {"grid": 3, "reference_image": True}]
players = [Player(dialect, image_size=48, **config) for config in configs for dialect in DIALECTS]
for player in players:
    for operation in ("rotate(image_list[0], 9)", "zoom(image_list[0], 1)", "crop(image_list[0], 0, 0, 1, 1)", "("):
        player.play(f"<code>{operation}</code>")
    for name, value in (("rotate", 9), ("zoom", 0.9)):
        key = "angle" if name == "rotate" else "factor"
        player.play(f'<tool_call>{{"name": "{name}", "arguments": {{"image": "A", "{key}": {value}}}}}</tool_call>')
    player.play("<tool_call>{</tool_call>")
    player.play('<answer>["A"]</answer>')
    player.fresh()
sys.addaudithook(hook)
for player in players:
    for text in hostile.every_text():
        player.fresh()
        watching = True
        try:
            player.env.step(text)
        except Exception:
            pass
        finally:
            watching = False
print(seen.pop("compile", 0))
seen.pop("builtins.id", 0)
seen.pop("open", 0)
for event, count in seen.most_common(20):
    print(count, event)
"""


@pytest.mark.slow
def test_no_text_reaches_files_processes_or_imports():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(AUDIT)], env=environment, capture_output=True, text=True, check=False
    )
    assert result.stderr == ""
    parsed, *others = result.stdout.splitlines()
    assert int(parsed) > 1000
    assert not others, "\n".join(others)
