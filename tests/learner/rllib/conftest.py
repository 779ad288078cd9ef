import os

import pytest

from tests.helpers import ROOT

try:
    import ray
    import ray.rllib
    import torch
except ImportError:
    collect_ignore_glob = ["test_*.py"]
else:
    torch.set_num_threads(1)  # as in the workers: sums are rounded alike

# Ray and RLlib warn of their own use of what they deprecate.
RAY_WARNINGS = ("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning", "ignore::UserWarning")


def pytest_collection_modifyitems(items):
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.slow)
            for text in RAY_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(text))


@pytest.fixture(scope="session", autouse=True)
def cluster():
    """Start Ray once."""
    folders = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))  # workers import helpers of the tests
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ["RAY_DEDUP_LOGS"] = "0"
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def make_config(small_model):
    """Return what makes a configuration that is trained in no time; all in the driver by default."""
    from agile_gym.learner import GRPOConfig
    from tests.helpers.rllib_parts import letters

    def make(*, runners=0, learners=0, env=None, model=None, vlm=None, **training):
        options = {"image_size": 64, "prompt": "short", "images": None, "split": "train", "max_turns": 2}
        settings = {
            "lr": 1e-3,
            "groups_per_iteration": 6,
            "group_size": 3,
            "max_new_tokens": 8,
            "rollout_batch": 9,
            "num_minibatches": 2,
            "num_epochs": 2,
            "reward_fn": letters,
        }
        return (
            GRPOConfig()
            .environment("JigsawVision-v0", env_config={**options, **(env or {})})
            .vlm(path=str(model or small_model), **(vlm or {}))
            .env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.5)
            .learners(num_learners=learners, num_cpus_per_learner=0.5)
            .training(**{**settings, **training})
            .evaluation(evaluation_duration=8)
        )

    return make


@pytest.fixture
def build():
    """Return what builds an algorithm, which is stopped at the end."""
    built = []

    def make(config):
        built.append(config.build_algo())
        return built[-1]

    yield make
    for algorithm in built:
        algorithm.stop()
