"""Why a driver died, in words."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from batchtag.cluster import entrypoint


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("oom_kill 3", "oom_kill 4", ": the head ran out of memory; give it more"),
        ("oom_kill 3", "oom_kill 3", ", and not for want of memory"),
        ("", "", ", perhaps by the kernel for want of memory: its counter cannot be read here"),
    ],
    ids=["out of memory", "by somebody", "unknown"],
)
def test_want_of_memory_is_named_where_the_kernel_counts_it(
    before: str, after: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "memory.events"
    monkeypatch.setattr(entrypoint, "_EVENTS", events)
    if before:
        events.write_text(f"low 0\n{before}\n")
    kills = entrypoint._memory_kills()
    if after:
        events.write_text(f"low 0\n{after}\n")
    assert entrypoint._why(signal.SIGKILL, kills) == words
    assert entrypoint._why(signal.SIGSEGV, kills) == ""
