"""What one worker is doing at the moment and has counted so far, for its heartbeats."""

from __future__ import annotations

import threading

from batchtag.pipeline.stats import RunStats
from batchtag.types import ImageResult

MAX_IN_FLIGHT = 4
"""Bundles whose statistics are in a heartbeat: the two in progress, and two whose commits may not have reached the
driver."""


class WorkerActivity:
    """What a worker is doing and has counted, by bundle. Safe to use from its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stats = RunStats()
        self._in_flight: dict[str, RunStats] = {}
        self._doing: dict[str, tuple[str, int]] = {}

    def begin_bundle(self, bundle: str) -> None:
        """Count the images of this bundle from zero, and forget the oldest bundle beyond MAX_IN_FLIGHT."""
        with self._lock:
            self._doing[bundle] = "loading", 0
            self._in_flight.pop(bundle, None)
            self._in_flight[bundle] = RunStats()
            while len(self._in_flight) > MAX_IN_FLIGHT:
                del self._in_flight[next(iter(self._in_flight))]

    def set_activity(self, bundle: str, activity: str, *, num_waiting: int = 0) -> None:
        """Note what is done with a bundle, and how many of its decoded images wait for the device."""
        with self._lock:
            self._doing[bundle] = activity, num_waiting

    def clear_activity(self, bundle: str) -> None:
        """Forget what was done with a bundle; its counts stay."""
        with self._lock:
            self._doing.pop(bundle, None)

    def count_results(self, bundle: str, results: list[ImageResult], *, is_batch: bool) -> None:
        """Count results; `is_batch` if the models had anything to do."""
        with self._lock:
            self._stats.num_batches += is_batch
            for result in results:
                self._stats.add_result(result)
                if bundle in self._in_flight:
                    self._in_flight[bundle].add_result(result)

    def count_write(self, write_s: float) -> None:
        """Add the seconds of writing one part."""
        with self._lock:
            self._stats.write_s += write_s

    def stats(self) -> RunStats:
        """Return the sums over all bundles."""
        with self._lock:
            return self._stats.copy()

    def in_flight(self) -> dict[str, RunStats]:
        """Return the sums of the last few bundles."""
        with self._lock:
            return {bundle: stats.copy() for bundle, stats in self._in_flight.items()}

    def by_bundle(self) -> dict[str, str]:
        """Return the activity of each bundle in progress."""
        with self._lock:
            return {bundle: activity for bundle, (activity, _) in self._doing.items()}

    def num_waiting(self) -> int:
        """Return the images of batches that wait for the device."""
        with self._lock:
            return sum(num_waiting for _, num_waiting in self._doing.values())
