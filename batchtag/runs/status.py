"""How a run is doing: its record in OUT, and, where the cluster is asked, whether its driver is there.

The record is written every few seconds by the driver, so it tells more, and to more people, than the cluster does; but
a driver that was killed cannot write that it was. So a record that says "running" is believed while it is young.
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
from batchtag.runs.progress import RunProgress, figures_of, line
from batchtag.storage import Store, read_json

SILENT_S = 60.0
SKEW_S = 60.0
"""Between the clocks of the driver and of Ray."""
_LIVE = ("running", "waiting", "starting", "silent", "unknown")
_OVER = {"SUCCEEDED": "done", "FAILED": "died", "STOPPED": "cancelled"}


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One run at one moment, in words that people use.

    `state` is waiting, starting, running, silent, unknown (there is no record, and the cluster was not asked), done,
    interrupted, cancelled, failed, too_many_failures or died.
    """

    run_id: str
    state: str
    out: str
    name: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    started: str = ""
    driver_code: int | None = None
    last_lines: tuple[str, ...] = ()
    """What the driver of a run that died said last."""
    trouble: str = ""
    """Why its record could not be read, if there is one."""

    @property
    def is_over(self) -> bool:
        return self.state not in _LIVE

    @property
    def exit_code(self) -> int:
        """What `batchtag run` ended with, as far as anybody knows."""
        known = {"done": 0, "too_many_failures": 3, "interrupted": 130, "cancelled": 130}.get(self.state)
        return known if known is not None else self.driver_code or 1

    @property
    def figures(self) -> RunProgress:
        return figures_of(self.record)

    @property
    def unread(self) -> str:
        """The end of a line about a run whose record cannot be read; else ""."""
        return f"; its record cannot be read: {self.trouble}" if self.trouble else ""

    def line(self) -> str:
        """One line: as `run` shows it while it lives, then how it ended."""
        said = f"{self.run_id}: {self.state.replace('_', ' ')}"
        if self.is_over:
            done = f", {self.record['num_done']:,} of {self.record['num_images']:,} images" if self.record else ""
            code = f", exit code {self.driver_code}" if self.state == "died" and self.driver_code is not None else ""
            return f"{said}{code}{done}{f': {self.message}' if self.message else ''}{self.unread}"
        if self.state == "silent":
            said += f" for {format_duration(age_s(self.record))}"
        return f"{said} | {line(self.figures)}" if self.record else f"{said}{self.unread}"


def run_status(
    run_id: str, *, out: str, store: Store | None, job: RayJob | None = None, since: float = 0.0, trouble: str = ""
) -> RunStatus:
    """How this run is doing. `job` is what Ray says of it, where it was asked; `trouble` why OUT has no store.

    The id of a run derives from its job, so OUT may hold a record of the same id that another cluster left: what is
    older than Ray's job (or `since`, epoch seconds, where it was asked before) is not this run's.
    """
    record: dict[str, Any] = {}
    try:
        record = read_record(run_id, store=store, layout=Layout(out)) if out and store else {}
    except StorageError as error:
        trouble = error.message
    if record and _began(record) < (job.started if job else since) - SKEW_S:
        record = {}
    state, message = record.get("state", ""), record.get("message", "")
    if job is None:
        state = "silent" if state == "running" and age_s(record) > SILENT_S else state or "unknown"
    elif not job.is_over:
        begun = "running" if record or trouble else "starting"
        state = begun if job.status == "RUNNING" else "waiting"
    elif job.status == "STOPPED" and state in ("", "running", "interrupted"):
        state, message = "cancelled", ""
    elif state in ("", "running"):
        state, message = _OVER[job.status], _why(job.message)
    return RunStatus(
        run_id=run_id,
        state=state,
        out=out,
        name=job.name if job else "",
        record=record,
        message=message,
        started=record.get("started_at", "") or _time(job),
        driver_code=job.exit_code if job else None,
        trouble=trouble,
    )


def _why(message: str) -> str:
    """What Ray says of the end of a job, in a line. Where pip failed before the driver was begun, pip's last error."""
    errors = re.findall(r"^\s*ERROR: (.+)", message, re.MULTILINE)
    if errors and "'pip', 'install'" in message:
        return f"compute.pip could not be installed on the cluster: {errors[-1]}"
    return " ".join(message.split())[-500:]


def _began(record: dict[str, Any]) -> float:
    """Epoch seconds."""
    return datetime.fromisoformat(record["started_at"]).timestamp()


def _time(job: RayJob | None) -> str:
    """As records have it."""
    return datetime.fromtimestamp(job.started, UTC).isoformat(timespec="seconds") if job else ""


def read_record(run_id: str, *, store: Store, layout: Layout) -> dict[str, Any]:
    """The newest record of a run. Each driver that was begun for it wrote its own, `<run id>.<time>`.

    {} if there is none yet; raises StorageError if there may be one, and it cannot be read.
    """
    try:
        uris = [found.uri for page in store.list_folder(layout.runs) for found in page]
    except StorageError as error:
        if error.code is Code.NOT_FOUND:
            return {}
        raise
    mine = [uri for uri in uris if _is_of(uri, run_id)]
    found = read_json(max(mine), store=store, build=dict) if mine else None
    return found[0] if found else {}


def newest_run(*, store: Store, layout: Layout) -> str:
    """The id of the run of an OUT that began last; "" if there was none. Damaged records are passed over.

    Raises StorageError if a record cannot be read: it may be the last one's, and another would be told in its place.
    """
    newest: tuple[str, str] = ("", "")
    for page in store.list_folder(layout.runs):
        for listed in page:
            try:
                found = read_json(listed.uri, store=store, build=dict)
            except StorageError as error:
                if error.code is Code.CORRUPT:
                    continue
                raise
            record = found[0] if found else {}
            newest = max(newest, (record.get("started_at", ""), record.get("run_id", "")))
    return newest[1]


def _is_of(uri: str, run_id: str) -> bool:
    name = uri.rsplit("/", 1)[-1].removesuffix(".json")
    return name == run_id or (name.startswith(f"{run_id}.") and name.removeprefix(f"{run_id}.").isdigit())


def age_s(record: dict[str, Any]) -> float:
    """Seconds since the record was written."""
    when = record.get("updated_at") or record.get("started_at")
    return time.time() - datetime.fromisoformat(when).timestamp() if when else float("inf")
