"""The status of a run, from its record in OUT and from what the cluster reports of its driver."""

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
from batchtag.runs.progress import RunProgress, format_progress
from batchtag.runs.report import RunReport
from batchtag.runs.status import SILENT_S, RunStatus, find_newest_run, read_record, read_status
from batchtag.storage.base import Blob, ObjectInfo
from batchtag.storage.local import LocalStore

STORE = LocalStore()
RUN = "batchtag-0123456789ab"


def write_record(out: Path, run_id: str = f"{RUN}.20261121100000", *, age_s: float = 0.0, **facts: Any) -> None:
    """Write a record as a run does."""
    started_at = facts.pop("started_at", "2026-11-21T10:00:00+00:00")
    report = RunReport(run_id=run_id, out=str(out), started_at=started_at)
    updated_at = datetime.fromtimestamp(time.time() - age_s, UTC).isoformat()
    record = asdict(report) | {"num_images": 100, "updated_at": updated_at} | facts
    STORE.write(Layout(str(out)).run(run_id), json.dumps(record).encode())


def job(status: str) -> RayJob:
    return RayJob(run_id=RUN, status=status, name="shelves", out="", base=RUN, message="Job failed: exit code 1")


def status_of(out: Path, job_status: str = "") -> RunStatus:
    """The status of the run; without `job_status` Ray is not asked."""
    return read_status(RUN, out=str(out), store=STORE, job=job(job_status) if job_status else None)


@pytest.mark.parametrize(
    ("record_state", "job_status", "state", "exit_code"),
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
def test_the_status_of_a_run_follows_from_its_record_and_its_driver_together(
    tmp_path: Path, record_state: str | None, job_status: str, state: str, exit_code: int | None
) -> None:
    if record_state:
        write_record(tmp_path, state=record_state)
    status = status_of(tmp_path, job_status)
    assert (status.state, status.exit_code if status.is_over else None) == (state, exit_code)


def test_a_running_record_is_believed_only_while_it_is_young_if_the_cluster_is_not_asked(tmp_path: Path) -> None:
    write_record(tmp_path, state="running")
    assert status_of(tmp_path).state == "running"
    write_record(tmp_path, state="running", age_s=SILENT_S + 60)
    status = status_of(tmp_path)
    assert (status.state, status.is_over) == ("silent", False)
    assert status.summary_line().startswith(f"{RUN}: silent for 2 min")


def test_the_record_of_the_newest_driver_of_a_run_counts(tmp_path: Path) -> None:
    write_record(tmp_path, f"{RUN}.20261121100000", state="running", num_done=40)
    write_record(tmp_path, f"{RUN}.20261121103000", state="done", num_done=100)
    write_record(tmp_path, f"{RUN}-2.20261121110000", state="failed")
    assert read_record(RUN, store=STORE, layout=Layout(str(tmp_path)))["num_done"] == 100
    assert status_of(tmp_path, "SUCCEEDED").summary_line() == f"{RUN}: done, 100 of 100 images"


def test_a_record_that_another_cluster_wrote_under_the_same_id_is_ignored(tmp_path: Path) -> None:
    write_record(tmp_path, f"{RUN}.20261120100000", state="done", num_done=100, started_at="2026-11-20T10:00:00+00:00")
    job_of_today = replace(job("FAILED"), started=datetime(2026, 11, 21, 10, tzinfo=UTC).timestamp(), exit_code=2)
    status = read_status(RUN, out=str(tmp_path), store=STORE, job=job_of_today)
    assert (status.state, status.record, status.exit_code) == ("died", {}, 2)
    pending = read_status(RUN, out=str(tmp_path), store=STORE, job=replace(job_of_today, status="PENDING"))
    assert pending.record == {}


def test_a_run_without_a_record_is_not_over_if_the_cluster_is_not_asked(tmp_path: Path) -> None:
    assert (status_of(tmp_path).state, status_of(tmp_path).is_over) == ("unknown", False)


class DeniedStore(LocalStore):
    """A bucket from which nothing may be read; listing it is allowed or not."""

    def __init__(self, *, allows_listing: bool) -> None:
        self._allows_listing = allows_listing

    def list_folder(self, uri: str) -> Iterator[list[ObjectInfo]]:
        if not self._allows_listing:
            raise StorageError(f"{uri}: access denied", code=Code.DENIED)
        return super().list_folder(uri)

    def read(self, uri: str, *, max_bytes: int | None = None, if_etag: str = "") -> Blob:
        raise StorageError(f"{uri}: access denied", code=Code.DENIED)


@pytest.mark.parametrize("allows_listing", [False, True])
@pytest.mark.parametrize(
    ("job_status", "summary"),
    [
        ("", "unknown"),
        ("PENDING", "waiting"),
        ("RUNNING", "running"),
        ("FAILED", "died: Job failed: exit code 1"),
        ("SUCCEEDED", "done: Job failed: exit code 1"),
    ],
)
def test_the_summary_says_why_a_record_cannot_be_read(
    tmp_path: Path, allows_listing: bool, job_status: str, summary: str
) -> None:
    """Without this a run would be "starting" until it is over."""
    write_record(tmp_path, state="running")
    store = DeniedStore(allows_listing=allows_listing)
    status = read_status(RUN, out=str(tmp_path), store=store, job=job(job_status) if job_status else None)
    line = status.summary_line()
    assert line.startswith(f"{RUN}: {summary}; its record cannot be read: {tmp_path}/_batchtag/runs")
    assert line.endswith(": access denied")


def test_a_damaged_record_is_reported_for_its_own_run_and_skipped_when_the_newest_is_searched(tmp_path: Path) -> None:
    write_record(tmp_path)
    Path(Layout(str(tmp_path)).run(f"{RUN}.20261122000000")).write_text("{")
    assert "its record cannot be read: " in status_of(tmp_path, "RUNNING").summary_line()
    assert "is damaged" in status_of(tmp_path).read_error
    assert find_newest_run(store=STORE, layout=Layout(str(tmp_path))) == f"{RUN}.20261121100000"


def test_no_run_is_the_newest_if_a_record_cannot_be_read(tmp_path: Path) -> None:
    write_record(tmp_path)
    with pytest.raises(StorageError, match="access denied"):
        find_newest_run(store=DeniedStore(allows_listing=True), layout=Layout(str(tmp_path)))


def test_the_newest_run_is_the_one_that_started_last(tmp_path: Path) -> None:
    write_record(tmp_path, "r-1", started_at="2026-11-21T10:00:00+00:00")
    write_record(tmp_path, "r-0", started_at="2026-11-21T11:00:00+00:00")
    assert find_newest_run(store=STORE, layout=Layout(str(tmp_path))) == "r-0"


def test_the_summary_of_a_running_run_has_the_line_that_its_driver_shows(tmp_path: Path) -> None:
    progress = RunProgress(phase="tagging", total=100, done_before=20, tagging_s=4.0, workers=2, device="cuda")
    progress.stats = RunStats(num_images=40, num_failed=1, num_tags=7)
    progress.stats.failed_by_code["truncated"] = 1
    progress.busy = {"fetch": 0.5, "predict": 0.9}
    write_record(tmp_path, state="running", this_run=progress.to_json())
    assert status_of(tmp_path).progress == progress
    assert status_of(tmp_path).summary_line() == f"{RUN}: running | {format_progress(progress)}"
