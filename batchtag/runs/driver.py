"""One execution of a job, from its spec to its record: the verb `run`.

What is cheap and may be wrong comes first (the source is there, OUT may be used), then everything slow at once (Ray
starts, weights are fetched and checked, the input is listed), then the line. Whatever happens, committed parts stay,
the run leaves a record, and the same command goes on where this one stopped.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from batchtag import models
from batchtag.cluster.machines import Machine, still_to_come
from batchtag.cluster.session import RaySession, quiet_ray
from batchtag.config.job import JobSpec, NodeKind
from batchtag.config.model import CropsOf
from batchtag.config.source import ManifestSource
from batchtag.console import format_duration
from batchtag.decoding.decoder import DecodeRules
from batchtag.errors import (
    BatchtagError,
    Interrupted,
    LeaseLost,
    OutputError,
    RunFailed,
    StorageError,
    TooManyFailures,
    UsageError,
)
from batchtag.models.acceleration.runtime import Runtime
from batchtag.output.index import Index, freeze_index, read_index
from batchtag.output.job_identity import check_or_store, identity, store_thresholds
from batchtag.output.layout import Layout
from batchtag.output.lease import Lease
from batchtag.output.ledger import Totals, bundles_left, committed_parts, remove_debris, totals_of
from batchtag.output.types import Bundle
from batchtag.pipeline.loader import LoadPlan
from batchtag.pipeline.worker import WorkPlan
from batchtag.runs import monitor, placement
from batchtag.runs.preflight import check_places
from batchtag.runs.progress import Progress, RunProgress, as_json
from batchtag.runs.report import RunReport
from batchtag.sources import open_source
from batchtag.storage import open_store
from batchtag.storage.base import ObjectInfo
from batchtag.storage.retry import RetryPolicy
from batchtag.system import ignore_signals, stop_signals
from batchtag.types import InputResolution, ModelInfo

RECORD_EVERY_S = 5.0
RAY_S = 300.0
"""So long Ray is waited for; a private one that is late is started three times in less."""
FOOTERS_AT_END = 2000
"""So many are read before OUT is given back: some seconds on a bucket."""


def run_job(
    spec: JobSpec, *, console: Console, quiet: bool = False, verbose: bool = False, run_id: str = ""
) -> RunReport:
    """Do what is left of this job. Returns the report of a run after which everything is committed.

    `run_id` is what the run is to be called; by default a new name.

    Raises TooManyFailures, Interrupted or another BatchtagError; once OUT was taken, the record of the run is written
    first and the error has it as `report`.
    """
    now = datetime.now(UTC)
    run_id = run_id or f"r-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    report = RunReport(run_id=run_id, out=spec.output.uri, started_at=now.isoformat(timespec="seconds"))
    with quiet_ray(unless=verbose), Progress(console, quiet=quiet) as progress:
        _Run(spec, report, progress, verbose=verbose).do()
    return report


def prepare_models(spec: JobSpec) -> tuple[ModelInfo, ...]:
    """The card of each model of the job, weights fetched and checked. Raises ModelError or UsageError."""
    infos = []
    for model in spec.models:
        info = models.prepare(model)
        if isinstance(model.on, CropsOf):
            info = replace(info, crops_of=model.on.crops_of, crops_min_score=model.on.min_score)
        infos.append(info)
    by_name = {info.name: info for info in infos}
    for i, info in enumerate(infos):
        if info.crops_of and by_name[info.crops_of].kind != "object":
            raise UsageError(f"models[{i}].on.crops_of is {info.crops_of!r}, which finds no boxes; name a detector")
    return tuple(infos)


def input_resolutions(infos: tuple[ModelInfo, ...]) -> tuple[InputResolution, ...]:
    """What decoding must deliver: crops are cut from the image as it is, so they need all of it."""
    return tuple(InputResolution(mode="full") if info.crops_of else info.input_resolution for info in infos)


class _Run:
    """One run while it happens. Lives in the driver's main thread."""

    def __init__(self, spec: JobSpec, report: RunReport, progress: Progress, *, verbose: bool) -> None:
        self._spec = spec
        self._report = report
        self._progress = progress
        self._layout = Layout(spec.output.uri)
        self._store = open_store(spec.output.uri, spec.output.storage_options)
        self._lease = Lease(self._layout.lease, store=self._store, run_id=report.run_id)
        may_carry = spec.compute.decode == "own_pool" or (
            spec.compute.decode == "auto" and spec.compute.device != "cpu"
        )
        self._ray = RaySession(address=spec.compute.address, verbose=verbose, carries_pixels=may_carry)
        self._infos: Future[tuple[ModelInfo, ...]] = Future()
        self._totals = Totals()
        self._figures = RunProgress(phase="starting")
        self._began = time.monotonic()
        self._recorded_at = 0.0
        self._has_out = False

    def do(self) -> None:
        """The whole run, and its end whatever happens."""
        check_places(self._spec)
        known = read_index(store=self._store, layout=self._layout) is not None
        pages = None if known else self._listing()
        with stop_signals():
            try:
                self._take_out()
                self._work(pages)
            except KeyboardInterrupt:
                self._stop("interrupted", "")
                message = f"stopped with {self._report.num_done:,} of {self._report.num_images:,} images committed. "
                raise self._told(Interrupted(f"{message}The same command goes on from there")) from None
            except BatchtagError as error:
                self._stop("too_many_failures" if isinstance(error, TooManyFailures) else "failed", error.message)
                raise self._told(error) from error
            except BaseException as error:  # whatever it was, Ray ends, the record says so and OUT is given back
                self._stop("failed", f"{type(error).__name__}: {error}")
                raise
            else:
                self._stop("done", "")

    def _take_out(self) -> None:
        try:
            dead = self._lease.acquire()
        except StorageError as error:
            message = f"OUT {self._layout.out} cannot be written: {error.message}. Mend it or choose another --out"
            raise OutputError(message) from error
        self._has_out = True
        if dead:
            self._progress.say(f"run {dead} is dead; going on where it stopped")

    def _listing(self) -> Iterator[list[ObjectInfo]]:
        """The source's pages, the first of them already there: raises at once when there is nothing to tag."""
        pages = open_source(self._spec.source).pages()
        first = next((page for page in pages if page), None)
        if first is None:
            where = ", ".join(getattr(self._spec.source, "uris", None) or [getattr(self._spec.source, "uri", "")])
            raise UsageError(
                f"{where}: no images there. Names ending in an image extension are taken; use --include '*' (or "
                "source.include) if they have none"
            )
        return itertools.chain([first], pages)

    def _work(self, pages: Iterator[list[ObjectInfo]] | None) -> None:
        # Only who holds OUT can tell: another run may have frozen the index while this one looked at the source.
        index = read_index(store=self._store, layout=self._layout)
        committed = committed_parts(store=self._store, layout=self._layout)
        if index is None or len(committed) < sum(1 for _ in index.bundles()):
            self._ray.start()
        threading.Thread(target=self._prepare, name="prepare", daemon=True).start()
        self._report.store(store=self._store, layout=self._layout)
        if index is None:
            index = self._list(pages or self._listing())
        else:
            self._report.num_images = index.num_images
            self._phase("checking models", self._infos)
            self._check_job()
        self._report.num_images = index.num_images
        self._report.models = [info.id for info in self._infos.result()]
        left = bundles_left(index, committed)
        remove_debris(committed, store=self._store, layout=self._layout)
        self._totals = totals_of(sorted(committed), store=self._store, layout=self._layout, counted=self._totals)
        self._figures = RunProgress(
            phase="starting workers", total=index.num_images, done_before=self._totals.num_images
        )
        if left:
            self._wait_for_ray()
            self._tag(left)
            self._reconcile(index)
        else:
            self._progress.say(
                f"nothing is left of the {index.num_images:,} images listed {index.listed_at[:16]}; the listing is "
                "frozen, so for images that came since choose another --out"
            )
        monitor.judge(self._totals, self._figures, max_failure_rate=self._spec.max_failure_rate, at_end=True)

    def _prepare(self) -> None:
        began = time.monotonic()
        try:
            infos = prepare_models(self._spec)
            self._took("models", began)
            self._infos.set_result(infos)
        except BaseException as error:
            self._infos.set_exception(error)

    def _check_job(self) -> None:
        mine = identity(self._spec, self._infos.result())
        check_or_store(mine, spec=self._spec, store=self._store, layout=self._layout)
        store_thresholds(self._infos.result(), store=self._store, layout=self._layout)

    def _list(self, pages: Iterator[list[ObjectInfo]]) -> Index:
        began = time.monotonic()

        def listed(num_images: int) -> None:
            self._progress.show(RunProgress(phase=f"listing: {num_images:,} images"))
            self._keep_record(phase=f"listing: {num_images:,} images")
            for slow in (self._infos, self._ray.ready):
                if slow.done():
                    slow.result()  # raises at once what went wrong there

        def bundle_size(num_images: int) -> int:
            nonlocal began
            paused = time.monotonic()
            self._phase(f"{num_images:,} images listed; checking models", self._infos)
            self._check_job()
            self._wait_for_ray()
            began += time.monotonic() - paused
            there, kinds = self._machines()
            return placement.bundle_size(
                num_images,
                compute=self._spec.compute,
                infos=self._infos.result(),
                machines=there,
                to_come=still_to_come(kinds, there=there),
            )

        index = freeze_index(
            pages,
            store=self._store,
            layout=self._layout,
            bundle_size=bundle_size,
            limit=self._spec.source.limit,
            listed_at=datetime.now(UTC),
            on_listed=listed,
        )
        self._took("listing", began)
        return index

    def _tag(self, bundles: list[Bundle]) -> None:
        there, kinds = self._machines()
        place = placement.place(
            self._spec.compute,
            there,
            to_come=still_to_come(kinds, there=there),
            num_bundles=len(bundles),
            num_images=sum(bundle.num_images for bundle in bundles),
            infos=self._infos.result(),
        )
        self._report.placement = place.reason
        work = monitor.Work(
            bundles=bundles,
            plan=self._work_plan(place),
            placement=place,
            grows_to=kinds,
            totals=self._totals,
            figures=self._figures,
            max_failure_rate=self._spec.max_failure_rate,
            stall_timeout_s=self._spec.compute.stall_timeout_s,
        )
        self._figures.device, self._figures.gpus_each = place.device, place.gpus_per_actor
        self._took("ray", time.monotonic() - self._ray.start_s)
        self._phase("starting workers")
        began = time.monotonic()
        with contextlib.closing(monitor.tag(work)) as line:
            try:
                for figures in line:
                    if figures.phase == "tagging" and "workers" not in self._report.seconds_by_phase:
                        self._took("workers", began)
                    self._progress.show(figures)
                    self._keep_record()
                    if self._lease.lost:
                        lost = f"run {self._report.run_id} lost its lease of {self._layout.out} to {self._lease.lost}"
                        raise LeaseLost(lost)
            except BaseException:
                ignore_signals()  # the line is to end whole before Ray does
                raise

    def _machines(self) -> tuple[list[Machine], list[NodeKind]]:
        """Those that are there, and the kinds that the cluster may grow to."""
        from batchtag.cluster.nodes import kinds_to_come, machines

        return machines(), kinds_to_come(self._spec.compute, joined=self._ray.joined)

    def _keep_record(self, phase: str = "") -> None:
        """Every few seconds, so that whoever can read OUT can watch. What cannot be written now is written later.

        So there is one attempt: the driver's loop stands still meanwhile.
        """
        now = time.monotonic()
        if now - self._recorded_at < RECORD_EVERY_S:
            return
        self._recorded_at = now
        self._report.take(self._totals)
        self._report.this_run = as_json(replace(self._figures, phase=phase or self._figures.phase))
        self._report.seconds = round(now - self._began, 3)
        with contextlib.suppress(StorageError):
            self._report.store(store=self._store, layout=self._layout, policy=RetryPolicy(attempts=1))

    def _work_plan(self, place: placement.Placement) -> WorkPlan:
        spec, infos = self._spec, self._infos.result()
        rules = DecodeRules(
            formats=frozenset(spec.decode.formats),
            max_pixels=spec.decode.max_pixels,
            max_bytes=spec.decode.max_bytes,
            scaled=spec.decode.scaled,
            depth=spec.decode.depth,
        )
        stream = LoadPlan(
            rules=rules,
            input_resolutions=input_resolutions(infos),
            decode_timeout_s=spec.decode.timeout_s,
            fetches=spec.compute.fetches,
            decode_threads=place.decode_threads,
            batch_images=place.batch_images,
        )
        return WorkPlan(
            run_id=self._report.run_id,
            out=spec.output.uri,
            out_options=spec.output.storage_options,
            source_options=spec.source.storage_options,
            source=spec.source.uri if isinstance(spec.source, ManifestSource) else spec.source.uris[0],
            models=tuple(spec.models),
            infos=infos,
            stream=stream,
            decode=spec.compute.decode,
            runtime=Runtime(
                device=place.device, engine=place.engine, precision=place.precision, threads=place.compute_threads
            ),
        )

    def _reconcile(self, index: Index) -> None:
        """Ray saying that all is done proves nothing; the listing of images/ does."""
        left = bundles_left(index, committed_parts(store=self._store, layout=self._layout))
        if left:
            raise RunFailed(
                f"{len(left):,} of {sum(1 for _ in index.bundles()):,} bundles are not committed although Ray says "
                f"that all are done (for example {left[0].id}); run the same command again"
            )

    def _took(self, phase: str, began: float) -> None:
        self._report.seconds_by_phase[phase] = round(time.monotonic() - began, 3)

    def _wait_for_ray(self) -> None:
        """Raises RunFailed when it does not come: Ray waits for ever for a head that is there and says nothing."""
        self._phase("starting Ray", self._ray.ready, at_most_s=RAY_S)
        if not self._ray.ready.done():
            head = "the head takes connections and does not answer; is it overloaded, or no head at all?"
            why = head if self._ray.joined else f"see {self._ray.logs}"
            raise RunFailed(f"Ray is not there after {format_duration(RAY_S)}: {why}")

    def _phase(self, what: str, until: Future[Any] | None = None, *, at_most_s: float = math.inf) -> None:
        """Show what the run is doing, until something that goes on in a thread is there, or so long at most."""
        deadline = time.monotonic() + at_most_s
        while True:
            self._progress.show(RunProgress(phase=what))
            self._keep_record(phase=what)
            left_s = min(1.0, deadline - time.monotonic())
            if until is None or left_s <= 0 or wait_for([until], timeout=left_s).done:
                break
        if until is not None and until.done():
            until.result()

    def _told(self, error: BatchtagError) -> BatchtagError:
        error.report = self._report  # type: ignore[attr-defined]
        return error

    def _stop(self, state: str, message: str) -> None:
        """End Ray, count what is really committed, write the record, give OUT back.

        A run that is stopped before it had counted what was there gives OUT back first, for the next run need not wait
        for it: reading 100,000 footers takes minutes. A driver that is killed meanwhile leaves a record whose sums are
        too small; tables are what they are.
        """
        ignore_signals()
        if not self._has_out:
            return  # nothing was begun
        report = self._report
        report.state, report.message = state, message
        self._progress.show(RunProgress(phase="stopping"))
        self._ray.stop(keep_logs=state == "failed")
        if self._lease.lost:
            return
        uncounted: set[str] = set()
        # OUT may be what failed: then the error that is on its way says so, and the lease dies by itself.
        with contextlib.suppress(StorageError):
            if state != "done":
                uncounted = self._uncounted()
            if len(uncounted) <= FOOTERS_AT_END:
                self._count(uncounted)
                uncounted = set()
            self._close_record()
        with contextlib.suppress(StorageError):
            self._lease.release()
        if uncounted:
            with contextlib.suppress(StorageError):
                self._count(uncounted)
                self._close_record()

    def _uncounted(self) -> set[str]:
        """The committed parts that are not in the sums; all of them, and the sums begun anew, where one has gone."""
        committed = committed_parts(store=self._store, layout=self._layout)
        if not self._totals.parts <= committed:
            self._totals = Totals()
        return committed - self._totals.parts

    def _count(self, parts: set[str]) -> None:
        with contextlib.suppress(OutputError):  # of a part that is not ours, as the error that is on its way says
            totals_of(parts, store=self._store, layout=self._layout, counted=self._totals)

    def _close_record(self) -> None:
        report = self._report
        report.take(self._totals)
        report.this_run = as_json(self._figures)
        report.seconds = round(time.monotonic() - self._began, 3)
        report.ended_at = datetime.now(UTC).isoformat(timespec="seconds")
        report.store(store=self._store, layout=self._layout)
