"""The machines that a run may use: those that are there, and those that a cluster may still add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from batchtag.config.job import NodeKind


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One node, as Ray counts it."""

    cpus: float
    gpus: float


def still_to_come(kinds: Iterable[NodeKind], *, there: Iterable[Machine]) -> list[Machine]:
    """The nodes that may still be added: of each kind, as many as there may be, less those that are there."""
    alive = Counter(there)
    missing = []
    for kind in kinds:
        machine = Machine(cpus=kind.cpus, gpus=kind.gpus)
        found = min(kind.nodes, alive[machine])
        alive[machine] -= found
        missing += [machine] * (kind.nodes - found)
    return missing
