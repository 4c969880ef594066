"""The supervisor: what a run remembers of its workers, so that an image that kills them is found.

It counts the starts of each bundle, keeps the image that an isolated worker had announced when it died, and the last
heartbeat of every worker. One object per run, a plain class; `runs.ray_data` makes it a small Ray actor on the driver's
node. Two deaths of one bundle are taken for bad luck (a spot node, the out-of-memory killer), and the bundle is simply
restarted. From the third start on it is isolated: one image at a time, each announced first, so that a death names an
image. An image that two deaths name is blocklisted and becomes `crashed`. So no bundle is restarted for ever, and an
isolated bundle costs about a millisecond per image.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

from batchtag.pipeline.stats import WorkerHeartbeat

ISOLATED_FROM_START = 3
DEATHS_TO_BLOCKLIST = 2
MAX_UNEXPLAINED_STARTS = 20
"""A bundle that started more often although no image was named kills workers in another way; the run fails and says
so."""
NO_IMAGE = -1
"""Announced when an isolated worker has finished its last image: no image is the cause of a later death."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """How a worker must process a bundle. `blocklisted` are positions of images that killed workers.

    `fatal` is not empty if the run must fail; it says why.
    """

    isolated: bool
    blocklisted: frozenset[int] = frozenset()
    fatal: str = ""


class Supervisor:
    """The memory of one run beside its workers. Every method is quick; none blocks."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heartbeat_at: dict[str, float] = {}
        self._starts: Counter[str] = Counter()
        self._isolated: set[str] = set()
        self._announced: dict[str, int] = {}
        self._deaths: dict[str, Counter[int]] = defaultdict(Counter)
        self._workers: dict[str, WorkerHeartbeat] = {}

    def start_bundle(self, bundle: str) -> Attempt:
        """Return how to process this bundle. An image that is still announced is what its last worker died of."""
        self._starts[bundle] += 1
        for heartbeat in self._workers.values():
            heartbeat.in_flight.pop(bundle, None)  # what a dead worker had counted of it is counted again
        died_at = self._announced.pop(bundle, None)
        if died_at is not None:
            self._deaths[bundle][died_at] += 1
        deaths = self._deaths[bundle]
        unexplained = self._starts[bundle] - sum(deaths.values())
        fatal = ""
        if unexplained > MAX_UNEXPLAINED_STARTS:
            fatal = f"bundle {bundle} was started {self._starts[bundle]} times and its worker died each time"
        return Attempt(
            isolated=self._starts[bundle] >= ISOLATED_FROM_START or bundle in self._isolated,
            blocklisted=frozenset(position for position, n in deaths.items() if n >= DEATHS_TO_BLOCKLIST),
            fatal=fatal,
        )

    def isolate_bundle(self, bundle: str) -> None:
        """Make the next start of this bundle isolated, because one of its images hung."""
        self._isolated.add(bundle)

    def announce_image(self, bundle: str, position: int) -> None:
        """Remember the image that an isolated worker is about to process, or that it processes none (NO_IMAGE)."""
        if position == NO_IMAGE:
            self._announced.pop(bundle, None)
        else:
            self._announced[bundle] = position

    def finish_bundle(self, bundle: str) -> None:
        """Forget a bundle that is committed."""
        self._starts.pop(bundle, None)
        self._isolated.discard(bundle)
        self._announced.pop(bundle, None)
        self._deaths.pop(bundle, None)

    def record_heartbeat(self, worker: str, heartbeat: WorkerHeartbeat) -> None:
        """Keep a worker's heartbeat. A restarted worker has a new name, so what the dead one did is kept."""
        self._workers[worker] = heartbeat
        self._heartbeat_at[worker] = self._clock()

    def snapshot(self) -> dict[str, WorkerHeartbeat]:
        """Return the last heartbeat of every worker, also of dead ones, by worker name."""
        now = self._clock()
        return {
            name: replace(heartbeat, age_s=now - self._heartbeat_at[name]) for name, heartbeat in self._workers.items()
        }
