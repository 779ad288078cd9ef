"""A server on loopback that speaks OpenAI's chat format and fails on purpose, and a proxy that does so before another.

Both use real sockets. A script, a function of a request's number (from 0) and its JSON, says how each is answered.
"""

import contextlib
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-test-Zm9vYmFy-do-not-show"
"""The key in the tests' environment."""


@dataclass
class Answer:
    """Answer to a request.

    ``cut`` closes the connection after that many bytes of the body, ``delay`` waits before the answer, ``drip`` sends
    a byte of the body every so many seconds, ``slam`` closes the connection at once, ``no_length`` tells no length and
    ends the body by closing the connection.
    """

    status: int = 200
    body: bytes = b""
    headers: dict = field(default_factory=dict)
    content_type: str = "application/json"
    cut: int | None = None
    delay: float = 0.0
    drip: float = 0.0
    slam: bool = False
    no_length: bool = False


@dataclass
class Seen:
    """A request as it came in."""

    path: str
    headers: dict
    body: dict
    raw: bytes
    time: float


def completion(text, finish="stop", usage=(100, 10), choice=None, **message):
    """Return the JSON of a chat completion, as bytes."""
    data = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "served-model",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text, **message},
                **(choice or {}),
            }
        ],
    }
    if usage is not None:
        data["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return json.dumps(data).encode()


def say(text, **options):
    """Answer with a text."""
    return Answer(body=completion(text, **options))


def refuse(status, message="no", headers=None, **fields):
    """Answer with an error in OpenAI's format."""
    body = json.dumps({"error": {"message": message, "type": "test", "code": None, **fields}}).encode()
    return Answer(status=status, body=body, headers=headers or {})


class FaultyServer:
    """The server; ``url`` is its address, ``seen`` what came in, ``peak`` the most requests at a time."""

    def __init__(self, script: Callable[[int, dict], Answer], models=(), port=0):
        self.script, self.models = script, models
        self.seen: list[Seen] = []
        self.peak = self._now = 0
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self):
                super().setup()
                outer._connections.append(self.connection)

            def do_GET(self):
                data = {"object": "list", "data": [{"id": name} for name in outer.models]}
                self._write(Answer(body=json.dumps(data).encode()))

            def do_POST(self):
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                with outer._lock:
                    number = len(outer.seen)
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    outer.seen.append(Seen(self.path, headers, json.loads(raw), raw, time.monotonic()))
                    outer._now += 1
                    outer.peak = max(outer.peak, outer._now)
                try:
                    self._write(outer.script(number, outer.seen[number].body))
                finally:
                    with outer._lock:
                        outer._now -= 1

            def _write(self, answer):
                time.sleep(answer.delay)
                if answer.slam:
                    self._hang_up()
                    return
                with contextlib.suppress(OSError):  # the client may have gone
                    self.send_response(answer.status)
                    self.send_header("Content-Type", answer.content_type)
                    if answer.no_length:
                        self.close_connection = True
                        self.send_header("Connection", "close")
                    else:
                        self.send_header("Content-Length", str(len(answer.body)))
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    if answer.drip:
                        for place in range(len(answer.body)):
                            self.wfile.write(answer.body[place : place + 1])
                            time.sleep(answer.drip)
                    else:
                        self.wfile.write(answer.body if answer.cut is None else answer.body[: answer.cut])
                    if answer.cut is not None:
                        self._hang_up()

            def _hang_up(self):
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_):
                pass  # a client that went away in the middle of an answer

        self._server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def forward(base_url, body):
    """Hand a request on to another server, and return its answer as an `Answer`: the proxy's part."""
    request = urllib.request.Request(
        f"{base_url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=120) as answer:
        return Answer(body=answer.read())


def free_port():
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
