"""Nodes of Ray as processes of their own: started, waited for until they are alive, and ended by process id."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import psutil
from ray._raylet import GcsClient  # type: ignore[attr-defined]

START_S = 120.0
_ALIVE = 0
"""GcsNodeInfo.ALIVE"""


def started(words: str, *, environment: Mapping[str, str], log: Path) -> psutil.Popen:
    """The command as a process whose words go to the end of a log."""
    with log.open("a") as said:
        return psutil.Popen(words.split(), env=dict(environment), stdout=said, stderr=said)


def wait_for_nodes(head: psutil.Popen, address: str, *, count: int) -> None:
    """Until so many nodes of the cluster at that address are alive. Raises SystemExit when the head ends instead."""
    until, said = time.monotonic() + START_S, ""
    while time.monotonic() < until:
        try:
            nodes = GcsClient(address=address).get_all_node_info(timeout=2.0).values()
            alive = sum(node.state == _ALIVE for node in nodes)
            if alive >= count:
                return
            said = f"{alive} are alive"
        except Exception as error:  # ray's private errors, while the head starts
            said = str(error)
        try:
            head.wait(timeout=0.2)
        except psutil.TimeoutExpired:
            continue
        raise SystemExit("the head has ended; the path of its folder may be too long for a socket")
    raise SystemExit(f"no {count} nodes at {address} within {START_S:.0f} s: {said}")


def children(process: psutil.Process) -> list[psutil.Process]:
    """All below it; none if it has gone."""
    try:
        found: list[psutil.Process] = process.children(recursive=True)
        return found
    except psutil.NoSuchProcess:
        return []


def kill(process: psutil.Process) -> bool:
    """Whether it was still there."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def end(process: psutil.Popen) -> None:
    """It and all below it."""
    for one in [*children(process), process]:
        kill(one)
    process.wait()
    process.poll()  # where Ray has reaped it already, only this tells Python's own handle
