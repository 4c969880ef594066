"""The preparation of a run: Ray starts, models are fetched and the index is frozen, all at the same time."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from datetime import UTC, datetime
from typing import Any

from batchtag.cluster.machines import Machine, list_missing_machines
from batchtag.cluster.session import RaySession
from batchtag.config.job import JobSpec, NodeKind
from batchtag.console import format_duration
from batchtag.errors import RunFailed, UsageError
from batchtag.output.index import Index, freeze_index
from batchtag.output.job_identity import job_identity, store_or_check_job, store_thresholds
from batchtag.output.layout import Layout
from batchtag.runs.placement import choose_bundle_size
from batchtag.runs.progress import ProgressDisplay, RunProgress
from batchtag.runs.recorder import RunRecorder
from batchtag.runs.work_plan import prepare_models
from batchtag.sources import open_source
from batchtag.storage import ObjectInfo, Store
from batchtag.types import ModelInfo

RAY_S = 300.0
"""Seconds to wait for Ray. A private Ray that is late is started three times within this time."""


def open_listing(job: JobSpec) -> Iterator[Sequence[ObjectInfo]]:
    """Return the source's pages. The first one is read here, so that an empty source is an error at once."""
    pages = open_source(job.source).pages()
    first = next((page for page in pages if page), None)
    if first is None:
        uris = getattr(job.source, "uris", None) or [getattr(job.source, "uri", "")]
        raise UsageError(
            f"{', '.join(uris)}: no images found. Names that end in an image extension are taken; use "
            "--include '*' (or source.include) if yours have none"
        )
    return itertools.chain([first], pages)


class Preparation:
    """The slow parts of a run's start, each in a thread, and what waits for them. Lives in the driver's main thread."""

    def __init__(
        self,
        job: JobSpec,
        *,
        store: Store,
        layout: Layout,
        display: ProgressDisplay,
        recorder: RunRecorder,
        verbose: bool,
    ) -> None:
        self._job = job
        self._store = store
        self._layout = layout
        self._display = display
        self._recorder = recorder
        decode = job.compute.decode
        may_carry_pixels = decode == "separate" or (decode == "auto" and job.compute.device != "cpu")
        self.ray = RaySession(address=job.compute.address, verbose=verbose, carries_pixels=may_carry_pixels)
        self._model_infos: Future[tuple[ModelInfo, ...]] = Future()

    def start(self, *, with_ray: bool) -> None:
        """Begin to start Ray, if it is needed, and to fetch the models."""
        if with_ray:
            self.ray.start()
        threading.Thread(target=self._prepare_models, name="prepare", daemon=True).start()

    def _prepare_models(self) -> None:
        began = time.monotonic()
        try:
            model_infos = prepare_models(self._job)
            self._recorder.set_phase_s("models", began)
            self._model_infos.set_result(model_infos)
        except BaseException as error:
            self._model_infos.set_exception(error)

    def model_infos(self) -> tuple[ModelInfo, ...]:
        """Return the facts of every model, once its weights are fetched and checked. Raises what that raised."""
        if not self._model_infos.done():
            self.wait("checking models", self._model_infos)
        return self._model_infos.result()

    def check_job(self) -> None:
        """Raise OutputError if OUT belongs to another job; else store the job and the models' thresholds in OUT."""
        model_infos = self.model_infos()
        identity = job_identity(self._job, model_infos)
        store_or_check_job(identity, spec=self._job, store=self._store, layout=self._layout)
        store_thresholds(model_infos, store=self._store, layout=self._layout)

    def freeze_index(self, pages: Iterator[Sequence[ObjectInfo]]) -> Index:
        """List the source and freeze the index of OUT. Raises at once what the models or Ray raise meanwhile."""
        began = time.monotonic()

        def show_listed(num_images: int) -> None:
            phase = f"listing: {num_images:,} images"
            self._display.show(RunProgress(phase=phase))
            self._recorder.write_if_due(phase=phase)
            for task in (self._model_infos, self.ray.ready):
                if task.done():
                    task.result()  # an error in one of these threads ends the run at once

        def bundle_size(num_images: int) -> int:
            nonlocal began
            paused = time.monotonic()
            self.wait(f"{num_images:,} images listed; checking models", self._model_infos)
            self.check_job()
            self.wait_for_ray()
            began += time.monotonic() - paused
            machines, kinds = self.list_machines()
            return choose_bundle_size(
                num_images,
                compute=self._job.compute,
                model_infos=self._model_infos.result(),
                machines=machines,
                may_come=list_missing_machines(kinds, present=machines),
            )

        index = freeze_index(
            pages,
            store=self._store,
            layout=self._layout,
            bundle_size=bundle_size,
            limit=self._job.source.limit,
            listed_at=datetime.now(UTC),
            on_listed=show_listed,
        )
        self._recorder.set_phase_s("listing", began)
        return index

    def list_machines(self) -> tuple[list[Machine], list[NodeKind]]:
        """Return the machines that are running, and the kinds of nodes that the cluster may add."""
        from batchtag.cluster.nodes import find_node_kinds, list_machines

        return list_machines(), find_node_kinds(self._job.compute, is_joined=self.ray.is_joined)

    def wait_for_ray(self) -> None:
        """Raise RunFailed if Ray is not ready in time. Ray itself waits for ever for a head that does not answer."""
        self.wait("starting Ray", self.ray.ready, at_most_s=RAY_S)
        if not self.ray.ready.done():
            reason = f"see {self.ray.logs}"
            if self.ray.is_joined:
                reason = "the head accepts connections and does not answer; it may be overloaded, or not a Ray head"
            raise RunFailed(f"Ray is not ready after {format_duration(RAY_S)}: {reason}")

    def wait(self, phase: str, task: Future[Any] | None = None, *, at_most_s: float = math.inf) -> None:
        """Show the phase until `task`, which runs in a thread, is done, or for at most `at_most_s`; raise its error."""
        deadline = time.monotonic() + at_most_s
        while True:
            self._display.show(RunProgress(phase=phase))
            self._recorder.write_if_due(phase=phase)
            remaining_s = min(1.0, deadline - time.monotonic())
            if task is None or remaining_s <= 0 or wait_for([task], timeout=remaining_s).done:
                break
        if task is not None and task.done():
            task.result()
