"""Starts ``transformers serve`` with a model on loopback, for tests of whatever speaks to a server.

    with transformers_serve(folder) as server:
        policy = ChatAPIPolicy(server.model, base_url=server.url, api_key_env=None, send_stop=False)

The server cannot take stop texts for a model with images (it hands the processor where ``generate`` wants a tokenizer),
hence ``send_stop=False``. Needs the packages of the extra ``transformers[serving]``: fastapi, uvicorn, openai.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.faulty_server import free_port

# The server ends when the test process does, however that ends: nothing is left to hold its standard input open.
_LAUNCHER = """
import os, threading

def end_with_parent():
    while os.read(0, 1):
        pass
    os._exit(0)

threading.Thread(target=end_with_parent, daemon=True).start()
from transformers.cli.transformers import main
main()
"""


@dataclass(frozen=True)
class Served:
    """A server that answers.

    Attributes:
        url: Its address, for ``base_url``.
        model: The model's name in requests: its folder.
        log: The file with what it printed.
    """

    url: str
    model: str
    log: Path


@contextlib.contextmanager
def transformers_serve(model: str | Path, *, seconds: float = 180.0, dtype: str = "float32") -> Iterator[Served]:
    """Run ``transformers serve`` until the end of the block.

    Args:
        model: Folder of the model.
        seconds: How long to wait until it answers.
        dtype: Data type of the weights.

    Yields:
        Where it is; it has loaded the model and answers.

    Raises:
        RuntimeError: If it ends, or does not answer in time; with the end of what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="transformers-serve-") as folder:
        log = Path(folder) / "log.txt"
        process, port = _start(Path(model), Path(folder), log, dtype)
        try:
            _wait(process, port, log, time.monotonic() + seconds)
            yield Served(f"http://127.0.0.1:{port}/v1", str(model), log)
        finally:
            _stop(process)


def _start(model: Path, folder: Path, log: Path, dtype: str) -> tuple[subprocess.Popen, int]:
    (folder / "home" / "hub").mkdir(parents=True)
    port = free_port()
    command = [sys.executable, "-c", _LAUNCHER, "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        **os.environ,
        "HF_HOME": str(folder / "home"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    environment.pop("PYTHONWARNINGS", None)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--dtype", dtype],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    return process, port


def _wait(process: subprocess.Popen, port: int, log: Path, until: float) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"transformers serve ended with status {process.returncode}: {_tail(log)}")
        with contextlib.suppress(OSError), opener.open(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            if answer.status == 200:
                return
        if time.monotonic() > until:
            raise RuntimeError(f"transformers serve does not answer: {_tail(log)}")
        time.sleep(0.1)


def _stop(process: subprocess.Popen) -> None:
    process.stdin.close()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]
