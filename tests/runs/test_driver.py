"""How a run begins and ends around its line, which does not run here: no Ray is started."""

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
from batchtag.errors import Code, Interrupted, OutputError, RunFailed, StorageError
from batchtag.output.layout import Layout
from batchtag.output.types import Bundle
from batchtag.output.writer import PartWriter
from batchtag.runs import driver
from batchtag.runs.driver import run_job
from batchtag.storage.local import LocalStore
from tests.support.samples import NOON, commit, freeze, image_folder, tagged


class NoRay:
    """A Ray that is there as soon as it is asked for."""

    joined, logs, start_s = True, "", 0.0

    def __init__(self, **_: Any) -> None:
        self.ready: Future[None] = Future()
        self.ready.set_result(None)

    def start(self) -> None:
        """Nothing is started."""

    def stop(self, *, keep_logs: bool) -> None:
        """Nothing is ended."""


class Watched(LocalStore):
    """The local disk, which notes the images parts whose footers are read, and whether OUT is held then."""

    def __init__(self, layout: Layout) -> None:
        self.read_while_held: list[str] = []
        self.read_after: list[str] = []
        self.writes = 0
        self.is_away = False
        self._layout = layout

    def open(self, uri: str) -> BinaryIO:
        if uri.startswith(self._layout.table("images")):
            (self.read_while_held if Path(self._layout.lease).exists() else self.read_after).append(uri)
        return super().open(uri)

    def write(self, uri: str, data: bytes) -> str:
        if self.is_away and uri == self._layout.run("r-2"):
            self.writes += 1
            raise StorageError(f"{uri}: the store is away", code=Code.UNREACHABLE, transient=True)
        return super().write(uri, data)


class Out:
    """An OUT of five bundles of two images, the first ones committed, and a job for it."""

    def __init__(self, folder: Path, *, num_committed: int = 3) -> None:
        self.layout = Layout(str(folder / "out"))
        self.store = Watched(self.layout)
        listed = image_folder(folder / "in", 10)
        self.bundles = freeze(listed, store=LocalStore(), layout=self.layout, size=2)
        for bundle in self.bundles[:num_committed]:
            self.write(bundle)
        content = {
            "version": 1,
            "source": {"kind": "prefix", "uris": [str(folder / "in")]},
            "models": [{"kind": "constant"}],
            "output": {"uri": self.layout.out},
        }
        self.spec = make_spec(content, origin="test")

    def write(self, bundle: Bundle) -> None:
        writer = PartWriter(store=LocalStore(), layout=self.layout, run_id="r-1", may_write=lambda: None)
        writer.write(bundle, [tagged(bundle.first + i) for i in range(bundle.num_images)], tagged_at=NOON)

    def run(self) -> None:
        run_job(self.spec, console=Console(file=io.StringIO()), run_id="r-2")

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(Path(self.layout.run("r-2")).read_text())
        return record


During = Callable[[Out, Callable[[Any], None]], None]


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> During:
    """Have something happen instead of the tagging of what is left."""

    def happen(out: Out, what: Callable[[Any], None]) -> None:
        monkeypatch.setattr(driver, "RaySession", NoRay)
        monkeypatch.setattr(driver, "open_store", lambda uri, options: out.store)
        monkeypatch.setattr(driver._Run, "_tag", lambda run, left: what(run))

    return happen


def test_a_run_that_is_stopped_reads_the_footers_that_it_has_not_counted_and_no_other(
    during: During, tmp_path: Path
) -> None:
    """The row of one part came twice and that of another never."""
    out = Out(tmp_path)

    def tag(run: Any) -> None:
        for bundle in out.bundles[3:]:
            out.write(bundle)
        for _ in range(2):
            run._totals.add(commit(out.bundles[3].first, 2))
        raise KeyboardInterrupt

    during(out, tag)
    with pytest.raises(Interrupted, match="stopped with 10 of 10 images committed"):
        out.run()
    assert out.record()["num_tagged"] == 10
    read = [out.bundles[i] for i in (0, 1, 2, 4)]
    assert sorted(out.store.read_while_held) == [out.layout.part("images", bundle.id) for bundle in read]


def test_what_was_counted_and_has_gone_is_in_no_record(during: During, tmp_path: Path) -> None:
    out = Out(tmp_path)

    def tag(run: Any) -> None:
        Path(out.layout.part("images", out.bundles[0].id)).unlink()
        raise KeyboardInterrupt

    during(out, tag)
    with pytest.raises(Interrupted, match="stopped with 4 of 10 images committed"):
        out.run()


def test_a_run_that_is_stopped_before_it_has_counted_gives_out_back_first(
    during: During, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Out(tmp_path)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    during(out, lambda run: None)
    monkeypatch.setattr(driver, "remove_debris", stop)
    monkeypatch.setattr(driver, "FOOTERS_AT_END", 2)
    with pytest.raises(Interrupted, match="stopped with 6 of 10 images committed"):
        out.run()
    assert (out.store.read_while_held, len(out.store.read_after)) == ([], 3)
    assert (out.record()["state"], out.record()["num_tagged"]) == ("interrupted", 6)


def test_a_part_that_is_not_ours_ends_the_run_and_out_is_given_back(during: During, tmp_path: Path) -> None:
    out = Out(tmp_path)
    Path(out.layout.part("images", out.bundles[1].id)).write_bytes(b"somebody's")
    during(out, lambda run: None)
    with pytest.raises(OutputError, match="was not written by batchtag"):
        out.run()
    assert out.record()["state"] == "failed"
    assert not Path(out.layout.lease).exists()


def test_a_record_that_can_be_written_later_is_tried_once(during: During, tmp_path: Path) -> None:
    """With retries the driver's loop would stand still for a minute and a half."""
    out = Out(tmp_path)

    def tag(run: Any) -> None:
        run._recorded_at, out.store.is_away = float("-inf"), True
        run._keep_record()
        out.store.is_away = False
        raise KeyboardInterrupt

    during(out, tag)
    with pytest.raises(Interrupted):
        out.run()
    assert out.store.writes == 1
    assert out.record()["state"] == "interrupted"


def test_a_ray_that_takes_connections_and_does_not_answer_is_given_up(
    during: During, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Out(tmp_path)
    during(out, lambda run: None)
    monkeypatch.setattr(driver, "RAY_S", 0.0)
    monkeypatch.setattr(NoRay, "__init__", lambda ray, **_: setattr(ray, "ready", Future()))
    with pytest.raises(RunFailed, match="Ray is not there after 0 s: the head takes connections and does not answer"):
        out.run()
    assert (out.record()["state"], out.record()["num_done"]) == ("failed", 6)
