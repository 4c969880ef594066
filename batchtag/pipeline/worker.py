"""One worker: takes a bundle, streams its images through fetch, decode and every model, and commits its part.

Knows nothing of Ray, so the line is tested without it; `pipeline` makes it an actor. Two bundles may run at once in
one worker, so that one opens images or writes its part while the other computes; the models take one batch at a time, or
two where images are looked at side by side.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn, Protocol

from batchtag import models
from batchtag.config.job import Decode
from batchtag.config.model import ModelSpec
from batchtag.errors import Code, ModelError, RunFailed, StorageError
from batchtag.models.acceleration.runtime import Runtime
from batchtag.output.index import read_bundle
from batchtag.output.layout import Layout
from batchtag.output.lease import check_lease
from batchtag.output.schemas import num_tags
from batchtag.output.types import Bundle, Commit
from batchtag.output.writer import PartWriter
from batchtag.pipeline.inference import DeviceLost, look
from batchtag.pipeline.loader import DecoderHung, ImageLoader, LoadedImage, LoadPlan
from batchtag.pipeline.remote_loader import DecodePool, Measured, RemoteLoader, pays
from batchtag.pipeline.stats import RunStats, WorkerHeartbeat, copy_of
from batchtag.pipeline.supervisor import NOWHERE, Attempt
from batchtag.storage import open_store, warm_up
from batchtag.types import Failure, ImageResult, ModelInfo, Stage

log = logging.getLogger(__name__)
BEAT_S = 1.0
KEPT_IN_FLIGHT = 4
"""Bundles whose figures a worker still tells: the two it has, and two whose commits may not have reached the driver."""


@dataclass(frozen=True, kw_only=True)
class WorkPlan:
    """All that a worker must know of its run. Travels to the workers by pickle and is stored nowhere."""

    run_id: str
    out: str
    out_options: dict[str, Any] = field(default_factory=dict, repr=False)
    source_options: dict[str, Any] = field(default_factory=dict, repr=False)
    models: tuple[ModelSpec, ...]
    infos: tuple[ModelInfo, ...]
    stream: LoadPlan
    runtime: Runtime
    decode: Decode = "with_models"
    source: str = ""
    """One URI of the source, to have its store ready when the models are."""


class SupervisorClient(Protocol):
    """How a worker talks to the run's monitor; `monitor.Monitor` says what each call means."""

    def start(self, bundle: str) -> Attempt: ...

    def needs_care(self, bundle: str) -> None: ...

    def at(self, bundle: str, position: int) -> None: ...

    def done(self, bundle: str) -> None: ...

    def beat(self, worker: str, figures: WorkerHeartbeat) -> None: ...


