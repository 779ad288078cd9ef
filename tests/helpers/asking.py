"""A command in a process of its own, which has none of the user's settings of hubs and proxies."""

import os
import subprocess
import sys

ASK = """
import time
from agile_gym.cli import main
start = time.perf_counter()
status = main({command!r})
print(status, time.perf_counter() - start)
"""


def ask(command, **environment):
    """Run a command in a process of its own, and return its status, its time and what it says."""
    known = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HTTP"))}
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(command=command)],
        env={**known, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    status, seconds = done.stdout.splitlines()[-1].split()
    return int(status), float(seconds), done.stderr
