"""Watching a run: what is believed of the cluster and of the record in OUT, and when a run is given up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from batchtag.cli import watch
from batchtag.cli.watch import RunWatcher
from batchtag.cluster.history import SubmissionNote, store_note
from batchtag.cluster.jobs import RayJob
from batchtag.errors import RunFailed, StorageError
from batchtag.output.layout import Layout
from batchtag.runs.report import RunReport
from batchtag.runs.status import RunStatus, find_newest_run
from batchtag.storage.local import LocalStore
from tests.support.started import RunCommand

RUN = "batchtag-0123456789ab"


def test_a_failure_that_only_the_record_reports_must_last_before_it_is_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A driver that failed may be restarted seconds later; the cluster knows that, but does not always answer."""
    monkeypatch.setattr(watch, "POLL_S", 0.01)
    watcher = RunWatcher(RUN, "", is_insecure=False)
    answers = iter([("running", True), ("failed", False), ("failed", False), ("running", True), ("done", True)])

    def read_status() -> RunStatus:
        state, watcher._does_cluster_answer = next(answers)
        return RunStatus(run_id=RUN, state=state, out="")

    monkeypatch.setattr(watcher, "read_status", read_status)
    assert watcher.wait_until_over(quiet=True).state == "done"
    monkeypatch.setattr(watch, "FINAL_AFTER_S", 0.05)
    answers = iter([("failed", False)] * 1000)
    assert watcher.wait_until_over(quiet=True).state == "failed"


def store_record(out: Path, state: str, **facts: Any) -> None:
    """Write the record of a run as the run does; another call is the same run later."""
    report = RunReport(run_id="r-1", out=str(out), started_at="2020-11-21T10:00:00+00:00", state=state, num_images=5)
    report.write(store=LocalStore(), layout=Layout(str(out)))
    record = Path(Layout(str(out)).run("r-1"))
    record.write_text(json.dumps(json.loads(record.read_text()) | facts))


