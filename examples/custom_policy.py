"""Plug in a policy of your own and compare it with the built-in ones.

This one compares the outermost pixels of the pieces and tries all orders.

Usage: python examples/custom_policy.py [EPISODES]
On the command line, in the folder of this file: agile-gym eval --policy custom_policy:BorderPolicy
"""

import itertools
import json
import sys

import numpy as np

from agile_gym import make_policy, register_policy
from agile_gym.evaluation import EvaluationPlan, SuiteEntry, evaluate, summarize


class BorderPolicy:
    """Policy that answers with the order in which the pixels on both sides of each border differ least."""

    def reset(self, seed=None):
        """Nothing is random here."""

    def act(self, observations, infos):
        """Write an answer for each episode; the pieces are the images of the first observation."""
        return [self._answer(info["task"], info["images"]) for info in infos]

    def _answer(self, task, pieces):
        rows, cols = task.grid
        places = [divmod(place, cols) for place in range(rows * cols)]

        def cost(order):
            board = {place: pieces[piece].astype(float) for place, piece in zip(places, order, strict=True)}
            across = [np.abs(board[r, c][:, -1] - board[r, c + 1][:, 0]).sum() for r, c in places if c + 1 < cols]
            down = [np.abs(board[r, c][-1] - board[r + 1, c][0]).sum() for r, c in places if r + 1 < rows]
            return sum(across) + sum(down)

        best = min(itertools.permutations(range(rows * cols)), key=cost)
        answer = json.dumps([task.names[piece] for piece in best])
        return f"<think>I compared the borders.</think><answer>{answer}</answer>"


def main(episodes):
    """Play the same puzzles with this policy and two others."""
    register_policy("borders", BorderPolicy)
    for name in ("random", "borders", "edge"):
        results = evaluate(make_policy(name), EvaluationPlan(name, [SuiteEntry("2x2", episodes=episodes)]))
        accuracy = {key: 100 * value for key, value in summarize(results)["2x2"]["avg"]["acc"].items()}
        print("{:8} Acc {value:5.1f}%  (95% interval {low:.1f}-{high:.1f})".format(name, **accuracy))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
