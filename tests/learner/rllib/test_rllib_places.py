"""Learners and runners that share GPUs: Ray gives every learner one, though runners start first."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("ray")

SCRIPT = """
import json
import ray
from agile_gym.learner import GRPOConfig
from agile_gym.learner.resources import free_places, places_for_learners

count = 3
ray.init(num_cpus=8, num_gpus=count, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
config = GRPOConfig().env_runners(num_env_runners=count, num_gpus_per_env_runner=0.4)
config.learners(num_learners=count, num_gpus_per_learner=0.6)

@ray.remote(num_cpus=0)
class Process:
    def gpu(self):
        return ray.get_runtime_context().get_accelerator_ids()["GPU"][0]

with places_for_learners(config):
    runners = [Process.options(num_gpus=0.4).remote() for _ in range(count)]
    gpus = ray.get([each.gpu.remote() for each in runners])
    free_places()
    learners = [Process.options(num_gpus=0.6).remote() for _ in range(count)]
    ready, _ = ray.wait([each.gpu.remote() for each in learners], num_returns=count, timeout=60)
    print(json.dumps([sorted(gpus), sorted(ray.get(ready))]))
"""


@pytest.mark.slow
def test_every_learner_gets_a_gpu_beside_a_runner():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout.splitlines()[-1]) == [["0", "1", "2"], ["0", "1", "2"]]
