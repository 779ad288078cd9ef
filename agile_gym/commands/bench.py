"""``agile-gym bench``: speed of environments on this machine; and ``plan``: tokens and images of an episode."""

from __future__ import annotations

import argparse
import ast
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from PIL import Image

from agile_gym.commands import add_env, env_of, read_pairs
from agile_gym.errors import ConfigurationError

if TYPE_CHECKING:
    from agile_gym.rollout.plan import Advice, TokenPlan

__all__ = [
    "SpeedReport",
    "add_plan_command",
    "format_advice",
    "format_plan",
    "format_speed",
    "measure_speed",
    "rate",
    "run_plan",
    "swap_texts",
    "turn_rate",
]

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
    """Measure the rate at which a function can be called.

    Args:
        function: The function.
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
    """Measure the actions an environment takes a second; resets are not counted.

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
    """Return the lower bound of a turn's cost: copying an image of this shape, and parsing the code of each text."""
    source = np.zeros(shape, np.uint8)
    target = np.empty(shape, np.uint8)
    codes = cycle([text.partition("<code>")[2].partition("</code>")[0].strip() for text in texts])

    def step() -> None:
        np.copyto(target, source)
        ast.parse(next(codes))

    return step


class PillowJigsaw:
    """A plain implementation for comparison: pieces are pasted on a canvas with Pillow; the text is not even read."""

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
        floor: Lower bound: a copy of the image and a parse of the code.
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
    for _ in range(_ROUNDS):  # in turn, so that all run under the same load of the machine
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
    """Measure the steps at some turns of the same episodes; the turns between are not counted."""
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
        ("lower bound: np.copyto of the image + ast.parse of the code", report.floor),
        ("plain Pillow pasting, no text read", report.pillow),
        ("env.reset with cached photographs", report.reset),
    ]
    lines = [f"{name:55} {value:10,.0f} a second" for name, value in rows]
    lines.append(f"A turn costs {report.floor / report.step:.2f} times the lower bound.")
    return "448 x 448 pixels, 2x2, one thread\n" + "\n".join(lines)


NEW_TOKENS = 512
"""Default number of tokens that a model writes in a turn, as in `agile_gym.models.sampling.SamplingOptions`."""
_FLAGS = {
    "grid": "--grid",
    "max_turns": "--turns",
    "image_size": "--image-size",
    "dialect": "--dialect",
    "prompt": "--prompt",
}


def add_plan_command(commands: Any) -> None:  # noqa: ANN401 -- argparse names no type for it
    """Add the command to the command line.

    Args:
        commands: Result of ``ArgumentParser.add_subparsers``.
    """
    command: argparse.ArgumentParser = commands.add_parser(
        "plan",
        help="count the tokens of an episode before a model plays it",
        description="Counts the tokens of an episode with a model's own chat template and image processor, and prints "
        "whether it fits the model's context and what to change. No weights are loaded.",
    )
    command.add_argument("--model", required=True, help="folder of a model, or its name on the hub")
    add_env(command)
    command.add_argument("--grid", help="such as 3 or 2x3 (default: 2)")
    command.add_argument("--turns", type=int, help="turns of an episode, the answer included (default: 5)")
    command.add_argument("--image-size", type=int, help="side of the picture that is cut, in pixels (default: 448)")
    command.add_argument("--window", type=int, help="images of feedback that are kept; older ones become text")
    command.add_argument("--dialect", help="code or tools (default: code)")
    command.add_argument("--prompt", help="full, short or a template file (default: full)")
    command.add_argument("--system", help="system prompt (default: none)")
    command.add_argument(
        "--new-tokens", type=int, default=NEW_TOKENS, help="tokens that the model writes a turn (default: %(default)s)"
    )
    command.add_argument("--context", type=int, help="context in tokens (default: that of the model's configuration)")
    command.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the environment")
    command.set_defaults(run=run_plan)


