# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The types of ray are incomplete.
"""RLlib's group of learners, whose sharded learners give and take their state together.

RLlib asks one learner for the state of all. A sharded one holds a part only, and would wait for the others to put the
parameters together, so here all are asked at once.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.core.learner.learner_group import LearnerGroup

from agile_gym.errors import ConfigurationError
from agile_gym.learner.sharding import SHARDS, missing_shards

__all__ = ["TokenLearnerGroup"]


class TokenLearnerGroup(LearnerGroup):
    """The learners of `GRPO` and `SFT`, in this process or in processes of their own."""

    config: Any
    _worker_manager: Any

    @property
    def is_sharded(self) -> bool:
        """True if each learner holds a part of the model."""
        return self.config.sharding == "full" and not self.is_local

    def ping(self) -> None:
        """Check that all learners are alive.

        Raises:
            RayError: If one is not.
        """
        if not self.is_local:
            self._ask(_nothing)

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,  # noqa: ANN401 -- RLlib's
    ) -> dict[str, Any]:
        """Return the state of the learners.

        That of sharded ones has the weights only if they are asked for (``"learner/rl_module"``), and nothing of the
        optimiser: `take_snapshot` and `save_to_path` give all of it, and no process has to hold it.
        """
        if not self.is_sharded or not self._check_component(COMPONENT_LEARNER, components, not_components):
            return super().get_state(components, not_components=not_components, **kwargs)
        own = self._get_subcomponents(COMPONENT_LEARNER, components)
        without = self._get_subcomponents(COMPONENT_LEARNER, not_components)
        self.ping()  # a dead one would let the others wait
        states = self._ask(partial(_state_of, components=own, not_components=without, **kwargs))
        return {COMPONENT_LEARNER: next((state for state in states if COMPONENT_RL_MODULE in state), states[0])}

    def take_snapshot(self) -> Any:  # noqa: ANN401 -- a state
        """Return the state of all learners, from which `restore_snapshot` sets learners that were built anew.

        Parts of sharded ones stay in Ray's object store, on the machines of the learners.

        Raises:
            RayError: If a learner died.
        """
        if not self.is_sharded:
            return self.get_state(components=COMPONENT_LEARNER)
        take: Any = _take_part
        asked = self.foreach_learner(take, return_obj_refs=True).result_or_errors
        parts = [result.get() for result in asked]  # references
        told = self._ask(_part_taken)  # an error would be found in the part only when it is needed
        if len(parts) != len(self) or not all(told):
            raise RayError("The state of a learner could not be stored.")
        return parts

    def restore_snapshot(self, snapshot: Any) -> None:  # noqa: ANN401 -- a state
        """Take over the state that `take_snapshot` returned, of as many learners.

        Raises:
            RayError: If a learner died, or a part is lost with the machine that it was on.
        """
        if not self.is_sharded:
            self.set_state(snapshot)
            return
        self._get_results(self._worker_manager.foreach_actor([partial(_give_part, part=[part]) for part in snapshot]))

    def save_to_path(self, path: Any = None, *, state: dict[str, Any] | None = None, **kwargs: Any) -> str:  # noqa: ANN401 -- RLlib's
        """Write the state of the learners; sharded ones write their parts into one folder, which all must reach.

        Raises:
            ConfigurationError: If sharded learners are to write to another place than a disk, or wrote to disks of
                their own.
            OSError: If one cannot write.
        """
        if not self.is_sharded:
            return super().save_to_path(path, state=state, **kwargs)
        if getattr(kwargs.get("filesystem"), "type_name", "local") != "local":
            raise ConfigurationError("Sharded learners write checkpoints to local or shared disks only.")
        self.ping()
        folder = super().save_to_path(path, state=state, **kwargs)
        shards = Path(folder).absolute() / COMPONENT_LEARNER / SHARDS
        for mistake in filter(None, self._ask(partial(_save_shards, folder=str(shards)))):
            raise OSError(f"A learner could not write its part of the checkpoint {folder}; is the disk full? {mistake}")
        missing = missing_shards(shards)
        if missing is not None:
            raise ConfigurationError(
                f"A learner wrote its part of the checkpoint, {missing}, to its own disk, not to {folder} of this "
                "machine. Give a folder that all machines share."
            )
        return folder

    def _ask(self, function: Any) -> list[Any]:  # noqa: ANN401 -- a function of a learner
        """Call a function of all learners and return the results; all must be alive."""
        results = self._get_results(self.foreach_learner(function))
        if len(results) < max(1, len(self)):  # those marked as dead are not called
            raise RayError("A learner died before.")
        return results


def _nothing(learner: object) -> None:
    """Do nothing; a learner that answers is alive."""
    del learner


def _state_of(learner: Any, **options: Any) -> dict[str, Any]:  # noqa: ANN401 -- a TokenLearner
    return learner.get_state(**options)


def _save_shards(learner: Any, *, folder: str) -> str | None:  # noqa: ANN401 -- a TokenLearner
    return learner.save_shards(folder)


def _take_part(learner: Any) -> Any:  # noqa: ANN401 -- a TokenLearner and its state
    return learner.take_part()


def _part_taken(learner: Any) -> bool:  # noqa: ANN401 -- a TokenLearner
    return learner.part_taken


def _give_part(learner: Any, *, part: list[Any]) -> None:  # noqa: ANN401 -- a TokenLearner; a reference in a list
    learner.set_part(ray.get(part[0]))
