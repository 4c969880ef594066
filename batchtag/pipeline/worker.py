"""One worker: loads the images of a bundle, runs every model of the job on them, and commits the bundle's part.

A worker knows nothing of Ray, so the pipeline is tested without it; `runs.ray_data` makes it an actor. Two bundles may
run in one worker at once, so that one loads images or writes its part while the other computes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
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
from batchtag.output.types import Bundle, Commit
from batchtag.output.writer import PartWriter
from batchtag.pipeline.activity import WorkerActivity
from batchtag.pipeline.concurrency import BundleGate, DeviceSlots
from batchtag.pipeline.inference import DeviceLost, predict_batch
from batchtag.pipeline.loader import DecoderHung, ImageLoader, LoadedImage, LoadPlan
from batchtag.pipeline.remote_loader import DecodePool, RemoteLoader, is_remote_faster
from batchtag.pipeline.stats import RunStats, WorkerHeartbeat
from batchtag.pipeline.supervisor import DEATHS_TO_BLOCKLIST, NO_IMAGE, Attempt
from batchtag.storage import open_store, warm_up
from batchtag.types import Failure, ImageRef, ImageResult, ModelInfo, Stage

log = logging.getLogger(__name__)
HEARTBEAT_S = 1.0
"""Seconds between two heartbeats."""


@dataclass(frozen=True, kw_only=True)
class WorkPlan:
    """Everything that a worker must know of its run. Sent to the workers by pickle and stored nowhere."""

    run_id: str
    out: str
    out_options: dict[str, Any] = field(default_factory=dict, repr=False)
    source_options: dict[str, Any] = field(default_factory=dict, repr=False)
    models: tuple[ModelSpec, ...]
    model_infos: tuple[ModelInfo, ...]
    load: LoadPlan
    runtime: Runtime
    decode: Decode = "with_models"
    source: str = ""
    """One URI of the source; its store is opened while the models load."""


class SupervisorClient(Protocol):
    """How a worker reaches the run's supervisor; `supervisor.Supervisor` says what each call means."""

    def start_bundle(self, bundle: str) -> Attempt: ...

    def isolate_bundle(self, bundle: str) -> None: ...

    def announce_image(self, bundle: str, position: int) -> None: ...

    def finish_bundle(self, bundle: str) -> None: ...

    def record_heartbeat(self, worker: str, heartbeat: WorkerHeartbeat) -> None: ...


