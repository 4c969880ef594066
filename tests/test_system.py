"""What this process may use of its machine."""

from __future__ import annotations

import psutil

from batchtag.system import available_cores, available_memory


def test_a_process_may_use_no_more_than_its_machine_has() -> None:
    assert 0 < available_memory() <= psutil.virtual_memory().total
    assert 0 < available_cores() <= (psutil.cpu_count() or 1)
