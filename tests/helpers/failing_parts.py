"""An algorithm that fails once."""

from agile_gym.learner.grpo import GRPO
from tests.helpers.faulty_parts import once


class Failing(GRPO):
    """Fails in its second iteration if the file ``fail`` asks for it."""

    def training_step(self):
        if self.iteration == 1 and once(self.config.env_config["folder"], "fail"):
            raise OSError("the network is gone")
        super().training_step()
