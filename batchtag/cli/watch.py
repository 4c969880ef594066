"""Watching one run: from the cluster while it answers, else from the run's record in OUT.

A driver that failed may be restarted seconds later, and a cluster may be out of reach for a while. So an end that only
the record reports must last for some time before it is believed, and a run is given up only after long silence.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchtag.cli.output import print_message, stderr_console
from batchtag.errors import Code, RunFailed, StorageError, UsageError

if TYPE_CHECKING:
    from batchtag.cluster.jobs import ClusterJobs, RayJob
    from batchtag.runs.status import RunStatus

POLL_S = 2.0
"""Seconds between two requests for the status."""
LOST_AFTER_S = 600.0
"""Seconds of silence after which a run is given up. A driver writes its record every 5 s."""
FINAL_AFTER_S = 20.0
"""Seconds for which a record must report a failure before it is believed without the cluster: the driver may be
restarted."""
_SILENT_STATES = ("silent", "unknown")
_RESTARTABLE_STATES = ("failed", "interrupted")


class RunWatcher:
    """One run, whose status is read again and again. `run` is the id of a run, or its OUT."""

    def __init__(self, run: str, address: str, *, is_insecure: bool) -> None:
        from batchtag.cluster.history import find_note
        from batchtag.storage import scheme_of

        self._is_out = "/" in run or scheme_of(run) != "file" or Path(run).is_dir()
        self._run = run if self._is_out else submission_id_of(run)
        self._address, self._is_insecure = address, is_insecure
        note = None if self._is_out else find_note(self._run)
        self._out, self._name, self._options = (note.out, note.name, note.options) if note else ("", "", {})
        self._started = 0.0  # epoch seconds; 0.0 until the cluster has answered
        self._jobs: ClusterJobs | None = None
        self._last_problem = ""
        self._does_cluster_answer = False
        self._last_status: RunStatus | None = None

    def read_status(self) -> RunStatus:
        """Return the current status. Raises the error of the cluster if no record can be read instead."""
        if self._is_out:
            return self._read_newest()
        try:
            self._jobs = self._jobs or connect_jobs(self._run, self._address, is_insecure=self._is_insecure)
            job = self._jobs.get_job(self._run)
        except (RunFailed, UsageError) as error:
            if not self._out:
                raise
            return self._read_record_only(error.message)
        self._does_cluster_answer = True
        self._out, self._name, self._started, self._options = job.out, job.name, job.started, job.options
        status = read_run_status(self._run, job.out, job)
        return status if status.state != "died" else _with_log(status, self._jobs.read_last_lines(self._run))

    def _read_record_only(self, problem: str) -> RunStatus:
        """Return the status without the cluster, and print each new reason once."""
        self._jobs, self._does_cluster_answer = None, False
        if problem != self._last_problem:
            self._last_problem = problem
            print_message(f"reading only the run's record, because {problem}")
        status = read_run_status(self._run, self._out, None, since=self._started, options=self._options)
        return replace(status, name=self._name)

    def _read_newest(self) -> RunStatus:
        """Return the status of the last run of OUT. After the first answer, errors of the store are waited out."""
        try:
            self._last_status = _read_newest_status(self._run)
        except StorageError as error:
            if self._last_status is None and error.code is Code.NOT_FOUND:
                raise UsageError(f"{self._run} holds no run; name the --out of a run") from error
            if self._last_status is None:
                raise
            return replace(self._last_status, state="unknown", record={}, read_error=error.message)
        return self._last_status

    def wait_until_over(self, *, quiet: bool = False) -> RunStatus:
        """Return the final status; show the progress on stderr until then.

        Raises RunFailed after LOST_AFTER_S seconds of silence. A record that was written again is a sign of life,
        however old its time is: the clock of this machine may be ahead.
        """
        from batchtag.runs.progress import ProgressDisplay, RunProgress

        last_sign_of_life = last_not_over = time.monotonic()
        written_at = ""
        with ProgressDisplay(stderr_console(), quiet=quiet) as display:
            while True:
                status, now = self.read_status(), time.monotonic()
                # 1. Believe an end that the cluster reports, that cannot be restarted, or that has lasted.
                last_not_over = last_not_over if status.is_over else now
                is_final = self._does_cluster_answer or status.state not in _RESTARTABLE_STATES
                if status.is_over and (is_final or now - last_not_over > FINAL_AFTER_S):
                    return status
                # 2. Give up after long silence.
                previously_written_at, written_at = written_at, status.record.get("updated_at", written_at)
                is_silent = status.state in _SILENT_STATES and written_at == previously_written_at
                last_sign_of_life = last_sign_of_life if is_silent else now
                if now - last_sign_of_life > LOST_AFTER_S:
                    raise RunFailed(
                        f"no sign of life from {self._run} for {LOST_AFTER_S:.0f} s. {status.summary_line()}"
                    )
                # 3. Show the progress, and ask again.
                has_progress = status.state == "running" and status.record
                phase = f"{status.state}{status.read_error_note}"
                display.show(status.progress if has_progress else RunProgress(phase=phase))
                time.sleep(POLL_S)


def connect_jobs(run: str, address: str, *, is_insecure: bool) -> ClusterJobs:
    """Return the runs of the cluster at `address`, by default of the cluster that this run was sent to."""
    from batchtag.cluster.address import resolve_cluster
    from batchtag.cluster.history import find_note
    from batchtag.cluster.jobs import ClusterJobs

    note = find_note(submission_id_of(run))
    return ClusterJobs(resolve_cluster(address or (note.address if note else ""), is_insecure=is_insecure))


def submission_id_of(run: str) -> str:
    """Return the submitted id. In records and rows, the time of each driver follows it after a dot."""
    return re.sub(r"\.\d+$", "", run)


def read_run_status(
    run_id: str, out: str, job: RayJob | None, *, since: float = 0.0, options: dict[str, Any] | None = None
) -> RunStatus:
    """Return the status of a run. `job` is the cluster's answer, `options` the storage options of OUT without it."""
    from batchtag.runs.status import read_status
    from batchtag.storage import open_store

    try:
        store = open_store(out, job.options if job else options)
    except StorageError as error:
        return read_status(run_id, out=out, store=None, job=job, since=since, read_error=error.message)
    return read_status(run_id, out=out, store=store, job=job, since=since)


def _read_newest_status(out: str) -> RunStatus:
    from batchtag.output.layout import Layout
    from batchtag.runs.status import find_newest_run
    from batchtag.storage import absolute_uri, open_store

    out = absolute_uri(out).rstrip("/")
    run_id = find_newest_run(store=open_store(out), layout=Layout(out))
    if not run_id:
        raise UsageError(f"{out} holds no run; name the --out of a run")
    return read_run_status(run_id, out, None)


def _with_log(status: RunStatus, lines: list[str]) -> RunStatus:
    """Return the status with the end of the driver's log, and our own last line in it as the message."""
    messages = [line.removeprefix("batchtag: ") for line in lines if line.startswith("batchtag: ")]
    return replace(status, message=messages[-1] if messages else status.message, last_log_lines=tuple(lines))
