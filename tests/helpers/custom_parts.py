"""A policy and a module of a user's own."""

from agile_gym.learner.module import VLMModule
from agile_gym.policies.model import HFVLMPolicy


class LoudPolicy(HFVLMPolicy):
    """Shouts: the environment reads more than the model wrote."""

    def act(self, observations, infos):
        return [text + "!" for text in super().act(observations, infos)]


class LoudModule(VLMModule):
    """Brings a model of its own."""

    def load(self, options):
        from tests.helpers.tiny_learning import small_vlm

        return small_vlm(1)
