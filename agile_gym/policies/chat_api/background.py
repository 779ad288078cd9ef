"""An event loop in a thread of its own, so that it runs beside any other loop and an interruption is felt at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from concurrent.futures import wait as wait_for_futures
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["BackgroundLoop"]

_Result = TypeVar("_Result")
_LOOK_UP = 0.5
_GOODBYE = 2.0


class BackgroundLoop:
    """Runs coroutines in a daemon thread."""

    def __init__(self) -> None:
        """Start the thread."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agile-gym-api", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine and wait for it.

        An interruption of the waiting thread (Ctrl-C) cancels the coroutine and is raised at once.

        Returns:
            What the coroutine returns.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            while not future.done():  # waiting without an end cannot be interrupted on every system
                wait_for_futures([future], timeout=_LOOK_UP)
        except BaseException:
            future.cancel()
            raise
        return future.result()

    def close(self, last: Coroutine[Any, Any, object] | None = None) -> None:
        """Cancel what is under way and stop the thread.

        Args:
            last: Run before it stops, for a short time at most.
        """
        if self._loop.is_closed():
            if last is not None:
                last.close()
            return
        future = asyncio.run_coroutine_threadsafe(_finish(last), self._loop)
        with suppress(TimeoutError, CancelledError):
            future.result(timeout=_GOODBYE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=_GOODBYE)
        if not self._thread.is_alive():
            self._loop.close()


async def _finish(last: Coroutine[Any, Any, object] | None) -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if last is not None:
        await last
