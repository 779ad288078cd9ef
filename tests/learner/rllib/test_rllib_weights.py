"""Weights that a runner is sent, whatever their number."""

import pytest
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from agile_gym.learner.env_runner import VLMEnvRunner


class Kept:
    """Keeps the weights that it was given last, as the module of a runner of its own process does."""

    inference_only = True

    def set_state(self, state):
        self.state = state


@pytest.mark.parametrize("number", [-1, 0, 1, 7])
def test_weights_of_an_equal_number_are_taken(number):
    runner = VLMEnvRunner.__new__(VLMEnvRunner)  # without processes and a model
    runner.module, runner._weights_seq_no, runner._sampled, runner._engine = Kept(), 0, 0, "hf"
    for weights in ("trained", "restored"):
        runner.set_state({COMPONENT_RL_MODULE: {DEFAULT_MODULE_ID: weights}, WEIGHTS_SEQ_NO: number})
        assert runner.module.state == weights
