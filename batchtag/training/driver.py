"""One training, from its job to a checkpoint that the line can run: the verb `train`.

As in a run, what is cheap and may be wrong comes first, and Ray starts while the images are checked. What has been
trained stays: the same command goes on from the last epoch, and does nothing when all is done. OUT/training.json says
which job an output belongs to; two jobs are never mixed in one.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from threading import Thread
from typing import Any

from rich.console import Console

from batchtag import __version__
from batchtag.cluster.session import RaySession, quiet_ray
from batchtag.config.training import STATES, TrainSpec
from batchtag.console import format_duration
from batchtag.datasets.validate import CheckedData, data_digest, problem_lines, read_data
from batchtag.decoding.decoder import DecodeRules
from batchtag.errors import Interrupted, OutputError, RunFailed, StorageError, UsageError
from batchtag.evaluation.result import Evaluation, write_evaluation
from batchtag.evaluation.scoring import Score, headline
from batchtag.output.job_identity import differences
from batchtag.output.lease import Lease
from batchtag.runs.progress import Progress, RunProgress
from batchtag.storage import join_uri, open_store, read_json, scheme_of
from batchtag.storage.retry import WRITES, with_retries
from batchtag.system import available_cores, ignore_signals, stop_signals
from batchtag.tasks import Task
from batchtag.training.plan import News, cores_of_a_worker, plan_training
from batchtag.training.progress import TrainingStory
from batchtag.training.tensorboard import Curves

TRAINING, HISTORY = "training.json", "history.json"
_POLL_S = 0.5


@dataclass(kw_only=True)
class TrainReport:
    """What a training came to."""

    out: str
    digest: str = ""
    num_train: int = 0
    num_val: int = 0
    problems: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> str:
        """Two lines for a person."""
        figures = ", ".join(f"{name} {value:.3f}" for name, value in self.metrics.items())
        return (
            f"trained {self.out} on {self.num_train:,} images in {format_duration(self.seconds)}: "
            f"epoch {self.best_epoch} "
            f"of {len(self.history)} is the best, on {self.num_val:,} images {figures}"
        )


def train_job(
    spec: TrainSpec, *, console: Console, quiet: bool = False, verbose: bool = False
) -> tuple[TrainReport, Score | None]:
    """Train what is left of this job, and write the checkpoint. The score is None if all was done before.

    `spec` has absolute URIs. Raises a BatchtagError: UsageError for data with problems that the job does not forgive,
    OutputError for an output that belongs to another job, Interrupted, RunFailed.
    """
    with quiet_ray(unless=verbose), Progress(console, quiet=quiet) as progress:
        return _Training(spec, progress, verbose=verbose).do()


class _Training:
    """One training while it happens. Lives in the driver's main thread."""

    def __init__(self, spec: TrainSpec, progress: Progress, *, verbose: bool) -> None:
        self._spec = spec
        self._out = spec.output.uri
        self._progress = progress
        self._store = open_store(self._out, spec.output.storage_options)
        run_id = f"t-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self._lease = Lease(join_uri(self._out, STATES, "lease.json"), store=self._store, run_id=run_id)
        self._ray = RaySession(address=spec.compute.address, verbose=verbose)
        self._report = TrainReport(out=self._out)
        self._began = time.monotonic()
        self._seen = 0

    def do(self) -> tuple[TrainReport, Score | None]:
        """The whole training, and its end whatever happens."""
        with stop_signals():
            failed = True
            try:
                self._take_out()
                score = self._work()
                failed = False
            except KeyboardInterrupt:
                done = len(self._report.history)
                raise Interrupted(
                    f"stopped after epoch {done} of {self._spec.train.epochs}. The same command goes on from there"
                ) from None
            finally:
                ignore_signals()
                self._ray.stop(keep_logs=failed)
                with contextlib.suppress(StorageError):
                    self._lease.release()
                if not failed:
                    self._remove_states()
        return self._report, score

    def _take_out(self) -> None:
        try:
            self._lease.acquire()
        except StorageError as error:
            message = f"{self._out} cannot be written: {error.message}. Mend it or choose another output.uri"
            raise OutputError(message) from error

    def _work(self) -> Score | None:
        known = self._known()
        is_done = known is not None and known.get("done")
        if not is_done:
            task = self._checked_network()  # before Ray, whose start must be waited for to be stopped
            self._ray.start()
        data = self._data()
        if not is_done and task != data.train.task:
            raise UsageError(
                f"network.architecture is {self._spec.network.architecture}, which can {task}, and the labelled "
                f"images are to {data.train.task}; `batchtag models --task {data.train.task}` lists what can"
            )
        self._tell_of(data)
        mine = self._identity(data)
        if known is not None:
            self._check_same(known, mine)
            if known.get("done"):
                self._done_before(known)
                return None
        self._write(TRAINING, mine | {"done": False})
        self._wait("starting Ray", self._ray.ready)
        end = self._fit(data)
        report = self._report
        score: Score = end["score"]
        report.digest, report.history, report.best_epoch = end["digest"], end["history"], end["best_epoch"]
        report.metrics = headline(score)
        self._progress.show(RunProgress(phase="writing the report"))
        self._write(HISTORY, report.history)
        write_evaluation(
            self._evaluation(data, score),
            self._out,
            history=report.history,
            best_epoch=report.best_epoch,
            storage_options=self._spec.output.storage_options,
        )
        report.seconds = round(time.monotonic() - self._began, 1)
        self._write(TRAINING, mine | {"done": True, "report": self._plain_report()})
        return score

    def _checked_network(self) -> Task:
        """What the network does. Its first weights are fetched, so that what cannot be had is told before all else."""
        from batchtag.training.network import check_network

        self._show("checking the network")
        return check_network(self._spec)

    def _evaluation(self, data: CheckedData, score: Score) -> Evaluation:
        report = self._report
        return Evaluation(
            model=self._out.rsplit("/", 1)[-1],
            digest=report.digest,
            data="its validation data",
            data_digest=data_digest(data.val),
            ground_truth=data.val,
            score=score,
            evaluated_at=datetime.now(UTC),
            num_problems=report.problems,
            settings={"trained_on": f"{report.num_train:,} images", "best_epoch": report.best_epoch},
        )

    def _known(self) -> dict[str, Any] | None:
        """training.json of the output, if a training was here."""
        found = read_json(join_uri(self._out, TRAINING), store=self._store, build=dict)
        if found is not None:
            return found[0]
        if read_json(join_uri(self._out, "model.json"), store=self._store, build=dict) is not None:
            raise OutputError(f"{self._out} holds a checkpoint that no training left here; choose another output.uri")
        return None

    def _identity(self, data: CheckedData) -> dict[str, Any]:
        """All that decides the weights. Not where the data lie: the same images elsewhere are the same job."""
        hidden: Any = {"data": True, "compute": True, "output": {"uri", "storage_options"}}
        said = self._spec.model_dump(mode="json", exclude=hidden)
        said["network"].pop("storage_options", None)
        return {"job": said | {"data_digest": data.digest, "labels": list(data.train.labels)}, "batchtag": __version__}

    def _check_same(self, known: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
        found = list(differences(known.get("job", {}), mine["job"]))
        if found:
            raise OutputError(
                f"{self._out} holds the training of another job: {'; '.join(found[:5])}. Choose another output.uri, or "
                "delete what is there"
            )

    def _done_before(self, known: Mapping[str, Any]) -> None:
        self._report = TrainReport(**(known["report"] | {"out": self._out}))
        self._progress.say(f"{self._out} is trained already; for a new training choose another output.uri")

    def _data(self) -> CheckedData:
        """The labelled images, every one opened, in a thread so that one sees how far it is."""
        seen = [0, 0]
        found: Future[CheckedData] = Future()

        def told(done: int, total: int) -> None:
            seen[:] = [done, total]

        def read() -> None:
            try:
                threads = 2 * available_cores()
                found.set_result(read_data(self._spec.data, rules=DecodeRules(), threads=threads, told=told))
            except BaseException as error:
                found.set_exception(error)

        Thread(target=read, name="data", daemon=True).start()
        while not wait_for([found], timeout=_POLL_S).done:
            self._show(f"checking the labelled images: {seen[0]:,} of {seen[1]:,}")
        return found.result()

    def _tell_of(self, data: CheckedData) -> None:
        report, labels = self._report, data.train.labels
        report.num_train, report.num_val = len(data.train.images), len(data.val.images)
        report.problems = dict(data.num_problems)
        self._progress.say(
            f"{report.num_train:,} images to train on, {report.num_val:,} to measure on, {len(labels)} "
            f"classes: {', '.join(labels[:12])}{', ...' if len(labels) > 12 else ''}"
        )
        for line in problem_lines(data.problems, on_problem=self._spec.data.on_problem):
            self._progress.say(line)

    def _fit(self, data: CheckedData) -> News:
        """Let Ray Train train, and tell of it until the first worker says what came out."""
        from batchtag.training import ray_train

        use_gpu = ray_train.has_gpus(self._spec.compute.device)
        cores = cores_of_a_worker(ray_train.nodes(), workers=self._spec.compute.workers, use_gpu=use_gpu)
        plan = plan_training(self._spec, data, use_gpu=use_gpu, cores=cores)
        board = ray_train.make_board()
        trainer = ray_train.make_trainer(plan, board, use_gpu=use_gpu)
        fitted: Future[None] = Future()

        def fit() -> None:
            try:
                trainer.fit()
                fitted.set_result(None)
            except BaseException as error:
                fitted.set_exception(error)

        self._show("starting to train")
        Thread(target=fit, name="fit", daemon=True).start()
        with Curves(self._out, store=self._store) as curves:
            story = TrainingStory(self._progress, epochs=self._spec.train.epochs, on_epoch=curves.add)
            while not wait_for([fitted], timeout=_POLL_S).done:
                self._follow(board, story)
            self._follow(board, story)
        error = fitted.exception()
        if error is not None:
            raise RunFailed(f"training failed: {ray_train.reason(error)}. The same command goes on from the last epoch")
        if story.end is None:
            raise RunFailed("Ray Train says that all is done, and no checkpoint came; run the same command again")
        return story.end

    def _follow(self, board: Any, story: TrainingStory) -> None:
        import ray

        news = ray.get(board.since.remote(self._seen))
        self._seen += len(news)
        for one in news:
            story.hear(one)
        self._report.history = story.history
        if story.failure:
            raise RunFailed(f"training failed: {story.failure}")
        story.show()

    def _plain_report(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self._report).items() if name != "out"}

    def _write(self, name: str, content: Any) -> None:
        data = json.dumps(content, indent=1, ensure_ascii=False).encode()
        with_retries(lambda: self._store.write(join_uri(self._out, name), data), policy=WRITES)

    def _remove_states(self) -> None:
        """What only an unfinished training needs. What cannot be removed does no harm."""
        folder = join_uri(self._out, STATES)
        with contextlib.suppress(StorageError):
            for page in list(self._store.walk(folder)):
                for file in page:
                    self._store.delete(file.uri)
        if scheme_of(folder) == "file":
            shutil.rmtree(folder.removeprefix("file://"), ignore_errors=True)

    def _wait(self, what: str, until: Future[None]) -> None:
        while not wait_for([until], timeout=_POLL_S).done:
            self._show(what)
        until.result()

    def _show(self, what: str) -> None:
        self._progress.show(RunProgress(phase=what))