class Worker:
    """Runs in the GPU actor, or in any process. `tag` may be called from two threads at once."""

    def __init__(self, plan: WorkPlan, monitor: SupervisorClient, *, openers: DecodePool | None = None) -> None:
        """Loads every model; raises ModelError when one cannot be had. Without `openers` it opens all images itself."""
        self.name = uuid.uuid4().hex[:12]
        self._plan = plan
        self._monitor = monitor
        self._layout = Layout(plan.out)
        self._out = open_store(plan.out, plan.out_options)
        self._writer = PartWriter(
            store=self._out,
            layout=self._layout,
            run_id=plan.run_id,
            may_write=lambda: check_lease(self._layout.lease, store=self._out, run_id=plan.run_id),
        )
        self._stream = ImageLoader(plan.stream, store_for=lambda uri: open_store(uri, plan.source_options))
        self._elsewhere = RemoteLoader(plan.stream, openers, here=self._stream) if openers else None
        self._slots = 0
        self._warming = threading.Thread(target=_warm_up, args=(plan.source, plan.source_options), daemon=True)
        self._warming.start()
        self._models = _load_models(plan)
        self._device = _Device(batches=2 if plan.runtime.has_lanes else 1)
        self._room = _Room()
        self._counters = RunStats()
        self._in_flight: dict[str, RunStats] = {}
        self._doing: dict[str, str] = {}
        self._ahead: dict[str, list[ImageResult]] = {}
        """By bundle, what the device has not got yet, opened or not."""
        self._counting = threading.Lock()
        self._born = time.monotonic()
        self._first_bundle_at: float | None = None
        threading.Thread(target=self._beat_for_ever, name="beat", daemon=True).start()

    def tag(self, bundle: Bundle) -> Commit:
        """Commit this bundle, unless it is already. Raises StorageError, LeaseLost or RunFailed: faults of the run."""
        order = self._monitor.start(bundle.id)
        if (commit := self._writer.committed(bundle)) is not None:
            self._monitor.done(bundle.id)
            return commit
        if order.hopeless:
            raise RunFailed(f"{order.hopeless}. Tag its images, positions {bundle.id}, apart to find the cause")
        try:
            self._doing[bundle.id] = "waits with"
            with self._room.entered(alone=order.careful):
                commit = self._tag(bundle, order)
        finally:
            self._doing.pop(bundle.id, None)
            self._ahead.pop(bundle.id, None)
        self._monitor.done(bundle.id)
        self.beat()
        return commit

    def _tag(self, bundle: Bundle, order: Attempt) -> Commit:
        outcomes = [ImageResult.of(ref) for ref in read_bundle(bundle, store=self._out, layout=self._layout)]
        done = self._begin_counting(bundle)
        counted = 0
        self._ahead[bundle.id] = outcomes
        self._doing[bundle.id] = "opens images of"
        self._warming.join()  # a second, which all fetches at once, and openers that start, would make three
        self._decide_who_opens()
        for batch in self._batches(bundle, outcomes, order):
            upto = batch[-1].outcome.ref.position - bundle.first + 1
            self._look(bundle, batch, ahead=outcomes[upto:])
            self._count(num_batches=1)
            self._count_images(outcomes[counted:upto], done)
            counted = upto
            self._doing[bundle.id] = "opens images of"
            del batch  # or its pixels would stay while the next ones gather
        self._count_images(outcomes[counted:], done)
        if order.careful:
            self._monitor.at(bundle.id, NOWHERE)
        self._doing[bundle.id] = "writes"
        started = time.monotonic()
        commit = self._writer.write(bundle, outcomes, tagged_at=datetime.now(UTC))
        self._count(write_s=time.monotonic() - started)
        return commit

    def _batches(self, bundle: Bundle, outcomes: list[ImageResult], order: Attempt) -> Iterator[list[LoadedImage]]:
        if not order.careful:
            try:
                if self._slots and self._elsewhere:
                    yield from self._elsewhere.batches(outcomes)
                else:
                    yield from self._stream.batches(outcomes)
            except DecoderHung:
                self._die(bundle, f"an image of bundle {bundle.id} keeps the decoder")
            return
        for outcome in outcomes:
            if outcome.ref.position in order.give_up:
                message = "the worker died of this image twice; it was decoded in a child, so a model killed it"
                outcome.failure = Failure(stage=Stage.PREDICT, code=Code.CRASHED, message=message, attempts=2)
        alive = [outcome for outcome in outcomes if outcome.failure is None]
        yield from self._stream.one_by_one(alive, announce=lambda position: self._monitor.at(bundle.id, position))

    def _decide_who_opens(self) -> None:
        """At the beginning of a bundle: openers elsewhere, as many as there are now, or this worker's own threads."""
        now = time.monotonic()
        self._first_bundle_at = self._first_bundle_at or now
        if self._elsewhere is None:
            return
        if self._plan.decode == "auto" and self._elsewhere.is_no_help:
            self._elsewhere.dismiss()
            self._slots = 0
            return
        slots = self._elsewhere.slots()
        if self._plan.decode == "auto" and not self._slots:
            with self._counting:
                counters = copy_of(self._counters)
            times = self._stream.times()
            so_far = Measured(
                num_images=counters.num_images,
                seconds=now - self._first_bundle_at,
                fetch_s=times.fetch_s,
                decode_s=times.decode_s,
                predict_s=self._device.busy_s(),
            )
            slots = slots if pays(so_far, self._plan.stream, slots=slots) else 0
        self._slots = slots

    def _look(self, bundle: Bundle, batch: list[LoadedImage], *, ahead: list[ImageResult]) -> None:
        @contextmanager
        def device() -> Iterator[None]:
            with self._device.taken():
                self._ahead[bundle.id] = ahead
                self._doing[bundle.id] = "looks at images of"
                try:
                    yield
                except DeviceLost as error:
                    self._die(bundle, f"the device is lost: {error}")

        look(batch, self._models, hold=device)

    def _die(self, bundle: Bundle, why: str) -> NoReturn:
        """End this process: a stuck thread or a broken device is not mended from inside. The next start is careful."""
        log.error("worker %s ends itself: %s", self.name, why)
        try:
            self._monitor.needs_care(bundle.id)
        finally:
            os._exit(1)

    def _begin_counting(self, bundle: Bundle) -> RunStats:
        with self._counting:
            self._in_flight.pop(bundle.id, None)
            self._in_flight[bundle.id] = done = RunStats()
            while len(self._in_flight) > KEPT_IN_FLIGHT:
                del self._in_flight[next(iter(self._in_flight))]
        return done

    def _count_images(self, outcomes: list[ImageResult], done: RunStats) -> None:
        with self._counting:
            for outcome in outcomes:
                for counters in (self._counters, done):
                    counters.num_images += 1
                    counters.num_tags += num_tags(outcome)
                    if outcome.failure is not None:
                        counters.failed(str(outcome.failure.code), outcome.ref.uri)

    def _count(self, *, num_batches: int = 0, write_s: float = 0.0) -> None:
        with self._counting:
            self._counters.num_batches += num_batches
            self._counters.write_s += write_s

    def beat(self) -> None:
        """Tell the monitor the figures so far."""
        times = self._stream.times()
        if self._elsewhere is not None:
            times = times.plus(self._elsewhere.times())
        with self._counting:
            counters = copy_of(self._counters)
            in_flight = {bundle: copy_of(done) for bundle, done in self._in_flight.items()}
        counters.fetch_s, counters.decode_s, counters.fetched_bytes = (
            times.fetch_s,
            times.decode_s,
            times.fetched_bytes,
        )
        counters.predict_s = self._device.busy_s()
        num_openers = self._slots // 2
        counters.num_elsewhere = self._elsewhere.num_images if self._elsewhere else 0
        figures = WorkerHeartbeat(
            counters=counters,
            alive_s=time.monotonic() - self._born,
            decode_threads=num_openers or self._plan.stream.decode_threads,
            fetches=max(1, num_openers) * self._plan.stream.fetches,
            openers=num_openers,
            num_waiting=sum(outcome.width > 0 for ahead in list(self._ahead.values()) for outcome in ahead),
            doing=dict(self._doing),
            in_flight=in_flight,
        )
        self._monitor.beat(self.name, figures)

    def _beat_for_ever(self) -> None:
        while True:
            time.sleep(BEAT_S)
            self.beat()


