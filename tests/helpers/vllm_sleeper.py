"""An engine that sleeps on a CPU, in a process of its own: ``python -m tests.helpers.vllm_sleeper alone|training``.

vLLM frees memory on GPUs only. Its worker is replaced by one that loses its weights when it is put to sleep, as there.
"""

import json
import sys
from contextlib import nullcontext

import torch
from vllm.platforms import current_platform
from vllm.v1.worker.cpu_worker import CPUWorker

from agile_gym.errors import ConfigurationError
from agile_gym.models import ChatFormat
from agile_gym.models.sampling import SamplingOptions
from agile_gym.models.vllm_engine import VLLMEngine, VLLMGenerator
from agile_gym.models.vllm_inputs import named_weights
from tests.helpers.vllm_player import OPTIONS, apart, change, episodes, make_model

CALLS = []


class SleepingWorker(CPUWorker):
    """A worker whose memory is lost in sleep: at level 1 weights are kept elsewhere."""

    kept = None

    def _maybe_get_memory_pool_context(self, tag):
        return nullcontext()

    def _weights(self):
        return list(self.model_runner.model.parameters())

    def sleep(self, level=1):
        CALLS.append(f"sleep {level}")
        self.kept = [weight.detach().clone() for weight in self._weights()] if level == 1 else None
        for weight in self._weights():
            weight.data.fill_(torch.nan)

    def wake_up(self, tags=None):
        CALLS.append(f"wake {' '.join(tags)}")
        if "weights" in tags and self.kept is not None:
            for weight, kept in zip(self._weights(), self.kept, strict=True):
                weight.data.copy_(kept)

    def reload_weights(self, *args, **kwargs):
        CALLS.append("load")
        super().reload_weights(*args, **kwargs)

    def execute_model(self, *args, **kwargs):
        if CALLS[-1] != "play":
            CALLS.append("play")
        return super().execute_model(*args, **kwargs)


def calls():
    """Return the calls since the last time."""
    told = list(CALLS)
    CALLS.clear()
    CALLS.append("")
    return [call for call in told if call]


def pretend():
    """Let vLLM take a CPU for a platform that sleeps."""
    type(current_platform).is_sleep_mode_available = lambda self: True
    CALLS.append("")


def alone(told):
    """Play, sleep and take weights without a training."""
    vlm = make_model("tiny")
    chat = ChatFormat(vlm.processor)
    try:
        VLLMEngine(vlm, chat, options=OPTIONS, sleeps=True)
    except ConfigurationError as error:
        told["refused"] = str(error)
    pretend()
    options = {**OPTIONS, "worker_cls": "tests.helpers.vllm_sleeper.SleepingWorker"}
    engine = VLLMEngine(vlm, chat, options=options, sleeps=True)
    generator = VLLMGenerator(engine, chat, SamplingOptions(max_new_tokens=24, temperature=0.8))
    told["begin"] = [*calls(), apart(vlm, chat, generator)]
    calls()
    engine.sleep()
    engine.sleep()
    lost = engine._llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    told["lost"] = all(bool(weight.isnan().all()) for weight in lost._weights())
    told["woken"] = [apart(vlm, chat, generator), calls()]
    engine.sleep()
    change(vlm.model, 0.02)
    generator.take_weights()
    told["new"] = [engine.asleep, apart(vlm, chat, generator), calls()]
    other = {name: tensor.clone() for name, tensor in named_weights(vlm.model)}
    change(vlm.model, 0.1)
    engine.take_weights(iter(other.items()))  # those of before, which the model no longer has
    far = apart(vlm, chat, generator)
    _, _, turns = episodes(vlm, chat, generator)
    calls()
    engine.sleep()
    _, _, again = episodes(vlm, chat, generator)
    told["received"] = [far, calls(), [t.ids for b in turns for t in b] == [t.ids for b in again for t in b]]


def in_training(told):
    """Train with runner, engine and learner in this process."""
    from agile_gym.learner.grpo import GRPO, GRPOConfig
    from agile_gym.learner.torch_learner import TokenLearner
    from tests.helpers.rllib_parts import letters

    pretend()

    class Learner(TokenLearner):
        def _update(self, *args, **kwargs):
            CALLS.append("learn")
            return super()._update(*args, **kwargs)

    class Synced(GRPO):
        def _sync_weights(self):
            CALLS.append("sync")
            super()._sync_weights()

    rules = {"grid": 2, "level": "all", "image_size": 64, "max_turns": 2, "prompt": "short"}
    config = (
        GRPOConfig(algo_class=Synced)
        .environment("JigsawVision-v0", env_config=rules)
        .vlm(path="tiny")
        .env_runners(num_env_runners=0)
        .learners(num_learners=0, learner_class=Learner)
        .training(
            engine="vllm",
            engine_options={**OPTIONS, "worker_cls": "tests.helpers.vllm_sleeper.SleepingWorker"},
            engine_sleep=True,
            group_size=2,
            groups_per_iteration=2,
            max_new_tokens=8,
            lr=1e-3,
            filter_zero_variance_groups=False,
            reward_fn=letters,
        )
    )
    algorithm = config.build_algo()
    told["built"] = calls()
    told["iterations"] = []
    for _ in range(2):
        learner = algorithm.train()["learners"]["default_policy"]
        told["iterations"].append([float(learner["max_mismatch"]), calls()])
    algorithm.stop()


def main(which):
    told = {}
    {"alone": alone, "training": in_training}[which](told)
    print(json.dumps(told))


if __name__ == "__main__":
    from tests.helpers import vllm_sleeper

    vllm_sleeper.main(sys.argv[1])  # the engine imports the worker under this name
