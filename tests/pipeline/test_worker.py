from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from batchtag import models
from batchtag.config.model import ConstantSpec
from batchtag.decoding.decoder import DecodeRules
from batchtag.errors import LeaseLost, ModelError, RunFailed
from batchtag.output.layout import Layout
from batchtag.output.lease import Lease
from batchtag.output.types import Bundle
from batchtag.pipeline import worker
from batchtag.pipeline.concurrency import DeviceSlots
from batchtag.pipeline.inference import Hold, predict_batch
from batchtag.pipeline.loader import LoadPlan
from batchtag.pipeline.remote_loader import DecodeTask, RemoteLoader
from batchtag.pipeline.supervisor import MAX_UNEXPLAINED_STARTS, Supervisor
from batchtag.pipeline.worker import Worker, WorkPlan
from batchtag.storage.base import Blob
from batchtag.storage.local import LocalStore
from batchtag.types import ImageRef, Prediction
from tests.support.samples import freeze, image_folder

SPEC = ConstantSpec(task="detect", tag="thing")
STORE = LocalStore()


class Run:
    """A folder of images, an index of it, a lease, and workers when asked for."""

    def __init__(self, folder: Path, *, num_images: int = 10, size: int = 5) -> None:
        self.layout = Layout(str(folder / "out"))
        self.listed = image_folder(folder / "images", num_images)
        self.bundles = freeze(self.listed, store=STORE, layout=self.layout, size=size)
        self.supervisor = Supervisor()
        self.lease = Lease(self.layout.lease, store=STORE, run_id="r-1")

    def worker(self, *, batch_size: int = 4, supervisor: Any = None) -> Worker:
        return Worker(self.plan(batch_size=batch_size), supervisor or self.supervisor)

    def plan(self, *, batch_size: int = 4) -> WorkPlan:
        info = models.prepare(SPEC)
        load = LoadPlan(
            rules=DecodeRules(),
            resolutions=(info.input_resolution,),
            decode_timeout_s=30.0,
            fetches=4,
            decode_threads=2,
            batch_size=batch_size,
        )
        return WorkPlan(
            run_id="r-1",
            out=self.layout.out,
            models=(SPEC,),
            model_infos=(info,),
            load=load,
            runtime=models.Runtime(),
        )

    def rows(self, table: str, bundle: Bundle) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(self.layout.part(table, bundle.id)).to_pylist()
        return rows


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path)
    run.lease.acquire()
    yield run
    run.lease.release()


def test_a_bundle_is_committed_with_one_row_per_image_and_boxes_of_the_displayed_size(run: Run) -> None:
    bundle = run.bundles[1]
    commit = run.worker().tag(bundle)
    assert (commit.part, commit.num_images, commit.num_tagged, commit.num_tags) == (bundle.id, 5, 5, 5)
    images, tags = run.rows("images", bundle), run.rows("tags", bundle)
    assert [row["position"] for row in images] == [5, 6, 7, 8, 9]
    assert [row["uri"] for row in images] == [image.uri for image in run.listed[5:]]
    assert [(row["uri"], row["x_max"], row["y_max"]) for row in tags] == [
        (row["uri"], row["width"], row["height"]) for row in images
    ]
    assert {row["run_id"] for row in (*images, *tags)} == {"r-1"}


def test_a_committed_bundle_is_not_tagged_again(run: Run) -> None:
    bundle = run.bundles[0]
    first = run.worker().tag(bundle)
    for image in run.listed:
        Path(image.uri).unlink()
    before = Path(run.layout.part("images", bundle.id)).stat().st_mtime_ns
    assert run.worker().tag(bundle) == first
    assert Path(run.layout.part("images", bundle.id)).stat().st_mtime_ns == before


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_rows_depend_neither_on_the_batch_size_nor_on_isolation(run: Run, batch_size: int) -> None:
    Path(run.listed[2].uri).write_bytes(b"no image")
    bundle, other = run.bundles
    run.worker(batch_size=4).tag(bundle)
    expected = comparable(run, bundle)
    Path(run.layout.part("images", bundle.id)).unlink()
    run.worker(batch_size=batch_size).tag(bundle)
    assert comparable(run, bundle) == expected
    Path(run.layout.part("images", bundle.id)).unlink()
    run.supervisor.isolate_bundle(bundle.id)
    run.worker().tag(bundle)
    assert comparable(run, bundle) == expected
    assert other.first == 5


