"""Decode workers as Ray actors: one on each CPU that the model workers leave free, also on nodes without a GPU.

Each model worker has its own few decode workers, and they end with it. They are actors and not tasks: Ray ends a
task's process after a second without work if there are more processes than CPUs, and starting one costs 1.5 s of a
core. With tasks the model was busy for 0.69 of the time where actors give 0.87 (`python -m benchmarks.shapes`, enough
fetches). Each has two chunks in progress, so that one is fetched while the other is decoded. Pixels return through the
object store; on one node nothing is copied. A process whose decoder hangs cannot be repaired: it says so, ends itself
when it gets the next chunk, and Ray restarts it. A decode worker that was late or died gets nothing until it answers
again; one that cannot be started is replaced.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import ray

from batchtag.cluster.nodes import list_machines
from batchtag.pipeline.remote_loader import DecodedChunk, DecodeWorker, DecodeWorkerDied, DecodeWorkerPlan
from batchtag.runs.capacity import decode_workers_per_worker
from batchtag.runs.placement import Placement
from batchtag.types import ImageRef

log = logging.getLogger(__name__)
CHUNKS_PER_WORKER = 2
FETCH_S = 10.0
"""Seconds to wait for a finished chunk that lies on another node."""


class _DecodeActor:
    """One decode worker, and whether it has answered since it last failed to."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.num_in_progress = 0
        self._answer: Any = actor.ready.remote()

    def is_ready(self) -> bool:
        """Return whether it answers. Raises DecodeWorkerDied if it never will."""
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            try:
                ray.get(self._answer)
            except ray.exceptions.RayError as error:
                raise DecodeWorkerDied(str(error)) from error
            self._answer = None
        return self._answer is None

    def ask_again(self) -> None:
        """Ask whether it is ready, because a chunk did not return; it gets nothing before it answers."""
        if self._answer is None:
            self._answer = self.actor.ready.remote()


class RayDecodePool:
    """The DecodePool of one of a run's workers. The workers share the free CPUs of the nodes that are running now."""

    def __init__(self, plan: DecodeWorkerPlan, placement: Placement) -> None:
        self._plan = plan
        self._placement = placement
        self._max_actors, self._cpus_per_actor = 0, 0.0
        self._actors: list[_DecodeActor] = []
        self._is_starting = False
        self._lock = threading.Lock()

    def slots(self) -> int:
        """Return how many chunks decode workers can have in progress; ends those whose CPU is needed by others."""
        placement = self._placement
        capacity = decode_workers_per_worker(
            list_machines(),
            actors=placement.actors,
            cpus_per_actor=placement.cpus_per_actor,
            gpus_per_actor=placement.gpus_per_actor,
        )
        with self._lock:
            self._max_actors, self._cpus_per_actor = capacity
            del self._actors[self._max_actors :]  # they finish the chunks that they have, and end
            return CHUNKS_PER_WORKER * self._max_actors

    def start(self) -> None:
        """Begin to start decode workers in a thread: Ray takes up to half a second to register each."""
        with self._lock:
            if len(self._actors) < self._max_actors and not self._is_starting:
                threading.Thread(target=self._start_actors, name="decode-pool", daemon=True).start()
                self._is_starting = True

    def submit(self, refs: list[ImageRef]) -> _RayDecodeTask | None:
        """Send a chunk to the decode worker with the fewest chunks; None if none is ready."""
        self.start()
        with self._lock:
            ready = self._list_ready()
            if not ready:
                return None
            decode_actor = min(ready, key=lambda ready_actor: ready_actor.num_in_progress)
            decode_actor.num_in_progress += 1
        return _RayDecodeTask(decode_actor, decode_actor.actor.decode_chunk.remote(refs), self._lock)

    def dismiss(self) -> None:
        """End all decode workers."""
        with self._lock:
            self._max_actors = 0
            self._actors.clear()

    def _list_ready(self) -> list[_DecodeActor]:
        """Return the decode workers that can take a chunk; drop those that could not be started."""
        ready = []
        for decode_actor in list(self._actors):
            try:
                if decode_actor.is_ready():
                    ready.append(decode_actor)
            except DecodeWorkerDied as error:
                log.warning("a decode worker could not be started: %s", error)
                self._actors.remove(decode_actor)
        return ready

    def _start_actors(self) -> None:
        try:
            while cpus := self._cpus_of_next():
                actor = ray.remote(DecodeWorker).options(
                    num_cpus=cpus, max_restarts=-1, max_task_retries=0, max_concurrency=CHUNKS_PER_WORKER
                )
                decode_actor = _DecodeActor(actor.remote(self._plan))
                with self._lock:
                    if len(self._actors) < self._max_actors:
                        self._actors.append(decode_actor)
        except Exception as error:  # the end of a thread: the running ones must suffice until the next bundle asks
            log.warning("decode workers could not be started: %s: %s", type(error).__name__, error)
            with self._lock:
                self._max_actors = 0
        finally:
            with self._lock:
                self._is_starting = False

    def _cpus_of_next(self) -> float:
        """Return the CPUs of the next decode worker; 0 if no further one fits."""
        with self._lock:
            return self._cpus_per_actor if len(self._actors) < self._max_actors else 0.0


class _RayDecodeTask:
    """A chunk that a decode worker has."""

    def __init__(self, decode_actor: _DecodeActor, answer: Any, lock: threading.Lock) -> None:
        self._decode_actor, self._answer, self._lock = decode_actor, answer, lock

    def result(self, timeout: float | None = None) -> DecodedChunk:
        """Return the chunk. Raises TimeoutError or DecodeWorkerDied."""
        # A chunk on another node is not fetched before it is finished: a get that times out would fetch it in vain.
        if not ray.wait([self._answer], timeout=timeout, fetch_local=False)[0]:
            raise TimeoutError
        try:
            chunk: DecodedChunk | str = ray.get(self._answer, timeout=FETCH_S)
        except ray.exceptions.GetTimeoutError as error:
            raise TimeoutError from error
        except ray.exceptions.RayError as error:
            self._return_slot(ask_again=True)
            raise DecodeWorkerDied(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
        self._return_slot(ask_again=False)
        if isinstance(chunk, str):
            raise DecodeWorkerDied(chunk)
        return chunk

    def cancel(self) -> None:
        """Give the chunk up; the decode worker must answer before it gets another."""
        self._return_slot(ask_again=True)
        ray.cancel(self._answer)

    def _return_slot(self, *, ask_again: bool) -> None:
        with self._lock:
            self._decode_actor.num_in_progress -= 1
            if ask_again:
                self._decode_actor.ask_again()
