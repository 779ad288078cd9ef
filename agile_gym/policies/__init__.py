"""Policies: what plays episodes."""

from agile_gym.policies.base import POLICIES, FunctionPolicy, Policy, as_policy, make_policy, register_policy
from agile_gym.policies.edge import EdgePolicy
from agile_gym.policies.simple import OraclePolicy, RandomPolicy

__all__ = [
    "POLICIES",
    "EdgePolicy",
    "FunctionPolicy",
    "OraclePolicy",
    "Policy",
    "RandomPolicy",
    "as_policy",
    "make_policy",
    "register_policy",
]
