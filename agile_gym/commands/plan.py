"""``agile-gym plan``: does an episode fit a model's context, and if not, what to change."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from agile_gym.commands.shared import add_env, env_of, read_pairs
from agile_gym.errors import ConfigurationError

if TYPE_CHECKING:
    from agile_gym.rollout.plan import Advice, TokenPlan

__all__ = ["add_plan_command", "format_advice", "format_plan", "run_plan"]

NEW_TOKENS = 512
"""Tokens that a model writes in a turn unless told, as in `agile_gym.models.sampling.SamplingOptions`."""
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
        commands: What ``ArgumentParser.add_subparsers`` returned.
    """
    command: argparse.ArgumentParser = commands.add_parser(
        "plan",
        help="count the tokens of an episode before a model plays it",
        description="Counts the tokens of an episode with a model's own chat template and image processor, and says "
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
    command.add_argument("--context", type=int, help="context in tokens (default: what the model's configuration says)")
    command.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the environment")
    command.set_defaults(run=run_plan)


def run_plan(options: argparse.Namespace) -> int:
    """Count the tokens of an episode and print what they come to.

    Args:
        options: The options of the command line.

    Returns:
        0, whether the episode fits or not.

    Raises:
        ConfigurationError: If an option is not allowed, or the model cannot be used.
        MissingDependencyError: If transformers, or what the processor needs, is not installed.
    """
    from agile_gym.envs.contract import probe_env
    from agile_gym.envs.jigsaw.config import JigsawConfig, resolve
    from agile_gym.models.chat import ChatFormat
    from agile_gym.models.loading import load_config, load_processor
    from agile_gym.rollout.plan import advise, plan_tokens

    settings = _settings(options)
    jigsaw_only = {flag[2:].replace("-", "_"): flag for flag in _FLAGS.values()}
    env = env_of(options, jigsaw_only)
    if env is not None:
        probe_env(env, settings)  # its mistakes are told before a model is looked for
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
    """Return the lines that say what would make an episode fit."""
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
