"""How many actors of which size fit on the machines of a cluster. Pure arithmetic on CPUs and GPUs; starts nothing.

An actor runs on one machine, so what counts is how many fit on each, not the sum of the CPUs: on four nodes of 4 CPUs,
an actor of 15 CPUs would wait for ever. Actors never take all CPUs: Ray Data needs one for its own tasks, and with
none left it waits for ever without a message (ray #44687).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from batchtag.cluster.machines import Machine

_EPSILON = 1e-9
"""Added before rounding down, because 0.9 / 0.3 is 2.9999999999999996."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Actors of one size that fit on the machines `usable`; `actors` is 0 if none do."""

    actors: int
    cpus_per_actor: float
    usable: Sequence[Machine]

    @property
    def cpus(self) -> float:
        """CPUs of all actors together."""
        return self.actors * self.cpus_per_actor


def find_fit(
    wanted: int | Literal["auto"],
    cpus_per_actor: float | Literal["auto"],
    usable_options: Sequence[Sequence[Machine]],
    *,
    gpus_per_actor: float,
    max_cpus: float,
) -> Fit:
    """Return the fit that uses most CPUs, over the options of `usable_machines`.

    `wanted` actors ("auto": as many as fit) of `cpus_per_actor` ("auto": the largest size up to `max_cpus` at which
    they fit, in tenths of a CPU).
    """
    fits = [
        _fit_on(wanted, cpus_per_actor, usable, gpus_per_actor=gpus_per_actor, max_cpus=max_cpus)
        for usable in usable_options
    ]
    return max(fits, key=lambda fit: fit.cpus)


def _fit_on(
    wanted: int | Literal["auto"],
    cpus_per_actor: float | Literal["auto"],
    usable: Sequence[Machine],
    *,
    gpus_per_actor: float,
    max_cpus: float,
) -> Fit:
    largest = min(max_cpus, max(machine.cpus for machine in usable))
    tenths = range(int(10 * largest + _EPSILON), 0, -1)
    sizes = [n / 10 for n in tenths] if cpus_per_actor == "auto" else [float(cpus_per_actor)]
    for size in sizes:
        capacity = sum(actors_on(machine, size, gpus_per_actor) for machine in usable)
        if capacity and (wanted == "auto" or capacity >= wanted):
            return Fit(actors=capacity if wanted == "auto" else wanted, cpus_per_actor=size, usable=usable)
    return Fit(actors=0, cpus_per_actor=0.0, usable=usable)


def actors_on(machine: Machine, cpus_per_actor: float, gpus_per_actor: float) -> int:
    """Return how many actors fit on one machine."""
    by_cpu = int(machine.cpus / cpus_per_actor + _EPSILON)
    return min(by_cpu, actors_on_gpus(machine, gpus_per_actor)) if gpus_per_actor else by_cpu


def actors_on_gpus(machine: Machine, gpus_per_actor: float) -> int:
    """Return how many actors the machine's GPUs can hold. Ray does not put an actor on parts of two GPUs."""
    return int(machine.gpus) * int(1 / gpus_per_actor + _EPSILON)


def usable_machines(hosts: Sequence[Machine], *, has_free_cpu_elsewhere: bool) -> list[list[Machine]]:
    """Return what actors may take of each host, as alternatives: all but one CPU of the largest, or of the smallest.

    All CPUs may be taken if another node has one for Ray Data.
    """
    if has_free_cpu_elsewhere:
        return [list(hosts)]
    whole = [i for i, host in enumerate(hosts) if host.cpus >= 1]
    if not whole:
        return [[Machine(cpus=host.cpus / 2, gpus=host.gpus) for host in hosts]]
    largest, smallest = max(whole, key=lambda i: hosts[i].cpus), min(whole, key=lambda i: hosts[i].cpus)
    least = 0.5 if len(hosts) == 1 else 0.0
    return [
        [
            Machine(cpus=max(host.cpus - 1, least) if i == reduced else host.cpus, gpus=host.gpus)
            for i, host in enumerate(hosts)
        ]
        for reduced in (largest, smallest)
    ]


def cores_per_actor(hosts: Sequence[Machine], fit: Fit, *, gpus_per_actor: float) -> int:
    """Return the cores that each actor's threads may use: its share of the host where cores are scarcest."""
    shares = [
        host.cpus / min(fit.actors, capacity)
        for host, usable in zip(hosts, fit.usable, strict=True)
        if (capacity := actors_on(usable, fit.cpus_per_actor, gpus_per_actor))
    ]
    return max(1, round(min(shares)))


def decode_workers_per_worker(
    machines: Sequence[Machine], *, actors: int, cpus_per_actor: float, gpus_per_actor: float
) -> tuple[int, float]:
    """Return how many decode workers each of `actors` workers may have, and the CPUs of each: one, or a part of one.

    A decode worker runs on one machine, so what counts is what the workers leave free on each. One CPU, on the machine
    with most free ones, is kept for Ray Data. The workers are assumed to fill one machine after another; Ray is not
    asked where they run.
    """
    free, unplaced = [], actors
    for machine in machines:
        placed = min(unplaced, actors_on(machine, cpus_per_actor, gpus_per_actor))
        unplaced -= placed
        free.append(machine.cpus - placed * cpus_per_actor)
    free.sort()
    free[-1] = max(0.0, free[-1] - 1)
    for tenths in range(10, 0, -1):
        count = sum(int(10 * cpus / tenths + _EPSILON) for cpus in free) // actors
        if count:
            return count, tenths / 10
    return 0, 0.0
