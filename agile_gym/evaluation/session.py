"""One evaluation from start to end, with everything that it keeps on disk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from agile_gym.errors import ConfigurationError
from agile_gym.evaluation.journal import Journal
from agile_gym.evaluation.plan import EvaluationPlan
from agile_gym.evaluation.report import is_report
from agile_gym.evaluation.results import EpisodeResult
from agile_gym.evaluation.run import PreparedPlan, hold_back, play_tasks
from agile_gym.evaluation.workers import play_in_workers
from agile_gym.interruption import hold
from agile_gym.policies.base import Policy
from agile_gym.rollout.owned import check_replaceable
from agile_gym.rollout.store import TranscriptWriter, check_own_transcripts

__all__ = ["Session"]


class Session:
    """The journal of an evaluation and its transcripts, which always agree, whenever the process is killed.

    A transcript is written before its line in the journal, and what the journal does not name is dropped when both are
    opened again. Use it in a ``with`` block, or call `close`.

    Attributes:
        plan: The plan.
        journal: The finished episodes.
        transcripts: Folder of the transcripts.
    """

    def __init__(
        self,
        prepared: PreparedPlan,
        output: Path,
        *,
        keep: int | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Open the files.

        Args:
            prepared: The plan.
            output: The file of results, ``NAME.json``. The journal is ``NAME.jsonl``, and the transcripts are in the
                folder ``NAME-transcripts``.
            keep: Transcripts to be kept a level; None leaves it to the policy, see `play_tasks`.
            resume: Go on after the episodes that are there.
            overwrite: Begin anew even if there are some.

        Raises:
            ConfigurationError: If there are episodes and neither is asked for, or they cannot be resumed; if a file
                would be replaced that no evaluation wrote; then the files are as they were.
            TranscriptError: If the transcripts that are there are damaged.
        """
        self.plan: EvaluationPlan = prepared.plan
        self.transcripts = output.with_name(f"{output.stem}-transcripts")
        self._prepared = prepared
        self._keep = keep
        self._writer: TranscriptWriter | None = None
        journal = output.with_suffix(".jsonl")
        check_replaceable(output, is_report, "a file of results of agile-gym eval")
        if output.exists() and not journal.exists() and not overwrite:
            raise ConfigurationError(
                f"{output} is there already, without the journal {journal} that an evaluation could go on with, and "
                "would be replaced. Give another --output, or --overwrite."
            )
        if overwrite and self.transcripts.exists():
            check_own_transcripts(self.transcripts)
        self.journal = Journal(
            journal,
            self.plan,
            photographs=prepared.photographs(),
            resume=resume,
            overwrite=overwrite,
        )
        try:
            if keep != 0 or self.transcripts.exists():
                self._writer = TranscriptWriter(self.transcripts, resume=resume, overwrite=overwrite)
                done = {result.key for result in self.journal.results}
                names = {task.name for task in self.plan.tasks() if task.key in done}
                self._check_agreement(self._writer, names)
                self._writer.keep(names)
        except BaseException:
            self.close()
            raise

    def _check_agreement(self, writer: TranscriptWriter, done: Collection[str]) -> None:
        """Check that the journal has not lost what the transcripts still hold, which would be dropped.

        A kill leaves at most one transcript whose line is missing, and a line that cannot be read lacks one, too.

        Raises:
            ConfigurationError: If it has.
        """
        more = [name for name in writer.ids if name not in done]
        if len(more) > 1 + self.journal.unread:
            raise ConfigurationError(
                f"The journal {self.journal.path} lacks {len(more):,} puzzles whose transcripts are in "
                f"{self.transcripts} ({more[0]!r:.80} for one), so it has lost lines. Restore it from a copy; or move "
                "that folder away, and they are played again."
            )

    def play(
        self,
        policy: Policy | None,
        *,
        batch: int = 8,
        workers: int = 1,
        on_lost: Callable[[str], None] | None = None,
    ) -> Iterator[EpisodeResult]:
        """Play what is left.

        Args:
            policy: Plays. It is not needed where several processes play, as each makes its own.
            batch: How many episodes are played side by side (in each process).
            workers: Number of processes; 1 plays in this one.
            on_lost: Called with a sentence when a worker process was lost.

        Yields:
            Each episode when it is over and written down.

        Raises:
            AgileGymError: If the policy fails or gives up everything (see `hold_back`), or files cannot be written.
                What is written down is kept.
        """
        done = {result.key for result in self.journal.results}
        tasks = (task for task in self.plan.tasks() if task.key not in done)
        if workers == 1 and policy is not None:
            policy.reset(self.plan.seed)
            episodes = play_tasks(policy, self._prepared, tasks, batch=batch, keep=self._keep)
        else:
            episodes = play_in_workers(
                self._prepared, tasks, workers=workers, batch=batch, keep=self._keep, on_lost=on_lost
            )
        proven = any(result.written for result in self.journal.results)
        for result, transcript in hold_back(episodes, self.plan.policy, proven=proven):
            with hold():
                if transcript is not None and self._writer is not None:
                    self._writer.append(transcript)
                self.journal.add(result)
            yield result

    def close(self) -> None:
        """Close the files."""
        try:
            if self._writer is not None:
                self._writer.close()
        finally:
            self.journal.close()

    def __enter__(self) -> Self:
        """Return the session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the session."""
        self.close()
