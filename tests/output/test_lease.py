from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from batchtag.errors import Code, ConditionFailed, LeaseLost, OutputError, StorageError
from batchtag.output import lease as lease_module
from batchtag.output.lease import EXPIRE_S, Holder, Lease, check_lease
from batchtag.storage.base import Blob
from batchtag.storage.local import LocalStore


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "_batchtag" / "lease.json")


def holder_of(uri: str) -> Holder:
    return Holder(**json.loads(Path(uri).read_text()))


def put(uri: str, holder: Holder) -> None:
    LocalStore().write(uri, json.dumps(asdict(holder)).encode())


def take_over(uri: str, holder: Holder) -> None:
    """Write the lease as another run does: by a conditional write, also while the first one renews it."""
    store = LocalStore()
    while True:
        with contextlib.suppress(ConditionFailed):
            store.write_if(uri, json.dumps(asdict(holder)).encode(), expected=store.read(uri).etag)
            return


def remote_holder(renewed_at: float) -> Holder:
    return Holder(run_id="r-far", host="far", boot="b", pid=1, process="9", renewed_at=renewed_at)


def make_lease(uri: str, run_id: str = "r-1", clock: Callable[[], float] = lambda: 1000.0) -> Lease:
    return Lease(uri, store=LocalStore(), run_id=run_id, clock=clock)


def test_a_free_lease_is_acquired_and_released(uri: str) -> None:
    lease = make_lease(uri)
    assert lease.acquire() == ""
    assert (holder_of(uri).run_id, holder_of(uri).pid) == ("r-1", os.getpid())
    check_lease(uri, store=LocalStore(), run_id="r-1")
    lease.release()
    assert not Path(uri).exists()
    second = make_lease(uri, "r-2")
    assert second.acquire() == ""
    second.release()


def test_one_of_two_runs_that_start_together_gets_the_lease(uri: str) -> None:
    for round_number in range(10):
        barrier = threading.Barrier(2)
        won: list[Lease] = []
        refused: list[str] = []

        def start(run_id: str, barrier: threading.Barrier, won: list[Lease], refused: list[str]) -> None:
            lease = make_lease(uri, run_id)
            barrier.wait()
            try:
                lease.acquire()
                won.append(lease)
            except OutputError as error:
                refused.append(error.message)

        threads = [
            threading.Thread(target=start, args=(f"r-{round_number}-{i}", barrier, won, refused)) for i in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(refused)) == (1, 1)
        won[0].release()


def test_a_lease_whose_holder_lives_on_this_machine_cannot_be_acquired_however_long_it_was_silent(uri: str) -> None:
    first = make_lease(uri)
    first.acquire()
    with pytest.raises(OutputError, match=r"is being written by run r-1 \(process \d+ on .*last renewal 9000 s ago"):
        make_lease(uri, "r-2", clock=lambda: 10_000.0).acquire()
    first.release()


_DIES_HOLDING_IT = """
import os, sys
from batchtag.output.lease import Lease
from batchtag.storage.local import LocalStore
Lease(sys.argv[1], store=LocalStore(), run_id="r-dead").acquire()
os.kill(os.getpid(), 9)
"""


def test_the_lease_of_a_dead_process_is_taken_over_at_once(uri: str) -> None:
    died = subprocess.run([sys.executable, "-c", _DIES_HOLDING_IT, uri], check=False)
    assert died.returncode == -9
    lease = Lease(uri, store=LocalStore(), run_id="r-next")
    assert lease.acquire() == "r-dead"
    lease.release()


def test_a_holder_whose_pid_now_belongs_to_another_process_counts_as_dead(uri: str) -> None:
    lease = make_lease(uri)
    lease.acquire()
    here = holder_of(uri)
    lease.release()
    put(uri, replace(here, run_id="r-old", process="1"))
    second = make_lease(uri, "r-2")
    assert second.acquire() == "r-old"
    second.release()


def test_a_holder_on_another_machine_is_dead_after_a_minute_of_silence_and_not_before(uri: str) -> None:
    put(uri, remote_holder(renewed_at=1000.0))
    with pytest.raises(OutputError, match="r-far"):
        make_lease(uri, clock=lambda: 1000.0 + EXPIRE_S).acquire()
    lease = make_lease(uri, clock=lambda: 1000.5 + EXPIRE_S)
    assert lease.acquire() == "r-far"
    lease.release()


