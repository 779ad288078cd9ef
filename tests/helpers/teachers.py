"""Teachers for the tests of cold starts, which worker processes import by name."""

import json

import numpy as np


class Clever:
    """Teacher with the solution: looks at the board, then answers, wrongly in some episodes, or after an error."""

    def __init__(self, right=1.0, errs=0.0, words="I know."):
        self.right, self.errs, self.words = right, errs, words

    def reset(self, seed=None):
        pass

    def act(self, observations, infos):
        return [self._turn(info) for info in infos]

    def _turn(self, info):
        rng = np.random.default_rng(info["policy_seed"])
        right, errs = rng.random(2)
        if info["turn"] == 0:
            return "<think>Look.</think><code>o = observation({})</code>".format("state" if errs >= self.errs else "x")
        solution = list(info["solution"])
        if right >= self.right:
            solution.reverse()
        return f"<think>{self.words}</think><answer>{json.dumps(solution)}</answer>"


class Failing(Clever):
    """Fails after some calls."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def act(self, observations, infos):
        self.calls -= 1
        if self.calls < 0:
            raise RuntimeError("The teacher has fallen ill.")
        return super().act(observations, infos)


def careless(observation):
    """Answers, but for the first thought."""
    return '<answer>["A", "B"]</answer>'
