"""The lease: one run at a time may write to an OUT, and the lease of a dead run expires.

The holder renews `lease.json` every 10 s. After 60 s without renewal (on the same machine: as soon as the holder's
process has ended) the next run may take it over. Every change is a conditional write, so two runs that start together
cannot both acquire it. Workers check the lease before each commit: this stops a run that was declared dead and is
alive.
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
from batchtag.system import process_start_mark

RENEW_S = 10.0
"""Seconds between two renewals."""
EXPIRE_S = 60.0
"""Seconds without a renewal after which a holder on another machine counts as dead."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The content of lease.json.

    `process` is the start time of the process in clock ticks since boot, because pids are reused. `boot` identifies the
    boot and the pid namespace in which the pid is valid, because pods of one node may share a host name.
    """

    run_id: str
    host: str
    boot: str
    pid: int
    process: str
    renewed_at: float

    def reason_dead(self, now: float) -> str:
        """Return why this holder may be taken over; "" if it may not."""
        if self.host == socket.gethostname() and self.boot == _boot_id():
            return "" if process_start_mark(self.pid) == self.process != "" else "its process has ended"
        silent_s = now - self.renewed_at
        return f"it was silent for {silent_s:.0f} s" if silent_s > EXPIRE_S else ""


def _boot_id() -> str:
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


class Lease:
    """The right to write to one OUT. Runs on the driver; a thread renews it between `acquire` and `release`."""

    def __init__(self, uri: str, *, store: Store, run_id: str, clock: Callable[[], float] = time.time) -> None:
        self._uri = uri
        self._store = store
        self._run_id = run_id
        self._clock = clock
        self._etag = ABSENT
        self._stop = threading.Event()
        self._renewer: threading.Thread | None = None
        self.lost_to: str = ""
        """Who took the lease over, in words; "" while it is held."""

    def acquire(self) -> str:
        """Acquire the lease. Returns the run id of a dead holder that was taken over, else "".

        Raises OutputError while another run holds it.
        """
        stored = _read_holder(self._uri, store=self._store)
        taken_over, expected = "", ABSENT
        if stored is not None:
            holder, expected = stored
            if not holder.reason_dead(self._clock()):
                raise OutputError(self._held_message(holder))
            taken_over = holder.run_id
        try:
            with_retries(lambda: self._write(expected=expected))
        except ConditionFailed as error:
            # The write may have succeeded although its answer was lost and it was tried again.
            if self._current_run() != self._run_id:
                message = f"{self._uri}: another run acquired the lease of this OUT just now; run one at a time"
                raise OutputError(message) from error
        self._renewer = threading.Thread(target=self._renew_until_stopped, name="lease", daemon=True)
        self._renewer.start()
        return taken_over

    def release(self) -> None:
        """Delete the lease; does nothing if another run has taken it over."""
        # 1. The renewing thread ends first, or it would write the lease again.
        self._stop.set()
        if self._renewer is not None:
            self._renewer.join()
        # 2. Only the own lease is deleted.
        if not self.lost_to and self._current_run() == self._run_id:
            with_retries(lambda: self._store.delete(self._uri))

    def _held_message(self, holder: Holder) -> str:
        silent_s = max(0.0, self._clock() - holder.renewed_at)
        return (
            f"{self._uri.removesuffix('/_batchtag/lease.json')} is being written by run {holder.run_id} "
            f"(process {holder.pid} on {holder.host}, last renewal {silent_s:.0f} s ago). Wait for it, stop it, or "
            f"choose another --out; a run that died on another machine counts as dead after {EXPIRE_S:.0f} s"
        )

    def _write(self, *, expected: str) -> None:
        holder = Holder(
            run_id=self._run_id,
            host=socket.gethostname(),
            boot=_boot_id(),
            pid=os.getpid(),
            process=process_start_mark(os.getpid()),
            renewed_at=self._clock(),
        )
        self._etag = self._store.write_if(self._uri, json.dumps(asdict(holder)).encode(), expected=expected)

    def _renew_until_stopped(self) -> None:
        while not self.lost_to and not self._stop.wait(RENEW_S):
            # A store that is unreachable for a moment does no harm: the lease lasts 60 s, and commits fail meanwhile.
            with contextlib.suppress(StorageError):
                self._renew()

    def _renew(self) -> None:
        try:
            self._write(expected=self._etag)
        except ConditionFailed:
            current = self._current_run()
            if current != self._run_id:
                self.lost_to = f"run {current}" if current else "someone who deleted it"

    def _current_run(self) -> str:
        """Return the run that holds the lease now, "" if none does. It may be our own write whose answer was lost."""
        stored = _read_holder(self._uri, store=self._store)
        if stored is None:
            return ""
        holder, etag = stored
        if holder.run_id == self._run_id:
            self._etag = etag
        return holder.run_id


def _read_holder(uri: str, *, store: Store) -> tuple[Holder, str] | None:
    return read_json(uri, store=store, build=lambda content: Holder(**content))


def check_lease(uri: str, *, store: Store, run_id: str) -> None:
    """Raise LeaseLost unless `run_id` holds the lease. Runs in the worker, before each commit."""
    stored = _read_holder(uri, store=store)
    if stored is None or stored[0].run_id != run_id:
        holder = f"run {stored[0].run_id} holds it now" if stored else "no run holds it"
        raise LeaseLost(f"run {run_id} lost its lease of {uri.removesuffix('/_batchtag/lease.json')}: {holder}")
