"""Pixels that do not fit into Ray's object store, with a spill disk that is full."""

from __future__ import annotations

import io
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ray.cluster_utils import Cluster
from rich.console import Console

from batchtag.analysis.verify import verify
from batchtag.config.job import make_spec
from batchtag.runs.driver import run_job

STORE_BYTES, NUM_IMAGES, SIDE_PX = 80 * 2**20, 64, 2000


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system that is full")
def test_a_spill_disk_that_is_full_costs_time_and_no_row(tmp_path: Path) -> None:
    """Decode workers send 12 MB for each image; the store of 80 MB holds six of them, and nothing can be spilled."""
    disk, images, out = tmp_path / "disk", tmp_path / "in", tmp_path / "out"
    disk.mkdir()
    images.mkdir()
    Image.fromarray(np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)).save(images / "0.png")
    for number in range(1, NUM_IMAGES):
        os.link(images / "0.png", images / f"{number}.png")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system could be mounted here: {mounted.stderr.decode().strip()}")
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=True)
        store = {"object_store_memory": STORE_BYTES, "object_spilling_directory": str(disk)}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, **store})
        stack.callback(cluster.shutdown)
        logs = Path(cluster.head_node.get_logs_dir_path())  # type: ignore[attr-defined]
        content = {
            "version": 1,
            "source": {"kind": "prefix", "uris": [str(images)]},
            "models": [{"kind": "constant", "seconds_per_image": 0.15}],
            "output": {"uri": str(out)},
            "compute": {"address": cluster.address, "actors": 1, "cpus_per_actor": 1, "decode": "separate"},
        }
        report = run_job(make_spec(content, origin="test"), console=Console(file=io.StringIO()))
    assert any("No space left on device" in path.read_text(errors="replace") for path in logs.glob("*.*"))
    assert (report.num_tagged, report.num_failed) == (NUM_IMAGES, 0)
    assert report.this_run["decoded_remotely"] > 0
    assert verify(str(out)).ok