class Worker:
    """Runs in the GPU actor, or in any process. `tag` may be called from two threads at once."""

    def __init__(self, plan: WorkPlan, supervisor: SupervisorClient, *, decode_pool: DecodePool | None = None) -> None:
        """Load every model. Raises ModelError if one cannot be loaded.

        Without `decode_pool` the worker decodes all images itself.
        """
        self.name = uuid.uuid4().hex[:12]
        self._plan = plan
        self._supervisor = supervisor
        self._layout = Layout(plan.out)
        self._store = open_store(plan.out, plan.out_options)
        self._writer = PartWriter(
            store=self._store,
            layout=self._layout,
            run_id=plan.run_id,
            check_lease=lambda: check_lease(self._layout.lease, store=self._store, run_id=plan.run_id),
        )
        self._loader = ImageLoader(plan.load, store_for=lambda uri: open_store(uri, plan.source_options))
        self._remote = RemoteLoader(plan.load, decode_pool, local=self._loader) if decode_pool else None
        self._slots = 0
        self._warming = threading.Thread(target=_warm_up, args=(plan.source, plan.source_options), daemon=True)
        self._warming.start()
        self._models = _load_models(plan)
        self._device = DeviceSlots(num_batches=2 if plan.runtime.has_inference_threads else 1)
        self._gate = BundleGate()
        self._activity = WorkerActivity()
        self._started_at = time.monotonic()
        self._first_bundle_at: float | None = None
        threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True).start()

    def tag(self, bundle: Bundle) -> Commit:
        """Tag this bundle and return its commit; a bundle that is committed already is not tagged again.

        Raises StorageError, LeaseLost or RunFailed, which are faults of the run and not of an image.
        """
        # 1. Count the start, before anything of the bundle can kill this process.
        attempt = self._supervisor.start_bundle(bundle.id)
        # 2. A part that exists was written by a worker that died before it could report it.
        if (commit := self._writer.find_commit(bundle)) is not None:
            self._supervisor.finish_bundle(bundle.id)
            return commit
        if attempt.fatal:
            raise RunFailed(f"{attempt.fatal}. Tag its images, positions {bundle.id}, on their own to find the cause")
        # 3. Tag and commit.
        try:
            self._activity.set_activity(bundle.id, "waiting with")
            with self._gate.enter(isolated=attempt.isolated):
                commit = self._tag(bundle, attempt)
        finally:
            self._activity.clear_activity(bundle.id)
        # 4. Only a committed bundle is forgotten.
        self._supervisor.finish_bundle(bundle.id)
        self.send_heartbeat()
        return commit

    def _tag(self, bundle: Bundle, attempt: Attempt) -> Commit:
        refs = read_bundle(bundle, store=self._store, layout=self._layout)
        self._activity.begin_bundle(bundle.id)
        # Importing the store's client takes a second here; all fetches and starting decode workers together take three.
        self._warming.join()
        self._choose_loader()
        results: list[ImageResult] = []
        for batch in self._load(bundle, refs, attempt):
            tagged = self._predict(bundle, batch)
            self._activity.count_results(bundle.id, tagged, is_batch=any(loaded.is_decoded for loaded in batch))
            results += tagged
            del batch  # its pixels must not live while the next batch is filled
        if attempt.isolated:
            self._supervisor.announce_image(bundle.id, NO_IMAGE)
        self._activity.set_activity(bundle.id, "writing")
        started = time.monotonic()
        commit = self._writer.write(bundle, results, tagged_at=datetime.now(UTC))
        self._activity.count_write(time.monotonic() - started)
        return commit

    def _load(self, bundle: Bundle, refs: list[ImageRef], attempt: Attempt) -> Iterator[list[LoadedImage]]:
        """Yield every image of the bundle in order, in batches."""
        if attempt.isolated:
            yield from self._load_isolated(bundle, refs, attempt)
            return
        try:
            yield from self._remote.load(refs) if self._remote and self._slots else self._loader.load(refs)
        except DecoderHung:
            self._die(bundle, f"an image of bundle {bundle.id} hangs the decoder")

    def _load_isolated(self, bundle: Bundle, refs: list[ImageRef], attempt: Attempt) -> Iterator[list[LoadedImage]]:
        """Yield every image of the bundle in order, one at a time; blocklisted ones as failures, without a read."""
        allowed = [ref for ref in refs if ref.position not in attempt.blocklisted]
        message = (
            f"the worker died of this image {DEATHS_TO_BLOCKLIST} times while it ran alone; it was decoded in a child "
            "process, so a model killed the worker"
        )
        crashed = Failure(stage=Stage.PREDICT, code=Code.CRASHED, message=message, attempts=DEATHS_TO_BLOCKLIST)
        loading = self._loader.load_isolated(
            allowed, announce=lambda position: self._supervisor.announce_image(bundle.id, position)
        )
        with closing(loading) as batches:
            for ref in refs:
                yield [LoadedImage.failed(ref, crashed)] if ref.position in attempt.blocklisted else next(batches)

    def _choose_loader(self) -> None:
        """Decide, at the beginning of a bundle, whether decode workers load its images or threads of this worker."""
        now = time.monotonic()
        self._first_bundle_at = self._first_bundle_at or now
        if self._remote is None:
            return
        is_auto = self._plan.decode == "auto"
        if is_auto and self._remote.is_unhelpful:
            self._remote.dismiss()
            self._slots = 0
            return
        slots = self._remote.slots()
        if is_auto and not self._slots:
            elapsed_s = now - self._first_bundle_at
            if not is_remote_faster(self._local_stats(), self._plan.load, elapsed_s=elapsed_s, slots=slots):
                slots = 0
        self._slots = slots

    def _local_stats(self) -> RunStats:
        """Return what this worker did so far without decode workers."""
        stats = self._activity.stats()
        stats.add(self._loader.stats())
        stats.predict_s = self._device.busy_s()
        return stats

    def _predict(self, bundle: Bundle, batch: list[LoadedImage]) -> list[ImageResult]:
        self._activity.set_activity(bundle.id, "loading", num_waiting=sum(loaded.is_decoded for loaded in batch))

        @contextmanager
        def hold_device() -> Iterator[None]:
            with self._device.acquire():
                self._activity.set_activity(bundle.id, "predicting")
                try:
                    yield
                except DeviceLost as error:
                    self._die(bundle, f"the device is lost: {error}")

        results = predict_batch(batch, self._models, hold=hold_device)
        self._activity.set_activity(bundle.id, "loading")
        return results

    def _die(self, bundle: Bundle, reason: str) -> NoReturn:
        """End this process, because a stuck thread or a broken device cannot be repaired from inside.

        The supervisor is informed first, so that the bundle's next start is isolated. The process ends even if that
        fails.
        """
        log.error("worker %s ends itself: %s", self.name, reason)
        try:
            self._supervisor.isolate_bundle(bundle.id)
        finally:
            os._exit(1)

    def send_heartbeat(self) -> None:
        """Send the statistics so far to the supervisor."""
        stats = self._local_stats()
        if self._remote is not None:
            stats.add(self._remote.stats())
        num_decode_workers = self._slots // 2
        heartbeat = WorkerHeartbeat(
            stats=stats,
            alive_s=time.monotonic() - self._started_at,
            decode_threads=num_decode_workers or self._plan.load.decode_threads,
            fetches=max(1, num_decode_workers) * self._plan.load.fetches,
            decode_workers=num_decode_workers,
            num_waiting=self._loader.num_waiting + self._activity.num_waiting(),
            activities=self._activity.by_bundle(),
            in_flight=self._activity.in_flight(),
        )
        self._supervisor.record_heartbeat(self.name, heartbeat)

    def _send_heartbeats(self) -> None:
        while True:
            time.sleep(HEARTBEAT_S)
            self.send_heartbeat()


def _warm_up(uri: str, options: dict[str, Any]) -> None:
    """Open the source's store while the models load. The first read reports an error, if there is one."""
    with suppress(StorageError):
        if uri:
            warm_up(uri, options)


def _load_models(plan: WorkPlan) -> list[tuple[ModelInfo, models.Model]]:
    loaded = []
    for spec, model_info in zip(plan.models, plan.model_infos, strict=True):
        model = models.load(spec, runtime=plan.runtime)
        if model.info.digest != model_info.digest:
            raise ModelError(
                f"{model_info.name} has digest {model.info.digest} on this worker and {model_info.digest} on the "
                "driver; every machine must have the same versions of torchvision and of the weights"
            )
        loaded.append((model_info, model))
    return loaded
