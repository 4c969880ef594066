"""Fixtures that every test may use, and how the tests are divided among processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

# Ray reads this when it is imported. The suite's own clusters listen on the loopback only.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
# Ray runs its workers at nice 15; beside other work on the same cores they would hardly run at all.
os.environ.setdefault("RAY_worker_niceness", "0")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # with several test processes, more threads of torch than cores are very slow

from tests.support.s3server import bucket, s3
from tests.support.started import run_command, start_command

__all__ = ["bucket", "run_command", "s3", "start_command"]
SLOW_TIMEOUT_S = 600
"""Seconds for a test with the marker `slow` and no `timeout` of its own; of others see pyproject.toml."""
LONG_FOLDERS = ("integration", "cli", "cluster", "models", "training", "benchmarks", "demo", "docs")
"""Folders of `tests/` that start first, so that no process has a long file left when the others are idle."""
SHARED_CLUSTER_FOLDERS = ("integration", "cli", "cluster")
"""Folders whose files run in one process, because they share a Ray cluster (tests/support/ray_clusters.py)."""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real images and hostile files beside the repository. Skips the test where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/data with real test material is not beside this checkout")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests more time, and put the tests of long folders first."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_S))
    items.sort(key=lambda item: _rank(_folder_of(item.nodeid)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Divide the tests among processes by file, because fixtures of a module start once then, or by folder.

    pytest-xdist's own `--dist loadgroup` does nothing with pytest 9.2: version 3.8 sets the attribute `_nodeid`, which
    pytest no longer reads.
    """
    from xdist.scheduler import LoadScopeScheduling

    class FileScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            folder = _folder_of(nodeid)
            return folder if folder in SHARED_CLUSTER_FOLDERS else nodeid.partition("::")[0]

    config.option.loadscopereorder = False  # the order of `pytest_collection_modifyitems` stays
    return FileScheduling(config, log)


def _folder_of(nodeid: str) -> str:
    """Return the folder of a test below `tests/`, or its file's name."""
    return nodeid.removeprefix("tests/").partition("/")[0]


def _rank(folder: str) -> int:
    return LONG_FOLDERS.index(folder) if folder in LONG_FOLDERS else len(LONG_FOLDERS)


_status = 0


def pytest_sessionfinish(exitstatus: int) -> None:
    """Keep the exit status for `pytest_unconfigure`."""
    global _status
    _status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End the process here, after all reports and all teardowns of fixtures, without Python's own teardown.

    A process that had joined and left Ray 2.60 some forty times crashed in that teardown, after "passed", in one of
    three full runs. The processes of pytest-xdist have reported by then, and end when pytest-xdist ends them.
    """
    if hasattr(config, "workerinput"):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_status)
