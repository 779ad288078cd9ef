"""A lock on a file or a folder, so that two processes never write to the same one."""

from __future__ import annotations

import importlib
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from agile_gym.errors import ConfigurationError

__all__ = ["Lock"]


class Lock:
    """Keeps other processes out until it is let go or the process ends, in whatever way; where the system can do that.

    The processes that this one starts do not inherit it: neither new programs, as Ray's, nor forks of this one.
    """

    def __init__(self, path: Path, message: str, error: type[ConfigurationError] = ConfigurationError) -> None:
        """Take the lock.

        Args:
            path: A file or a folder that is there.
            message: Says what another process is doing, and what to try.
            error: The error that has the message.

        Raises:
            ConfigurationError: If another process has it.
            OSError: If the file cannot be opened.
        """
        self._descriptor = -1
        fcntl = _fcntl()
        if fcntl is None:
            return
        self._descriptor = os.open(path, os.O_RDONLY)
        _HELD.add(self)
        lock: Callable[[int, int], None] = fcntl.flock
        try:
            lock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.let_go()
            raise error(message) from None
        except OSError:  # a file system without locks
            pass

    def let_go(self) -> None:
        """Let others have it; once is enough."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        """Let others have it when nobody can let go of it any more."""
        if hasattr(self, "_descriptor"):
            self.let_go()


_HELD: weakref.WeakSet[Lock] = weakref.WeakSet()


def _fcntl() -> ModuleType | None:
    try:
        return importlib.import_module("fcntl")
    except ImportError:
        return None


def _after_fork() -> None:
    """Close the parent's locks, which would otherwise last as long as this process."""
    for lock in _HELD:
        lock.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
