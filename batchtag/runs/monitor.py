"""The driver's loop while workers tag: commits are counted, figures refreshed, and the run stopped when too much fails.

The line itself is consumed in a thread, so the main thread stays free to be interrupted, and looks at the workers'
figures twice a second whether or not a bundle has come back.
"""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from batchtag.config.job import Decode, NodeKind
from batchtag.console import format_duration, printable
from batchtag.errors import RunFailed, TooManyFailures
from batchtag.output.ledger import Totals
from batchtag.output.types import Bundle, Commit
from batchtag.pipeline.stats import RunStats, WorkerHeartbeat, copy_of
from batchtag.pipeline.worker import WorkPlan
from batchtag.runs.placement import Placement
from batchtag.runs.progress import RunProgress, busy_shares, sum_counters

JUDGED_FROM = 200
"""A failure rate over fewer images says little; of fewer, only a whole run in which nothing was tagged is judged."""
POLL_S = 0.5
STARTING = 3
"""So many times longer may it take while no worker is there: machines have to be started, images pulled."""
NODES_AFTER_S = 20.0
"""So long GPUs are watched before nodes are called to open images for them."""
NAMED = 8
ALIVE_S = 5.0
"""A worker that gave no sign for so long is not counted."""


@dataclass(kw_only=True)
class Work:
    """What is to be tagged, and the sums that grow meanwhile: `totals` by commit, `figures` every half second."""

    bundles: list[Bundle]
    plan: WorkPlan
    placement: Placement
    grows_to: list[NodeKind]
    """What the cluster may add."""
    totals: Totals
    figures: RunProgress
    max_failure_rate: float
    stall_timeout_s: float


def tag(work: Work) -> Generator[RunProgress, None, None]:
    """Run the line to its end, giving the figures every half second. Ray must be there. Runs on the driver.

    Raises TooManyFailures, RunFailed when nothing moves any more, or what a worker raised. Whoever leaves before the
    end closes it: the line is over then.
    """
    from batchtag.runs import ray_data

    monitor = ray_data.start_monitor()
    news: queue.Queue[Commit | Exception | None] = queue.Queue()

    def pump() -> None:
        try:
            for commit in ray_data.commits(work.bundles, plan=work.plan, placement=work.placement, monitor=monitor):
                news.put(commit)
            news.put(None)
        except Exception as error:  # a thread's end: handed to the main thread
            news.put(error)

    reader = threading.Thread(target=pump, name="pump", daemon=True)
    reader.start()
    try:
        yield from _watch(work, news, monitor)
    finally:
        ray_data.end_line(reader)


def _watch(work: Work, news: queue.Queue[Commit | Exception | None], monitor: Any) -> Iterator[RunProgress]:
    from batchtag.cluster import nodes
    from batchtag.runs import ray_data

    before = copy.deepcopy(work.totals)
    run = _Tally(len(work.bundles))
    running = True
    guard = StallGuard(work.stall_timeout_s)
    call = nodes.NodeCall(work.grows_to)
    while running:
        for item in _arrivals(news):
            if isinstance(item, Exception):
                raise item
            if item is None:
                running = False
            else:
                work.totals.add(item)
                run.committed(item)
        workers = ray_data.snapshot(monitor)
        run.refresh(work.figures, workers)
        guard.look(work.figures, workers, alive=run.alive(workers))
        if wants_nodes(work.figures, on_gpu=bool(work.placement.gpus_per_actor), decode=work.plan.decode):
            call.make()
        call.look()
        now = work.figures.counters
        live = Totals(
            num_images=before.num_images + now.num_images,
            num_failed=before.num_failed + now.num_failed,
            failed_by_code=before.failed_by_code + now.failed_by_code,
        )
        judge(live, work.figures, max_failure_rate=work.max_failure_rate)
        yield work.figures


def wants_nodes(figures: RunProgress, *, on_gpu: bool, decode: Decode) -> bool:
    """Whether nodes without GPUs would help: GPUs wait for images, or the job wants these opened elsewhere."""
    if not on_gpu or decode == "with_models":
        return False
    is_judged = figures.tagging_s >= NODES_AFTER_S and figures.counters.num_images > 0
    return decode == "own_pool" or (is_judged and figures.bottleneck in ("fetch", "decode"))


class StallGuard:
    """Ends a run in which nothing moves any more: no image, no byte, no start of a worker. Nothing hangs in silence."""

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._moved_at = clock()
        self._seen: object = None

    def look(
        self, figures: RunProgress, workers: Mapping[str, WorkerHeartbeat], *, alive: Mapping[str, WorkerHeartbeat]
    ) -> None:
        """Raises RunFailed when what is counted has been the same for too long. `alive` are some of the workers."""
        done = figures.counters
        seen = (
            done.num_images,
            done.fetched_bytes,
            done.fetch_s,
            done.decode_s,
            done.num_batches,  # not its seconds, which go on while a device hangs
            done.write_s,
            len(alive),
        )
        if seen != self._seen:
            self._seen, self._moved_at = seen, self._clock()
        patience_s = self._timeout_s * (1 if alive else STARTING)
        if self._clock() - self._moved_at > patience_s:
            raise RunFailed(
                f"nothing has moved for {format_duration(patience_s)} (compute.stall_timeout_s): "
                f"{_standing(workers, alive)}. "
                "What is committed stays; the same command goes on"
            )


