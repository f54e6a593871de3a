"""Routing policies: which waiting request goes to which rank."""

from balanceroute.policies.base import Plan, Policy
from balanceroute.policies.check import check_policy
from balanceroute.policies.registry import make_policy, policy_names

__all__ = ["Plan", "Policy", "check_policy", "make_policy", "policy_names"]
