"""Behaviours: sentences and episodes made by hand, with and without each, and episodes that were really played."""

import json
from functools import partial

import numpy as np
import pytest

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.rollout import EpisodeSpec, play_episodes
from agile_gym.transcripts import Transcript, Turn, TurnUsage
from agile_gym.transcripts.behaviours import (
    BEHAVIOURS,
    compares_edges,
    find_behaviours,
    names_position,
    reasoning_of,
)

NAMES = list("ABCD")
NOISE = [np.random.default_rng(seed).integers(0, 256, (96, 96, 3), np.uint8) for seed in range(3)]

# --- sentences


@pytest.mark.parametrize(
    "text",
    [
        "The right border of A continues in C.",
        "A and C match.",
        "The right side of A matches the left side of B.",
        "The edges line up.",
        "I look at the seam between B and D.",
        "B is red at its top edge, A is blue there.",
        "Compare piece A with piece D.",
        "I see a roof. Then: D does not fit below A!",
        'The sky of "A" goes on in "I".',
    ],
)
def test_sentences_that_compare_edges(text):
    assert compares_edges(text, list("ABCDEFGHI"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "All pieces fit together now.",
        "A better fit would be B.",
        "I think B fits.",
        "I swap A and B.",
        "I go on with A and B.",
        "I continue with A and B.",
        "The border of A is blue.",
        "A shows the edge of a roof. B and C fit",
        "a and b fit, it seems",
        "B belongs in the top left corner.",
        "A.B fits",
    ],
)
def test_sentences_that_compare_none(text):
    wanted = "B and C fit" in text
    assert compares_edges(text, list("ABCDEFGHI")) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "B belongs in the top left corner.",
        "B is in row 2, column 1.",
        "The second row begins with piece C",
        "The top left corner of the image is sky, so B goes there.",
        'Piece "A" goes to the bottom-right.',
        "A is at the centre.",
        "D fits to the right of A",
        "C below A",
        "Put tile D at position 3.",
        "Fine.\nLower-left: C",
    ],
)
def test_sentences_that_name_positions(text):
    assert names_position(text, NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The top left of A shows a roof.",
        "The bottom right corner of piece C is dark.",
        "The centre of the piece A is dark.",
        "A's top-left corner is blue.",
        "The top left of the image B is dark.",
        "The top left corner is empty.",
        "A closer look at the top left is needed.",
        "I swap A and B.",
        "The right border of A continues in C.",
        "It lies below A.",
        "B fits. Row 2 is next.",
    ],
)
def test_sentences_that_name_none(text):
    assert not names_position(text, NAMES)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<think>The edges match.</think><code>state[0]</code>", ["The edges match."]),
        ("Plain words.<answer>[1]</answer> and after", ["Plain words.", "and after"]),
        ("opened before</think><tool_call>{}</tool_call>", ["opened before"]),
        ("<think>of <code> tags</think>x<code>y", ["of <code> tags", "x"]),
        ("<think>cut short", ["cut short"]),
        ("<code># A is top left</code>", []),
        ("a </code> b", ["a </code> b"]),
    ],
)
def test_reasoning_is_what_stands_outside_of_actions(text, kept):
    assert [line.strip() for line in reasoning_of(text).split("\n") if line.strip()] == kept


def test_hostile_texts_take_little_time():
    for text in ("<code>" * 9000, "A" * 60_000, "top left of " * 5000, "A fits " * 9000, "\n" * 60_000, "' of" * 9000):
        reasoning = reasoning_of(f"<think>{text}</think>{text}")
        assert compares_edges(reasoning, NAMES) in (True, False)
        assert names_position(reasoning, NAMES) in (True, False)
    assert not compares_edges("(A|B) fits", ["(", "|", ".*"])


# --- episodes by hand


def episode(*turns, solution="BCDA", solved=False, given_up=False, **task):
    """Make an episode of turns, each a state, the primitives of the turn (by their initials), and perhaps a text."""
    names = {"S": "Swap", "A": "Arrange", "O": "Observe", "C": "Crop", "Z": "Zoom", "R": "Rotate", "!": "Answer"}
    made = []
    for state, primitives, *text in turns:
        shown = any(name in "OCZR" for name in primitives)
        done = tuple(names[name] for name in primitives)
        given = text[0] if text else "x"
        if primitives == "!":
            given = f"{text[0] if text else ''}<answer>{json.dumps(list(state))}</answer>"
            state = made[-1].state if made else tuple(NAMES)
        feedback = "<image> shown" if shown else "done"
        made.append(Turn(given, feedback, (), done, None, tuple(state), {}, 0.0, TurnUsage(0.0)))
    details = {"given_up": {"kind": "refused", "reason": "x"}} if given_up else {}
    task = task or {"grid": "2x2", "level": 0, "names": NAMES, "rotations": False, "dialect": "code"}
    return Transcript(
        "x", "p", task, "x", (), tuple(made), tuple(solution), solved, float(solved), {}, not solved, details=details
    )


