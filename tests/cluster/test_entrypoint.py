"""The reason that is reported when a driver was killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from batchtag.cluster import entrypoint


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("oom_kill 3", "oom_kill 4", ": the head ran out of memory; give it more"),
        ("oom_kill 3", "oom_kill 3", ", and not because memory ran out"),
        ("", "", ", perhaps by the kernel because memory ran out: its counter cannot be read here"),
    ],
    ids=["out of memory", "killed by a user", "unknown"],
)
def test_a_kill_for_lack_of_memory_is_reported_where_the_kernel_counts_them(
    before: str, after: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "memory.events"
    monkeypatch.setattr(entrypoint, "_MEMORY_EVENTS_FILE", events)
    if before:
        events.write_text(f"low 0\n{before}\n")
    num_kills = entrypoint._count_memory_kills()
    if after:
        events.write_text(f"low 0\n{after}\n")
    assert entrypoint._explain_kill(signal.SIGKILL, num_kills) == expected
    assert entrypoint._explain_kill(signal.SIGSEGV, num_kills) == ""
