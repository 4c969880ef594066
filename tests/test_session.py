"""A private Ray that does not start at once, and an address that is nobody's to join."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from batchtag.errors import RunFailed, UsageError
from batchtag.session import RaySession

LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that Ray was told to start in. With `LATE` appended beforehand, it is late so many times."""
    told: list[str] = []
    really = ray.init
    late = 0

    def init(**options: Any) -> Any:
        nonlocal late
        folder = options["_temp_dir"]
        told.append(folder)
        if late < len([one for one in told if one == LATE]):
            late += 1
            raise Exception(LATE)  # as Ray raises it
        return really(**options)

    monkeypatch.setattr(ray, "init", init)
    return told


def test_a_ray_that_comes_too_late_is_started_once_more(starts: list[str]) -> None:
    starts.append(LATE)
    session = RaySession(address="", verbose=False)
    session.start()
    session.ready.result()
    session.stop(keep_logs=False)
    first, second = starts[1:]
    assert first != second
    assert not Path(first).exists()


def test_a_ray_that_never_comes_says_so(starts: list[str]) -> None:
    starts += [LATE] * 9
    session = RaySession(address="", verbose=False)
    session.start()
    with pytest.raises(RunFailed, match="could not start Ray on this machine: The current node timed out"):
        session.ready.result()
    assert len(starts) == 9 + 3


def test_a_dashboard_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `export RAY_ADDRESS=https://...` for `submit`, Ray itself would say "Invalid Ray address"."""
    monkeypatch.setenv("RAY_ADDRESS", "https://ray.acme.internal")
    with pytest.raises(UsageError, match=r"takes jobs: `batchtag submit`\..*; unset RAY_ADDRESS to run on"):
        RaySession(address="", verbose=False)