def turn_of(name, *turns, **options):
    found = find_behaviours(episode(*turns, **options))
    assert list(found) == list(BEHAVIOURS)
    return found[name]


# The solution is BCDA. ABCD has none of it in place; so has DABC; BACD has one, BCAD two.
LOOK_CLOSER = [
    (1, [("ABCD", "C"), ("BCDA", "!")]),
    (2, [("ABCD", "O"), ("ABCD", "Z"), ("BCDA", "!")]),
    (1, [("ABCD", "OC"), ("BCDA", "!")]),
    (None, [("ABCD", "O"), ("BCDA", "!")]),
    (None, [("ABCD", "CO"), ("BCDA", "!")]),  # the image is the board
    (None, [("ABCD", "R"), ("BCDA", "!")]),
    (None, [("ABCD", "O"), ("ABCD", "C")]),  # seen by nobody
    (None, [("BCDA", "!")]),
]
MEND_MISTAKE = [
    # A start with a piece in place; the first swap costs it.
    (2, [("DBCA", "SO"), ("BDCA", "SO"), ("BCDA", "SO"), ("BCDA", "!")], {"solution": "ACDB"}),
    # Nothing gained by the first swap; seen, and then an order with more in place; or the right answer.
    (2, [("CBAD", "SO"), ("BCAD", "AO"), ("BCAD", "!")], {}),
    (2, [("CBAD", "SO"), ("BCDA", "!")], {"solved": True}),
    # A swap that costs a piece, taken back.
    (3, [("BACD", "SO"), ("CABD", "AO"), ("BACD", "AO"), ("BACD", "!")], {}),
    # Taken back without any gain, then one with a gain.
    (2, [("CBAD", "SO"), ("ABCD", "SO"), ("BACD", "SO"), ("BACD", "!")], {}),
    # Steps that each bring a piece into place are no mistakes, nor is the start.
    (None, [("ABCD", "O"), ("BACD", "SO"), ("BCAD", "SO"), ("BCDA", "SO"), ("BCDA", "!")], {"solved": True}),
    # Back to a board that was seen before.
    (None, [("BACD", "SO"), ("ABCD", "SO"), ("BACD", "SO"), ("BACD", "!")], {}),
    # A mistake that is answered as it is, or swapped to and fro, or made worse, or not seen.
    (None, [("CBAD", "SO"), ("CBAD", "!")], {}),
    (None, [("CBAD", "SO"), ("ABCD", "SO"), ("CBAD", "SO"), ("ABCD", "!")], {}),
    (None, [("BACD", "SO"), ("CABD", "SO"), ("DABC", "AO"), ("DABC", "!")], {}),
    (None, [("CBAD", "S"), ("BCAD", "A"), ("BCDA", "!")], {"solved": True}),
    # Its end is not known.
    (None, [("CBAD", "SO"), ("BCAD", "S"), ("BCAD", "")], {"given_up": True}),
    (None, [("BCDA", "!")], {"solved": True}),
]
CHECK_ANSWER = [
    (1, [("BCDA", "AO"), ("BCDA", "!")]),
    (2, [("BCDA", "A"), ("BCDA", "O"), ("BCDA", "!")]),
    (1, [("CBAD", "AO"), ("BCDA", "!")]),  # checked, and answered otherwise
    (1, [("BCDA", "AO"), ("BCDA", "C"), ("BCDA", "!")]),
    (None, [("ABCD", "O"), ("BCDA", "!")]),  # nothing was changed
    (None, [("ABCD", "O"), ("BCDA", "A"), ("BCDA", "!")]),
    (None, [("BCDA", "AO"), ("ABCD", "S"), ("BCDA", "!")]),
    (None, [("BCDA", "OA"), ("BCDA", "!")]),  # the board was shown before the change
    (None, [("BCDA", "AC"), ("BCDA", "!")]),
    (None, [("BCDA", "AO"), ("BCDA", "O")]),  # no answer
    (None, [("BCDA", "!")]),
]


@pytest.mark.parametrize(("turn", "turns"), LOOK_CLOSER)
def test_closer_looks(turn, turns):
    assert turn_of("look_closer", *turns) == turn


@pytest.mark.parametrize(("turn", "turns", "options"), MEND_MISTAKE)
def test_mistakes_that_are_noticed_and_mended(turn, turns, options):
    assert turn_of("mend_mistake", *turns, **options) == turn


@pytest.mark.parametrize(("turn", "turns"), CHECK_ANSWER)
def test_answers_that_are_checked(turn, turns):
    assert turn_of("check_answer", *turns) == turn


