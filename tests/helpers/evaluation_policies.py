"""Policies for the tests of evaluation, which worker processes import by name."""

import os
import signal
from pathlib import Path

import numpy as np

from agile_gym.errors import AgileGymError

TURNS = (
    "<think>Swap.</think><code>state[0], state[1] = state[1], state[0]\nobserve()</code>",
    "<think>Look.</think><code>crop(image_list[0], [0, 0, 0.5, 0.5])</code>",
    "<think>Look closer.</think><code>zoom(image_list[1], 0.5)</code>",
    "<think>Oops.</think><code>open('/etc/passwd')</code>",
    "nothing that could be read",
)


class Wanderer:
    """Plays several turns, all drawn from the episode's own seed."""

    def reset(self, seed=None):
        pass

    def act(self, observations, infos):
        return [self._turn(info) for info in infos]

    def _turn(self, info):
        rng = np.random.default_rng([info["policy_seed"], info["turn"]])
        if info["turn"] == 4 or rng.random() < 0.3:
            names = list(info["task"].names)
            rng.shuffle(names)
            return "<think>That is it.</think><answer>{}</answer>".format(str(names).replace("'", '"'))
        return TURNS[rng.integers(len(TURNS))]


class Failing(Wanderer):
    """Fails after some calls: in a way that is foreseen, by a mistake in its code, or by being killed once or always.

    With ``puzzle``, the seed of a puzzle's policy, it fails there and nowhere else.
    """

    def __init__(self, how, calls=3, marker=None, puzzle=None):
        self.how, self.left, self.marker, self.puzzle = how, calls, marker, puzzle

    def act(self, observations, infos):
        self.left -= 1
        if self.left < 0 if self.puzzle is None else self.puzzle in [info["policy_seed"] for info in infos]:
            if self.how == "foreseen":
                raise AgileGymError("The server at 127.0.0.1 is down. Start it again.")
            if self.how == "mistake":
                return [1 / 0]
            if self.how == "always" or not Path(self.marker).exists():
                if self.marker:
                    Path(self.marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().act(observations, infos)


class Reader:
    """Swaps pieces into their places until the board that it sees is right, and answers.

    The order of the board is read from its pixels, of which blanked looks have none: then it answers as pieces were at
    first. With ``careless``, some swaps are mistakes, and every fourth answer is wrong. It needs ``reveal=True``.
    """

    def __init__(self, careless=False):
        self.careless = careless

    def reset(self, seed=None):
        self.pieces = {}

    def act(self, observations, infos):
        return [self.turn(info) for info in infos]

    def turn(self, info):
        names, right, slot = list(info["task"].names), list(info["solution"]), info["slot"]
        if info["turn"] == 0:
            self.pieces[slot] = {image.tobytes(): name for name, image in zip(names, info["images"], strict=True)}
            board = names
        else:
            board = self.read(info["images"][0], slot, info["task"])
        if board is None or board == right:
            given = names if board is None else right[::-1] if self.careless and info["policy_seed"] % 4 == 0 else right
            return f"<think>That is it.</think><answer>{given}</answer>".replace("'", '"')
        place = next(place for place, name in enumerate(board) if name != right[place])
        other = board.index(right[place])
        if self.careless and info["policy_seed"] % 3 == info["turn"]:
            other = (place + 1) % len(board)  # perhaps a mistake
        return (
            f"<think>Swap.</think><code>state[{place}], state[{other}] = state[{other}], state[{place}]\n"
            "observe()</code>"
        )

    def read(self, image, slot, task):
        (rows, cols), (high, wide) = task.grid, task.piece_size
        cuts = [image[r * high : (r + 1) * high, c * wide : (c + 1) * wide] for r in range(rows) for c in range(cols)]
        board = [self.pieces[slot].get(cut.tobytes()) for cut in cuts]
        return None if None in board else board


class Ignorer:
    """Swaps and looks in all turns but the last, and answers whatever it has not seen: an order of its own seed."""

    def reset(self, seed=None):
        pass

    def act(self, observations, infos):
        return [self.turn(info) for info in infos]

    def turn(self, info):
        if info["turn"] < info["policy_seed"] % 3:
            return TURNS[0]
        names = list(np.random.default_rng(info["policy_seed"]).permutation(info["task"].names).tolist())
        return "<think>That is it.</think><answer>{}</answer>".format(str(names).replace("'", '"'))
