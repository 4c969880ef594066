"""The line as a Ray Data graph: bundles -> a pool of workers -> commit rows. The only room that knows Ray's data plane.

One Ray Data row is one bundle, and the worker that takes it commits the part itself and yields exactly one row, so
nothing but a few hundred bytes crosses the object store and a retry repeats at most one bundle (measured against
feeding decoded tensors: the device 98 % busy instead of 87 %). What Ray 2.60 needs to know, each tried:
`max_task_retries` is endless by default and 4 are burnt in six seconds by one dead node, so 30; the pool's minimum is
one, or it stalls when a node is lost; `batch_size` must be a number with GPUs; the context is copied when the data set
is made, so it is set before; `**ray_remote_args` is the only way to set retries until 2.64, and warns.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from batchtag.errors import BatchtagError, RunFailed
from batchtag.output.types import Bundle, Commit
from batchtag.pipeline.remote_loader import DecodeWorkerPlan
from batchtag.pipeline.stats import WorkerHeartbeat
from batchtag.pipeline.supervisor import Attempt, Supervisor
from batchtag.pipeline.worker import Worker, WorkPlan
from batchtag.runs.placement import Placement
from batchtag.runs.ray_decode_pool import RayDecodePool
from batchtag.runs.ray_metrics import WorkerMetrics

TASK_RETRIES = 30
CALLS_PER_ACTOR = 2
SNAPSHOT_S = 5.0
END_S = 20.0
COMMIT_ROW = pa.schema([pa.field("commit", pa.string(), nullable=False)])


def start_monitor() -> Any:
    """The monitor, an actor on the driver's node. It outlasts the workers; if it dies it begins anew, empty."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Supervisor)
        .options(scheduling_strategy=here)
        .remote()
    )


def snapshot(monitor: Any) -> dict[str, WorkerHeartbeat]:
    """The last figures of every worker, by worker name; nothing while the monitor is being started again."""
    try:
        answer: dict[str, WorkerHeartbeat] = ray.get(monitor.snapshot.remote(), timeout=SNAPSHOT_S)
    except ray.exceptions.RayError:
        return {}
    return answer


class _RemoteMonitor:
    """The monitor as a worker calls it. Only what must be known before going on waits for an answer."""

    def __init__(self, actor: Any, run_id: str) -> None:
        self._actor = actor
        self._metrics = WorkerMetrics(run_id)
        self._telling = threading.Lock()

    def start(self, bundle: str) -> Attempt:
        answer: Attempt = ray.get(self._actor.start.remote(bundle))
        return answer

    def needs_care(self, bundle: str) -> None:
        ray.get(self._actor.needs_care.remote(bundle))

    def at(self, bundle: str, position: int) -> None:
        ray.get(self._actor.at.remote(bundle, position))

    def done(self, bundle: str) -> None:
        self._actor.done.remote(bundle)

    def beat(self, worker: str, figures: WorkerHeartbeat) -> None:
        self._actor.beat.remote(worker, figures)
        with self._telling:
            self._metrics.tell(figures)


class TagBundles:
    """The actor of the pool: a `Worker` behind Ray Data's calling convention."""

    def __init__(self, plan: WorkPlan, placement: Placement, monitor: Any) -> None:
        # Ray sets this to the actor's share of the CPUs; the models have threads of their own, one a core.
        os.environ["OMP_NUM_THREADS"] = "1"
        openers = None
        if plan.decode != "with_models":
            open_plan = DecodeWorkerPlan(stream=plan.stream, source_options=plan.source_options)
            openers = RayDecodePool(open_plan, placement)
        self._worker = Worker(plan, _RemoteMonitor(monitor, plan.run_id), openers=openers)

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        for row in rows.to_pylist():
            commit = self._worker.tag(Bundle(**row))
            yield pa.Table.from_pylist([{"commit": json.dumps(asdict(commit))}], schema=COMMIT_ROW)


def commits(bundles: Sequence[Bundle], *, plan: WorkPlan, placement: Placement, monitor: Any) -> Iterator[Commit]:
    """Run the line over these bundles and give each commit as it happens, in any order. Runs on the driver.

    Raises what a worker raised, if it is one of ours, else RunFailed.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = -1  # it counts bundles; tagging.StallGuard looks closer
    context.max_errored_blocks = 0
    context.memory_usage_poll_interval_s = None  # what our workers take, the operating system tells
    pool = ActorPoolStrategy(
        min_size=1,
        max_size=placement.actors,
        initial_size=placement.actors,
        max_concurrent_calls_per_actor=CALLS_PER_ACTOR,
        enable_true_multi_threading=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RayDeprecationWarning: no named way to set max_task_retries before 2.64
        rows = ray.data.from_items([asdict(bundle) for bundle in bundles], override_num_blocks=len(bundles))
        done = rows.map_batches(
            TagBundles,
            fn_constructor_args=(plan, placement, monitor),
            batch_size=1,
            batch_format="pyarrow",
            compute=pool,
            num_cpus=placement.cpus_per_actor,
            num_gpus=placement.gpus_per_actor,
            max_task_retries=TASK_RETRIES,
            max_restarts=-1,
        )
    try:
        for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
            assert isinstance(batch, pa.Table)
            for text in batch.column("commit").to_pylist():
                yield Commit(**json.loads(text))
    except (ray.exceptions.RayError, RuntimeError) as error:
        raise _ours(error) from error


def end_line(reader: threading.Thread) -> None:
    """End the line whose commits that thread reads, and wait for the thread: workers are killed, nothing else is lost.

    Ray must not be shut down before: what Ray Data's threads ask of it then ends the process with a segmentation fault
    (seen in three of ten cancelled runs on a busy machine, which so kept their lease). Ray 2.60 lets nobody end a data
    set from another thread, and tells of its executor only when a first row has come; but that is a thread. Returns
    after END_S at the latest, for each executor is ended in a thread too: that asks Ray, which may not answer. What is
    raised there would hide why the line ends.
    """
    deadline = time.monotonic() + END_S
    ending: dict[StreamingExecutor, threading.Thread] = {}
    while time.monotonic() < deadline:
        waited_for = [thread for thread in (reader, *ending.values()) if thread.is_alive()]
        if not waited_for:
            return
        for thread in threading.enumerate():
            if isinstance(thread, StreamingExecutor) and ending.get(thread) not in waited_for:
                ending[thread] = threading.Thread(target=_end_executor, args=(thread,), name="end", daemon=True)
                ending[thread].start()
        waited_for[0].join(timeout=0.1)


def _end_executor(executor: StreamingExecutor) -> None:
    with suppress(Exception):
        executor.shutdown(force=True)


def _ours(error: BaseException) -> BatchtagError:
    """The exception of ours in the chain that Ray wraps it in, or a RunFailed that says what Ray said."""
    seen: BaseException | None = error
    while seen is not None:
        # Ray raises an exception that is both its own and ours; what ours said is only in its `cause`.
        for candidate in (getattr(seen, "cause", None), seen):
            if isinstance(candidate, BatchtagError) and not isinstance(candidate, ray.exceptions.RayError):
                return candidate
        seen = seen.__cause__ or seen.__context__
    logging.getLogger(__name__).debug("from Ray", exc_info=error)
    lines = [line for line in str(error).splitlines() if line.strip()]
    return RunFailed(f"Ray gave up: {type(error).__name__}: {lines[-1] if lines else 'no message'}")
