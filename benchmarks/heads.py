"""Heads of real Ray clusters with their dashboards, whose processes end with the block that started them."""

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

from benchmarks.nodes import list_descendants, title_of

START_LIMIT_S = 60.0
"""Seconds to wait for a head's dashboard."""
RUN_TITLES = ("ray::Map", "ray::Supervisor", "ray::DecodeWorker", "ray::_Arrival")
"""Titles of the processes that a run starts on a cluster."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head with three logical CPUs. `address` is its dashboard's, `gcs` that of Ray itself."""

    address: str
    gcs: str
    pid: int
    metrics: str
    token: str = field(default="", repr=False)

    def list_run_processes(self) -> list[psutil.Process]:
        """Return the processes of this cluster that belong to a run."""
        descendants = psutil.Process(self.pid).children(recursive=True)
        return [process for process in descendants if title_of(process).startswith(RUN_TITLES)]

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that a command needs to use this head."""
        return {"RAY_AUTH_TOKEN": self.token} if self.token else {}


def find_free_ports(count: int) -> list[int]:
    """Return that many ports of the loopback that are free now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def run_ray_head(folder: Path, *, token: str = "", python: str = sys.executable) -> Iterator[Head]:
    """Run a head with this interpreter, which is also the interpreter of its jobs. Its files go into `folder`.

    With a `token` the head demands it; without one it has no authentication.
    """
    gcs, dashboard, client, agent, metrics = find_free_ports(5)
    command = [python, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=3"]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    command += [f"--dashboard-agent-listen-port={agent}", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"]
    command += [f"--temp-dir={folder}", f"--object-store-memory={128 * 2**20}", "--disable-usage-stats"]
    command += [f"--metrics-export-port={metrics}"]
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | auth
    environment["RAY_worker_niceness"] = "0"
    environment["RAY_metrics_report_interval_ms"] = "500"
    environment["PATH"] = f"{Path(python).parent}:{environment['PATH']}"  # so that an entrypoint finds its `python`
    with (folder / "head.log").open("w") as log:
        process = psutil.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        head = Head(
            address=f"http://127.0.0.1:{dashboard}",
            gcs=f"127.0.0.1:{gcs}",
            token=token,
            pid=process.pid,
            metrics=f"http://127.0.0.1:{metrics}/metrics",
        )
        wait_for_dashboard(head, process, folder / "head.log")
        yield head
    finally:
        family = [process, *list_descendants(process)]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(family, timeout=10)
        process.wait()


def wait_for_dashboard(head: Head, process: psutil.Popen, log: Path) -> None:
    """Wait until the dashboard lists jobs and nodes. Raises AssertionError with the log if the head ends before."""
    ends_at = time.monotonic() + START_LIMIT_S
    while time.monotonic() < ends_at:
        assert process.poll() is None, log.read_text()
        with suppress(urllib.error.URLError, ConnectionError):
            _get_json(head, "/api/jobs/")
            if _get_json(head, "/api/v0/nodes")["data"]["result"]["result"]:  # empty for a while after it answers
                return
        with suppress(psutil.TimeoutExpired):
            process.wait(timeout=0.2)
    raise AssertionError(f"the dashboard does not answer after {START_LIMIT_S:.0f} s: {log.read_text()}")


def _get_json(head: Head, path: str) -> Any:
    headers = {"Authorization": f"Bearer {head.token}"} if head.token else {}
    with urllib.request.urlopen(urllib.request.Request(f"{head.address}{path}", headers=headers)) as answer:
        return json.load(answer)
