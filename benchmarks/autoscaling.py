"""A cluster that grows under a job and shrinks behind it, by Ray's own autoscaler and its fake machines.

    python -m benchmarks.autoscaling [--nodes 3] [--images 3000] [--json FILE]

A head without CPUs and none of the up to three GPU nodes and the one CPU node that it may start (Ray's fake multi-node
provider: each node is a raylet of its own with logical CPUs and GPUs; idle ones end after twelve seconds). `batchtag
run` is given a job for GPUs whose images are opened by an own pool; the nodes that are alive are counted every half
second. Passes if the cluster was at its largest while the job ran, if nothing but the head was left at the end, and if
`batchtag verify` passes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray.util
import yaml

from benchmarks.line import CLI, draw
from benchmarks.nodes import end, started, wait_for_nodes

PORT, IDLE_MINUTES, PATIENCE_S = 26479, 0.2, 90.0
HEAD_ID = "f" * 51 + "00000"
IP: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
RAY = str(Path(sys.executable).with_name("ray"))


def main() -> None:
    """One job, watched."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    with tempfile.TemporaryDirectory(prefix="bt-", dir="/tmp") as name, head(Path(name), asked.nodes) as process:
        draw(Path(name) / "images", asked.images)
        out = Path(name) / "out"
        began = time.monotonic()
        run = subprocess.Popen([*CLI, "run", str(job(Path(name), out, asked.nodes))], stderr=subprocess.DEVNULL)
        seen: list[tuple[float, int]] = []
        ended_s = 0.0
        while not ended_s or (seen[-1][1] > 1 and time.monotonic() - began < ended_s + PATIENCE_S):
            time.sleep(0.5)
            seen.append((round(time.monotonic() - began, 1), num_raylets(process)))
            if not ended_s and run.poll() is not None:
                ended_s = time.monotonic() - began
        verified = subprocess.run([*CLI, "verify", str(out)], stdout=subprocess.DEVNULL).returncode == 0
    changes = [
        (at, count) for (at, count), (_, before) in zip(seen, [(0.0, 0), *seen], strict=False) if count != before
    ]
    print("nodes alive, from second: " + ", ".join(f"{count} from {at:.0f} s" for at, count in changes))
    most, last = max(count for _, count in seen), seen[-1][1]
    good = run.returncode == 0 and verified and most == asked.nodes + 2 and last == 1
    proof = "passes" if verified else "FAILS"
    print(
        f"the run ended with {run.returncode} after {ended_s:.0f} s; verify {proof}; "
        f"at most {most} nodes, {last} left {seen[-1][0] - ended_s:.0f} s later: {'good' if good else 'NOT GOOD'}"
    )
    if asked.json:
        asked.json.write_text(json.dumps({"seen": seen, "ended_s": ended_s}, indent=1))
    sys.exit(0 if good else 1)


def job(folder: Path, out: Path, nodes: int) -> Path:
    """A job of some 30 s for all GPUs that there may be."""
    content: dict[str, Any] = {
        "version": 1,
        "source": {"kind": "prefix", "uris": [str(folder / "images")]},
        "models": [{"kind": "constant", "seconds_per_image": 0.02}],
        "output": {"uri": str(out)},
        "compute": {
            "address": f"{IP}:{PORT}",
            "bundle_size": 50,
            "decode": "own_pool",
            "may_grow_to": [{"nodes": nodes, "cpus": 2, "gpus": 1}, {"nodes": 1, "cpus": 4}],
        },
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@contextmanager
def head(folder: Path, nodes: int) -> Iterator[psutil.Popen]:
    """A head with an autoscaler, and every process that it started, until the end."""
    config = {
        "cluster_name": "fake",
        "max_workers": nodes + 1,
        "idle_timeout_minutes": IDLE_MINUTES,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "head_node_id": HEAD_ID,
            "gcs_address": f"{IP}:{PORT}",
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu": {
                "resources": {"CPU": 2, "GPU": 1},
                "node_config": {},
                "min_workers": 0,
                "max_workers": nodes,
            },
            "cpu": {"resources": {"CPU": 4}, "node_config": {}, "min_workers": 0, "max_workers": 1},
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "rsync_exclude": [],
        "rsync_filter": [],
    }
    path = folder / "autoscaling.yaml"
    path.write_text(json.dumps(config))
    words = f"{RAY} start --head --block --port={PORT} --num-cpus=0 --include-dashboard=true --dashboard-port=26480"
    words += f" --autoscaling-config={path} --temp-dir={folder}/ray --disable-usage-stats --node-ip-address={IP}"
    environment = {
        **os.environ,
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }
    process = started(words, environment=environment, log=folder / "head.log")
    try:
        wait_for_nodes(process, f"{IP}:{PORT}", count=1)
        yield process
    finally:
        end(process)


def num_raylets(head_process: psutil.Popen) -> int:
    """How many nodes there are: the fake ones are children of the head's autoscaler."""
    count = 0
    for one in head_process.children(recursive=True):
        with suppress(psutil.Error):
            count += one.name() == "raylet"
    return count


if __name__ == "__main__":
    main()
