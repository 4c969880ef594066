"""`batchtag` as a person starts it: a process of its own, with a private Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `batchtag ...`; whatever still runs at the end of the test is ended by its process id."""
    started: list[subprocess.Popen[str]] = []

    def batchtag(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", "from batchtag.cli import main; main()", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"},
        )
        started.append(process)
        return process

    yield batchtag
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
