"""Private Rays that start late, and addresses that cannot be joined."""

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
def session_folders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of all starts of a Ray that is late each time."""
    folders: list[str] = []

    def init(**options: Any) -> Any:
        folders.append(options["_temp_dir"])
        raise Exception(LATE)  # as Ray raises it

    monkeypatch.setattr(ray, "init", init)
    return folders


_LATE_ONCE_SCRIPT = """
import ray
from pathlib import Path
from batchtag.cluster.session import RaySession

real_init, folders = ray.init, []

def init(**options):
    folders.append(options["_temp_dir"])
    if len(folders) == 1:
        raise Exception("The current node timed out during startup.")  # as Ray raises it
    return real_init(**options)

ray.init = init
session = RaySession(address="", verbose=False)
session.start()
session.ready.result()
session.stop(keep_logs=False)
print(len(set(folders)), Path(folders[0]).exists())
"""


@pytest.mark.slow
def test_a_ray_that_is_late_is_started_again_in_a_new_folder() -> None:
    """Runs in a process of its own: a process of the suite that had used Ray ended silently minutes later."""
    ended = subprocess.run([sys.executable, "-c", _LATE_ONCE_SCRIPT], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["2", "False"]


def test_a_ray_that_never_starts_is_reported_after_three_attempts(session_folders: list[str]) -> None:
    session = RaySession(address="", verbose=False)
    session.start()
    with pytest.raises(RunFailed, match="could not start Ray on this machine: The current node timed out"):
        session.ready.result()
    assert len(set(session_folders)) == len(session_folders) == 3


def test_the_address_of_a_dashboard_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `export RAY_ADDRESS=https://...` for `submit`, Ray itself would report "Invalid Ray address"."""
    monkeypatch.setenv("RAY_ADDRESS", "https://ray.acme.internal")
    with pytest.raises(UsageError, match=r"takes jobs: use `batchtag submit`\..*; unset RAY_ADDRESS to run on"):
        RaySession(address="", verbose=False)