def wait_with_changes(
    watcher: RunWatcher, changes: Iterator[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> RunStatus:
    """Return the final status if one change happens before each reading of the status."""
    read_status = watcher.read_status

    def change_and_read() -> RunStatus:
        next(changes)()
        return read_status()

    monkeypatch.setattr(watch, "POLL_S", 0.0)
    monkeypatch.setattr(watcher, "read_status", change_and_read)
    return watcher.wait_until_over(quiet=True)


@pytest.mark.parametrize("final_state", ["done", "too_many_failures"])
def test_a_record_in_out_is_believed_at_once_only_for_ends_that_cannot_be_restarted(
    final_state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = ("failed", "failed", "running", "interrupted", "running", final_state)
    changes = (partial(store_record, tmp_path, state) for state in states)
    watcher = RunWatcher(str(tmp_path), "", is_insecure=False)
    assert wait_with_changes(watcher, changes, monkeypatch).state == final_state
    assert next(changes, None) is None


def test_a_run_is_not_lost_while_its_record_is_written_even_if_this_clock_is_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOST_AFTER_S", 0.0)
    times = [f"2020-11-21T10:00:0{second}+00:00" for second in range(5)]
    changes = [partial(store_record, tmp_path, "running", updated_at=time) for time in times]
    with_end = [*changes, partial(store_record, tmp_path, "done")]
    watcher = RunWatcher(str(tmp_path), "", is_insecure=False)
    assert wait_with_changes(watcher, iter(with_end), monkeypatch).state == "done"
    with pytest.raises(RunFailed, match=r"no sign of life from .*: silent for "):
        wait_with_changes(RunWatcher(str(tmp_path), "", is_insecure=False), iter([changes[0]] * 3), monkeypatch)


def test_waiting_survives_a_store_that_does_not_answer_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise StorageError("s3://tags: does not answer")

        monkeypatch.setattr("batchtag.runs.status.find_newest_run", refuse)

    def recover() -> None:
        monkeypatch.setattr("batchtag.runs.status.find_newest_run", find_newest_run)
        store_record(tmp_path, "done")

    def run() -> None:
        store_record(tmp_path, "running")

    watcher = RunWatcher(str(tmp_path), "", is_insecure=False)
    assert wait_with_changes(watcher, iter([run, fail, fail, recover]), monkeypatch).state == "done"
    fail()
    status = RunWatcher.read_status(watcher)
    assert (status.state, status.is_over, status.read_error) == ("unknown", False, "s3://tags: does not answer")
    with pytest.raises(StorageError, match="does not answer"):
        RunWatcher(str(tmp_path), "", is_insecure=False).read_status()


def test_status_watch_json_prints_the_final_status(
    run_command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "POLL_S", 0.0)
    states = iter(["running", "running", "done"])
    monkeypatch.setattr(RunWatcher, "read_status", lambda _: RunStatus(run_id="r-1", state=next(states), out=""))
    result = run_command("status", str(tmp_path), "--watch", "--json")
    assert (json.loads(result.out)["state"], next(states, None)) == ("done", None)


def test_out_is_read_with_the_storage_options_of_the_job(
    run_command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come from the note that `submit` stored, or from the cluster; without them a MinIO is out of reach."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    options, opened = {"client_kwargs": {"endpoint_url": "http://minio:9000"}}, []

    def open_store(uri: str, given: dict[str, Any] | None = None) -> LocalStore:
        opened.append((uri, given))
        return LocalStore()

    monkeypatch.setattr("batchtag.storage.open_store", open_store)
    note = SubmissionNote(
        run_id="batchtag-0", address="http://127.0.0.1:9", out="s3://tags/x", name="shelves", options=options
    )
    store_note(note)
    status = json.loads(run_command("status", "batchtag-0", "--json").out)
    assert (status["state"], status["name"]) == ("unknown", "shelves")
    job = RayJob(run_id="batchtag-0", status="RUNNING", name="", out="s3://tags/y", base="", options=options)
    watch.read_run_status("batchtag-0", "s3://tags/y", job)
    assert opened == [("s3://tags/x", options), ("s3://tags/y", options)]


def test_an_out_that_no_installed_package_can_open_is_reported() -> None:
    job = RayJob(run_id="batchtag-0", status="RUNNING", name="", out="nosuch://tags", base="")
    status = watch.read_run_status("batchtag-0", "nosuch://tags", job)
    assert status.out == "nosuch://tags"
    assert status.summary_line().startswith("batchtag-0: running; its record cannot be read: ")


def test_a_run_without_any_sign_of_life_is_not_waited_for_for_ever(
    run_command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver was killed and its cluster removed: note and record alone would report "running" for ever."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(watch, "POLL_S", 0.01)
    monkeypatch.setattr(watch, "LOST_AFTER_S", 0.05)
    out = str(tmp_path / "out")
    store_note(SubmissionNote(run_id=RUN, address="http://127.0.0.1:9", out=out, name="shelves"))
    report = RunReport(run_id=f"{RUN}.1", out=out, started_at="2020-11-21T10:00:00+00:00", num_images=5)
    report.write(store=LocalStore(), layout=Layout(out))
    record = Path(Layout(out).run(f"{RUN}.1"))
    old = json.loads(record.read_text()) | {"state": "running", "updated_at": "2020-11-21T10:00:00+00:00"}
    record.write_text(json.dumps(old))
    for words in (("wait", RUN), ("wait", "-q", RUN), ("status", "--watch", RUN), ("wait", out)):
        code, _, messages = run_command(*words)
        assert code == 1
        assert "batchtag: no sign of life from " in messages
        reads_record_only = "reading only the run's record, because no Ray cluster answers at http://127.0.0.1:9"
        assert (reads_record_only in messages) == (RUN in words)


def test_the_status_of_a_folder_without_runs_is_refused(run_command: RunCommand, tmp_path: Path) -> None:
    code, _, messages = run_command("status", str(tmp_path))
    assert (code, messages) == (2, f"batchtag: {tmp_path} holds no run; name the --out of a run\n")