def test_a_holder_in_a_container_whose_processes_are_not_visible_does_not_count_as_dead(uri: str) -> None:
    """The same kernel and host name (hostNetwork), another pid namespace: its pid is not valid here."""
    lease = make_lease(uri)
    lease.acquire()
    here = holder_of(uri)
    lease.release()
    assert os.readlink("/proc/self/ns/pid") in here.boot
    other = replace(here, run_id="r-pod", pid=2**22 + 1, boot=here.boot.replace("pid:[", "pid:[9"))
    assert other.host == socket.gethostname()
    put(uri, other)
    with pytest.raises(OutputError, match="r-pod"):
        make_lease(uri).acquire()


def test_a_run_whose_lease_was_taken_over_must_not_write_and_does_not_delete_it(uri: str) -> None:
    lease = make_lease(uri)
    lease.acquire()
    put(uri, remote_holder(renewed_at=1000.0))
    with pytest.raises(LeaseLost, match=r"run r-1 lost its lease of .*: run r-far holds it now"):
        check_lease(uri, store=LocalStore(), run_id="r-1")
    lease.release()
    assert holder_of(uri).run_id == "r-far"


def test_a_deleted_lease_is_lost(uri: str) -> None:
    lease = make_lease(uri)
    lease.acquire()
    Path(uri).unlink()
    with pytest.raises(LeaseLost, match="no run holds it"):
        check_lease(uri, store=LocalStore(), run_id="r-1")
    lease.release()


class ScriptedStore(LocalStore):
    """Counts conditional writes, and raises in one, or in a read, what the test says."""

    def __init__(self) -> None:
        self.writes = 0
        self.renewed = threading.Semaphore(0)
        self.before_write: list[Exception | None] = []
        self.after_write: list[Exception | None] = []
        self.before_read: list[Exception | None] = []

    def write_if(self, uri: str, data: bytes, *, expected: str) -> str:
        self.writes += 1
        try:
            _raise_next(self.before_write)
            etag = super().write_if(uri, data, expected=expected)
            _raise_next(self.after_write)
        finally:
            self.renewed.release()
        return etag

    def read(self, uri: str, *, max_bytes: int | None = None, if_etag: str = "") -> Blob:
        _raise_next(self.before_read)
        return super().read(uri, max_bytes=max_bytes, if_etag=if_etag)


def _raise_next(script: list[Exception | None]) -> None:
    if script and (error := script.pop(0)) is not None:
        raise error


def after_renewals(store: ScriptedStore, count: int) -> None:
    for _ in range(count):
        assert store.renewed.acquire(timeout=10)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEW_S", 0.002)


@pytest.mark.usefixtures("quick")
def test_a_renewed_lease_is_kept(uri: str) -> None:
    store, times = ScriptedStore(), iter(range(1000, 10**9))
    lease = Lease(uri, store=store, run_id="r-1", clock=lambda: float(next(times)))
    lease.acquire()
    after_renewals(store, 4)
    assert holder_of(uri).renewed_at >= 1002
    lease.release()
    assert lease.lost_to == ""


@pytest.mark.usefixtures("quick")
def test_a_renewal_notices_that_another_run_took_over(uri: str) -> None:
    store = ScriptedStore()
    lease = Lease(uri, store=store, run_id="r-1", clock=lambda: 1000.0)
    lease.acquire()
    take_over(uri, remote_holder(renewed_at=1000.0))
    assert lease._renewer is not None
    lease._renewer.join(10)
    assert lease.lost_to == "run r-far"
    lease.release()
    assert holder_of(uri).run_id == "r-far"


@pytest.mark.usefixtures("quick")
def test_renewal_survives_a_store_that_is_unreachable_also_while_it_asks_who_holds_the_lease(uri: str) -> None:
    """A write whose answer was lost looks like a lost lease; the read that decides may fail too."""
    unreachable = StorageError("unreachable", code=Code.UNREACHABLE)
    store = ScriptedStore()
    lease = Lease(uri, store=store, run_id="r-1", clock=lambda: 1000.0)
    store.before_write = [None, unreachable]
    store.after_write = [None, ConditionFailed("lost answer")]
    store.before_read = [None, unreachable]
    lease.acquire()
    after_renewals(store, 8)
    assert lease.lost_to == ""
    assert lease._renewer is not None
    assert lease._renewer.is_alive()
    lease.release()
    assert not Path(uri).exists()


def test_acquiring_survives_a_lost_answer(uri: str) -> None:
    """The write arrived, its answer did not, and the second try finds the lease that this run wrote."""
    store = ScriptedStore()
    store.after_write = [StorageError("reset", code=Code.UNREACHABLE, transient=True)]
    lease = Lease(uri, store=store, run_id="r-1", clock=lambda: 1000.0)
    assert lease.acquire() == ""
    lease.release()
    assert (store.writes, Path(uri).exists()) == (2, False)
