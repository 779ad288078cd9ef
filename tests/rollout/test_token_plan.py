"""`agile-gym plan`: its counts are those of real processors, its advice what a search through everything finds."""

import argparse
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("transformers")

from agile_gym.actions.primitives import Observe, Swap
from agile_gym.actions.prompt import HIDDEN_IMAGE, IMAGE_MARK
from agile_gym.commands.bench import NEW_TOKENS, add_plan_command
from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.errors import ConfigurationError, ModelError
from agile_gym.models import VLM, ChatFormat
from agile_gym.models.batch import Generated
from agile_gym.models.chat import content_parts
from agile_gym.models.loading import process
from agile_gym.models.sampling import SamplingOptions
from agile_gym.policies.model import HFVLMPolicy
from agile_gym.rollout import EpisodeSpec, play_episodes
from agile_gym.rollout.plan import Feedback, TokenPlan, advise, plan_tokens
from tests.helpers.families import FAMILIES, built, save

PHOTO = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
SMALL = {"images": [PHOTO], "image_size": 112, "prompt": "short"}
HAND_MADE = TokenPlan(
    100, (Feedback(50, 70, 5, 4), Feedback(51, 71, 6, 4), Feedback(52, 72, 7, 4)), 10, None, 310, (8, 9), 4
)


@pytest.fixture(scope="module")
def qwen():
    return ChatFormat(built("qwen2_5_vl")[1])


