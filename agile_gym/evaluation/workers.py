"""Evaluation of a plan's puzzles in several processes.

The processes take one puzzle at a time. Results do not depend on the number of processes: every puzzle carries
its own seeds. This process alone writes files. A worker that is killed is replaced, and its unfinished puzzles are
played again.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import cv2

from agile_gym.errors import AgileGymError
from agile_gym.evaluation.plan import PuzzleKey, Task
from agile_gym.evaluation.run import Played, PreparedPlan, play_tasks
from agile_gym.interruption import divide_threads, hold, ignore_stop_signals, stops_blocked
from agile_gym.policies.base import make_policy

__all__ = ["MAX_WORKERS", "play_in_workers"]

MAX_WORKERS = 256
MAX_LOSSES = 3
"""Workers that may be lost with the same puzzle, or with none finished in between, before the evaluation stops."""


def play_in_workers(
    prepared: PreparedPlan,
    tasks: Iterable[Task],
    *,
    workers: int,
    batch: int = 8,
    keep: int | None = None,
    on_lost: Callable[[str], None] | None = None,
) -> Generator[Played, None, None]:
    """Play some of a plan's puzzles in processes of their own.

    Each makes the policy by the name and the options in the plan; a name that `register_policy` gave in this process is
    not available there, ``"module:attribute"`` is. Call it under ``if __name__ == "__main__":`` in a script, as
    processes are spawned.

    Args:
        prepared: The plan.
        tasks: The puzzles.
        workers: Number of processes, at least 1.
        batch: Number of episodes that each plays in one batch.
        keep: Transcripts to be kept a level, as for `play_tasks`.
        on_lost: Called with a sentence when a worker was lost.

    Yields:
        Each episode when it has ended.

    Raises:
        AgileGymError: If the policy fails in a worker, or workers are lost again and again.
    """
    crew = _Crew(prepared, tasks, batch, keep, workers, on_lost or (lambda _: None))
    try:
        for _ in range(workers):
            crew.hire()
        while crew.members:
            yield from crew.listen()
    finally:
        crew.dismiss()


class _Member:
    """A worker process, as seen by its parent."""

    def __init__(self, number: int, process: BaseProcess, connection: Connection) -> None:
        self.number = number
        self.process = process
        self.connection = connection
        self.playing: dict[PuzzleKey, Task] = {}
        self.asks_no_more = False


class _Crew:
    """The worker processes, and the puzzles that wait for them."""

    def __init__(
        self,
        prepared: PreparedPlan,
        tasks: Iterable[Task],
        batch: int,
        keep: int | None,
        workers: int,
        on_lost: Callable[[str], None],
    ) -> None:
        self.members: list[_Member] = []
        self._waiting = deque(tasks)
        self._job = (prepared, batch, keep, workers)
        self._on_lost = on_lost
        self._hired = 0
        self._losses: Counter[PuzzleKey] = Counter()
        self._losses_in_a_row = 0

    def hire(self) -> None:
        """Start a worker, unless no puzzle would wait for it."""
        idle = sum(not member.playing and not member.asks_no_more for member in self.members)
        if len(self._waiting) <= idle:
            return
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, *self._job), daemon=True)
        with hold():
            if os.name == "posix":
                resource_tracker.ensure_running()  # starting it, as the first process does, would let signals through
            with stops_blocked():
                process.start()
            theirs.close()  # the worker's is the only one now: when it ends, we read the end of the file
            self._hired += 1
            self.members.append(_Member(self._hired, process, ours))

    def listen(self) -> Iterator[Played]:
        """Answer the workers that have sent a message."""
        ready = wait([member.connection for member in self.members])
        for member in [member for member in self.members if member.connection in ready]:
            try:
                kind, value = member.connection.recv()
                if kind == "next":
                    task = self._waiting.popleft() if self._waiting else None
                    if task is None:
                        member.asks_no_more = True
                    else:
                        member.playing[task.key] = task
                    member.connection.send(task)
            except (EOFError, OSError):
                self._lose(member)
                continue
            if kind == "played":
                played: Played = value
                del member.playing[played.result.key]
                self._losses_in_a_row = 0
                yield played
            elif kind == "failed":
                raise AgileGymError(value)
            elif kind == "over":
                self._discharge(member)

    def _lose(self, member: _Member) -> None:
        """Put the puzzles of a worker that is gone back, and start another.

        Raises:
            AgileGymError: If that has happened too often.
        """
        self._discharge(member)
        self._losses_in_a_row += 1
        self._losses.update(member.playing.keys())
        code = member.process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        again = f"its {len(member.playing)} unfinished puzzles are played again"
        if self._losses_in_a_row >= MAX_LOSSES or any(count >= MAX_LOSSES for count in self._losses.values()):
            raise AgileGymError(
                f"Worker {member.number} {how}; {MAX_LOSSES} were lost in a row, or with the same puzzle. If memory "
                "runs out (signal 9), give fewer --workers or a smaller --batch."
            )
        self._on_lost(f"Worker {member.number} {how}; {again}.")
        self._waiting.extendleft(reversed(member.playing.values()))
        self.hire()

    def _discharge(self, member: _Member) -> None:
        member.connection.close()
        member.process.join()
        self.members.remove(member)

    def dismiss(self) -> None:
        """End all workers."""
        for member in self.members:
            member.process.kill()
        for member in list(self.members):
            self._discharge(member)


def _work(connection: Connection, prepared: PreparedPlan, batch: int, keep: int | None, workers: int) -> None:
    """Play the puzzles that the parent hands out, until there is nothing left, or no parent."""
    ignore_stop_signals()  # a terminal sends them to all; the parent ends its workers
    try:
        cv2.setNumThreads(1)
        divide_threads(workers)
        plan = prepared.plan
        policy = make_policy(plan.policy, **plan.policy_options)
        policy.reset(plan.seed)
        tasks = iter(partial(_next_task, connection), None)
        for played in play_tasks(policy, prepared, tasks, batch=batch, keep=keep):
            connection.send(("played", played))
        connection.send(("over", None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(1)  # the parent is gone, and with it every reader of a message
    except AgileGymError as error:
        connection.send(("failed", str(error)))
    except Exception as error:
        connection.send(("failed", f"The policy raised {error!r} in a worker:\n{traceback.format_exc()}"))


def _next_task(connection: Connection) -> Task | None:
    connection.send(("next", None))
    return connection.recv()
