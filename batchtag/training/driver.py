"""One training, from its job to a checkpoint that a run can use: the verb `train`.

As in a run, cheap checks that may fail come first, and Ray starts while the images are checked. Finished epochs are
kept: the same command resumes after the last one, and does nothing if all are done.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from datetime import UTC, datetime
from threading import Thread
from typing import Any, TypeVar

from rich.console import Console

from batchtag.cluster.quiet_output import silence_ray
from batchtag.cluster.session import RaySession
from batchtag.config.training import STATES, TrainSpec
from batchtag.datasets.validate import CheckedData, data_digest, problem_lines, read_checked_data
from batchtag.decoding.decoder import DecodeRules
from batchtag.errors import Interrupted, OutputError, RunFailed, StorageError, UsageError
from batchtag.evaluation.result import Evaluation, write_evaluation
from batchtag.evaluation.scoring import Score, headline
from batchtag.output.lease import Lease
from batchtag.runs.progress import ProgressDisplay, RunProgress
from batchtag.storage import join_uri, open_store
from batchtag.system import available_cores, handle_stop_signals, ignore_stop_signals
from batchtag.tasks import Task
from batchtag.training.events import TrainingFinished
from batchtag.training.output_folder import TrainingFolder, check_same_training, training_identity
from batchtag.training.progress import TrainingProgress
from batchtag.training.report import TrainReport
from batchtag.training.tensorboard import TensorBoardWriter

_POLL_S = 0.5
"""Seconds between two updates of the live line."""
_MAX_SHOWN_LABELS = 12

_Result = TypeVar("_Result")


def train_job(
    spec: TrainSpec, *, console: Console, quiet: bool = False, verbose: bool = False
) -> tuple[TrainReport, Score | None]:
    """Train the remaining epochs of this job and write the checkpoint. The score is None if all was done before.

    `spec` must have absolute URIs. Raises a BatchtagError: UsageError for problems of the data that the job does not
    allow, OutputError for an output that belongs to another job, Interrupted, RunFailed. Runs in the driver's main
    thread.
    """
    with silence_ray(unless=verbose), ProgressDisplay(console, quiet=quiet) as display:
        return _Training(spec, display, verbose=verbose).run()


class _Training:
    """One training. Lives in the driver's main thread."""

    def __init__(self, spec: TrainSpec, display: ProgressDisplay, *, verbose: bool) -> None:
        self._spec = spec
        self._out = spec.output.uri
        self._display = display
        self._store = open_store(self._out, spec.output.storage_options)
        self._folder = TrainingFolder(self._out, store=self._store)
        run_id = f"t-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self._lease = Lease(join_uri(self._out, STATES, "lease.json"), store=self._store, run_id=run_id)
        self._ray = RaySession(address=spec.compute.address, verbose=verbose)
        self._report = TrainReport(out=self._out)
        self._started_at = time.monotonic()
        self._num_events_read = 0

    def run(self) -> tuple[TrainReport, Score | None]:
        """Train, and clean up at the end whatever happens."""
        with handle_stop_signals():
            is_done = False
            try:
                self._acquire_lease()
                score = self._train()
                is_done = True
            except KeyboardInterrupt:
                epochs_done = len(self._report.history)
                raise Interrupted(
                    f"training stopped after epoch {epochs_done} of {self._spec.train.epochs}. Run the same command "
                    "again to continue from there"
                ) from None
            finally:
                # 1. A second Ctrl-C must not leave Ray's processes behind.
                ignore_stop_signals()
                # 2. Workers write states until Ray has stopped, so the lease is held until then.
                self._ray.stop(keep_logs=not is_done)
                with contextlib.suppress(StorageError):
                    self._lease.release()
                # 3. The states go last, and only if the checkpoint is complete: a killed training resumes from them.
                if is_done:
                    self._folder.remove_states()
        return self._report, score

    def _acquire_lease(self) -> None:
        try:
            self._lease.acquire()
        except StorageError as error:
            message = f"{self._out} cannot be written: {error.message}. Correct that, or choose another output.uri"
            raise OutputError(message) from error

    def _train(self) -> Score | None:
        record = self._folder.read_record()
        is_done = record is not None and bool(record.get("done"))
        task: Task | None = None
        if not is_done:
            # The network is checked before Ray starts, because a start of Ray must be waited for before it is stopped.
            task = self._check_network()
            self._ray.start()
        data = self._read_data()
        self._check_task(task, data)
        self._print_data(data)
        identity = training_identity(self._spec, data)
        if record is not None:
            check_same_training(record, identity, out=self._out)
        if record is not None and is_done:
            self._report = TrainReport(**(record["report"] | {"out": self._out}))
            self._display.print_line(
                f"{self._out} is already trained; choose another output.uri to train a new checkpoint"
            )
            return None
        self._folder.write_started(identity)
        self._wait_for(self._ray.ready, describe=lambda: "starting Ray")
        finished = self._run_ray_train(data)
        self._write_results(data, finished)
        self._folder.write_done(identity, self._report)
        return finished.score

    def _check_network(self) -> Task:
        """Check the network and fetch its starting weights, so that mistakes are reported before anything else."""
        from batchtag.training.network import check_network

        self._show("checking the network")
        return check_network(self._spec)

    def _check_task(self, task: Task | None, data: CheckedData) -> None:
        if task is not None and task != data.train.task:
            raise UsageError(
                f"network.architecture is {self._spec.network.architecture}, whose task is {task!r}, but the task of "
                f"the labelled images is {data.train.task!r}; choose one of `batchtag models --task {data.train.task}`"
            )

    def _read_data(self) -> CheckedData:
        """Read the labelled images and open every one, in a thread, so that the live line can show the progress."""
        num_done, num_images = 0, 0

        def on_progress(done: int, total: int) -> None:
            nonlocal num_done, num_images
            num_done, num_images = done, total

        threads = 2 * available_cores()
        reading = _run_in_thread(
            lambda: read_checked_data(self._spec.data, rules=DecodeRules(), threads=threads, on_progress=on_progress),
            name="data",
        )
        self._wait_for(reading, describe=lambda: f"checking the labelled images: {num_done:,} of {num_images:,}")
        return reading.result()

    def _print_data(self, data: CheckedData) -> None:
        report, labels = self._report, data.train.labels
        report.num_train, report.num_val = len(data.train.images), len(data.val.images)
        report.problems = dict(data.num_problems)
        more = ", ..." if len(labels) > _MAX_SHOWN_LABELS else ""
        self._display.print_line(
            f"{report.num_train:,} training images, {report.num_val:,} validation images, {len(labels)} classes: "
            f"{', '.join(labels[:_MAX_SHOWN_LABELS])}{more}"
        )
        for line in problem_lines(data.problems, on_problem=self._spec.data.on_problem):
            self._display.print_line(line)

    def _run_ray_train(self, data: CheckedData) -> TrainingFinished:
        """Train with Ray Train, and follow the events of the first training process until it has finished."""
        from batchtag.training import ray_train

        event_log = ray_train.start_event_log()
        trainer = ray_train.make_trainer(self._spec, data, event_log)
        self._show("starting to train")
        fitting = _run_in_thread(trainer.fit, name="fit")
        with TensorBoardWriter(self._out, store=self._store) as curves:
            progress = TrainingProgress(self._display, num_epochs=self._spec.train.epochs, on_epoch=curves.add_epoch)
            while not wait_for([fitting], timeout=_POLL_S).done:
                self._follow(event_log, progress)
            self._follow(event_log, progress)  # events between the last poll and the end
        error = fitting.exception()
        if error is not None:
            raise RunFailed(
                f"training failed: {ray_train.describe_failure(error)}. Run the same command again to continue after "
                "the last epoch"
            )
        if progress.finished is None:
            raise RunFailed("Ray Train has ended without a checkpoint; run the same command again")
        return progress.finished

    def _follow(self, event_log: Any, progress: TrainingProgress) -> None:
        from batchtag.training.ray_train import read_events

        events = read_events(event_log, start=self._num_events_read)
        self._num_events_read += len(events)
        for event in events:
            progress.on_event(event)
        self._report.history = progress.history
        if progress.failure:
            raise RunFailed(f"training failed: {progress.failure}")
        progress.show()

    def _write_results(self, data: CheckedData, finished: TrainingFinished) -> None:
        """Write history.json and the evaluation of the best epoch, and complete the report."""
        self._show("writing the report")
        report = self._report
        report.digest, report.best_epoch = finished.digest, finished.best_epoch
        report.history = list(finished.history)
        report.metrics = headline(finished.score)
        self._folder.write_history(report.history)
        evaluation = Evaluation(
            model=self._out.rsplit("/", 1)[-1],
            digest=report.digest,
            data="its validation data",
            data_digest=data_digest(data.val),
            ground_truth=data.val,
            score=finished.score,
            evaluated_at=datetime.now(UTC),
            num_problems=report.problems,
            settings={"trained_on": f"{report.num_train:,} images", "best_epoch": report.best_epoch},
        )
        write_evaluation(
            evaluation,
            self._out,
            history=report.history,
            best_epoch=report.best_epoch,
            storage_options=self._spec.output.storage_options,
        )
        report.seconds = round(time.monotonic() - self._started_at, 1)

    def _wait_for(self, future: Future[Any], *, describe: Callable[[], str]) -> None:
        """Show what is being waited for until the future is done. Raises its exception."""
        while not wait_for([future], timeout=_POLL_S).done:
            self._show(describe())
        future.result()

    def _show(self, phase: str) -> None:
        self._display.show(RunProgress(phase=phase))


def _run_in_thread(function: Callable[[], _Result], *, name: str) -> Future[_Result]:
    """Call a function in a daemon thread, so that the main thread can show progress and receive signals."""
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        # A broad `except`, because the exception is raised again in the main thread by `future.result()`.
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name=name, daemon=True).start()
    return future
