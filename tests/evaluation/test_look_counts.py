"""Counts of looks: episodes worked out by hand, and boards read from the pixels that were shown."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.rollout import EpisodeSpec, play_episodes
from agile_gym.transcripts import Transcript, Turn, TurnUsage
from agile_gym.transcripts.record import count_looks

NOISE = [np.random.default_rng(seed).integers(0, 256, (96, 96, 3), np.uint8) for seed in range(3)]
SMALL = {"image_size": 32, "reveal": True, "max_turns": 6}


def play(policy, count=4, *, blank_looks=True, level=0, batch=2, **options):
    """Play puzzles of noise, whose pieces all differ."""
    make = partial(JigsawVisionEnv, **{"images": NOISE, "grid": 2, "level": level, **SMALL, **options})
    specs = [EpisodeSpec("env", seed, {}, 100 + seed, str(seed), blank_looks=blank_looks) for seed in range(count)]
    policy.reset(0)
    return sorted((t for _, t in play_episodes(policy, specs, {"env": make}, batch=batch)), key=lambda t: t.id)


# --- what is counted, by hand


def episode(*turns, solution="ABCD", solved=False, rotations=False, given_up=False):
    """Make an episode of turns, each a state, the primitives of the turn (by their initials), and perhaps an error."""
    names = {"S": "Swap", "A": "Arrange", "T": "RotatePiece", "O": "Observe", "C": "Crop", "Z": "Zoom", "!": "Answer"}
    made = []
    for state, primitives, *error in turns:
        shown = any(name in "OCZ" for name in primitives)
        made.append(
            Turn(
                "x",
                "<image> shown" if shown else "done",
                (),
                tuple(names[name] for name in primitives),
                error[0] if error else None,
                tuple(state),
                {},
                0.0,
                TurnUsage(0.0),
            )
        )
    task = {"grid": "2x2", "level": 0, "names": list("ABCD"), "rotations": rotations}
    details = {"given_up": {"kind": "refused", "reason": "x"}} if given_up else {}
    return Transcript(
        "x", "p", task, "x", (), tuple(made), tuple(solution), solved, 1.0 if solved else 0.0, {}, not solved,
        details=details,
    )  # fmt: skip


def counts(images, wrong=0, noticed=0, mended=0, right=0, spoiled=0):
    return {
        "images": images, "wrong": wrong, "noticed": noticed, "mended": mended, "right": right, "spoiled": spoiled
    }  # fmt: skip


END = ("ABCD", "!")
"""A turn that answers; its state is the board as it stood."""


@pytest.mark.parametrize(
    ("turns", "options", "answer", "expected"),
    [
        ([END], {"solved": True}, "ABCD", counts(0)),
        ([("ABCD", "!")], {"solution": "BACD"}, "ABCD", counts(0)),
        # A wrong board, mended; then a right one, kept.
        ([("ABCD", "O"), ("BACD", "SO"), ("BACD", "!")], {"solution": "BACD", "solved": True}, "BACD",
         counts(2, 1, 1, 1, 1, 0)),
        # A wrong board, answered as it stands; answered otherwise, wrongly and rightly.
        ([("ABCD", "O"), END], {"solution": "BACD"}, "ABCD", counts(1, 1)),
        ([("ABCD", "O"), END], {"solution": "BACD"}, "DCBA", counts(1, 1, 1)),
        ([("ABCD", "O"), END], {"solution": "BACD", "solved": True}, "BACD", counts(1, 1, 1, 1)),
        ([("ABCD", "O"), END], {"solution": "BACD", "solved": True}, None, counts(1, 1, 1, 1)),
        # An answer that is none is no change.
        ([("ABCD", "O"), ("ABCD", "!", "bad_answer")], {"solution": "BACD"}, "AA", counts(1, 1)),
        ([("ABCD", "O"), END], {"solution": "BACD"}, "ABC", counts(1, 1)),
        # Changed without another look, then answered rightly, wrongly, or not at all.
        ([("ABCD", "O"), ("BACD", "S"), ("BACD", "!")], {"solution": "BACD", "solved": True}, "BACD",
         counts(1, 1, 1, 1)),
        ([("ABCD", "O"), ("CBAD", "S"), ("CBAD", "!")], {"solution": "BACD"}, "CBAD", counts(1, 1, 1)),
        ([("ABCD", "O"), ("BACD", "S"), ("BACD", "C")], {"solution": "BACD"}, None, counts(1, 1, 1)),
        # Closer, but not right: no piece in place, then one; and then none again.
        ([("ABCD", "O"), ("BACD", "SO"), ("ABCD", "SO"), END], {"solution": "BCDA"}, "ABCD",
         counts(3, 3, 2, 1)),
        # A right board whose answer, or next board, is wrong, or that is never answered.
        ([("BACD", "AO"), ("BACD", "!")], {"solution": "BACD"}, "ABCD", counts(1, right=1, spoiled=1)),
        ([("BACD", "AO"), ("ABCD", "SO"), END], {"solution": "BACD"}, "ABCD", counts(2, 1, right=1, spoiled=1)),
        ([("BACD", "AO"), ("BACD", "C")], {"solution": "BACD"}, None, counts(1, right=1, spoiled=1)),
        # The last image is seen by nobody.
        ([("ABCD", "O")], {"solution": "BACD"}, None, counts(0)),
        ([("ABCD", "C"), ("BACD", "SO")], {"solution": "BACD"}, None, counts(1)),
        # The same board again counts once, until something has changed.
        ([("ABCD", "O"), ("ABCD", "C"), ("ABCD", "O"), ("BACD", "SO"), ("BACD", "!")],
         {"solution": "BACD", "solved": True}, "BACD", counts(4, 1, 1, 1, 1)),
        ([("ABCD", "O"), ("BACD", "S"), ("ABCD", "SO"), END], {"solution": "CBAD"}, "ABCD", counts(2, 2, 1)),
        # A turn that fails changes nothing, and shows nothing.
        ([("ABCD", "O"), ("ABCD", "", "syntax"), END], {"solution": "BACD"}, "ABCD", counts(1, 1)),
        # In one turn: a board and then a swap shows the board before; between two swaps, neither; a crop is no board.
        ([("BACD", "OS"), ("BACD", "!")], {"solution": "ABCD"}, "BACD", counts(1, right=1, spoiled=1)),
        ([("BACD", "OS"), ("BACD", "!")], {"solution": "BACD", "solved": True}, "BACD", counts(1, 1, 1, 1)),
        ([("BACD", "OS"), ("BACD", "O"), ("BACD", "!")], {"solution": "BACD", "solved": True}, "BACD",
         counts(2, 1, right=1)),
        ([("DACB", "SOS"), ("DACB", "!")], {"solution": "ABCD"}, "DACB", counts(1)),
        ([("BACD", "SOC"), ("BACD", "!")], {"solution": "ABCD"}, "BACD", counts(1)),
        ([("BACD", "SZO"), ("BACD", "!")], {"solution": "ABCD"}, "BACD", counts(1, 1)),
        # Given up after a look: what the last board would have led to is not known.
        ([("ABCD", "O"), ("BACD", "SO"), ("BACD", "", "refused")], {"solution": "BACD", "given_up": True}, None,
         counts(1)),
        ([("BACD", "AO"), ("BACD", "C"), ("BACD", "", "refused")], {"solution": "BACD", "given_up": True}, None,
         counts(1)),
        ([("ABCD", "O"), ("BACD", "SO"), ("BACD", "C"), ("BACD", "", "refused")],
         {"solution": "BACD", "given_up": True}, None, counts(2, 1, 1, 1)),
        ([("ABCD", "", "refused")], {"solution": "BACD", "given_up": True}, None, counts(0)),
        # Pieces that look alike: what was answered rightly is right on the board, too.
        ([("BACD", "AO"), ("BACD", "!")], {"solution": "ABCD", "solved": True}, "BACD", counts(1, right=1)),
        # Names as models write them.
        ([("BACD", "AO"), ("BACD", "!")], {"solution": "ABCD"}, [" b", "A", "C", "d"], counts(1, 1)),
    ],
)  # fmt: skip
def test_counts_by_hand(turns, options, answer, expected):
    given_answer = None if answer is None else list(answer)
    assert count_looks(episode(*turns, **options), given_answer) == expected


def test_counts_of_turned_pieces():
    def board(*angles):
        return [[name, angle] for name, angle in zip("ABCD", angles, strict=True)]

    solution = board(0, 90, 0, 0)
    turns = [(board(0, 0, 0, 0), "O"), (board(0, 90, 0, 0), "TO"), (board(0, 90, 0, 0), "!")]
    right = episode(*turns, solution=solution, solved=True, rotations=True)
    assert count_looks(right, board(0, 450, 0, 0)) == counts(2, 1, 1, 1, 1)
    wrong = episode(turns[0], (board(0, 0, 0, 0), "!"), solution=solution, rotations=True)
    assert count_looks(wrong, board(0, 360, 0, 0)) == counts(1, 1)
    assert count_looks(wrong, board(0, 180, 0, 0)) == counts(1, 1, 1)
    refused = episode(turns[0], (board(0, 0, 0, 0), "!", "bad_answer"), solution=solution, rotations=True)
    assert count_looks(refused, board(0, 45, 0, 0)) == counts(1, 1)


# --- against the images that were shown


LEGAL = {
    "look": "observe()",
    "swap": "state[{0}], state[{1}] = state[{1}], state[{0}]",
    "crop": "crop(image_list[{0}], [0, 0, 0.5, 0.5])",
    "fault": "open('x')",
}
TURNS = st.lists(
    st.tuples(st.sampled_from([("look",), ("swap",), ("crop",), ("fault",), ("swap", "look"), ("look", "swap"),
                               ("swap", "crop"), ("look", "crop"), ("swap", "look", "swap")]),
              st.sampled_from([(0, 1), (1, 2), (2, 3), (0, 3)])),
    max_size=6,
)  # fmt: skip


class Script:
    """Plays given turns, then answers: rightly, with the board as it is, or with that order turned round."""

    def __init__(self, turns, answer):
        self.turns, self.answer = turns, answer

    def reset(self, seed=None):
        pass

    def act(self, observations, infos):
        return [self.turn(info) for info in infos]

    def turn(self, info):
        if info["turn"] < len(self.turns):
            kinds, places = self.turns[info["turn"]]
            return f"<think>x</think><code>{chr(10).join(LEGAL[kind].format(*places) for kind in kinds)}</code>"
        board = list(info["task"].names)
        for kinds, (first, second) in self.turns:
            for _ in range(0 if "fault" in kinds else kinds.count("swap")):
                board[first], board[second] = board[second], board[first]
        given = {"right": info["solution"], "board": board, "reversed": board[::-1]}[self.answer]
        return f"<think>x</think><answer>{list(given)}</answer>".replace("'", '"')


@settings(max_examples=60, deadline=None)
@given(TURNS, st.sampled_from(["right", "board", "reversed"]), st.integers(0, 200))
def test_counts_agree_with_what_the_images_show(turns, answer, seed):
    """Read the boards from the pixels, and look at everything that comes after each."""
    make = partial(JigsawVisionEnv, **{"images": NOISE, "grid": 2, "level": 0, **SMALL})
    spec = EpisodeSpec("env", seed, {}, 0, "x")
    ((_, transcript),) = play_episodes(Script(turns, answer), [spec], {"env": make}, batch=1)
    names, solution = transcript.task["names"], list(transcript.solution)
    pieces = {image.tobytes(): name for name, image in zip(names, transcript.prompt_images, strict=True)}
    side = transcript.prompt_images[0].shape[0]
    states = [list(turn.state) for turn in transcript.turns]
    seen = []  # (turn, board), those that are judged
    for number, turn in enumerate(transcript.turns[:-1]):
        kinds = turns[number][0]
        if not turn.images or turn.images[0].shape[0] != 2 * side or kinds == ("swap", "look", "swap"):
            continue
        cuts = [turn.images[0][y : y + side, x : x + side] for y in (0, side) for x in (0, side)]
        board = [pieces[cut.tobytes()] for cut in cuts]
        moved = seen and any(states[at] != states[at - 1] for at in range(seen[-1][0] + 1, number + 1))
        if not seen or board != seen[-1][1] or moved:
            seen.append((number, board))
    last = transcript.turns[-1]
    answered = {"right": solution, "board": states[-1], "reversed": states[-1][::-1]}[answer]
    expected = Counter({"images": sum(len(turn.images) for turn in transcript.turns[:-1])})
    for place, (number, board) in enumerate(seen):
        ends = place + 1 == len(seen)
        until = len(states) - 1 if ends else seen[place + 1][0]
        changed = any(states[at] != states[at - 1] for at in range(number + 1, until + 1))
        if ends and last.primitives == ("Answer",):
            outcome = answered
            changed = changed or answered != board
            better = answered == solution
        else:
            outcome = None if ends else seen[place + 1][1]
            fits = [sum(a == b for a, b in zip(one, solution, strict=True)) for one in (board, outcome or board)]
            better = fits[1] > fits[0]
        if board == solution:
            expected["right"] += 1
            expected["spoiled"] += outcome != solution
        else:
            expected["wrong"] += 1
            expected["noticed"] += changed
            expected["mended"] += changed and better
    assert count_looks(transcript, answered) == {**counts(0), **expected}


# --- images that are blanked
