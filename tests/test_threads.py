"""Threads of torch: one for a small model, those of the user for any other."""

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agile_gym.envs.jigsaw import JigsawVisionEnv  # noqa: E402 -- after the skip
from agile_gym.images import open_images  # noqa: E402 -- after the skip
from agile_gym.interruption import own_threads  # noqa: E402 -- after the skip
from agile_gym.models import VLM  # noqa: E402 -- after the skip
from agile_gym.models.tiny import build_tiny  # noqa: E402 -- after the skip
from agile_gym.policies.model import HFVLMPolicy  # noqa: E402 -- after the skip


@pytest.fixture(scope="module")
def vlm():
    model, processor = build_tiny(0)
    return VLM(model, processor, "tiny")


@pytest.fixture
def three(monkeypatch):
    """Let torch have three threads, as on a larger machine where the user chose nothing."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def seen(monkeypatch):
    """Return the numbers of threads with which a linear layer was computed."""
    numbers, original = [], torch.nn.Linear.forward

    def forward(layer, values):
        numbers.append(torch.get_num_threads())
        return original(layer, values)

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    return numbers


def play(vlm):
    env = JigsawVisionEnv(image_size=64, prompt="short")
    observation, info = env.reset(seed=0)
    HFVLMPolicy(vlm, max_new_tokens=4).act([observation], [info])


def see(vlm):
    from agile_gym.models.tiny.pretraining import VisionPretrainingConfig, pretrain_vision

    model, _ = build_tiny(0)
    pretrain_vision(model, open_images(), VisionPretrainingConfig(steps=1, batch=4, few=0, probes=4))


def learn(vlm):
    pytest.importorskip("ray")
    from agile_gym.learner import GRPOConfig

    options = {"image_size": 64, "prompt": "short"}
    algorithm = (
        GRPOConfig()
        .environment("JigsawVision-v0", env_config=options)
        .vlm(path="tiny")
        .training(groups_per_iteration=1, group_size=2, max_new_tokens=4, filter_zero_variance_groups=False)
        .build_algo()
    )
    try:
        algorithm.train()
    finally:
        algorithm.stop()
        import ray

        ray.shutdown()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("use", [play, see, learn])
def test_the_tiny_model_plays_and_learns_in_one_thread_and_leaves_the_others_to_the_user(use, vlm, three, seen):
    use(vlm)
    assert set(seen) == {1}
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("use", [play, see])
def test_a_number_that_the_user_sets_holds(use, vlm, three, seen, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    use(vlm)
    assert set(seen) == {3}


def test_an_error_puts_the_number_back(vlm, three):
    with pytest.raises(ZeroDivisionError), own_threads(vlm.model):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 3


def test_a_large_model_keeps_its_threads(three):
    with own_threads(torch.nn.Linear(1000, 9_990)):
        assert torch.get_num_threads() == 1
    with own_threads(torch.nn.Linear(1000, 9_991)):
        assert torch.get_num_threads() == 3
    with own_threads(torch.nn.Linear(1, 1, device="meta")):  # not on a CPU
        assert torch.get_num_threads() == 3


DIVIDED = """
import os, sys
from agile_gym.interruption import divide_threads, own_threads
os.cpu_count = lambda: 8
divide_threads(2)
assert "torch" not in sys.modules
import torch
inside = []
with own_threads(torch.nn.Linear(1, 1)):
    inside.append(torch.get_num_threads())
print(os.environ["OMP_NUM_THREADS"], inside == [1], inside == [torch.get_num_threads()])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("variable", "expected"), [(None, "4 True False"), ("2", "2 False True")])
def test_workers_share_the_processors_unless_the_user_chose(variable, expected):
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    environment |= {} if variable is None else {"OMP_NUM_THREADS": variable}
    done = subprocess.run([sys.executable, "-c", DIVIDED], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr
