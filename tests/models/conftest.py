import pytest

pytest.importorskip("transformers")


import torch

from tests.helpers import families

torch.set_num_threads(1)


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
