"""What the processes of a training import, and what tests compare."""

import numpy as np

from agile_gym.learner.grpo import GRPO

COUNTS = ("groups_played", "groups_trained", "groups_constant", "groups_lost", "return", "tokens_written", "episodes")


def letters(episode):
    """Return a reward that differs within groups, even for a model that knows nothing."""
    return float(sum(len(turn.text) for turn in episode.turns) % 7)


def is_even(episode):
    """Return a reward that a good third of the groups of three have no variance in, or so."""
    return float(len(episode.turns[0].text) % 7 < 2)


class Watched(GRPO):
    """Keeps what every iteration was trained on."""

    def make_samples(self, batch):
        self.__dict__.setdefault("seen", []).append(batch)
        return super().make_samples(batch)


def texts(algorithm):
    """Return all texts of the episodes that were trained on, by group and iteration."""
    return [
        {
            group.spec.index: [[turn.text for turn in episode.turns] for episode in group.episodes]
            for group in batch.groups
        }
        for batch in algorithm.seen
    ]


def weights(algorithm):
    return algorithm.get_weights_of_module()


def train(algorithm, iterations=1):
    """Train, and return what each iteration tells that does not depend on time."""
    told = []
    for _ in range(iterations):
        result = algorithm.train()
        algorithm.told = result["grpo"]
        learner = result["learners"]["default_policy"]
        told.append(
            {name: float(result["grpo"][name]) for name in COUNTS}
            | {name: float(learner[name]) for name in ("loss", "grad_norm", "optimizer_steps", "lr", "entropy")}
        )
    return told


def difference(first, second):
    """Return the largest difference of two sets of weights."""
    assert first.keys() == second.keys()
    return max(float(np.abs(first[name].astype(float) - second[name].astype(float)).max()) for name in first)
