"""The machines of the cluster that this process has joined: those that are there, and those that it may grow to.

Ray 2.60 tells nobody what its autoscaler may add (the key it keeps for that stays empty outside one vendor's service).
So the job says it (`compute.may_grow_to`), or the file does that `ray up` leaves on the head, where the driver runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import yaml

from batchtag.cluster.machines import Machine, still_to_come
from batchtag.config.job import ComputeSpec, NodeKind

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


class NodeCall:
    """Brings the nodes without GPUs that the cluster may still add, where openers have room (`openactors`).

    For each such node an actor waits that wants all of its CPUs, so Ray's autoscaler starts one; it runs on no node
    that has anything else to do, and ends as soon as it runs. Openers that waited themselves would take the CPU that a
    worker needs to begin again. Runs on the driver; what still waits ends with it.
    """

    def __init__(self, kinds: Sequence[NodeKind]) -> None:
        self._kinds = [kind for kind in kinds if not kind.gpus]
        self._waiting: list[tuple[Any, Any]] = []
        self._is_made = False

    def make(self) -> None:
        """Once, whatever comes of it."""
        if self._is_made or not self._kinds:
            return
        self._is_made = True
        for machine in still_to_come(self._kinds, there=machines()):
            actor: Any = ray.remote(_Arrival).options(num_cpus=machine.cpus).remote()
            self._waiting.append((actor, actor.there.remote()))

    def look(self) -> None:
        """Let those go whose nodes have come."""
        if self._waiting:
            come, _ = ray.wait([answer for _, answer in self._waiting], num_returns=len(self._waiting), timeout=0)
            self._waiting = [pair for pair in self._waiting if pair[1] not in come]


class _Arrival:
    """The actor."""

    def there(self) -> None:
        """Answers when it runs."""
