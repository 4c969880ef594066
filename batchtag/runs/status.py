"""The status of a run: its record in OUT, and, if the cluster was asked, whether its driver is alive.

The driver writes the record every few seconds, so the record says more, and to more people, than the cluster does. But
a driver that was killed cannot write that it was killed: a record that says "running" is believed only while it is
young.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from batchtag.cluster.jobs import RayJob
from batchtag.console import format_duration
from batchtag.errors import Code, StorageError
from batchtag.output.layout import Layout
from batchtag.runs.progress import RunProgress, format_progress
from batchtag.storage import Store, read_json

SILENT_S = 60.0
"""Age in seconds from which a record that says "running" is not believed."""
CLOCK_SKEW_S = 60.0
"""Possible difference in seconds between the clocks of the driver and of Ray."""
_LIVE_STATES = ("running", "waiting", "starting", "silent", "unknown")
_FINAL_STATES = {"SUCCEEDED": "done", "FAILED": "died", "STOPPED": "cancelled"}


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One run at one moment, in words for a person.

    `state` is waiting, starting, running, silent, unknown (no record exists, and the cluster was not asked), done,
    interrupted, cancelled, failed, too_many_failures or died.
    """

    run_id: str
    state: str
    out: str
    name: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    started: str = ""
    driver_exit_code: int | None = None
    last_log_lines: tuple[str, ...] = ()
    """The end of the log of a driver that died."""
    read_error: str = ""
    """The reason why the record could not be read; "" if it could, or if there is none."""

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.state not in _LIVE_STATES

    @property
    def exit_code(self) -> int:
        """The exit code of `batchtag run`, as far as it is known."""
        known = {"done": 0, "too_many_failures": 3, "interrupted": 130, "cancelled": 130}.get(self.state)
        return known if known is not None else self.driver_exit_code or 1

    @property
    def progress(self) -> RunProgress:
        """The progress in the record."""
        return RunProgress.from_record(self.record)

    @property
    def read_error_note(self) -> str:
        """The end of a line about a run whose record cannot be read; else ""."""
        return f"; its record cannot be read: {self.read_error}" if self.read_error else ""

    def summary_line(self) -> str:
        """Return one line: the progress while the run lives, then how it ended."""
        text = f"{self.run_id}: {self.state.replace('_', ' ')}"
        if self.is_over:
            done = f", {self.record['num_done']:,} of {self.record['num_images']:,} images" if self.record else ""
            has_code = self.state == "died" and self.driver_exit_code is not None
            code = f", exit code {self.driver_exit_code}" if has_code else ""
            return f"{text}{code}{done}{f': {self.message}' if self.message else ''}{self.read_error_note}"
        if self.state == "silent":
            text += f" for {format_duration(record_age_s(self.record))}"
        return f"{text} | {format_progress(self.progress)}" if self.record else f"{text}{self.read_error_note}"


def read_status(
    run_id: str, *, out: str, store: Store | None, job: RayJob | None = None, since: float = 0.0, read_error: str = ""
) -> RunStatus:
    """Return the status of this run.

    `job` is what Ray reports of it, if Ray was asked. `store` is None if OUT's store cannot be opened; `read_error`
    then says why. The id of a run derives from its job, so OUT may hold a record of the same id that another cluster
    left: a record older than Ray's job (or `since`, in epoch seconds, if Ray was asked before) does not belong to this
    run.
    """
    record: dict[str, Any] = {}
    try:
        record = read_record(run_id, store=store, layout=Layout(out)) if out and store else {}
    except StorageError as error:
        read_error = error.message
    if record and _started_at(record) < (job.started if job else since) - CLOCK_SKEW_S:
        record = {}
    state, message = _merge_state(record, job, has_record=bool(record or read_error))
    return RunStatus(
        run_id=run_id,
        state=state,
        out=out,
        name=job.name if job else "",
        record=record,
        message=message,
        started=record.get("started_at", "") or _format_start(job),
        driver_exit_code=job.exit_code if job else None,
        read_error=read_error,
    )


def _merge_state(record: dict[str, Any], job: RayJob | None, *, has_record: bool) -> tuple[str, str]:
    """Return state and message from the record and Ray's job; either may say nothing."""
    state, message = record.get("state", ""), record.get("message", "")
    if job is None:
        is_silent = state == "running" and record_age_s(record) > SILENT_S
        return ("silent" if is_silent else state or "unknown"), message
    if not job.is_over:
        started = "running" if has_record else "starting"
        return (started if job.status == "RUNNING" else "waiting"), message
    if job.status == "STOPPED" and state in ("", "running", "interrupted"):
        return "cancelled", ""
    if state in ("", "running"):
        return _FINAL_STATES[job.status], _shorten_ray_message(job.message)
    return state, message


def _shorten_ray_message(message: str) -> str:
    """Return Ray's message about the end of a job in one line; if pip failed before the driver started, pip's error."""
    errors = re.findall(r"^\s*ERROR: (.+)", message, re.MULTILINE)
    if errors and "'pip', 'install'" in message:
        return f"compute.pip could not be installed on the cluster: {errors[-1]}"
    return " ".join(message.split())[-500:]


def _started_at(record: dict[str, Any]) -> float:
    """Return the start of the run in epoch seconds."""
    return datetime.fromisoformat(record["started_at"]).timestamp()


def _format_start(job: RayJob | None) -> str:
    """Return the start of Ray's job as records have it."""
    return datetime.fromtimestamp(job.started, UTC).isoformat(timespec="seconds") if job else ""


def read_record(run_id: str, *, store: Store, layout: Layout) -> dict[str, Any]:
    """Return the newest record of a run; each driver that was started for it wrote its own, `<run id>.<time>`.

    Returns {} if there is none yet. Raises StorageError if one exists and cannot be read.
    """
    try:
        uris = [listed.uri for page in store.list_folder(layout.runs) for listed in page]
    except StorageError as error:
        if error.code is Code.NOT_FOUND:
            return {}
        raise
    records = [uri for uri in uris if _is_record_of(uri, run_id)]
    stored = read_json(max(records), store=store, build=dict) if records else None
    return stored[0] if stored else {}


def find_newest_run(*, store: Store, layout: Layout) -> str:
    """Return the id of the run of an OUT that started last; "" if there is none. Damaged records are skipped.

    Raises StorageError if a record cannot be read: it may be the newest, and another would be returned in its place.
    """
    newest: tuple[str, str] = ("", "")
    for page in store.list_folder(layout.runs):
        for listed in page:
            try:
                stored = read_json(listed.uri, store=store, build=dict)
            except StorageError as error:
                if error.code is Code.CORRUPT:
                    continue
                raise
            record = stored[0] if stored else {}
            newest = max(newest, (record.get("started_at", ""), record.get("run_id", "")))
    return newest[1]


def _is_record_of(uri: str, run_id: str) -> bool:
    name = uri.rsplit("/", 1)[-1].removesuffix(".json")
    return name == run_id or (name.startswith(f"{run_id}.") and name.removeprefix(f"{run_id}.").isdigit())


def record_age_s(record: dict[str, Any]) -> float:
    """Return the seconds since the record was written; infinity if it does not say."""
    when = record.get("updated_at") or record.get("started_at")
    return time.time() - datetime.fromisoformat(when).timestamp() if when else float("inf")