def comparable(run: Run, bundle: Bundle) -> list[list[dict[str, Any]]]:
    tables = [run.rows(table, bundle) for table in ("images", "tags", "errors")]
    for row in tables[0]:
        del row["tagged_at"]
    return tables


def test_an_image_that_killed_twice_becomes_crashed_and_its_neighbours_are_tagged(run: Run) -> None:
    bundle = run.bundles[0]
    for _ in range(2):
        run.supervisor.start_bundle(bundle.id)
        run.supervisor.announce_image(bundle.id, 3)
    commit = run.worker().tag(bundle)
    assert (commit.num_tagged, commit.failed_by_code) == (4, {"crashed": 1})
    (error,) = run.rows("errors", bundle)
    assert (error["uri"], error["stage"], error["attempts"]) == (run.listed[3].uri, "predict", 2)


def test_an_image_that_kills_the_decoder_becomes_crashed_in_an_isolated_bundle(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child that decodes is really killed, when it is given the image with that colour."""
    from batchtag.decoding import subprocess_decoder

    poison = Path(run.listed[2].uri).read_bytes()
    send = subprocess_decoder._send

    def deadly(pipe: Any, message: Any) -> None:
        data, rules, resolutions = message
        send(pipe, (data, _Exit() if data == poison else rules, resolutions))

    monkeypatch.setattr(subprocess_decoder, "_send", deadly)
    bundle = run.bundles[0]
    run.supervisor.isolate_bundle(bundle.id)
    commit = run.worker().tag(bundle)
    assert (commit.num_tagged, commit.failed_by_code) == (4, {"crashed": 1})
    (error,) = run.rows("errors", bundle)
    assert (error["uri"], error["stage"]) == (run.listed[2].uri, "decode")


class _Exit:
    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        import os

        return os._exit, (9,)


class RecordingSupervisor:
    """A supervisor that records the announced images in order."""

    def __init__(self) -> None:
        self.announced: list[tuple[str, int]] = []
        self._supervisor = Supervisor()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._supervisor, name)

    def announce_image(self, bundle: str, position: int) -> None:
        self.announced.append((bundle, position))
        self._supervisor.announce_image(bundle, position)


def test_an_isolated_bundle_announces_each_image_and_the_end_of_the_last(run: Run) -> None:
    recorder = RecordingSupervisor()
    recorder.isolate_bundle(run.bundles[0].id)
    run.worker(supervisor=recorder).tag(run.bundles[0])
    assert [position for _, position in recorder.announced] == [0, 1, 2, 3, 4, -1]


def test_two_bundles_at_once_in_one_worker_are_both_committed(run: Run) -> None:
    one = run.worker()
    commits = in_threads(one.tag, run.bundles)
    assert sorted(commit.part for commit in commits) == [bundle.id for bundle in run.bundles]
    assert [row["position"] for bundle in run.bundles for row in run.rows("images", bundle)] == list(range(10))


def in_threads(call: Callable[[Bundle], Any], bundles: Sequence[Bundle]) -> list[Any]:
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda b=bundle: answers.append(call(b))) for bundle in bundles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def test_an_isolated_bundle_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A death of the worker meanwhile is then due to that bundle."""
    run = Run(tmp_path, num_images=40, size=10)
    run.lease.acquire()
    now: set[int] = set()
    together: list[set[int]] = []

    def observed_predict(batch: Any, models: Any, **others: Any) -> Any:
        bundle = batch[0].ref.position // 10
        now.add(bundle)
        together.append(set(now))
        return predict_batch(batch, models, **others)

    class ObservedSupervisor(Supervisor):
        def finish_bundle(self, bundle: str) -> None:
            now.discard(int(bundle[:12]) // 10)
            super().finish_bundle(bundle)

    monkeypatch.setattr(worker, "predict_batch", observed_predict)
    run.supervisor = ObservedSupervisor()
    run.supervisor.isolate_bundle(run.bundles[2].id)
    assert len(in_threads(run.worker(batch_size=2).tag, run.bundles)) == 4
    assert {2} in together
    assert [others for others in together if 2 in others and len(others) > 1] == []
    run.lease.release()


def test_no_image_is_fetched_before_the_store_is_opened(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    too_early: list[bool] = []

    class Watched(LocalStore):
        def read(self, uri: str, *, max_bytes: int | None = None, if_etag: str = "") -> Blob:
            if uri == run.listed[0].uri:
                asked.set()
            return super().read(uri, max_bytes=max_bytes, if_etag=if_etag)

    monkeypatch.setattr(worker, "open_store", lambda uri, options: Watched())
    monkeypatch.setattr(worker, "_warm_up", lambda uri, options: too_early.append(asked.wait(0.2)))
    run.worker().tag(run.bundles[0])
    assert too_early == [False]


def test_a_worker_whose_device_is_lost_ends_before_another_bundle_gets_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(Exception):
        pass

    ends: list[tuple[bool, str]] = []

    def die(self: Worker, bundle: Bundle, reason: str) -> NoReturn:
        ends.append((self._device._permits.acquire(blocking=False), reason))
        raise Ended

    class Broken:
        info = models.prepare(SPEC)

        def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
            raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(Worker, "_die", die)
    one = run.worker()
    one._models = [(Broken.info, Broken())]
    with pytest.raises(Ended):
        one.tag(run.bundles[0])
    assert ends == [(False, "the device is lost: CUDA error: an illegal memory access")]


def test_decode_workers_that_do_not_help_are_dismissed_and_the_worker_decodes_by_itself(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class UselessPool:
        is_dismissed = False

        def slots(self) -> int:
            return 0 if self.is_dismissed else 4

        def start(self) -> None:
            pytest.fail("no decode worker is wanted")

        def submit(self, refs: list[ImageRef]) -> DecodeTask | None:
            pytest.fail("nothing is sent to decode workers")

        def dismiss(self) -> None:
            self.is_dismissed = True

    pool = UselessPool()
    monkeypatch.setattr(RemoteLoader, "is_unhelpful", True)
    plan = dataclasses.replace(run.plan(), decode="auto")
    assert Worker(plan, run.supervisor, decode_pool=pool).tag(run.bundles[0]).num_images == 5
    assert pool.is_dismissed


def test_a_fatal_bundle_fails_the_run_and_the_message_has_its_positions(run: Run) -> None:
    bundle = run.bundles[0]
    for _ in range(MAX_UNEXPLAINED_STARTS):
        run.supervisor.start_bundle(bundle.id)
    with pytest.raises(RunFailed, match=rf"bundle {bundle.id} was started 21 times .* positions {bundle.id}"):
        run.worker().tag(bundle)


def test_a_worker_of_a_run_that_was_declared_dead_commits_nothing(run: Run) -> None:
    run.lease.release()
    with pytest.raises(LeaseLost):
        run.worker().tag(run.bundles[0])
    assert not Path(run.layout.part("images", run.bundles[0].id)).exists()


def test_a_model_that_differs_from_the_drivers_is_refused(run: Run) -> None:
    plan = run.plan()
    other = dataclasses.replace(plan.model_infos[0], digest="ffffffffffff")
    with pytest.raises(ModelError, match=r"has digest \w+ on this worker and ffffffffffff on the driver"):
        Worker(dataclasses.replace(plan, model_infos=(other,)), run.supervisor)


def test_statistics_count_every_image_once(run: Run) -> None:
    Path(run.listed[4].uri).write_bytes(b"no image")
    one = run.worker()
    for bundle in run.bundles:
        one.tag(bundle)
    one.send_heartbeat()
    stats = run.supervisor.snapshot()[one.name].stats
    assert (stats.num_images, stats.num_tags, stats.num_failed) == (10, 9, 1)
    assert stats.examples == {"unsupported": [run.listed[4].uri]}
    assert stats.fetched_bytes == sum(Path(image.uri).stat().st_size for image in run.listed)


def test_decoded_images_count_as_waiting_until_the_device_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, num_images=10, size=10)
    run.lease.acquire()
    Path(run.listed[8].uri).write_bytes(b"no image")
    monkeypatch.setattr(
        worker, "HEARTBEAT_S", 1e6
    )  # or an earlier heartbeat could arrive after the one that is asked for
    one = run.worker(batch_size=4)
    waiting: list[int] = []

    def reported() -> int:
        one.send_heartbeat()
        return run.supervisor.snapshot()[one.name].num_waiting

    def observed_predict(batch: Any, models: Any, *, hold: Hold) -> Any:
        @contextmanager
        def hold_and_report() -> Iterator[None]:
            with hold():
                one._loader._pool.shutdown()  # then every image ahead is decoded
                waiting.append(reported())
                yield

        return predict_batch(batch, models, hold=hold_and_report)

    monkeypatch.setattr(worker, "predict_batch", observed_predict)
    one.tag(run.bundles[0])
    assert waiting == [5, 1, 0]
    assert reported() == 0
    run.lease.release()


def test_seconds_with_two_batches_on_the_device_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("batchtag.pipeline.concurrency.time.monotonic", lambda: now)
    device = DeviceSlots(num_batches=2)
    with device.acquire():
        now = 1.0
        with device.acquire():
            now = 3.0
        now = 4.0
    now = 10.0
    assert device.busy_s() == 4.0
    with device.acquire():
        now = 12.0
        assert device.busy_s() == 6.0


@pytest.mark.parametrize(("threads", "batches"), [(1, 1), (2, 2)])
def test_a_worker_has_two_batches_on_the_device_if_its_models_run_side_by_side(
    threads: int, batches: int, tmp_path: Path
) -> None:
    run = Run(tmp_path)
    run.lease.acquire()
    plan = dataclasses.replace(run.plan(), runtime=models.Runtime(threads=threads))
    one = Worker(plan, run.supervisor)
    taken = [one._device._permits.acquire(blocking=False) for _ in range(3)]
    assert taken.count(True) == batches
    run.lease.release()


@pytest.mark.parametrize("batches", [1, 2])
def test_no_more_batches_are_on_the_device_than_it_has_slots(batches: int) -> None:
    device, inside = DeviceSlots(num_batches=batches), threading.Barrier(batches + 1)
    leave = threading.Event()

    def use_device() -> None:
        with device.acquire():
            inside.wait(timeout=30)
            leave.wait(timeout=30)

    threads = [threading.Thread(target=use_device) for _ in range(batches)]
    for thread in threads:
        thread.start()
    inside.wait(timeout=30)
    assert not device._permits.acquire(blocking=False)
    leave.set()
    for thread in threads:
        thread.join()
    assert device._permits.acquire(blocking=False)


_STUCK_DECODER_SCRIPT = """
import sys, threading
from pathlib import Path
from batchtag.pipeline import loader
from tests.pipeline.test_worker import Run

run = Run(Path(sys.argv[1]))
run.lease.acquire()
def stuck(data, **rest):
    threading.Event().wait()

class PrintingSupervisor:
    def __getattr__(self, name): return getattr(run.supervisor, name)
    def isolate_bundle(self, bundle): print("isolate", bundle, flush=True)

loader.decode = stuck
plan = run.plan()
import dataclasses
plan = dataclasses.replace(plan, load=dataclasses.replace(plan.load, decode_timeout_s=0.1))
from batchtag.pipeline.worker import Worker
Worker(plan, PrintingSupervisor()).tag(run.bundles[1])
"""


def test_a_worker_with_a_stuck_decoder_asks_for_isolation_and_ends_itself(tmp_path: Path) -> None:
    script = [sys.executable, "-c", _STUCK_DECODER_SCRIPT, str(tmp_path)]
    ended = subprocess.run(
        script, capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2]
    )
    assert (ended.returncode, ended.stdout) == (1, "isolate 000000000005-000000000009\n")
    assert "hangs the decoder" in ended.stderr


def test_options_with_secrets_are_not_shown(run: Run) -> None:
    plan = dataclasses.replace(run.plan(), out_options={"secret": "hunter2"}, source_options={"secret": "hunter2"})
    assert "hunter2" not in repr(plan)


def test_a_worker_with_the_constant_model_imports_neither_torch_nor_ray() -> None:
    modules = "batchtag.pipeline.worker, batchtag.models.constant"
    script = f"import sys, {modules}; print({{'torch', 'ray', 'duckdb'}} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"
