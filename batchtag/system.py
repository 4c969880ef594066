"""The machine and the processes of this driver or worker: cores, memory, child processes, and stop signals.

Processes come from psutil, which knows Linux and macOS. One thing does not: the start mark of a process on Linux is
read from /proc, because psutil's `create_time` moves when the system clock is set, and leases of running jobs compare
it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


def available_cores() -> int:
    """Return the number of cores this process may use: those of the machine, limited by affinity and cgroup v2."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))


def available_memory_bytes() -> int:
    """Return the bytes of memory this process may use: those of the machine, limited by cgroup v2."""
    machine_bytes: int = psutil.virtual_memory().total
    try:
        return min(machine_bytes, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return machine_bytes


def process_start_mark(pid: int) -> str:
    """Return a text that identifies the running process with this pid, because pids are reused; "" if it has ended.

    On Linux the mark is the start time in clock ticks since boot, as lease.json has always held it. Elsewhere it is
    psutil's creation time. A process that has ended and is not yet reaped (a zombie) gives "".
    """
    if sys.platform == "linux":
        return _start_ticks(pid)
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.NoSuchProcess:
        return ""


def _start_ticks(pid: int) -> str:
    """Return field 22 (starttime) of /proc/<pid>/stat; "" for a zombie or a pid without a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return ""
    state, start_ticks = fields[0], fields[19]
    return "" if state in "ZX" else start_ticks


def list_descendants() -> list[psutil.Process]:
    """Return the descendants of this process: its children, their children, and so on."""
    children: list[psutil.Process] = psutil.Process().children(recursive=True)
    return children


def process_title(process: psutil.Process) -> str:
    """Return the command line of a process, which is its title where it set one; "" if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended, or belongs to another user
        return ""


def end_processes(processes: Sequence[psutil.Process], *, patience_s: float) -> None:
    """Wait until these processes have ended; kill those that have not after `patience_s` seconds.

    psutil compares start times before it kills, so a pid that was reused meanwhile is safe.
    """
    _, alive = psutil.wait_procs(processes, timeout=patience_s)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def handle_stop_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first SIGINT or SIGTERM inside the block; ignore further ones.

    The second signal must not cut the shutdown short that the first one began. Does nothing outside the main thread,
    where Python allows no signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        ignore_stop_signals()
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def ignore_stop_signals() -> None:
    """Ignore SIGINT and SIGTERM from now on, so that a shutdown runs to its end. Main thread only, else a no-op."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
