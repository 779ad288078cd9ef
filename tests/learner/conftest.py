import pickle

import pytest


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory):
    """Return what two real processes with gloo found, each in a mapping; see `gloo_ranks`."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.helpers import gloo_ranks

    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(gloo_ranks.work, args=(2, str(folder)), nprocs=2)
    return [pickle.loads((folder / f"{rank}.pkl").read_bytes()) for rank in range(2)]


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """Return the folder of a small model."""
    pytest.importorskip("transformers")
    from tests.helpers.tiny_learning import save_small

    return save_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def qwen(saved):
    """Return the folder of a tiny Qwen2.5-VL."""
    return saved("qwen2_5_vl")
