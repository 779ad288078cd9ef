"""Modules that run in a process of their own."""

import os
import subprocess
import sys

from tests.helpers import ROOT


def run_module(module, *words, timeout=600):
    """Run ``python -m module`` with one thread, and return the process with its output."""
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
