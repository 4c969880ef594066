"""Bundles as a Ray Data graph: bundle rows -> a pool of workers -> commit rows. The only module that uses Ray Data.

One Ray Data row is one bundle. The worker that takes it commits the part itself and yields exactly one row, so only a
few hundred bytes cross the object store and a retry repeats at most one bundle (measured against a graph that passes
decoded tensors: the device 98 % busy instead of 87 %). Constraints of Ray 2.60, each tried:

- `max_task_retries` is endless by default, and one dead node uses up 4 retries in six seconds; so 30.
- The pool's minimum size is one, or it stalls when a node is lost.
- `batch_size` must be a number if there are GPUs.
- The data context is copied when the data set is made, so it is set before.
- `**ray_remote_args` is the only way to set retries until 2.64, and warns.
"""

from __future__ import annotations

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
from ray.data import ActorPoolStrategy, DataContext, Dataset
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
"""How often Ray tries a bundle again whose worker died; see above."""
BUNDLES_PER_WORKER = 2
"""Bundles that a worker has in progress at the same time."""
SNAPSHOT_S = 5.0
"""Seconds to wait for the supervisor's answer."""
END_S = 20.0
"""Seconds to wait for Ray Data's threads to end."""
COMMIT_ROW = pa.schema([pa.field("commit", pa.string(), nullable=False)])


def start_supervisor() -> Any:
    """Start the supervisor as an actor on the driver's node. It outlives workers; if it dies, it restarts empty."""
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Supervisor)
    return actor.options(scheduling_strategy=this_node).remote()


def read_heartbeats(supervisor: Any) -> dict[str, WorkerHeartbeat]:
    """Return the last heartbeat of every worker, by worker name; {} while the supervisor restarts."""
    try:
        heartbeats: dict[str, WorkerHeartbeat] = ray.get(supervisor.snapshot.remote(), timeout=SNAPSHOT_S)
    except ray.exceptions.RayError:
        return {}
    return heartbeats


class _RemoteSupervisor:
    """The supervisor as a worker calls it. Only calls whose effect must precede the next step wait for an answer."""

    def __init__(self, actor: Any, run_id: str) -> None:
        self._actor = actor
        self._metrics = WorkerMetrics(run_id)
        self._metrics_lock = threading.Lock()

    def start_bundle(self, bundle: str) -> Attempt:
        attempt: Attempt = ray.get(self._actor.start_bundle.remote(bundle))
        return attempt

    def isolate_bundle(self, bundle: str) -> None:
        ray.get(self._actor.isolate_bundle.remote(bundle))

    def announce_image(self, bundle: str, position: int) -> None:
        ray.get(self._actor.announce_image.remote(bundle, position))

    def finish_bundle(self, bundle: str) -> None:
        self._actor.finish_bundle.remote(bundle)

    def record_heartbeat(self, worker: str, heartbeat: WorkerHeartbeat) -> None:
        self._actor.record_heartbeat.remote(worker, heartbeat)
        with self._metrics_lock:
            self._metrics.report(heartbeat)