def _standing(workers: Mapping[str, WorkerHeartbeat], alive: Mapping[str, WorkerHeartbeat]) -> str:
    """Where each worker stands; where none gives a sign of life, where those that came last stood."""
    if not workers:
        return (
            "no worker is there; the cluster may lack the CPUs or GPUs that were asked for, or workers die as they "
            "start, as Ray's logs would say"
        )
    told = [
        f"worker {name}: " + (", ".join(f"{stage} bundle {bundle}" for bundle, stage in one.doing.items()) or "idle")
        for name, one in list((alive or workers).items())[-NAMED:]
    ]
    more = len(alive or workers) - len(told)
    told += [f"and {more:,} more"] * (more > 0)
    return ("" if alive else "no worker gives a sign of life; the last ones were: ") + "; ".join(told)


class _Tally:
    """This run's sums: every committed bundle once, and what workers have done of the others, whoever died of them."""

    def __init__(self, num_bundles: int) -> None:
        self._num_bundles = num_bundles
        self._parts: set[str] = set()
        self._commits = RunStats()
        self._began: float | None = None
        self._ended: float | None = None
        self._alive: dict[str, tuple[float, float]] = {}

    def committed(self, commit: Commit) -> None:
        if commit.part in self._parts:
            return
        self._parts.add(commit.part)
        if len(self._parts) == self._num_bundles:
            self._ended = time.monotonic()  # what follows is Ray Data's end
        self._commits.num_images += commit.num_images
        self._commits.num_failed += commit.num_failed
        self._commits.num_tags += commit.num_tags
        self._commits.failed_by_code.update(commit.failed_by_code)

    def refresh(self, figures: RunProgress, workers: dict[str, WorkerHeartbeat]) -> None:
        """Bring the figures up to date; without a sign of life they stay as they are."""
        if not workers:
            return
        now = time.monotonic()
        began = now - max(worker.alive_s + worker.age_s for worker in workers.values())
        self._began = began if self._began is None else min(self._began, began)
        counters = copy_of(self._commits)
        for worker in workers.values():
            for part, done in worker.in_flight.items():
                if part not in self._parts:
                    counters.add(done)
        counters.take_work(sum_counters(workers))
        figures.phase = "tagging"
        figures.counters = counters
        figures.busy = busy_shares(workers)
        for name, worker in workers.items():
            if worker.alive_s != self._alive.get(name, (0.0, 0.0))[0]:
                self._alive[name] = worker.alive_s, now
        alive = self.alive(workers)
        figures.workers = len(alive)
        figures.openers = max((worker.openers for worker in alive.values()), default=0)
        figures.tagging_s = (self._ended or now) - self._began

    def alive(self, workers: Mapping[str, WorkerHeartbeat]) -> dict[str, WorkerHeartbeat]:
        """Those that gave a sign of life in the last seconds."""
        now = time.monotonic()
        return {name: one for name, one in workers.items() if now - self._alive.get(name, (0, 0.0))[1] <= ALIVE_S}


def _arrivals(news: queue.Queue[Commit | Exception | None]) -> list[Commit | Exception | None]:
    """Everything that came; waits half a second for the first."""
    try:
        items = [news.get(timeout=POLL_S)]
    except queue.Empty:
        return []
    while not news.empty():
        items.append(news.get_nowait())
    return items


def judge(totals: Totals, figures: RunProgress, *, max_failure_rate: float, at_end: bool = False) -> None:
    """Raises TooManyFailures, with the commonest codes and example URIs, when more failed than the job allows."""
    tried, failed = totals.num_images, totals.num_failed
    too_few = tried < JUDGED_FROM and not (at_end and failed == tried)
    if not tried or failed / tried <= max_failure_rate or too_few:
        return
    raise TooManyFailures(
        f"{failed:,} of {tried:,} images failed, {failed / tried:.1%} (allowed {max_failure_rate:.1%}): "
        f"{_commonest(totals, figures)}. Those stay failed in this OUT: raise max_failure_rate to go on with the rest, "
        "or mend the cause and choose another --out"
    )


def _commonest(totals: Totals, figures: RunProgress) -> str:
    pieces = []
    for code, count in totals.failed_by_code.most_common(3):
        examples = figures.counters.examples.get(code, [])
        pieces.append(f"{code} {count:,}" + (f" (for example {printable(examples[0])})" if examples else ""))
    return ", ".join(pieces)
