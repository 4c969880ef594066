"""A cluster that grows for a job and shrinks after it, by Ray's own autoscaler and its fake machines.

    python -m benchmarks.autoscaling [--nodes 3] [--images 3000] [--json FILE]

The cluster has a head without CPUs, which may start up to three GPU nodes and one CPU node with Ray's fake multi-node
provider: each node is a raylet with logical CPUs and GPUs, and ends after twelve idle seconds. `batchtag run` gets a
job for GPUs with separate decode workers; the nodes that are alive are counted every half second. The benchmark passes
if the cluster reached its full size during the job, if only the head remained at the end, and if `batchtag verify`
passes.
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

from benchmarks.line import CLI, write_images
from benchmarks.nodes import end_process_tree, start_process, wait_for_nodes

PORT = 26479
IDLE_MINUTES = 0.2
"""Minutes after which Ray ends an idle node."""
SHRINK_LIMIT_S = 90.0
"""Seconds to wait after the run for the nodes to end."""
HEAD_ID = "f" * 51 + "00000"
IP: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
RAY = str(Path(sys.executable).with_name("ray"))


def main() -> None:
    """Run one job and count the nodes meanwhile."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    with (
        tempfile.TemporaryDirectory(prefix="bt-", dir="/tmp") as name,
        run_autoscaling_head(Path(name), args.nodes) as head,
    ):
        write_images(Path(name) / "images", args.images)
        out = Path(name) / "out"
        started_at = time.monotonic()
        run = subprocess.Popen([*CLI, "run", str(write_job(Path(name), out, args.nodes))], stderr=subprocess.DEVNULL)
        counts: list[tuple[float, int]] = []
        ended_s = 0.0
        while not ended_s or (counts[-1][1] > 1 and time.monotonic() - started_at < ended_s + SHRINK_LIMIT_S):
            time.sleep(0.5)
            counts.append((round(time.monotonic() - started_at, 1), count_raylets(head)))
            if not ended_s and run.poll() is not None:
                ended_s = time.monotonic() - started_at
        verifies = subprocess.run([*CLI, "verify", str(out)], stdout=subprocess.DEVNULL).returncode == 0
    changes = [
        (at, count) for (at, count), (_, before) in zip(counts, [(0.0, 0), *counts], strict=False) if count != before
    ]
    print("nodes alive: " + ", ".join(f"{count} from {at:.0f} s" for at, count in changes))
    most, last = max(count for _, count in counts), counts[-1][1]
    is_good = run.returncode == 0 and verifies and most == args.nodes + 2 and last == 1
    print(
        f"the run ended with {run.returncode} after {ended_s:.0f} s; verify {'passes' if verifies else 'FAILS'}; "
        f"at most {most} nodes, {last} at {counts[-1][0] - ended_s:.0f} s after the run: "
        f"{'good' if is_good else 'NOT GOOD'}"
    )
    if args.json:
        args.json.write_text(json.dumps({"seen": counts, "ended_s": ended_s}, indent=1))
    sys.exit(0 if is_good else 1)


def write_job(folder: Path, out: Path, num_nodes: int) -> Path:
    """Write a job of some 30 s for all GPUs that may join, and return its path."""
    content: dict[str, Any] = {
        "version": 1,
        "source": {"kind": "prefix", "uris": [str(folder / "images")]},
        "models": [{"kind": "constant", "seconds_per_image": 0.02}],
        "output": {"uri": str(out)},
        "compute": {
            "address": f"{IP}:{PORT}",
            "bundle_size": 50,
            "decode": "separate",
            "may_grow_to": [{"nodes": num_nodes, "cpus": 2, "gpus": 1}, {"nodes": 1, "cpus": 4}],
        },
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@contextmanager
def run_autoscaling_head(folder: Path, num_nodes: int) -> Iterator[psutil.Popen]:
    """Run a head with an autoscaler for up to `num_nodes` GPU nodes and one CPU node."""
    path = folder / "autoscaling.yaml"
    path.write_text(json.dumps(_autoscaling_config(num_nodes)))
    command = f"{RAY} start --head --block --port={PORT} --num-cpus=0 --include-dashboard=true --dashboard-port=26480"
    command += f" --autoscaling-config={path} --temp-dir={folder}/ray --disable-usage-stats --node-ip-address={IP}"
    environment = {
        **os.environ,
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }
    process = start_process(command, environment=environment, log=folder / "head.log")
    try:
        wait_for_nodes(process, f"{IP}:{PORT}", count=1)
        yield process
    finally:
        end_process_tree(process)


def _autoscaling_config(num_nodes: int) -> dict[str, Any]:
    unused_mappings: dict[str, Any] = {name: {} for name in ("auth", "docker", "file_mounts")}
    unused_lists: dict[str, Any] = {
        name: []
        for name in (
            "cluster_synced_files",
            "initialization_commands",
            "setup_commands",
            "head_setup_commands",
            "worker_setup_commands",
            "head_start_ray_commands",
            "worker_start_ray_commands",
            "rsync_exclude",
            "rsync_filter",
        )
    }
    return {
        "cluster_name": "fake",
        "max_workers": num_nodes + 1,
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
                "max_workers": num_nodes,
            },
            "cpu": {"resources": {"CPU": 4}, "node_config": {}, "min_workers": 0, "max_workers": 1},
        },
        "head_node_type": "ray.head.default",
        **unused_mappings,
        **unused_lists,
    }


def count_raylets(head: psutil.Popen) -> int:
    """Return the number of nodes: the fake ones are descendants of the head's autoscaler."""
    count = 0
    for process in head.children(recursive=True):
        with suppress(psutil.Error):
            count += process.name() == "raylet"
    return count


if __name__ == "__main__":
    main()
