"""A private Ray that does not start at once, and an address that is nobody's to join."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import ray

from batchtag.cluster.session import RaySession
from batchtag.errors import RunFailed, UsageError

LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that Ray was told to start in; it is late each time."""
    told: list[str] = []

    def init(**options: Any) -> Any:
        told.append(options["_temp_dir"])
        raise Exception(LATE)  # as Ray raises it

    monkeypatch.setattr(ray, "init", init)
    return told


_STARTED_ONCE_MORE = """
import ray
from pathlib import Path
from batchtag.session import RaySession

really, told = ray.init, []

def init(**options):
    told.append(options["_temp_dir"])
    if len(told) == 1:
        raise Exception("The current node timed out during startup.")  # as Ray raises it
    return really(**options)

ray.init = init
session = RaySession(address="", verbose=False)
session.start()
session.ready.result()
session.stop(keep_logs=False)
print(len(set(told)), Path(told[0]).exists())
"""


def test_a_ray_that_comes_too_late_is_started_once_more() -> None:
    """In a process of its own: one of the suite's, where Ray had been, ended without a word minutes later."""
    said = subprocess.run([sys.executable, "-c", _STARTED_ONCE_MORE], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["2", "False"]


def test_a_ray_that_never_comes_says_so(starts: list[str]) -> None:
    session = RaySession(address="", verbose=False)
    session.start()
    with pytest.raises(RunFailed, match="could not start Ray on this machine: The current node timed out"):
        session.ready.result()
    assert len(set(starts)) == len(starts) == 3


def test_a_dashboard_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `export RAY_ADDRESS=https://...` for `submit`, Ray itself would say "Invalid Ray address"."""
    monkeypatch.setenv("RAY_ADDRESS", "https://ray.acme.internal")
    with pytest.raises(UsageError, match=r"takes jobs: `batchtag submit`\..*; unset RAY_ADDRESS to run on"):
        RaySession(address="", verbose=False)