def whole_conversation(chat, options, count):
    """Tokenise a whole conversation at once: the tokens before the model's turn number ``count``, from 0."""
    env = JigsawVisionEnv(**options)
    observation, info = env.reset(seed=0)
    messages = [{"role": "user", "content": content_parts(observation["text"])}]
    pictures = list(info["images"])
    moves = [Swap(0, env.rules.rows * env.rules.cols - 1), Observe()]
    for _ in range(count):
        text = env.dialect.write(moves, env.episode.workspace)
        observation, _, _, _, info = env.step(text)
        messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
        messages.append({"role": "user", "content": content_parts(observation["text"])})
        pictures += info["images"]
    template = chat.processor.chat_template
    rendered = chat.tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    return len(process(chat.processor, rendered, pictures, add_special_tokens=False)["input_ids"][0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["qwen2_5_vl", "qwen3_vl", "gemma3", "idefics3", "smolvlm", "llava_onevision", "internvl"]
)
@pytest.mark.parametrize(
    "options",
    [
        {**SMALL, "grid": 3, "max_turns": 4},
        {
            **SMALL,
            "prompt": "full",
            "dialect": "tools",
            "initial_view": "both",
            "reference_image": True,
            "max_turns": 3,
        },
        {**SMALL, "rotations": True, "grid": (1, 3), "image_size": (84, 300), "max_turns": 3},
    ],
)
def test_the_counts_are_those_of_the_whole_conversation(family, options):
    chat = ChatFormat(built(family)[1])
    env = JigsawVisionEnv(**options)
    env.reset(seed=0)
    turn = env.dialect.write([Swap(0, env.rules.rows * env.rules.cols - 1), Observe()], env.episode.workspace)
    written = len(chat.tokenizer(turn, add_special_tokens=False)["input_ids"])
    plan = plan_tokens(chat, options, context=9999, new_tokens=written)
    assert plan.shortest_turn == written
    assert plan.contexts() == [whole_conversation(chat, options, turn) for turn in range(options["max_turns"])]
    assert plan.needed() == plan.contexts()[-1] + written


def test_a_window_counts_the_last_images_only():
    assert HAND_MADE.added() == [100, 50, 51, 52]
    assert HAND_MADE.contexts() == [100, 160, 221, 283]
    assert HAND_MADE.contexts(costliest=True) == [100, 180, 261, 343]
    assert HAND_MADE.needed() == 293
    assert HAND_MADE.needed(costliest=True) == 353
    assert HAND_MADE.fits()
    assert not HAND_MADE.fits(costliest=True)
    one = replace(HAND_MADE, window=1)
    assert one.contexts() == [100, 160, 100 + 5 + 51 + 20, 100 + 5 + 6 + 52 + 30]
    assert one.contexts(costliest=True) == [100, 180, 100 + 5 + 71 + 20, 100 + 5 + 6 + 72 + 30]
    assert replace(HAND_MADE, window=2).contexts() == [100, 160, 221, 100 + 5 + 51 + 52 + 30]
    assert replace(HAND_MADE, window=3).contexts() == HAND_MADE.contexts()


def test_mistakes_can_cost_most():
    wordy = replace(HAND_MADE, feedback=tuple(replace(entry, error=71) for entry in HAND_MADE.feedback))
    assert wordy.contexts() == HAND_MADE.contexts()
    assert wordy.added(costliest=True) == [100, 71, 71, 72]
    one = replace(wordy, window=1)  # an old image is dropped, the words of an old mistake are not
    assert one.contexts() == replace(HAND_MADE, window=1).contexts()
    assert one.contexts(costliest=True) == [100, 181, 100 + 71 + 71 + 20, 100 + 71 + 71 + 72 + 30]


def test_the_costliest_image_costs_at_least_what_any_zoom_costs(qwen):
    options = {**SMALL, "canvas_size": (200, 320), "max_turns": 2}
    plan = plan_tokens(qwen, options, context=9999, new_tokens=1)
    env = JigsawVisionEnv(**{**options, "max_turns": 99})
    env.reset(seed=0)
    costs = []
    for code in ("crop(image_list[0], [0, 0, 1, 0.5])", "zoom(image_list[0], 1.7)", "rotate(image_list[0], 30)"):
        observation, *_, info = env.step(f"<think>a</think><code>observation_image_1 = {code}</code>")
        assert len(info["images"]) == 1
        text = observation["text"].splitlines()[0] + "\nstate D B C A\n1 turn left"
        costs.append(len(qwen.follow_up(text, info["images"]).ids))
    (feedback,) = plan.feedback
    assert max(costs) <= feedback.image
    assert feedback.board < feedback.image
    # The processor makes one token of 28 x 28 pixels: 200 x 320 are 7 x 11.
    assert plan.costliest_size == (200, 320)
    assert feedback.image - feedback.board == 7 * 11 - 4 * 4


def test_hidden_images_cost_their_words(qwen):
    plan = plan_tokens(qwen, {**SMALL, "max_turns": 2}, context=9999, new_tokens=1)
    text = f"observation_image_1: {HIDDEN_IMAGE}\nstate D B C A\n1 turn left"
    assert plan.feedback[0].hidden == len(qwen.follow_up(text, []).ids)
    marked = text.replace(HIDDEN_IMAGE, IMAGE_MARK)
    assert plan.feedback[0].board == len(qwen.follow_up(marked, [np.zeros((113, 113, 3), np.uint8)]).ids)


def fitting(chat, options, context, new_tokens, window=None, **changes):
    plan = plan_tokens(chat, {**options, **changes}, context=context, new_tokens=new_tokens, window=window)
    return plan.fits(costliest=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "size", "canvas", "window", "share", "found"),
    [
        ("qwen2_5_vl", 200, None, None, 0.97, {"image_size", "turns", "window", "new_tokens"}),
        ("qwen2_5_vl", 200, None, None, 0.885, {"image_size", "turns"}),
        ("qwen2_5_vl", 200, None, 2, 0.95, {"image_size", "turns", "new_tokens"}),
        ("qwen2_5_vl", 150, 224, None, 0.9, {"image_size_and_window", "turns", "new_tokens"}),
        ("idefics3", 60, None, None, 0.99, {"turns", "window", "new_tokens"}),  # as dear in any size
        ("qwen2_5_vl", 60, None, None, 0.01, set()),
    ],
)
def test_advice_is_what_a_search_through_everything_finds(family, size, canvas, window, share, found):
    chat = ChatFormat(built(family)[1])
    options = {**SMALL, "grid": 3, "image_size": size, "canvas_size": canvas, "max_turns": 5}
    new_tokens = 140
    plan = plan_tokens(chat, options, context=9999, new_tokens=new_tokens, window=window)
    context = int(share * plan.needed(costliest=True))
    plan = replace(plan, context=context)
    advice = advise(chat, options, plan)
    assert {name for name, value in vars(advice).items() if value is not None} == found
    usual = (chat, options, context)
    step = max(1, size // 96) * 3  # a multiple of the grid's, so that there are about 32 sizes
    small = [smaller for smaller in range(step, size, step) if smaller >= 12]

    def largest_size(kept):
        return next((side for side in small[::-1] if fitting(*usual, new_tokens, kept, image_size=side)), None)

    windows = [kept for kept in range(1, window or 4) if replace(plan, window=kept).fits(costliest=True)]
    turns = [count for count in range(1, 5) if fitting(*usual, new_tokens, window, max_turns=count)]
    few = range(plan.shortest_turn, new_tokens)
    shorter = [new for new in few if replace(plan, new_tokens=new).fits(costliest=True)]
    assert advice.image_size == largest_size(window)
    assert advice.window == max(windows, default=None)
    assert advice.turns == max(turns, default=None)
    assert advice.new_tokens == max(shorter, default=None)
    if advice.image_size is None and advice.window is None:
        assert advice.image_size_and_window == largest_size(1)


class Scripted:
    """Writes the same turn again and again, in the place of a model."""

    def __init__(self, ids):
        self.ids = tuple(ids)

    def generate(self, contexts, rngs):
        for context in contexts:
            context.write(self.ids, [0.0] * len(self.ids))
        return [Generated(self.ids, (0.0,) * len(self.ids), 0, True)] * len(contexts)


def play(policy, options):
    env = JigsawVisionEnv(**options)
    specs = [EpisodeSpec("jigsaw", seed) for seed in range(2)]
    return [transcript for _, transcript in play_episodes(policy, specs, {"jigsaw": lambda: env}, batch=1)]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "llava", "tiny"])
