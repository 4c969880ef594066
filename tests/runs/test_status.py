"""What is told of a run: its record, and what the cluster says of its driver."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batchtag.cluster.jobs import RayJob
from batchtag.errors import Code, StorageError
from batchtag.output.layout import Layout
from batchtag.pipeline.stats import RunStats
from batchtag.runs.progress import RunProgress, as_json, figures_of
from batchtag.runs.report import RunReport
from batchtag.runs.status import SILENT_S, RunStatus, newest_run, read_record, run_status
from batchtag.storage.base import Blob, ObjectInfo
from batchtag.storage.local import LocalStore

STORE = LocalStore()
RUN = "batchtag-0123456789ab"


def write(out: Path, run_id: str = f"{RUN}.20261121100000", *, age_s: float = 0.0, **facts: Any) -> None:
    """A record, as a run leaves it."""
    report = RunReport(run_id=run_id, out=str(out), started_at=facts.pop("started_at", "2026-11-21T10:00:00+00:00"))
    when = datetime.fromtimestamp(time.time() - age_s, UTC).isoformat()
    record = asdict(report) | {"num_images": 100, "updated_at": when} | facts
    STORE.write(Layout(str(out)).run(run_id), json.dumps(record).encode())


def job(status: str) -> RayJob:
    return RayJob(run_id=RUN, status=status, name="shelves", out="", base=RUN, message="Job failed: exit code 1")


def told(out: Path, status: str = "") -> RunStatus:
    return run_status(RUN, out=str(out), store=STORE, job=job(status) if status else None)


@pytest.mark.parametrize(
    ("record", "status", "state", "code"),
    [
        (None, "PENDING", "waiting", None),
        (None, "RUNNING", "starting", None),
        ("running", "RUNNING", "running", None),
        ("done", "SUCCEEDED", "done", 0),
        ("too_many_failures", "FAILED", "too_many_failures", 3),
        ("failed", "FAILED", "failed", 1),
        ("running", "FAILED", "died", 1),
        (None, "FAILED", "died", 1),
        ("interrupted", "STOPPED", "cancelled", 130),
        ("running", "STOPPED", "cancelled", 130),
        ("done", "STOPPED", "done", 0),
    ],
)
def test_a_run_is_what_its_record_and_its_driver_say_together(
    tmp_path: Path, record: str | None, status: str, state: str, code: int | None
) -> None:
    if record:
        write(tmp_path, state=record)
    one = told(tmp_path, status)
    assert (one.state, one.exit_code if one.is_over else None) == (state, code)


def test_without_the_cluster_a_record_is_believed_while_it_is_young(tmp_path: Path) -> None:
    write(tmp_path, state="running")
    assert told(tmp_path).state == "running"
    write(tmp_path, state="running", age_s=SILENT_S + 60)
    one = told(tmp_path)
    assert (one.state, one.is_over) == ("silent", False)
    assert one.line().startswith(f"{RUN}: silent for 2 min")


def test_a_driver_that_was_begun_again_is_told_by_its_own_record(tmp_path: Path) -> None:
    write(tmp_path, f"{RUN}.20261121100000", state="running", num_done=40)
    write(tmp_path, f"{RUN}.20261121103000", state="done", num_done=100)
    write(tmp_path, f"{RUN}-2.20261121110000", state="failed")
    assert read_record(RUN, store=STORE, layout=Layout(str(tmp_path)))["num_done"] == 100
    assert told(tmp_path, "SUCCEEDED").line() == f"{RUN}: done, 100 of 100 images"


def test_a_record_that_another_cluster_left_under_the_same_id_is_not_this_run_s(tmp_path: Path) -> None:
    write(tmp_path, f"{RUN}.20261120100000", state="done", num_done=100, started_at="2026-11-20T10:00:00+00:00")
    job_of_today = replace(job("FAILED"), started=datetime(2026, 11, 21, 10, tzinfo=UTC).timestamp(), exit_code=2)
    one = run_status(RUN, out=str(tmp_path), store=STORE, job=job_of_today)
    assert (one.state, one.record, one.exit_code) == ("died", {}, 2)
    assert run_status(RUN, out=str(tmp_path), store=STORE, job=replace(job_of_today, status="PENDING")).record == {}


def test_what_nobody_can_tell_is_not_over(tmp_path: Path) -> None:
    assert (told(tmp_path).state, told(tmp_path).is_over) == ("unknown", False)


class Denied(LocalStore):
    """A bucket that may be listed and not read, or neither."""

    def __init__(self, *, lists: bool) -> None:
        self._lists = lists

    def list_folder(self, uri: str) -> Iterator[list[ObjectInfo]]:
        if not self._lists:
            raise StorageError(f"{uri}: access denied", code=Code.DENIED)
        return super().list_folder(uri)

    def read(self, uri: str, *, max_bytes: int | None = None, if_etag: str = "") -> Blob:
        raise StorageError(f"{uri}: access denied", code=Code.DENIED)


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("", "unknown"),
        ("PENDING", "waiting"),
        ("RUNNING", "running"),
        ("FAILED", "died: Job failed: exit code 1"),
        ("SUCCEEDED", "done: Job failed: exit code 1"),
    ],
)
def test_a_record_that_cannot_be_read_is_told_with_the_reason(
    tmp_path: Path, lists: bool, status: str, said: str
) -> None:
    """Without it a run would be "starting" until it is over."""
    write(tmp_path, state="running")
    one = run_status(RUN, out=str(tmp_path), store=Denied(lists=lists), job=job(status) if status else None)
    assert one.line().startswith(f"{RUN}: {said}; its record cannot be read: {tmp_path}/_batchtag/runs")
    assert one.line().endswith(": access denied")


def test_a_damaged_record_is_told_and_only_another_s_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path)
    Path(Layout(str(tmp_path)).run(f"{RUN}.20261122000000")).write_text("{")
    assert "its record cannot be read: " in told(tmp_path, "RUNNING").line()
    assert "is damaged" in told(tmp_path).trouble
    assert newest_run(store=STORE, layout=Layout(str(tmp_path))) == f"{RUN}.20261121100000"


def test_an_out_whose_records_cannot_be_read_does_not_tell_of_another_run(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(StorageError, match="access denied"):
        newest_run(store=Denied(lists=True), layout=Layout(str(tmp_path)))


def test_an_out_tells_of_the_run_that_began_last(tmp_path: Path) -> None:
    write(tmp_path, "r-1", started_at="2026-11-21T10:00:00+00:00")
    write(tmp_path, "r-0", started_at="2026-11-21T11:00:00+00:00")
    assert newest_run(store=STORE, layout=Layout(str(tmp_path))) == "r-0"


def test_the_figures_of_a_record_are_those_that_were_shown() -> None:
    figures = RunProgress(
        phase="tagging", total=100, done_before=20, tagging_s=4.0, workers=2, device="cuda", openers=8
    )
    figures.counters = RunStats(num_images=40, num_failed=1, num_tags=7)
    figures.counters.failed_by_code["truncated"] = 1
    figures.busy = {"fetch": 0.5, "predict": 0.9}
    again = figures_of({"num_images": 100, "this_run": json.loads(json.dumps(as_json(figures)))})
    assert again == figures
