"""The machines that a run may use: those present, and those that a cluster may still add. Pure arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from batchtag.config.job import NodeKind


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One node with the resources that Ray counts for it."""

    cpus: float
    gpus: float


def list_missing_machines(kinds: Iterable[NodeKind], *, present: Iterable[Machine]) -> list[Machine]:
    """Return the nodes that a cluster may still add: of each kind its limit, less the nodes of it already present."""
    unmatched = Counter(present)
    missing: list[Machine] = []
    for kind in kinds:
        machine = Machine(cpus=kind.cpus, gpus=kind.gpus)
        num_present = min(kind.nodes, unmatched[machine])
        unmatched[machine] -= num_present
        missing += [machine] * (kind.nodes - num_present)
    return missing
