"""Who may write to OUT: one run at a time, by a lease that dies with its holder.

The holder renews `lease.json` every 10 s; 60 s without renewal (or, on the same machine, a process that is no longer
there) and the next run may take it. All changes are conditional writes, so two runs that start together cannot both
win. Workers look at the lease before each commit: that is what stops a run that was declared dead and is not.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from batchtag.errors import ConditionFailed, LeaseLost, OutputError, StorageError
from batchtag.storage import ABSENT, Store, read_json
from batchtag.storage.retry import with_retries
from batchtag.system import started

RENEW_S = 10.0
EXPIRE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The content of lease.json.

    `process` is the start time of the process in clock ticks since boot, because pids are reused; `boot` says within
    which boot, and which pid namespace, a pid means anything: pods of one node may share a host name.
    """

    run_id: str
    host: str
    boot: str
    pid: int
    process: str
    renewed_at: float

    def dead_because(self, now: float) -> str:
        """Why this holder may be taken over, "" if it may not."""
        if self.host == socket.gethostname() and self.boot == _boot_id():
            return "" if started(self.pid) == self.process != "" else "its process is gone"
        silent_s = now - self.renewed_at
        return f"it was silent for {silent_s:.0f} s" if silent_s > EXPIRE_S else ""


def _boot_id() -> str:
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


class Lease:
    """The right to write to one OUT. Runs on the driver; renews itself in a thread between `acquire` and `release`."""

    def __init__(self, uri: str, *, store: Store, run_id: str, clock: Callable[[], float] = time.time) -> None:
        self._uri = uri
        self._store = store
        self._run_id = run_id
        self._clock = clock
        self._etag = ABSENT
        self._stop = threading.Event()
        self._renewer: threading.Thread | None = None
        self.lost: str = ""

    def acquire(self) -> str:
        """Take the lease. Returns the run id of a dead holder that was taken over, else "".

        Raises OutputError while another run holds it.
        """
        found = _read(self._uri, store=self._store)
        taken_over, expected = "", ABSENT
        if found is not None:
            holder, expected = found
            if not holder.dead_because(self._clock()):
                raise OutputError(self._held_by(holder))
            taken_over = holder.run_id
        try:
            with_retries(lambda: self._write(expected=expected))
        except ConditionFailed as error:
            if self._winner() != self._run_id:
                message = f"{self._uri}: another run took the lease of this OUT just now; run one at a time"
                raise OutputError(message) from error
        self._renewer = threading.Thread(target=self._renew_for_ever, name="lease", daemon=True)
        self._renewer.start()
        return taken_over

    def release(self) -> None:
        """Give it back; does nothing to a lease that was lost."""
        self._stop.set()
        if self._renewer is not None:
            self._renewer.join()
        if not self.lost and self._winner() == self._run_id:
            with_retries(lambda: self._store.delete(self._uri))

    def _held_by(self, holder: Holder) -> str:
        silent_s = max(0.0, self._clock() - holder.renewed_at)
        return (
            f"{self._uri.removesuffix('/_batchtag/lease.json')} is being written by run {holder.run_id} "
            f"(process {holder.pid} on {holder.host}, last sign of life {silent_s:.0f} s ago). Wait for it, stop it, "
            f"or choose another --out; a run that died elsewhere counts as dead after {EXPIRE_S:.0f} s"
        )

    def _write(self, *, expected: str) -> None:
        holder = Holder(
            run_id=self._run_id,
            host=socket.gethostname(),
            boot=_boot_id(),
            pid=os.getpid(),
            process=started(os.getpid()),
            renewed_at=self._clock(),
        )
        self._etag = self._store.write_if(self._uri, json.dumps(asdict(holder)).encode(), expected=expected)

    def _renew_for_ever(self) -> None:
        while not self.lost and not self._stop.wait(RENEW_S):
            # When the store is away for a moment: the lease has 60 s, and commits fail by themselves meanwhile.
            with contextlib.suppress(StorageError):
                self._renew()

    def _renew(self) -> None:
        try:
            self._write(expected=self._etag)
        except ConditionFailed:
            winner = self._winner()
            if winner != self._run_id:
                self.lost = f"run {winner}" if winner else "somebody who deleted it"

    def _winner(self) -> str:
        """The run that holds the lease now, "" if none does. It may be our own write, whose answer was lost."""
        found = _read(self._uri, store=self._store)
        if found is None:
            return ""
        holder, etag = found
        if holder.run_id == self._run_id:
            self._etag = etag
        return holder.run_id


def _read(uri: str, *, store: Store) -> tuple[Holder, str] | None:
    return read_json(uri, store=store, build=lambda content: Holder(**content))


def check_lease(uri: str, *, store: Store, run_id: str) -> None:
    """Raise LeaseLost unless `run_id` holds the lease. Runs in the worker, before each commit."""
    found = _read(uri, store=store)
    if found is None or found[0].run_id != run_id:
        holder = f"run {found[0].run_id} holds it now" if found else "nobody holds it"
        raise LeaseLost(f"run {run_id} lost its lease of {uri.removesuffix('/_batchtag/lease.json')}: {holder}")
