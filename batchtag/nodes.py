"""The machines of the cluster that this process has joined: those that are there, and those that it may grow to.

Ray 2.60 tells nobody what its autoscaler may add (the key it keeps for that stays empty outside one vendor's service).
So the job says it (`compute.may_grow_to`), or the file does that `ray up` leaves on the head, where the driver runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
import yaml

from batchtag.placement import Machine
from batchtag.spec import ComputeSpec, NodeKind

_BOOTSTRAP = Path.home() / "ray_bootstrap_config.yaml"


def machines() -> list[Machine]:
    """The nodes that are alive now."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        Machine(cpus=node["Resources"].get("CPU", 0.0), gpus=node["Resources"].get("GPU", 0.0))
        for node in nodes
        if node["Alive"]
    ]


def kinds_to_come(spec: ComputeSpec, *, joined: bool, bootstrap: Path = _BOOTSTRAP) -> list[NodeKind]:
    """The kinds of nodes that the cluster may grow to: the job's word, else what `ray up` left on this head.

    A private Ray (`joined` is false) grows to nothing.
    """
    if not joined:
        return []
    return list(spec.may_grow_to) or _kinds_of(bootstrap)


def _kinds_of(bootstrap: Path) -> list[NodeKind]:
    """What `ray up` may start, by its file on the head, GPUs first up to its limit of nodes; nothing elsewhere."""
    try:
        config = yaml.safe_load(bootstrap.read_text(encoding="utf-8"))
        kinds = {
            name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]
        }
        left, found = int(config["max_workers"]), []
        for kind in sorted(kinds.values(), key=lambda kind: -kind["resources"].get("GPU", 0)):
            nodes = min(kind.get("max_workers", left), left)
            left -= nodes
            if nodes:
                has = kind["resources"]
                found.append(NodeKind(nodes=nodes, cpus=has.get("CPU", 0), gpus=has.get("GPU", 0)))
        return found
    except (OSError, KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError):
        return []