@pytest.mark.parametrize("window", [None, 1, 2])
def test_the_counts_are_those_of_the_policy(family, window):
    policy = HFVLMPolicy(VLM(*built(family), family), window=window, max_new_tokens=6)
    options = {**SMALL, "grid": 3, "max_turns": 5}
    # A model that was never trained writes what cannot be carried out: no turn costs more than was planned.
    for prompt in ("short", "full"):
        untrained = {**options, "prompt": prompt}
        plan = plan_tokens(policy.chat, untrained, context=9999, new_tokens=6, window=window)
        for transcript in play(policy, untrained):
            read = [turn.usage.context_tokens for turn in transcript.turns]
            assert read[0] == plan.contexts()[0]
            assert all(real <= planned for real, planned in zip(read, plan.contexts(costliest=True), strict=True))
    # Turns that look at the board cost what was planned.
    move = "state[0], state[8] = state[8], state[0]\nobservation_image_1 = observation(state)"
    ids = policy.chat.tokenizer(f"<think></think><code>{move}</code>", add_special_tokens=False)["input_ids"]
    policy._generator = Scripted(ids)
    plan = plan_tokens(policy.chat, options, context=9999, new_tokens=len(ids), window=window)
    for transcript in play(policy, options):
        assert [turn.usage.context_tokens for turn in transcript.turns] == plan.contexts()
        assert all(len(turn.images) == 1 for turn in transcript.turns)
        assert max(len(segment.ids) for segment in transcript.segments) == plan.needed()


# --- the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save("qwen2_5_vl", tmp_path_factory.mktemp("qwen"))


def run(*words):
    parser = argparse.ArgumentParser()
    add_plan_command(parser.add_subparsers(required=True))
    options = parser.parse_args(["plan", *map(str, words)])
    return options.run(options)


def numbers(text):
    """Read the rows of the table."""
    rows = [line.replace(",", "").replace("|", "").split() for line in text.splitlines()]
    return [list(map(int, row)) for row in rows if row and all(cell.isdecimal() for cell in row)]


def test_the_command_prints_what_the_plan_says(folder, capsys, qwen):
    words = ["--grid", "3", "--turns", "4", "--image-size", "150", "--prompt", "short", "--new-tokens", "50"]
    assert run("--model", folder, *words) == 0
    text = capsys.readouterr().out
    options = {"grid": 3, "max_turns": 4, "image_size": 150, "prompt": "short"}
    plan = plan_tokens(qwen, options, context=4096, new_tokens=50)
    rows = zip(range(1, 5), plan.added(), plan.contexts(), [read + 50 for read in plan.contexts()], strict=True)
    assert numbers(text) == list(map(list, rows))
    assert "a context of 4,096 tokens" in text
    assert "3x3, 4 turns, canvas 152 x 152, dialect code, prompt short, 50 tokens written a turn, all images" in text
    assert "No other feedback costs more than the board." in text
    assert f"It fits: at most {plan.needed():,} tokens" in text