def test_words_count_in_the_turn_in_which_they_first_stand():
    turns = [
        ("ABCD", "O", "<think>I look. B may be first.</think><code>observe()\n# A top left, fits B</code>"),
        ("ABCD", "C", "A and B fit.<tool_call>{}</tool_call>"),
        ("BCDA", "!", "<think>B is top left. The seam of A and B fits.</think>"),
    ]
    assert turn_of("compare_edges", *turns) == 2
    assert turn_of("name_positions", *turns) == 3
    assert turn_of("compare_edges", *turns[:1]) is None
    assert turn_of("name_positions", *turns[:2]) is None


def test_other_environments_have_what_can_be_seen_of_them():
    said = "<think>A and B fit, B is top left.</think>"
    looked = [("", "C", said), ("", "!", said)]
    assert find_behaviours(episode(*looked, benchmark="mmvp", max_turns=1)) == {}
    assert find_behaviours(episode(*looked, question="x", dialect="tools")) == {"look_closer": 1}
    assert find_behaviours(episode(*looked[1:], question="x", dialect="tools")) == {"look_closer": None}
    named = episode(*looked, names=NAMES, grid="2x2", rotations=False, solution="")  # its solution is not known
    assert find_behaviours(named) == {"compare_edges": 1, "name_positions": 1, "look_closer": 1}
    assert find_behaviours(episode(names=[1, None], grid="2x2", rotations=True, dialect="x")) == {"look_closer": None}
    assert find_behaviours(episode()) == dict.fromkeys(BEHAVIOURS)


def test_turned_pieces():
    def board(*angles):
        return [[name, angle] for name, angle in zip("ABCD", angles, strict=True)]

    task = {"grid": "2x2", "level": 0, "names": NAMES, "rotations": True}
    turns = [(board(180, 0, 0, 0), "SO"), (board(90, 0, 0, 0), "SO"), (board(90, 0, 0, 0), "!")]
    found = find_behaviours(episode(*turns, solution=board(90, 90, 0, 0), **task))
    assert (found["mend_mistake"], found["check_answer"]) == (2, 2)
    found = find_behaviours(episode(*turns, solution=board(180, 0, 90, 90), **task))
    assert (found["mend_mistake"], found["check_answer"]) == (None, 2)


# --- episodes that are played

THOUGHTS = {0: "The edge of A continues in B.", 1: "B goes to the top right.", 2: "No.", 3: "All fit."}
CODE = {
    "swap": "state[{0}], state[{1}] = state[{1}], state[{0}]\nobserve()",
    "crop": "crop(image_list[0], [0, 0, 0.5, 0.5])",
}
TOOLS = {
    "swap": '{{"name": "swap", "arguments": {{"first": "{2}", "second": "{3}"}}}}',
    "crop": '{{"name": "crop", "arguments": {{"image": "A", "box": [0, 0, 0.5, 0.5]}}}}',
    "look": '{{"name": "observe", "arguments": {{}}}}',
}


class Scripted:
    """Crops, makes a swap that costs or gains nothing, takes it back to be right, and answers."""

    def __init__(self, dialect):
        self.dialect = dialect

    def reset(self, seed=None):
        pass

    def act(self, observations, infos):
        return [self.turn(info["turn"], info["task"].names, list(info["solution"])) for info in infos]

    def turn(self, number, names, right):
        thought = f"<think>{THOUGHTS[number]}</think>"
        if number == 0:
            return thought + self.action("crop", 0, 0, names)
        if number == 3:
            return f"{thought}<answer>{json.dumps(right)}</answer>"
        # At level 2 two places are wrong: first one of them with one that is right, then all at once.
        wrong = [place for place in range(4) if names[place] != right[place]]
        good = next(place for place in range(4) if names[place] == right[place])
        return thought + self.action("swap", wrong[0], good, names, back=number == 2)

    def action(self, kind, first, second, names, *, back=False):
        if self.dialect == "code":
            return f"<code>{CODE[kind].format(first, second)}</code>"
        pair = (names[second], names[first]) if back else (names[first], names[second])
        calls = [TOOLS[kind].format(first, second, *pair)] + ([TOOLS["look"].format()] if kind == "swap" else [])
        return "".join(f"<tool_call>{call}</tool_call>" for call in calls)


@pytest.mark.parametrize("dialect", ["code", "tools"])
def test_played_episodes_show_the_same_in_both_dialects(dialect):
    make = partial(
        JigsawVisionEnv, images=NOISE, grid=2, level=2, image_size=32, reveal=True, max_turns=6, dialect=dialect
    )
    specs = [EpisodeSpec("env", seed, {}, 0, str(seed)) for seed in range(3)]
    for _, transcript in play_episodes(Scripted(dialect), specs, {"env": make}, batch=1):
        assert [turn.error for turn in transcript.turns] == [None] * 4
        assert find_behaviours(transcript) == {
            "compare_edges": 1, "name_positions": 2, "look_closer": 1, "mend_mistake": 3, "check_answer": 3,
        }  # fmt: skip
