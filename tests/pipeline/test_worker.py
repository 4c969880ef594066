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
from batchtag.pipeline.inference import Hold, look
from batchtag.pipeline.loader import LoadPlan
from batchtag.pipeline.remote_loader import DecodeTask, RemoteLoader
from batchtag.pipeline.supervisor import STARTS_WITHOUT_A_NAME, Supervisor
from batchtag.pipeline.worker import Worker, WorkPlan, _Device
from batchtag.storage.base import Blob
from batchtag.storage.local import LocalStore
from batchtag.types import ImageResult, Prediction
from tests.support.samples import freeze, image_folder

SPEC = ConstantSpec(task="detect", tag="thing")
STORE = LocalStore()


class Run:
    """A folder of images, an index of it, a lease, and workers when asked for."""

    def __init__(self, folder: Path, *, num_images: int = 10, size: int = 5) -> None:
        self.layout = Layout(str(folder / "out"))
        self.listed = image_folder(folder / "images", num_images)
        self.bundles = freeze(self.listed, store=STORE, layout=self.layout, size=size)
        self.monitor = Supervisor()
        self.lease = Lease(self.layout.lease, store=STORE, run_id="r-1")

    def worker(self, *, batch_images: int = 4, monitor: Any = None) -> Worker:
        return Worker(self.plan(batch_images=batch_images), monitor or self.monitor)

    def plan(self, *, batch_images: int = 4) -> WorkPlan:
        info = models.prepare(SPEC)
        stream = LoadPlan(
            rules=DecodeRules(),
            input_resolutions=(info.input_resolution,),
            decode_timeout_s=30.0,
            fetches=4,
            decode_threads=2,
            batch_images=batch_images,
        )
        return WorkPlan(
            run_id="r-1",
            out=self.layout.out,
            models=(SPEC,),
            infos=(info,),
            stream=stream,
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


def test_a_bundle_is_committed_with_one_row_an_image_and_boxes_of_the_displayed_size(run: Run) -> None:
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


def test_a_bundle_that_is_committed_is_not_done_again(run: Run) -> None:
    bundle = run.bundles[0]
    first = run.worker().tag(bundle)
    for image in run.listed:
        Path(image.uri).unlink()
    before = Path(run.layout.part("images", bundle.id)).stat().st_mtime_ns
    assert run.worker().tag(bundle) == first
    assert Path(run.layout.part("images", bundle.id)).stat().st_mtime_ns == before


@pytest.mark.parametrize("batch_images", [1, 3, 64])
def test_rows_do_not_depend_on_the_size_of_a_batch_or_on_care(run: Run, batch_images: int) -> None:
    Path(run.listed[2].uri).write_bytes(b"no image")
    bundle, careful = run.bundles
    run.worker(batch_images=4).tag(bundle)
    expected = comparable(run, bundle)
    Path(run.layout.part("images", bundle.id)).unlink()
    run.worker(batch_images=batch_images).tag(bundle)
    assert comparable(run, bundle) == expected
    Path(run.layout.part("images", bundle.id)).unlink()
    run.monitor.needs_care(bundle.id)
    run.worker().tag(bundle)
    assert comparable(run, bundle) == expected
    assert careful.first == 5


def comparable(run: Run, bundle: Bundle) -> list[list[dict[str, Any]]]:
    tables = [run.rows(table, bundle) for table in ("images", "tags", "errors")]
    for row in tables[0]:
        del row["tagged_at"]
    return tables


def test_images_that_killed_twice_are_given_up_and_their_neighbours_are_tagged(run: Run) -> None:
    bundle = run.bundles[0]
    for _ in range(2):
        run.monitor.start(bundle.id)
        run.monitor.at(bundle.id, 3)
    commit = run.worker().tag(bundle)
    assert (commit.num_tagged, commit.failed_by_code) == (4, {"crashed": 1})
    (error,) = run.rows("errors", bundle)
    assert (error["uri"], error["stage"], error["attempts"]) == (run.listed[3].uri, "predict", 2)


def test_a_image_that_kills_the_decoder_is_crashed_in_a_careful_bundle(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child that decodes is really killed, when it is given the image with that colour."""
    from batchtag.decoding import subprocess_decoder

    poison = Path(run.listed[2].uri).read_bytes()
    send = subprocess_decoder._send

    def deadly(pipe: Any, message: Any) -> None:
        data, rules, input_resolutions = message
        send(pipe, (data, _Exit() if data == poison else rules, input_resolutions))

    monkeypatch.setattr(subprocess_decoder, "_send", deadly)
    bundle = run.bundles[0]
    run.monitor.needs_care(bundle.id)
    commit = run.worker().tag(bundle)
    assert (commit.num_tagged, commit.failed_by_code) == (4, {"crashed": 1})
    (error,) = run.rows("errors", bundle)
    assert (error["uri"], error["stage"]) == (run.listed[2].uri, "decode")


class _Exit:
    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        import os

        return os._exit, (9,)


class Story:
    """The monitor, and what it was told in which order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self._monitor = Supervisor()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._monitor, name)

    def at(self, bundle: str, position: int) -> None:
        self.told.append((bundle, position))
        self._monitor.at(bundle, position)


def test_a_careful_bundle_announces_each_image_and_that_it_left_the_last(run: Run) -> None:
    story = Story()
    story.needs_care(run.bundles[0].id)
    run.worker(monitor=story).tag(run.bundles[0])
    assert [position for _, position in story.told] == [0, 1, 2, 3, 4, -1]


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


def test_a_careful_bundle_is_alone_with_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever dies while it is in there died of it."""
    run = Run(tmp_path, num_images=40, size=10)
    run.lease.acquire()
    now: set[int] = set()
    together: list[set[int]] = []
    original = look

    def watched(batch: Any, loaded: Any, **others: Any) -> None:
        bundle = batch[0].outcome.ref.position // 10
        now.add(bundle)
        together.append(set(now))
        original(batch, loaded, **others)

    class Leaving(Supervisor):
        def done(self, bundle: str) -> None:
            now.discard(int(bundle[:12]) // 10)
            super().done(bundle)

    monkeypatch.setattr(worker, "look", watched)
    run.monitor = Leaving()
    run.monitor.needs_care(run.bundles[2].id)
    assert len(in_threads(run.worker(batch_images=2).tag, run.bundles)) == 4
    assert {2} in together
    assert [others for others in together if 2 in others and len(others) > 1] == []
    run.lease.release()


def test_no_image_is_asked_for_before_the_way_to_the_store_is_known(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
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

    def die(self: Worker, bundle: Bundle, why: str) -> NoReturn:
        ends.append((self._device._free.acquire(blocking=False), why))
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


def test_openers_that_are_no_help_are_let_go_and_the_worker_opens_its_images(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Useless:
        is_employed = True

        def slots(self) -> int:
            return 4 if self.is_employed else 0

        def start(self) -> None:
            pytest.fail("nobody asked for them")

        def open(self, outcomes: list[ImageResult]) -> DecodeTask | None:
            pytest.fail("nothing is sent to them")

        def dismiss(self) -> None:
            self.is_employed = False

    others = Useless()
    monkeypatch.setattr(RemoteLoader, "is_no_help", True)
    plan = dataclasses.replace(run.plan(), decode="auto")
    assert Worker(plan, run.monitor, openers=others).tag(run.bundles[0]).num_images == 5
    assert not others.is_employed


def test_a_bundle_without_hope_fails_the_run_and_says_which_positions(run: Run) -> None:
    bundle = run.bundles[0]
    for _ in range(STARTS_WITHOUT_A_NAME):
        run.monitor.start(bundle.id)
    with pytest.raises(RunFailed, match=rf"bundle {bundle.id} was begun 21 times .* positions {bundle.id}"):
        run.worker().tag(bundle)


def test_a_worker_of_a_run_that_was_declared_dead_commits_nothing(run: Run) -> None:
    run.lease.release()
    with pytest.raises(LeaseLost):
        run.worker().tag(run.bundles[0])
    assert not Path(run.layout.part("images", run.bundles[0].id)).exists()


def test_a_model_that_is_another_one_here_is_refused(run: Run) -> None:
    plan = run.plan()
    other = dataclasses.replace(plan.infos[0], digest="ffffffffffff")
    with pytest.raises(ModelError, match=r"has digest \w+ on this worker and ffffffffffff where the run began"):
        Worker(dataclasses.replace(plan, infos=(other,)), run.monitor)


def test_figures_count_every_image_once(run: Run) -> None:
    Path(run.listed[4].uri).write_bytes(b"no image")
    one = run.worker()
    for bundle in run.bundles:
        one.tag(bundle)
    one.beat()
    counters = run.monitor.snapshot()[one.name].counters
    assert (counters.num_images, counters.num_tags, counters.num_failed) == (10, 9, 1)
    assert counters.examples == {"unsupported": [run.listed[4].uri]}
    assert counters.fetched_bytes == sum(Path(image.uri).stat().st_size for image in run.listed)


def test_images_that_are_opened_and_wait_for_the_device_are_counted_until_it_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, num_images=10, size=10)
    run.lease.acquire()
    Path(run.listed[8].uri).write_bytes(b"no image")
    monkeypatch.setattr(worker, "BEAT_S", 1e6)  # or a beat of before could come after the one that is asked for
    one = run.worker(batch_images=4)
    waiting: list[int] = []

    def told() -> int:
        one.beat()
        return run.monitor.snapshot()[one.name].num_waiting

    def watched(batch: Any, loaded: Any, *, hold: Hold) -> None:
        @contextmanager
        def on_the_device() -> Iterator[None]:
            with hold():
                one._stream._pool.shutdown()  # all that is ahead has been opened then
                waiting.append(told())
                yield

        look(batch, loaded, hold=on_the_device)

    monkeypatch.setattr(worker, "look", watched)
    one.tag(run.bundles[0])
    assert waiting == [5, 1, 0]
    assert told() == 0
    run.lease.release()


def test_seconds_in_which_two_batches_are_looked_at_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("batchtag.pipeline.worker.time.monotonic", lambda: now)
    device = _Device(batches=2)
    with device.taken():
        now = 1.0
        with device.taken():
            now = 3.0
        now = 4.0
    now = 10.0
    assert device.busy_s() == 4.0
    with device.taken():
        now = 12.0
        assert device.busy_s() == 6.0


@pytest.mark.parametrize(("threads", "batches"), [(1, 1), (2, 2)])
def test_a_worker_looks_at_two_batches_where_images_are_looked_at_side_by_side(
    threads: int, batches: int, tmp_path: Path
) -> None:
    run = Run(tmp_path)
    run.lease.acquire()
    plan = dataclasses.replace(run.plan(), runtime=models.Runtime(threads=threads))
    one = Worker(plan, run.monitor)
    taken = [one._device._free.acquire(blocking=False) for _ in range(3)]
    assert taken.count(True) == batches
    run.lease.release()


@pytest.mark.parametrize("batches", [1, 2])
def test_no_more_batches_are_looked_at_at_a_time_than_there_is_room_for(batches: int) -> None:
    device, inside = _Device(batches=batches), threading.Barrier(batches + 1)
    leave = threading.Event()

    def look_at_one() -> None:
        with device.taken():
            inside.wait(timeout=30)
            leave.wait(timeout=30)

    threads = [threading.Thread(target=look_at_one) for _ in range(batches)]
    for thread in threads:
        thread.start()
    inside.wait(timeout=30)
    assert not device._free.acquire(blocking=False)
    leave.set()
    for thread in threads:
        thread.join()
    assert device._free.acquire(blocking=False)


_DIES_OF_A_STUCK_IMAGE = """
import sys, threading
from pathlib import Path
from batchtag import stream
from tests.test_worker import Run

run = Run(Path(sys.argv[1]))
run.lease.acquire()
decode = stream.decode

def stuck(data, **rest):
    threading.Event().wait()

class Told:
    def __getattr__(self, name): return getattr(run.monitor, name)
    def needs_care(self, bundle): print("needs care", bundle, flush=True)

stream.decode = stuck
plan = run.plan()
import dataclasses
plan = dataclasses.replace(plan, stream=dataclasses.replace(plan.stream, decode_timeout_s=0.1))
from batchtag.worker import Worker
Worker(plan, Told()).tag(run.bundles[1])
"""


def test_a_worker_with_a_stuck_decoder_asks_for_care_and_ends_itself(tmp_path: Path) -> None:
    script = [sys.executable, "-c", _DIES_OF_A_STUCK_IMAGE, str(tmp_path)]
    ended = subprocess.run(
        script, capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2]
    )
    assert (ended.returncode, ended.stdout) == (1, "needs care 000000000005-000000000009\n")
    assert "keeps the decoder" in ended.stderr


def test_options_with_secrets_are_not_shown(run: Run) -> None:
    plan = dataclasses.replace(run.plan(), out_options={"secret": "hunter2"}, source_options={"secret": "hunter2"})
    assert "hunter2" not in repr(plan)


def test_a_worker_needs_no_torch_and_no_ray_for_a_model_that_does_not_look() -> None:
    script = (
        "import sys, batchtag.worker, batchtag.models.constant; print({'torch', 'ray', 'duckdb'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"
