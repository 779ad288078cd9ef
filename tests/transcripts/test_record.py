"""Records that processes send each other are whole on the other side."""

import pickle
from dataclasses import fields

import numpy as np
import pytest

from agile_gym.learner.data import Sample
from agile_gym.transcripts.record import Segment, Turn, TurnUsage

IMAGE = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
SEGMENT = Segment(
    np.array([5, 6, 7], np.int32),
    np.array([False, True, True]),
    np.array([0, -0.5, -0.25], np.float32),
    np.array([-1, 0, 0], np.int16),
    (0, 2),
    np.array([0, 1.5, 1.5], np.float32),
)
USAGE = TurnUsage(0.5, 30, None, 2)
REWARD = {"accuracy": 0.0, "format": 1.0, "step": -0.05, "total": 0.5}
TURN = Turn("text", "feedback", (IMAGE,), ("Swap", "Observe"), None, ("B", "A"), REWARD, 0.01, USAGE)


def same(first, second):
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if hasattr(first, "__dataclass_fields__"):
        return type(first) is type(second) and all(
            same(getattr(first, field.name), getattr(second, field.name)) for field in fields(first)
        )
    return type(first) is type(second) and first == second


@pytest.mark.parametrize(
    "record", [SEGMENT, USAGE, TURN, Sample(SEGMENT, (IMAGE,), 4, (1, 0))], ids=lambda r: type(r).__name__
)
def test_records_are_sent_as_calls_of_their_classes_with_all_fields(record):
    assert same(pickle.loads(pickle.dumps(record)), record)
    kind, arguments = record.__reduce_ex__(5)
    assert kind is type(record)
    assert len(arguments) == len(fields(record))
