"""Environments and policies that fail, for tests of what a training does then."""

import os
import signal
from pathlib import Path

from agile_gym.envs.jigsaw import JigsawVisionEnv


def once(folder, name):
    """Tell one process, and that only once, to do what is named, if a test has asked for it."""
    try:
        Path(folder, name).unlink()
    except FileNotFoundError:
        return False
    return True


class FaultyEnv(JigsawVisionEnv):
    """Fails as files ask for: ``kill``, ``hang`` and each ``raise-N`` once, ``always`` in some puzzles."""

    def __init__(self, *, folder, **options):
        super().__init__(**options)
        self.folder = folder
        self.seed = 0

    def reset(self, *, seed=None, options=None):
        self.seed = seed or 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        if once(self.folder, "kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if once(self.folder, "hang"):
            os.kill(os.getpid(), signal.SIGSTOP)
        for number in range(4):
            if once(self.folder, f"raise-{number}"):
                raise OSError("the disk is gone")
        if self.seed % 3 == 0 and Path(self.folder, "always").exists():
            raise ZeroDivisionError("this puzzle is broken")
        return super().step(action)
