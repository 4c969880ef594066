"""Nodes of Ray as separate processes: start them, wait until they are alive, and end them by process id."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import psutil

START_LIMIT_S = 120.0
"""Seconds to wait for nodes to be alive."""
_ALIVE = 0
"""GcsNodeInfo.ALIVE"""


def start_process(command: str, *, environment: Mapping[str, str], log: Path) -> psutil.Popen:
    """Start a command whose stdout and stderr are appended to a log."""
    with log.open("a") as output:
        return psutil.Popen(command.split(), env=dict(environment), stdout=output, stderr=output)


def wait_for_nodes(head: psutil.Popen, address: str, *, count: int) -> None:
    """Wait until that many nodes of the cluster at `address` are alive.

    Raises SystemExit if the head ends before, or after START_LIMIT_S.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    ends_at, last_answer = time.monotonic() + START_LIMIT_S, ""
    while time.monotonic() < ends_at:
        try:
            nodes = GcsClient(address=address).get_all_node_info(timeout=2.0).values()
            alive = sum(node.state == _ALIVE for node in nodes)
            if alive >= count:
                return
            last_answer = f"{alive} are alive"
        except Exception as error:  # private errors of Ray, while the head starts
            last_answer = str(error)
        try:
            head.wait(timeout=0.2)
        except psutil.TimeoutExpired:
            continue
        raise SystemExit("the head has ended; the path of its folder may be too long for a socket")
    raise SystemExit(f"fewer than {count} nodes at {address} after {START_LIMIT_S:.0f} s: {last_answer}")


def list_descendants(process: psutil.Process) -> list[psutil.Process]:
    """Return all processes below this one; none if it has ended."""
    try:
        descendants: list[psutil.Process] = process.children(recursive=True)
        return descendants
    except psutil.NoSuchProcess:
        return []


def title_of(process: psutil.Process) -> str:
    """Return the command line of a process; "" if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill_process(process: psutil.Process) -> bool:
    """Kill a process; return whether it was still running."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def end_process_tree(process: psutil.Popen) -> None:
    """Kill a process and all processes below it, and wait for its end."""
    for one in [*list_descendants(process), process]:
        kill_process(one)
    process.wait()
    process.poll()  # if Ray has reaped it already, only this updates Python's own handle
