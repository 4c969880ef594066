"""What every test may use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ["RAY_AUTH_MODE"] = "disabled"  # read when Ray is imported: the suite's own cluster listens on the loopback
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
# Ray runs its workers at nice 15; beside other work on the same cores they would hardly run at all.
os.environ.setdefault("RAY_worker_niceness", "0")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # several tests at a time: threads of torch that outnumber the cores crawl

from tests.support.s3server import bucket, s3
from tests.support.started import start, typed

__all__ = ["bucket", "s3", "start", "typed"]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real images and hostile files that lie beside the repository; skips where they are absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/data with real test material is not beside this checkout")
    return folder


_status = 0


def pytest_sessionfinish(exitstatus: int) -> None:
    """Keep the verdict for the very end."""
    global _status
    _status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End here, when all is reported and every fixture is torn down, without Python's own teardown.

    A process that has joined and left Ray 2.60 some forty times crashed there once in three full runs, after "passed".
    The processes of pytest-xdist have reported by then, and end as it tells them to.
    """
    if hasattr(config, "workerinput"):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_status)
