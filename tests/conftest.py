import os
import signal
import subprocess

import pytest

# Before anything imports huggingface_hub: no test looks for anything on a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
# Before anything imports torch, here or in a program that a test starts: several tests, each with a thread for every
# processor, would wait for each other. Whoever sets another number gets it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell lets what it runs in the background ignore Ctrl-C, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Disk:
    """A small disk of its own."""

    def __init__(self, path):
        self.path = path

    def resize(self, size):
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path):
    """A small disk, where mounting is allowed."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(path)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no file system can be mounted here")
    yield Disk(path)
    subprocess.run(["umount", "-l", str(path)], check=True, capture_output=True)


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Return the folder of a tiny random model of a family."""
    pytest.importorskip("transformers")
    from tests.helpers import families

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
