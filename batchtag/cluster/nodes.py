"""The nodes of the cluster that this process has joined: those present, those it may add, and a request to add them.

Runs in the driver. Ray 2.60 does not report what its autoscaler may add: the key that it keeps for this stays empty
outside one vendor's service. So the limits come from the job (`compute.may_grow_to`), or from the file that `ray up`
leaves on the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import yaml

from batchtag.cluster.machines import Machine, list_missing_machines
from batchtag.config.job import ComputeSpec, NodeKind

_BOOTSTRAP_FILE = Path.home() / "ray_bootstrap_config.yaml"
"""The copy of the cluster's configuration that `ray up` writes to the head."""


def list_machines() -> list[Machine]:
    """Return the nodes that are alive now."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        Machine(cpus=node["Resources"].get("CPU", 0.0), gpus=node["Resources"].get("GPU", 0.0))
        for node in nodes
        if node["Alive"]
    ]


def find_node_kinds(spec: ComputeSpec, *, is_joined: bool, bootstrap: Path = _BOOTSTRAP_FILE) -> list[NodeKind]:
    """Return the kinds of nodes that the cluster may add: those of the job, else those of the file of `ray up`.

    A private Ray (`is_joined` is false) adds none.
    """
    if not is_joined:
        return []
    return list(spec.may_grow_to) or _read_bootstrap(bootstrap)


def _read_bootstrap(bootstrap: Path) -> list[NodeKind]:
    """Return the worker kinds in a `ray up` configuration, GPUs first, within its `max_workers`.

    Returns [] where the file is absent or is not such a configuration.
    """
    try:
        config = yaml.safe_load(bootstrap.read_text(encoding="utf-8"))
        kinds = {
            name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]
        }
        num_remaining, node_kinds = int(config["max_workers"]), []
        for kind in sorted(kinds.values(), key=lambda kind: -kind["resources"].get("GPU", 0)):
            num_nodes = min(kind.get("max_workers", num_remaining), num_remaining)
            num_remaining -= num_nodes
            if num_nodes:
                resources = kind["resources"]
                node_kinds.append(NodeKind(nodes=num_nodes, cpus=resources.get("CPU", 0), gpus=resources.get("GPU", 0)))
        return node_kinds
    except (OSError, KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError):
        return []


class NodeRequest:
    """A request for the nodes without GPUs that the cluster may still add; separate decode workers run on them.

    For each such node one waiting actor requests all CPUs of the node, so Ray's autoscaler starts a node. The actor
    fits on no node that has other work, and ends as soon as it runs. Decode workers that waited themselves would take
    the CPU that a restarted model worker needs. Runs in the driver; actors still waiting end with it.
    """

    def __init__(self, kinds: Sequence[NodeKind]) -> None:
        self._kinds = [kind for kind in kinds if not kind.gpus]
        self._waiting: list[tuple[Any, Any]] = []
        self._is_sent = False

    def send(self) -> None:
        """Request the nodes once; later calls do nothing."""
        if self._is_sent or not self._kinds:
            return
        self._is_sent = True
        for machine in list_missing_machines(self._kinds, present=list_machines()):
            actor: Any = ray.remote(_Arrival).options(num_cpus=machine.cpus).remote()
            self._waiting.append((actor, actor.answer.remote()))

    def drop_arrived(self) -> None:
        """Release the actors whose nodes have arrived."""
        if self._waiting:
            answers = [answer for _, answer in self._waiting]
            arrived, _ = ray.wait(answers, num_returns=len(answers), timeout=0)
            self._waiting = [pair for pair in self._waiting if pair[1] not in arrived]


class _Arrival:
    """The actor that waits for one node."""

    def answer(self) -> None:
        """Return when the actor runs, that is, when its node has arrived."""
