import pytest

pytest.importorskip("transformers")


import torch

from tests.helpers import families

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Return the folder of a tiny random model of a family."""
    folders = {}

    def folder(name):
        if name not in folders:
            folders[name] = families.save(name, tmp_path_factory.mktemp(name))
        return folders[name]

    return folder


@pytest.fixture(scope="session")
def loaded(saved):
    """Return such a model, loaded once for all tests: leave it as it is."""
    from agile_gym.models import load_vlm

    models = {}

    def load(name):
        if name not in models:
            models[name] = load_vlm(saved(name), device="cpu")
        return models[name]

    return load


@pytest.fixture(scope="session")
def played(loaded):
    """Return the transcripts of five episodes that a model has played, three at a time, with nothing unusual."""
    from agile_gym.policies.model import HFVLMPolicy
    from tests.helpers.prompted_episodes import play

    known = {}

    def episodes(name):
        if name not in known:
            known[name] = play(HFVLMPolicy(loaded(name), max_new_tokens=12))
        return known[name]

    return episodes


@pytest.fixture(params=list(families.FAMILIES))
def family(request):
    return request.param
