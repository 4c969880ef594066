"""Openers as Ray actors: one on each CPU that the workers leave free, on nodes without a GPU too.

Each worker has its own few, and they end with it. Actors and not tasks: Ray ends a task's process after a second
without work where there are more processes than CPUs, and starting one costs 1.5 s of a core; with tasks the model was
0.69 busy where actors give 0.87 (`python -m benchmarks.shapes`, enough fetches). Each has two chunks in hand, so one is
fetched while the other is decoded. Pixels come back through the object store; on one node nothing is copied. A process
whose decoder hangs cannot be mended: it tells, and ends itself when it is given the next chunk; Ray starts it again.
An opener that came late or died is passed over until it answers again, and one that cannot be started is replaced.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import ray

from batchtag.cluster.nodes import machines
from batchtag.pipeline.remote_loader import DecodedChunk, DecodeWorker, DecodeWorkerDied, DecodeWorkerPlan
from batchtag.runs.placement import Placement, decode_workers_per_worker
from batchtag.types import ImageResult

log = logging.getLogger(__name__)
IN_HAND = 2
FETCH_S = 10.0
"""For a chunk that is ready to come from another node."""


class _Employed:
    """One opener, and whether it has answered since it was last waited for in vain."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.in_hand = 0
        self._answer: Any = actor.ready.remote()

    def is_ready(self) -> bool:
        """Raises DecodeWorkerDied if it will never be."""
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            try:
                ray.get(self._answer)
            except ray.exceptions.RayError as error:
                raise DecodeWorkerDied(str(error)) from error
            self._answer = None
        return self._answer is None

    def is_doubtful(self) -> None:
        """It did not answer: nothing goes to it before it does."""
        if self._answer is None:
            self._answer = self.actor.ready.remote()


class RayDecodePool:
    """The `Openers` of one of a run's workers, who share what they leave of the nodes that are there now.

    Safe to use from two threads.
    """

    def __init__(self, plan: DecodeWorkerPlan, placement: Placement) -> None:
        self._plan = plan
        self._placement = placement
        self._count, self._cpus = 0, 0.0
        self._employed: list[_Employed] = []
        self._is_hiring = False
        self._lock = threading.Lock()

    def slots(self) -> int:
        place = self._placement
        room = decode_workers_per_worker(
            machines(),
            actors=place.actors,
            cpus_per_actor=place.cpus_per_actor,
            gpus_per_actor=place.gpus_per_actor,
        )
        with self._lock:
            self._count, self._cpus = room
            del self._employed[self._count :]  # they do what they have in hand, and end
            return IN_HAND * self._count

    def start(self) -> None:
        with self._lock:
            if len(self._employed) < self._count and not self._is_hiring:
                threading.Thread(target=self._hire, name="hire", daemon=True).start()
                self._is_hiring = True

    def open(self, outcomes: list[ImageResult]) -> _Handle | None:
        self.start()
        with self._lock:
            ready = self._ready()
            if not ready:
                return None
            opener = min(ready, key=lambda one: one.in_hand)
            opener.in_hand += 1
        return _Handle(opener, opener.actor.open.remote(outcomes), self._lock)

    def dismiss(self) -> None:
        with self._lock:
            self._count = 0
            self._employed.clear()

    def _ready(self) -> list[_Employed]:
        """Those that can be given something."""
        ready = []
        for opener in list(self._employed):
            try:
                if opener.is_ready():
                    ready.append(opener)
            except DecodeWorkerDied as error:
                log.warning("an opener could not be started: %s", error)
                self._employed.remove(opener)
        return ready

    def _hire(self) -> None:
        """In a thread: Ray takes up to half a second to note that there shall be an actor, and bundles go on."""
        try:
            while cpus := self._cpus_of_another():
                actor = ray.remote(DecodeWorker).options(
                    num_cpus=cpus, max_restarts=-1, max_task_retries=0, max_concurrency=IN_HAND
                )
                opener = _Employed(actor.remote(self._plan))
                with self._lock:
                    if len(self._employed) < self._count:
                        self._employed.append(opener)
        except Exception as error:  # a thread's end: those that there are must do until the next bundle asks
            log.warning("openers could not be started: %s: %s", type(error).__name__, error)
            with self._lock:
                self._count = 0
        finally:
            with self._lock:
                self._is_hiring = False

    def _cpus_of_another(self) -> float:
        """Nothing if there is no room for one."""
        with self._lock:
            return self._cpus if len(self._employed) < self._count else 0.0


class _Handle:
    def __init__(self, opener: _Employed, answer: Any, lock: threading.Lock) -> None:
        self._opener, self._answer, self._lock = opener, answer, lock

    def result(self, timeout: float | None = None) -> DecodedChunk:
        # What lies on another node is not fetched before it is ready: a get that times out would begin it in vain.
        if not ray.wait([self._answer], timeout=timeout, fetch_local=False)[0]:
            raise TimeoutError
        try:
            opened: DecodedChunk | str = ray.get(self._answer, timeout=FETCH_S)
        except ray.exceptions.GetTimeoutError as error:
            raise TimeoutError from error
        except ray.exceptions.RayError as error:
            self._returned(doubtful=True)
            raise DecodeWorkerDied(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
        self._returned(doubtful=False)
        if isinstance(opened, str):
            raise DecodeWorkerDied(opened)
        return opened

    def cancel(self) -> None:
        self._returned(doubtful=True)
        ray.cancel(self._answer)

    def _returned(self, *, doubtful: bool) -> None:
        with self._lock:
            self._opener.in_hand -= 1
            if doubtful:
                self._opener.is_doubtful()