def run_plan(options: argparse.Namespace) -> int:
    """Count the tokens of an episode and print the result.

    Args:
        options: The options of the command line.

    Returns:
        0, whether the episode fits or not.

    Raises:
        ConfigurationError: If an option is not allowed, or the model cannot be used.
        MissingDependencyError: If transformers, or a package that the processor needs, is not installed.
    """
    from agile_gym.envs.contract import probe_env
    from agile_gym.envs.jigsaw.config import JigsawConfig, resolve
    from agile_gym.models.chat import ChatFormat
    from agile_gym.models.loading import load_config
    from agile_gym.models.processors import load_processor
    from agile_gym.rollout.plan import advise, plan_tokens

    settings = _settings(options)
    jigsaw_only = {flag[2:].replace("-", "_"): flag for flag in _FLAGS.values()}
    env = env_of(options, jigsaw_only)
    if env is not None:
        probe_env(env, settings)  # its errors come before those of the model
        rules = None
    else:
        rules = resolve(JigsawConfig.from_options(settings))
    config = load_config(options.model)
    context = _context(config, options.model) if options.context is None else options.context
    chat = ChatFormat(load_processor(options.model), system=options.system)
    plan = plan_tokens(chat, settings, context=context, new_tokens=options.new_tokens, window=options.window, env=env)
    kept = "all images kept" if plan.window is None else f"the last {plan.window} images of feedback kept"
    what = f"{env}, {plan.turns} turns"
    if rules is not None:
        height, width = rules.canvas
        what = (
            f"{rules.rows}x{rules.cols}, {plan.turns} turns, canvas {width} x {height}, dialect {rules.dialect.name}, "
            f"prompt {rules.config.prompt}"
        )
    print(
        f"{options.model}: a context of {context:,} tokens\n{what}, {plan.new_tokens:,} tokens written a turn, {kept}\n"
    )
    print("\n".join(format_plan(plan)))
    if not plan.fits(costliest=True):
        print("\n".join(format_advice(advise(chat, settings, plan, env=env), env=env)))
    return 0


def format_plan(plan: TokenPlan) -> list[str]:
    """Return the lines of the table, and whether the episode fits."""
    board, worst = plan.contexts(), plan.contexts(costliest=True)
    both = plan.needed(costliest=True) != plan.needed()
    high, wide = plan.costliest_size
    lines = ["Tokens, if each turn shows the board" + (" | if each gets the feedback that costs most" if both else "")]
    lines.append("turn" + (f"{'added':>10}{'read':>10}{'in all':>10}" + " |") * (1 + both))
    for turn in range(plan.turns):
        cells = [(plan.added()[turn], board[turn], board[turn] + plan.new_tokens)]
        if both:
            cells.append((plan.added(costliest=True)[turn], worst[turn], worst[turn] + plan.new_tokens))
        lines.append(f"{turn + 1:>4}" + "".join("".join(f"{cell:>10,}" for cell in row) + " |" for row in cells))
    lines = [line.removesuffix(" |") for line in lines]
    if not both:
        lines.append("No other feedback costs more than the board.")
    elif all(entry.image >= entry.error for entry in plan.feedback):
        lines.append(f"The feedback that costs most is an image of {wide} x {high}.")
    else:
        lines.append("The feedback that costs most is the one to a mistake.")
    return [*lines, "", _verdict(plan)]


def _verdict(plan: TokenPlan) -> str:
    needed, worst = plan.needed(), plan.needed(costliest=True)
    if worst <= plan.context:
        return f"It fits: at most {worst:,} tokens are in the context at once, and {plan.context:,} have room."
    if needed <= plan.context:
        return (
            f"It fits as long as the turns show boards ({needed:,} tokens), but not if all get the feedback that costs "
            f"most ({worst:,} tokens); {plan.context:,} have room."
        )
    turn = next(turn for turn, read in enumerate(plan.contexts(), 1) if read + plan.new_tokens > plan.context)
    return f"It does not fit: {needed:,} tokens are needed, and {plan.context:,} have room. Turn {turn} is too much."


def format_advice(advice: Advice, *, env: str | None = None) -> list[str]:
    """Return the lines on changes that would make an episode fit."""
    changes = {
        f"--image-size {advice.image_size}": (advice.image_size, "a smaller picture"),
        f"--window {advice.window}": (advice.window, "older images of feedback become text"),
        f"--image-size {advice.image_size_and_window} --window 1": (advice.image_size_and_window, "both"),
        f"--turns {advice.turns}": (advice.turns, "fewer turns"),
        f"--new-tokens {advice.new_tokens}": (advice.new_tokens, "shorter turns of the model"),
    }
    lines = [f"  {flags:32}{meaning}" for flags, (value, meaning) in changes.items() if value is not None]
    if lines:
        return ["Any of these lines makes it fit, whatever the feedback:", *lines]
    if env is not None:
        return [
            "Neither fewer images nor fewer new tokens are enough. Choose a model with a longer context, or let the "
            "environment write and show less."
        ]
    return [
        "Neither a smaller picture nor fewer images, turns or new tokens are enough. Choose a smaller grid or a model "
        "with a longer context, or train a model on --prompt short."
    ]


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the environment."""
    settings = {key: getattr(options, flag[2:].replace("-", "_")) for key, flag in _FLAGS.items()}
    settings = {key: value for key, value in settings.items() if value is not None}
    given = read_pairs(options.option, "--option", "initial_view=board")
    for key in settings.keys() & given.keys():
        raise ConfigurationError(f"--option {key} sets {key} a second time; leave {_FLAGS[key]} out.")
    return settings | given


def _context(config: Any, model: str) -> int:  # noqa: ANN401 -- transformers is untyped
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(context, int) or context < 1:
        raise ConfigurationError(
            f"The configuration of {model!r} does not say how long its context is (max_position_embeddings). Give "
            "--context TOKENS."
        )
    return context