class TagBundles:
    """The actor of the pool: a `Worker` behind Ray Data's calling convention."""

    def __init__(self, plan: WorkPlan, placement: Placement, supervisor: Any) -> None:
        # Ray sets this to the actor's share of the CPUs; the models have threads of their own, one per core.
        os.environ["OMP_NUM_THREADS"] = "1"
        decode_pool = None
        if plan.decode != "with_models":
            decode_plan = DecodeWorkerPlan(load=plan.load, source_options=plan.source_options)
            decode_pool = RayDecodePool(decode_plan, placement)
        self._worker = Worker(plan, _RemoteSupervisor(supervisor, plan.run_id), decode_pool=decode_pool)

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Commit each bundle and yield its commit."""
        for row in rows.to_pylist():
            commit = self._worker.tag(Bundle(**row))
            yield pa.Table.from_pylist([{"commit": commit.to_json()}], schema=COMMIT_ROW)


def run_bundles(
    bundles: Sequence[Bundle], *, plan: WorkPlan, placement: Placement, supervisor: Any
) -> Iterator[Commit]:
    """Tag these bundles and yield each commit as it happens, in any order. Runs on the driver.

    Raises what a worker raised if it is a BatchtagError, else RunFailed.
    """
    commits = _make_dataset(bundles, plan=plan, placement=placement, supervisor=supervisor)
    try:
        for batch in commits.iter_batches(batch_size=None, batch_format="pyarrow"):
            assert isinstance(batch, pa.Table)
            for text in batch.column("commit").to_pylist():
                yield Commit.from_json(text)
    except (ray.exceptions.RayError, RuntimeError) as error:
        raise _unwrap_error(error) from error


def _make_dataset(bundles: Sequence[Bundle], *, plan: WorkPlan, placement: Placement, supervisor: Any) -> Dataset:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = -1  # it counts bundles; monitor.StallGuard counts images and bytes
    context.max_errored_blocks = 0
    context.memory_usage_poll_interval_s = None  # the operating system reports what our workers use
    pool = ActorPoolStrategy(
        min_size=1,
        max_size=placement.actors,
        initial_size=placement.actors,
        max_concurrent_calls_per_actor=BUNDLES_PER_WORKER,
        enable_true_multi_threading=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RayDeprecationWarning: no named way to set max_task_retries before 2.64
        rows = ray.data.from_items([asdict(bundle) for bundle in bundles], override_num_blocks=len(bundles))
        return rows.map_batches(
            TagBundles,
            fn_constructor_args=(plan, placement, supervisor),
            batch_size=1,
            batch_format="pyarrow",
            compute=pool,
            num_cpus=placement.cpus_per_actor,
            num_gpus=placement.gpus_per_actor,
            max_task_retries=TASK_RETRIES,
            max_restarts=-1,
        )


# Workaround for Ray 2.60: no public call ends a data set from another thread, and Ray tells of its executor only when a
# first row has arrived. But the executor is a thread, so it can be found. It can go when `Dataset` has a public
# `cancel`, or when the driver no longer uses Ray Data.
def end_workers(consumer: threading.Thread) -> None:
    """End the data set whose commits `consumer` reads, and wait for that thread. Workers are killed; commits stay.

    Ray must not be shut down before: Ray Data's threads then end the process with a segmentation fault (seen in three
    of ten cancelled runs on a busy machine, which kept their lease). Returns after END_S at the latest. Each executor
    is ended in a thread, because this asks Ray, which may not answer. An error there is dropped: it would hide the
    reason why the run ends.
    """
    deadline = time.monotonic() + END_S
    ending: dict[StreamingExecutor, threading.Thread] = {}
    while time.monotonic() < deadline:
        alive = [thread for thread in (consumer, *ending.values()) if thread.is_alive()]
        if not alive:
            return
        for thread in threading.enumerate():
            if isinstance(thread, StreamingExecutor) and ending.get(thread) not in alive:
                ending[thread] = threading.Thread(target=_end_executor, args=(thread,), name="end", daemon=True)
                ending[thread].start()
        alive[0].join(timeout=0.1)


def _end_executor(executor: StreamingExecutor) -> None:
    with suppress(Exception):
        executor.shutdown(force=True)


def _unwrap_error(error: BaseException) -> BatchtagError:
    """Return the BatchtagError in the chain of Ray's exceptions, or a RunFailed with what Ray reported."""
    current: BaseException | None = error
    while current is not None:
        # Ray raises an exception that is of its own class and of ours; our message is only in its `cause`.
        for candidate in (getattr(current, "cause", None), current):
            if isinstance(candidate, BatchtagError) and not isinstance(candidate, ray.exceptions.RayError):
                return candidate
        current = current.__cause__ or current.__context__
    logging.getLogger(__name__).debug("from Ray", exc_info=error)
    lines = [line for line in str(error).splitlines() if line.strip()]
    return RunFailed(f"Ray gave up: {type(error).__name__}: {lines[-1] if lines else 'no message'}")
