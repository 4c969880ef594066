"""Processes of this machine: which are still the ones they were (pids are reused), and being asked to stop oneself.

Read from /proc where there is one; elsewhere (macOS) a process is only known to be there or not, and descendants are
not known.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def available_cores() -> int:
    """The cores this process may use: the machine's, less what its affinity or its container (cgroup v2) withholds."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))


def available_memory() -> int:
    """The bytes this process may use at most: the machine's, or what its container (cgroup v2) allows."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return machine


def started(pid: int) -> str:
    """A mark of the running process with that pid; "" if there is none, or one that is only not yet reaped."""
    fields = _fields(pid)
    if fields:
        return "" if fields[0] in "ZX" else fields[19]
    if Path("/proc/self").exists():
        return ""
    return "running" if _answers(pid) else ""


def descendants(pid: int) -> dict[int, str]:
    """The children of a process, and theirs: pid and mark of each. Empty where there is no /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _fields(int(entry.name))
        if fields:
            parents[int(entry.name)] = int(fields[1])
    found: dict[int, str] = {}
    newest = {pid}
    while newest:
        newest = {child for child, parent in parents.items() if parent in newest and child not in found}
        found |= {child: mark for child in newest if (mark := started(child))}
    return found


def end(processes: dict[int, str], *, patience_s: float) -> None:
    """Wait for these processes to go, and kill those that have not gone by then."""
    deadline = time.monotonic() + patience_s
    while left := {pid: mark for pid, mark in processes.items() if started(pid) == mark}:
        if time.monotonic() > deadline:
            for pid in left:
                if started(pid) == left[pid]:
                    os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.05)


def _fields(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name: state, parent, ..., [19] the start in clock ticks since boot."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return []


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def stop_signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt once; what comes while the command is ending is ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        ignore_signals()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """From now on, in a main thread, SIGINT and SIGTERM do nothing: an end that has begun is not to be cut short."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