def _warm_up(uri: str, options: dict[str, Any]) -> None:
    """Beside the loading of the models. Trouble is the first read's to tell."""
    with suppress(StorageError):
        if uri:
            warm_up(uri, options)


def _load_models(plan: WorkPlan) -> list[tuple[ModelInfo, models.Model]]:
    loaded = []
    for spec, info in zip(plan.models, plan.infos, strict=True):
        model = models.load(spec, runtime=plan.runtime)
        if model.info.digest != info.digest:
            raise ModelError(
                f"{info.name} has digest {model.info.digest} on this worker and {info.digest} where the run began; "
                "the same versions of torchvision and of the weights must be everywhere"
            )
        loaded.append((info, model))
    return loaded


class _Device:
    """Where batches are looked at: one at a time on a GPU, two where images are looked at side by side.

    The last images of a batch leave cores idle, which the next batch of the other bundle takes: mobilenet_v3_large on
    two cores, 68 images/s with one batch at a time and 75 with two.
    """

    def __init__(self, *, batches: int) -> None:
        self._free = threading.Semaphore(batches)
        self._changing = threading.Lock()
        self._inside = 0
        self._since = 0.0
        self._busy_s = 0.0

    @contextmanager
    def taken(self) -> Iterator[None]:
        with self._free:
            self._move(1)
            try:
                yield
            finally:
                self._move(-1)

    def busy_s(self) -> float:
        """Seconds in which there was a batch, or two, up to now."""
        with self._changing:
            return self._busy_s + (time.monotonic() - self._since if self._inside else 0.0)

    def _move(self, step: int) -> None:
        with self._changing:
            now = time.monotonic()
            if self._inside:
                self._busy_s += now - self._since
            self._since = now
            self._inside += step


class _Room:
    """Bundles share the room, but one that must be careful is alone in it: what dies in there died of it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._somebody_alone = False

    @contextmanager
    def entered(self, *, alone: bool) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._somebody_alone and not (alone and self._inside))
            self._inside += 1
            self._somebody_alone = alone
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._somebody_alone = False
                self._changed.notify_all()
