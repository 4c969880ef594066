"""The cost of a bundle for the driver: the difference between many bundles and few.

    python -m benchmarks.bundles [--bundles 100 1100] [--rounds 3] [--json FILE]

Bundles have two tiny images, so that workers have almost nothing to do. Three numbers are taken from each run: the
driver's own CPU time (without Ray's daemons and the workers), the seconds of tagging, and the driver's largest resident
memory. The cost of a bundle is the difference of the two runs, divided by the difference of their bundles. 1,024
divided by its seconds is the rate in images/s that one driver can handle in bundles of 1,024. To measure memory, use
thousands of bundles more: a thousand take 10 MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from statistics import median

import psutil
import yaml

from benchmarks.line import CLI, write_images

BUNDLE_SIZE = 2
USUAL_BUNDLE_SIZE = 1024


def main() -> None:
    """Run few bundles and many in turn, and print the cost of a bundle."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundles", type=int, nargs=2, default=[100, 1100])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    few, many = args.bundles
    cpu_ms: list[float] = []
    wall_ms: list[float] = []
    kib: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bundles-") as name:
        for _ in range(args.rounds):
            costs_of_few, costs_of_many = (measure_run(Path(name), count) for count in (few, many))
            cpu, wall, memory = (
                (more - less) / (many - few) for less, more in zip(costs_of_few, costs_of_many, strict=True)
            )
            cpu_ms.append(1000 * cpu)
            wall_ms.append(1000 * wall)
            kib.append(memory / 1024)
            print(
                f"each bundle: {cpu_ms[-1]:.1f} ms of the driver's CPU, {wall_ms[-1]:.1f} ms of tagging, "
                f"{kib[-1]:.1f} KiB of the driver's memory",
                flush=True,
            )
    cpu, wall = median(cpu_ms), median(wall_ms)
    rate = 1000 * USUAL_BUNDLE_SIZE / max(cpu, wall)
    print(
        f"median {cpu:.1f} ms and {wall:.1f} ms: with bundles of {USUAL_BUNDLE_SIZE:,} enough for {rate:,.0f} images/s"
    )
    print(f"median {median(kib):.1f} KiB for each bundle")
    if args.json:
        args.json.write_text(json.dumps({"cpu_ms": cpu_ms, "wall_ms": wall_ms, "kib": kib}, indent=1))


def measure_run(folder: Path, num_bundles: int) -> tuple[float, float, float]:
    """Run that many bundles; return the driver's CPU seconds, the seconds of tagging, and the driver's bytes."""
    images = folder / f"images-{num_bundles}"
    write_images(images, BUNDLE_SIZE * num_bundles)
    out = tempfile.mkdtemp(dir=folder)
    job = folder / "job.yaml"
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": [str(images)]},
        "models": [{"kind": "constant"}],
        "output": {"uri": f"{out}/tags"},
        "compute": {"bundle_size": BUNDLE_SIZE},
    }
    job.write_text(yaml.safe_dump(content))
    command = [*CLI, "run", str(job), "--json"]
    driver = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    cpu, memory = 0.0, 0
    while driver.poll() is None:
        try:
            times = driver.cpu_times()
            cpu = max(cpu, times.user + times.system)
            memory = max(memory, driver.memory_info().rss)
            driver.wait(timeout=0.1)
        except (psutil.Error, subprocess.TimeoutExpired):
            continue
    report = json.loads(driver.stdout.read())
    return cpu, report["this_run"]["tagging_s"], memory


if __name__ == "__main__":
    main()
