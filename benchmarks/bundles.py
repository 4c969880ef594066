"""What a bundle costs the driver: the same tiny pictures in few bundles and in many, and the difference.

    python -m benchmarks.bundles [--bundles 100 1100] [--rounds 3] [--json FILE]

Bundles of two pictures, so that workers have next to nothing to do. The driver's own CPU time (not Ray's daemons', not
the workers') and the seconds of tagging are taken of both runs; what the many take more, a bundle, is what one head can
do at most: with bundles of 1,024 images, 1,024 divided by it is the images/s that one driver can keep up with.
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

from benchmarks.line import CLI, draw

BUNDLE = 2
USUAL = 1024


def main() -> None:
    """Run few and many in turn, and print what a bundle costs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundles", type=int, nargs=2, default=[100, 1100])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    few, many = asked.bundles
    cpu_ms, wall_ms = [], []
    with tempfile.TemporaryDirectory(prefix="bundles-") as name:
        for _ in range(asked.rounds):
            (cpu_few, wall_few), (cpu_many, wall_many) = (measure(Path(name), count) for count in (few, many))
            cpu_ms.append(1000 * (cpu_many - cpu_few) / (many - few))
            wall_ms.append(1000 * (wall_many - wall_few) / (many - few))
            print(f"a bundle more: {cpu_ms[-1]:.1f} ms of the driver's CPU, {wall_ms[-1]:.1f} ms of tagging")
    cpu, wall = median(cpu_ms), median(wall_ms)
    rate = 1000 * USUAL / max(cpu, wall)
    print(f"median {cpu:.1f} ms and {wall:.1f} ms: with bundles of {USUAL:,} enough for {rate:,.0f} images/s")
    if asked.json:
        asked.json.write_text(json.dumps({"cpu_ms": cpu_ms, "wall_ms": wall_ms}, indent=1))


def measure(folder: Path, num_bundles: int) -> tuple[float, float]:
    """The driver's CPU seconds and the seconds of tagging, of a run of so many bundles."""
    pictures = folder / f"pictures-{num_bundles}"
    draw(pictures, BUNDLE * num_bundles)
    out = tempfile.mkdtemp(dir=folder)
    job = folder / "job.yaml"
    content = {
        "version": 1,
        "source": {"kind": "prefix", "uris": [str(pictures)]},
        "models": [{"kind": "constant"}],
        "output": {"uri": f"{out}/tags"},
        "compute": {"bundle_size": BUNDLE},
    }
    job.write_text(yaml.safe_dump(content))
    words = [*CLI, "run", str(job), "--json"]
    driver = psutil.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    cpu = 0.0
    while driver.poll() is None:
        try:
            times = driver.cpu_times()
            cpu = max(cpu, times.user + times.system)
            driver.wait(timeout=0.1)
        except (psutil.Error, subprocess.TimeoutExpired):
            continue
    report = json.loads(driver.stdout.read())
    return cpu, report["this_run"]["tagging_s"]


if __name__ == "__main__":
    main()
