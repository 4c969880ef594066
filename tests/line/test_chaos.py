"""The short form of `benchmarks.chaos`: one run on a cluster of nodes, to which everything happens once."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from batchtag.verify import verify
from benchmarks.chaos import FAULTS, Node, cluster, job, story
from benchmarks.kills import ROWS, command, draw, rows
from tests.line.conftest import Tag

NUM_IMAGES, SHORT_CUT_S = 3000, 6.0
KINDS = ("actor", "notice", "driver", "network", "raylet")


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
    draw(tmp_path / "pictures", num_images=NUM_IMAGES)
    tag(str(tmp_path / "pictures"), str(tmp_path / "undisturbed"), max_failure_rate=1.0)
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
