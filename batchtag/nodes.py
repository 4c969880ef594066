"""The machines of the cluster that this process has joined: those that are there, and those that it may grow to."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ray

from batchtag.placement import Machine

_GROUP = "ray.io/node-group"


def machines() -> list[Machine]:
    """The nodes that are alive now."""
    return [_machine(node["Resources"]) for node in _alive()]


def machines_to_come() -> list[Machine]:
    """The nodes that the cluster's autoscaler may still add, by the limits of each kind. Empty without one.

    Ray 2.60 tells this in a private module only, which Ray Data's own autoscaler reads too.
    """
    from ray._private.state import state

    config = state.get_cluster_config()
    if config is None:
        return []
    there = Counter(node.get("Labels", {}).get(_GROUP, "") for node in _alive())
    to_come = []
    for group in config.node_group_configs:
        missing = group.max_count - there[group.name]
        to_come += [_machine(dict(group.resources))] * max(0, missing)
    return to_come


def _alive() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _machine(resources: dict[str, Any]) -> Machine:
    return Machine(cpus=float(resources.get("CPU", 0.0)), gpus=float(resources.get("GPU", 0.0)))
