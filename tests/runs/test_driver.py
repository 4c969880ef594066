"""How a run begins and how it ends, without the tagging between: no Ray is started."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from rich.console import Console

from batchtag.config.job import make_spec
from batchtag.errors import Code, Interrupted, LeaseLost, OutputError, RunFailed, StorageError
from batchtag.output.layout import Layout
from batchtag.output.types import Bundle
from batchtag.output.writer import PartWriter
from batchtag.runs import driver, preparation
from batchtag.runs.driver import run_job
from batchtag.storage.local import LocalStore
from tests.support.samples import NOON, commit, freeze, image_folder, tagged


class FakeRay:
    """A Ray session that is ready at once and starts nothing."""

    is_joined, logs, start_s = True, "", 0.0

    def __init__(self, **_: Any) -> None:
        self.ready: Future[None] = Future()
        self.ready.set_result(None)

    def start(self) -> None:
        """Nothing is started."""

    def stop(self, *, keep_logs: bool) -> None:
        """Nothing is ended."""


class WatchedStore(LocalStore):
    """The local disk. It notes which footers of images parts are read, and whether OUT is held by the run then."""

    def __init__(self, layout: Layout) -> None:
        self.read_while_held: list[str] = []
        self.read_after_release: list[str] = []
        self.refused_writes = 0
        self.refuses_the_record = False
        self._layout = layout

    def open(self, uri: str) -> BinaryIO:
        if uri.startswith(self._layout.table("images")):
            (self.read_while_held if Path(self._layout.lease).exists() else self.read_after_release).append(uri)
        return super().open(uri)

    def write(self, uri: str, data: bytes) -> str:
        if self.refuses_the_record and uri == self._layout.run("r-2"):
            self.refused_writes += 1
            raise StorageError(f"{uri}: the store is unreachable", code=Code.UNREACHABLE, transient=True)
        return super().write(uri, data)


class Out:
    """An OUT of five bundles of two images, the first ones committed, and the job that it belongs to."""

    def __init__(self, folder: Path, *, num_committed: int = 3) -> None:
        self.layout = Layout(str(folder / "out"))
        self.store = WatchedStore(self.layout)
        listing = image_folder(folder / "in", 10)
        self.bundles = freeze(listing, store=LocalStore(), layout=self.layout, size=2)
        for bundle in self.bundles[:num_committed]:
            self.commit(bundle)
        content = {
            "version": 1,
            "source": {"kind": "prefix", "uris": [str(folder / "in")]},
            "models": [{"kind": "constant"}],
            "output": {"uri": self.layout.out},
        }
        self.job = make_spec(content, origin="test")

    def commit(self, bundle: Bundle) -> None:
        writer = PartWriter(store=LocalStore(), layout=self.layout, run_id="r-1", check_lease=lambda: None)
        writer.write(bundle, [tagged(bundle.first + i) for i in range(bundle.num_images)], tagged_at=NOON)

    def run(self) -> None:
        run_job(self.job, console=Console(file=io.StringIO()), run_id="r-2")

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(Path(self.layout.run("r-2")).read_text())
        return record


InsteadOfTagging = Callable[[Out, Callable[[Any], None]], None]


@pytest.fixture
def instead_of_tagging(monkeypatch: pytest.MonkeyPatch) -> InsteadOfTagging:
    """A function that replaces the tagging of the remaining bundles by a call with the run."""

    def replace(out: Out, call: Callable[[Any], None]) -> None:
        monkeypatch.setattr(preparation, "RaySession", FakeRay)
        monkeypatch.setattr(driver, "open_store", lambda uri, options: out.store)
        monkeypatch.setattr(driver._Run, "_tag", lambda run, bundles: call(run))

    return replace


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_run_reads_only_the_footers_that_it_has_not_counted(
    instead_of_tagging: InsteadOfTagging, tmp_path: Path
) -> None:
    """The commit of one part was reported twice, and that of another was not."""
    out = Out(tmp_path)

    def tag(run: Any) -> None:
        for bundle in out.bundles[3:]:
            out.commit(bundle)
        for _ in range(2):
            run._recorder.committed.add(commit(out.bundles[3].first, 2))
        raise KeyboardInterrupt

    instead_of_tagging(out, tag)
    with pytest.raises(Interrupted, match="stopped with 10 of 10 images committed"):
        out.run()
    assert out.record()["num_tagged"] == 10
    read = [out.bundles[i] for i in (0, 1, 2, 4)]
    assert sorted(out.store.read_while_held) == [out.layout.part("images", bundle.id) for bundle in read]


def test_a_counted_part_that_has_been_removed_is_not_in_the_record(
    instead_of_tagging: InsteadOfTagging, tmp_path: Path
) -> None:
    out = Out(tmp_path)

    def tag(run: Any) -> None:
        Path(out.layout.part("images", out.bundles[0].id)).unlink()
        raise KeyboardInterrupt

    instead_of_tagging(out, tag)
    with pytest.raises(Interrupted, match="stopped with 4 of 10 images committed"):
        out.run()
    assert out.record()["num_tagged"] == 4


def test_a_run_that_is_interrupted_before_it_has_counted_releases_out_first(
    instead_of_tagging: InsteadOfTagging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Out(tmp_path)
    instead_of_tagging(out, lambda run: None)
    monkeypatch.setattr(driver, "remove_debris", interrupt)
    monkeypatch.setattr(driver, "MAX_FOOTERS_AT_END", 2)
    with pytest.raises(Interrupted, match="stopped with 6 of 10 images committed"):
        out.run()
    assert (out.store.read_while_held, len(out.store.read_after_release)) == ([], 3)
    assert (out.record()["state"], out.record()["num_tagged"]) == ("interrupted", 6)


def test_a_part_that_batchtag_did_not_write_ends_the_run_and_out_is_released(
    instead_of_tagging: InsteadOfTagging, tmp_path: Path
) -> None:
    out = Out(tmp_path)
    Path(out.layout.part("images", out.bundles[1].id)).write_bytes(b"another program's")
    instead_of_tagging(out, lambda run: None)
    with pytest.raises(OutputError, match="was not written by batchtag"):
        out.run()
    assert out.record()["state"] == "failed"
    assert not Path(out.layout.lease).exists()


def test_a_record_that_will_be_written_again_is_written_in_one_attempt(
    instead_of_tagging: InsteadOfTagging, tmp_path: Path
) -> None:
    """With retries the driver's loop would wait for a minute and a half."""
    out = Out(tmp_path)

    def tag(run: Any) -> None:
        run._recorder._recorded_at, out.store.refuses_the_record = float("-inf"), True
        run._recorder.write_if_due()
        out.store.refuses_the_record = False
        raise KeyboardInterrupt

    instead_of_tagging(out, tag)
    with pytest.raises(Interrupted):
        out.run()
    assert out.store.refused_writes == 1
    assert out.record()["state"] == "interrupted"


