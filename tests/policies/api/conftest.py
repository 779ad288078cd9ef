import logging
import pickle

import pytest

from agile_gym.envs.jigsaw import JigsawVisionEnv
from tests.helpers.faulty_server import KEY, FaultyServer


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """A key under another name than the usual, and no proxy between the tests and loopback."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("TEST_API_KEY", KEY)


@pytest.fixture
def serve():
    """Make faulty servers, which are closed at the end."""
    servers = []

    def make(script, **options):
        servers.append(FaultyServer(script, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def connect(caplog):
    """Make policies, and check at the end that none of them has shown its key anywhere."""
    pytest.importorskip("openai")
    from agile_gym.policies.api import ChatAPIPolicy

    caplog.set_level(logging.DEBUG)
    policies = []

    def make(url, **options):
        quick = {"backoff": 0.01, "request_timeout": 20.0, "api_key_env": "TEST_API_KEY", **options}
        policies.append(ChatAPIPolicy("some-model", base_url=getattr(url, "url", url), **quick))
        return policies[-1]

    yield make
    for policy in policies:
        assert KEY not in repr(policy) + repr(policy.options) + repr(vars(policy))
        assert KEY.encode() not in pickle.dumps(policy)
        policy.close()
    assert KEY not in caplog.text


@pytest.fixture
def start():
    """Return the first observations of a batch of small puzzles, with one environment each."""
    environments = []

    def make(count=1, **options):
        made = [JigsawVisionEnv(**{"image_size": 64, "max_turns": 4, **options}) for _ in range(count)]
        environments.extend(made)
        begun = [env.reset(seed=seed) for seed, env in enumerate(made)]
        return made, [observation for observation, _ in begun], [info for _, info in begun]

    yield make
    for env in environments:
        env.close()
