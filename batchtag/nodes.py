"""The machines of the cluster that this process has joined: those that are there, and those that it may grow to.

Ray 2.60 tells nobody what its autoscaler may add (the key it keeps for that stays empty outside one vendor's service).
So the job says it (`compute.may_grow_to`), or the file does that `ray up` leaves on the head, where the driver runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ray
import yaml

from batchtag.placement import Machine
from batchtag.spec import NodeKind

_BOOTSTRAP = Path.home() / "ray_bootstrap_config.yaml"


def machines() -> list[Machine]:
    """The nodes that are alive now."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        Machine(cpus=node["Resources"].get("CPU", 0.0), gpus=node["Resources"].get("GPU", 0.0))
        for node in nodes
        if node["Alive"]
    ]


def machines_to_come(
    kinds: Iterable[NodeKind], *, there: Iterable[Machine], bootstrap: Path = _BOOTSTRAP
) -> list[Machine]:
    """The nodes that may still be added: of each kind, as many as there may be, less those that are there."""
    alive = Counter(there)
    to_come = []
    for kind in list(kinds) or _kinds_of(bootstrap):
        machine = Machine(cpus=kind.cpus, gpus=kind.gpus)
        found = min(kind.nodes, alive[machine])
        alive[machine] -= found
        to_come += [machine] * (kind.nodes - found)
    return to_come


def _kinds_of(bootstrap: Path) -> list[NodeKind]:
    """What `ray up` may start, by its file on the head; nothing elsewhere."""
    try:
        config = yaml.safe_load(bootstrap.read_text(encoding="utf-8"))
        kinds = {
            name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]
        }
        return [
            NodeKind(
                nodes=min(kind.get("max_workers", config["max_workers"]), config["max_workers"]),
                cpus=float(kind["resources"].get("CPU", 0)),
                gpus=float(kind["resources"].get("GPU", 0)),
            )
            for kind in kinds.values()
        ]
    except (OSError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return []