@pytest.mark.slow
def test_the_command_gives_advice_that_helps(folder, capsys):
    words = ["--model", folder, "--turns", "6", "--context", "1700", "--new-tokens", "130", "--prompt", "short"]
    words += ["--image-size", "112", "--option", "canvas_size=[224, 448]", "--option", "initial_view=both"]
    run(*words)
    text = capsys.readouterr().out
    assert "a context of 1,700 tokens" in text
    assert "canvas 448 x 224" in text
    assert "if each gets the feedback that costs most" in text
    assert "The feedback that costs most is an image of 448 x 224." in text
    assert len(numbers(text)[0]) == 7
    assert "It fits as long as the turns show boards" in text
    lines = [line.split("  ") for line in text.splitlines() if line.startswith("  --")]
    changes = [line[1].split() for line in lines]
    assert [change[0] for change in changes] == ["--window", "--turns"]
    for change in changes:
        run(*words, *change)
        assert "It fits: at most" in capsys.readouterr().out
    words = ["--image-size", "100", "--prompt", "short", "--context", "900"]
    run("--model", folder, "--turns", "3", "--image-size", "64", "--new-tokens", "9")
    assert "The feedback that costs most is the one to a mistake." in capsys.readouterr().out  # a token a byte
    run("--model", folder, *words, "--turns", "6", "--new-tokens", "100", "--dialect", "tools", "--window", "2")
    text = capsys.readouterr().out
    assert "dialect tools" in text
    assert "the last 2 images of feedback kept" in text
    assert "It does not fit" in text
    first = next(row[0] for row in numbers(text) if row[3] > 900)
    assert f"Turn {first} is too much." in text


@pytest.mark.slow
def test_a_template_and_a_system_prompt_are_counted(folder, capsys, tmp_path):
    words = ["--model", folder, "--prompt", tmp_path / "mine.txt", "--turns", "1", "--new-tokens", "1"]
    (tmp_path / "mine.txt").write_text("{images}")
    run(*words)
    short = numbers(capsys.readouterr().out)[0]
    (tmp_path / "mine.txt").write_text("{images}0123456789")  # the tokenizer has a token a byte
    run(*words)
    assert numbers(capsys.readouterr().out)[0][1] == short[1] + 10
    run(*words, "--system", "Think.")
    around = len("<s>system\nThink.<e>\n".replace("<s>", "0").replace("<e>", "0"))
    assert numbers(capsys.readouterr().out)[0][1] == short[1] + 10 + around


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--grid", "11"], "is not a grid"),
        (["--turns", "0"], "max_turns=0"),
        (["--image-size", "2"], "image_size=2"),
        (["--prompt", "ful"], "Did you mean 'full'"),
        (["--dialect", "python"], "There is no dialect"),
        (["--option", "grid"], "not of the form KEY=VALUE"),
        (["--option", "gird=3"], "Did you mean 'grid'"),
        (["--grid", "2", "--option", "grid=3"], "sets grid a second time; leave --grid out"),
        (["--window", "0"], "window=0"),
        (["--new-tokens", "0"], "new_tokens=0"),
        (["--context", "0"], "context=0"),
    ],
)
def test_bad_options_are_refused(folder, words, message):
    with pytest.raises(ConfigurationError, match=message):
        run("--model", folder, *words)


@pytest.mark.slow
def test_models_that_cannot_be_used_are_refused(folder, tmp_path, capsys):
    with pytest.raises(ModelError, match="There is no model at"):
        run("--model", tmp_path / "nothing")
    from transformers import AutoConfig, LlamaConfig, PI0Config, UdopConfig

    LlamaConfig().save_pretrained(tmp_path / "text")
    with pytest.raises(ModelError, match="takes no images"):
        run("--model", tmp_path / "text")
    config = AutoConfig.from_pretrained(folder)
    _, processor = FAMILIES["qwen2_5_vl"]()
    processor.chat_template = None
    processor.save_pretrained(tmp_path / "mute")
    config.save_pretrained(tmp_path / "mute")
    with pytest.raises(ModelError, match="has no chat template"):
        run("--model", tmp_path / "mute")
    UdopConfig().save_pretrained(tmp_path / "two")
    with pytest.raises(ModelError, match="has an encoder and a decoder"):
        run("--model", tmp_path / "two")
    PI0Config().save_pretrained(tmp_path / "endless")  # says of no context that it is the longest
    with pytest.raises(ConfigurationError, match="Give --context TOKENS"):
        run("--model", tmp_path / "endless")
    assert run("--model", folder, "--context", "99", "--turns", "1") == 0
    assert "Turn 1 is too much" in capsys.readouterr().out


def test_the_usual_number_of_new_tokens_is_that_of_the_policy():
    assert SamplingOptions().max_new_tokens == NEW_TOKENS
