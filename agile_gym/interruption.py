"""Signals that end the process (SIGINT, SIGTERM, SIGHUP), and the number of threads that torch computes with."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

__all__ = [
    "SMALL",
    "STOP_SIGNALS",
    "StopSignals",
    "divide_threads",
    "hold",
    "ignore_stop_signals",
    "own_threads",
    "stop_signals",
    "stops_blocked",
]

STOP_SIGNALS: tuple[int, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Numbers of the signals, as far as the system has them."""
_REPLACED = "ray."
"""Prefix of the module whose handler is replaced: Ray's calls ``sys.exit``, unhandled by its own code."""
_current: StopSignals | None = None


class StopSignals:
    """The signals that came, within a block of `stop_signals`.

    Attributes:
        received: The first one, or None.
        repeated: True if another one came.
        on_held: Called when the first one comes within a block of `hold`, in a thread of its own.
        on_end: Called before a second one ends the process, to end others that it has started.
        end: True if a second one ends the process at once; else it raises `KeyboardInterrupt`, too.
    """

    def __init__(self, *, end: bool = False) -> None:
        """Start without a signal received."""
        self.received: int | None = None
        self.repeated = False
        self.on_held: Callable[[], object] | None = None
        self.on_end: Callable[[], object] | None = None
        self.end = end
        self._holds = 0
        self._former: dict[int, Any] = {}

    @property
    def status(self) -> int:
        """The exit status of a process that ends because of the first signal, as shells report it."""
        return 128 + (signal.SIGINT if self.received is None else self.received)

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if a signal came.

        The exception raised when it came may have been lost in a callback, from which Python lets no exception pass.
        """
        if self.received is not None:
            raise KeyboardInterrupt

    @contextmanager
    def hold(self) -> Generator[None]:
        """Let the first signal take effect at the end of the ``with`` block, such as one in which files are changed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = self.received
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        if not self._holds and before is None:
            self.check()

    def install(self) -> None:
        """Handle the signals again, also where a library has put handlers of its own in their place."""
        for number in self._former:
            signal.signal(number, self._handle)

    def take_over(self) -> None:
        """Handle the signals that have no other handler and are not ignored."""
        for number in STOP_SIGNALS:
            handler: Any = signal.getsignal(number)
            module = str(getattr(handler, "__module__", ""))
            if handler in (signal.SIG_DFL, signal.default_int_handler) or module.startswith(_REPLACED):
                self._former[number] = handler
        self.install()

    def give_back(self) -> None:
        """Put the former handlers back."""
        while self._former:
            signal.signal(*self._former.popitem())

    def _handle(self, number: int, frame: object) -> None:
        if self.received is None:
            self.received = number
            if self._holds:
                if self.on_held is not None:  # in a thread: the code that is interrupted may hold a lock
                    threading.Thread(target=self.on_held, daemon=True).start()
                return
        else:
            self.repeated = True
            if self.end:
                self._end_process(number)
        raise KeyboardInterrupt

    def _end_process(self, number: int) -> NoReturn:
        """End the process without any clean-up, as a kill does."""
        with suppress(Exception):
            if self.on_end is not None:
                self.on_end()
            os.write(2, b"\nagile-gym: ended at once\n")
        os._exit(128 + number)


@contextmanager
def stop_signals(*, end: bool = False) -> Generator[StopSignals]:
    """Let the first signal raise `KeyboardInterrupt` in the main thread, or wait for the end of a block of `hold`.

    Handlers belong to the process: within an enclosing block, its object is given. Nothing is handled in a block that
    another thread than the main one begins. A signal that is ignored, as ``nohup`` and shells arrange, stays so, and
    one with a handler of the user's keeps it.

    Args:
        end: True if a second signal ends the process at once; else it raises `KeyboardInterrupt`, too.

    Yields:
        The signals that came.
    """
    global _current
    if _current is not None:
        yield _current
        return
    stops = StopSignals(end=end)
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return
    _current = stops
    try:
        stops.take_over()
        yield stops
    finally:
        _current = None
        if stops.received is None or not end:  # else the process ends, and a second one may still come
            stops.give_back()


@contextmanager
def hold() -> Generator[None]:
    """Let signals that `stop_signals` handles wait for the end of the ``with`` block; see `StopSignals.hold`."""
    if _current is None:
        yield
        return
    with _current.hold():
        yield


@contextmanager
def stops_blocked(numbers: Iterable[int] = STOP_SIGNALS) -> Generator[None]:
    """Block signals in this thread, and for good in the processes that are started, where the system can do that.

    A group of processes is often sent a signal as a whole (by a terminal, ``timeout``, systemd or Slurm); then this
    process ends its own children, in order.

    Args:
        numbers: The signals.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals() -> None:
    """Ignore the signals in a worker process, which its parent ends."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


SMALL = 10_000_000
"""Parameters of a model that is computed in one thread, at most; the tiny model has 1.3 million."""
_VARIABLE = "OMP_NUM_THREADS"
_divided = False


@contextmanager
def own_threads(model: Any) -> Generator[None]:  # noqa: ANN401 -- a torch.nn.Module
    """Compute in one thread for the length of the ``with`` block if the model is small and on a CPU.

    The number that torch has besides is put back. If the user has set ``OMP_NUM_THREADS``, that number holds.

    Args:
        model: The model.
    """
    if (_VARIABLE in os.environ and not _divided) or not _is_small(model):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def divide_threads(processes: int) -> None:
    """Give torch, which is not imported yet, this process's fraction of the processors, unless the user chose.

    Args:
        processes: Number of processes that share them.
    """
    global _divided
    if _VARIABLE not in os.environ:
        os.environ[_VARIABLE] = str(max(1, (os.cpu_count() or 1) // processes))
        _divided = True


def _is_small(model: Any) -> bool:  # noqa: ANN401 -- a torch.nn.Module
    count = 0
    for parameter in model.parameters():
        count += parameter.numel()
        if count > SMALL or parameter.device.type != "cpu":
            return False
    return True
