import pytest

pytest.importorskip("transformers")


import families  # beside this file, which pytest puts on the path
import torch

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


@pytest.fixture(params=list(families.FAMILIES))
def family(request):
    return request.param
