"""Classes that the processes of a training import, and values that tests compare."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from agile_gym.envs.jigsaw import JigsawVisionEnv
from agile_gym.learner.grpo import GRPO
from agile_gym.learner.module import VLMModule
from agile_gym.policies import GivenUp
from agile_gym.policies.model import HFVLMPolicy

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


class LoudPolicy(HFVLMPolicy):
    """Shouts: the environment reads more than the model wrote."""

    def act(self, observations, infos):
        return [text + "!" for text in super().act(observations, infos)]


class LoudModule(VLMModule):
    """Brings a model of its own."""

    def load(self, options):
        from tests.helpers.tiny_learning import small_vlm

        return small_vlm(1)


def once(folder, name):
    """Trigger a named fault in one process, once, if a test has set it."""
    try:
        Path(folder, name).unlink()
    except FileNotFoundError:
        return False
    return True


class FaultyEnv(JigsawVisionEnv):
    """Fails as files ask for: ``kill``, ``hang`` and each ``raise-N`` once, ``always`` in some puzzles.

    Each step takes ``pause`` seconds more.
    """

    def __init__(self, *, folder, pause=0.0, **options):
        super().__init__(**options)
        self.folder = folder
        self.pause = pause
        self.seed = 0

    def reset(self, *, seed=None, options=None):
        self.seed = seed or 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        time.sleep(self.pause)
        if once(self.folder, "kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if once(self.folder, "hang"):
            os.kill(os.getpid(), signal.SIGSTOP)
        for number in range(4):
            if once(self.folder, f"raise-{number}"):
                raise OSError("the disk is gone")
        if self.seed % 3 == 0 and Path(self.folder, "always").exists():
            raise ZeroDivisionError("this puzzle is broken")
        return super().step(action)


class Failing(GRPO):
    """Fails in its second iteration if the file ``fail`` asks for it."""

    def training_step(self):
        if self.iteration == 1 and once(self.config.env_config["folder"], "fail"):
            raise OSError("the network is gone")
        super().training_step()


class GivingUp(HFVLMPolicy):
    """Gives up every third episode at its second turn."""

    turn, share = 1, 3

    def act(self, observations, infos):
        texts = super().act(observations, infos)
        return [
            GivenUp("image_refused", "too thin") if info["turn"] == self.turn and not self._goes_on(info) else text
            for text, info in zip(texts, infos, strict=True)
        ]

    def _goes_on(self, info):
        return info["policy_seed"] % self.share


class GivingUpAll(GivingUp):
    """Gives up every episode at once."""

    turn, share = 0, 1


def die_in_step(count, learner):
    """Let a learner die in the middle of an update, in its step of this number."""
    real, steps = learner._updater.step, []

    def step(samples):
        steps.append(1)
        if len(steps) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(samples)

    learner._updater.step = step


def os_pid(worker):
    """Return the number of a worker's process."""
    return os.getpid()