def test_a_record_that_cannot_be_written_at_the_end_is_not_tried_again_after_the_release(
    instead_of_tagging: InsteadOfTagging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Out(tmp_path)
    closed: list[bool] = []

    def close() -> None:
        closed.append(Path(out.layout.lease).exists())
        raise StorageError("the store is unreachable", code=Code.UNREACHABLE)

    def tag(run: Any) -> None:
        out.commit(out.bundles[3])  # a part that the run has not counted yet
        monkeypatch.setattr(run._recorder, "close", close)
        raise KeyboardInterrupt

    instead_of_tagging(out, tag)
    with pytest.raises(Interrupted):
        out.run()
    assert closed == [True]
    assert not Path(out.layout.lease).exists()


def test_the_record_has_the_images_of_earlier_runs_also_while_workers_start(
    instead_of_tagging: InsteadOfTagging, tmp_path: Path
) -> None:
    out = Out(tmp_path)
    records: list[dict[str, Any]] = []

    def tag(run: Any) -> None:
        run._recorder._recorded_at = float("-inf")
        run._preparation.wait("starting workers")
        records.append(out.record())
        raise KeyboardInterrupt

    instead_of_tagging(out, tag)
    with pytest.raises(Interrupted):
        out.run()
    this_run = records[0]["this_run"]
    assert (this_run["phase"], this_run["done_before"], records[0]["num_done"]) == ("starting workers", 6, 6)


def test_a_run_that_lost_its_lease_neither_writes_its_record_nor_releases_the_new_holders_lease(
    instead_of_tagging: InsteadOfTagging, tmp_path: Path
) -> None:
    out = Out(tmp_path)
    before: list[dict[str, Any]] = []

    def tag(run: Any) -> None:
        before.append(out.record())
        run._lease.lost_to = "run r-3"
        raise LeaseLost("run r-2 lost its lease")

    instead_of_tagging(out, tag)
    with pytest.raises(LeaseLost):
        out.run()
    assert out.record() == before[0]
    assert Path(out.layout.lease).exists()


def test_bundles_that_ray_reports_as_done_and_that_are_not_committed_fail_the_run(
    instead_of_tagging: InsteadOfTagging, tmp_path: Path
) -> None:
    out = Out(tmp_path)
    instead_of_tagging(out, lambda run: out.commit(out.bundles[4]))
    with pytest.raises(RunFailed, match=rf"1 of 5 bundles are not committed .* {out.bundles[3].id}"):
        out.run()
    assert (out.record()["state"], out.record()["num_done"]) == ("failed", 8)


def test_a_cluster_that_accepts_connections_and_does_not_answer_ends_the_run(
    instead_of_tagging: InsteadOfTagging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Out(tmp_path)
    instead_of_tagging(out, lambda run: None)
    monkeypatch.setattr(preparation, "RAY_S", 0.0)
    monkeypatch.setattr(FakeRay, "__init__", lambda ray, **_: setattr(ray, "ready", Future()))
    message = "Ray is not ready after 0 s: the head accepts connections and does not answer"
    with pytest.raises(RunFailed, match=message):
        out.run()
    assert (out.record()["state"], out.record()["num_done"]) == ("failed", 6)
