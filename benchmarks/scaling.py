"""The throughput of one head with a growing number of simulated GPUs.

    python -m benchmarks.scaling [--actors 1 2 4 8 16 32] [--rate 25] [--seconds 40] [--json FILE]

Each actor holds one logical GPU and runs `constant` with a fixed latency (25 images/s), which sleeps while a GPU would
be busy. So the pipeline, Ray and one head are measured, not the cores of this machine. The rate is the slope of
committed images over time, by least squares, in the middle half of the run, because workers start and end one after
another. A difference of two commits would not do: bundles end in pairs, and it would have one pair too many or too few.
`batchtag verify` must pass.
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

from benchmarks.line import CLI, write_images


def main() -> None:
    """Measure every number of actors in turn, on one cluster."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--rate", type=float, default=25.0)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    most = max(args.actors)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": most + 1, "num_gpus": most})
    results: list[dict[str, Any]] = []
    print(f"{'actors':>6} {'images/s':>9} {'of linear':>10}")
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        for actors in args.actors:
            rate = measure_rate(Path(name), cluster.address, actors=actors, rate=args.rate, seconds=args.seconds)
            results.append({"actors": actors, "images_per_s": rate, "of_linear": rate / (actors * args.rate)})
            print(f"{actors:>6} {rate:>9.1f} {results[-1]['of_linear']:>10.2f}", flush=True)
    cluster.shutdown()  # type: ignore[no-untyped-call]
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def measure_rate(folder: Path, address: str, *, actors: int, rate: float, seconds: float) -> float:
    """Return images/s in the middle of a run with that many actors."""
    num_images = int(actors * rate * seconds)
    images, out, path = folder / f"images-{actors}", folder / f"out-{actors}", folder / f"{actors}.yaml"
    write_images(images, num_images)
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
            "select epoch(any_value(tagged_at)) as committed_at, count(*) "
            f"from read_parquet('{out}/images/*.parquet', filename=true) group by filename order by committed_at"
        ).fetchall()
    committed_at = np.array([second for second, _ in rows])
    num_committed = np.cumsum([count for _, count in rows])
    middle = slice(len(rows) // 4, 3 * len(rows) // 4 + 1)
    return float(np.polyfit(committed_at[middle] - committed_at[0], num_committed[middle], 1)[0])


if __name__ == "__main__":
    main()
