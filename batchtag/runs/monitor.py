"""The driver's loop while workers tag: count commits, refresh the progress, stop a run in which too much fails.

The commits are consumed in a thread, so that the main thread stays free to be interrupted and reads the workers'
heartbeats twice a second, whether or not a bundle was committed.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from batchtag.config.job import Decode, NodeKind
from batchtag.console import escape_unprintable, format_duration
from batchtag.errors import RunFailed, TooManyFailures
from batchtag.output.types import Bundle, Commit
from batchtag.pipeline.stats import CommittedStats, RunStats, WorkerHeartbeat
from batchtag.pipeline.worker import WorkPlan
from batchtag.runs.placement import Placement
from batchtag.runs.progress import RunProgress, compute_busy_shares

JUDGED_FROM_IMAGES = 200
"""A failure rate over fewer images says little. A run of fewer images is judged only if none of them was tagged."""
POLL_S = 0.5
"""Seconds to wait for a commit before the progress is refreshed."""
START_PATIENCE = 3
"""Factor on the stall timeout while no worker has started: machines must start and container images must be pulled."""
NODES_AFTER_S = 20.0
"""Seconds for which GPUs are observed before CPU nodes are requested to decode for them."""
MAX_WORKERS_NAMED = 8
"""Workers that the message about a stalled run describes."""
ALIVE_S = 5.0
"""Seconds without a heartbeat after which a worker is not counted."""


@dataclass(kw_only=True)
class TaggingWork:
    """What is to be tagged, and the statistics that grow meanwhile."""

    bundles: list[Bundle]
    plan: WorkPlan
    placement: Placement
    may_grow_to: list[NodeKind]
    """The kinds of nodes that the cluster may add."""
    committed: CommittedStats
    """Sums over all commits of OUT; grows with each commit."""
    progress: RunProgress
    """What the user sees; refreshed every half second."""
    max_failure_rate: float
    stall_timeout_s: float


def tag_bundles(work: TaggingWork) -> Generator[RunProgress, None, None]:
    """Tag all bundles, yielding the progress every half second. Ray must be running. Runs on the driver.

    Raises TooManyFailures, RunFailed if nothing changes any more, or what a worker raised. A caller that stops before
    the end closes the generator, which ends the workers.
    """
    from batchtag.runs import ray_data

    supervisor = ray_data.start_supervisor()
    arrivals: queue.Queue[Commit | Exception | None] = queue.Queue()

    def consume_commits() -> None:
        try:
            for commit in ray_data.run_bundles(
                work.bundles, plan=work.plan, placement=work.placement, supervisor=supervisor
            ):
                arrivals.put(commit)
            arrivals.put(None)
        except Exception as error:  # the end of a thread: the main thread raises it
            arrivals.put(error)

    consumer = threading.Thread(target=consume_commits, name="commits", daemon=True)
    consumer.start()
    try:
        yield from _watch(work, arrivals, supervisor)
    finally:
        ray_data.end_workers(consumer)


def _watch(
    work: TaggingWork, arrivals: queue.Queue[Commit | Exception | None], supervisor: Any
) -> Iterator[RunProgress]:
    from batchtag.cluster.nodes import NodeRequest
    from batchtag.runs import ray_data

    before = work.committed.stats.copy()
    this_run = ThisRun(len(work.bundles))
    guard = StallGuard(work.stall_timeout_s)
    nodes = NodeRequest(work.may_grow_to)
    is_running = True
    while is_running:
        for arrival in _wait_for_arrivals(arrivals):
            if isinstance(arrival, Exception):
                raise arrival
            if arrival is None:
                is_running = False
            else:
                work.committed.add(arrival)
                this_run.add_commit(arrival)
        workers = ray_data.read_heartbeats(supervisor)
        this_run.refresh(work.progress, workers)
        guard.check(work.progress, workers, alive=this_run.alive(workers))
        if needs_cpu_nodes(work.progress, on_gpu=bool(work.placement.gpus_per_actor), decode=work.plan.decode):
            nodes.send()
        nodes.drop_arrived()
        live = before.copy()
        live.add(work.progress.stats)
        check_failure_rate(live, max_failure_rate=work.max_failure_rate)
        yield work.progress


def needs_cpu_nodes(progress: RunProgress, *, on_gpu: bool, decode: Decode) -> bool:
    """Return whether nodes without GPUs would help: GPUs wait for images, or the job wants separate decoding."""
    if not on_gpu or decode == "with_models":
        return False
    is_judged = progress.tagging_s >= NODES_AFTER_S and progress.stats.num_images > 0
    return decode == "separate" or (is_judged and progress.bottleneck in ("fetch", "decode"))


class StallGuard:
    """Ends a run in which nothing changes any more: no image, no byte, no start of a worker."""

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._changed_at = clock()
        self._seen: object = None

    def check(
        self, progress: RunProgress, workers: Mapping[str, WorkerHeartbeat], *, alive: Mapping[str, WorkerHeartbeat]
    ) -> None:
        """Raise RunFailed if the statistics have been the same for too long. `alive` is a subset of `workers`."""
        stats = progress.stats
        seen = (
            stats.num_images,
            stats.fetched_bytes,
            stats.fetch_s,
            stats.decode_s,
            stats.num_batches,  # not predict_s, which grows while a device hangs
            stats.write_s,
            len(alive),
        )
        if seen != self._seen:
            self._seen, self._changed_at = seen, self._clock()
        patience_s = self._timeout_s * (1 if alive else START_PATIENCE)
        if self._clock() - self._changed_at > patience_s:
            raise RunFailed(
                f"nothing has changed for {format_duration(patience_s)} (compute.stall_timeout_s): "
                f"{_describe_workers(workers, alive)}. Committed parts stay; run the same command to continue"
            )


def _describe_workers(workers: Mapping[str, WorkerHeartbeat], alive: Mapping[str, WorkerHeartbeat]) -> str:
    """Say what each worker is doing; if none has a heartbeat, what the last ones were doing."""
    if not workers:
        return (
            "no worker has started; the cluster may lack the CPUs or GPUs that were requested, or workers die as they "
            "start, which Ray's logs would show"
        )
    named = list((alive or workers).items())[-MAX_WORKERS_NAMED:]
    descriptions = []
    for name, worker in named:
        doing = ", ".join(f"{activity} bundle {bundle}" for bundle, activity in worker.activities.items())
        descriptions.append(f"worker {name}: {doing or 'idle'}")
    num_more = len(alive or workers) - len(named)
    if num_more:
        descriptions.append(f"and {num_more:,} more")
    return ("" if alive else "no worker sends a heartbeat; the last ones were: ") + "; ".join(descriptions)


class ThisRun:
    """The statistics of this run: every committed bundle once, and what workers have done of the others."""

    def __init__(self, num_bundles: int) -> None:
        self._num_bundles = num_bundles
        self._committed = CommittedStats()
        self._began: float | None = None
        self._ended: float | None = None
        self._alive_s_and_time: dict[str, tuple[float, float]] = {}

    def add_commit(self, commit: Commit) -> None:
        """Count a commit, unless its part is counted."""
        if self._committed.add(commit) and len(self._committed.parts) == self._num_bundles:
            self._ended = time.monotonic()  # the time that Ray Data takes to end is not tagging

    def refresh(self, progress: RunProgress, workers: Mapping[str, WorkerHeartbeat]) -> None:
        """Bring the progress up to date; without a heartbeat it stays as it is."""
        if not workers:
            return
        now = time.monotonic()
        began = now - max(worker.alive_s + worker.age_s for worker in workers.values())
        self._began = began if self._began is None else min(self._began, began)
        counted, work = self._committed.stats.copy(), RunStats()
        for worker in workers.values():
            work.add(worker.stats)
            for part, stats in worker.in_flight.items():
                if part not in self._committed.parts:
                    counted.add(stats)
        progress.phase = "tagging"
        progress.stats = work.with_images_of(counted)
        progress.busy = compute_busy_shares(workers)
        for name, worker in workers.items():
            if worker.alive_s != self._alive_s_and_time.get(name, (0.0, 0.0))[0]:
                self._alive_s_and_time[name] = worker.alive_s, now
        alive = self.alive(workers)
        progress.workers = len(alive)
        progress.decode_workers = max((worker.decode_workers for worker in alive.values()), default=0)
        progress.tagging_s = (self._ended or now) - self._began

    def alive(self, workers: Mapping[str, WorkerHeartbeat]) -> dict[str, WorkerHeartbeat]:
        """Return the workers with a new heartbeat in the last seconds."""
        now = time.monotonic()
        return {
            name: worker
            for name, worker in workers.items()
            if now - self._alive_s_and_time.get(name, (0, 0.0))[1] <= ALIVE_S
        }


def _wait_for_arrivals(arrivals: queue.Queue[Commit | Exception | None]) -> list[Commit | Exception | None]:
    """Return everything that has arrived; wait up to POLL_S for the first."""
    try:
        items = [arrivals.get(timeout=POLL_S)]
    except queue.Empty:
        return []
    while not arrivals.empty():
        items.append(arrivals.get_nowait())
    return items


def check_failure_rate(stats: RunStats, *, max_failure_rate: float, at_end: bool = False) -> None:
    """Raise TooManyFailures if a larger share of the images failed than the job allows.

    The message has the commonest failure codes, with example URIs of this run.
    """
    tried, failed = stats.num_images, stats.num_failed
    is_too_early = tried < JUDGED_FROM_IMAGES and not (at_end and failed == tried)
    if not tried or failed / tried <= max_failure_rate or is_too_early:
        return
    raise TooManyFailures(
        f"{failed:,} of {tried:,} images failed, {failed / tried:.1%} (allowed {max_failure_rate:.1%}): "
        f"{_format_commonest_failures(stats)}. These images stay failed in this OUT: raise max_failure_rate to "
        "continue with the remaining images, or repair the cause and choose another --out"
    )


def _format_commonest_failures(stats: RunStats) -> str:
    parts = []
    for code, count in stats.failed_by_code.most_common(3):
        examples = stats.examples.get(code, [])
        parts.append(f"{code} {count:,}" + (f" (for example {escape_unprintable(examples[0])})" if examples else ""))
    return ", ".join(parts)
