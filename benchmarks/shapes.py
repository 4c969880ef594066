"""Both shapes of the line side by side: images opened in the workers, and by actors on the CPUs that they leave free.

    python -m benchmarks.shapes [--images 9000] [--rounds 1] [--only NAME ...] [--json FILE]

The model is `constant` with 3 ms an image (half a millisecond in one), which sleeps as a busy GPU does; objects come
from a local S3 server that answers 30 ms after each question. Four set-ups on a Ray of six logical CPUs; in each,
`with_models`, `own_pool` and `auto` in turn. Printed: images/s while tagging, the model's busy share (the rate times
its latency), and how many openers there were at the end. `auto` is right if that is the faster shape's; where
both are within 10 %, staying with the workers is. The rows of all runs of a set-up must be the same.
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

from benchmarks.line import CLI, draw
from benchmarks.speed import s3server

LATENCY_S, MODEL_S = 0.03, 0.003
SHAPES = ("with_models", "own_pool", "auto")
CPUS = 6
ALIKE = 1.1
_OBJECT_STORE_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class SetUp:
    """One worker of one CPU, and what makes one shape the better one."""

    name: str
    model_s: float = MODEL_S
    images: float = 1.0
    """Of --images: quicker ones need more."""
    compute: dict[str, Any] = field(default_factory=dict)


SET_UPS = (
    SetUp(name="enough fetches"),
    SetUp(name="few fetches", compute={"fetches": 4}),
    SetUp(name="light model", model_s=0.0005, images=3.0),
    SetUp(name="no free CPU", compute={"fetches": 8, "cpus_per_actor": CPUS - 1}),
)


def main() -> None:
    """All set-ups, all shapes, in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=9000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=[one.name for one in SET_UPS])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    results = []
    with tempfile.TemporaryDirectory(prefix="shapes-") as name:
        served = Path(name) / "served"
        served.mkdir()
        draw(served / "small", 3 * asked.images)
        with s3server.serving(served, latency_s=LATENCY_S) as endpoint:
            os.environ.update(s3server.environment(endpoint))
            arguments = {"num_cpus": CPUS, "object_store_memory": _OBJECT_STORE_BYTES}
            cluster = Cluster(initialize_head=True, head_node_args=arguments)
            print(f"{'set-up':16} {'shape':12} {'images/s':>9} {'model busy':>11}  openers")
            for set_up in SET_UPS:
                if not asked.only or set_up.name in asked.only:
                    results.append(
                        compare(set_up, Path(name), cluster.address, images=asked.images, rounds=asked.rounds)
                    )
            cluster.shutdown()  # type: ignore[no-untyped-call]
    print(f"auto was right in {sum(result['right'] for result in results)} of {len(results)}")
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1))


def compare(set_up: SetUp, folder: Path, address: str, *, images: int, rounds: int) -> dict[str, Any]:
    """Every shape in turn, and whether `auto` took the faster one."""
    rates: dict[str, list[float]] = {shape: [] for shape in SHAPES}
    openers, rows = {}, set()
    for _ in range(rounds):
        for shape in SHAPES:
            if shape == "own_pool" and set_up.compute.get("cpus_per_actor") == CPUS - 1:
                continue  # refused: nothing is left for it
            report, out = run(set_up, shape, folder, address, images=round(images * set_up.images))
            rates[shape].append(report["this_run"]["images_per_s"])
            openers[shape] = report["this_run"]["openers"]
            rows.add(rows_of(out))
            rate = rates[shape][-1]
            print(
                f"{set_up.name:16} {shape:12} {rate:9.1f} {rate * set_up.model_s:11.2f}  {openers[shape]}", flush=True
            )
    if len(rows) != 1:
        raise SystemExit(f"{set_up.name}: the runs' tables differ")
    medians = {shape: median(found) for shape, found in rates.items() if found}
    with_models, own_pool = medians["with_models"], medians.get("own_pool", 0.0)
    faster = "own_pool" if own_pool > ALIKE * with_models else "with_models"
    chosen = "own_pool" if openers["auto"] else "with_models"
    return {"set_up": set_up.name, "rates": rates, "faster": faster, "chosen": chosen, "right": faster == chosen}


def run(set_up: SetUp, shape: str, folder: Path, address: str, *, images: int) -> tuple[dict[str, Any], str]:
    """One run's report, and its OUT."""
    out = tempfile.mkdtemp(dir=folder) + "/tags"
    compute = {"cpus_per_actor": 1, **set_up.compute, "decode": shape, "address": address, "actors": 1}
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": ["s3://small/"], "limit": images},
        "models": [{"kind": "constant", "seconds_per_image": set_up.model_s}],
        "output": {"uri": out},
        "compute": {**compute, "bundle_size": max(64, images // 12)},
    }
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(content))
    ended = subprocess.run([*CLI, "run", str(job), "--json"], capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{set_up.name}, {shape}: {ended.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(ended.stdout)
    return report, out


def rows_of(out: str) -> int:
    """A number that two tables share when their rows are the same, but for when and by whom they were written."""
    with duckdb.connect() as database:
        columns = "uri, etag, content_hash, width, height, status, num_tags, position"
        query = (
            f"select sum(hash({columns})::hugeint) % 9223372036854775807 from read_parquet('{out}/images/*.parquet')"
        )
        (found,) = database.execute(query).fetchone() or (0,)
    return int(found)


if __name__ == "__main__":
    main()
