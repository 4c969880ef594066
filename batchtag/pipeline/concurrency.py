"""What the two bundles of one worker share: the device, and the rule that an isolated bundle runs alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class DeviceSlots:
    """Permits for batches on the device: one on a GPU, two where a model predicts several images side by side.

    The last images of a batch leave cores idle, which the next batch of the other bundle uses: mobilenet_v3_large on
    two cores, 68 images/s with one batch at a time and 75 with two.
    """

    def __init__(self, *, num_batches: int) -> None:
        self._permits = threading.Semaphore(num_batches)
        self._lock = threading.Lock()
        self._num_inside = 0
        self._since = 0.0
        self._busy_s = 0.0

    @contextmanager
    def acquire(self) -> Iterator[None]:
        """Hold the device for one batch."""
        with self._permits:
            self._change(1)
            try:
                yield
            finally:
                self._change(-1)

    def busy_s(self) -> float:
        """Return the seconds in which the device had at least one batch, up to now."""
        with self._lock:
            return self._busy_s + (time.monotonic() - self._since if self._num_inside else 0.0)

    def _change(self, step: int) -> None:
        with self._lock:
            now = time.monotonic()
            if self._num_inside:
                self._busy_s += now - self._since
            self._since = now
            self._num_inside += step


class BundleGate:
    """Bundles run side by side, but an isolated one runs alone: a death of the process is then due to that bundle."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_running = 0
        self._is_isolated = False

    @contextmanager
    def enter(self, *, isolated: bool) -> Iterator[None]:
        """Wait until the bundle may run, and hold the gate while it does."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_isolated and not (isolated and self._num_running))
            self._num_running += 1
            self._is_isolated = isolated
        try:
            yield
        finally:
            with self._changed:
                self._num_running -= 1
                self._is_isolated = False
                self._changed.notify_all()
