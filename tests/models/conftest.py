import pytest

pytest.importorskip("transformers")


import torch

from tests.helpers import families

torch.set_num_threads(1)

QUICK = ("qwen2_5_vl", "idefics3")
"""Families that are tried in the quick run, too."""


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


@pytest.fixture(
    params=[pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in families.FAMILIES]
)
def family(request):
    return request.param
