"""The resources of this process, start marks of processes, and the end of child processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from batchtag.system import (
    available_cores,
    available_memory_bytes,
    end_processes,
    list_descendants,
    process_start_mark,
    process_title,
)

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_process_may_use_at_most_what_its_machine_has() -> None:
    assert 0 < available_memory_bytes() <= psutil.virtual_memory().total
    assert 0 < available_cores() <= (psutil.cpu_count() or 1)


def test_a_start_mark_belongs_to_one_process_and_vanishes_with_it() -> None:
    child = subprocess.Popen(SLEEP)
    try:
        mark = process_start_mark(child.pid)
        assert mark == process_start_mark(child.pid) != ""
    finally:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_start_mark(child.pid) == "", "it has ended, although it is not reaped"
    child.wait()
    assert process_start_mark(child.pid) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_start_mark_has_the_format_of_leases_written_by_older_versions() -> None:
    """Clock ticks since boot: field 22 of /proc/<pid>/stat, as text."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    assert process_start_mark(os.getpid()) == fields[19]


def test_child_processes_are_ended_at_all_depths() -> None:
    script = f"import subprocess, time; subprocess.Popen({SLEEP!r}); print('ready', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "ready\n"
        parent = psutil.Process(child.pid)
        family = [process for process in list_descendants() if process == parent or process in parent.children()]
        assert len(family) == 2
        end_processes(family, patience_s=0.0)
        _, alive = psutil.wait_procs(family, timeout=10)
    child.wait()
    assert alive == []
    assert [process_title(process) for process in family] == ["", ""]
