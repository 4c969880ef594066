"""The short form of `benchmarks.chaos`: one run on a cluster of nodes, to which everything happens once; and its
faults, which happen to nobody twice."""

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
from benchmarks.chaos import FAULTS, Node, cluster, job, story, strike
from benchmarks.kills import ROWS, command, draw, rows
from benchmarks.nodes import end, kill, started
from tests.integration.conftest import Tag

NUM_IMAGES, SHORT_CUT_S = 3000, 6.0
KINDS = ("actor", "notice", "driver", "worker", "network", "raylet")


def wait_for_parts(driver: subprocess.Popen[bytes], out: Path, at_least: int) -> bool:
    """Until so many parts are committed; false if the run is over before."""
    for _ in range(1200):
        if len(list((out / "images").glob("*.parquet"))) >= at_least:
            return True
        try:
            driver.wait(timeout=0.1)
            return False
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(f"no {at_least} parts within two minutes: {story()}")


def test_faults_cost_time_and_not_one_row(tag: Tag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("ip") or subprocess.run(["ip", "netns", "add", "btry"], capture_output=True).returncode:
        pytest.skip("nodes in network namespaces need iproute2's `ip`, and the right to make them, as root has it")
    subprocess.run(["ip", "netns", "del", "btry"], check=True)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(Node.cut, "__defaults__", (SHORT_CUT_S,))
    draw(tmp_path / "images", num_images=NUM_IMAGES)
    tag(str(tmp_path / "images"), str(tmp_path / "undisturbed"), max_failure_rate=1.0)
    out, dice = tmp_path / "out", random.Random(0)
    path = job(tmp_path, out, num_nodes=2)
    happened: list[str] = []
    with TemporaryDirectory(prefix="bt-", dir="/tmp") as short, cluster(Path(short), 2) as nodes:
        driver = command("run", str(path))
        for kind in KINDS:
            if not wait_for_parts(driver, out, at_least=1 + len(happened)):
                break
            while not FAULTS[kind](driver, nodes, dice):
                nodes[0].wait(0.2)  # its victim is still being started after the last one
            happened.append(kind)
            if driver.poll() is not None:
                driver = command("run", str(path))
        if driver.wait(timeout=300):
            raise AssertionError(story())
    assert happened == list(KINDS)
    assert verify(str(out)).ok
    assert all(rows(out, table) == rows(tmp_path / "undisturbed", table) for table in ROWS)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node without a network whose one process is its raylet."""
    monkeypatch.setattr(chaos, "sh", lambda words: None)
    monkeypatch.setattr(Node, "start", lambda node: None)
    monkeypatch.setattr(Node, "family", lambda node, title="": [node.process] if node.process.poll() is None else [])
    node = Node(0, tmp_path)
    node.process = started("sleep 600", environment=os.environ, log=tmp_path / "log")
    yield node
    end(node.process)


def test_what_cannot_happen_to_a_node_that_has_ended_does_not_count_and_something_else_happens(node: Node) -> None:
    end(node.process)
    kinds = ["notice", "network", "raylet", "worker", "driver"]
    with subprocess.Popen(["sleep", "600"]) as driver:
        assert strike(driver, [node], random.Random(0), kinds) == ["driver"]
        assert strike(driver, [node], random.Random(0), kinds) == []
    assert not kill(node.process)


def test_a_node_that_was_told_to_end_is_not_told_again(node: Node) -> None:
    assert node.notice()
    assert not node.notice()


def test_a_network_that_is_cut_is_not_cut_again_and_is_mended_when_its_time_is_over(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(chaos, "sh", lambda words: said.append(words.split()[-1]))
    assert node.cut(600.0)
    assert not node.cut(0.0)
    assert said == ["down"]
    (timer,) = node._mending
    timer.cancel()
    timer.function()
    assert node.cut(0.0)
    node._mending[-1].join()
    assert said == ["down", "up", "down", "up"]
