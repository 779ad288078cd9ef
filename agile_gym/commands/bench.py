"""Measures the speed of the environment beside a floor and a plain implementation, all in one run."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

__all__ = ["SpeedReport", "format_speed", "measure_speed", "rate", "swap_texts", "turn_rate"]

REPEATS = 7
_ROUNDS = 5
_TURNS = 1000


def swap_texts(pieces: int, turns: int, *, seed: int = 0) -> list[str]:
    """Return the texts of turns that each swap two random places and observe, as a model would write them.

    Args:
        pieces: Number of pieces.
        turns: Number of texts.
        seed: Seed of the places.

    Returns:
        The texts, in AGILE's dialect, each with an image name of its own.
    """
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    for turn in range(turns):
        a, b = rng.permutation(pieces)[:2].tolist()
        code = f"state[{a}], state[{b}] = state[{b}], state[{a}]\nobservation_image_{turn} = observation(state)"
        texts.append(f"<think>The border of one piece continues in the other.</think>\n<code>\n{code}\n</code>")
    return texts


def rate(function: Callable[[], object], *, seconds: float = 1.0, repeats: int = REPEATS) -> float:
    """Measure how often a function can be called.

    Args:
        function: What is measured.
        seconds: About how long to measure in all.
        repeats: Runs; the median run counts, so that a short disturbance does not.

    Returns:
        Calls a second.
    """
    start = time.perf_counter()
    function()
    once = max(time.perf_counter() - start, 1e-7)
    calls = max(int(seconds / repeats / once), 1)
    rates: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        rates.append(calls / (time.perf_counter() - start))
    return float(np.median(rates))


def turn_rate(
    env: Any,  # noqa: ANN401 -- single or vector
    actions: Sequence[Any],
    *,
    seconds: float = 1.0,
    repeats: int = REPEATS,
) -> float:
    """Measure how many actions an environment takes a second; resets are not counted.

    Args:
        env: An environment, or a vector of them.
        actions: The actions of an episode, which must not end before.
        seconds: About how long to measure.
        repeats: Least number of episodes.

    Returns:
        The median over episodes.
    """
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while len(rates) < repeats or time.perf_counter() < end:
        env.reset(seed=0)
        start = time.perf_counter()
        for action in actions:
            env.step(action)
        rates.append(len(actions) / (time.perf_counter() - start))
    return float(np.median(rates))


def floor_step(texts: Sequence[str], shape: tuple[int, ...]) -> Callable[[], object]:
    """Return the least that a turn can cost: copying an image of this shape, and parsing the code of each text."""
    source = np.zeros(shape, np.uint8)
    target = np.empty(shape, np.uint8)
    codes = cycle([text.partition("<code>")[2].partition("</code>")[0].strip() for text in texts])

    def step() -> None:
        np.copyto(target, source)
        ast.parse(next(codes))

    return step


class PillowJigsaw:
    """A plain implementation to compare with: pieces are pasted on a canvas with Pillow; the text is not even read."""

    def __init__(self, pieces: Sequence[Image.Image], grid: int, gap: int) -> None:
        """Keep the pieces of a square grid."""
        self.pieces = pieces
        self.grid = grid
        self.gap = gap
        self.state = list(range(len(pieces)))

    def swap_and_observe(self, first: int, second: int) -> Any:  # noqa: ANN401 -- an array
        """Swap two places and draw the board."""
        self.state[first], self.state[second] = self.state[second], self.state[first]
        width, height = self.pieces[0].size
        size = self.grid * width + (self.grid - 1) * self.gap, self.grid * height + (self.grid - 1) * self.gap
        canvas = Image.new("RGB", size, (255, 255, 255))
        for place, piece in enumerate(self.state):
            row, col = divmod(place, self.grid)
            canvas.paste(self.pieces[piece], (col * (width + self.gap), row * (height + self.gap)))
        return np.asarray(canvas)


@dataclass(frozen=True)
class SpeedReport:
    """Turns a second of a 448 x 448, 2x2 puzzle, each a swap and an observation.

    Attributes:
        step: `JigsawVisionEnv.step`, as `gymnasium.make` returns it.
        floor: A copy of the image and a parse of the code.
        pillow: `PillowJigsaw`, without reading any text.
        early: ``step`` at turn 2 of an episode.
        late: ``step`` at turn 20 of an episode.
        reset: Resets a second with cached photographs.
    """

    step: float
    floor: float
    pillow: float
    early: float
    late: float
    reset: float


def measure_speed(*, seconds: float = 1.0) -> SpeedReport:
    """Measure the environment's speed on this machine, in one thread.

    Args:
        seconds: About how long each figure takes.

    Returns:
        The figures.
    """
    env = gymnasium.make("agile_gym:JigsawVision-v0", max_turns=1000)
    texts = swap_texts(4, _TURNS)
    observation, info = env.reset(seed=0)
    pillow = PillowJigsaw([Image.fromarray(piece) for piece in info["images"]], 2, 4)
    swaps = cycle(np.random.default_rng(0).permuted(np.tile(np.arange(4), (100, 1)), axis=1)[:, :2].tolist())
    floor = floor_step(texts, observation["image"].shape)
    part = seconds / _ROUNDS
    rates: dict[str, list[float]] = {"step": [], "floor": [], "pillow": [], "reset": [], "early": [], "late": []}
    for _ in range(_ROUNDS):  # in turn, so that all meet the same moods of the machine
        rates["step"].append(turn_rate(env, texts[:50], seconds=part, repeats=2))
        rates["floor"].append(rate(floor, seconds=part, repeats=3))
        rates["pillow"].append(rate(lambda: pillow.swap_and_observe(*next(swaps)), seconds=part, repeats=3))
        rates["reset"].append(rate(lambda: env.reset(), seconds=part, repeats=3))
        early, late = _rates_at_turns(env, texts, (2, 20), part)
        rates["early"].append(early)
        rates["late"].append(late)
    env.close()
    return SpeedReport(**{name: float(np.median(values)) for name, values in rates.items()})


def _rates_at_turns(
    env: gymnasium.Env[Any, Any], texts: Sequence[str], turns: Sequence[int], seconds: float
) -> list[float]:
    """Measure the steps at some turns of the same episodes; what lies between is not counted."""
    times: dict[int, list[float]] = {turn: [] for turn in turns}
    end = time.perf_counter() + seconds
    while len(times[turns[0]]) < 5 or time.perf_counter() < end:
        env.reset(seed=0)
        for turn, text in enumerate(texts[: max(turns)], start=1):
            start = time.perf_counter()
            env.step(text)
            if turn in times:
                times[turn].append(time.perf_counter() - start)
    return [1 / float(np.median(times[turn])) for turn in turns]


def format_speed(report: SpeedReport) -> str:
    """Write the figures for people."""
    rows = [
        ("JigsawVision-v0, env.step: swap and observe", report.step),
        ("  at turn 2 of an episode", report.early),
        ("  at turn 20 of an episode", report.late),
        ("floor: np.copyto of the image + ast.parse of the code", report.floor),
        ("plain Pillow pasting, no text read", report.pillow),
        ("env.reset with cached photographs", report.reset),
    ]
    lines = [f"{name:55} {value:10,.0f} a second" for name, value in rows]
    lines.append(f"A turn costs {report.floor / report.step:.2f} times the floor.")
    return "448 x 448 pixels, 2x2, one thread\n" + "\n".join(lines)
