"""Heads of real Ray clusters with their dashboards, each in processes that end with the one that started it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

START_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head of three logical CPUs."""

    address: str
    gcs: str
    pid: int
    metrics: str
    token: str = field(default="", repr=False)

    def actors(self) -> list[psutil.Process]:
        """The processes of this cluster that a run has made its own."""
        mine = ("ray::Map", "ray::Monitor", "ray::Opener", "ray::_Arrival")
        return [one for one in psutil.Process(self.pid).children(recursive=True) if _title(one).startswith(mine)]

    @property
    def environment(self) -> dict[str, str]:
        """What a shell that speaks to it has set."""
        return {"RAY_AUTH_TOKEN": self.token} if self.token else {}


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def ray_head(folder: Path, *, token: str = "", python: str = sys.executable) -> Iterator[Head]:
    """Run one by that interpreter, which jobs run by too. Its files go into the folder."""
    gcs, dashboard, client, agent, metrics = free_ports(5)
    words = [python, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=3"]
    words += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    words += [f"--dashboard-agent-listen-port={agent}", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"]
    words += [f"--temp-dir={folder}", f"--object-store-memory={128 * 2**20}", "--disable-usage-stats"]
    words += [f"--metrics-export-port={metrics}"]
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | auth
    environment["RAY_worker_niceness"] = "0"
    environment["RAY_metrics_report_interval_ms"] = "500"
    environment["PATH"] = f"{Path(python).parent}:{environment['PATH']}"  # where `python` of an entrypoint is
    with (folder / "head.log").open("w") as log:
        process = psutil.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        head = Head(
            address=f"http://127.0.0.1:{dashboard}",
            gcs=f"127.0.0.1:{gcs}",
            token=token,
            pid=process.pid,
            metrics=f"http://127.0.0.1:{metrics}/metrics",
        )
        wait_for(head, process, folder / "head.log")
        yield head
    finally:
        family = [process, *process.children(recursive=True)]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family, timeout=10)
        process.wait()


def wait_for(head: Head, process: psutil.Popen, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        with suppress(urllib.error.URLError, ConnectionError):
            _answer(head, "/api/jobs/")
            if _answer(head, "/api/v0/nodes")["data"]["result"]["result"]:  # its own comes some time after it answers
                return
        with suppress(psutil.TimeoutExpired):
            process.wait(timeout=0.2)
    raise AssertionError(f"no dashboard within a minute: {log.read_text()}")


def _answer(head: Head, path: str) -> Any:
    headers = {"Authorization": f"Bearer {head.token}"} if head.token else {}
    with urllib.request.urlopen(urllib.request.Request(f"{head.address}{path}", headers=headers)) as answer:
        return json.load(answer)
