"""`batchtag` as a person starts it: a process of its own; or in this one, which saves the seconds that one takes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

Start = Callable[..., "subprocess.Popen[str]"]


class Said(NamedTuple):
    """What a command ended with, and what it said on stdout and stderr."""

    code: int
    out: str
    err: str


Typed = Callable[..., Said]


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


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Run a command line in this process. Not for what starts a Ray of its own."""

    def run(*words: str) -> Said:
        from batchtag import cli

        monkeypatch.setattr(sys, "argv", ["batchtag", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        captured = capsys.readouterr()
        return Said(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run
