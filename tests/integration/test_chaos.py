"""The short form of `benchmarks.chaos`: one run on a cluster of several nodes, with one fault of each kind.

The tests after it show that a fault counts only if it can happen.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from batchtag.analysis.verify import verify
from benchmarks import chaos
from benchmarks.chaos import FAULTS, Node, inject_fault, read_log_end, run_cluster, write_chaos_job
from benchmarks.kills import COMPARED_COLUMNS, read_rows, start_command, write_images
from benchmarks.nodes import end_process_tree, kill_process, start_process
from tests.integration.conftest import Tag

pytestmark = pytest.mark.slow
NUM_IMAGES, SHORT_CUT_S = 3000, 6.0
KINDS = ("actor", "notice", "driver", "worker", "network", "raylet")


def wait_for_parts(driver: subprocess.Popen[bytes], out: Path, at_least: int) -> bool:
    """Wait until that many parts are committed; return whether they were before the run ended."""
    for _ in range(1200):
        if len(list((out / "images").glob("*.parquet"))) >= at_least:
            return True
        try:
            driver.wait(timeout=0.1)
            return False
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(f"fewer than {at_least} parts within two minutes: {read_log_end()}")


def test_faults_of_every_kind_cost_time_and_no_row(tag: Tag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("ip") or subprocess.run(["ip", "netns", "add", "btry"], capture_output=True).returncode:
        pytest.skip("nodes in network namespaces need iproute2's `ip`, and the right to make them, as root has it")
    subprocess.run(["ip", "netns", "del", "btry"], check=True)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(Node.cut_network, "__defaults__", (SHORT_CUT_S,))
    write_images(tmp_path / "images", num_images=NUM_IMAGES)
    tag(str(tmp_path / "images"), str(tmp_path / "undisturbed"), max_failure_rate=1.0)
    out, random_source = tmp_path / "out", random.Random(0)
    job = write_chaos_job(tmp_path, out, num_nodes=2)
    injected: list[str] = []
    with TemporaryDirectory(prefix="bt-", dir="/tmp") as folder, run_cluster(Path(folder), 2) as nodes:
        driver = start_command("run", str(job))
        for kind in KINDS:
            if not wait_for_parts(driver, out, at_least=1 + len(injected)):
                break
            while not FAULTS[kind](driver, nodes, random_source):
                nodes[0].wait(0.2)  # what the fault needs is still being restarted after the last one
            injected.append(kind)
            if driver.poll() is not None:
                driver = start_command("run", str(job))
        if driver.wait(timeout=300):
            raise AssertionError(read_log_end())
    assert injected == list(KINDS)
    assert verify(str(out)).ok
    assert all(read_rows(out, table) == read_rows(tmp_path / "undisturbed", table) for table in COMPARED_COLUMNS)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node without a network, whose only process is its raylet."""
    monkeypatch.setattr(chaos, "run_shell", lambda command: None)
    monkeypatch.setattr(Node, "start", lambda node: None)
    monkeypatch.setattr(Node, "processes", lambda node, title="": [node.process] if node.process.poll() is None else [])
    node = Node(0, tmp_path)
    node.process = start_process("sleep 600", environment=os.environ, log=tmp_path / "log")
    yield node
    end_process_tree(node.process)


def test_a_fault_that_a_node_without_processes_cannot_have_is_replaced_by_another(node: Node) -> None:
    end_process_tree(node.process)
    kinds = ["notice", "network", "raylet", "worker", "driver"]
    with subprocess.Popen(["sleep", "600"]) as driver:
        assert inject_fault(driver, [node], random.Random(0), kinds) == ["driver"]
        assert inject_fault(driver, [node], random.Random(0), kinds) == []
    assert not kill_process(node.process)


def test_a_node_that_was_asked_to_end_is_not_asked_again(node: Node) -> None:
    assert node.send_notice()
    assert not node.send_notice()


def test_a_network_that_is_cut_is_not_cut_again_before_it_is_restored(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    link_states: list[str] = []
    monkeypatch.setattr(chaos, "run_shell", lambda command: link_states.append(command.split()[-1]))
    assert node.cut_network(600.0)
    assert not node.cut_network(0.0)
    assert link_states == ["down"]
    (timer,) = node._restore_timers
    timer.cancel()
    timer.function()
    assert node.cut_network(0.0)
    node._restore_timers[-1].join()
    assert link_states == ["down", "up", "down", "up"]
