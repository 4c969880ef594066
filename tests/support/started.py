"""Running `batchtag` in a test: in a process of its own, or in this process, which saves the seconds of a start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

StartCommand = Callable[..., "subprocess.Popen[str]"]


class CommandResult(NamedTuple):
    """The exit code of a command, and what it printed on stdout (`out`) and stderr (`err`)."""

    code: int
    out: str
    err: str


RunCommand = Callable[..., CommandResult]


@pytest.fixture
def start_command() -> Iterator[StartCommand]:
    """Start `batchtag ...` as a process. Processes still running at the end of the test are killed, each by its pid."""
    processes: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", "from batchtag.cli import main; main()", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> RunCommand:
    """Run a command line to its end in this process. Not for commands that start a Ray of their own."""

    def run(*words: str) -> CommandResult:
        from batchtag import cli

        monkeypatch.setattr(sys, "argv", ["batchtag", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        captured = capsys.readouterr()
        return CommandResult(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run
