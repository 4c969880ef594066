"""The two ways of decoding, compared: in the workers, and in decode workers on the CPUs that the workers leave free.

    python -m benchmarks.shapes [--images 9000] [--rounds 1] [--only NAME ...] [--json FILE]

The model is `constant` with 3 ms for each image (half a millisecond in one setup), which sleeps while a GPU would be
busy. Objects come from a local S3 server that answers each request after 30 ms. There are four setups on a Ray with six
logical CPUs; each runs `decode: with_models`, `separate` and `auto` in turn. A row shows images/s while tagging, the
busy share of the model (the rate times its latency), and the number of decode workers at the end. `auto` is right if it
chose the faster way; if both are within 10 %, it must decode in the workers. All runs of a setup must write the same
rows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import yaml
from ray.cluster_utils import Cluster

from benchmarks.line import CLI, write_images
from benchmarks.speed import s3server

LATENCY_S, MODEL_S = 0.03, 0.003
DECODE_MODES = ("with_models", "separate", "auto")
CPUS = 6
CLEARLY_FASTER = 1.1
"""Ratio of rates above which separate decoding is the right choice."""
_OBJECT_STORE_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One worker of one CPU, and what makes one way of decoding the faster one."""

    name: str
    model_s: float = MODEL_S
    images_factor: float = 1.0
    """Images of a run, as a multiple of --images: a faster model needs more."""
    compute: dict[str, Any] = field(default_factory=dict)


SETUPS = (
    Setup(name="enough fetches"),
    Setup(name="few fetches", compute={"fetches": 4}),
    Setup(name="light model", model_s=0.0005, images_factor=3.0),
    Setup(name="no free CPU", compute={"fetches": 8, "cpus_per_actor": CPUS - 1}),
)


def main() -> None:
    """Measure every setup and every way of decoding in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=9000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=[setup.name for setup in SETUPS])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    results = []
    with tempfile.TemporaryDirectory(prefix="shapes-") as name:
        served = Path(name) / "served"
        served.mkdir()
        write_images(served / "small", 3 * args.images)
        with s3server.run_server(served, latency_s=LATENCY_S) as endpoint:
            os.environ.update(s3server.s3_environment(endpoint))
            arguments = {"num_cpus": CPUS, "object_store_memory": _OBJECT_STORE_BYTES}
            cluster = Cluster(initialize_head=True, head_node_args=arguments)
            print(f"{'setup':16} {'decode':12} {'images/s':>9} {'model busy':>11}  decode workers")
            for setup in SETUPS:
                if not args.only or setup.name in args.only:
                    results.append(
                        compare_modes(setup, Path(name), cluster.address, images=args.images, rounds=args.rounds)
                    )
            cluster.shutdown()  # type: ignore[no-untyped-call]
    print(f"auto was right in {sum(result['right'] for result in results)} of {len(results)} setups")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def compare_modes(setup: Setup, folder: Path, address: str, *, images: int, rounds: int) -> dict[str, Any]:
    """Measure every way of decoding in turn, and whether `auto` chose the faster one."""
    rates: dict[str, list[float]] = {mode: [] for mode in DECODE_MODES}
    decode_workers, row_hashes = {}, set()
    for _ in range(rounds):
        for mode in DECODE_MODES:
            if mode == "separate" and setup.compute.get("cpus_per_actor") == CPUS - 1:
                continue  # such a job is refused, because no CPU remains for decode workers
            report, out = run_job(setup, mode, folder, address, images=round(images * setup.images_factor))
            rates[mode].append(report["this_run"]["images_per_s"])
            decode_workers[mode] = report["this_run"]["decode_workers"]
            row_hashes.add(hash_rows(out))
            rate = rates[mode][-1]
            print(
                f"{setup.name:16} {mode:12} {rate:9.1f} {rate * setup.model_s:11.2f}  {decode_workers[mode]}",
                flush=True,
            )
    if len(row_hashes) != 1:
        raise SystemExit(f"{setup.name}: the tables of the runs differ")
    medians = {mode: median(values) for mode, values in rates.items() if values}
    with_models, separate = medians["with_models"], medians.get("separate", 0.0)
    faster = "separate" if separate > CLEARLY_FASTER * with_models else "with_models"
    chosen = "separate" if decode_workers["auto"] else "with_models"
    return {"set_up": setup.name, "rates": rates, "faster": faster, "chosen": chosen, "right": faster == chosen}


def run_job(setup: Setup, mode: str, folder: Path, address: str, *, images: int) -> tuple[dict[str, Any], str]:
    """Run one job; return its report and its OUT."""
    out = tempfile.mkdtemp(dir=folder) + "/tags"
    compute = {"cpus_per_actor": 1, **setup.compute, "decode": mode, "address": address, "actors": 1}
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": ["s3://small/"], "limit": images},
        "models": [{"kind": "constant", "seconds_per_image": setup.model_s}],
        "output": {"uri": out},
        "compute": {**compute, "bundle_size": max(64, images // 12)},
    }
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(content))
    completed = subprocess.run([*CLI, "run", str(job), "--json"], capture_output=True, text=True)
    if completed.returncode:
        raise SystemExit(f"{setup.name}, {mode}: {completed.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(completed.stdout)
    return report, out


def hash_rows(out: str) -> int:
    """Return a hash of the rows of `images`, without the run and the time that wrote them."""
    with duckdb.connect() as database:
        columns = "uri, etag, content_hash, width, height, status, num_tags, position"
        query = (
            f"select sum(hash({columns})::hugeint) % 9223372036854775807 from read_parquet('{out}/images/*.parquet')"
        )
        (row_hash,) = database.execute(query).fetchone() or (0,)
    return int(row_hash)


if __name__ == "__main__":
    main()
