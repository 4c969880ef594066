"""How throughput grows with the number of simulated GPUs, on one head.

    python -m benchmarks.scaling [--actors 1 2 4 8 16 32] [--rate 25] [--seconds 40] [--json FILE]

Each actor holds one logical GPU and runs `constant` at a fixed latency (25 images/s), which sleeps as a busy GPU does,
so what is measured is the line, Ray and one head, not these cores. The rate is the slope of images committed by time in
the middle half of the run (workers start one after another, and end so), by least squares, because bundles end in
pairs, and a stretch from one commit to another has one pair too many or too few. `batchtag verify` must pass.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import yaml
from ray.cluster_utils import Cluster

from benchmarks.line import CLI, draw


def main() -> None:
    """Every count in turn, on one cluster."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--rate", type=float, default=25.0)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    most = max(asked.actors)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": most + 1, "num_gpus": most})
    results: list[dict[str, Any]] = []
    print(f"{'actors':>6} {'images/s':>9} {'of linear':>10}")
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        for actors in asked.actors:
            rate = measure(Path(name), cluster.address, actors=actors, rate=asked.rate, seconds=asked.seconds)
            results.append({"actors": actors, "images_per_s": rate, "of_linear": rate / (actors * asked.rate)})
            print(f"{actors:>6} {rate:>9.1f} {results[-1]['of_linear']:>10.2f}", flush=True)
    cluster.shutdown()  # type: ignore[no-untyped-call]
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1))


def measure(folder: Path, address: str, *, actors: int, rate: float, seconds: float) -> float:
    """Images/s in the middle of a run with so many actors."""
    num_images = int(actors * rate * seconds)
    images, out, path = folder / f"images-{actors}", folder / f"out-{actors}", folder / f"{actors}.yaml"
    draw(images, num_images)
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": [str(images)]},
        "models": [{"kind": "constant", "seconds_per_image": 1 / rate}],
        "output": {"uri": str(out)},
        "compute": {
            "address": address,
            "device": "cuda",
            "actors": actors,
            "cpus_per_actor": 1,
            "decode_threads": 1,
            "batch_size": 16,
            "decode": "with_models",
            "bundle_size": max(16, int(2 * rate)),
        },
    }
    path.write_text(yaml.safe_dump(content))
    subprocess.run([*CLI, "run", str(path), "-q"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*CLI, "verify", str(out)], check=True, stdout=subprocess.DEVNULL)
    with duckdb.connect() as database:
        rows = database.sql(
            "select epoch(any_value(tagged_at)) as moment, count(*) "
            f"from read_parquet('{out}/images/*.parquet', filename=true) group by filename order by moment"
        ).fetchall()
    moments = np.array([moment for moment, _ in rows])
    done = np.cumsum([count for _, count in rows])
    middle = slice(len(rows) // 4, 3 * len(rows) // 4 + 1)
    return float(np.polyfit(moments[middle] - moments[0], done[middle], 1)[0])


if __name__ == "__main__":
    main()
