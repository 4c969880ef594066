"""One execution of a job, from its spec to its record: the verb `run`.

What is quick and may be wrong comes first (the source exists, OUT may be used), then everything slow at the same time
(Ray starts, weights are fetched and checked, the input is listed), then tagging. Whatever happens, committed parts
stay, the run leaves a record, and the same command continues where this run stopped.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.console import Console

from batchtag.cluster.machines import list_missing_machines
from batchtag.cluster.quiet_output import silence_ray
from batchtag.config.job import JobSpec
from batchtag.errors import (
    BatchtagError,
    Interrupted,
    LeaseLost,
    OutputError,
    RunFailed,
    StorageError,
    TooManyFailures,
)
from batchtag.output.index import Index, read_index
from batchtag.output.layout import Layout
from batchtag.output.lease import Lease
from batchtag.output.ledger import list_committed_parts, remaining_bundles, remove_debris
from batchtag.output.types import Bundle
from batchtag.runs.monitor import TaggingWork, check_failure_rate, tag_bundles
from batchtag.runs.placement import Workload, place_run
from batchtag.runs.preflight import check_output_and_source
from batchtag.runs.preparation import Preparation, open_listing
from batchtag.runs.progress import ProgressDisplay, RunProgress
from batchtag.runs.recorder import RunRecorder
from batchtag.runs.report import RunReport
from batchtag.runs.work_plan import make_work_plan
from batchtag.storage import ObjectInfo, open_store
from batchtag.system import handle_stop_signals, ignore_stop_signals

MAX_FOOTERS_AT_END = 2000
"""Footers that are read before OUT is released; they take some seconds on a bucket."""


def run_job(
    job: JobSpec, *, console: Console, quiet: bool = False, verbose: bool = False, run_id: str = ""
) -> RunReport:
    """Tag the remaining images of this job; return the report of a run after which every image is committed.

    `run_id` is the name of the run; "" makes a new one. Raises TooManyFailures, Interrupted or another BatchtagError.
    If OUT had been acquired, the record of the run is written first and is the error's `report`.
    """
    now = datetime.now(UTC)
    run_id = run_id or f"r-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    report = RunReport(run_id=run_id, out=job.output.uri, started_at=now.isoformat(timespec="seconds"))
    with silence_ray(unless=verbose), ProgressDisplay(console, quiet=quiet) as display:
        _Run(job, report, display, verbose=verbose).run()
    return report


class _Run:
    """One run while it happens. Lives in the driver's main thread."""

    def __init__(self, job: JobSpec, report: RunReport, display: ProgressDisplay, *, verbose: bool) -> None:
        self._job = job
        self._report = report
        self._display = display
        self._layout = Layout(job.output.uri)
        self._store = open_store(job.output.uri, job.output.storage_options)
        self._recorder = RunRecorder(report, store=self._store, layout=self._layout)
        self._lease = Lease(self._layout.lease, store=self._store, run_id=report.run_id)
        self._preparation = Preparation(
            job,
            store=self._store,
            layout=self._layout,
            display=display,
            recorder=self._recorder,
            verbose=verbose,
        )
        self._has_out = False

    def run(self) -> None:
        """Do the whole run, and end it properly whatever happens."""
        check_output_and_source(self._job)
        has_index = read_index(store=self._store, layout=self._layout) is not None
        pages = None if has_index else open_listing(self._job)
        with handle_stop_signals():
            try:
                self._acquire_output()
                self._tag_remaining(pages)
            except KeyboardInterrupt:
                self._stop("interrupted", "")
                message = f"stopped with {self._report.num_done:,} of {self._report.num_images:,} images committed. "
                error = Interrupted(f"{message}Run the same command to continue")
                raise self._with_report(error) from None
            except BatchtagError as error:
                self._stop("too_many_failures" if isinstance(error, TooManyFailures) else "failed", error.message)
                raise self._with_report(error) from error
            except BaseException as error:  # whatever it is: Ray ends, the record is written and OUT is released
                self._stop("failed", f"{type(error).__name__}: {error}")
                raise
            else:
                self._stop("done", "")

    def _acquire_output(self) -> None:
        try:
            dead_run = self._lease.acquire()
        except StorageError as error:
            message = f"OUT {self._layout.out} cannot be written: {error.message}. Repair it or choose another --out"
            raise OutputError(message) from error
        self._has_out = True
        if dead_run:
            self._display.print_line(f"run {dead_run} has died; continuing where it stopped")

    def _tag_remaining(self, pages: Iterator[Sequence[ObjectInfo]] | None) -> None:
        # 1. What is committed. Read again now that OUT is held: another run may have frozen the index meanwhile.
        index = read_index(store=self._store, layout=self._layout)
        committed = list_committed_parts(store=self._store, layout=self._layout)
        # 2. Start everything slow at once. Ray is not needed if nothing remains.
        has_work = index is None or len(committed) < sum(1 for _ in index.bundles())
        self._preparation.start(with_ray=has_work)
        self._recorder.write()
        # 3. The index: listed and frozen once, or as an earlier run froze it, if it is the same job.
        if index is None:
            index = self._preparation.freeze_index(pages or open_listing(self._job))
        else:
            self._report.num_images = index.num_images
            self._preparation.check_job()
        self._report.num_images = index.num_images
        self._report.models = [info.id for info in self._preparation.model_infos()]
        # 4. Debris goes before anything is written; only the holder of the lease may remove it.
        bundles = remaining_bundles(index, committed)
        remove_debris(committed, store=self._store, layout=self._layout)
        self._recorder.count_parts(sorted(committed))
        num_done = self._recorder.committed.stats.num_images
        self._recorder.progress = RunProgress(phase="starting workers", total=index.num_images, done_before=num_done)
        # 5. Tag, and prove from a new listing that every bundle is committed.
        if bundles:
            self._preparation.wait_for_ray()
            self._tag(bundles)
            self._check_complete(index)
        else:
            self._display.print_line(
                f"all {index.num_images:,} images listed on {index.listed_at[:16]} are done. The listing is frozen: to "
                "tag images that were added later, choose another --out"
            )
        stats = self._recorder.committed.stats.copy()
        stats.examples = self._recorder.progress.stats.examples
        check_failure_rate(stats, max_failure_rate=self._job.max_failure_rate, at_end=True)

    def _tag(self, bundles: list[Bundle]) -> None:
        work = self._plan_tagging(bundles)
        self._recorder.set_phase_s("ray", time.monotonic() - self._preparation.ray.start_s)
        self._preparation.wait("starting workers")
        began = time.monotonic()
        with contextlib.closing(tag_bundles(work)) as updates:
            try:
                for progress in updates:
                    if progress.phase == "tagging" and "workers" not in self._report.seconds_by_phase:
                        self._recorder.set_phase_s("workers", began)
                    self._display.show(progress)
                    self._recorder.write_if_due()
                    if self._lease.lost_to:
                        run_id, out = self._report.run_id, self._layout.out
                        raise LeaseLost(f"run {run_id} lost its lease of {out} to {self._lease.lost_to}")
            except BaseException:
                ignore_stop_signals()  # the workers must end completely before Ray does
                raise

    def _plan_tagging(self, bundles: list[Bundle]) -> TaggingWork:
        machines, kinds = self._preparation.list_machines()
        model_infos = self._preparation.model_infos()
        num_images = sum(bundle.num_images for bundle in bundles)
        placement = place_run(
            self._job.compute,
            machines,
            Workload(num_images=num_images, num_bundles=len(bundles), model_infos=model_infos),
            may_come=list_missing_machines(kinds, present=machines),
        )
        self._report.placement = placement.reason
        progress = self._recorder.progress
        progress.device, progress.gpus_per_worker = placement.device, placement.gpus_per_actor
        return TaggingWork(
            bundles=bundles,
            plan=make_work_plan(self._job, run_id=self._report.run_id, model_infos=model_infos, placement=placement),
            placement=placement,
            may_grow_to=kinds,
            committed=self._recorder.committed,
            progress=progress,
            max_failure_rate=self._job.max_failure_rate,
            stall_timeout_s=self._job.compute.stall_timeout_s,
        )

    def _check_complete(self, index: Index) -> None:
        """Raise RunFailed if a bundle has no commit. That Ray reports success proves nothing; the listing does."""
        remaining = remaining_bundles(index, list_committed_parts(store=self._store, layout=self._layout))
        if remaining:
            raise RunFailed(
                f"{len(remaining):,} of {sum(1 for _ in index.bundles()):,} bundles are not committed although Ray "
                f"reports that all are done (for example {remaining[0].id}); run the same command again"
            )

    def _with_report(self, error: BatchtagError) -> BatchtagError:
        error.report = self._report  # type: ignore[attr-defined]
        return error

    def _stop(self, state: str, message: str) -> None:
        """End Ray, count what is committed, write the record, release OUT.

        A run that is stopped before it has counted the parts of earlier runs releases OUT first, because the next run
        need not wait: reading 100,000 footers takes minutes. If the driver is killed meanwhile, the sums in its record
        are too small; the tables are not affected.
        """
        # 1. A second signal must not cut the end short.
        ignore_stop_signals()
        if not self._has_out:
            return  # nothing was started
        self._report.state, self._report.message = state, message
        self._display.show(RunProgress(phase="stopping"))
        # 2. The workers end with Ray, so nothing is committed from here on.
        self._preparation.ray.stop(keep_logs=state == "failed")
        if self._lease.lost_to:
            return
        # 3. The record, with all sums if they can be completed quickly. OUT may be what failed: then the error that is
        #    being raised says so, and the lease expires by itself.
        uncounted: set[str] = set()
        with contextlib.suppress(StorageError):
            if state != "done":
                uncounted = self._recorder.find_uncounted_parts()
            if len(uncounted) <= MAX_FOOTERS_AT_END:
                self._recorder.count_parts_at_end(uncounted)
                uncounted = set()
            self._recorder.close()
        # 4. Release OUT.
        with contextlib.suppress(StorageError):
            self._lease.release()
        # 5. The record with all sums, if these take longer.
        if uncounted:
            with contextlib.suppress(StorageError):
                self._recorder.count_parts_at_end(uncounted)
                self._recorder.close()
