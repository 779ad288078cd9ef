"""A policy that gives up, for tests of what a training does then."""

from agile_gym.policies import GivenUp
from agile_gym.policies.model import HFVLMPolicy


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
