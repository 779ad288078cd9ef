"""Policies, which play episodes."""

from agile_gym.policies.base import (
    POLICIES,
    FunctionPolicy,
    GivenUp,
    OraclePolicy,
    Policy,
    RandomPolicy,
    RecordingPolicy,
    as_policy,
    blank_look,
    make_policy,
    register_policy,
    slot_of,
)
from agile_gym.policies.edge import EdgePolicy

__all__ = [
    "POLICIES",
    "EdgePolicy",
    "FunctionPolicy",
    "GivenUp",
    "OraclePolicy",
    "Policy",
    "RandomPolicy",
    "RecordingPolicy",
    "as_policy",
    "blank_look",
    "make_policy",
    "register_policy",
    "slot_of",
]
